"""What tests of one sender do again and again: a transfer over a pair, with chosen packets lost or late."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tapstack.tcp.connection import Connection
from tapstack.tcp.options import SocketOptions

from .pair import End, Pair, read_all

DATA = Random(5).randbytes(4_000_000)


class Path:
    """The packets with payload that `a` sends, numbered as they leave; `fate(n)` is what becomes of the n-th.

    fate: None loses it, a number delays it by so many seconds more.
    gap: seconds that the bottleneck takes for each.
    """

    def __init__(self, pair: Pair, fate: Callable[[int], float | None] = lambda n: 0.0) -> None:
        self.pair = pair
        self.fate = fate
        self.sent = 0
        self.ack_fate: Callable[[int], float | None] = lambda n: 0.0
        self.acks = 0
        self.gap = 0.0
        self._busy_until = 0.0
        pair.meddle = self

    def __call__(self, end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if end is self.pair.a:
            if len(packet) <= 40 + (packet[52] >> 4) * 4:
                return [packet]
            self.sent += 1
            late = self.fate(self.sent)
            self._busy_until = max(self._busy_until, self.pair.now) + self.gap
            if late is not None:
                late += self._busy_until - self.pair.now
        else:
            self.acks += 1
            late = self.ack_fate(self.acks)
        return [] if late is None else [(late, packet)]


def lose(*numbers: int) -> Callable[[int], float | None]:
    """A fate that loses the packets of these numbers."""
    return lambda n: None if n in numbers else 0.0


def established(
    pair: Pair, fate: Callable[[int], float | None] = lambda n: 0.0, **options: Any
) -> tuple[Connection, Connection, Path]:
    """A connection from `a` to `b`, then the path."""
    client, server = pair.connect(SocketOptions(**options))
    pair.run(1)
    return client, server, Path(pair, fate)


def transfer(pair: Pair, client: Connection, server: Connection, size: int, limit: float = 600.0) -> float:
    """Send `size` bytes from `client`; returns the seconds until the last has arrived, which arrives equal."""
    begun = pair.now
    client.write(DATA[:size])
    assert collect(pair, server, size, limit) == DATA[:size]
    return pair.now - begun


def collect(pair: Pair, connection: Connection, size: int, limit: float) -> bytes:
    """Read `size` bytes, or as many as come in `limit` seconds."""
    arrived = bytearray()

    def finished() -> bool:
        arrived.extend(read_all(connection))
        return len(arrived) >= size

    pair.run(limit, until=finished)
    return bytes(arrived)
