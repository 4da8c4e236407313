"""A token bucket: an average rate with a bounded burst (RFC 4443 §2.4 (f))."""

from __future__ import annotations


class TokenBucket:
    """Allows `rate` actions per second on average and `burst` at once.

    >>> bucket = TokenBucket(rate=1.0, burst=2)
    >>> [bucket.take(0.0), bucket.take(0.0), bucket.take(0.5), bucket.take(1.0)]
    [True, True, False, True]
    """

    __slots__ = ("_burst", "_rate", "_tokens", "_updated")

    def __init__(self, rate: float, burst: int) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = float(burst)
        self._updated = 0.0

    def take(self, now: float) -> bool:
        """Whether one more action is allowed at `now` (seconds)."""
        if now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
            self._updated = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
