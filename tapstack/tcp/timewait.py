"""TIME-WAIT as a compact record: it keeps the address, answers what must be answered, and ends (UM-REL-2; RFC 9293 §3.6.1).

All records of a node wait in one heap under one timer.  A retransmitted FIN is acknowledged and restarts the wait.  In
Aware mode on an ordinary address a SYN that is certainly newer than the old connection reopens it (RFC 6191); elsewhere, in
L0, in L1, in L2 and on one-time addresses, nothing does.
"""

from __future__ import annotations

import heapq
from itertools import count
from typing import TYPE_CHECKING

from ..events import ConnectionChanged, DropReason
from ..types import address_text
from ..wire import tcp as wire
from .options import PortMode, TimeWait
from .sequence import MASK, unwrap
from .states import TcpState

if TYPE_CHECKING:
    from .connection import Connection
    from .layer import Tcp
    from .segment import Segment

SHORT_RTOS = 4
SHORT_MINIMUM_RTO = 0.25
_ANSWER_INTERVAL = 0.5


def duration(connection: Connection) -> float:
    """How long TIME-WAIT lasts for this connection, in seconds (UM-REL-2)."""
    options = connection.options
    if options.time_wait is TimeWait.FULL:
        return 2 * options.msl
    if options.time_wait is TimeWait.SHORT:
        return SHORT_RTOS * max(connection.rtt.rto, SHORT_MINIMUM_RTO)
    return 0.0


class TimeWaitRecord:
    """What is left of a connection in TIME-WAIT; an `AddressUser` until it ends."""

    __slots__ = (
        "answered_at", "connection", "emitter", "entry", "expires", "key", "local", "local_port",
        "mode", "rcv_nxt", "remote", "remote_port", "snd_nxt", "timestamp_offset", "ts_recent", "wait",
    )  # fmt: skip

    def __init__(self, connection: Connection, wait: float, now: float) -> None:
        self.connection = connection.id
        self.emitter = connection.emitter
        self.entry = connection.entry
        self.key = connection.key
        self.local = connection.local
        self.remote = connection.remote
        self.local_port = connection.local_port
        self.remote_port = connection.remote_port
        self.mode = connection.mode
        self.rcv_nxt = connection.receiver.rcv_nxt & MASK
        self.snd_nxt = connection.sender.snd_nxt & MASK
        self.ts_recent = connection.receiver.ts_recent if connection.timestamps else None
        self.timestamp_offset = connection.timestamp_offset
        self.wait = wait
        self.expires = now + wait
        self.answered_at = -1.0

    def __repr__(self) -> str:
        return (
            f"connection {self.connection} [{address_text(self.local)}]:{self.local_port} ↔ "
            f"[{address_text(self.remote)}]:{self.remote_port} {self.mode} TIME-WAIT"
        )

    def serves(self, remote: bytes) -> bool:
        """Whether `remote` is the peer."""
        return remote == self.remote

    @property
    def heard(self) -> bool:
        """A connection has been."""
        return True


def _may_reopen(record: TimeWaitRecord, segment: Segment) -> bool:
    """RFC 6191 §2: a SYN whose timestamp, or else whose sequence number, is beyond the old connection's."""
    if record.mode is not PortMode.AWARE or record.entry.kind.one_time or not segment.is_syn:
        return False
    stamp = segment.options.timestamp
    newer = unwrap(segment.sequence, record.rcv_nxt) > record.rcv_nxt
    if stamp is None or record.ts_recent is None:
        return newer
    value = unwrap(stamp[0], record.ts_recent)
    return value > record.ts_recent or (value == record.ts_recent and newer)


