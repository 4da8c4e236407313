"""The delay queue: order by time, then by arrival; one pending callback; bounds."""

from __future__ import annotations

import asyncio
import random

from tapstack.clock import run_virtual
from tapstack.link.schedule import DelayQueue


def test_items_come_by_due_time_then_in_the_order_pushed() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        seen: list[tuple[float, int, float]] = []
        queue: DelayQueue[tuple[float, int]] = DelayQueue(
            loop, lambda items: seen.extend((loop.time(), number, due) for due, number in items), 1000
        )
        source = random.Random(1)
        pushed = [(source.randrange(20) / 4, number) for number in range(1000)]
        for due, number in pushed:
            assert queue.push(due, (due, number))
        assert queue.next_due == 0.0
        assert not queue.push(0.0, (0.0, -1))
        await asyncio.sleep(10)
        assert [(due, number) for _, number, due in seen] == sorted(pushed)
        assert all(now == due for now, _, due in seen)
        assert queue.next_due is None

    run_virtual(main())


def test_pushes_made_while_delivering_come_in_a_later_round() -> None:
    async def main() -> None:
        depth = 0
        rounds = 0

        def deliver(items: list[int]) -> None:
            nonlocal depth, rounds
            depth += 1
            assert depth == 1
            rounds += 1
            for item in items:
                if item:
                    queue.push(0.0, item - 1)
            depth -= 1

        queue: DelayQueue[int] = DelayQueue(asyncio.get_running_loop(), deliver, 10)
        queue.push(0.0, 5)
        await asyncio.sleep(1)
        assert rounds == 6

    run_virtual(main())


def test_clear_forgets_and_the_queue_works_on() -> None:
    async def main() -> None:
        seen: list[str] = []
        queue: DelayQueue[str] = DelayQueue(asyncio.get_running_loop(), seen.extend, 10)
        queue.push(1.0, "forgotten")
        queue.clear()
        assert len(queue) == 0
        queue.push(2.0, "kept")
        await asyncio.sleep(3)
        assert seen == ["kept"]

    run_virtual(main())
