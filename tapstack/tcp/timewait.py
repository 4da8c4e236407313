"""TIME-WAIT as a compact record: it keeps the address, answers what must be answered, and ends (UM-REL-2; RFC 9293 §3.6.1).

A busy node has tens of thousands of them, so a record is the address it holds, its key, and its numbers packed into one
bytes object (`_Facts`), which is unpacked when a segment arrives.  What writes the headers is made anew for an answer.

Records end in the order in which they came wherever the wait is the same for all, so they stand in a line under one timer; the
few that end before the last in the line, or whose wait began again, are in a heap aside.  A retransmitted FIN is
acknowledged and restarts the wait.  In Aware mode on an ordinary address a SYN that is certainly newer than the old connection
reopens it (RFC 6191); elsewhere, in L0, in L1, in L2 and on one-time addresses, nothing does.
"""

from __future__ import annotations

import heapq
import struct
from collections import deque
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from ..events import ConnectionChanged, DropReason
from ..ipv6.packet import NoRouteError
from ..types import address_text
from ..wire import tcp as wire
from . import replyport
from .emitter import Emitter
from .options import PortMode, TimeWait
from .sequence import MASK, timestamp_value, unwrap
from .states import TcpState

if TYPE_CHECKING:
    from .connection import Connection
    from .emitter import SegmentTransform
    from .layer import Tcp
    from .segment import Segment

LIMIT = 1 << 18
"""Records of a node: some 65 MB."""
SHORT_RTOS = 4
SHORT_MINIMUM_RTO = 0.25
_REPEATING_RTOS = 2
"""Within so many time-outs a peer that heard no acknowledgement has sent its FIN again."""
_ANSWER_INTERVAL = 0.5
_ENDED_EARLY = 64
"""So many records beyond those that wait may stand in line or heap when they have ended."""
_MODES = tuple(PortMode)
_packed = struct.Struct("!dfIIIIIIHHBB")
_TIMESTAMPS = 0x80
_FOLLOWS = 0x40
_MODE = 0x03


def duration(connection: Connection) -> float:
    """How long TIME-WAIT lasts for this connection, in seconds (UM-REL-2)."""
    options = connection.options
    full = 2 * options.msl
    if options.time_wait is TimeWait.FULL:
        return full
    if options.time_wait is TimeWait.SHORT:
        return min(SHORT_RTOS * max(connection.rtt.rto, SHORT_MINIMUM_RTO), full)
    return 0.0


class _Facts(NamedTuple):
    """What a record packs; sequence numbers are those of the wire.  expires: a time; wait: seconds, to single precision.

    first_word: of the IPv6 header; hop_limit: 0 for that of the path; flags: `_TIMESTAMPS`, `_FOLLOWS` where
    replies follow the peer's port (see `replyport`), and the index of the mode.
    """

    expires: float
    wait: float
    connection: int
    rcv_nxt: int
    snd_nxt: int
    ts_recent: int
    timestamp_offset: int
    first_word: int
    local_port: int
    remote_port: int
    hop_limit: int
    flags: int


class TimeWaitRecord:
    """What is left of a connection in TIME-WAIT; an `AddressUser` until it ends."""

    __slots__ = ("_facts", "entry", "key")

    def __init__(self, connection: Connection, wait: float, now: float) -> None:
        self.entry = connection.entry
        self.key = connection.key
        flags = _MODES.index(connection.mode) | (_TIMESTAMPS if connection.timestamps else 0)
        flags |= _FOLLOWS if replyport.may_move(connection) else 0
        emitter = connection.emitter
        self._facts = _packed.pack(
            now + wait, wait, connection.id & MASK, connection.receiver.rcv_nxt & MASK, connection.sender.snd_nxt & MASK,
            connection.receiver.ts_recent or 0, connection.timestamp_offset, emitter.first_word,
            connection.local_port, connection.remote_port, emitter.hop_limit or 0, flags,
        )  # fmt: skip

    def facts(self) -> _Facts:
        """The numbers of the connection that was."""
        return _Facts._make(_packed.unpack(self._facts))

    def change(self, facts: _Facts) -> None:
        """Remember other numbers."""
        self._facts = _packed.pack(*facts)

    @property
    def connection(self) -> int:
        """The connection's number."""
        return self.facts().connection

    @property
    def expires(self) -> float:
        """When TIME-WAIT is over."""
        expires: float = _packed.unpack(self._facts)[0]
        return expires

    @property
    def ts_recent(self) -> int | None:
        """The peer's last timestamp; None where there are none."""
        facts = self.facts()
        return facts.ts_recent if facts.flags & _TIMESTAMPS else None

    @property
    def mode(self) -> PortMode:
        """The port mode of the connection."""
        return _MODES[self.facts().flags & _MODE]

    @property
    def remote(self) -> bytes:
        """The peer's address."""
        return self.key[:16]

    @property
    def local(self) -> bytes:
        """This node's address."""
        return self.entry.address

    @property
    def remote_port(self) -> int:
        """The peer's port, as it was last written."""
        return self.facts().remote_port

    @property
    def local_port(self) -> int:
        """This side's port."""
        return self.facts().local_port

    def __repr__(self) -> str:
        facts = self.facts()
        return (
            f"connection {facts.connection} [{address_text(self.local)}]:{facts.local_port} ↔ "
            f"[{address_text(self.remote)}]:{facts.remote_port} {self.mode} TIME-WAIT"
        )

    def serves(self, remote: bytes) -> bool:
        """Whether `remote` is the peer."""
        return remote == self.remote

    @property
    def heard(self) -> bool:
        """A connection has been."""
        return True


