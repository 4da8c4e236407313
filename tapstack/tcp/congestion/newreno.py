"""Slow start and congestion avoidance of RFC 5681, with appropriate byte counting (RFC 3465, L=2)."""

from __future__ import annotations

from .base import CongestionControl, register


class NewReno(CongestionControl):
    """The classic controller: add one segment per round trip, halve on loss."""

    __slots__ = ("_avoidance_bytes",)

    def __init__(self, mss: int) -> None:
        super().__init__(mss)
        self._avoidance_bytes = 0

    def on_ack(self, acked: int, in_flight: int, now: float, srtt: float) -> None:
        if in_flight + acked < self.cwnd and in_flight * 2 < self.cwnd:
            return  # application limited: the window was not used, so it does not grow (RFC 9002 §7.8 states the rule)
        if self.cwnd < self.ssthresh:
            # A GRO'd ACK covers many segments; growth per ACK is bounded by what was acknowledged (RFC 5681 SHOULD).
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


register("newreno", NewReno)
