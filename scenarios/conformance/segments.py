"""Segments as a capture has them, and what they say to each other: numbers modulo 2³², acknowledgements, round trips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

URG, ACK, RST, SYN, FIN = 0x20, 0x10, 0x04, 0x02, 0x01
OVERTAKING = 0.01
"""Seconds that a segment may come behind those that overtook it: a virtual processor waits for a real one as long."""
_HALF, _ALL = 1 << 31, 1 << 32


@dataclass(slots=True)
class Segment:
    """One captured TCP segment."""

    time: float
    """seconds since the first frame"""
    sender: str
    """its address and port"""
    seq: int
    ack: int
    length: int
    flags: int
    sacks: tuple[tuple[int, int], ...] = ()
    lost: bool = False
    """the wire lost it behind the point of capture"""
    window: int | None = None
    """bytes that its sender takes beyond the acknowledgement; None where the scale is not known"""
    field: int = 0
    """the window as the header has it, before it is scaled"""
    shift: int | None = None
    """of the window scale option of a SYN; None without it"""
    clock: int | None = None
    """the value of its timestamp; None without the option"""
    echo: int | None = None
    """the peer's clock that its timestamp echoes; None without the option"""

    @property
    def end(self) -> int:
        """The sequence number after it."""
        return self.seq + self.length + bool(self.flags & SYN) + bool(self.flags & FIN)

    def acknowledges(self, of: int) -> bool:
        """Whether its cumulative acknowledgement includes everything before `of`."""
        return bool(self.flags & ACK) and after(self.ack, of) >= 0


def after(a: int, b: int) -> int:
    """How far `a` is after `b`, modulo 2³²."""
    return (a - b + _HALF) % _ALL - _HALF


def furthest(ends: Sequence[int]) -> int:
    """The furthest of some sequence numbers."""
    return max(ends, key=lambda end: after(end, ends[0]))


def round_trip(talk: Sequence[Segment]) -> float:
    """Seconds that an answer may take: the shortest times from bytes to their acknowledgement, both ways, as captured."""
    shortest: dict[str, float] = {}
    waiting: list[Segment] = []
    for segment in talk:
        for asked in [s for s in waiting if s.sender != segment.sender and segment.acknowledges(s.end)]:
            took = segment.time - asked.time
            shortest[asked.sender] = min(took, shortest.get(asked.sender, took))
            waiting.remove(asked)
        if segment.end != segment.seq and len(waiting) < 64:
            waiting.append(segment)
    return sum(shortest.values())


def unacknowledged(talk: Sequence[Segment]) -> list[Segment]:
    """The segments with bytes, SYN or FIN that nobody acknowledged to the end; all of them where only one side speaks."""
    if len({segment.sender for segment in talk}) == 1:
        return list(talk)
    last: dict[str, Segment] = {}
    for segment in talk:
        if segment.flags & ACK:
            last[segment.sender] = segment
    return [
        s
        for s in talk
        if s.end != s.seq and not any(who != s.sender and each.acknowledges(s.end) for who, each in last.items())
    ]


def opened(talk: Sequence[Segment]) -> int:
    """Where the last connection of a talk begins, as ports can be used again: with a SYN that is no repetition."""
    begun = 0
    numbers: dict[str, int] = {}
    for at, segment in enumerate(talk):
        if segment.flags & SYN and numbers.setdefault(segment.sender, segment.seq) != segment.seq:
            begun, numbers = at, {segment.sender: segment.seq}
    return begun
