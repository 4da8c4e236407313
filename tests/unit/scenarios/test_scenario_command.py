"""`unimux scenario`: list, show, new, run, sweep, report, as their users call them."""

from __future__ import annotations

import csv
import errno
import hashlib
import importlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from scenarios.engine.errors import ScenarioError
from scenarios.engine.sweep import cores
from unimux.cli.main import app, run


def unimux(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["scenario", *map(str, arguments)])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_list_names_question_and_parameters() -> None:
    result = unimux("list", "--json")
    hello = next(each for each in json.loads(result.stdout) if each["name"] == "hello")
    assert hello["question"].endswith("release?")
    assert hello["parameters"][0]["takes"].startswith("a whole number")
    shown = unimux("list").stdout
    assert "hello" in shown
    assert "[slide" in shown, "a question's brackets are words"
    assert "bytes each way" in unimux("show", "hello").stdout


def test_a_new_scenario_runs_at_once(tmp_path: Path) -> None:
    assert unimux("new", "my-question", "--folder", tmp_path).exit_code == 0
    path = tmp_path / "my_question.py"
    result = unimux("run", path, "--quick", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["metrics"]["setup"] > 0
    assert told["answer"].startswith("It takes ")
    for part in ("run.witness(", "run.leave_out(", "shows=("):  # what nobody would look for
        assert part in path.read_text(encoding="utf-8")
    again = unimux("run", "--again", tmp_path / "out", "--out", tmp_path / "again", "--json")
    assert again.exit_code == 0, again.output
    for name in ("wire/client.pcapng", "events.jsonl", "metrics.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_sweep_leaves_tables_with_intervals(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    result = unimux(
        "run", "parallel", "--sweep", "sessions=1,3", "--set", "size=100", "--repeat", "2", "--out", folder, "--json"
    )
    assert result.exit_code == 0, result.output
    done = rows(folder / "results.csv")
    assert [(row["sessions"], row["seed"], row["passed"]) for row in done] == [
        ("1", "1", "yes"), ("1", "2", "yes"), ("3", "1", "yes"), ("3", "2", "yes"),
    ]  # fmt: skip
    summary = rows(folder / "summary.csv")
    setup = next(row for row in summary if row["metric"] == "setup" and row["sessions"] == "3")
    assert setup["runs"] == "2"
    assert float(setup["ci95_low"]) <= float(setup["mean"]) <= float(setup["ci95_high"])
    assert "<svg" in (folder / "report.html").read_text()
    parquet = importlib.import_module("pyarrow.parquet")
    for name in ("results", "summary"):
        table = parquet.read_table(folder / f"{name}.parquet")
        assert table.column_names == list(rows(folder / f"{name}.csv")[0])
    column = parquet.read_table(folder / "summary.parquet").column("ci95_high").to_pylist()
    assert column == [float(row["ci95_high"]) for row in summary]
    assert not (folder / "journal.jsonl").exists()
    assert "confidence intervals" in (folder / "report.html").read_text()
    told = unimux("report", folder, "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["summary"] == summary


def test_one_run_has_no_interval(tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    result = unimux("run", "parallel", "--sweep", "sessions=1,3", "--set", "size=100", "--out", folder, "--json")
    assert result.exit_code == 0, result.output
    assert {(row["runs"], row["ci95_low"], row["ci95_high"]) for row in rows(folder / "summary.csv")} == {("1", "", "")}
    page = (folder / "report.html").read_text()
    assert "Each from one run." in page and "confidence intervals" not in page
    alone = unimux("run", "parallel", "--set", "sessions=1", "--set", "size=100", "--out", tmp_path / "one", "--json")
    assert alone.exit_code == 0, alone.output
    metrics = json.loads((tmp_path / "one" / "metrics.json").read_text())["metrics"]
    assert metrics and all((each["ci95"] is None) == (each["n"] == 1) for each in metrics)


def test_processes_do_not_change_the_tables(tmp_path: Path) -> None:
    for jobs in (1, 2):
        call = ("run", "hello", "--sweep", "size=10,1000", "--repeat", "2", "--jobs", str(jobs), "--json")
        assert unimux(*call, "--out", tmp_path / str(jobs)).exit_code == 0
    for name in ("results.csv", "summary.csv", "report.html"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert cores() >= 1


def test_the_answers_of_many_runs_make_a_page(tmp_path: Path) -> None:
    assert unimux("run", "hello", "--quick", "--out", tmp_path / "hello", "--json").exit_code == 0
    page = unimux("answers", tmp_path).stdout
    answer = json.loads((tmp_path / "hello" / "metrics.json").read_text())["answer"]
    assert f"| [`hello`](#hello) | {answer} |" in page
    for part in (
        "alice (one-time addresses)",
        "setup [s], transfer [s]",
        "The bytes came back equal",
        "`unimux scenario run hello`",
    ):
        assert part in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "helo"], "did you mean 'hello'"),
        (["run", "hello", "--set", "size=0"], "1 B at least"),
        (["run", "hello", "--backend", "moon"], "There is no backend 'moon'"),
        (["run"], "Name a scenario to run"),
        (["run", "--all", "hello"], "--all runs every scenario"),
        (["report", "nowhere"], "nowhere holds no run"),
        (["answers", "nowhere"], "nowhere holds no runs of the catalogue"),
        (["new", "Not A Name"], "cannot be named"),
        (["run", "my_question"], "There is no scenario 'my_question': did you mean the file my_question.py?"),
        (["run", "my-question"], "There is no scenario 'my-question': did you mean the file my_question.py?"),
        (["run", "hello", "--repeat", "2", "--connection", "1"], "draws: name one scenario"),
        (["run", "hello.toml"], "There is no scenario 'hello.toml'"),
        (["run", "--again", "bent", "--repeat", "5"], "--again repeats a run as it was"),
        (["run", "--again", "bent", "--seed", "99"], "--again repeats a run as it was"),
        (["run", "--again", "bent", "--backend", "netns"], "--again repeats a run as it was"),
        (["run", "hello", "--jobs", "2"], "--jobs and --captures are for many runs"),
        (["run", "hello", "--captures"], "--jobs and --captures are for many runs"),
        (["run", "--all", "--backend", "nosuch"], "There is no backend 'nosuch': choose sim or netns."),
        (["run", ".."], "There is no scenario '..'"),
        (["run", "./text"], "./text is no scenario: its file is called NAME.py"),
        (["run", "raises.py"], "raises.py cannot be imported: line 3: NameError: name 'nothing' is not defined."),
        (["run", "leaves.py"], "leaves.py cannot be imported: line 1: SystemExit: 3."),
        (["run", "hello", "--set", f"size={'9' * 400}"], "9: it takes a whole number, 1 B at least"),
        (["run", "churn", "--set", "duration=inf"], "duration cannot be inf: it takes a number"),
        (["run", "hello", "--sweep", "size=5..1"], "size cannot be '5..1': write the range from the lower end"),
        (["run", "hello", "--sweep", "size=1..99999999999"], "size cannot be '1..99999999999': a range has"),
        (["run", "--again", "bent"], "size cannot be 'many': it takes a whole number"),
        (["run", "hello", "--set", "size=2", "--sweep", "size=1,2"], "size is set and swept: leave one of them out."),
        (["run", "--again", "bent2"], "scenario.toml cannot be read"),
        (["report", "swept"], "swept holds no run: there is no summary.csv in it"),
    ],
)
def test_a_wrong_call_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "text": "no script",
        "raises.py": '"""Why?"""\n\nnothing\n',
        "leaves.py": "raise SystemExit(3)",
        "my_question.py": "",
        "bent/scenario.toml": 'scenario = "hello"\nbackend = "sim"\nseed = 1\n[parameters]\nsize = "many"\n',
        "bent2/scenario.toml": 'scenario = "hello"\nbackend = "sim"\nseed = 1\nparameters = "many"\n',
        "swept/sweep.json": '{"passed": true}',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert run(["scenario", *arguments]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize("more", [[], ["--repeat", "2", "--jobs", "1"]], ids=["run", "sweep"])
def test_a_full_disk_is_a_sentence(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("scenarios.engine.page.write_report", full)
    monkeypatch.setattr("scenarios.engine.tables.csv.writer", full)
    assert run(["scenario", "run", "hello", "--quick", "--out", str(tmp_path / "out"), *more]) == 3
    said = capsys.readouterr().err
    assert f"{tmp_path / 'out'} cannot be written: no space left on device" in said


def test_a_connection_that_there_is_not_costs_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    assert run(["scenario", "run", "hello", "--quick", "--out", str(folder), "--connection", "77"]) == 2
    said = capsys.readouterr().err
    assert said == f"unimux: There is no connection 77: this run had 1. Read {folder}/report.html.\n"
    assert "Connection 1, segment by segment" in (folder / "report.html").read_text()
    assert json.loads((folder / "findings.json").read_text())


@pytest.mark.parametrize(
    "wrong",
    [["--set", "size=3"], ["--sweep", "size=3,4"], ["--backend", "netns"]],
    ids=["set", "sweep", "backend"],
)
def test_what_one_of_several_cannot_take_is_said_before_the_first(wrong: list[str], tmp_path: Path) -> None:
    result = unimux("run", "hello", "churn", *wrong, "--out", tmp_path / "out")
    assert isinstance(result.exception, ScenarioError)
    assert not (tmp_path / "out").exists()


def test_an_answer_that_does_not_stand_says_so_again(tmp_path: Path) -> None:
    script = tmp_path / "untrue.py"
    script.write_text(UNTRUE, encoding="utf-8")
    doubted = "The run did not pass, so this answer does not stand: All is well."
    ran = unimux("run", script, "hello", "--quick", "--out", tmp_path / "out")
    assert doubted in ran.stdout.partition("✘ FAILED  untrue")[2]
    for line in ("  what has a name that is", "  A sentence of the story that is"):  # in a pipe a line stays one
        assert f"{line} longer than a line of a terminal with its eighty columns" in ran.stdout
    assert doubted in unimux("report", tmp_path / "out" / "untrue").stdout
    assert "does not stand" not in unimux("report", tmp_path / "out" / "hello").stdout


UNTRUE = '''"""Is all well?"""

from scenarios.engine import Run, scenario


@scenario()
async def untrue(run: Run) -> None:
    await run.node("alice", run.lan("lan"))
    run.require("It is", False)
    run.measure("what has a name that is longer than a line of a terminal with its eighty columns", 1.0)
    run.say("A sentence of the story that is longer than a line of a terminal with its eighty columns")
    run.answer("All is well.")
'''


def test_the_reader_chooses_the_connection_that_is_drawn(tmp_path: Path) -> None:
    call = ("run", "parallel", "--set", "sessions=3", "--set", "size=40000", "--json")
    assert unimux(*call, "--connection", "3", "--out", tmp_path / "third").exit_code == 0
    assert "Connection 3, segment by segment" in (tmp_path / "third" / "sequence.svg").read_text()
    page = (tmp_path / "third" / "report.html").read_text()
    assert "Goodput of connection 3" in page
    assert "Window of connection 3" in page


ENDLESS = '''"""When does it end?"""

import asyncio
from scenarios.engine import Run, scenario


@scenario()
async def endless(run: Run) -> None:
    await run.node("alice", run.lan("lan"), ready=1)
    run.measure("reached", run.now(), "s")
    run.say("It goes on")
    while True:
        await asyncio.sleep(0.01)
'''


def test_what_is_repeated_says_which_files_have_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "slowly.py").write_text(SLOWLY, encoding="utf-8")
    script = tmp_path / "swift.py"
    script.write_text(SWIFT, encoding="utf-8")
    out, again = tmp_path / "out", tmp_path / "again"
    assert unimux("run", script, "--out", out).exit_code == 1
    facts = tomllib.loads((out / "scenario.toml").read_text(encoding="utf-8"))
    assert facts["sha256"] == {
        str(script): hashlib.sha256(SWIFT.encode()).hexdigest(),
        "slowly": hashlib.sha256(SLOWLY.encode()).hexdigest(),
    }
    assert "changed" not in unimux("run", "--again", out, "--out", again).output
    assert (out / "scenario.toml").read_bytes() == (again / "scenario.toml").read_bytes()
    script.write_text(SWIFT + "# more", encoding="utf-8")
    (tmp_path / "slowly.py").unlink()
    said = " ".join(unimux("run", "--again", out, "--out", tmp_path / "third").output.split())
    assert "swift.py has changed since: the bytes may differ." in said
    assert "slowly is not there any more: the bytes may differ." in said


def test_a_sweep_says_what_it_was_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    call = ["scenario", "run", "hello", "--sweep", "size=10,20", "--repeat", "2", "--jobs", "1", "--out", str(out)]
    assert run(call) == 0
    capsys.readouterr()
    assert run(["scenario", "report", str(out)]) == 0  # in 80 columns
    shown = capsys.readouterr().out
    assert all(value in shown for row in rows(out / "summary.csv") for value in row.values())
    facts = tomllib.loads((out / "scenario.toml").read_text(encoding="utf-8"))
    assert (facts["scenario"], facts["backend"], facts["seed"], facts["repeat"]) == ("hello", "sim", 1, 2)
    assert facts["sweep"] == {"size": [10, 20]}
    assert facts["sha256"]["scenarios.hello"]
    capsys.readouterr()
    assert run(["scenario", "run", "--again", str(out)]) == 2
    assert "holds a sweep: --again repeats one run" in capsys.readouterr().err


SLOWLY = """from tapstack.tcp.congestion.newreno import NewReno

class Slowly(NewReno):
    pass
"""
SWIFT = '''"""How swift is it?"""

from dataclasses import replace
from scenarios.engine import OPTIONS, Run, scenario


@scenario()
async def swift(run: Run) -> None:
    await run.node("alice", run.lan("lan"), options=replace(OPTIONS, congestion="slowly:Slowly"))
'''


def started(number: signal.Signals, folder: Path, script: Path, **how: Any) -> subprocess.Popen[str]:
    """A run of a scenario without end and of another one after it, when the first goes on."""
    script.write_text(ENDLESS, encoding="utf-8")
    command = [sys.executable, "-u", "-m", "unimux", "scenario", "run", str(script), "hello", "--out", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, **how)
    assert process.stdout is not None
    while "It goes on" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    return process


def kept_of(folder: Path) -> None:
    """Whether the run that was interrupted has left its report, and the next one was not begun."""
    kept = folder / "endless"
    assert [metric["name"] for metric in json.loads((kept / "metrics.json").read_text())["metrics"]] == ["reached"]
    page = (kept / "report.html").read_text()
    assert page.partition('<p class="remark">')[2].startswith("Interrupted after ")
    assert (kept / "wire" / "lan.pcapng").stat().st_size > 1000
    assert not (folder / "hello").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_keeps_what_it_has_measured(tmp_path: Path, number: signal.Signals) -> None:
    process = started(number, tmp_path / "out", tmp_path / "endless.py")
    if number != signal.SIGINT:
        process.send_signal(number)  # as a terminal does that goes, and its shell
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    kept_of(tmp_path / "out")


def test_a_run_in_the_background_of_a_shell_ends_in_order(tmp_path: Path) -> None:
    """Such a job ignores Ctrl-C."""
    process = started(
        signal.SIGINT,
        tmp_path / "out",
        tmp_path / "endless.py",
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
    )
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, said
    kept_of(tmp_path / "out")


def test_a_run_whose_terminal_goes_keeps_its_report(tmp_path: Path) -> None:
    script, folder = tmp_path / "endless.py", tmp_path / "out"
    script.write_text(ENDLESS, encoding="utf-8")
    pid, terminal = pty.fork()
    if not pid:
        os.execv(
            sys.executable,
            [sys.executable, "-m", "unimux", "scenario", "run", str(script), "hello", "--out", str(folder)],
        )
    shown = b""
    while b"It goes on" not in shown:
        shown += os.read(terminal, 65536)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGHUP
    kept_of(folder)


def test_one_that_cannot_run_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compat import kernel
    from unimux.errors import SetupError

    def none() -> None:
        raise SetupError("This machine has no namespaces.")

    monkeypatch.setattr(kernel, "capabilities", none)
    result = unimux("run", "interop-matrix", "hello", "--quick", "--out", tmp_path, "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert [(each["scenario"], each["passed"]) for each in told] == [("interop-matrix", False), ("hello", True)]
    assert told[0]["answer"] == "This machine has no namespaces."


def test_a_sweep_shows_its_rate_and_the_time_left(tmp_path: Path) -> None:
    own, other = pty.openpty()
    command = [
        sys.executable,
        "-m",
        "unimux",
        "scenario",
        "run",
        "hello",
        "--quick",
        "--repeat",
        "6",
        "--jobs",
        "1",
    ]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    process = subprocess.Popen([*command, "--out", str(tmp_path / "out")], stdout=other, env=environment)
    os.close(other)
    shown = b""
    try:
        while data := os.read(own, 65536):
            shown += data
    except OSError:  # the other side is closed: that is how a terminal ends
        pass
    os.close(own)
    assert process.wait(60) == 0
    assert re.search(rb"[1-6]/6", shown)
    assert re.search(rb"\d runs/s", shown)
    assert re.search(rb"left.*\d:\d\d:\d\d", shown)


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "unimux",
        "scenario",
        "run",
        "hello",
        "churn",
        "--repeat",
        "5000",
        "--out",
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    journal = folder / "hello" / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    kept = rows(folder / "hello" / "results.csv")
    assert 0 < len(kept) < 5000
    assert "Interrupted" in (folder / "hello" / "report.html").read_text()
    assert not (folder / "churn").exists()  # what would have come after it was not begun
