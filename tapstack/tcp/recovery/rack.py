"""RACK: loss by time instead of by counting (RFC 8985 §6).

Model.  Something that was sent *later* than a segment has been delivered; so the segment is lost, once a reordering window
`reo_wnd` has passed.  The segments stand in `sender.by_time` in order of transmission, so detection looks only at those it
marks, and at one more: the first that is not due yet says when to look again.

"Later" is decided by the number of the transmission, which is exact where times are equal (RFC 8985 breaks such ties by
sequence number, which fails when a repetition follows new data within one tick of the clock).

`reo_wnd` is zero while no reordering has been seen and three segments have been SACKed (RFC 6675's rule) or recovery is under
way; else a quarter of the minimum RTT, times one more for every round trip in which the peer reported a
needless retransmission, at most SRTT.
"""

from __future__ import annotations

from ..acknowledged import Acknowledged
from ..segments import ACKED, IN_NETWORK, SACKED
from ..sender import Sender
from .base import DUPLICATE_THRESHOLD
from .rto import RttEstimator

_PERSIST = 16
_DELIVERED = (ACKED, SACKED)


class Rack:
    """State of RACK (RFC 8985 §5.2), names as there; `latest` stands for RACK.xmit_ts and RACK.end_seq."""

    __slots__ = (
        "_dsack_round",
        "latest",
        "_persist",
        "_rtt_estimate",
        "multiplier",
        "reordering_seen",
        "rtt",
        "segs_sacked",
    )

    def __init__(self, rtt: RttEstimator) -> None:
        self._rtt_estimate = rtt
        self.latest = (0, 0)
        self.rtt = 0.0
        self.segs_sacked = 0
        self.reordering_seen = False
        self.multiplier = 1
        self._persist = 0
        self._dsack_round: int | None = None

    def update(self, news: Acknowledged, now: float) -> None:
        """Steps 2 and 3: the most recent delivery, and whether it shows reordering."""
        if news.reordered:
            self.reordering_seen = True
        newest = news.newest
        if newest is None:
            return
        rtt = now - newest.sent_at
        if newest.retransmitted:
            # A SACK echoes the last segment in order (RFC 7323 §4.3), so only a cumulative acknowledgement tells by its echo.
            if newest.mark == ACKED and news.echo is not None and news.echo < int(newest.sent_at * 1000):
                return
            if rtt < self._rtt_estimate.minimum_rtt:
                return
            if self.reordering_seen or self.multiplier > 1:
                # Where queues are long, the minimum says little: an original that arrives just after it was sent again would make
                # all other repetitions look overdue.
                if rtt < self.rtt / 4:
                    return
                rtt = max(rtt, self.rtt)
        self.rtt = rtt
        # Of a super-segment perhaps only the first packets have arrived: the rest is still in flight, and overtaken by nothing.
        latest = (newest.order, newest.end if newest.mark in _DELIVERED else news.acknowledged)
        if latest > self.latest:
            self.latest = latest

    def adapt(self, sender: Sender, duplicate: bool) -> None:
        """Step 4: a D-SACK widens the window, once per round trip."""
        if self._dsack_round is not None and sender.snd_una >= self._dsack_round:
            self._dsack_round = None
        if duplicate and self._dsack_round is None:
            self._dsack_round = sender.snd_nxt
            self.multiplier += 1
            self._persist = _PERSIST

    def recovery_ended(self) -> None:
        """After sixteen recoveries without D-SACK the window is its first size again."""
        self._persist -= 1
        if self._persist <= 0:
            self.multiplier = 1

    def reordering_window(self, recovering: bool) -> float:
        """`reo_wnd` in seconds."""
        if not self.reordering_seen and (recovering or self.segs_sacked >= DUPLICATE_THRESHOLD):
            return 0.0
        estimate = self._rtt_estimate
        if estimate.srtt is None:
            return 0.0
        return min(self.multiplier * estimate.minimum_rtt / 4, estimate.srtt)

    def detect(self, sender: Sender, now: float, recovering: bool) -> float | None:
        """Step 5: mark what is lost; returns when to look again, None when nothing waits for its time."""
        by_time = sender.by_time
        allowance = self.rtt + self.reordering_window(recovering)
        old = 0
        again: float | None = None
        for segment in by_time:
            if segment.mark == IN_NETWORK:
                if (segment.order, segment.end) >= self.latest:
                    break
                due = segment.sent_at + allowance
                if due > now:
                    again = due
                    break
                sender.mark_lost(segment)
            old += 1
        del by_time[:old]
        return again
