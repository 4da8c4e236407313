"""RACK: loss by time instead of by counting (RFC 8985 §6).

Model.  Something that was sent *later* than a segment has been delivered; so the segment is lost, once a reordering window
`reo_wnd` has passed.  The segments stand in `sender.by_time` in order of transmission, so detection looks only at those it
marks, and at one more: the first that is not due yet says when to look again.

`reo_wnd` is zero while no reordering has been seen and three segments have been SACKed (RFC 6675's rule) or recovery is under
way; else a quarter of the minimum RTT, times one more for every round trip in which the peer reported a
needless retransmission, at most SRTT.
"""

from __future__ import annotations

from ..acknowledged import Acknowledged
from ..segments import IN_NETWORK
from ..sender import Sender
from .rto import RttEstimator

DUPLICATE_THRESHOLD = 3
_PERSIST = 16


class Rack:
    """State of RACK (RFC 8985 §5.2), names as there."""

    __slots__ = (
        "_dsack_round",
        "_persist",
        "_rtt_estimate",
        "_sender",
        "end_seq",
        "multiplier",
        "reordering_seen",
        "rtt",
        "segs_sacked",
        "xmit_ts",
    )

    def __init__(self, sender: Sender, rtt: RttEstimator) -> None:
        self._sender = sender
        self._rtt_estimate = rtt
        self.xmit_ts = -1.0
        self.end_seq = 0
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
            if news.echo is not None and news.echo < int(newest.sent_at * 1000):
                return
            if rtt < self._rtt_estimate.minimum_rtt:
                return
        self.rtt = rtt
        if (newest.sent_at, newest.end) > (self.xmit_ts, self.end_seq):
            self.xmit_ts = newest.sent_at
            self.end_seq = newest.end

    def adapt(self, duplicate: bool) -> None:
        """Step 4: a D-SACK widens the window, once per round trip."""
        if self._dsack_round is not None and self._sender.snd_una >= self._dsack_round:
            self._dsack_round = None
        if duplicate and self._dsack_round is None:
            self._dsack_round = self._sender.snd_nxt
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

    def detect(self, now: float, recovering: bool) -> float | None:
        """Step 5: mark what is lost; returns when to look again, None when nothing waits for its time."""
        if self.xmit_ts < 0:
            return None
        sender = self._sender
        by_time = sender.by_time
        allowance = self.rtt + self.reordering_window(recovering)
        while by_time:
            segment = by_time[0]
            if segment.mark == IN_NETWORK:
                if (segment.sent_at, segment.end) >= (self.xmit_ts, self.end_seq):
                    return None
                due = segment.sent_at + allowance
                if due > now:
                    return due
                sender.mark_lost(segment)
            by_time.popleft()
        return None
