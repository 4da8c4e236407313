"""One timer queue per stack.

A timer is moved far more often than it fires (every acknowledgement re-arms a retransmission timer), so
moving one *later* only stores the new time; the heap entry stays where it is and is pushed again when it
surfaces too early.  Moving one earlier pushes a second entry and the first becomes stale.

Nor is the heap put in order whenever somebody asks when to come again (`soonest`): a timer that is disarmed and armed once
more, as that of a delayed acknowledgement is for each segment, keeps its place, and who comes for it finds nothing to do.

The owner of timers that ends retires them: they let go of it at once.  When most of the heap is stale it is
swept, so that neither a thousand connections a second nor a timer that is moved to and fro leaves more behind than is armed.

Invariant: an armed timer has exactly one live heap entry, the tuple that it holds itself, with a time `<= when`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from typing import TypeAlias

_SWEEP = 64
"""Entries of retired timers below which the heap is not worth sweeping."""


class Timer:
    """A callback with a due time; made by `TimerQueue.timer`, armed and disarmed any number of times."""

    __slots__ = ("_callback", "_entry", "_queue", "when")

    def __init__(self, queue: TimerQueue, callback: Callable[[float], None]) -> None:
        self._queue = queue
        self._callback = callback
        self._entry: _Entry | None = None
        self.when: float | None = None

    @property
    def armed(self) -> bool:
        """Whether the timer will fire."""
        return self.when is not None

    def set(self, when: float) -> None:
        """Arm the timer, or move it, to fire at `when` (seconds of the stack's clock)."""
        self.when = when
        entry = self._entry
        if entry is None:
            self._entry = self._queue._push(when, self)
        elif when < entry[0]:
            self._entry = self._queue._push(when, self)
            self._queue._left_behind()

    def cancel(self) -> None:
        """Disarm the timer; harmless when it is not armed."""
        self.when = None

    def retire(self) -> None:
        """Disarm the timer for good; its callback, and what that holds, is let go."""
        self.when = None
        self._callback = _nothing
        if self._entry is not None:
            self._entry = None
            self._queue._left_behind()


_Entry: TypeAlias = tuple[float, int, Timer]
"""Time, order of coming, whose."""


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
        self._heap: list[_Entry] = []
        self._order = count()
        self._stale = 0

    def timer(self, callback: Callable[[float], None]) -> Timer:
        """A new, unarmed timer; `callback(now)` runs when it is due."""
        return Timer(self, callback)

    def _push(self, when: float, timer: Timer) -> _Entry:
        entry = (when, next(self._order), timer)
        heapq.heappush(self._heap, entry)
        return entry

    def _left_behind(self) -> None:
        """A timer let go of an entry in the heap: sweep when such are the most."""
        self._stale += 1
        if self._stale > _SWEEP and self._stale * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2]._entry is entry]
            heapq.heapify(self._heap)
            self._stale = 0

    def _settle(self) -> None:
        """Bring the earliest truly armed timer to the top of the heap."""
        heap = self._heap
        while heap:
            entry = heap[0]
            timer = entry[2]
            if timer._entry is not entry:
                heapq.heappop(heap)
                self._stale -= 1
            elif timer.when is None:
                heapq.heappop(heap)
                timer._entry = None
            elif timer.when > entry[0]:
                timer._entry = later = (timer.when, next(self._order), timer)
                heapq.heapreplace(heap, later)
            else:
                return

    def deadline(self) -> float | None:
        """When the next timer is due; None when none is armed."""
        heap = self._heap
        if heap:
            when, _, timer = entry = heap[0]
            if when == timer.when and timer._entry is entry:
                return when
        self._settle()
        return self._heap[0][0] if self._heap else None

    def soonest(self) -> float | None:
        """When to call `run` next, without any work: no later than `deadline`, perhaps earlier; None for never."""
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
            timer._entry = None
            timer.when = None
            timer._callback(now)

    def __len__(self) -> int:
        """How many timers are armed."""
        return len({id(timer) for _, _, timer in self._heap if timer.when is not None})
