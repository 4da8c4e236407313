"""Run the tests again and again while the machine is busy, and tell how often they passed.

    python tools/repeat.py [--runs 20] [--load 2] [-- PYTEST ARGUMENTS]

`--load` processes compute for nothing all the while.  Each run's log is `out/repeat/N.log`.  The exit status is 0 only if every
run passed; what failed in any is listed with its count.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOGS = ROOT / "out" / "repeat"
_CLOSING = re.compile(r"\d+ (?:passed|failed|error).* in [0-9.]+s")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


def one_run(number: int, arguments: Sequence[str]) -> tuple[bool, str, list[str]]:
    """Whether a run passed, its closing line, and what failed."""
    log = LOGS / f"{number}.log"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadgroup", *arguments]
    with log.open("w") as written:
        status = subprocess.run(command, cwd=ROOT, stdout=written, stderr=subprocess.STDOUT, check=False).returncode
    text = log.read_text(errors="replace")
    closing = _CLOSING.findall(text)
    return status == 0, closing[-1] if closing else f"status {status}, see {log}", _FAILED.findall(text)


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="repeat", description="Run the tests many times on a loaded machine.")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--load", type=int, default=2, help="processes that compute beside the tests")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest")
    chosen = parser.parse_args(arguments)
    LOGS.mkdir(parents=True, exist_ok=True)
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(chosen.load)]
    passed, failures, begun = 0, Counter[str](), time.monotonic()
    try:
        for number in range(1, chosen.runs + 1):
            sound, closing, failed = one_run(number, chosen.pytest)
            passed += sound
            failures.update(failed)
            print(f"run {number} of {chosen.runs}: {closing}", flush=True)
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    for test, times in failures.most_common():
        print(f"failed {times} of {chosen.runs} times: {test}")
    print(
        f"{passed} of {chosen.runs} runs passed beside {chosen.load} busy processes, {time.monotonic() - begun:.0f} s"
    )
    return 0 if passed == chosen.runs else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
