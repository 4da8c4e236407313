"""Many runs of one scenario: every combination of swept values, each with so many seeds, over processes or a cluster.

The unit of work is an `Order` and its result a `Row`, both plain values.  Rows come back in any order and are kept in the order
of the plan, so a sweep in sim gives the same tables whatever ran where.  What is done is kept at any moment: each row is
appended to a file as it arrives, and a sweep that is interrupted, or loses the processes it runs in, has its tables made from the
rows there are.  A run that fails, however it does, is a row and ends no other.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, cast

from unimux.cli.ending import SIGNALS, ended_by, interrupting, unheard
from unimux.errors import UnimuxError

from .definition import Backend, Scenario, load
from .errors import ScenarioError
from .execute import Order, execute
from .parameters import Value

WINDOW = 3
"""Orders handed out ahead, per worker: few enough that an interrupt is felt soon, enough that nobody waits."""

HEARING = 0.2
"""Seconds that a wait here lasts at most: a signal that comes when Python is about to block is heard when that is over."""

UNDOING = 20.0
"""Seconds that a process of a sweep has to undo what its run has made."""

INTERRUPTED = "Interrupted"
ENDED = "A process that ran the scenario was ended from outside (killed, or out of memory)"


@dataclass(frozen=True, slots=True)
class Row:
    """What one run of a sweep gave.  number: its place in the plan.  failed: what did not hold, and why.

    means: by metric, the mean of its samples.  wall: seconds that the run took here.
    """

    number: int
    values: Mapping[str, Value]
    seed: int
    passed: bool
    failed: tuple[str, ...]
    means: Mapping[str, float]
    units: Mapping[str, str]
    wall: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What a sweep is to do: `fixed` values, `axes` to sweep over, `repeat` seeds from `seed` on for each combination."""

    scenario: Scenario
    backend: Backend
    fixed: Mapping[str, Value]
    axes: Mapping[str, tuple[Value, ...]]
    repeat: int = 1
    seed: int = 1
    folder: Path | None = None
    """where every run leaves a folder of its own; None for light runs"""

    def orders(self) -> list[Order]:
        """Every run, combination by combination; equal seeds at each, so that combinations are compared on equal luck."""
        made: list[Order] = []
        for combination in itertools.product(*self.axes.values()):
            values = {**self.fixed, **dict(zip(self.axes, combination, strict=True))}
            for number in range(self.repeat):
                order = Order(self.scenario.source, values, self.seed + number, self.backend)
                if self.folder is not None:
                    order = replace(order, folder=self.folder / f"run-{len(made) + 1:04d}")
                made.append(order)
        return made


@dataclass(slots=True)
class Sweep:
    """A plan and the rows there are; `whole` says whether they are all, `stopped` why there are no more."""

    plan: Plan
    rows: list[Row] = field(default_factory=list)
    total: int = 0
    stopped: str = ""

    @property
    def whole(self) -> bool:
        """Whether every run was done."""
        return len(self.rows) == self.total

    @property
    def passed(self) -> bool:
        """Whether every run was done and passed."""
        return self.whole and all(row.passed for row in self.rows)


def work(number: int, order: Order) -> Row:
    """One run, in whatever process this is."""
    scenario = load(order.source)
    try:
        outcome = execute(scenario, order)
    except ScenarioError:
        raise
    except UnimuxError as error:  # the machine or the network of this run; the others may still be fine
        return _failed(number, order, str(error))
    finally:
        if _leaving:
            os._exit(1)  # the queue that the row would take may be in any state
    failed = [f"{claim.title}: {claim.sentence}" for claim in outcome.claims if not claim.holds]
    passed = outcome.held
    if order.folder is not None:
        from .folder import conclude

        verdicts = conclude(outcome)
        passed = passed and verdicts.passed
        failed += [f"{f.title}: {f.sentence}" for f in verdicts.captured if f.verdict.value != "passed"]
    units = {metric.column: metric.unit for metric in outcome.metrics}
    return Row(
        number, dict(order.values), order.seed, passed, tuple(failed), outcome.metrics.means(), units, outcome.wall
    )


def _failed(number: int, order: Order, why: str) -> Row:
    return Row(number, dict(order.values), order.seed, False, (why,), {}, {}, 0.0)


