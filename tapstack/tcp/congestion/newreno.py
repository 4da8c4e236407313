"""Slow start and congestion avoidance of RFC 5681, with appropriate byte counting (RFC 3465)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .base import CongestionControl, used_up

if TYPE_CHECKING:
    from ..acknowledged import Acknowledged


class NewReno(CongestionControl):
    """The classic controller: add one segment per round trip, halve on loss."""

    __slots__ = ("_avoidance_bytes",)

    def __init__(self, mss: int, paced: bool = False) -> None:
        super().__init__(mss, paced)
        self._avoidance_bytes = 0

    def on_ack(self, news: Acknowledged, now: float) -> None:
        acked = news.acked
        if not used_up(news, self.cwnd):
            return
        if self.cwnd < self.ssthresh:
            # One ACK may cover a super-segment: growth is bounded by what was acknowledged, not by segments.
            self.cwnd += min(acked, self.ssthresh - self.cwnd)
            return
        self._avoidance_bytes += acked
        if self._avoidance_bytes >= self.cwnd:
            self._avoidance_bytes -= self.cwnd
            self.cwnd += self.mss

    def on_congestion(self, in_flight: int, now: float) -> None:
        self.ssthresh = max(in_flight // 2, 2 * self.mss)
        self.cwnd = self.ssthresh
        self._avoidance_bytes = 0
