"""Runs the tests of a checkout in a process of their own, and tells how far they are."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from unimux.errors import SetupError

from .rows import Table, load

FOLDER = Path("out", "conformance")
"""Where a run leaves what it made, from the checkout on."""
LATEST = FOLDER / "latest.json"
"""The table of the latest run, which may have been for some ids only; the captures are those of the same run."""
WORKERS = 3
"""Processes of a whole run: tests against real kernels mostly wait, so that there are more than processors."""
_DONE, _TESTS_FAILED, _NO_TESTS = 0, 1, 5
_RESULT = r"(?:PASSED|FAILED|ERROR|SKIPPED|XFAIL)"
_LINES = (
    re.compile(rf"^(?P<test>\S+?::.*?) {_RESULT}.*\[ *(?P<percent>\d+)%\]\s*$"),
    re.compile(rf"^\[gw\d+\] \[ *(?P<percent>\d+)%\] {_RESULT} (?P<test>\S+?::.*?)\s*$"),
)
"""What pytest says of a test that ended, in one process and in several."""


class SessionFailed(SetupError):
    """The tests could not be run to their end."""


@dataclass(frozen=True, slots=True)
class Session:
    """What one run left: its table, its log, and its captures' folder."""

    table: Table
    log: Path
    captures: Path


def run(checkout: Path, ids: Sequence[str] | None, junit: Path | None, tell: Callable[[int, str], None]) -> Session:
    """Run the tests that prove `ids` (None: any id, in several processes).

    `tell(percent, test)` hears of each test that ended.  Failing tests are verdicts, not errors; `SessionFailed` is
    raised where the tests could not be collected or run.
    """
    folder = checkout / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    log, captures, told = folder / "tests.log", folder / "captures", folder / f"latest-{os.getpid()}.json"
    command = [sys.executable, "-m", "pytest", "tests", "-v", "--no-header", "--color=no"]
    command += ["--requirements", ",".join(ids) if ids else "all", "--proves", str(told), "--captures", str(captures)]
    if not ids:
        command += ["-n", str(WORKERS), "--dist", "loadgroup"]
    if junit is not None:
        # The family that has properties: tests record their captures as such.
        command += [f"--junitxml={junit.absolute()}", "-o", "junit_family=xunit1"]
    try:
        status = _follow(command, checkout, log, tell)
        if status not in (_DONE, _TESTS_FAILED, _NO_TESTS):
            raise SessionFailed(f"pytest could not run the tests (status {status}): {_last_words(log)}; see {log}.")
        table = msgspec.structs.replace(load(told), asked=tuple(ids or ()))
        told.write_bytes(msgspec.json.encode(table))
        told.replace(checkout / LATEST)
    finally:
        told.unlink(missing_ok=True)
    return Session(table, log, captures)


def _follow(command: Sequence[str], checkout: Path, log: Path, tell: Callable[[int, str], None]) -> int:
    """Run pytest to its end, keep what it says, and return its status."""
    environment = {**os.environ, "COLUMNS": "400", "PYTHONUNBUFFERED": "1"}
    with (
        log.open("w", encoding="utf-8") as written,
        subprocess.Popen(
            command,
            cwd=checkout,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                written.write(line)
                if found := next(filter(None, (form.match(line) for form in _LINES)), None):
                    tell(int(found["percent"]), found["test"])
        except BaseException:
            process.terminate()
            # After Ctrl-C leaving the block would not wait, and the table could come when it is looked for no more.
            process.wait()
            raise
    return process.returncode


def _last_words(log: Path) -> str:
    """The line of a pytest log that says what is wrong."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    for line in reversed(lines):
        if line.startswith(("ERROR", "E  ", "INTERNALERROR")):
            return line.removeprefix("ERROR:").strip().rstrip(".")
    return lines[-1] if lines else "it said nothing"
