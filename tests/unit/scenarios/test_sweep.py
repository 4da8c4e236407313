"""Sweeps in which something goes wrong: a run, the processes, the scenario; the rows that there are make the tables."""

from __future__ import annotations

import _thread
import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import pytest
from typer.testing import CliRunner, Result

from scenarios.engine.definition import load
from scenarios.engine.sweep import ENDED, INTERRUPTED, WINDOW, Plan, Row, _end, processes, run_sweep
from unimux.cli.main import app, run

SCRIPT = '''"""What is left of a sweep when a run goes wrong?"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

from scenarios.engine import Parameter, Run, ScenarioError, scenario


@scenario(backends=("sim",))
async def accident(run: Run, *, x: Annotated[int, Parameter("which accident", least=0)] = 0) -> None:
    run.measure("y", x)
    run.measure("x", 10 * x)
    run.require("It came so far", True)
    if x == 3:
        os._exit(1)
    if x == 5:
        raise SystemExit(3)
    if x == 11:
        try:
            Path(__file__).with_name("begun").touch()
            time.sleep(600)
        finally:  # what a run has made takes its time to undo
            time.sleep(1)
            Path(__file__).with_name("undone").touch()
    if x == 9:
        raise ValueError("no such [/key]")
    if x == 7:
        raise ScenarioError("Seven cannot be run.")
'''


def sweep(tmp_path: Path, values: str, *more: str) -> Result:
    file = tmp_path / "accident.py"
    file.write_text(SCRIPT)
    call = ["run", str(file), "--sweep", f"x={values}", "--jobs", "1", "--out", str(tmp_path / "out"), *more]
    return CliRunner().invoke(app, ["scenario", *call])


def results(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_sweep_that_loses_its_processes_keeps_the_rows_that_it_has(tmp_path: Path) -> None:
    done = sweep(tmp_path, "0,1,2,3,4,6", "--json")
    assert done.exit_code == 1, done.output
    told = json.loads(done.stdout)
    rows = results(tmp_path / "out")
    assert [row["x"] for row in rows] == ["0", "1", "2"][: told["runs"]]
    assert 1 <= told["runs"] < told["of"] == 6
    assert "killed, or out of memory" in told["stopped"]
    assert "killed, or out of memory): " in (tmp_path / "out" / "report.html").read_text()


def test_a_run_that_fails_is_a_row_and_ends_no_other(tmp_path: Path) -> None:
    done = sweep(tmp_path, "1,5,7,2", "--json")
    assert done.exit_code == 1, done.output
    rows = results(tmp_path / "out")
    assert [(row["x"], row["passed"]) for row in rows] == [("1", "yes"), ("5", "no"), ("7", "no"), ("2", "yes")]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Seven cannot be run" in page
    assert "include what failed runs had measured" in page
    assert json.loads(done.stdout)["failed"] == 2


def test_what_went_wrong_is_told_as_it_is(tmp_path: Path) -> None:
    """Brackets are no markup of the terminal."""
    done = sweep(tmp_path, "1,9")
    assert done.exit_code == 1, done.exception
    assert "no such [/key]" in " ".join(done.output.split())


def test_a_scenario_that_no_run_can_be_made_of_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "accident.py").write_text(SCRIPT)
    call = ["scenario", "run", str(tmp_path / "accident.py"), "--set", "x=7", "--repeat", "2"]
    assert run([*call, "--out", str(tmp_path / "out")]) == 2
    assert "Seven cannot be run." in capsys.readouterr().err


def test_a_metric_and_a_parameter_of_one_name_are_two_columns(tmp_path: Path) -> None:
    assert sweep(tmp_path, "1,2").exit_code == 0
    assert [(row["x"], row["x (measured)"], row["y"]) for row in results(tmp_path / "out")] == [
        ("1", "10.0", "1.0"),
        ("2", "20.0", "2.0"),
    ]


