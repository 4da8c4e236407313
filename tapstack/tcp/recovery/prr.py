"""Proportional rate reduction (RFC 6937, RFC 9937): how much to send per acknowledgement while in recovery.

Instead of halving at once and then standing still, the window glides from what was in the network (`RecoverFS`) to
ssthresh: for every byte delivered, ssthresh / RecoverFS bytes may be sent.  When more was lost than that, and `pipe` is below
ssthresh, what is delivered is replaced one for one, what was not sent before is made good, and one segment more goes where the
acknowledgement shows progress without new loss (RFC 9937's SafeACK).
"""

from __future__ import annotations


class ProportionalRateReduction:
    """State of one recovery.  All quantities in bytes.

    >>> prr = ProportionalRateReduction()
    >>> prr.begin(flight=20_000, ssthresh=10_000, mss=1000, sent=0)
    >>> prr.window(delivered=2000, pipe=17_000, sent=0, progress=False)  # half of what was delivered may be sent
    18000
    """

    __slots__ = ("_delivered", "_flight", "_mss", "_sent_before", "_ssthresh")

    def begin(self, flight: int, ssthresh: int, mss: int, sent: int) -> None:
        """Recovery begins with `flight` bytes outstanding; `sent`: all bytes sent so far, repetitions included."""
        self._flight = max(flight, 1)
        self._ssthresh = ssthresh
        self._mss = mss
        self._sent_before = sent
        self._delivered = 0

    def window(self, delivered: int, pipe: int, sent: int, progress: bool) -> int:
        """The window after an acknowledgement that delivered `delivered` bytes and left `pipe` in the network."""
        self._delivered += delivered
        out = sent - self._sent_before
        if pipe > self._ssthresh:
            allowed = -(-self._delivered * self._ssthresh // self._flight) - out
        else:
            limit = max(self._delivered - out, delivered) + (self._mss if progress else 0)
            allowed = min(self._ssthresh - pipe, limit)
        if not out:
            allowed = max(allowed, self._mss)  # the fast retransmission always goes
        return pipe + max(allowed, 0)
