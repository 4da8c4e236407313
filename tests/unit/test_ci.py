"""`.ci/run` does what it is for: every step in its turn, skips forbidden, and a step that fails ends it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEPS = ("make lint", "make test", "unimux conformance", "make scenarios", "make demo")
STAND_IN = """#!/bin/sh
step="$(basename "$0") $1"
echo "$step forbid=$UNIMUX_FORBID_SKIPS" >> {steps}
if [ "$step" = "make test" ]; then echo "{closing}"; fi
[ "$step" != "{failing}" ]
"""
PASSED = "===== 7 passed in 1.02s ====="


def run(tree: Path, failing: str = "", closing: str = PASSED) -> tuple[int, list[str]]:
    """`.ci/run` in a tree whose programs only write down that they were called: its status, and the steps."""
    (tree / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tree / ".ci" / "run")
    steps = tree / "steps"
    for program in (tree / "bin" / "make", tree / ".venv" / "bin" / "unimux"):
        program.parent.mkdir(parents=True)
        program.write_text(STAND_IN.format(steps=steps, failing=failing, closing=closing))
        program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tree / 'bin'}:{os.environ['PATH']}"}
    environment.pop("UNIMUX_FORBID_SKIPS", None)
    done = subprocess.run(
        [tree / ".ci" / "run"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, steps.read_text().splitlines()


def test_every_step_is_taken_with_skips_forbidden(tmp_path: Path) -> None:
    assert run(tmp_path) == (0, [f"{step} forbid=1" for step in STEPS])


@pytest.mark.parametrize("failing", STEPS)
def test_a_step_that_fails_fails_the_whole(tmp_path: Path, failing: str) -> None:
    status, steps = run(tmp_path, failing)
    assert status != 0
    assert len(steps) == STEPS.index(failing) + 1, "nothing follows"


@pytest.mark.parametrize("closing", ["", "===== 3 skipped in 0.10s =====", "===== no tests ran in 0.01s ====="])
def test_a_test_run_without_a_test_that_passed_is_none(tmp_path: Path, closing: str) -> None:
    status, steps = run(tmp_path, closing=closing)
    assert (status != 0, steps[-1]) == (True, "make test forbid=1")
