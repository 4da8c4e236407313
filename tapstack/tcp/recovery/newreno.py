"""Loss recovery without SACK: fast retransmit and NewReno (RFC 5681 §3.2, RFC 6582), limited transmit (RFC 3042).

Three duplicate acknowledgements mean that the segment at `snd_una` is lost.  Each duplicate also means that one
segment left the network: that is `_credit`, RFC 5681's "inflation", kept apart from cwnd.  A partial
acknowledgement, one that stops before `point`, shows the next hole.  After a time-out everything counts as lost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..segments import LOST, SentSegment
from .base import DUPLICATE_THRESHOLD, Phase, Recovery
from .rto import RttEstimator

if TYPE_CHECKING:
    from ...timers import Timer
    from ..sender import Sender


class NewRenoRecovery(Recovery):
    """Recovery for peers without SACK."""

    __slots__ = ("_credit", "_duplicates")

    def __init__(self, sender: Sender, rtt: RttEstimator, timer: Timer) -> None:
        super().__init__(sender, rtt, timer)
        self._duplicates = 0
        self._credit = 0

    def on_duplicate_ack(self, now: float) -> None:
        sender = self.sender
        congestion = sender.congestion
        self._duplicates += 1
        if self.phase is Phase.RECOVERY:
            self._credit += sender.mss
            self.window = congestion.cwnd + self._credit
        elif self.phase is Phase.OPEN:
            if self._duplicates < DUPLICATE_THRESHOLD:
                self.window = congestion.cwnd + self._duplicates * sender.mss
            elif self._duplicates == DUPLICATE_THRESHOLD and sender.snd_una > self.point:
                self._enter(now)

    def _enter(self, now: float) -> None:
        sender = self.sender
        self._begin_undo()
        self._reduce_for_loss(sender.snd_una, now)
        self.phase = Phase.RECOVERY
        self.point = sender.snd_nxt
        self._credit = DUPLICATE_THRESHOLD * sender.mss
        self.window = sender.congestion.cwnd + self._credit
        self._resend_first(now)

    def _resend_first(self, now: float) -> None:
        """The segment at `snd_una` is lost: at most MSS of it goes again."""
        sender = self.sender
        first = sender.in_flight[0]
        if first.payload_length > sender.mss:
            sender.split(first, sender.mss)
        sender.mark_lost(first)
        sender.resend(first, now)

    def on_ack(self, now: float) -> None:
        sender = self.sender
        news = sender.news
        if not news.acked:
            return
        self._duplicates = 0
        if self.phase is Phase.OPEN:
            self.window = None
        elif self._undo.proven(news):
            self._take_back()
        elif sender.snd_una >= self.point:
            if self.phase is Phase.RECOVERY:
                congestion = sender.congestion
                congestion.cwnd = min(congestion.ssthresh, max(sender.pipe, sender.mss) + sender.mss)
            self._open()
        elif self.phase is Phase.RECOVERY:
            self._reduce_for_loss(sender.snd_una, now)
            self._credit = max(0, self._credit - news.acked + sender.mss)
            self.window = sender.congestion.cwnd + self._credit
            first = sender.in_flight[0]
            if not first.retransmitted or first.mark == LOST:
                self._resend_first(now)

    def _open(self) -> None:
        self.phase = Phase.OPEN
        self.window = None
        self._credit = 0

    def _take_back(self) -> None:
        super()._take_back()
        self._open()

    def on_retransmission(self, segment: SentSegment, now: float) -> None:
        self._undo.retransmitted(now)

    def on_timeout(self, now: float) -> None:
        sender = self.sender
        self._reduce_for_timeout(now)
        self._open()
        self.phase = Phase.LOSS
        self.point = sender.snd_nxt
        self._duplicates = 0
        sender.mark_all_lost()
        self._resend_first(now)
        sender.relist()
