"""The end of a flow that nobody uses any more."""

from __future__ import annotations

from collections.abc import Callable

from ..timers import TimerQueue
from .flow import UdpFlow


class IdleTimer:
    """Calls `over(now)` once nothing was sent or received on a flow for `idle` seconds; who ends the flow retires it."""

    __slots__ = ("_flow", "_idle", "_over", "_timer", "retire")

    def __init__(self, timers: TimerQueue, flow: UdpFlow, idle: float, over: Callable[[float], None]) -> None:
        self._flow = flow
        self._idle = idle
        self._over = over
        self._timer = timers.timer(self._look)
        self._timer.set(flow.last_used + idle)
        self.retire = self._timer.retire

    def _look(self, now: float) -> None:
        # Compared as it is set: a difference is rounded otherwise, and the timer would fire at `now` for ever.
        due = self._flow.last_used + self._idle
        if now < due:
            self._timer.set(due)
        else:
            self._over(now)
