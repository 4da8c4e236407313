"""CUBIC (RFC 9438), with HyStart++ for its first slow start.

Model.  After a reduction at window W_max the window follows a cubic curve of the *time* since, W(t) = C (t - K)³ + W_max:
steep at first, flat around W_max, steep again beyond.  K is where the curve reaches W_max.  A second estimate, what Reno
would have reached (`_estimate`), is a floor on short paths.  The curve counts in segments, here as floats.  Time in which the
application was the limit moves the beginning of the curve (`_epoch`) on: from one acknowledgement (`_heard`) to the next.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .base import CongestionControl, Saved, used_up
from .hystart import HyStart

if TYPE_CHECKING:
    from ..acknowledged import Acknowledged

C = 0.4
BETA = 0.7
_ALPHA = 3 * (1 - BETA) / (1 + BETA)


class Cubic(CongestionControl):
    """The default controller."""

    decrease: ClassVar[float] = BETA

    __slots__ = (
        "_cwnd_prior",
        "_epoch",
        "_estimate",
        "_fraction",
        "_heard",
        "_hystart",
        "_idle",
        "_k",
        "_origin",
        "_w_max",
    )

    def __init__(self, mss: int, paced: bool = False) -> None:
        super().__init__(mss, paced)
        self._hystart = HyStart()
        self._w_max = 0.0
        self._cwnd_prior = 0.0
        self._epoch: float | None = None
        self._k = 0.0
        self._origin = 0.0
        self._estimate = 0.0
        self._fraction = 0.0
        self._heard = 0.0
        self._idle = 0.0

    @property
    def phase(self) -> str:
        if self.cwnd >= self.ssthresh:
            return "avoidance"
        return "conservative slow start" if self._hystart.active else "slow start"

    def on_ack(self, news: Acknowledged, now: float) -> None:
        since = now - self._heard
        self._heard = now
        used = used_up(news, self.cwnd)
        if self._epoch is not None and (self._idle or not used):
            # Time in which the window was not tested does not count (RFC 9438 §5.8).
            self._epoch += since if not used or since < self._idle else self._idle
        self._idle = 0.0
        if not used:
            return
        if self.cwnd >= self.ssthresh:
            self._avoid(news, now)
            return
        growth = news.acked if self._hystart.over else self._hystart.growth(news)
        if growth is None:
            self.ssthresh = self.cwnd
        else:
            self.cwnd = min(self.cwnd + growth, self.ssthresh)

    def _avoid(self, news: Acknowledged, now: float) -> None:
        mss = self.mss
        window = self.cwnd / mss
        epoch = self._epoch
        if epoch is None:
            epoch = self._epoch = self._begin_epoch(window, now)
        elapsed = now - epoch
        alpha = 1.0 if self._estimate >= self._cwnd_prior else _ALPHA
        self._estimate += alpha * news.acked / self.cwnd
        if self._origin + C * (elapsed - self._k) ** 3 < self._estimate:
            target = max(self._estimate, window)
            grown = target - window
        else:
            target = self._origin + C * (elapsed + news.srtt - self._k) ** 3
            target = min(max(target, window), 1.5 * window)
            grown = (target - window) / window * (news.acked / mss)
        self._fraction += grown * mss
        whole = int(self._fraction)
        self._fraction -= whole
        self.cwnd += whole

    def _begin_epoch(self, window: float, now: float) -> float:
        """Congestion avoidance begins, after a reduction or after slow start (RFC 9438 §4.2)."""
        self._estimate = window
        if window < self._w_max:
            self._k = float(((self._w_max - window) / C) ** (1 / 3))
            self._origin = self._w_max
        else:
            self._k = 0.0
            self._origin = window
        self._fraction = 0.0
        return now

    def on_congestion(self, in_flight: int, now: float) -> None:
        window = self.cwnd / self.mss
        self._cwnd_prior = window
        # Fast convergence: a flow that did not get back to its last maximum leaves room (RFC 9438 §4.7).
        self._w_max = window * (1 + BETA) / 2 if window < self._w_max else window
        self.ssthresh = max(int(min(in_flight, self.cwnd) * BETA), 2 * self.mss)
        self.cwnd = self.ssthresh
        self._epoch = None
        self._hystart.over = True

    def on_timeout(self, in_flight: int, now: float) -> None:
        """The curve of the avoidance that follows begins where slow start ends: K is 0 (RFC 9438 §4.8)."""
        super().on_timeout(in_flight, now)
        self._w_max = 0.0

    def on_timeout_in_recovery(self, in_flight: int) -> None:
        super().on_timeout_in_recovery(in_flight)
        self._w_max = 0.0
        self._epoch = None

    def on_idle(self, idle: float) -> None:
        super().on_idle(idle)
        self._idle = idle  # so far: told again while nothing can be sent, and counted when something is acknowledged

    def mss_changed(self, mss: int) -> None:
        """The curve counts in segments: what it is made of is as many bytes as before, and it goes on where it is."""
        ratio = self.mss / mss
        super().mss_changed(mss)
        self._w_max *= ratio
        self._cwnd_prior *= ratio
        self._origin *= ratio
        self._estimate *= ratio
        if self._epoch is not None:
            elapsed = self._heard - self._epoch
            self._k = elapsed - (elapsed - self._k) * ratio ** (1 / 3)

    def save(self) -> Saved:
        inner = (self._w_max, self._cwnd_prior, self._origin, self._estimate)
        return Saved(self.cwnd, self.ssthresh, tuple(segments * self.mss for segments in inner))

    def restore(self, saved: Saved) -> None:
        super().restore(saved)
        self._w_max, self._cwnd_prior, self._origin, self._estimate = (size / self.mss for size in saved.inner)
        self._epoch = None