def _outcome(future: Future[Row], number: int, order: Order, wrong: list[ScenarioError]) -> Row:
    """The row of a run that is over; one that could not be run is a row as well, and a wrong scenario is noted in `wrong`."""
    try:
        return future.result()
    except ScenarioError as error:
        wrong.append(error)
        return _failed(number, order, str(error))
    except Exception as error:
        return _failed(number, order, f"{type(error).__name__}: {error}")


def run_sweep(
    plan: Plan,
    executor: Executor,
    workers: int,
    journal: Path,
    told: Callable[[int, int, Row], None] = lambda done, total, row: None,
) -> Sweep:
    """Do the plan on an executor.  `told(done, total, row)` after each run.  Ctrl-C, SIGTERM and SIGHUP end it with what is done.

    They are heard in the queue, between two things to do, and raise nothing inside the executor: what that holds in such a
    moment, the lock of a future for instance, it would hold for ever.

    Raises the `ScenarioError` of the first run where every run has one: then it is the call that is wrong, not a run.
    """
    orders = plan.orders()
    sweep = Sweep(plan, total=len(orders))
    waiting = iter(enumerate(orders, 1))
    running: dict[Future[Row], tuple[int, Order]] = {}
    done: SimpleQueue[Future[Row] | None] = SimpleQueue()  # None: an interrupt
    wrong: list[ScenarioError] = []

    def keep(ended: Future[Row]) -> None:
        row = _outcome(ended, *running.pop(ended), wrong)
        sweep.rows.append(row)
        file.write(json.dumps(asdict(row), ensure_ascii=False, default=str) + "\n")
        file.flush()
        told(len(sweep.rows), sweep.total, row)

    with journal.open("a", encoding="utf-8") as file, interrupting(lambda: done.put(None)):
        try:
            while not sweep.stopped:
                for number, order in itertools.islice(waiting, max(workers * WINDOW - len(running), 0)):
                    if order.folder is not None:
                        order.folder.mkdir(parents=True, exist_ok=True)
                    future = executor.submit(work, number, order)
                    running[future] = (number, order)
                    future.add_done_callback(done.put)
                if not running:
                    break
                try:
                    ended = done.get(timeout=HEARING)
                except Empty:
                    continue
                if ended is None:
                    sweep.stopped = INTERRUPTED
                    break
                if isinstance(ended.exception(), BrokenExecutor):
                    sweep.stopped = ENDED
                    break
                keep(ended)
        except BrokenExecutor:
            sweep.stopped = ENDED
        if sweep.stopped == ENDED:
            others, interrupted = _left(done)
            for ended in others:
                keep(ended)
            if interrupted:
                sweep.stopped = INTERRUPTED
    if wrong and len(wrong) == len(sweep.rows):
        raise wrong[0]
    sweep.rows.sort(key=lambda row: row.number)
    return sweep


def _left(done: SimpleQueue[Future[Row] | None]) -> tuple[list[Future[Row]], bool]:
    """After a process of the sweep has ended: the runs that had ended before, and whether an interrupt came.

    A signal to the whole group may be heard there sooner than here.
    """
    ended: list[Future[Row]] = []
    with suppress(Empty):
        while (future := done.get(timeout=HEARING)) is not None:
            if not isinstance(future.exception(), BrokenExecutor):
                ended.append(future)
        return ended, True
    return ended, False


@contextmanager
def processes(count: int) -> Iterator[Executor]:
    """An executor of processes on this machine, which leave the keyboard to us.

    At the end what they are at is waited for; who interrupts that ends them, and so do SIGTERM and SIGHUP, which wait for no run.
    """
    _begin_servers()
    context = multiprocessing.get_context("forkserver")
    strangers = multiprocessing.active_children()
    executor = ProcessPoolExecutor(count, mp_context=context, initializer=_hear)
    try:
        yield executor
    finally:
        # A `shutdown` that waits must not be interrupted: Python 3.11 takes the executor's thread for ended then, and closes
        # what it still reads from.
        at_work = [process for process in multiprocessing.active_children() if process not in strangers]
        ended = False
        try:
            with unheard():
                executor.shutdown(wait=False, cancel_futures=True)
            ended = ended_by() is None and not _await_end(at_work)
        except KeyboardInterrupt:
            pass
        if not ended:
            with unheard():
                _end(at_work)


