"""Runs a scenario once: backend, script, the end of everything, and a result that says whether all held.

With a folder the run is *whole*: every LAN is captured, the captures are judged, and the folder is written (`folder.py`).
Without one it is *light*: the script, its requirements and measurements only, for the many runs of a sweep.
"""

from __future__ import annotations

import asyncio
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

from scenarios.witness.setup import CaptureFile, Setup
from tapstack.garbage import reclaimed
from unimux.cli.ending import interrupting
from unimux.cli.exits import as_sentence
from unimux.cli.settings import debugging

from .backend import Backend
from .charts import Chart
from .definition import Backend as BackendName
from .definition import Scenario
from .errors import ScenarioError, TooLong
from .measure import Metrics
from .mishaps import TITLE, Mishaps, where
from .parameters import Value
from .run import Claim, Comparison, Progress, Run
from .topology import Topology

Say = Callable[[str], None]

SIMULATED = "Simulated in virtual time: the router and the ordinary hosts are not Linux."
"""What a reader of any simulated run must know."""


@dataclass(frozen=True, slots=True)
class Order:
    """One run to do.  Plain values only, so that another process or machine can do it: `source` is for `definition.load`."""

    source: str
    values: Mapping[str, Value]
    seed: int
    backend: BackendName
    folder: Path | None = None


@dataclass(slots=True)
class Outcome:
    """What came of it, before captures are judged.

    steps, remarks, charts, comparisons, answer: what the script said.  chosen: the address whose connection is drawn.
    named: classes that nodes were told to use.
    interrupted: Ctrl-C, SIGTERM or SIGHUP ended the script.  seconds: of the run's own clock.  wall: of ours.
    """

    scenario: Scenario
    order: Order
    metrics: Metrics
    claims: list[Claim]
    comparisons: list[Comparison] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    answer: str = ""
    chosen: str | None = None
    named: list[str] = field(default_factory=list)
    topology: Topology = field(default_factory=Topology)
    interrupted: bool = False
    captures: list[CaptureFile] = field(default_factory=list)
    setup: Setup | None = None
    seconds: float = 0.0
    wall: float = 0.0

    @property
    def held(self) -> bool:
        """Whether every claim held; what captures show comes on top."""
        return bool(self.claims) and all(claim.holds for claim in self.claims)


def make_backend(name: BackendName, seed: int) -> Backend:
    """The backend of that name; raises where this machine cannot have it."""
    if name == "sim":
        from .sim import SimBackend

        return SimBackend(seed)
    from .netns import NetnsBackend

    return NetnsBackend(seed)


def execute(
    scenario: Scenario,
    order: Order,
    say: Say = lambda text: None,
    progress: Progress = lambda done, total, unit: None,
) -> Outcome:
    """Run once.  Errors of the script are claims that do not hold; errors of its use (`ScenarioError`) are raised.

    Ctrl-C, SIGTERM and SIGHUP end the script, not the process: what was measured until then is in the outcome.
    """
    values = scenario.values(order.values)
    backend = make_backend(order.backend, order.seed)
    outcome = Outcome(scenario, order, Metrics(), [])
    mishaps = Mishaps(scenario.file)
    began = time.perf_counter()

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(mishaps.hear)
        start = loop.time()
        async with AsyncExitStack() as stack:
            run = Run(backend, order.seed, order.folder, stack)
            run.on_step, run.on_progress = say, progress
            mishaps.say = run.say
            interrupted = await _script(scenario, run, values)
            outcome.setup = run.setup()
        outcome.seconds = loop.time() - start
        outcome.metrics, outcome.claims, outcome.comparisons = run.metrics, run.claims, run.comparisons
        outcome.charts, outcome.steps, outcome.remarks = run.charts, run.steps, run.remarks
        outcome.answer, outcome.chosen, outcome.topology = run.answered, run.chosen, run.topology
        outcome.named = run.named
        if interrupted is not None:
            outcome.interrupted = True
            outcome.remarks.insert(
                0,
                f"Interrupted after {interrupted:.1f} s: what was under way then counts as broken, and what the script would "
                "have told the judge later is missing.",
            )

    try:
        with reclaimed():  # a task that failed, and that nobody awaits, tells of it when it goes
            backend.run(main)
    except ScenarioError as error:
        _empty(order.folder)
        if not mishaps.count:
            raise
        raise ScenarioError(f"{as_sentence(str(error))} Before that {mishaps.sentence()}.") from error  # it may be why
    if mishaps.count:
        outcome.claims.append(Claim(TITLE, False, mishaps.sentence()))
    outcome.captures = backend.captures
    outcome.wall = time.perf_counter() - began
    if backend.simulated:
        outcome.remarks.append(SIMULATED)
    return outcome


async def _script(scenario: Scenario, run: Run, values: Mapping[str, Value]) -> float | None:
    """The script and the release of all addresses; what it raises becomes a claim that does not hold.

    Returns after how many seconds of its own time Ctrl-C, SIGTERM or SIGHUP ended it; None where nothing did.
    """
    title, failure = "The script ran to its end", ""
    limit = asyncio.timeout(scenario.limit)
    began = run.now()
    task = asyncio.current_task()
    assert task is not None
    cancel = asyncio.get_running_loop().call_soon_threadsafe
    interrupted: float | None = None
    try:
        with interrupting(lambda: cancel(task.cancel, INTERRUPTED)):
            async with limit:
                await scenario.script(run, **values)
                await run.until_released()
    except ScenarioError:
        raise
    except asyncio.CancelledError as error:
        if INTERRUPTED in error.args:
            task.uncancel()
            interrupted = run.now() - began
            failure = f"interrupted after {interrupted:.1f} s of its own time"
        elif task.cancelling():
            raise
        else:
            failure = f"it waited for what had been cancelled ({where(error, scenario.file)})"
    except (Exception, SystemExit) as error:  # also a script that ends itself: its report is wanted all the same
        failure = str(TooLong(scenario.limit)) if limit.expired() else where(error, scenario.file)
        if debugging():
            traceback.print_exception(error)
    run.require(title, not failure, because=failure)
    return interrupted


def _empty(folder: Path | None) -> None:
    """A run that could not be made leaves nothing: its folder was empty, and the next try may have it."""
    for each in folder.iterdir() if folder is not None else ():
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        else:
            each.unlink(missing_ok=True)


INTERRUPTED = "interrupted by the user"
