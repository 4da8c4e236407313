"""Things that are due later, delivered by an event loop: the clockwork of in-memory and impaired links.

Model.  What is due at one moment stands in one list; a heap holds the moments.  Frames mostly come in runs that are due
together, so that the heap moves once for many of them.

Invariants.
- Items come out in order of their due time, those of equal due time in the order they were pushed.  (asyncio's own
  timers do not promise the latter.)
- While anything waits, exactly one callback of the loop is pending, for the earliest item.
- `deliver` gets everything that is due in one list, and is never called from inside `push`.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from typing import Generic, TypeVar

from ..clock import VirtualTimeLoop

T = TypeVar("T")


class DelayQueue(Generic[T]):
    """A bounded queue of items with due times, in seconds of the loop's clock."""

    __slots__ = ("_call_at", "_deliver", "_due", "_handle", "_handle_due", "_items", "_limit", "_loop", "_waiting")

    def __init__(self, loop: asyncio.AbstractEventLoop, deliver: Callable[[list[T]], None], limit: int) -> None:
        """deliver: takes the items now due; limit: how many may wait at once."""
        self._loop = loop
        self._call_at: Callable[[float, Callable[[], None]], asyncio.TimerHandle] = (
            loop.call_in_turn if isinstance(loop, VirtualTimeLoop) else loop.call_at
        )
        self._deliver = deliver
        self._limit = limit
        self._due: list[float] = []
        self._items: dict[float, list[T]] = {}
        self._waiting = 0
        self._handle: asyncio.Handle | None = None
        self._handle_due = 0.0

    def push(self, due: float, item: T) -> bool:
        """Deliver `item` at `due`, or in the loop's next round if that is past; False when the queue is full."""
        if self._waiting >= self._limit:
            return False
        self._waiting += 1
        items = self._items.get(due)
        if items is not None:
            items.append(item)
            return True
        self._items[due] = [item]
        heapq.heappush(self._due, due)
        if self._handle is None:
            self._schedule(due)
        elif due < self._handle_due:
            self._handle.cancel()
            self._schedule(due)
        return True

    def _schedule(self, due: float) -> None:
        self._handle_due = due
        if due <= self._loop.time():
            self._handle = self._loop.call_soon(self._fire)
        else:
            self._handle = self._call_at(due, self._fire)

    def _fire(self) -> None:
        # A real loop may run a timer a clock tick early; the item it was set for is due all the same.
        now = max(self._loop.time(), self._handle_due)
        self._handle = None
        moments = self._due
        items: list[T] = []
        while moments and moments[0] <= now:
            items += self._items.pop(heapq.heappop(moments))
        self._waiting -= len(items)
        if moments:
            self._schedule(moments[0])
        self._deliver(items)

    @property
    def next_due(self) -> float | None:
        """When the earliest item is due; None when none waits."""
        return self._due[0] if self._due else None

    def __len__(self) -> int:
        return self._waiting

    def clear(self) -> None:
        """Forget everything that waits."""
        self._due.clear()
        self._items.clear()
        self._waiting = 0
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
