"""A pool and sockets that need addresses."""

from __future__ import annotations

from typing import TypeVar

from tapstack.ipv6.addresses import AddressKind
from tests.unit.unimux.poolbench import EA, PEER, Answer, PoolBench
from unimux.das import (
    AddressRefused,
    DasRequired,
    Need,
    Want,
)
from unimux.purpose import Purpose

T = TypeVar("T")
GOOD = "2001:db8:1::aaaa:bbbb:cccc"


def want(bench: PoolBench, wait: float = 10.0, kind: AddressKind = EA) -> Want:
    return Want(kind, PEER, bench.now + wait, "test", Purpose(who="curl"))


class Verdict:
    """Waits for the verdict on a supplied address."""

    def __init__(self) -> None:
        self.told: list[AddressRefused | None] = []

    def __call__(self, refusal: AddressRefused | None, now: float) -> None:
        self.told.append(refusal)


def required(bench: PoolBench, wait: float = 10.0) -> tuple[DasRequired, Need, Answer]:
    das = DasRequired(bench.pool, bench.stream)
    answer = Answer()
    need = das.ask(want(bench, wait), bench.now, answer)
    assert isinstance(need, Need)
    return das, need, answer
