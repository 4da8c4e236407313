"""Two programs that write, look away, read and end their streams as they like, over a path that is bad for a while.

Whatever has happened by then: once the path is good, everything arrives at the one who reads, equal and soon, whether the other
reads or not.
"""

from __future__ import annotations

from random import Random

import pytest

from tapstack.tcp.connection import Connection
from tapstack.tcp.options import Ecn, PortMode, SocketOptions
from tapstack.tcp.recovery.rto import MAXIMUM as MAXIMUM_RTO

from .pair import End, Pair, read_all
from .seen import stream

SEEDS = range(60)


class Program:
    """One of the two, and what it has written and read so far."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.written = bytearray()
        self.arrived = bytearray()
        self.reads = True
        self.ended = False

    def act(self, rng: Random, now: float) -> None:
        """Write something, or begin to read, or stop, or end the stream; or nothing."""
        what = rng.random()
        if what < 0.5 and not self.ended and len(self.written) < 1_000_000:
            data = rng.randbytes(rng.choice([1, 50, 1000, 5000, 100_000, 400_000]))
            self.connection.write(data)
            self.written += data
        elif 0.5 < what < 0.65:
            self.reads = not self.reads
        elif 0.65 < what < 0.67:
            self.end(now)

    def read(self) -> None:
        if self.reads:
            self.arrived += read_all(self.connection)

    def end(self, now: float) -> None:
        if not self.ended:
            self.connection.shutdown(now)
            self.ended = True


def options(rng: Random) -> SocketOptions:
    most = rng.choice([8 << 20, 300_000, 65_536, 20_000])
    return SocketOptions(
        mode=rng.choice([PortMode.L0, PortMode.L1, PortMode.L2]),
        sack=rng.random() < 0.75,
        timestamps=rng.random() < 0.75,
        ecn=rng.choice([Ecn.ACCEPT, Ecn.REQUEST]),
        nodelay=rng.random() < 0.3,
        pacing=rng.random() < 0.2,
        congestion=rng.choice(["cubic", "newreno"]),
        keep_alive=rng.choice([None, 5.0]),
        receive_buffer=min(most, rng.choice([4096, 65_536, 1 << 20])),
        receive_buffer_maximum=most,
        user_timeout=1e6,
    )


def spoil(pair: Pair, rng: Random) -> None:
    """The bad path: loss, marks, duplicates, packets that are late."""
    loss, mark, double, late = (
        rng.choice([0, 0.01, 0.05]),
        rng.choice([0, 0.02]),
        rng.choice([0, 0.02]),
        rng.choice([0, 0.05]),
    )

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if rng.random() < loss:
            return []
        if packet[1] & 0x30 == 0x20 and rng.random() < mark:
            packet = packet[:1] + bytes([packet[1] | 0x30]) + packet[2:]
        copies = 2 if rng.random() < double else 1
        return [(rng.choice([0.01, 0.5]), packet) if rng.random() < late else packet for _ in range(copies)]

    pair.meddle = meddle


@pytest.mark.proves("ST-TCP-11")
@pytest.mark.parametrize("seed", SEEDS)
def test_everything_arrives_once_the_path_is_good_and_somebody_reads(seed: int) -> None:
    rng = Random(seed)
    pair = Pair(
        delay=rng.choice([0.0005, 0.01, 0.1]),
        mtu=rng.choice([1500, 9000, 1280]),
        offload=rng.choice([None, None, "cut", "whole"]),
        together=rng.random() < 0.5,
        start=rng.choice([100.0, 2**32 / 1000 - 1, 2**32 / 250_000 - 1]),
    )
    programs = [Program(connection) for connection in pair.connect(options(rng))]
    spoil(pair, rng)
    for _ in range(rng.randrange(5, 30)):
        for program in programs:
            program.act(rng, pair.now)
        turn = rng.choice([0.001, 0.05, 0.3, 2.0, 30.0])
        for _ in range(5):
            pair.run(turn / 5)
            for program in programs:
                program.read()
    pair.meddle = None
    for program in programs:
        program.end(pair.now)
        program.reads = False
    rng.shuffle(programs)
    for reader, writer in (programs, programs[::-1]):
        reader.reads = True

        def finished(reader: Program = reader) -> bool:
            reader.read()
            return reader.connection.receiver.fin_taken()

        begun = pair.now
        pair.run(1000, until=finished)
        assert reader.arrived == writer.written
        rounds = len(writer.written) / reader.connection.options.receive_buffer_maximum + 20
        assert pair.now - begun < MAXIMUM_RTO + 4 * pair.delay * rounds, (
            "at most one time-out that had doubled all the while"
        )
    client, server = sorted(programs, key=lambda program: program.connection.local == pair.b.address)
    assert stream(pair, "a") == client.written and stream(pair, "b") == server.written
    assert (reader.connection.error, writer.connection.error) == (None, None)