def _begin_servers() -> None:
    """Start what forks and what tidies up for the processes, deaf to the SIGHUP of a terminal that goes: they end with us."""
    if threading.current_thread() is not threading.main_thread():
        return  # only the main one may choose; then they begin with the first process
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        resource_tracker.ensure_running()
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGHUP, before)


def _end(processes: Sequence[BaseProcess]) -> None:
    """End them, in order where they can.

    They are told again and again.  Of two signals that come at once the kernel may hand both to a thread beside the main one,
    whose sleep then goes on; and one that comes when Python is about to block is not heard until that is over.
    """
    until = time.monotonic() + UNDOING
    while processes and time.monotonic() < until:
        for process in processes:
            process.terminate()
        processes = _await_end(processes, HEARING)
    for process in processes:
        process.kill()
    _await_end(processes)


def _await_end(processes: Sequence[BaseProcess], patience: float = math.inf) -> list[BaseProcess]:
    """Those that have not ended in so many seconds; does not take the statuses of the others from whoever else waits."""
    left = {process.sentinel: process for process in processes}
    until = time.monotonic() + patience
    while left:
        rest = max(until - time.monotonic(), 0.0)
        ended = multiprocessing.connection.wait(left, min(rest, HEARING))
        if not ended and not rest:
            break
        for sentinel in cast(list[int], ended):
            del left[sentinel]
    return list(left.values())


_leaving = False


def _hear() -> None:
    """In a process of a sweep: Ctrl-C is its parent's, the other signals end it when it has undone what it made.

    So does the end of the process that began the sweep, however that comes.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in SIGNALS:
        signal.signal(number, _leave)
    threading.Thread(target=_end_with_the_sweep, daemon=True).start()


def _end_with_the_sweep() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        for _ in range(round(UNDOING / HEARING)):  # as `_end` does, and why
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(HEARING)
        os.kill(os.getpid(), signal.SIGKILL)


def _heard(number: int, frame: FrameType | None) -> None:
    """Nothing is left to do; a handler, unlike SIG_IGN, is not passed on to programs."""


def _leave(number: int, frame: FrameType | None) -> None:
    global _leaving
    _leaving = True
    for each in SIGNALS:  # the next would end it in the middle; `_end` kills what does not come to its end
        signal.signal(each, _heard)
    raise SystemExit(128 + number)  # also of a script that holds the loop up


@contextmanager
def cluster(where: str, count: int) -> Iterator[tuple[Executor, int]]:
    """An executor on a Dask cluster and its number of workers; where: a scheduler's address, or "local" for one made here."""
    try:
        dask: Any = importlib.import_module("distributed")
    except ImportError as error:
        raise ScenarioError("A sweep on a cluster needs Dask: pip install 'unimux[cluster]'.") from error
    made: Any = None
    try:
        if where == "local":
            made = dask.LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None)
            client: Any = dask.Client(made)
        else:
            client = dask.Client(where, timeout=10)
    except (OSError, TimeoutError) as error:
        raise ScenarioError(f"There is no Dask scheduler at {where}: start one with `dask scheduler`.") from error
    try:
        with client:
            workers = sum(client.ncores().values())
            if not workers:
                raise ScenarioError(
                    f"The Dask scheduler at {where} has no workers: start some with `dask worker {where}`."
                )
            executor: Any = client.get_executor(pure=False)
            try:
                yield executor, workers
            finally:
                executor.shutdown(wait=False)  # nobody asks for what has not ended by now
    finally:
        if made is not None:
            made.close()


def cores() -> int:
    """How many processes this one may use at a time."""
    return len(os.sched_getaffinity(0))


def points(sweep: Sweep) -> dict[tuple[Value, ...], list[Row]]:
    """The rows by combination of swept values, in the order of the plan."""
    found: dict[tuple[Value, ...], list[Row]] = {}
    for row in sweep.rows:
        found.setdefault(tuple(row.values[axis] for axis in sweep.plan.axes), []).append(row)
    return found


def metric_names(rows: Sequence[Row]) -> list[str]:
    """The metrics that any row has, in the order of first mention."""
    return list(dict.fromkeys(name for row in rows for name in row.means))
