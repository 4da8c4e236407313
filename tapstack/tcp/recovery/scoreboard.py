"""What the peer has reported by SACK (RFC 2018, RFC 6675 §3) and what it reports twice (D-SACK, RFC 2883).

Model.  The peer repeats the same blocks in acknowledgement after acknowledgement.  `starts` and `_ends` hold the ranges
that are known already, sorted and disjoint, so that only the new part of a block is looked up among the segments: the work
is in proportion to what is news, not to what is in flight.

A block that makes no sense (outside of what is in flight, empty) is ignored; at most `_MAXIMUM_RANGES` are remembered.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from ..sender import Sender
from ..sequence import unwrap

_MAXIMUM_RANGES = 4096


class Scoreboard:
    """The SACKed ranges of one connection; unwrapped sequence numbers.  starts: of the ranges; empty where nothing is SACKed."""

    __slots__ = ("_ends", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        self._ends: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.starts)

    def clear(self) -> None:
        """Forget everything: the peer reneged."""
        self.starts.clear()
        self._ends.clear()

    def advance(self, una: int) -> None:
        """Everything before `una` is acknowledged."""
        gone = bisect_right(self._ends, una)
        if gone:
            del self.starts[:gone], self._ends[:gone]
        if self.starts and self.starts[0] < una:
            self.starts[0] = una

    def read(self, blocks: list[tuple[int, int]], sender: Sender, previous_una: int) -> tuple[int, int] | None:
        """Mark what the blocks newly report; returns the D-SACK range, if the first block is one.

        `previous_una`: SND.UNA before this acknowledgement.
        """
        una = sender.snd_una
        unwrapped = [(unwrap(left, una), unwrap(right, una)) for left, right in blocks]
        duplicate = _duplicate(unwrapped, una)
        if duplicate is not None:
            unwrapped = unwrapped[1:]
            if duplicate[0] < previous_una - sender.maximum_window or duplicate[1] > sender.snd_nxt:
                duplicate = None
        for left, right in sorted(unwrapped):
            left = max(left, una)
            if left < right <= sender.snd_nxt and len(self.starts) < _MAXIMUM_RANGES:
                for start, end in self._add(left, right):
                    sender.mark_sacked(start, end)
        return duplicate

    def _add(self, left: int, right: int) -> list[tuple[int, int]]:
        """Enter a block; returns its parts that were not known."""
        starts, ends = self.starts, self._ends
        first = bisect_left(ends, left)  # the first range that touches or follows the block
        last = bisect_right(starts, right)  # behind the last that touches it
        if first < last and starts[first] <= left and right <= ends[first]:
            return []
        news = []
        position = left
        for start, end in zip(starts[first:last], ends[first:last], strict=True):
            if position < start:
                news.append((position, start))
            position = max(position, end)
        if position < right:
            news.append((position, right))
        if first < last:
            left, right = min(left, starts[first]), max(right, ends[last - 1])
        starts[first:last] = [left]
        ends[first:last] = [right]
        return news


def _duplicate(blocks: list[tuple[int, int]], una: int) -> tuple[int, int] | None:
    """The first block when it reports a duplicate: below the acknowledgement, or within the second (RFC 2883 §4)."""
    if not blocks:
        return None
    left, right = blocks[0]
    if left >= right:
        return None
    if right <= una or (len(blocks) > 1 and blocks[1][0] <= left and right <= blocks[1][1]):
        return blocks[0]
    return None
