"""Passive opens: from a SYN at an armed address to an established connection (RFC 9293 §3.10.7.2; unified-multiplex §5).

As long as there is room a SYN makes a half-open `Connection`.  Beyond it makes nothing: the answer carries a cookie
(`cookies`), and the acknowledgement that brings it back makes the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import DropReason
from ..ipv6.packet import NoRouteError
from ..wire import tcp as wire
from ..wire.tcp import Options
from . import arrives, cookies
from .connection import IPV6_TCP_HEADERS, Connection
from .demux import key_for
from .emitter import Emitter
from .errors import ConflictingSocket
from .isn import SessionNumbers, session_numbers
from .listener import Admission
from .options import Ecn, PortMode
from .receiver import scale_for
from .sequence import MASK, timestamp_value, unwrap
from .states import TcpTrigger

if TYPE_CHECKING:
    from ..ipv6.host import Path
    from .layer import Tcp
    from .listener import ArmedAddress
    from .segment import Segment
    from .timewait import TimeWaitRecord

HALF_OPEN_LIMIT = 4096
"""Half-open handshakes of a node, whatever its listeners allow."""
_SCATTER = 0xFFFF


class PassiveOpens:
    """What one node does with SYNs at its armed addresses."""

    __slots__ = ("_secret", "_tcp", "limit")

    def __init__(self, tcp: Tcp, secret: bytes) -> None:
        self._tcp = tcp
        self._secret = secret
        self.limit = HALF_OPEN_LIMIT

    def syn_arrives(
        self, armed: ArmedAddress, segment: Segment, now: float, record: TimeWaitRecord | None = None
    ) -> None:
        """A SYN for which there is no PCB.

        record: what it reopens, which makes way once it has: the new connection's numbers are above the old one's (RFC 9293
        MAY-2).  A cookie could not promise that, and is not needed: the peer is real, and each record makes one
        handshake at most.
        """
        if armed.resting:
            self._tcp.counters.drop(DropReason.TCP_DEPRECATED)
            return
        admission = armed.listener.may_open(armed, segment)
        if admission is Admission.REFUSED:
            return
        if admission is Admission.COOKIE and record is None:
            self._send_cookie(armed, segment, now)
            return
        numbers = self._numbers(armed, segment, now)
        used = None if record is None else record.facts().snd_nxt
        if used is not None and unwrap(numbers.isn, used) <= used:
            numbers = numbers._replace(isn=(used + 1 + (numbers.isn & _SCATTER)) & MASK)
        connection = self._begin(armed, segment, numbers, now)
        if connection is None:
            return
        if record is not None:
            self._tcp.time_waits.end(record, now, "reopened")
        arrives.take_syn(connection, segment, now)
        connection.sender.snd_nxt += 1
        connection.move(TcpTrigger.PASSIVE_OPEN, now, "SYN arrived")
        connection.send_syn(now)
        connection.timers.waiting_since = now
        connection.timers.retransmit.set(now + connection.rtt.rto)

    def ack_arrives(self, armed: ArmedAddress, segment: Segment, now: float) -> bool:
        """A segment without a PCB that may bring back a cookie; False when it does not."""
        if now > armed.cookies_until or segment.flags & (wire.SYN | wire.RST | wire.ACK) != wire.ACK:
            return False
        if segment.length == 0 and self._is_cookie(armed, segment, segment.sequence, now) is not None:
            segment.sequence = (
                segment.sequence + 1
            ) & MASK  # a keep-alive probe, one below what comes next: the ACK was lost
        isn, peer_isn = (segment.acknowledgment - 1) & MASK, (segment.sequence - 1) & MASK
        cookie = self._is_cookie(armed, segment, peer_isn, now)
        if cookie is None:
            return False
        if armed.listener.may_open(armed, segment) is Admission.REFUSED:
            return True
        numbers = self._numbers(armed, segment, now)
        connection = self._begin(armed, segment, SessionNumbers(isn, *numbers[1:]), now)
        if connection is None:
            return True
        connection.syn_sent_at = None
        connection.receiver.start(peer_isn)
        connection.negotiate(cookie.options)
        connection.ecn.usable = connection.ecn.marks = cookie.ecn
        if cookie.options.timestamp is not None:
            connection.receiver.ts_recent = cookie.options.timestamp[0]
            connection.receiver.ts_recent_at = now
        connection.receiver.advertise(wire.DEFAULT_MSS, scaled=False)
        connection.sender.snd_nxt += 1
        connection.move(TcpTrigger.PASSIVE_OPEN, now, "cookie")
        arrives.otherwise(connection, segment, now)
        return True

    def _is_cookie(self, armed: ArmedAddress, segment: Segment, peer_isn: int, now: float) -> cookies.Cookie | None:
        """What the number says that `segment` acknowledges, if the peer began with `peer_isn`."""
        isn = (segment.acknowledgment - 1) & MASK
        return cookies.check(self._secret, self._key(armed, segment), isn, peer_isn, segment.options.timestamp, now)

    def _begin(self, armed: ArmedAddress, segment: Segment, numbers: SessionNumbers, now: float) -> Connection | None:
        """A half-open connection; None when there is no way back to its peer."""
        tcp = self._tcp
        path = self._path(segment, now)
        if path is None:
            return None
        connection = Connection(
            tcp,
            armed.entry,
            segment.remote,
            segment.destination_port,
            segment.source_port,
            armed.listener.options,
            path,
            numbers,
            now,
        )
        connection.armed = armed
        armed.half_open.add(connection)
        tcp.demux.add_half_open(connection)
        return connection

    def _path(self, segment: Segment, now: float) -> Path | None:
        """The way back to the peer; None, and counted, when there is none."""
        try:
            return self._tcp.host.path(segment.remote, now)
        except NoRouteError:
            self._tcp.counters.drop(DropReason.IP_NO_ROUTE)
            return None

    def completed(self, connection: Connection, now: float) -> bool:
        """Collapse a half-open handshake to its mode's key (UM-LIS-3); False when that place is taken."""
        demux = self._tcp.demux
        key = key_for(connection.mode, connection, calling=False)
        try:
            demux.add(key, connection)
        except ConflictingSocket:
            connection.delete(TcpTrigger.DELETE, now, "another session of this pair was first")
            return False
        demux.remove_half_open(connection)
        connection.key = key
        assert connection.armed is not None
        connection.armed.listener.completed(connection, now)
        return True

    @property
    def full(self) -> bool:
        """Whether this node has as many half-open handshakes as it may."""
        return self._tcp.demux.half_open_count >= self.limit

    # -- cookies ---------------------------------------------------------------------------------

    def _key(self, armed: ArmedAddress, segment: Segment) -> bytes:
        """What identifies a handshake; in L0 ports are never read."""
        if armed.listener.options.mode is PortMode.L0:
            return segment.remote + segment.local
        ports = segment.source_port.to_bytes(2, "big") + segment.destination_port.to_bytes(2, "big")
        return segment.remote + segment.local + ports

    def _numbers(self, armed: ArmedAddress, segment: Segment, now: float) -> SessionNumbers:
        return session_numbers(self._secret, self._key(armed, segment), now)

    def _send_cookie(self, armed: ArmedAddress, segment: Segment, now: float) -> None:
        """A SYN-ACK that this node will not remember."""
        tcp = self._tcp
        path = self._path(segment, now)
        if path is None:
            return
        tcp.counters.drop(DropReason.TCP_COOKIE_SENT)
        armed.cookies_until = now + 2 * cookies.PERIOD
        wanted = segment.options
        own = armed.listener.options
        key = self._key(armed, segment)
        numbers = session_numbers(self._secret, key, now)
        answer = Options(mss=tcp.host.link_mtu - IPV6_TCP_HEADERS)
        asked = Options(mss=wanted.mss)
        bits = cookies.option_bits(asked, False)
        if wanted.timestamp is not None and own.timestamps:
            asked = Options(
                mss=wanted.mss, window_scale=wanted.window_scale, sack_permitted=wanted.sack_permitted and own.sack
            )
            ecn = own.ecn is not Ecn.OFF and segment.flags & (wire.ECE | wire.CWR) == wire.ECE | wire.CWR
            bits = cookies.option_bits(asked, ecn)
            clock = timestamp_value(now, numbers.timestamp_offset)
            answer.timestamp = (cookies.mark(clock, bits), wanted.timestamp[0])
            answer.sack_permitted = asked.sack_permitted
            if wanted.window_scale is not None:
                answer.window_scale = scale_for(own.receive_buffer_maximum)
        else:
            ecn = False
        isn = cookies.make(self._secret, key, segment.sequence, asked, bits, now)
        flags = wire.SYN | wire.ACK | (wire.ECE if ecn else 0)
        emitter = Emitter(
            tcp.host, path, tcp.transmit, segment.local, segment.remote, numbers.flow_label, own.hop_limit
        )
        emitter.set_dscp(own.dscp)
        emitter.emit(
            segment.destination_port, segment.source_port, isn, segment.sequence + 1, flags,
            min(own.receive_buffer, 65535), None, [], 0, wire.DEFAULT_MSS, now, answer.pack(),
        )  # fmt: skip
