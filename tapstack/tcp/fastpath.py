"""Header prediction: the segment that a bulk transfer is made of, in one pass and without an object (RFC 1323 Appendix A's idea).

A segment takes this path when the connection is ESTABLISHED (or only waits for the peer to finish), it is the
next in order, carries nothing but ACK, PSH and FIN, has the usual timestamp layout or none, and needs nothing from
loss recovery.  Everything else is left, untouched, to `arrives`; a bare SYN-ACK that a connection waits for goes there
directly, without the walk over IPv6 headers that it does not have.

Of the bare acknowledgements that one reading of the link brings for a connection with much in flight, each says all that those
before it said.  They are checked one by one, and the last is processed, by `settle`: before anything else of the stack is
touched, and at the end of the reading at the latest.  To the sender it is as if the peer had acknowledged less often.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ..signals import Signal
from ..wire import checksum
from ..wire.error import WireError
from ..wire.ipv6 import HEADER_LENGTH as IPV6_HEADER_LENGTH
from ..wire.tcp import ACK, FIN, FIXED, HEADER_LENGTH, PROTOCOL, PSH, SYN, TIMESTAMP_WORD, TcpHeader
from . import arrives
from .buffers import grow_receive
from .connection import Connection
from .segment import Segment
from .sequence import MASK
from .states import TcpState

if TYPE_CHECKING:
    from ..types import Buffer
    from .layer import Tcp

_with_timestamp = struct.Struct("!HHIIBBHHHIII")
_SMALL = 2048
"""Bytes that are copied in less time than a view of them is made."""
_OTHER_FLAGS = ~(PSH | FIN)
_MUCH = 8
"""Segments in flight above which bare acknowledgements may wait for the end of the reading."""
_READABLE = Signal.READABLE
_ELIGIBLE = frozenset({TcpState.ESTABLISHED, TcpState.FIN_WAIT_1, TcpState.FIN_WAIT_2, TcpState.CLOSE_WAIT})


def receive(connection: Connection, frame: Buffer, at: int, length: int, trusted: bool, now: float) -> bool:
    """Process the segment in `frame`, whose IPv6 header begins at `at`; False when it is one for the slow path.

    length: the IPv6 payload length in bytes, which the frame is known to hold.
    trusted: the link vouches for the checksum.
    """
    if connection.state not in _ELIGIBLE or length < HEADER_LENGTH:
        return connection.state is TcpState.SYN_SENT and _syn_ack(connection, frame, at, length, trusted, now)
    receiver = connection.receiver
    sender = connection.sender
    tcp = at + IPV6_HEADER_LENGTH
    if connection.timestamps:
        if length < 32:
            return False
        source, _, sequence, wire_ack, offset, flags, window, _, _, word, value, echo = _with_timestamp.unpack_from(
            frame, tcp
        )
        if word != TIMESTAMP_WORD or offset & 0xF0 != 0x80:
            return False
        if receiver.ts_recent is None or (value - receiver.ts_recent) & 0x80000000:
            return False
        header = 32
    else:
        source, _, sequence, wire_ack, offset, flags, window, _, _ = FIXED.unpack_from(frame, tcp)
        if offset & 0xF0 != 0x50:
            return False
        header = 20
        value = echo = 0
    if (
        flags & _OTHER_FLAGS != ACK
        or sequence != receiver.rcv_nxt & MASK
        or source != connection.remote_port
        or receiver.beyond
        or (receiver.fin is not None and receiver.rcv_nxt <= receiver.fin)
        or connection.emitter.transform is not None
    ):
        return False
    size = length - header
    una = sender.snd_una
    held = connection.held
    if held is not None:
        if size or flags & FIN:
            return False  # rare: a peer that sends and receives much; `settle` comes first
        una = held[2]
    ack = una + ((wire_ack - una) & MASK)  # what lies before `una` turns out beyond SND.NXT
    window <<= sender.scale
    if ack > sender.snd_nxt or window == 0 or sender.snd_wnd == 0:
        return False
    if size:
        if size > receiver.rcv_adv - receiver.rcv_nxt or connection.detached or connection.state is TcpState.CLOSE_WAIT:
            return False
    elif flags & FIN:
        if connection.state is TcpState.CLOSE_WAIT:
            return False
    elif ack == una:
        return False  # a duplicate acknowledgement or a window update
    if not (trusted or _intact(memoryview(frame)[at : tcp + length], length)):
        return False
    if not size and connection.tcp.reading and len(sender.in_flight) > _MUCH and not (flags & FIN or sender.fin_sent):
        if held is None:
            connection.tcp.held.append(connection)
        connection.held = (value, echo, ack, window)
        if connection.timestamps and receiver.rcv_nxt <= receiver.last_ack_sent:
            receiver.ts_recent = value  # what the next one is compared with
        return True
    text: Buffer | None = None
    if size > _SMALL:
        text = memoryview(frame)[tcp + header : tcp + length]
    elif size:
        text = bytes(frame[tcp + header : tcp + length])
    try:
        _take(connection, value, echo, ack, window, text, flags & FIN, now)
    except Exception as error:
        connection.tcp.broken(connection, error, now)
        raise
    return True


def settle(tcp: Tcp, now: float) -> None:
    """Process the acknowledgements that wait for the end of the reading."""
    for connection in tcp.held:
        held = connection.held
        connection.held = None
        if held is not None:
            value, echo, ack, window = held
            try:
                _take(connection, value, echo, ack, window, None, 0, now)
            except Exception as error:  # those behind it are settled the next time
                tcp.broken(connection, error, now)
                raise
    tcp.held.clear()


def _intact(view: memoryview, length: int) -> bool:
    """Whether the checksum of the segment is right; `view` begins with the IPv6 header."""
    residue = checksum.pseudo_header(bytes(view[8:24]), bytes(view[24:40]), length, PROTOCOL)
    return (residue + checksum.residue(view[IPV6_HEADER_LENGTH:])) % 65535 == 0


def _syn_ack(connection: Connection, frame: Buffer, at: int, length: int, trusted: bool, now: float) -> bool:
    """A SYN-ACK without text for a connection in SYN-SENT, from another node; the parameters are those of `receive`."""
    tcp = at + IPV6_HEADER_LENGTH
    if (
        length < HEADER_LENGTH
        or frame[tcp + 13] != SYN | ACK
        or frame[tcp + 12] >> 2 & ~3 != length
        or connection.remote in connection.tcp.host.addresses
    ):
        return False
    view = memoryview(frame)[at : tcp + length]
    if not (trusted or _intact(view, length)):
        return False
    try:
        header = TcpHeader.parse(view[IPV6_HEADER_LENGTH:])
    except WireError:
        return False
    arrives.syn_sent(connection, Segment(connection.remote, connection.local, header, b""), now)
    return True


def _take(
    connection: Connection, value: int, echo: int, ack: int, window: int, text: Buffer | None, fin: int, now: float
) -> None:
    """What a predicted segment does: timestamp, acknowledgement, window, text, FIN (RFC 9293 §3.10.7.4, RFC 7323 §4.3)."""
    receiver = connection.receiver
    sender = connection.sender
    if connection.timestamps and receiver.rcv_nxt <= receiver.last_ack_sent:
        receiver.ts_recent = value
        receiver.ts_recent_at = now
    connection.last_heard = now
    if ack > sender.snd_una:
        arrives.new_data_acknowledged(connection, ack, (value, echo), now)
        if sender.fin_sent and connection.finished_sending():
            arrives.fin_acknowledged(connection, now)
    if sender.snd_wl1 <= receiver.rcv_nxt or sender.snd_wl2 < ack:  # else a newer one overtook it: see `arrives`
        sender.snd_wnd = window
        sender.snd_wl1 = receiver.rcv_nxt
        sender.snd_wl2 = ack
        if window > sender.maximum_window:
            sender.maximum_window = window
    if text is not None:
        receiver.append(text)
        grow_receive(connection, now)
        if not connection.signals & _READABLE:
            connection.signal(_READABLE)
    if fin:
        receiver.take_fin()
        arrives.fin_arrives(connection, now)
    if connection.dirty:
        return
    if (
        sender.unsent
        or sender.fin_queued
        or receiver.ack_now
        or receiver.unacked >= connection.ack_threshold
        or connection.write_blocked
        or sender.lost
    ):
        connection.tcp.mark_dirty(connection)
    elif receiver.unacked:
        connection.timers.hold_back(now)  # all that `output` would do
