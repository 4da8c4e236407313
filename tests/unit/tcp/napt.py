"""A translator between the ends of a pair, whose binding for `a` can be lost in mid-connection."""

from __future__ import annotations

from typing import Any

from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode, SocketOptions

from . import wire
from .pair import End, Pair

NOT_HEARD = 0


class Napt:
    """Gives what `a` sends another source port; what comes for a port that is not bound now is dropped, and kept in `lost`.

    deaf: nothing that `b` sends arrives.
    """

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.port = 41_000
        self.deaf = False
        self.lost: list[Any] = []
        self._inner = NOT_HEARD
        pair.meddle = self

    def rebind(self) -> int:
        """Another port from now on; the number of packets so far."""
        self.port += 1
        self.lost.clear()
        return len(self.pair.packets)

    def __call__(self, end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        tcp = wire.read(packet)
        if end is self.pair.a:
            self._inner = tcp.sport
            return [wire.changed(packet, sport=self.port)]
        if self.deaf or tcp.dport != self.port:
            self.lost.append(tcp)
            return []
        return [wire.changed(packet, dport=self._inner)]


def translated(
    mode: PortMode = PortMode.L1, client: SocketOptions | None = None, **options: Any
) -> tuple[Pair, Napt, Connection, Connection]:
    """A legacy client of `a` behind a translator, connected to a server of `b`; each has said something."""
    pair = Pair()
    napt = Napt(pair)
    listener = pair.b.tcp.listen(SocketOptions(mode=mode, **options), pair.now)
    listener.arm(pair.b.entry(pair.now), pair.now)
    legacy = client or SocketOptions(mode=PortMode.AWARE)
    one = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, legacy)
    pair.run(10, until=lambda: bool(listener._accepted))
    other = listener.accept()
    assert other is not None
    one.write(b"hello")
    other.write(b"welcome")
    pair.run(1)
    assert other.read() and one.read()
    return pair, napt, one, other
