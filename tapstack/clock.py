"""An asyncio event loop under a virtual clock.

Model.  The loop's time is a number that stands still while callbacks run.  When nothing is ready, it jumps to
the moment of the earliest scheduled callback; nobody sleeps, so two hours of TIME-WAIT cost as little as two
milliseconds.  Nothing outside the loop exists for it: no file descriptors, no threads, no signals.

Invariants.
- `time()` never goes back, and when a callback made with `call_at(when)` runs, `time()` is at least `when`
  and, unless earlier work held it up, exactly `when`.
- Callbacks due at one moment run in the order of their times, those of equal time in the order they were made;
  `call_soon` callbacks in the order they were made.  The same program runs the same way each time.
- Callbacks made with `call_in_turn` wait at their moment until nothing else is ready (for `PATIENCE` rounds at most), and come
  one at a time: first what one leads to, then the next.  So a simulation goes through what one network does at a moment
  while that is in the processor's caches, and not through all networks step by step.
- If nothing is ready and nothing is scheduled, the awaited result can never come: the loop raises
  `VirtualDeadlockError` instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context
from itertools import count
from typing import Any, NoReturn, TypeAlias, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


PATIENCE = 16
"""Rounds of other callbacks that one made with `call_in_turn` waits for."""
_SWEEP = 100
"""Cancelled timers that the heap may hold, however few others there are."""


class _Timer(asyncio.TimerHandle):
    """asyncio's, of which it counts the cancelled ones that are in the heap."""

    _scheduled: bool


_Entry: TypeAlias = tuple[float, int, _Timer]


class VirtualDeadlockError(RuntimeError):
    """Nothing is ready and nothing is scheduled, yet the loop was asked to go on."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop whose `time()` jumps to the next scheduled callback when nothing is ready.

    start: the first value of `time()`, in seconds.

    `run_in_executor` calls the function at once, in this thread, so that a result never depends on a thread's
    pace.  File descriptors, sockets and subprocesses raise `NotImplementedError`.

    >>> async def nap() -> float:
    ...     await asyncio.sleep(3600)
    ...     return asyncio.get_running_loop().time()
    >>> run_virtual(nap(), start=1.0)
    3601.0
    """

    # BaseEventLoop's own, but that the heap of timers holds tuples of time, order and handle, which are compared without Python.
    _ready: deque[asyncio.Handle]
    _scheduled: list[_Entry]
    _closed: bool
    _stopping: bool
    _timer_cancelled_count: int

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self._now = start
        self._made = count()
        self._turns: list[_Entry] = []
        self._rounds = 0

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*_Ts], object], *args: *_Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """As any loop's."""
        if self._closed:
            raise RuntimeError("Event loop is closed")
        timer = _Timer(when, callback, args, self, context)
        heapq.heappush(self._scheduled, (when, next(self._made), timer))
        timer._scheduled = True
        return timer

    def call_in_turn(self, when: float, callback: Callable[[], object]) -> asyncio.TimerHandle:
        """As `call_at`, but apart from whatever else there is to do at that moment: see the top of this file."""
        timer = _Timer(when, callback, (), self)
        heapq.heappush(self._turns, (when, next(self._made), timer))
        return timer

    def _run_once(self) -> None:
        """One round: the timers whose time has come, and everything that was ready before."""
        ready = self._ready
        timers = self._scheduled
        self._rounds += 1
        if not ready and not self._stopping:
            self._pass_time()
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            timer._scheduled = False
            ready.append(timer)
        if not ready or self._rounds > PATIENCE:
            self._rounds = 0
            if self._turns and self._turns[0][0] <= self._now:
                ready.append(heapq.heappop(self._turns)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def _pass_time(self) -> None:
        """Nothing is ready: go to the moment of what comes next, which may be this one."""
        timers, turns = self._scheduled, self._turns
        if self._timer_cancelled_count > _SWEEP and 2 * self._timer_cancelled_count > len(timers):
            timers[:] = [entry for entry in timers if not entry[2]._cancelled]
            heapq.heapify(timers)
            self._timer_cancelled_count = 0
        while timers and timers[0][2]._cancelled:
            heapq.heappop(timers)
            self._timer_cancelled_count -= 1
        while turns and turns[0][2]._cancelled:
            heapq.heappop(turns)
        if not timers and not turns:
            raise VirtualDeadlockError(self._deadlock_text())
        self._now = max(self._now, min(heap[0][0] for heap in (timers, turns) if heap))

    def _deadlock_text(self) -> str:
        waiting = sorted(f"{task.get_name()} in {_place(task)}" for task in asyncio.all_tasks(self))
        names = ", ".join(waiting) or "none"
        return f"virtual time {self._now}: nothing is scheduled, so nothing can end the wait of these tasks: {names}"

    def run_in_executor(self, executor: Any, func: Callable[[*_Ts], _T], *args: *_Ts) -> asyncio.Future[_T]:
        """Call `func(*args)` now and return its outcome as a future that is done."""
        future: asyncio.Future[_T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def add_reader(self, fd: Any, callback: Callable[[*_Ts], Any], *args: *_Ts) -> NoReturn:
        """Not to be had: file descriptors live in real time."""
        raise NotImplementedError("a loop under a virtual clock has no file descriptors")

    def add_writer(self, fd: Any, callback: Callable[[*_Ts], Any], *args: *_Ts) -> NoReturn:
        """Not to be had: file descriptors live in real time."""
        raise NotImplementedError("a loop under a virtual clock has no file descriptors")

    def _write_to_self(self) -> None:
        """Called by `call_soon_threadsafe` to end a wait; this loop never waits."""


def _place(task: asyncio.Task[Any]) -> str:
    """Where a task stands: its innermost frame."""
    stack = task.get_stack()
    if not stack:
        return "no frame"
    frame = stack[-1]
    return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"


def run_virtual(coroutine: Coroutine[Any, Any, _T], *, start: float = 0.0) -> _T:
    """Run `coroutine` to its end on a new `VirtualTimeLoop` and return its result.

    start: virtual time at the beginning, in seconds.
    Raises what the coroutine raises, and `VirtualDeadlockError` when it waits for what can never come.
    Tasks it leaves behind are cancelled, as `asyncio.run` does.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start)) as runner:
        return runner.run(coroutine)


def wall_clock(loop: asyncio.AbstractEventLoop, epoch_ns: int) -> Callable[[], int]:
    """A clock for captures: Unix time in nanoseconds, `epoch_ns` at loop time zero.

    >>> loop = VirtualTimeLoop(start=1.5)
    >>> wall_clock(loop, 1_000_000_000_000_000_000)()
    1000000001500000000
    >>> loop.close()
    """
    return lambda: epoch_ns + round(loop.time() * 1_000_000_000)
