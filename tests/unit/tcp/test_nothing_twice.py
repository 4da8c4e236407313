"""On a path that loses nothing, nothing is sent twice: every acknowledgement that somebody waits for is sent, and in time.

Links are read in turns, so that much arrives in one reading: a step of several milliseconds, as a busy machine makes them.
"""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from random import Random

import pytest

from tapstack.tcp.options import Ecn

from .pair import End, Pair
from .seen import FIN, RST, SYN
from .test_two_way import Program, options

SEEDS = range(120)
HALF = 1 << 31


class Repetitions:
    """Watches what both ends send: who sent what again, or reset; and lets it arrive at the next turn."""

    def __init__(self, pair: Pair, turn: float) -> None:
        self.pair = pair
        self.turn = turn
        self.sent: dict[str, int] = {}
        self.seen: list[str] = []
        pair.meddle = self.meddle

    def meddle(self, end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        sequence, offset, flags = struct.unpack_from("!I4xBB", packet, 44)
        length = len(packet) - 40 - (offset >> 4) * 4 + bool(flags & (SYN | FIN))
        beyond = sequence - self.sent.get(end.name, sequence)
        beyond = (beyond + HALF) % (2 * HALF) - HALF  # of what was sent before; less than 0 where it goes again
        if (length and beyond < 0) or flags & RST:
            self.seen.append(f"{end.name} at {self.pair.now:.4f}: flags {flags:#x}, {length} from {beyond}")
        if length and beyond + length > 0:
            self.sent[end.name] = sequence + length
        if not self.turn:
            return [packet]
        arrival = self.pair.now + self.pair.delay
        return [(math.ceil(arrival / self.turn) * self.turn - arrival, packet)]


@pytest.mark.proves("ST-TCP-11", "SHLD-18", "MUST-58")
@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_is_sent_twice_on_a_path_that_loses_nothing(seed: int) -> None:
    rng = Random(seed)
    delay = rng.choice([0.0005, 0.01, 0.1])
    pair = Pair(
        delay=delay,
        mtu=rng.choice([1500, 9000, 1280]),
        offload=rng.choice([None, None, "cut", "whole"]),
        together=rng.random() < 0.8,
        start=rng.choice([100.0, 2**32 / 1000 - 1, 2**32 / 250_000 - 1]),
    )
    watch = Repetitions(pair, rng.choice([0.0, delay / 10, delay / 2]))
    programs = [Program(connection) for connection in pair.connect(replace(options(rng), ecn=Ecn.ACCEPT))]
    for _ in range(rng.randrange(1, 20)):
        for program in programs:
            program.act(rng, pair.now)
        turn = rng.choice([0.001, 0.05, 0.3, 2.0])
        for _ in range(5):
            pair.run(turn / 5)
            for program in programs:
                program.read()
    rng.shuffle(programs)
    for program in programs:
        program.reads = True
        program.end(pair.now)
        pair.run(rng.choice([0, delay / 2, delay, 2 * delay]))

    def finished() -> bool:
        for program in programs:
            program.read()
        return all(program.connection.receiver.fin_taken() for program in programs)

    pair.run(100, until=finished)
    pair.run(3)
    assert watch.seen == []
    for program, other in (programs, programs[::-1]):
        assert program.arrived == other.written
        assert (program.connection.state.value, program.connection.error) == ("CLOSED", None)
