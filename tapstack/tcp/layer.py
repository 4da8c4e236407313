"""The TCP of one host: opens, demultiplexing, what arrives for nobody, errors from the network.

`Tcp.input` takes every segment that the fast path left, `Tcp.error` every ICMPv6 error about a segment of ours.
CLOSED and LISTEN of RFC 9293 §3.10.7 are here, since no connection exists yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING

from ..events import Counters, DropReason, EventStream
from ..ipv6.addresses import AddressEntry, AddressState, Trigger
from ..randomness import KeyedRandom
from ..signals import Signal
from ..timers import TimerQueue
from ..types import PORT_ATTEMPTS, Frame, valid_peer
from ..wire import checksum
from ..wire import tcp as wire
from ..wire.error import WireError
from ..wire.icmpv6 import Type as IcmpType
from ..wire.ipv6 import MINIMUM_MTU
from . import arrives, errors
from .buffers import BufferBudget, release
from .challenge import ChallengeLimiter
from .connection import Connection
from .demux import Demux, four_key, key_for
from .isn import session_numbers
from .listener import ArmedAddress, Listener
from .options import PortMode, SocketOptions
from .passive import PassiveOpens
from .segment import Segment
from .sequence import MASK, unwrap
from .states import SYNCHRONIZED, TcpState, TcpTrigger
from .timewait import TimeWaitRecord, TimeWaitTable, may_reopen

if TYPE_CHECKING:
    from ..ipv6.host import Host
    from ..ipv6.packet import IcmpError, Packet


class Tcp:
    """TCP on one host; see the module's docstring.

    secret: keys the numbers of RFC 6528.  transmit: puts one finished frame on the link.
    reading: more frames may follow before anybody looks; held: connections with an acknowledgement that waits for the last of
    them (see `fastpath`).
    """

    def __init__(
        self,
        host: Host,
        timers: TimerQueue,
        events: EventStream,
        counters: Counters,
        secret: bytes,
        transmit: Callable[[Frame], None],
    ) -> None:
        self.host = host
        self.timers = timers
        self.events = events
        self.counters = counters
        self.transmit = transmit
        self.demux = Demux()
        self.time_waits = TimeWaitTable(self)
        self.passive = PassiveOpens(self, secret)
        self.challenges = ChallengeLimiter(secret)
        self.budget = BufferBudget()
        self.listeners: set[Listener] = set()
        self.signalled: deque[Connection | Listener] = deque()
        self._secret = secret
        self._ids = count(1)
        self.next_id: Callable[[], int] = self._ids.__next__
        self._ports = KeyedRandom(secret, "ports")
        self._dirty: list[Connection] = []
        self._ended: list[Connection] = []
        self.reading = False
        self.held: list[Connection] = []
        self._armed: dict[bytes, ArmedAddress] = {}
        self._armed_on: dict[bytes, list[ArmedAddress]] = {}
        self._wildcards: dict[int, Listener] = {}
        host.addresses.observe(self._address_gone, (Trigger.EXPIRE, Trigger.DAD_FAILED))

    # -- opens -----------------------------------------------------------------------------------

    def connect(
        self,
        entry: AddressEntry,
        remote: bytes,
        remote_port: int | None,
        now: float,
        options: SocketOptions,
        local_port: int | None = None,
    ) -> Connection:
        """Active OPEN from a PREFERRED address; the SYN leaves with the next `flush`.

        remote_port: what the application named; None writes RP.
        Raises `NoRouteError`, `ConflictingSocket`, `AddressError`, and OSError for an address that cannot be a peer's.
        """
        if not valid_peer(remote):  # RFC 9293 MUST-46
            raise errors.invalid_address(remote)
        path = self.host.path(remote, now)
        if remote_port is None:
            remote_port = options.reduced_port
        chosen = local_port if local_port is not None else self._ports.port()
        attempts = 1 if local_port is not None or options.mode in (PortMode.L0, PortMode.L1) else PORT_ATTEMPTS
        while True:
            attempts -= 1
            ports = remote_port.to_bytes(2, "big") + chosen.to_bytes(2, "big")
            numbers = session_numbers(self._secret, remote + entry.address + ports, now)
            connection = Connection(self, entry, remote, chosen, remote_port, options, path, numbers, now)
            connection.key = key_for(options.mode, connection, calling=True)
            try:
                self.demux.add(connection.key, connection)
                break
            except errors.ConflictingSocket:
                connection.fall_apart()
                if not attempts:
                    self.host.addresses.drop(entry, connection, now, "conflicting socket")
                    raise
                entry.users.remove(connection)  # the next attempt holds the address; nobody else need know of this one
                chosen = self._ports.port()
        connection.sender.snd_nxt += 1
        connection.move(TcpTrigger.ACTIVE_OPEN, now, "connect")
        connection.send_syn(now)
        connection.timers.waiting_since = now
        connection.timers.retransmit.set(now + connection.rtt.rto)
        return connection

    def listen(
        self, options: SocketOptions, now: float, port: int | None = None, service: str | None = None
    ) -> Listener:
        """Passive OPEN without an address: LISTEN_o (UM-LIS-1).  `port` is for Aware mode only, and needed there.

        service: a name for events, errors and views.
        """
        if (port is not None) != (options.mode is PortMode.AWARE):
            raise ValueError("a listener names a port in Aware mode, and only there")
        listener = Listener(self, options, port, now, service)
        self.listeners.add(listener)
        return listener

    # -- listeners' tables -----------------------------------------------------------------------

    def enter_listener(self, armed: ArmedAddress) -> None:
        """Enter an armed address; refuses what could shadow another listener (UM-PORT-7)."""
        address = armed.entry.address
        others = self._armed_on.get(address, [])
        for other in others:
            if len(other.key) != len(armed.key) or other.key == armed.key:
                raise errors.ConflictingSocket(repr(armed), repr(other))
        self._armed[armed.key] = armed
        self._armed_on.setdefault(address, []).append(armed)

    def leave_listener(self, armed: ArmedAddress) -> None:
        """Take an armed address out of the tables."""
        address = armed.entry.address
        self._armed.pop(armed.key, None)
        group = self._armed_on.get(address, [])
        if armed in group:
            group.remove(armed)
        if not group:
            self._armed_on.pop(address, None)

    def enter_wildcard(self, listener: Listener) -> None:
        """Let an Aware listener accept at every ordinary address; refuses what could shadow, or be shadowed (UM-PORT-7).

        It is in no table of addresses before a segment has come there, so the listeners that are have to be looked through.
        """
        assert listener.port is not None
        other = self._wildcards.get(listener.port)
        if other is not None:
            raise errors.ConflictingSocket(listener.everywhere, other.everywhere)
        for armed in self._armed.values():
            if listener.shadows(armed):
                raise errors.ConflictingSocket(listener.everywhere, repr(armed))
        self._wildcards[listener.port] = listener

    def refuse_wildcards(self, armed: ArmedAddress) -> None:
        """Refuse an address where a wildcard listener accepts, whether a segment has come there yet or not (UM-PORT-7)."""
        for listener in self._wildcards.values():
            if listener.shadows(armed):
                raise errors.ConflictingSocket(repr(armed), listener.everywhere)

    def leave_wildcard(self, listener: Listener) -> None:
        """The reverse of `enter_wildcard`."""
        assert listener.port is not None
        self._wildcards.pop(listener.port, None)

    def _find_armed(self, packet: Packet, segment: Segment, now: float) -> ArmedAddress | None:
        port = segment.destination_port.to_bytes(2, "big")
        armed = self._armed.get(segment.local) or self._armed.get(segment.local + port)
        if armed is None and packet.entry is not None and not packet.entry.kind.one_time:
            listener = self._wildcards.get(segment.destination_port)
            if listener is not None:
                armed = listener.arm_where_found(packet.entry, now)
        return armed

    # -- input -----------------------------------------------------------------------------------

    def input(self, packet: Packet, now: float) -> None:
        """One TCP packet that the fast path did not take."""
        segment = self.read(packet)
        if segment is None:
            return
        ports = packet.payload[:4]
        pcb = self.demux.find(packet.src + packet.dst, bytes(ports[:2]), bytes(ports[2:4]))
        if pcb is None:
            half_open = self.demux.find_half_open(segment)
            if half_open is None:
                self._no_pcb(packet, segment, now)
                return
            pcb = half_open
        if isinstance(pcb, TimeWaitRecord):
            armed = self._find_armed(packet, segment, now) if may_reopen(pcb, segment) else None
            if armed is not None:
                self.passive.syn_arrives(armed, segment, now, pcb)
            else:
                self.time_waits.segment_arrives(pcb, segment, now)
        else:
            try:
                arrives.segment_arrives(pcb, segment, now)
            except Exception as error:
                self.broken(pcb, error, now)
                raise

    def read(self, packet: Packet) -> Segment | None:
        """The segment in a packet; None, and a counted drop, where it is no sound one to an address of ours."""
        if packet.entry is None or packet.link_group or not valid_peer(packet.src):
            self.counters.drop(DropReason.TCP_MALFORMED)
            return None
        if not packet.checksum_trusted and not checksum.valid(packet.src, packet.dst, wire.PROTOCOL, packet.payload):
            self.counters.drop(DropReason.CHECKSUM)
            return None
        try:
            header = wire.TcpHeader.parse(packet.payload)
        except WireError:
            self.counters.drop(DropReason.TCP_MALFORMED)
            return None
        payload = packet.payload[header.length :]
        return Segment(packet.src, packet.dst, header, payload, packet.traffic_class, packet.gso_size)

    def _no_pcb(self, packet: Packet, segment: Segment, now: float) -> None:
        """LISTEN or CLOSED (RFC 9293 §3.10.7.1, §3.10.7.2)."""
        armed = self._find_armed(packet, segment, now)
        if armed is not None and segment.is_syn:
            self.passive.syn_arrives(armed, segment, now)
        elif armed is None or not self.passive.ack_arrives(armed, segment, now):
            if segment.flags & wire.RST or (armed is not None and not segment.flags & wire.ACK):
                self.counters.drop(DropReason.TCP_NO_PCB)
            else:
                assert packet.entry is not None
                self.reset(segment, packet.entry, now)

    def reset(self, segment: Segment, entry: AddressEntry, now: float) -> None:
        """The RST of RFC 9293 §3.10.7.1, unless the address must be silent to this sender (UM-EA-1, UM-LIS-6)."""
        if segment.flags & wire.RST:
            return
        if not entry.speaks_to(segment.remote):
            self.counters.drop(DropReason.ADDRESS_SILENT)
            return
        self.counters.drop(DropReason.TCP_NO_PCB)
        if segment.flags & wire.ACK:
            sequence, ack, flags = segment.acknowledgment, 0, wire.RST
        else:
            sequence, ack, flags = 0, (segment.sequence + segment.length) & MASK, wire.RST | wire.ACK
        packed = wire.pack(
            segment.local, segment.remote, segment.destination_port, segment.source_port, sequence, ack, flags, 0
        )
        self.host.send(segment.local, segment.remote, wire.PROTOCOL, [packed], now)

    # -- output ----------------------------------------------------------------------------------

    def mark_dirty(self, connection: Connection) -> None:
        """Have `connection.output` run with the next `flush`."""
        if not connection.dirty:
            connection.dirty = True
            self._dirty.append(connection)

    def flush(self, now: float) -> None:
        """Let every connection with something to say say it."""
        while self._dirty:
            dirty, self._dirty = self._dirty, []
            left = iter(dirty)
            for connection in left:
                try:
                    connection.output(now)
                except Exception as error:
                    self._dirty[:0] = left  # the next flush is theirs
                    self.broken(connection, error, now)
                    raise
        for connection in self._ended:
            connection.fall_apart()
        self._ended.clear()

    # -- endings ---------------------------------------------------------------------------------

    def broken(self, connection: Connection, error: Exception, now: float) -> None:
        """A fault was met in the middle of a connection, perhaps of a controller of the user's: it ends, and no other one does.

        Its owner is told of `error`, its peer by a reset; whoever caught the error raises it again.
        """
        if connection.state is not TcpState.CLOSED:
            try:
                connection.fail(error, now, "fault")
            except Exception:  # once more
                connection.delete(TcpTrigger.DELETE, now, "fault", error)

    def time_wait(self, connection: Connection, trigger: TcpTrigger, now: float) -> None:
        """Both sides have closed: acknowledge, where the FIN has not been yet, and leave a record for TIME-WAIT."""
        if trigger is not TcpTrigger.ACK_OF_FIN or connection.receiver.ack_now:
            connection.send_ack(now)
        connection.move(trigger, now, "both sides closed")
        if connection.options.time_wait is not connection.options.time_wait.SHARP:
            self.time_waits.enter(connection, now)
            connection.key = b""
            connection.timers.retire()
            release(connection)
            self._ended.append(connection)
            connection.state = TcpState.CLOSED  # the record is in TIME-WAIT now, this object is nothing any more
            self.host.addresses.drop(connection.entry, connection, now, "TIME-WAIT")
            connection.signal(Signal.CLOSED)
        else:
            connection.delete(TcpTrigger.TIME_WAIT_OVER, now, "sharp TIME-WAIT")

    def forget(self, connection: Connection, now: float, cause: str) -> None:
        """Take a PCB out of the tables and let go of its address."""
        armed = connection.armed
        if armed is not None and connection in armed.half_open:
            armed.half_open.discard(connection)
            self.demux.remove_half_open(connection)
        elif connection.key:
            self.demux.remove(connection.key)
        connection.key = b""
        release(connection)
        self._ended.append(connection)
        self.host.addresses.drop(connection.entry, connection, now, cause)
        if armed is None and not connection.mtu:  # its SYN may wait still, and who answered that would meet silence
            self.host.withdraw(connection.entry)

    def _address_gone(self, entry: AddressEntry, old: AddressState, trigger: Trigger, now: float) -> None:
        """The valid lifetime of an address is over, or an optimistic one is another's: whatever stood on it ends (UM-ADDR-11)."""
        for user in list(entry.users):
            if user not in entry.users:
                continue  # a handshake, which went with the armed address that it stood on
            if isinstance(user, Connection):
                user.delete(
                    TcpTrigger.DELETE, now, "address expired", errors.AddressGone("the address's lifetime is over")
                )
            elif isinstance(user, TimeWaitRecord):
                self.time_waits.end(user, now, "address expired")
            elif isinstance(user, ArmedAddress):
                user.listener.disarm(entry.address, now, "address expired")

    def close(self, now: float) -> None:
        """The node stops: listeners close, connections are reset, records are forgotten."""
        for listener in sorted(self.listeners, key=lambda each: each.id):  # in the same order in equal runs
            listener.close(now)
        for pcb in self.demux:
            if isinstance(pcb, Connection):
                pcb.abort(now, "node stops")
        self.time_waits.end_all(now, "node stops")

    # -- errors from the network -----------------------------------------------------------------

    def error(self, report: IcmpError, now: float) -> None:
        """An ICMPv6 error about a segment of ours; counts only if the quoted sequence number is in flight (UM-PORT-13)."""
        quoted = bytes(report.payload[:8])
        pair = report.dst + report.src
        pcb = self.demux.find(pair, quoted[2:4], quoted[0:2])
        if pcb is None:
            pcb = self.demux.half_open_at(pair + quoted[2:4] + quoted[0:2])
        if not isinstance(pcb, Connection):
            self.counters.drop(DropReason.ICMP_UNMATCHED)
            return
        sender = pcb.sender
        sequence = unwrap(int.from_bytes(quoted[4:8], "big"), sender.snd_una)
        if not sender.snd_una <= sequence < sender.snd_nxt:
            self.counters.drop(DropReason.ICMP_UNMATCHED)
            return
        if report.type == IcmpType.PACKET_TOO_BIG:
            self._packet_too_big(pcb, report, now)
            return
        error = errors.from_icmp(report.type, report.code)
        if pcb.state in SYNCHRONIZED:
            pcb.trouble(error)
        else:
            pcb.fail(error, now, "destination unreachable")

    def _packet_too_big(self, connection: Connection, report: IcmpError, now: float) -> None:
        """RFC 8201 §5.4: send smaller, and again what was lost to size, without reducing cwnd.

        The connection may send smaller already, because another one to the same destination has heard first.
        """
        self.host.accept_path_mtu(report, now)
        if connection.state not in SYNCHRONIZED or not MINIMUM_MTU <= report.info < self.host.properties.mtu:
            return
        connection.fit_path()
        sender = connection.sender
        if sender.by_time and sender.by_time[0].order <= sender.outgrown:
            sender.mark_all_lost(sender.outgrown)
            self.mark_dirty(connection)

    # -- invariants ------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise AssertionError where an invariant of the tables does not hold."""
        self.demux.check()
        for pcb in self.demux:
            assert pcb in pcb.entry.users, pcb
            if isinstance(pcb, Connection):
                assert pcb.state not in (TcpState.CLOSED, TcpState.TIME_WAIT), pcb
                pcb.sender.check()
                pcb.receiver.check()
        for half_open in self.demux.half_open():
            assert half_open.key == four_key(half_open)
            assert half_open.armed is not None and half_open in half_open.armed.half_open
        for armed in self._armed.values():
            assert armed in armed.entry.users, armed
            assert armed.listener.state is TcpState.LISTEN, armed
        self.host.addresses.check()
