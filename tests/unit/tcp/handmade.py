"""Connections of the pair, and segments made by hand."""

from __future__ import annotations

from typing import Any

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait

from . import wire
from .pair import Pair
from .path import established
from .seen import segments

A, B = "2001:db8:a::1", "2001:db8:b::1"
MSS = 1428
PLAIN = SocketOptions(timestamps=False, sack=False)


def sent(pair: Pair, who: str, since: int = 0) -> list[Any]:
    return [wire.read(packet) for packet in pair.sent_by(who, since)]


def by_hand(pair: Pair, connection: Connection, flags: str, **fields: Any) -> list[Any]:
    """A segment from `b`, made by hand, to the connection of `a`; what `a` answers at once."""
    before = len(pair.packets)
    fields = {"seq": connection.receiver.rcv_nxt, "ack": connection.sender.snd_nxt, "window": 60000} | fields
    pair.a.input(wire.segment(B, A, connection.remote_port, connection.local_port, flags, **fields), pair.now)
    pair.flush()
    return sent(pair, "a", before)


def plain(pair: Pair, **options: Any) -> Connection:
    """A connection of `a` without timestamps, whose peer is silent from now on."""
    client, _, _ = established(pair, **({"timestamps": False, "sack": False} | options))
    pair.meddle = lambda end, packet: []
    return client


def ended(pair: Pair, option: TimeWait, **options: Any) -> tuple[Connection, Connection, float]:
    """A connection that `a` and then `b` have ended, and when the last FIN was acknowledged: TIME-WAIT begins at `a`."""
    client, server = pair.connect(SocketOptions(time_wait=option, **options))
    client.shutdown(pair.now)
    pair.run(0.1)
    server.shutdown(pair.now)
    before = len(pair.packets)
    pair.run(5, until=lambda: len(pair.packets) > before + 1)
    return client, server, pair.packets[-1][0]


def old_segment(pair: Pair, connection: Connection) -> list[str]:
    """An octet that the connection of `a` had long ago comes once more: what is answered, which ends no wait and begins none."""
    fields = {"seq": connection.receiver.rcv_nxt - 2, "payload": b"x"}
    return [str(tcp.flags) for tcp in by_hand(pair, connection, "A", **fields)]


def remembered(pair: Pair) -> int:
    """How many of fifty handshakes that nobody completes `b` remembers: their answers go again."""
    for port in range(50):
        pair.b.input(wire.segment(A, B, 6000 + port, 80, "S", seq=port), pair.now)
    pair.run(0.5)
    assert len(segments(pair, "b")) == 50, "each is answered"
    before = len(pair.packets)
    pair.run(1)
    return len(segments(pair, "b", before))


def reopen(pair: Pair, isn: int, stamp: int | None) -> str | None:
    """A SYN for a pair in TIME-WAIT; what is answered, or None."""
    options = [("MSS", 1440)] + ([("Timestamp", (stamp, 0))] if stamp is not None else [])
    before = len(pair.packets)
    pair.a.input(wire.segment(B, A, 5000, 80, "S", seq=isn, options=options), pair.now)
    pair.run(0.001)
    answers = sent(pair, "a", before)
    return str(answers[0].flags) if answers else None


def in_time_wait(
    mode: PortMode, timestamps: bool, ordinary: AddressKind = AddressKind.STABLE, time_wait: TimeWait = TimeWait.FULL
) -> tuple[Pair, Connection]:
    """`a` is the server, at an SSA but in Aware mode, there at an `ordinary` address; and it is the one in TIME-WAIT."""
    pair = Pair()
    aware = mode is PortMode.AWARE
    options = SocketOptions(mode=mode, timestamps=timestamps, time_wait=time_wait)
    listener = pair.a.tcp.listen(options, pair.now, 80 if aware else None)
    kind = ordinary if aware else AddressKind.SERVICE
    listener.arm(pair.a.entry(pair.now, kind), pair.now, sessions=None)
    client = pair.b.tcp.connect(
        pair.b.entry(pair.now), pair.a.address, 80, pair.now, SocketOptions(mode=PortMode.AWARE), local_port=5000
    )
    pair.run(1)
    server = listener.accept()
    assert server is not None
    server.shutdown(pair.now)
    pair.run(0.1)
    client.shutdown(pair.now)
    pair.run(0.5)
    assert len(pair.a.tcp.time_waits) == 1
    return pair, server