def in_its_second_run(folder: Path) -> subprocess.Popen[bytes]:
    """A sweep whose first run is in the journal and whose second does not end."""
    (folder / "accident.py").write_text(SCRIPT)
    journal = folder / "out" / "journal.jsonl"
    command = [sys.executable, "-m", "unimux", "scenario", "run", str(folder / "accident.py")]
    command += ["--sweep", "x=1,11,2", "--jobs", "1", "--out", str(folder / "out")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    deadline = time.monotonic() + 60
    while not ((folder / "begun").exists() and journal.exists() and journal.stat().st_size):
        assert process.poll() is None and time.monotonic() < deadline
        os.sched_yield()
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    """End it where it goes on, and let go of it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stderr is not None
    process.stderr.close()


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_sweep_waits_for_no_run_and_keeps_the_rows(
    tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    process = in_its_second_run(tmp_path)
    try:
        if group:
            os.killpg(process.pid, number)  # as a terminal does that goes
        else:
            process.send_signal(number)
        process.send_signal(number)  # and its shell
        _, said = process.communicate(timeout=60)
    finally:
        end(process)
    assert process.returncode == 128 + number, said
    assert (tmp_path / "undone").exists(), "a second signal, or the end of its parent, ends no run that undoes"
    assert [row["x"] for row in results(tmp_path / "out")] == ["1"]
    assert b"Traceback" not in said, said
    deadline = time.monotonic() + 60
    with suppress(ProcessLookupError):
        while time.monotonic() < deadline:  # until nobody is left of it
            os.killpg(process.pid, 0)
            os.sched_yield()
        raise AssertionError("it left a process")


def test_who_interrupts_twice_need_not_wait_for_a_run_and_keeps_the_rows(tmp_path: Path) -> None:
    process = in_its_second_run(tmp_path)
    try:
        for pause in (2, 60):  # not one more, which could come when Python has ended already
            process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                process.wait(pause)
        assert process.poll() is not None, "it waits for the run"
        _, said = process.communicate(timeout=30)
    finally:
        end(process)
    assert process.returncode == 130, said
    assert [row["x"] for row in results(tmp_path / "out")] == ["1"]
    assert b"Traceback" not in said, said


def test_a_sweep_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    process = in_its_second_run(tmp_path)
    try:
        process.kill()
        process.communicate(timeout=60)
        deadline = time.monotonic() + 60
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                os.sched_yield()
            raise AssertionError("it left a process")
    finally:
        end(process)


class Idle(Executor):
    """Takes orders and runs none; `interrupt` is called while it takes the first one."""

    def __init__(self, interrupt: Callable[[], object]) -> None:
        self.taken: list[Future[Any]] = []
        self._interrupt = interrupt

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        if not self.taken:
            self._interrupt()
        self.taken.append(Future())
        return self.taken[-1]


def soon(act: Callable[[], object]) -> None:
    threading.Timer(0.3, act).start()


def interrupt_unnoticed() -> None:
    """A signal that came just before Python blocked: it is known, and no system call of the main thread has been interrupted."""
    _thread.interrupt_main()


PLAN = Plan(load("hello"), "sim", {}, {"size": (10, 1000)}, repeat=3)


def test_an_interrupt_comes_between_what_an_executor_does_and_not_in_it(tmp_path: Path) -> None:
    """An exception there leaves a lock held for ever, and the command waits for it at its end."""
    executor = Idle(lambda: signal.raise_signal(signal.SIGINT))
    done = run_sweep(PLAN, executor, 1, tmp_path / "journal.jsonl")
    assert done.stopped == INTERRUPTED
    assert len(executor.taken) == WINDOW


def test_an_interrupt_is_heard_also_when_it_comes_as_the_sweep_begins_to_wait(tmp_path: Path) -> None:
    done = run_sweep(PLAN, Idle(lambda: soon(interrupt_unnoticed)), 1, tmp_path / "journal.jsonl")
    assert done.stopped == INTERRUPTED


def test_an_interrupt_is_heard_also_when_it_comes_as_the_end_of_a_run_begins_to_be_waited_for() -> None:
    with processes(1) as executor:
        asleep = executor.submit(signal.pause)
        while not asleep.running():
            os.sched_yield()
        soon(interrupt_unnoticed)
    assert not multiprocessing.active_children()


class Deaf:
    """A process that does not hear the first signal: a thread beside the main one took it, or Python was about to block."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.sentinel, self._alive = os.pipe()

    def terminate(self) -> None:
        self.told.append("terminate")
        if len(self.told) == 2:
            os.close(self._alive)

    def kill(self) -> None:
        self.told.append("kill")
        os.close(self._alive)


def test_a_process_that_does_not_hear_a_signal_is_told_again_and_not_killed_while_it_may_undo() -> None:
    deaf = Deaf()
    _end([cast(BaseProcess, deaf)])
    os.close(deaf.sentinel)
    assert deaf.told == ["terminate", "terminate"]


class Mortal(Executor):
    """Does six runs; the seventh order finds that a process has died."""

    def __init__(self) -> None:
        self.done = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.done += 1
        if self.done > 6:
            raise BrokenExecutor("a process died")
        _, number, order = args
        future: Future[Any] = Future()
        future.set_result(Row(number, dict(order.values), order.seed, True, (), {}, {}, 0.0))
        return future


def test_what_had_ended_when_a_process_died_is_kept(tmp_path: Path) -> None:
    done = run_sweep(Plan(load("hello"), "sim", {}, {}, repeat=10), Mortal(), 4, tmp_path / "journal.jsonl")
    assert len(done.rows) == len((tmp_path / "journal.jsonl").read_text().splitlines()) == 6
    assert done.stopped == ENDED
