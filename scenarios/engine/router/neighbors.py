"""The neighbour cache of a simulated router, as a Linux router's looks from outside (RFC 4861 §7, Linux net/core/neighbour.c).

    (no entry) ── packet to send ──▶ INCOMPLETE ── NA ──▶ REACHABLE ── time ──▶ STALE ── packet ──▶ DELAY ── time ──▶ PROBE
        │                               │ three NS unanswered                    ▲                                   │
        │ NS or RS with a source        ▼                                        │ NS, RS, NA say something new      │
        │ link-layer address         FAILED ◀──── three NS unanswered ───────────┼───────────────────────────────────┘
        └────────────────────────────────────────────────────────────────────────┘

A forwarding router gets no confirmation from upper layers, so an address in use costs a probe every reachable time and delay.

Bounds (all interfaces together, as Linux has one table): below `gc_thresh1` nothing is ever collected; above it, entries
unused for `gc_stale_time` are, now and then.  A new entry beyond `gc_thresh2` forces a collection of what was not updated
for 5 s, every 5 s at most; beyond `gc_thresh3`, at once.  If `gc_thresh3` stand after that, the new one is refused: *table
overflow*, and the packet is lost without an error.  Entries with a running timer are never collected, which leaves
FAILED and STALE.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from random import Random
from typing import Protocol

from tapstack.timers import Timer, TimerQueue

from .config import NeighborLimits
from .counters import RouterCounters, RouterDrop

_FORCED_GC_AGE = 5.0


class NudState(StrEnum):
    """States of a neighbour; FAILED is Linux's, the others are those of RFC 4861 §7.3.2."""

    INCOMPLETE = "incomplete"
    REACHABLE = "reachable"
    STALE = "stale"
    DELAY = "delay"
    PROBE = "probe"
    FAILED = "failed"


class Neighbor:
    """One cache entry."""

    __slots__ = ("address", "mac", "port", "probes", "queue", "state", "timer", "updated", "used")

    def __init__(self, port: int, address: bytes, now: float) -> None:
        self.port = port
        self.address = address
        self.mac: bytes | None = None
        self.state = NudState.FAILED  # of nothing tried yet: whoever makes an entry says what it is
        self.queue: deque[tuple[int | None, bytes]] = deque()
        self.probes = 0
        self.updated = now
        self.used = now
        self.timer: Timer


class Outlet(Protocol):
    """What the cache asks of the router."""

    def transmit(self, port: int, mac: bytes, packet: bytes) -> None:
        """Send a packet to a link-layer address."""

    def solicit(self, neighbor: Neighbor, now: float) -> None:
        """Send an NS: to the neighbour itself in PROBE, to its solicited-node group else."""

    def unreachable(self, port: int, packet: bytes, now: float) -> None:
        """A packet that came in by `port` could not be delivered to a neighbour."""


