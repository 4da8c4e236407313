"""The idle time of a flow, and when it is looked at again."""

from __future__ import annotations

from typing import cast

import pytest

from tapstack.timers import TimerQueue
from tapstack.udp.flow import UdpFlow
from tapstack.udp.idle import IdleTimer


class Flow:
    """What is asked of a flow, a few times."""

    def __init__(self) -> None:
        self.used = 0.0
        self.looks = 0

    @property
    def last_used(self) -> float:
        self.looks += 1
        assert self.looks < 10, "the timer fires again and again"
        return self.used


@pytest.mark.parametrize("used", [3.3, 12.3, 3.0])
def test_a_flow_ends_when_its_idle_time_is_over_however_that_is_rounded(used: float) -> None:
    queue, flow, over = TimerQueue(), Flow(), list[float]()
    IdleTimer(queue, cast(UdpFlow, flow), 30.0, over.append)
    flow.used = used
    queue.run(30.0)
    assert queue.deadline() == used + 30.0
    assert (used + 30.0 - used < 30.0) == (used != 3.0), "two of the sums are rounded down"
    queue.run(used + 30.0)
    assert over == [used + 30.0]
    assert queue.deadline() is None
