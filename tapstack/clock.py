"""An asyncio event loop under a virtual clock.

Model.  The loop's time is a number that stands still while callbacks run.  When nothing is ready, it jumps to
the moment of the earliest scheduled callback; nobody sleeps, so two hours of TIME-WAIT cost as little as two
milliseconds.  Nothing outside the loop exists for it: no file descriptors, no threads, no signals.

Invariants.
- `time()` never goes back, and when a callback made with `call_at(when)` runs, `time()` is at least `when`
  and, unless earlier work held it up, exactly `when`.
- Callbacks due at one moment run in the order of their times, those of equal time in the order asyncio's heap
  gives them; `call_soon` callbacks in the order they were made.  The same program runs the same way each time.
- If nothing is ready and nothing is scheduled, the awaited result can never come: the loop raises
  `VirtualDeadlockError` instead of waiting for ever.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class VirtualDeadlockError(RuntimeError):
    """Nothing is ready and nothing is scheduled, yet the loop was asked to go on."""


class _Jump:
    """Stands where a selector would; its `select` moves the clock instead of waiting."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[Any]:
        """Let `timeout` seconds pass; None means that there is nothing to wait for."""
        if timeout is None:
            raise VirtualDeadlockError(self._loop._deadlock_text())
        if timeout > 0:
            self._loop._jump()
        return []


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

    # BaseEventLoop's own: the heap of timers, the place of the selector, and how far ahead of time() a timer is due.
    _scheduled: list[asyncio.TimerHandle]
    _clock_resolution: float

    def __init__(self, start: float = 0.0) -> None:
        super().__init__()
        self._now = start
        self._selector = _Jump(self)
        self._clock_resolution = math.ulp(start)

    def time(self) -> float:
        """The virtual time in seconds."""
        return self._now

    def _jump(self) -> None:
        # asyncio runs the timers with `when < time() + resolution`.  With a resolution of one unit in the last
        # place these are exactly the timers due now, however large the time is.
        self._now = max(self._now, self._scheduled[0].when())
        self._clock_resolution = math.ulp(self._now)

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

    def _process_events(self, event_list: list[Any]) -> None:
        pass

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
