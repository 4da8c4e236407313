"""The retransmission time-out (RFC 6298)."""

from __future__ import annotations

import math

MINIMUM = 0.2
"""Seconds.  RFC 6298 (2.4) says that RTO SHOULD be 1 s or more; kernels use 0.2 s, and a peer's delayed ACK stays below
it.  As there, it bounds what is added to SRTT: a bound on the sum would fire two round trips after a loss on a path of
100 ms, which is when the repetition of a lost repetition comes back."""
MAXIMUM = 60.0
INITIAL = 1.0
EPOCH = 10.0
"""Seconds: within them most connections pause, or a reduction lets the queue run empty, so that the path itself is seen."""


class RttEstimator:
    """SRTT, RTTVAR and RTO in seconds; `srtt` is None before the first sample.

    backoff: time-outs since something was last acknowledged.  A doubled RTO outlives them: what was sent twice gives no
    sample when it is acknowledged, and only a sample may say that less is enough (Karn's algorithm, RFC 6298 §3 and §5).
    minimum_rtt: the least sample of this epoch and the one before, each `EPOCH` long or longer: a path may become longer
    (RFC 8985 §6.2).  Infinite before the first.

    >>> rtt = RttEstimator()
    >>> rtt.sample(0.1, now=5.0)
    >>> rtt.srtt, rtt.rttvar, round(rtt.rto, 3)
    (0.1, 0.05, 0.3)
    """

    __slots__ = ("_epoch_minimum", "_epoch_until", "backoff", "minimum_rtt", "rto", "rttvar", "srtt")

    def __init__(self) -> None:
        self.srtt: float | None = None
        self.rttvar = 0.0
        self.rto = INITIAL
        self.backoff = 0
        self.minimum_rtt = self._epoch_minimum = math.inf
        self._epoch_until = 0.0

    def sample(self, rtt: float, now: float) -> None:
        """Take one measurement."""
        if rtt < 0.0:
            rtt = 0.0
        if now >= self._epoch_until:
            self._epoch_until = now + EPOCH
            self.minimum_rtt = self._epoch_minimum
            self._epoch_minimum = rtt
        elif rtt < self._epoch_minimum:
            self._epoch_minimum = rtt
        if rtt < self.minimum_rtt:
            self.minimum_rtt = rtt
        if self.srtt is None:
            self.srtt = rtt
            self.rttvar = rtt / 2
        else:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) * 0.25
            self.srtt += (rtt - self.srtt) * 0.125
        self.backoff = 0
        self.rto = self._from_estimate(self.srtt)

    def back_off(self) -> None:
        """Double the time-out after it fired (5.5)."""
        self.backoff += 1
        self.rto = min(self.rto * 2, MAXIMUM)

    def _from_estimate(self, srtt: float) -> float:
        spread = 4 * self.rttvar
        rto = srtt + (spread if spread > MINIMUM else MINIMUM)
        return rto if rto < MAXIMUM else MAXIMUM