class TimeWaitTable:
    """The records of a node and their one timer."""

    def __init__(self, tcp: Tcp) -> None:
        self._tcp = tcp
        self._heap: list[tuple[float, int, TimeWaitRecord]] = []
        self._order = count()
        self._timer = tcp.timers.timer(self._run)
        self._alive: set[TimeWaitRecord] = set()

    def __len__(self) -> int:
        return len(self._alive)

    def enter(self, connection: Connection, now: float) -> None:
        """Replace `connection` by its record; the record holds the address before the connection lets go."""
        record = TimeWaitRecord(connection, duration(connection), now)
        tcp = self._tcp
        tcp.host.addresses.acquire(record.entry, record)
        tcp.demux.replace(record.key, record)
        self._alive.add(record)
        self._push(record)

    def _push(self, record: TimeWaitRecord) -> None:
        heapq.heappush(self._heap, (record.expires, next(self._order), record))
        first = self._heap[0][0]
        if self._timer.when is None or first < self._timer.when:
            self._timer.set(first)

    def _run(self, now: float) -> None:
        heap = self._heap
        while heap and (heap[0][0] <= now or heap[0][2] not in self._alive):
            expires, _, record = heapq.heappop(heap)
            if record not in self._alive:
                continue
            if record.expires > expires:
                heapq.heappush(heap, (record.expires, next(self._order), record))
            else:
                self.end(record, now, "TIME-WAIT is over")
        if heap:
            self._timer.set(heap[0][0])

    def end(self, record: TimeWaitRecord, now: float, cause: str) -> None:
        """Forget a record; with it goes its hold on the address."""
        if record not in self._alive:
            return
        self._alive.discard(record)
        tcp = self._tcp
        tcp.demux.remove(record.key)
        if tcp.events.active:
            tcp.events.emit(
                ConnectionChanged(
                    time=now,
                    connection=record.connection,
                    old=TcpState.TIME_WAIT.value,
                    new=TcpState.CLOSED.value,
                    local=address_text(record.local),
                    local_port=record.local_port,
                    remote=address_text(record.remote),
                    remote_port=record.remote_port,
                    mode=record.mode.value,
                    cause=cause,
                )
            )
        tcp.host.addresses.drop(record.entry, record, now, cause)

    def end_all(self, now: float, cause: str) -> None:
        """Forget every record: the node stops."""
        for record in list(self._alive):
            self.end(record, now, cause)

    def segment_arrives(self, record: TimeWaitRecord, segment: Segment, now: float) -> bool:
        """RFC 9293 §3.10.7.4 in TIME-WAIT, with RFC 5961 for RST and SYN.

        True when the record has made way for a new connection, which the segment asks for.
        """
        if _may_reopen(record, segment):
            self.end(record, now, "reopened")
            return True
        self._answer(record, segment, now)
        return False

    def _answer(self, record: TimeWaitRecord, segment: Segment, now: float) -> None:
        sequence = unwrap(segment.sequence, record.rcv_nxt)
        stamp = segment.options.timestamp
        if segment.flags & wire.RST:
            if sequence == record.rcv_nxt:
                self.end(record, now, "reset")
            else:
                self._tcp.counters.drop(DropReason.TCP_SEQUENCE)
            return
        if stamp is not None and record.ts_recent is not None and unwrap(stamp[0], record.ts_recent) > record.ts_recent:
            record.ts_recent = stamp[0]
        if segment.flags & wire.SYN:
            self._acknowledge(record, now)
        elif sequence != record.rcv_nxt or segment.length:  # the window is closed: nothing else is acceptable
            if segment.flags & wire.FIN and sequence + segment.length == record.rcv_nxt:
                record.expires = now + record.wait
            self._acknowledge(record, now)
        else:
            self._tcp.counters.drop(DropReason.TCP_AFTER_CLOSE)

    def _acknowledge(self, record: TimeWaitRecord, now: float) -> None:
        if now - record.answered_at < _ANSWER_INTERVAL and record.answered_at >= 0:
            self._tcp.counters.drop(DropReason.TCP_CHALLENGE_LIMIT)
            return
        record.answered_at = now
        timestamp = None
        if record.ts_recent is not None:
            timestamp = ((int(now * 1000) + record.timestamp_offset) & MASK, record.ts_recent)
        record.emitter.emit(
            record.local_port,
            record.remote_port,
            record.snd_nxt,
            record.rcv_nxt,
            wire.ACK,
            0,
            timestamp,
            [],
            0,
            1220,
            now,
        )
