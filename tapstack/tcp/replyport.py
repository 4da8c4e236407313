"""Where replies go while the peer's port may change (UM-PORT-3): at L1, and at L2 on the side that called.

A NAPT that has forgotten a binding gives its host another port and drops what comes for the old one.  So whatever is said on
account of a segment goes by what that segment tells of the port, which is decided before anything is said.

The port moves on a segment that passes PAWS and RFC 5961 §5 and advances RCV.NXT, SND.UNA or TS.Recent.  A peer whose last
acknowledgement was lost, or that asks whether we are there, has nothing that advances: it repeats, and a repetition lies left
of the window, where TS.Recent does not move either (RFC 7323 §5.3).  With timestamps it can be told from a segment that was
merely late: its TSval is above all that was heard, and then it acknowledges no less than was acknowledged.  Without them it
cannot, and does not move the port.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..wire.tcp import ACK, FIN, SYN
from .options import PortMode
from .sequence import unwrap

if TYPE_CHECKING:
    from .connection import Connection
    from .segment import Segment

_LIFETIME = 120.0
"""Seconds that a segment can be late: the MSL of RFC 9293 §3.4.1."""


def may_move(connection: Connection) -> bool:
    """Whether replies follow the peer's port: where it is in no key, and is read at all (unified-multiplex §6)."""
    return connection.mode is PortMode.L1 or (connection.mode is PortMode.L2 and connection.armed is None)


def follow(connection: Connection, segment: Segment, sequence: int, ack: int, now: float) -> None:
    """A segment from another port, acceptable and with a valid acknowledgement, is about to be processed."""
    if may_move(connection) and _advances(connection, segment, sequence, ack):
        _move(connection, segment, now)


def follow_repetition(connection: Connection, segment: Segment, sequence: int, now: float) -> None:
    """A segment from another port, which passed PAWS and is not acceptable, is about to be answered."""
    if may_move(connection) and _repeats(connection, segment, sequence):
        _move(connection, segment, now)


def _advances(connection: Connection, segment: Segment, sequence: int, ack: int) -> bool:
    """Whether processing the segment will move SND.UNA, TS.Recent or RCV.NXT."""
    receiver = connection.receiver
    stamp = segment.options.timestamp
    if ack > connection.sender.snd_una:
        return True
    spans = connection.timestamps and stamp is not None and sequence <= receiver.last_ack_sent
    if spans and stamp is not None and stamp[0] != receiver.ts_recent:  # it passed PAWS, so it is newer
        return True
    next_in_order = sequence <= receiver.rcv_nxt < sequence + segment.length
    room = receiver.window() > 0 or (segment.flags & FIN and not segment.payload)
    return bool(next_in_order and room and not receiver.fin_taken())


def _repeats(connection: Connection, segment: Segment, sequence: int) -> bool:
    """Whether a segment left of the window was certainly sent after all that was heard of the peer, and by the peer."""
    receiver, sender = connection.receiver, connection.sender
    stamp, recent = segment.options.timestamp, receiver.ts_recent
    if not connection.timestamps or stamp is None or recent is None or segment.flags & (ACK | SYN) != ACK:
        return False
    within_reach = receiver.rcv_nxt - receiver.capacity <= sequence <= receiver.rcv_nxt
    ack = unwrap(segment.acknowledgment, sender.snd_una)
    return within_reach and sender.snd_una <= ack <= sender.snd_nxt and unwrap(stamp[0], recent) > recent


def _move(connection: Connection, segment: Segment, now: float) -> None:
    """Turn to the segment's port, unless it was sent before the one that moved the port last."""
    stamp = segment.options.timestamp
    if connection.timestamps and stamp is not None:
        followed = connection.followed
        if followed is not None and now - followed[1] < _LIFETIME and unwrap(stamp[0], followed[0]) < followed[0]:
            return
        connection.followed = stamp[0], now
    connection.remote_port = segment.source_port
