"""The timer queue: moving, and what a retired timer leaves behind."""

from __future__ import annotations

import gc
import weakref

from tapstack.timers import TimerQueue


class Owner:
    """Whatever a callback belongs to."""

    def due(self, now: float) -> None:
        raise AssertionError("a retired timer fired")


def test_a_retired_timer_never_fires_and_lets_go_of_its_owner() -> None:
    queue = TimerQueue()
    owner = Owner()
    timer = queue.timer(owner.due)
    timer.set(60.0)
    gone = weakref.ref(owner)
    timer.retire()
    del owner
    gc.collect()
    assert gone() is None, "an hour's time-out must not keep a dead connection"
    assert queue.deadline() is None
    queue.run(61.0)


def test_retired_timers_do_not_pile_up() -> None:
    queue = TimerQueue()
    fired: list[float] = []
    live = [queue.timer(fired.append) for _ in range(10)]
    for number, timer in enumerate(live):
        timer.set(100.0 + number)
    for _ in range(10_000):
        timer = queue.timer(fired.append)
        timer.set(60.0)
        timer.retire()
    assert len(queue._heap) < 300
    assert len(queue) == 10
    queue.run(200.0)
    assert fired == [200.0] * 10


def test_timers_that_are_moved_to_and_fro_do_not_pile_up() -> None:
    queue = TimerQueue()
    fired: list[float] = []
    timer = queue.timer(fired.append)
    for now in range(10_000):
        timer.set(1e6)  # what is left of an earlier round is due at this very time
        timer.set(now + 0.5)
        queue.run(now + 1.0)
    assert len(queue._heap) < 100
    assert len(queue) == 0
    assert len(fired) == 10_000
    timer.set(1e6)
    queue.run(2e6)
    assert fired[10_000:] == [2e6]


def test_a_timer_that_is_moved_to_and_fro_fires_once() -> None:
    queue = TimerQueue()
    fired: list[float] = []
    timer = queue.timer(fired.append)
    for when in (5.0, 9.0, 3.0, 7.0):
        timer.set(when)
    timer.cancel()
    timer.set(4.0)
    queue.run(3.9)
    assert not fired
    assert queue.deadline() == 4.0
    queue.run(10.0)
    assert fired == [10.0]


def test_a_timer_that_is_disarmed_and_armed_again_keeps_its_place() -> None:
    """As that of a delayed acknowledgement is for each segment: who comes too early finds nothing to do."""
    queue = TimerQueue()
    fired: list[float] = []
    timer = queue.timer(fired.append)
    for moment in range(100):
        timer.set(moment + 40.0)
        timer.cancel()
    timer.set(140.0)
    assert len(queue._heap) == 1
    assert queue.soonest() == 40.0
    queue.run(40.0)
    assert not fired
    assert queue.soonest() == queue.deadline() == 140.0
    queue.run(140.0)
    assert fired == [140.0]
    assert queue.soonest() is None