class NeighborTable:
    """All neighbours of a router."""

    def __init__(
        self, outlet: Outlet, timers: TimerQueue, random: Random, limits: NeighborLimits, counters: RouterCounters
    ) -> None:
        self._outlet = outlet
        self._timers = timers
        self._limits = limits
        self._counters = counters
        self._entries: dict[tuple[int, bytes], Neighbor] = {}
        self._reachable_time = limits.base_reachable_time * random.uniform(0.5, 1.5)
        self._gc = timers.timer(self._collect)
        self._flushed_at = -math.inf
        self.created = 0
        """Entries made since the start."""
        self.peak = 0
        """Most entries at any time."""
        self.overflows = 0
        """Entries refused because the table was full."""

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Neighbor]:
        return iter(list(self._entries.values()))

    def get(self, port: int, address: bytes) -> Neighbor | None:
        """The entry of an address on an interface."""
        return self._entries.get((port, address))

    # -- output --------------------------------------------------------------------------------

    def send(self, port: int, next_hop: bytes, packet: bytes, now: float, *, came_in_by: int | None = None) -> None:
        """Deliver a packet to a neighbour, now or when it is resolved.

        came_in_by: for a forwarded packet, whose sender is to hear of a failure; None for one of the router's own.
        """
        entry = self._entries.get((port, next_hop))
        if entry is None:
            created = self._create(port, next_hop, now)
            if created is None:
                self._counters.drops[RouterDrop.NEIGHBOR_TABLE] += 1
                return
            entry = created
        entry.used = now
        if entry.state is NudState.FAILED:
            entry.state = NudState.INCOMPLETE
            self._probe_first(entry, now)
        if entry.state is NudState.INCOMPLETE:
            if len(entry.queue) >= self._limits.unres_qlen:
                entry.queue.popleft()
                self._counters.drops[RouterDrop.NEIGHBOR_QUEUE] += 1
            entry.queue.append((came_in_by, packet))
            return
        if entry.state is NudState.STALE:
            entry.state = NudState.DELAY
            entry.timer.set(now + self._limits.delay_first_probe_time)
        assert entry.mac is not None
        self._outlet.transmit(port, entry.mac, packet)

    def _probe_first(self, entry: Neighbor, now: float) -> None:
        entry.probes = 1
        entry.updated = now
        entry.timer.set(now + self._limits.retrans_time)
        self._outlet.solicit(entry, now)

    def _on_timer(self, entry: Neighbor, now: float) -> None:
        if entry.state is NudState.REACHABLE:
            delay = self._limits.delay_first_probe_time
            entry.state = NudState.DELAY if now <= entry.used + delay else NudState.STALE
            entry.updated = now
            if entry.state is NudState.DELAY:
                entry.timer.set(now + delay)
        elif entry.state is NudState.DELAY:
            entry.state = NudState.PROBE
            self._probe_first(entry, now)
        elif entry.state in (NudState.INCOMPLETE, NudState.PROBE):
            most = self._limits.ucast_solicit if entry.state is NudState.PROBE else self._limits.mcast_solicit
            if entry.probes < most:
                entry.probes += 1
                entry.timer.set(now + self._limits.retrans_time)
                self._outlet.solicit(entry, now)
            else:
                self._fail(entry, now)

    def _fail(self, entry: Neighbor, now: float) -> None:
        entry.state = NudState.FAILED
        entry.mac = None
        entry.updated = now
        waiting, entry.queue = entry.queue, deque()
        for came_in_by, packet in waiting:
            self._counters.drops[RouterDrop.UNREACHABLE] += 1
            if came_in_by is not None:
                self._outlet.unreachable(came_in_by, packet, now)

    # -- input ---------------------------------------------------------------------------------

    def heard(self, port: int, address: bytes, mac: bytes, now: float) -> None:
        """A solicitation gave its sender's link-layer address: STALE if that is news (RFC 4861 §7.2.3, §6.2.6)."""
        entry = self._entries.get((port, address)) or self._create(port, address, now)
        if entry is not None and (entry.mac != mac or entry.state in (NudState.INCOMPLETE, NudState.FAILED)):
            self._learn(entry, mac, NudState.STALE, now)

    def advertised(
        self, port: int, address: bytes, mac: bytes | None, now: float, *, solicited: bool, override: bool
    ) -> None:
        """An NA for a neighbour that has an entry (RFC 4861 §7.2.5); Linux ignores it for one in FAILED."""
        entry = self._entries.get((port, address))
        if entry is None or entry.state is NudState.FAILED:
            return
        if entry.state is NudState.INCOMPLETE:
            if mac is not None:
                self._learn(entry, mac, NudState.REACHABLE if solicited else NudState.STALE, now)
            return
        different = mac is not None and mac != entry.mac
        if different and not override:
            if entry.state is NudState.REACHABLE:
                self._learn(entry, entry.mac, NudState.STALE, now)
        elif solicited:
            self._learn(entry, mac or entry.mac, NudState.REACHABLE, now)
        elif different:
            self._learn(entry, mac, NudState.STALE, now)

    def untracked(self, port: int, address: bytes, mac: bytes, now: float) -> None:
        """An NA for a neighbour without an entry makes one (RFC 9131 §6.1.1)."""
        entry = self._create(port, address, now)
        if entry is not None:
            self._learn(entry, mac, NudState.STALE, now)

    def _learn(self, entry: Neighbor, mac: bytes | None, state: NudState, now: float) -> None:
        assert mac is not None
        entry.mac = mac
        entry.state = state
        entry.updated = now
        if state is NudState.REACHABLE:
            entry.timer.set(now + self._reachable_time)
        else:
            entry.timer.cancel()
        waiting, entry.queue = entry.queue, deque()
        for came_in_by, packet in waiting:
            self.send(entry.port, entry.address, packet, now, came_in_by=came_in_by)

    # -- bounds --------------------------------------------------------------------------------

    def _create(self, port: int, address: bytes, now: float) -> Neighbor | None:
        limits = self._limits
        count = len(self._entries)
        if count >= limits.gc_thresh3 or (count >= limits.gc_thresh2 and now > self._flushed_at + _FORCED_GC_AGE):
            self._collect_by_force(now)
            if len(self._entries) >= limits.gc_thresh3:
                self.overflows += 1
                return None
        entry = self._entries[port, address] = Neighbor(port, address, now)
        entry.timer = self._timers.timer(lambda when: self._on_timer(entry, when))
        self.created += 1
        self.peak = max(self.peak, len(self._entries))
        if len(self._entries) >= limits.gc_thresh1 and not self._gc.armed:
            self._gc.set(now + limits.gc_interval)
        return entry

    def _collect_by_force(self, now: float) -> None:
        self._flushed_at = now
        surplus = len(self._entries) - self._limits.gc_thresh2
        for entry in self:
            if surplus <= 0:
                break
            if entry.state is NudState.FAILED or (not entry.timer.armed and entry.updated < now - _FORCED_GC_AGE):
                self._remove(entry)
                surplus -= 1

    def _collect(self, now: float) -> None:
        if len(self._entries) < self._limits.gc_thresh1:
            return
        for entry in self:
            unused = max(entry.used, entry.updated) < now - self._limits.gc_stale_time
            if entry.state is NudState.FAILED or (entry.state is NudState.STALE and unused):
                self._remove(entry)
        self._gc.set(now + self._limits.gc_interval)

    def _remove(self, entry: Neighbor) -> None:
        del self._entries[entry.port, entry.address]
