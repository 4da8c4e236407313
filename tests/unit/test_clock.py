"""The virtual-time loop: exact instants, order, deadlock, and nothing real inside."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial

import pytest

from tapstack.clock import PATIENCE, VirtualDeadlockError, VirtualTimeLoop, run_virtual, wall_clock


@pytest.mark.parametrize("start", [0.0, 1e6, 1.7e9, -5.0])
def test_timers_run_exactly_when_due_at_any_magnitude(start: float) -> None:
    async def main() -> list[tuple[float, float]]:
        loop = asyncio.get_running_loop()
        assert loop.time() == start
        seen: list[tuple[float, float]] = []
        due = [start + step for step in (0.1, 0.1 + 1e-6, 0.3, 2e-6, 86400.0 * 3, 0.7)]
        for when in due:
            loop.call_at(when, partial(lambda when: seen.append((when, loop.time())), when))
        await asyncio.sleep(86400 * 4)
        assert [when for when, _ in seen] == sorted(due)
        return seen

    for when, now in run_virtual(main(), start=start):
        assert now == when


def test_a_day_takes_no_wall_time() -> None:
    async def main() -> None:
        for _ in range(1000):
            await asyncio.sleep(86.4)

    before = time.monotonic()
    run_virtual(main())
    assert time.monotonic() - before < 5.0  # 86,400 virtual seconds; generous for a loaded machine


def test_time_stands_still_while_callbacks_are_ready() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        for _ in range(100):
            await asyncio.sleep(0)
        assert loop.time() == 0.0

    run_virtual(main())


def test_equal_programs_run_equally() -> None:
    def trace() -> list[tuple[float, int]]:
        seen: list[tuple[float, int]] = []

        async def worker(number: int) -> None:
            loop = asyncio.get_running_loop()
            for step in range(20):
                await asyncio.sleep((number * 7 + step) % 5 / 10)
                seen.append((loop.time(), number))

        async def main() -> None:
            await asyncio.gather(*(worker(n) for n in range(10)))

        run_virtual(main())
        return seen

    first = trace()
    assert len(first) == 200
    assert first == trace()


def test_timeouts_are_virtual() -> None:
    async def main() -> float:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(30):
                await asyncio.Event().wait()
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 30.0


def test_a_wait_that_cannot_end_is_an_error_that_names_the_task() -> None:
    async def stuck_here() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await asyncio.create_task(stuck_here(), name="the-stuck-one")

    with pytest.raises(VirtualDeadlockError, match="the-stuck-one in stuck_here"):
        run_virtual(main())


def test_only_cancelled_timers_left_is_a_deadlock_too() -> None:
    async def main() -> None:
        asyncio.get_running_loop().call_later(5, print).cancel()
        await asyncio.Event().wait()

    with pytest.raises(VirtualDeadlockError):
        run_virtual(main())


def test_results_and_errors_come_out() -> None:
    async def good() -> int:
        return 7

    async def bad() -> int:
        raise KeyError("x")

    assert run_virtual(good()) == 7
    with pytest.raises(KeyError):
        run_virtual(bad())


def test_left_behind_tasks_are_cancelled() -> None:
    ended: list[str] = []

    async def forever() -> None:
        try:
            while True:
                await asyncio.sleep(1)
        finally:
            ended.append("cancelled")

    tasks: set[asyncio.Task[None]] = set()

    async def main() -> None:
        tasks.add(asyncio.create_task(forever()))
        await asyncio.sleep(10.5)

    run_virtual(main())
    assert ended == ["cancelled"]


def test_executor_calls_run_inline() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert await loop.run_in_executor(None, divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, divmod, 7, 0)

    run_virtual(main())


def test_threadsafe_callbacks_made_inside_run() -> None:
    async def main() -> bool:
        event = asyncio.Event()
        asyncio.get_running_loop().call_soon_threadsafe(event.set)
        return await event.wait()

    assert run_virtual(main())


def test_file_descriptors_are_refused() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with pytest.raises(NotImplementedError, match="no file descriptors"):
            loop.add_reader(0, print)
        with pytest.raises(NotImplementedError, match="no file descriptors"):
            loop.add_writer(0, print)

    run_virtual(main())


def test_wall_clock_keeps_nanoseconds() -> None:
    with contextlib.closing(VirtualTimeLoop(start=0.000000123)) as loop:
        assert wall_clock(loop, 1_700_000_000_000_000_000)() == 1_700_000_000_000_000_123


def test_what_comes_in_turn_comes_after_what_the_one_before_led_to() -> None:
    async def main() -> list[str]:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        seen: list[str] = []

        def work(name: str, more: int) -> None:
            seen.append(f"{name}{more}")
            if more:
                loop.call_soon(work, name, more - 1)

        for name in "abcd":
            loop.call_in_turn(1.0, partial(work, name, 2))
        loop.call_in_turn(1.0, partial(work, "cancelled", 2)).cancel()
        for name in "xyz":
            loop.call_at(1.0, work, name, 1)
        loop.call_in_turn(1.5, lambda: seen.append(str(loop.time())))
        await asyncio.sleep(2)
        return seen

    timers = ["x1", "y1", "z1", "x0", "y0", "z0"]  # as on any loop, those due together in the order they were made
    assert run_virtual(main()) == [*timers, *(f"{name}{more}" for name in "abcd" for more in (2, 1, 0)), "1.5"]


def test_callbacks_that_never_end_keep_nothing_waiting_whose_time_has_come() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        timer, turn = asyncio.Event(), asyncio.Event()
        loop.call_later(0, timer.set)
        loop.call_in_turn(0.0, turn.set)
        for _ in range(2):
            await asyncio.sleep(0)
        assert timer.is_set()
        for _ in range(PATIENCE + 2):
            await asyncio.sleep(0)
        assert turn.is_set()
        assert loop.time() == 0.0

    run_virtual(main())


def test_cancelled_timers_leave_the_heap_and_the_others_run() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[int] = []
        timers = [loop.call_later(1 + number / 1000, seen.append, number) for number in range(1000)]
        for number, timer in enumerate(timers):
            if number % 10:
                timer.cancel()
        await asyncio.sleep(0.5)
        assert isinstance(loop, VirtualTimeLoop)
        assert len(loop._scheduled) <= 200
        await asyncio.sleep(2)
        assert seen == list(range(0, 1000, 10))

    run_virtual(main())


def test_a_closed_loop_takes_no_timer() -> None:
    loop = VirtualTimeLoop()
    loop.close()
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_at(1.0, print)
