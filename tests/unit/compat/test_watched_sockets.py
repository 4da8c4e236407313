"""The look at a namespace's listening sockets goes on, whatever the kernel answers once."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, TypeVar, cast

import pytest

from compat.gateway import sockets
from compat.gateway.sockets import Listening, watched_listeners
from compat.kernel import KernelError, Namespace

T = TypeVar("T")
ONE, OTHER = (frozenset({Listening(IPv6Address("::"), port, port)}) for port in (80, 81))


class Here:
    """In place of a namespace: the work is done where we are."""

    def run(self, work: Callable[[], T], doing: str) -> T:
        return work()


class Nowhere:
    """A namespace that cannot be entered."""

    def run(self, work: Callable[[], T], doing: str) -> T:
        raise KernelError(f"Cannot {doing}: it is gone.")


HERE, NOWHERE = cast(Namespace, Here()), cast(Namespace, Nowhere())


class Kernel:
    """What is found, look after look: sets of sockets and errors; the last one for ever."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: frozenset[Listening] | Exception) -> None:
        self.answers = list(answers)
        self.looks = 0
        self.opened = 0
        monkeypatch.setattr(sockets, "INTERVAL", 0.001)
        monkeypatch.setattr(sockets, "_listening", self._look)
        monkeypatch.setattr(sockets, "DiagSocket", self._open)

    def _open(self) -> Any:
        self.opened += 1
        return self

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None: ...

    def bind(self) -> None: ...

    def _look(self, diag: object) -> frozenset[Listening]:
        answer = self.answers[min(self.looks, len(self.answers) - 1)]
        self.looks += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def overrun() -> OSError:
    return OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))


def test_an_error_of_one_look_is_outlived(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel(monkeypatch, ONE, overrun(), KeyError("idiag_src"), OTHER)

    async def main() -> None:
        told: asyncio.Queue[frozenset[Listening]] = asyncio.Queue()
        complaints: list[str] = []
        async with watched_listeners(HERE, told.put_nowait, complaints.append), asyncio.timeout(10):
            assert await told.get() == ONE
            assert await told.get() == OTHER
        assert kernel.opened == 3, "a socket that failed is not asked again"
        assert not complaints

    asyncio.run(main())


def test_an_error_that_stays_is_complained_of_once_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = [overrun() for _ in range(3 * sockets.PATIENCE)]
    Kernel(monkeypatch, ONE, *failing, OTHER, *failing, ONE)

    async def main() -> None:
        told: asyncio.Queue[frozenset[Listening]] = asyncio.Queue()
        complaints: list[str] = []
        async with watched_listeners(HERE, told.put_nowait, complaints.append), asyncio.timeout(10):
            assert [await told.get() for _ in range(3)] == [ONE, OTHER, ONE]
        assert complaints == 2 * [
            "What the program listens at cannot be seen (No buffer space available): new sockets are served when it can."
        ]

    asyncio.run(main())


def test_a_namespace_that_cannot_be_entered_is_an_error_at_once() -> None:
    async def main() -> None:
        with pytest.raises(KernelError, match="it is gone"):
            async with watched_listeners(NOWHERE, lambda found: None, lambda text: None):
                raise AssertionError("the block is not reached")

    asyncio.run(main())
