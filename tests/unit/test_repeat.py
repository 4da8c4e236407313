"""`tools/repeat.py`: the tally of many runs, gathered in several goes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "repeat.py"
TEST = """
import logging
import os

import pytest

@pytest.mark.parametrize("way", ["a fast path"])
def test_it(way):
    logging.error("this is no test")
    if os.path.exists("meddle"):
        with open("test_it.py", "a") as file:
            file.write("# changed")
    assert not os.path.exists("broken")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with one test, in git; what runs leave is ignored."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "repeat.py").write_text(TOOL.read_text())
    (tmp_path / "test_it.py").write_text(TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (tmp_path / ".gitignore").write_text("out\n__pycache__\nbroken\nmeddle\n")
    keep(tmp_path, "first")
    return tmp_path


def keep(project: Path, message: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*who, "commit", "-qm", message]):
        subprocess.run(["git", *command], cwd=project, check=True)


def repeat(project: Path, *arguments: str) -> tuple[int, list[str]]:
    command = [sys.executable, str(project / "tools" / "repeat.py"), "--load", "0", *arguments, "--", "-n", "0"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "UNIMUX"))}
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=120, check=False, env=clean)
    assert not done.stderr or done.stderr.startswith("repeat: "), done.stderr
    return done.returncode, (done.stdout + done.stderr).splitlines()


def test_a_tally_in_two_goes_and_what_failed(project: Path) -> None:
    status, said = repeat(project, "--runs", "1")
    assert (status, said[-1].split(" beside")[0]) == (0, "1 of 1 runs passed")
    (project / "broken").touch()
    status, said = repeat(project, "--runs", "2", "--resume")
    assert status == 1
    assert said[0] == "1 runs of these sources stand in the ledger"
    assert said[2:-1] == ["failed 1 of 2 times: test_it.py::test_it[a fast path]"]
    assert said[-1].startswith("1 of 2 runs passed")
    ledger = [json.loads(line) for line in (project / "out" / "repeat" / "ledger.jsonl").read_text().splitlines()]
    assert [run["sound"] for run in ledger] == [True, False]


def test_runs_of_other_sources_do_not_count(project: Path) -> None:
    repeat(project, "--runs", "1")
    (project / "test_it.py").write_text(TEST + "\n# changed\n")
    _, said = repeat(project, "--runs", "1", "--resume")
    assert len(said) == 2, "the run was done anew"
    _, said = repeat(project, "--runs", "1", "--resume")
    assert len(said) == 2, "what is not in git is never the same"
    keep(project, "second")
    _, said = repeat(project, "--runs", "1", "--resume")
    assert said[0].startswith("run 1 of 1")
    _, said = repeat(project, "--runs", "1", "--resume")
    assert said[0].startswith("1 runs of these sources")


def test_sources_that_change_under_the_tests_end_the_go(project: Path) -> None:
    assert repeat(project, "--runs", "1")[0] == 0
    (project / "meddle").touch()
    status, said = repeat(project, "--runs", "3", "--resume")
    assert status == 1
    assert said[-1] == "repeat: the sources changed during run 2, which does not count."
    assert len((project / "out" / "repeat" / "ledger.jsonl").read_text().splitlines()) == 1
