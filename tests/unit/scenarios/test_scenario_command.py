"""`unimux scenario`: list, show, new, run, sweep, report, as their users call them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

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
    assert "hello" in unimux("list").stdout
    assert "bytes each way" in unimux("show", "hello").stdout


def test_a_new_scenario_runs_at_once(tmp_path: Path) -> None:
    assert unimux("new", "my-question", "--folder", tmp_path).exit_code == 0
    path = tmp_path / "my_question.py"
    result = unimux("run", path, "--quick", "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["metrics"]["setup"] > 0
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
    assert not (folder / "journal.jsonl").exists()
    told = unimux("report", folder, "--json")
    assert told.exit_code == 0
    assert json.loads(told.stdout)["summary"] == summary


def test_processes_do_not_change_the_tables(tmp_path: Path) -> None:
    for jobs in (1, 2):
        call = ("run", "hello", "--sweep", "size=10,1000", "--repeat", "2", "--jobs", str(jobs), "--json")
        assert unimux(*call, "--out", tmp_path / str(jobs)).exit_code == 0
    for name in ("results.csv", "summary.csv", "report.html"):
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()
    assert cores() >= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "helo"], "did you mean 'hello'"),
        (["run", "hello", "--set", "size=0"], "1 B at least"),
        (["run", "hello", "--backend", "moon"], "There is no backend 'moon'"),
        (["run"], "Name a scenario to run"),
        (["run", "--all", "hello"], "--all runs every scenario"),
        (["report", "nowhere"], "nowhere holds no run"),
        (["new", "Not A Name"], "cannot be named"),
    ],
)
def test_a_wrong_call_is_one_sentence(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["scenario", *arguments]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "Traceback" not in errors


def test_an_interrupt_keeps_what_is_done(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    command = [
        sys.executable,
        "-m",
        "unimux.cli.main",
        "scenario",
        "run",
        "hello",
        "--repeat",
        "5000",
        "--out",
        str(folder),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    journal = folder / "journal.jsonl"
    deadline = time.monotonic() + 60
    while not (journal.exists() and journal.stat().st_size) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 1
    kept = rows(folder / "results.csv")
    assert 0 < len(kept) < 5000
    assert "Interrupted" in (folder / "report.html").read_text()
