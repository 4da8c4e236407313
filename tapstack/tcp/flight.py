"""What was sent and is not acknowledged yet: the segments in flight, and what is believed of each.

Model.  A segment in flight has one of three marks: IN_NETWORK, SACKED (the peer reported it) or LOST (to be sent again).
`pipe` is the number of bytes with the mark IN_NETWORK.  Acknowledgements take segments away; loss recovery (`recovery/`) only
moves marks.

`lost` queues the segments with the mark LOST in order of sequence; `by_time` all segments in order of their last transmission,
which is what RACK asks for.  Both may hold entries whose mark has moved on; readers skip them.

All queues are lists: an empty deque holds 700 bytes, which an idle connection would have four times.  Whatever leaves them at
the front leaves in one cut per acknowledgement or transmission.

Invariants, checked by `check`: the in-flight segments are contiguous from `snd_una` to `snd_nxt`; `pipe` is the sum
over those IN_NETWORK; every LOST segment is in `lost`.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

from .segments import ACKED, IN_NETWORK, LOST, SACKED, SentSegment, split_pieces
from .writequeue import WriteQueue

if TYPE_CHECKING:
    from .acknowledged import Acknowledged
    from .recovery.base import Recovery


class Flight(WriteQueue):
    """The segments in flight; `Sender` derives from it for the reasons told in `writequeue`.

    news: what the acknowledgement that is being taken in says.
    """

    __slots__ = ("by_time", "in_flight", "lost", "news", "pipe", "recovery", "snd_nxt", "snd_una")

    def __init__(self, iss: int) -> None:
        super().__init__()
        self.snd_una = iss
        self.snd_nxt = iss
        self.in_flight: list[SentSegment] = []
        self.lost: list[SentSegment] = []
        self.by_time: list[SentSegment] = []
        self.pipe = 0
        self.news: Acknowledged
        self.recovery: Recovery

    # -- acknowledgements ------------------------------------------------------------------------

    def acknowledge(self, ack: int, now: float) -> None:
        """Remove everything before `ack` and tell `news` of it."""
        news = self.news
        news.acked = ack - self.snd_una
        in_flight = self.in_flight
        done = 0
        for segment in in_flight:
            if segment.end > ack:
                if segment.start < ack:
                    self._trim(segment, ack)
                break
            done += 1
            mark = segment.mark
            segment.mark = ACKED
            if mark != SACKED:
                if mark == IN_NETWORK:
                    self.pipe -= segment.end - segment.start
                news.take(segment, segment.end)
                if segment.retransmitted:
                    news.repeated(segment)
                else:
                    news.clean = segment
        del in_flight[:done]
        self.snd_una = ack
        by_time = self.by_time
        old = 0
        for segment in by_time:
            if segment.mark == IN_NETWORK:
                break
            old += 1
        del by_time[:old]
        if not in_flight:
            self.lost.clear()

    def _trim(self, segment: SentSegment, ack: int) -> None:
        """Drop the acknowledged front of a segment."""
        gone = ack - segment.start
        if gone >= segment.payload_length:
            segment.pieces = []
        else:
            segment.pieces = split_pieces(segment.pieces, gone)[1]
        if segment.mark != SACKED:
            if segment.mark == IN_NETWORK:
                self.pipe -= gone
            self.news.take(segment, ack)
            if segment.retransmitted:
                self.news.repeated(segment)
        segment.start = ack

    # -- marks -----------------------------------------------------------------------------------

    def mark_lost(self, segment: SentSegment) -> None:
        """One segment in the network is lost; the caller keeps `lost` in order of sequence."""
        if segment.mark == IN_NETWORK:
            segment.mark = LOST
            self.pipe -= segment.end - segment.start
            self.recovery.losses += 1
            lost = self.lost
            if lost and lost[-1].start > segment.start:
                at = len(lost)
                while at and lost[at - 1].start > segment.start:
                    at -= 1
                lost.insert(at, segment)
            else:
                lost.append(segment)

    def mark_all_lost(self, until: float = math.inf) -> None:
        """Everything that is not SACKED and was last sent by a transmission of a number up to `until` is lost."""
        for segment in self.in_flight:
            if segment.mark == IN_NETWORK and segment.order <= until:
                segment.mark = LOST
                self.pipe -= segment.end - segment.start
        self.relist()

    def unmark_lost(self) -> None:
        """Nothing was lost after all."""
        for segment in self.in_flight:
            if segment.mark == LOST:
                segment.mark = IN_NETWORK
                self.pipe += segment.end - segment.start
        self.relist()

    def relist(self) -> None:
        """Make `lost` and `by_time` anew from the marks."""
        self.lost = [segment for segment in self.in_flight if segment.mark == LOST]
        self.by_time = sorted((s for s in self.in_flight if s.mark == IN_NETWORK), key=lambda s: (s.order, s.end))

    def mark_sacked(self, start: int, end: int) -> None:
        """The peer holds `start` to `end`, which no SACK block covered before."""
        index = self.find(start)
        in_flight = self.in_flight
        if in_flight[index].start < start:
            if not self._may_split():
                index += 1
            else:
                self.split(in_flight[index], start - in_flight[index].start)
                index += 1
        while index < len(in_flight):
            segment = in_flight[index]
            if segment.end > end:
                if segment.start >= end or not self._may_split():
                    return
                self.split(segment, end - segment.start)
            if segment.mark != SACKED:
                if segment.mark == IN_NETWORK:
                    self.pipe -= segment.end - segment.start
                segment.mark = SACKED
                self.news.take(segment, segment.end)
                self.news.sacked += 1
            index += 1

    def _may_split(self) -> bool:
        """Whether another cut is affordable: a peer that SACKs single bytes must not cost memory without bound."""
        return len(self.in_flight) <= 64 + 4 * ((self.snd_nxt - self.snd_una) // self.mss)

    def forget_sacks(self) -> None:
        """The peer took back what it had reported (RFC 2018 §8): all of it is lost."""
        for segment in self.in_flight:
            if segment.mark == SACKED:
                segment.mark = LOST
        self.relist()

    # -- pieces ----------------------------------------------------------------------------------

    def split(self, segment: SentSegment, size: int) -> SentSegment:
        """Cut an in-flight segment after `size` bytes; it keeps the first part, the rest is returned."""
        head, tail = split_pieces(segment.pieces, size)
        rest = SentSegment(segment.start + size, segment.end, tail, segment.fin)
        rest.copy_history(segment)
        segment.end, segment.pieces, segment.fin = rest.start, head, False
        self.in_flight.insert(self.find(segment.start) + 1, rest)
        if segment.mark == LOST:
            self.lost.insert(self.lost.index(segment) + 1, rest)
        elif segment.mark == IN_NETWORK:
            self.by_time.insert(self.by_time.index(segment) + 1, rest)
        return rest

    def find(self, sequence: int) -> int:
        """The index of the in-flight segment that holds `sequence`."""
        return bisect_right(self.in_flight, sequence, key=_start) - 1

    def check(self) -> None:
        """Raise AssertionError where an invariant does not hold."""
        position = self.snd_una
        pipe = 0
        lost = set(map(id, self.lost))
        for segment in self.in_flight:
            assert segment.start == position, (segment, position)
            assert sum(map(len, segment.pieces)) == segment.payload_length, segment
            assert segment.mark in (IN_NETWORK, SACKED, LOST), segment
            assert segment.mark != LOST or id(segment) in lost, segment
            position = segment.end
            pipe += segment.end - segment.start if segment.mark == IN_NETWORK else 0
        assert position == self.snd_nxt or not self.in_flight, (position, self.snd_nxt)
        assert pipe == self.pipe, (pipe, self.pipe)
        self.check_queue()


def _start(segment: SentSegment) -> int:
    return segment.start
