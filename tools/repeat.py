"""Run the tests again and again while the machine is busy, and tell how often they passed.

    python tools/repeat.py [--runs 20] [--load 2] [--resume] [-- PYTEST ARGUMENTS]

`--load` processes compute for nothing all the while.  A run in which a test was skipped does not pass.  Each run's log is
`out/repeat/N.log`, and each run that came to its end is a line of `out/repeat/ledger.jsonl`.  With `--resume` the runs that
stand there count, if they were of the same sources with the same arguments and load, so that twenty runs need not fit into
one go.  Where the sources change while they are tested, it stops: such runs do not count together.  The exit status is 0
only if every run passed; what failed in any is listed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "out" / "repeat"
_CLOSING = re.compile(r"\d+ (?:passed|failed|error).* in [0-9.]+s")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (?=\S)(.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of the tests that came to its end."""

    sources: str
    """the tree that git knows, with a mark where files differ from it"""
    arguments: list[str]
    load: int
    began: str
    seconds: float
    sound: bool
    closing: str
    failed: list[str]

    def of(self, sources: str, arguments: Sequence[str], load: int) -> bool:
        """Whether it was of these sources, arguments and load."""
        return (self.sources, self.arguments, self.load) == (sources, list(arguments), load)


def git(*arguments: str) -> str:
    """What git says.  The working copy may be another user's: root runs the tests."""
    command = ["git", "-c", f"safe.directory={ROOT}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def state() -> tuple[str, str, str]:
    """The tree and whatever differs from it: equal as long as nobody touches a file that git knows, or adds one."""
    return git("rev-parse", "HEAD^{tree}"), git("status", "--porcelain"), git("diff", "HEAD")


def sources(tree: str, differing: str) -> str:
    """What is tested: the hash of the tree; `changed` is added where files differ, and then no other go's is the same."""
    return tree + (f" changed {time.time()}" if differing else "")


def one_run(log: Path, tested: str, arguments: Sequence[str], load: int) -> Run:
    """Run the tests once."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "3", "--dist", "loadgroup", *arguments]
    began, since = time.strftime("%Y-%m-%d %H:%M:%S"), time.monotonic()
    with log.open("w") as written:
        status = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "UNIMUX_FORBID_SKIPS": "1"},
            stdout=written,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    text = log.read_text(errors="replace")
    closing = (_CLOSING.findall(text) or [f"status {status}, see {log}"])[-1]
    seconds = round(time.monotonic() - since, 1)
    return Run(tested, list(arguments), load, began, seconds, status == 0, closing, _FAILED.findall(text))


def in_the_ledger(ledger: Path) -> list[Run]:
    """The runs of earlier goes, oldest first."""
    return [Run(**json.loads(line)) for line in ledger.read_text().splitlines()] if ledger.exists() else []


def tally(runs: Sequence[Run]) -> str:
    """How often the tests passed, and what did not."""
    failures = Counter(test for run in runs for test in run.failed)
    lines = [f"failed {times} of {len(runs)} times: {test}" for test, times in failures.most_common()]
    whole = sum(run.seconds for run in runs)
    passed, load = sum(run.sound for run in runs), runs[0].load if runs else 0
    lines.append(f"{passed} of {len(runs)} runs passed beside {load} busy processes, {whole:.0f} s")
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="repeat", description="Run the tests many times on a loaded machine.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--load", type=int, default=2, help="processes that compute beside the tests")
    parser.add_argument("--resume", action="store_true", help="count what the ledger has of the same sources")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest")
    chosen = parser.parse_args(arguments)
    LOGS.mkdir(parents=True, exist_ok=True)
    ledger = LOGS / "ledger.jsonl"
    if not chosen.resume:
        ledger.unlink(missing_ok=True)
    before = state()
    tested = sources(*before[:2])
    runs = [run for run in in_the_ledger(ledger) if run.of(tested, chosen.pytest, chosen.load)]
    if runs:
        print(f"{len(runs)} runs of these sources stand in the ledger", flush=True)
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(chosen.load)]
    try:
        while len(runs) < chosen.runs:
            number = len(runs) + 1
            runs.append(one_run(LOGS / f"{number}.log", tested, chosen.pytest, chosen.load))
            if state() != before:
                raise SystemExit(f"repeat: the sources changed during run {number}, which does not count.")
            with ledger.open("a") as written:
                written.write(json.dumps(asdict(runs[-1])) + "\n")
            print(f"run {number} of {chosen.runs}: {runs[-1].closing}", flush=True)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    print(tally(runs))
    return 0 if all(run.sound for run in runs) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
