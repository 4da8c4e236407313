"""The life of each one-time address, recomputed from the wire.

What a node does for an address of a shared link leaves traces that anyone on that link can capture:

    MLD report (join)   the solicited-node group is joined               UM-ADDR-7
    NS from ::          the DAD probe                                    TENTATIVE begins
    + RetransTimer × DupAddrDetectTransmits, and nobody objected         UNCERTAIN begins
    NA to all-routers   unsolicited, S=0 O=0: the promotion (UM-ADDR-8)  PREFERRED begins
    segments            first and last use
    MLD report (leave)  the group is left                                the address is gone

Solicited-node groups have 24 bits of the address, so two addresses may share one by chance: the node then joins once
and leaves with the last of them.  Such addresses end for us at that leave, and say so (`shares_group`).

On a dedicated prefix there is neither DAD nor MLD: an address lives from its first to its last packet, and a
connection that closed ends it (`close_dedicated`).

Frames are placed by their order in the capture, not by their time stamps, which can be equal; only the end of DAD,
which no frame marks, is a time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from .capture import Point
from .frames import (
    ALL_NODES,
    ALL_ROUTERS,
    IS_EXCLUDE,
    SYN,
    TO_EXCLUDE,
    TO_INCLUDE,
    UNSPECIFIED,
    Advertisement,
    Frame,
    Kind,
    ListenerReport,
    Quote,
    Solicitation,
    solicited_node,
)
from .setup import Membership, Setup, UnifiedNode


class Phase(StrEnum):
    """The state of an address as the wire shows it."""

    ABSENT = "ABSENT"
    TENTATIVE = "TENTATIVE"
    UNCERTAIN = "UNCERTAIN"
    PREFERRED = "PREFERRED"
    DUPLICATED = "DUPLICATED"
    GONE = "GONE"


class Interval(NamedTuple):
    """One state from `begin` to `end`, Unix seconds."""

    phase: Phase
    begin: float
    end: float


@dataclass(slots=True, eq=False)
class Lifetime:
    """One address of a unified node, with every frame that concerns it on the node's own link."""

    address: bytes
    node: UnifiedNode
    wait: float
    """seconds from the last DAD probe to the end of DAD"""
    transmits: int
    join: Frame | None = None
    probes: list[Frame] = field(default_factory=list)
    conflict: Frame | None = None
    promotions: list[Frame] = field(default_factory=list)
    emissions: list[Frame] = field(default_factory=list)
    """what the node sent on behalf of the address: from it, about it (NA), or an error that quotes a packet to it"""
    arrivals: list[Frame] = field(default_factory=list)
    """what others sent to the address or asked about it"""
    leave: Frame | None = None
    shares_group: tuple[bytes, ...] = ()
    closed_at: float | None = None
    """end of life on a dedicated prefix"""
    begin_use: Frame | None = None

    @property
    def born(self) -> Frame | None:
        """The first frame of the address: its first probe, or what came without one."""
        first = [frames[0] for frames in (self.probes, self.promotions, self.emissions) if frames]
        return min(first, key=lambda frame: frame.order) if first else None

    @property
    def dad_end(self) -> float | None:
        """When DAD was over, counted from the wire (RFC 4862 §5.4); None without a probe."""
        if not self.probes:
            return None
        return self.probes[: self.transmits][-1].time + self.wait

    @property
    def taken(self) -> Frame | None:
        """The frame with which PREFERRED began: the promotion NA, or the first use without one."""
        return self.promotions[0] if self.promotions else self.begin_use

    @property
    def traffic(self) -> list[Frame]:
        """The emissions that are TCP or UDP from the address."""
        return [f for f in self.emissions if f.kind in (Kind.TCP, Kind.UDP) and f.src == self.address]

    def phase(self, frame: Frame) -> Phase:
        """The state in which a frame of the same capture point found the address."""
        if self.leave is not None and frame.order >= self.leave.order:
            return Phase.GONE
        if self.closed_at is not None and frame.time > self.closed_at:
            return Phase.GONE
        if self.conflict is not None and frame.order >= self.conflict.order:
            return Phase.DUPLICATED
        if self.taken is not None and frame.order >= self.taken.order:
            return Phase.PREFERRED
        if not self.probes or frame.order < self.probes[0].order:
            return Phase.ABSENT
        dad_end = self.dad_end
        return Phase.TENTATIVE if dad_end is not None and frame.time < dad_end else Phase.UNCERTAIN

    def end(self, capture_end: float) -> float:
        """When the life was over, at the latest at the end of the capture."""
        if self.leave is not None:
            return self.leave.time
        return capture_end if self.closed_at is None else self.closed_at

    def intervals(self, capture_end: float) -> list[Interval]:
        """The states in order, for figures and tables; the last ends with the capture where no end was seen."""
        born = self.born
        if born is None:
            return []
        end = self.end(capture_end)
        dad_end = self.dad_end
        marks: list[tuple[Phase, float]] = []
        if dad_end is not None:
            marks = [(Phase.TENTATIVE, self.probes[0].time), (Phase.UNCERTAIN, dad_end)]
        if self.conflict is not None:
            marks = [mark for mark in marks if mark[1] < self.conflict.time] + [(Phase.DUPLICATED, self.conflict.time)]
        elif self.taken is not None:
            marks = [mark for mark in marks if mark[1] < self.taken.time] + [(Phase.PREFERRED, self.taken.time)]
        if not marks:  # it was only spoken of, in a frame that was damaged on its way for instance
            return []
        ends = [begin for _, begin in marks[1:]] + [end]
        return [
            Interval(phase, begin, min(until, end))
            for (phase, begin), until in zip(marks, ends, strict=True)
            if begin < end
        ]


