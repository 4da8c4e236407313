"""Segments that leave as a run are, byte for byte, those that leave one by one."""

from __future__ import annotations

from typing import Literal

import pytest

from tapstack.tcp.options import Ecn, SocketOptions
from tapstack.tcp.output import Output
from tapstack.types import Frame
from tapstack.wire.tcp import ACK

from .pair import Pair, read_all

TEXT = bytes(range(251)) * 16_000
_BEFORE_WRAP = 200_000

Offload = Literal["cut", "whole"] | None


def one_by_one(self: Output, sequence: int, run: list[Frame], size: int) -> None:
    """`emit_run` without a short cut."""
    for pieces in run:
        self.emit_data(sequence, ACK, pieces, size, False)
        sequence += size


def start_before_the_wrap() -> float:
    """When a connection must begin for its numbers to pass 2³² within the text."""
    pair = Pair()
    client, _ = pair.connect()
    return pair.now - 0.02 + ((-client.sender.iss - _BEFORE_WRAP) % (1 << 32)) * 4e-6


def transfer(
    offload: Offload, options: SocketOptions, start: float, urgent: bool
) -> tuple[list[tuple[float, str, bytes]], bytes]:
    pair = Pair(offload=offload, start=start)
    client, server = pair.connect(options)
    for half in (TEXT[: len(TEXT) // 2], TEXT[len(TEXT) // 2 :]):
        if urgent:
            client.write_urgent(b"!")
        client.write(half)
    got: list[bytes] = []
    while sum(map(len, got)) < len(TEXT) + 2 * urgent:
        assert pair.step(pair.now + 60)
        got.append(read_all(server))
    return pair.packets, b"".join(got)


@pytest.mark.proves("ST-TCP-12")
@pytest.mark.parametrize("offload", [None, "cut", "whole"])
@pytest.mark.parametrize("kind", ["plain", "no timestamps", "ecn", "urgent"])
def test_a_run_is_what_single_segments_are(monkeypatch: pytest.MonkeyPatch, offload: Offload, kind: str) -> None:
    options = SocketOptions(timestamps=kind != "no timestamps", ecn=Ecn.REQUEST if kind == "ecn" else Ecn.OFF)
    start = start_before_the_wrap()
    runs: list[int] = []
    whole = Output.emit_run

    def counted(self: Output, sequence: int, run: list[Frame], size: int) -> None:
        runs.append(len(run))
        whole(self, sequence, run, size)

    monkeypatch.setattr(Output, "emit_run", counted)
    together, got = transfer(offload, options, start, kind == "urgent")
    assert sum(length > 1 for length in runs) > 2, "nothing left as a run"
    assert got.replace(b"!", b"") == TEXT.replace(b"!", b"")  # the urgent octets, and those of the text
    monkeypatch.setattr(Output, "emit_run", one_by_one)
    apart, _ = transfer(offload, options, start, kind == "urgent")
    assert together == apart
    sequences = [int.from_bytes(packet[44:48], "big") for _, who, packet in together if who == "a"]
    assert min(sequences) < len(TEXT) and max(sequences) > (1 << 32) - _BEFORE_WRAP - 1
