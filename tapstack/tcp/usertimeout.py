"""The user time-out that two ends tell each other (RFC 5482).

Model.  Each end may advertise how long it is ready to wait.  Each then waits for the longer of the two advertised times, within
limits of its own, unless its application asked for a time of its own.  Nothing is negotiated: an option that is lost is
missed, and the next one that is sent says it again.
"""

from __future__ import annotations

from ..wire.tcp import Options
from .recovery.rto import MAXIMUM as MAXIMUM_RTO

LOWER_LIMIT = 100.0
"""Seconds; more than any RTO (§3.1)."""
UPPER_LIMIT = 3600.0
"""Seconds: for so long at most a peer can keep a connection that is silent."""
assert LOWER_LIMIT > MAXIMUM_RTO
_LONGEST = 0x7FFF * 60
"""Seconds: no longer time can be told (§3)."""


def advertised(seconds: float) -> int:
    """ADV_UTO for a time-out of one's own, which may be without an end.

    >>> advertised(0.2), advertised(300.4), advertised(float("inf"))
    (1, 300, 1966020)
    """
    return max(1, round(min(seconds, _LONGEST)))


class UserTimeout:
    """What one connection advertises and was told; only connections whose socket asked for it have one.

    advertised: ADV_UTO in whole seconds.  changeable: whether what the peer advertises counts.  due: whether the next
    segment is to carry the option: the first that is no SYN does, and what follows a change.  told: what the peer advertised.
    """

    __slots__ = ("advertised", "changeable", "due", "told")

    def __init__(self, seconds: float) -> None:
        self.advertised = advertised(seconds)
        self.changeable = True
        self.due = True
        self.told: int | None = None

    def wait(self) -> float:
        """USER_TIMEOUT in seconds, as far as the two ends decide it.

        >>> timeout = UserTimeout(30)
        >>> timeout.told = 500
        >>> timeout.wait()
        500.0
        """
        return min(UPPER_LIMIT, max(float(self.advertised), float(self.told or 0), LOWER_LIMIT))

    def option(self) -> bytes:
        """The option as it is sent."""
        return Options(user_timeout=self.advertised).pack()