def is_promotion(frame: Frame) -> bool:
    """Whether a frame is the NA of UM-ADDR-8 (RFC 9131 §6.1.2): unsolicited, O=0, to all-routers."""
    message = frame.message
    return (
        isinstance(message, Advertisement)
        and frame.dst == ALL_ROUTERS
        and not message.solicited
        and not message.override
    )


def is_defence(frame: Frame) -> bool:
    """Whether a frame is the NA that defends an address (RFC 4861 §7.2.4; UM-ADDR-5): S=0, O=1, to all-nodes."""
    message = frame.message
    return isinstance(message, Advertisement) and frame.dst == ALL_NODES and not message.solicited and message.override


def subject(frame: Frame) -> Iterator[bytes]:
    """The addresses on whose behalf a frame speaks: its source, the target of an NA, the destination an error quotes."""
    if frame.src != UNSPECIFIED:
        yield frame.src
    message = frame.message
    if isinstance(message, Advertisement) and message.target != frame.src:
        yield message.target
    elif isinstance(message, Quote) and message.dst != frame.src:
        yield message.dst


class Tracer:
    """Walks the capture of one node's link once and writes down the life of each of its addresses."""

    def __init__(self, node: UnifiedNode, setup: Setup) -> None:
        self.member = Membership(node)
        self.node = node
        self.lifetimes: dict[bytes, Lifetime] = {}
        self._wait = setup.retrans_timer
        self._transmits = max(1, setup.dad_transmits)
        self._joined: dict[bytes, Frame] = {}
        self._groups: dict[bytes, list[Lifetime]] = {}
        self._arrivals: dict[bytes, list[Frame]] = {}

    def trace(self, point: Point) -> dict[bytes, Lifetime]:
        """Every lifetime on the point, by address."""
        for frame in point.frames:
            if self.member.sent(frame):
                self._sent(frame)
            else:
                self._received(frame)
        for address, life in self.lifetimes.items():
            life.arrivals = self._arrivals.get(address, [])
        self._arrivals.clear()
        return self.lifetimes

    def _life(self, address: bytes) -> Lifetime:
        life = self.lifetimes.get(address)
        if life is None:
            life = self.lifetimes[address] = Lifetime(address, self.node, self._wait, self._transmits)
            group = solicited_node(address)
            life.join = self._joined.get(group)
            self._groups.setdefault(group, []).append(life)
        return life

    def _sent(self, frame: Frame) -> None:
        message = frame.message
        if isinstance(message, Solicitation) and frame.src == UNSPECIFIED:
            if self.member.in_prefix(message.target):
                self._life(message.target).probes.append(frame)
            return
        if isinstance(message, ListenerReport):
            self._listener(frame, message)
        for address in subject(frame):
            if not self.member.in_prefix(address):
                continue
            life = self._life(address)
            if is_promotion(frame) and isinstance(message, Advertisement) and message.target == address:
                life.promotions.append(frame)
            life.emissions.append(frame)
            if life.begin_use is None and frame.src == address and _is_use(frame):
                life.begin_use = frame

    def _listener(self, frame: Frame, report: ListenerReport) -> None:
        for record in report.records:
            if record.type in (IS_EXCLUDE, TO_EXCLUDE):
                self._joined.setdefault(record.group, frame)
            elif record.type == TO_INCLUDE and record.sources == 0:
                self._joined.pop(record.group, None)
                alive = [life for life in self._groups.get(record.group, []) if life.leave is None]
                for life in alive:
                    life.leave = frame
                    if len(alive) > 1:
                        life.shares_group = tuple(other.address for other in alive if other is not life)

    def _received(self, frame: Frame) -> None:
        message = frame.message
        if isinstance(message, (Solicitation, Advertisement)):
            target = message.target
            if not self.member.in_prefix(target):
                return
            if isinstance(message, Solicitation):
                self._arrivals.setdefault(target, []).append(frame)
            life = self.lifetimes.get(target)
            if life is not None and life.conflict is None and life.phase(frame) is Phase.TENTATIVE:
                asks = isinstance(message, Solicitation) and frame.src != UNSPECIFIED
                if not asks:
                    life.conflict = frame
        elif frame.dst[0] != 0xFF and frame.dst != UNSPECIFIED and self.member.in_prefix(frame.dst):
            self._arrivals.setdefault(frame.dst, []).append(frame)


def _is_use(frame: Frame) -> bool:
    if frame.kind is Kind.UDP:
        return True
    return (frame.kind is Kind.TCP and bool(frame.flags & SYN)) or (frame.kind is Kind.TCP and frame.payload > 0)


def close_dedicated(life: Lifetime, closed_at: float, time_wait: float) -> None:
    """End the life of an address on a dedicated prefix: its connection closed at `closed_at` (Unix seconds)."""
    if life.node.dedicated:
        life.closed_at = closed_at + time_wait
