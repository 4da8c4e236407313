"""How a benchmark is run: how large, how often, on which loop; and the turns that it takes with its baseline."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from tapstack.tcp.options import TimeWait

MIB = 1 << 20
T = TypeVar("T")
Run = Callable[[], Awaitable[float]]


@dataclass(frozen=True, slots=True)
class Setting:
    """What is given to every benchmark.

    smoke: as small as it can be, to see that it works; its figures mean nothing.  repeats: measurements per figure.
    seconds: of one bulk transfer.  say: progress, for people.  uvloop: the loop that is not asyncio's own.
    workers: processes that share a TAP in P-4 and P-6, besides those of one process.
    """

    smoke: bool
    repeats: int
    seconds: float
    time_wait: TimeWait
    uvloop: bool
    say: Callable[[str], None]
    workers: int = 1

    def many(self, full: int, smoke: int) -> int:
        """A number of things."""
        return smoke if self.smoke else full

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` on a fresh loop, and clean up after it."""
        factory: Callable[[], asyncio.AbstractEventLoop] | None = None
        if self.uvloop:
            import uvloop

            factory = uvloop.new_event_loop
        gc.collect()
        with asyncio.Runner(loop_factory=factory) as runner:
            return runner.run(main)


async def take_turns(repeats: int, *runs: Run) -> list[list[float]]:
    """Measure A B A B …, since a machine's speed drifts; the measurements of each run."""
    measured: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for run, values in zip(runs, measured, strict=True):
            values.append(await run())
    return measured


def percentile(ordered: list[float], share: float) -> float:
    """Of an ordered list, the value below which `share` of it lies.

    >>> percentile([1.0, 2.0, 3.0, 4.0], 0.5)
    3.0
    """
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