def may_reopen(record: TimeWaitRecord, segment: Segment) -> bool:
    """RFC 6191 §2: whether it is a SYN whose timestamp, or else whose sequence number, is beyond the old connection's.

    It does so where a listener takes it: `Tcp.input`.  Any other leaves the record as it is.
    """
    if record.mode is not PortMode.AWARE or record.entry.kind.one_time or not segment.is_syn:
        return False
    stamp, recent, rcv_nxt = segment.options.timestamp, record.ts_recent, record.facts().rcv_nxt
    newer = unwrap(segment.sequence, rcv_nxt) > rcv_nxt
    if stamp is None or recent is None:
        return newer
    value = unwrap(stamp[0], recent)
    return value > recent or (value == recent and newer)


def _with_news(facts: _Facts, segment: Segment, sequence: int, expected: bool) -> _Facts:
    """The facts with the segment's timestamp, where it is newer and the segment `expected`, and with its port.

    The port is followed where the segment repeats what the peer has sent, acknowledges all that we have, and was sent after all
    that was heard: `replyport` says why.
    """
    stamp = segment.options.timestamp
    if stamp is None or not facts.flags & _TIMESTAMPS or unwrap(stamp[0], facts.ts_recent) <= facts.ts_recent:
        return facts
    acknowledges = segment.flags & (wire.ACK | wire.SYN) == wire.ACK and segment.acknowledgment == facts.snd_nxt
    if facts.flags & _FOLLOWS and acknowledges and sequence + segment.length <= facts.rcv_nxt:
        return facts._replace(ts_recent=stamp[0], remote_port=segment.source_port)
    return facts._replace(ts_recent=stamp[0]) if expected else facts


