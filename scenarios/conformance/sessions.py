"""The sessions between two addresses whose ports change: told apart by their sequence numbers.

At L0 and behind a NAPT the ports of a session change, and tshark, which follows ports, sees pieces of it.  What stays are its
numbers: each side counts on from where it began, 32 bits drawn at random, so a segment belongs to the session in which both
what it brings and what it acknowledges are nearest to what was said last.  One that is near to none belongs to none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

from .causes import beyond_windows
from .segments import ACK, SYN, Segment, after

NEAR = 1 << 26
"""Sequence numbers within which a segment may belong to a session: more than a capture holds of one (`left out`)."""


@dataclass
class Session:
    """The segments of one session, whatever their ports; the sender of each is its address and an empty port."""

    opened_by: tuple[str, int]
    """the address that sent the SYN, and its number"""
    ports: frozenset[str]
    """of the SYN"""
    talk: list[Segment] = field(default_factory=list)
    edges: dict[str, int] = field(default_factory=dict)
    """the number after the furthest segment of each side"""
    shifts: dict[str, int | None] = field(default_factory=dict)
    """the scale that the SYN of each side offers"""

    @cached_property
    def beyond(self) -> list[int]:
        """For each segment how many of its bytes lie beyond the windows; to be asked when all are there."""
        return beyond_windows(self.talk)

    def add(self, segment: Segment) -> int:
        """Take a segment, and return its place in `talk`.

        Its window is scaled here (RFC 7323 §2.2): tshark knows the scale only on the ports of the SYN.
        """
        if segment.flags & SYN:
            self.shifts[segment.sender] = segment.shift
            segment = replace(segment, window=segment.field)
        elif len(self.shifts) == 2:
            shift = 0 if None in self.shifts.values() else self.shifts[segment.sender]
            segment = replace(segment, window=segment.field << (shift or 0))
        edge = self.edges.get(segment.sender)
        if edge is None or after(segment.end, edge) > 0:
            self.edges[segment.sender] = segment.end
        self.talk.append(segment)
        return len(self.talk) - 1

    def distance(self, segment: Segment) -> int | None:
        """How far a segment's numbers are from what was said last; None where they are not near, or tell nothing."""
        sides = self._of(segment)
        if not sides or max(sides) > NEAR:
            return None
        return sum(sides)

    def _of(self, segment: Segment) -> list[int]:
        own = self.edges.get(segment.sender)
        other = next((edge for who, edge in self.edges.items() if who != segment.sender), None)
        found = [] if own is None else [abs(after(segment.seq, own))]
        if segment.flags & ACK and other is not None:
            found.append(abs(after(segment.ack, other)))
        return found

    def meets(self, segment: Segment, ports: frozenset[str]) -> bool:
        """Whether a SYN is the other side's of a simultaneous open: nobody has answered the first one, on the same ports."""
        return ports == self.ports and segment.sender not in self.edges


class Sessions:
    """The sessions of one pair of addresses, as a capture shows them."""

    def __init__(self, segments: Iterable[tuple[int, frozenset[str], Segment]]) -> None:
        """`segments`: the number of each frame, its ports, and what it holds, in the order of the capture."""
        self._sessions: list[Session] = []
        self._places: dict[int, tuple[Session, int]] = {}
        self.strays: list[Segment] = []
        """what belongs to none"""
        for number, ports, segment in segments:
            joined = replace(segment, sender=f"{segment.sender.rpartition('/')[0]}/")
            session = self._session_of(joined, ports)
            if session is None:
                self.strays.append(joined)
            else:
                self._places[number] = session, session.add(joined)

    def place(self, number: int) -> tuple[Session, int] | None:
        """The session that a frame belongs to, and the frame's place in it; None for a stray."""
        return self._places.get(number)

    def _session_of(self, segment: Segment, ports: frozenset[str]) -> Session | None:
        if segment.flags & (SYN | ACK) == SYN:
            return self._opened_by(segment, ports)
        near = [(far, n) for n, s in enumerate(self._sessions) if (far := s.distance(segment)) is not None]
        return self._sessions[min(near)[1]] if near else None

    def _opened_by(self, segment: Segment, ports: frozenset[str]) -> Session:
        opener = segment.sender, segment.seq
        for session in reversed(self._sessions):
            if session.opened_by == opener or session.meets(segment, ports):
                return session
        self._sessions.append(Session(opener, ports))
        return self._sessions[-1]
