"""On a path that loses nothing, nothing is sent twice: every acknowledgement that somebody waits for is sent, and in time.

Links are read in turns, so that much arrives in one reading: a step of several milliseconds, as a busy machine makes them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import pytest

from tapstack.tcp.options import Ecn
from tapstack.tcp.sequence import unwrap
from tapstack.wire import tcp as wire
from tapstack.wire.ipv6 import HEADER_LENGTH

from .pair import End, Pair
from .test_two_way import Program, options

SEEDS = range(120)


class Repetitions:
    """Watches what both ends send: who sent what again, or reset; and lets it arrive at the next turn."""

    def __init__(self, pair: Pair, turn: float) -> None:
        self.pair = pair
        self.turn = turn
        self.sent: dict[str, int] = {}
        self.seen: list[str] = []
        pair.meddle = self.meddle

    def meddle(self, end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        header = wire.TcpHeader.parse(memoryview(packet)[HEADER_LENGTH:])
        length = len(packet) - HEADER_LENGTH - header.length + bool(header.flags & (wire.SYN | wire.FIN))
        next_one = self.sent.get(end.name, header.sequence)
        sequence = unwrap(header.sequence, next_one)
        if (length and sequence < next_one) or header.flags & wire.RST:
            self.seen.append(
                f"{end.name} at {self.pair.now:.4f}: flags {header.flags:#x}, {length} from {sequence - next_one}"
            )
        self.sent[end.name] = max(next_one, sequence + length) if length else next_one
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