class TimeWaitTable:
    """The records of a node, at most `limit`, and their one timer.

    When it is full the record that came first makes room: the network has had the most time to forget its connection.

    quiet_at: when every peer has had time to send its FIN again, had the last acknowledgement been lost: the stack's clock.
    """

    def __init__(self, tcp: Tcp) -> None:
        self._tcp = tcp
        self.limit = LIMIT
        self.quiet_at = 0.0
        self._line: deque[TimeWaitRecord] = deque()
        self._last = 0.0
        self._heap: list[tuple[float, int, TimeWaitRecord]] = []
        self._aside: set[TimeWaitRecord] = set()
        self._order = count()
        self._timer = tcp.timers.timer(self._run)
        self._count = 0
        self._answered: dict[TimeWaitRecord, float] = {}
        self._transforms: dict[TimeWaitRecord, SegmentTransform] = {}

    def __len__(self) -> int:
        return self._count

    def enter(self, connection: Connection, now: float) -> None:
        """Replace `connection` by its record; the record holds the address before the connection lets go."""
        if self._count >= self.limit:
            self._make_room(now)
        wait = duration(connection)
        record = TimeWaitRecord(connection, wait, now)
        tcp = self._tcp
        tcp.host.addresses.acquire(record.entry, record)
        tcp.demux.replace(record.key, record)
        if connection.emitter.transform is not None:
            self._transforms[record] = connection.emitter.transform
        self._sweep()
        self._count += 1
        self._queue(record, now + wait)
        self.quiet_at = max(self.quiet_at, now + _REPEATING_RTOS * max(connection.rtt.rto, SHORT_MINIMUM_RTO))

    def _queue(self, record: TimeWaitRecord, expires: float) -> None:
        if self._line and expires < self._last:
            self._put_aside(record, expires)
        else:
            self._line.append(record)
            self._last = expires
        if self._timer.when is None or expires < self._timer.when:
            self._timer.set(expires)

    def _put_aside(self, record: TimeWaitRecord, expires: float) -> None:
        self._aside.add(record)
        heapq.heappush(self._heap, (expires, next(self._order), record))

    def _alive(self, record: TimeWaitRecord) -> bool:
        return self._tcp.demux.get(record.key) is record

    def _sweep(self) -> None:
        """Let go of records that ended early, by a reset or a new connection, once they outnumber those that wait.

        Every record aside stands in the heap once; the line has the others, and some that were put aside from it.
        """
        line, heap, aside = self._line, self._heap, self._aside
        if len(line) > 2 * (self._count - len(aside)) + _ENDED_EARLY:
            waiting = [record for record in line if record not in aside and self._alive(record)]
            line.clear()
            line.extend(waiting)
        if len(heap) > 2 * len(aside) + _ENDED_EARLY:
            heap[:] = [item for item in heap if self._alive(item[2])]
            heapq.heapify(heap)

    def _run(self, now: float) -> None:
        line, heap = self._line, self._heap
        due = []
        while line:
            record = line[0]
            waits = record not in self._aside and self._alive(record)
            if waits and record.expires > now:
                due.append(record.expires)
                break
            line.popleft()
            if waits:
                self.end(record, now, "TIME-WAIT is over")
        while heap:
            expires, _, record = heap[0]
            alive = self._alive(record)
            if alive and expires > now:
                due.append(expires)
                break
            if alive and record.expires > now:  # it began again since
                heapq.heapreplace(heap, (record.expires, next(self._order), record))
                continue
            heapq.heappop(heap)
            if alive:
                self.end(record, now, "TIME-WAIT is over")
        if due:
            self._timer.set(min(due))

    def _make_room(self, now: float) -> None:
        """End the record at the head of the line, or else the earliest aside."""
        while self._line:
            record = self._line.popleft()
            if record not in self._aside and self._alive(record):
                self.end(record, now, "too many wait")
                return
        while self._heap:
            _, _, record = heapq.heappop(self._heap)
            if self._alive(record):
                self.end(record, now, "too many wait")
                return

    def end(self, record: TimeWaitRecord, now: float, cause: str) -> None:
        """Forget a record; with it goes its hold on the address.  Harmless when it is forgotten already."""
        if not self._alive(record):
            return
        self._count -= 1
        self._aside.discard(record)
        self._answered.pop(record, None)
        self._transforms.pop(record, None)
        tcp = self._tcp
        tcp.demux.remove(record.key)
        if tcp.events.active:
            facts = record.facts()
            tcp.events.emit(
                ConnectionChanged(
                    time=now,
                    connection=facts.connection,
                    old=TcpState.TIME_WAIT.value,
                    new=TcpState.CLOSED.value,
                    local=address_text(record.local),
                    local_port=facts.local_port,
                    remote=address_text(record.remote),
                    remote_port=facts.remote_port,
                    mode=record.mode.value,
                    cause=cause,
                )
            )
        tcp.host.addresses.drop(record.entry, record, now, cause)

    def end_all(self, now: float, cause: str) -> None:
        """Forget every record: the node stops."""
        for record in [*self._line, *(record for _, _, record in self._heap)]:
            self.end(record, now, cause)
        self._line.clear()
        self._heap.clear()

    def segment_arrives(self, record: TimeWaitRecord, segment: Segment, now: float) -> None:
        """RFC 9293 §3.10.7.4 in TIME-WAIT, with RFC 5961 for RST and SYN."""
        facts = record.facts()
        sequence = unwrap(segment.sequence, facts.rcv_nxt)
        if segment.flags & wire.RST:
            if sequence == facts.rcv_nxt:
                self.end(record, now, "reset")
            else:
                self._tcp.counters.drop(DropReason.TCP_SEQUENCE)
            return
        expected = (
            sequence + segment.length == facts.rcv_nxt
        )  # the FIN again, or nothing: else anybody could have sent it
        facts = _with_news(facts, segment, sequence, expected)
        record.change(facts)
        if segment.flags & wire.SYN:
            self._acknowledge(record, facts, now)
        elif sequence != facts.rcv_nxt or segment.length:  # the window is closed: nothing else is acceptable
            if segment.flags & wire.FIN and expected:
                self._restart(record, facts, now)
            self._acknowledge(record, facts, now)
        else:
            self._tcp.counters.drop(DropReason.TCP_AFTER_CLOSE)

    def _restart(self, record: TimeWaitRecord, facts: _Facts, now: float) -> None:
        """The wait begins again; one that is aside already is found to be later when its first time has come."""
        expires = now + facts.wait
        record.change(facts._replace(expires=expires))
        if record not in self._aside:
            self._put_aside(record, expires)

    def _acknowledge(self, record: TimeWaitRecord, facts: _Facts, now: float) -> None:
        answered = self._answered.get(record)
        if answered is not None and now - answered < _ANSWER_INTERVAL:
            self._tcp.counters.drop(DropReason.TCP_CHALLENGE_LIMIT)
            return
        self._answered[record] = now
        tcp = self._tcp
        try:
            path = tcp.host.path(record.remote, now)
        except NoRouteError:
            tcp.counters.drop(DropReason.IP_NO_ROUTE)
            return
        emitter = Emitter(tcp.host, path, tcp.transmit, record.local, record.remote, 0, facts.hop_limit or None)
        emitter.first_word = facts.first_word
        emitter.transform = self._transforms.get(record)
        timestamp = None
        if facts.flags & _TIMESTAMPS:
            timestamp = timestamp_value(now, facts.timestamp_offset), facts.ts_recent
        emitter.emit(
            facts.local_port,
            facts.remote_port,
            facts.snd_nxt,
            facts.rcv_nxt,
            wire.ACK,
            0,
            timestamp,
            [],
            0,
            wire.DEFAULT_MSS,
            now,
        )
