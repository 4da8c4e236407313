"""A rate-based controller in the manner of BBR version 1: it shows that the interface suffices for pacing.

Model.  The path is two numbers: its bandwidth, the largest delivery rate of the last ten round trips, and its
propagation delay, the least RTT of the last ten seconds.  Data leaves at `gain` times the bandwidth; about two
bandwidth-delay products may be in the network.  Phases: STARTUP doubles until three rounds bring less than a quarter
more; DRAIN empties the queue that this made; PROBE_BW tries 1.25 of the rate for a round in eight; PROBE_RTT
lets the queue run empty when the least RTT has not been seen again for ten seconds.

What it leaves out, and real deployments of BBR need: a reaction to loss and to marks (versions 2 and 3), the
allowance for aggregated acknowledgements, policer detection, fairness to loss-based flows.  An experiment's
controller, not a default.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, ClassVar

from .base import CongestionControl, Saved

if TYPE_CHECKING:
    from ..acknowledged import Acknowledged

STARTUP_GAIN = 2.885
BANDWIDTH_ROUNDS = 10
RTT_WINDOW = 10.0
PROBE_RTT_TIME = 0.2
_CYCLE = (1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0)
_MINIMUM_SEGMENTS = 4
_WINDOW_GAIN = 2.0


class Bbr(CongestionControl):
    """See the module's docstring."""

    __slots__ = (
        "_bandwidths", "_cycle_at", "_cycle_index", "_full_bandwidth", "_full_rounds", "_gain", "_minimum_rtt",
        "_minimum_rtt_at", "_phase", "_probe_rtt_until", "_round", "_round_end", "_total",
    )  # fmt: skip

    sets_own_window: ClassVar[bool] = True

    def __init__(self, mss: int, paced: bool = True) -> None:
        super().__init__(mss, True)
        self._phase = "startup"
        self._gain = STARTUP_GAIN
        self._bandwidths: deque[tuple[int, float]] = deque()
        self._round = 0
        self._round_end = 0
        self._total = 0
        self._full_bandwidth = 0.0
        self._full_rounds = 0
        self._minimum_rtt = math.inf
        self._minimum_rtt_at = 0.0
        self._cycle_index = 0
        self._cycle_at = 0.0
        self._probe_rtt_until = 0.0

    @property
    def phase(self) -> str:
        return self._phase

    @property
    def bandwidth(self) -> float:
        """The estimate in bytes per second; 0 before the first sample."""
        return self._bandwidths[0][1] if self._bandwidths else 0.0

    def on_ack(self, news: Acknowledged, now: float) -> None:
        """Everything is in `on_delivery`."""

    def on_delivery(self, news: Acknowledged, now: float) -> None:
        new_round = self._measure(news, now)
        bandwidth = self.bandwidth
        if not bandwidth or not math.isfinite(self._minimum_rtt):
            self.cwnd += news.delivered  # no model yet: ordinary slow start
            return
        product = bandwidth * self._minimum_rtt
        if self._phase == "startup":
            self._startup(new_round and not news.limited, bandwidth)
        if self._phase == "drain" and news.in_flight - news.delivered <= product:
            self._phase, self._gain = "probe bandwidth", 1.0
            self._cycle_index, self._cycle_at = 2, now
        if self._phase == "probe bandwidth" and now - self._cycle_at > self._minimum_rtt:
            self._cycle_index = (self._cycle_index + 1) % len(_CYCLE)
            self._cycle_at = now
            self._gain = _CYCLE[self._cycle_index]
        self._probe_rtt(now)
        self.pacing_rate = max(self._gain * bandwidth, 1.0)
        gain = STARTUP_GAIN if self._phase == "startup" else _WINDOW_GAIN
        target = max(int(gain * product), _MINIMUM_SEGMENTS * self.mss) + 3 * self.mss
        if self._phase == "probe rtt":
            self.cwnd = _MINIMUM_SEGMENTS * self.mss
        else:
            self.cwnd = min(self.cwnd + news.delivered, target)

    def _measure(self, news: Acknowledged, now: float) -> bool:
        """Take the samples of one acknowledgement; True when it begins a new round."""
        new_round = news.prior_delivered >= self._round_end
        self._total = news.prior_delivered + news.rate_bytes
        if new_round:
            self._round += 1
            self._round_end = self._total
        if news.rtt is not None and news.rtt <= self._minimum_rtt:
            self._minimum_rtt = max(news.rtt, 1e-6)
            self._minimum_rtt_at = now
        if news.interval > 0 and news.rate_bytes and news.interval >= min(self._minimum_rtt, 1.0):
            rate = news.rate_bytes / news.interval
            if not news.limited or rate >= self.bandwidth:
                samples = self._bandwidths
                while samples and samples[-1][1] <= rate:
                    samples.pop()
                samples.append((self._round, rate))
        while len(self._bandwidths) > 1 and self._bandwidths[0][0] < self._round - BANDWIDTH_ROUNDS:
            self._bandwidths.popleft()
        return new_round

    def _startup(self, full_round: bool, bandwidth: float) -> None:
        if not full_round:
            return
        if bandwidth >= self._full_bandwidth * 1.25:
            self._full_bandwidth = bandwidth
            self._full_rounds = 0
            return
        self._full_rounds += 1
        if self._full_rounds >= 3:
            self._phase, self._gain = "drain", 1 / STARTUP_GAIN

    def _probe_rtt(self, now: float) -> None:
        if self._phase == "probe rtt":
            if now >= self._probe_rtt_until:
                self._phase, self._gain = "probe bandwidth", 1.0
                self._cycle_at = now
                self._minimum_rtt_at = now
        elif self._phase == "probe bandwidth" and now - self._minimum_rtt_at > RTT_WINDOW:
            self._phase, self._gain = "probe rtt", 1.0
            self._probe_rtt_until = now + max(PROBE_RTT_TIME, self._minimum_rtt)
            self._minimum_rtt *= 1.25  # so that a path that has become longer is noticed

    def on_congestion(self, in_flight: int, now: float) -> None:
        """Loss does not move the model."""

    def on_timeout(self, in_flight: int, now: float) -> None:
        """Everything may be lost: begin with one segment, the model decides from the next delivery on."""
        self.cwnd = self.mss

    def on_timeout_in_recovery(self, in_flight: int) -> None:
        self.cwnd = self.mss

    def restore(self, saved: Saved) -> None:
        self.cwnd = max(self.cwnd, saved.cwnd)
