"""One timer queue per stack.

A timer is moved far more often than it fires (every acknowledgement re-arms a retransmission timer), so
moving one *later* only stores the new time; the heap entry stays where it is and is pushed again when it
surfaces too early.  Moving one earlier pushes a second entry and the first becomes stale.

The owner of timers that ends retires them: they let go of it at once, and when most of the heap is theirs it is
swept, so that a thousand connections a second leave nothing behind for the minute that a time-out takes.

Invariant: an armed timer has exactly one live heap entry, `(queued, …)`, with `queued <= when`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count

_SWEEP = 64
"""Entries of retired timers below which the heap is not worth sweeping."""


class Timer:
    """A callback with a due time; made by `TimerQueue.timer`, armed and disarmed any number of times."""

    __slots__ = ("_callback", "_queue", "_queued", "when")

    def __init__(self, queue: TimerQueue, callback: Callable[[float], None]) -> None:
        self._queue = queue
        self._callback = callback
        self._queued: float | None = None
        self.when: float | None = None

    @property
    def armed(self) -> bool:
        """Whether the timer will fire."""
        return self.when is not None

    def set(self, when: float) -> None:
        """Arm the timer, or move it, to fire at `when` (seconds of the stack's clock)."""
        self.when = when
        if self._queued is None or when < self._queued:
            self._queued = when
            self._queue._push(when, self)

    def cancel(self) -> None:
        """Disarm the timer; harmless when it is not armed."""
        self.when = None

    def retire(self) -> None:
        """Disarm the timer for good; its callback, and what that holds, is let go."""
        self.when = None
        self._callback = _nothing
        if self._queued is not None:
            self._queued = None
            self._queue._left_behind()


def _nothing(now: float) -> None:
    """What a retired timer would do."""


class TimerQueue:
    """All timers of one stack, ordered by time.

    >>> fired = []
    >>> queue = TimerQueue()
    >>> timer = queue.timer(fired.append)
    >>> timer.set(5.0); timer.set(7.0)
    >>> queue.run(6.0); fired
    []
    >>> queue.deadline()
    7.0
    >>> queue.run(7.0); fired
    [7.0]
    """

    __slots__ = ("_heap", "_order", "_stale")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Timer]] = []
        self._order = count()
        self._stale = 0

    def timer(self, callback: Callable[[float], None]) -> Timer:
        """A new, unarmed timer; `callback(now)` runs when it is due."""
        return Timer(self, callback)

    def _push(self, when: float, timer: Timer) -> None:
        heapq.heappush(self._heap, (when, next(self._order), timer))

    def _left_behind(self) -> None:
        """A retired timer has an entry in the heap: sweep when they are the most."""
        self._stale += 1
        if self._stale > _SWEEP and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2]._queued == entry[0]]
            heapq.heapify(self._heap)
            self._stale = 0

    def _settle(self) -> None:
        """Bring the earliest truly armed timer to the top of the heap."""
        heap = self._heap
        while heap:
            queued, _, timer = heap[0]
            if timer._queued != queued:
                heapq.heappop(heap)
                self._stale -= self._stale > 0
            elif timer.when is None:
                heapq.heappop(heap)
                timer._queued = None
            elif timer.when > queued:
                timer._queued = timer.when
                heapq.heapreplace(heap, (timer.when, next(self._order), timer))
            else:
                return

    def deadline(self) -> float | None:
        """When the next timer is due; None when none is armed."""
        heap = self._heap
        if heap and heap[0][0] == heap[0][2].when == heap[0][2]._queued:
            return heap[0][0]
        self._settle()
        return self._heap[0][0] if self._heap else None

    def run(self, now: float) -> None:
        """Fire every timer due at or before `now`, in order of time.

        A timer that a callback arms for `now` or earlier fires in the same call.
        """
        while True:
            self._settle()
            if not self._heap or self._heap[0][0] > now:
                return
            timer = heapq.heappop(self._heap)[2]
            timer._queued = None
            timer.when = None
            timer._callback(now)

    def __len__(self) -> int:
        """How many timers are armed."""
        return len({id(timer) for _, _, timer in self._heap if timer.when is not None})
