"""HyStart++: leaving slow start before it overflows the path (RFC 9406).

Model.  A round lasts until what was SND.NXT at its beginning is acknowledged.  When the least RTT of a round
exceeds that of the round before by `eta`, queues have begun to build: the window goes on growing, but only a quarter as
fast (conservative slow start).  If the RTT falls back below where it was then, the rise was noise and slow start resumes;
after five such rounds, slow start is over.

One acknowledgement may open the window by all that it acknowledges, also where nothing is paced: the eight segments to which
RFC 9406 §4.3 recommends to hold it (L) are fewer than one acknowledgement covers where the peer receives super-segments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..acknowledged import Acknowledged

MIN_RTT_THRESH = 0.004
MAX_RTT_THRESH = 0.016
MIN_RTT_DIVISOR = 8
N_RTT_SAMPLE = 8
CSS_GROWTH_DIVISOR = 4
CSS_ROUNDS = 5


class HyStart:
    """State of HyStart++ for one connection; names as in RFC 9406 §4.2."""

    __slots__ = (
        "_css_baseline",
        "_css_rounds",
        "_current_min",
        "_last_min",
        "_samples",
        "_window_end",
        "active",
        "over",
    )

    def __init__(self) -> None:
        self.active = False
        """whether conservative slow start is under way"""
        self.over = False
        """whether slow start has ended for good"""
        self._window_end = 0
        self._last_min = math.inf
        self._current_min = math.inf
        self._samples = 0
        self._css_baseline = math.inf
        self._css_rounds = 0

    def growth(self, news: Acknowledged) -> int | None:
        """By how many bytes cwnd may grow for this acknowledgement; None when slow start is over with it."""
        if news.acknowledged > self._window_end:
            self._begin_round(news)
        if news.rtt is not None:
            self._samples += 1
            self._current_min = min(self._current_min, news.rtt)
        if self._samples >= N_RTT_SAMPLE and math.isfinite(self._current_min):
            if self.active:
                if self._current_min < self._css_baseline:
                    self.active = False
                    self._css_baseline = math.inf
            elif math.isfinite(self._last_min):
                eta = max(MIN_RTT_THRESH, min(self._last_min / MIN_RTT_DIVISOR, MAX_RTT_THRESH))
                if self._current_min >= self._last_min + eta:
                    self._css_baseline = self._current_min
                    self.active = True
                    self._css_rounds = 0
        if self.over:
            return None
        return news.acked // CSS_GROWTH_DIVISOR if self.active else news.acked

    def _begin_round(self, news: Acknowledged) -> None:
        self._window_end = news.next
        self._last_min = self._current_min
        self._current_min = math.inf
        self._samples = 0
        if self.active:
            self._css_rounds += 1
            if self._css_rounds >= CSS_ROUNDS:
                self.over = True
