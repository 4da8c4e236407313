"""Coverage-guided fuzzing of the codecs, of the parsers of front ends and deliveries, of TCP, and of the whole stack.

    python -m tests.fuzz.fuzz TARGET [--seconds N | --runs N --seed S] [--found DIR] [--minimise]

TARGET is `codecs`, `front`, `tcp` or `world`.  The fuzzer (atheris, libFuzzer) begins with `tests/fuzz/corpus/TARGET` and
writes what reaches new code into DIR (default: `out/fuzz/TARGET`), beside the input of a crash, if there is one.  `--runs` inputs
beyond the corpus, with equal seeds and into an empty DIR, are the same inputs each time.  `--minimise`
instead writes the smallest set of inputs that reaches the same code back into the corpus.
The exit status is that of the fuzzer: 0 where nothing was found.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CORPUS = Path(__file__).parent / "corpus"
TARGETS = {
    "codecs": "tests.fuzz.codecs:one_input",
    "front": "tests.fuzz.front:one_input",
    "tcp": "tests.fuzz.tcp:run",
    "world": "tests.fuzz.world:run",
}
LONGEST = {"codecs": 400, "front": 400, "tcp": 600, "world": 700}
"""Bytes of an input."""
_INSTRUMENTED = ("tapstack", "unimux", "compat", "dns")
"""What the fuzzer sees the ways through; of DNS most are dnspython's."""
_MEMORY = 1500  # megabytes
_ONE_INPUT = 20  # seconds


def target(name: str) -> Callable[[bytes], None]:
    """The function that a target is; it raises where something is wrong."""
    module, _, function = TARGETS[name].partition(":")
    found: Callable[[bytes], None] = getattr(importlib.import_module(module), function)
    return found


def corpus(name: str) -> list[Path]:
    """The inputs that are kept."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())


def options(name: str, found: Path, seconds: float, runs: int | None, seed: int | None) -> list[str]:
    """libFuzzer's arguments: the first folder takes what is new."""
    return [
        f"-max_total_time={max(1, round(seconds))}" if runs is None else f"-runs={len(corpus(name)) + runs}",
        f"-seed={seed or 0}",  # 0: another one each time
        f"-max_len={LONGEST[name]}",
        "-len_control=0",
        f"-rss_limit_mb={_MEMORY}",
        f"-timeout={_ONE_INPUT}",
        f"-artifact_prefix={found}/crash-",
        "-print_final_stats=1",
        str(found),
        str(CORPUS / name),
    ]


def fuzz(name: str, arguments: Sequence[str]) -> None:
    """Hand over to the fuzzer, which ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        function = target(name)
    # A merge runs the fuzzer anew through a shell, by the first argument.
    atheris.Setup([f"{sys.executable} -m tests.fuzz.fuzz {name} --raw", *arguments], function)
    atheris.Fuzz()


def minimise(name: str, found: Path) -> int:
    """Replace the corpus by the smallest set of inputs that reaches what it and `found` reach."""
    merged = found.with_name(f"{found.name}-merged")
    shutil.rmtree(merged, ignore_errors=True)
    merged.mkdir(parents=True)
    command = [sys.executable, "-m", "tests.fuzz.fuzz", name, "--raw", "-merge=1", f"-max_len={LONGEST[name]}"]
    status = subprocess.run([*command, str(merged), str(CORPUS / name), str(found)], cwd=ROOT, check=False).returncode
    if status == 0 and any(merged.iterdir()):
        for path in corpus(name):
            path.unlink()
        for path in merged.iterdir():
            shutil.move(path, CORPUS / name / path.name)
    shutil.rmtree(merged)
    return status


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="tests.fuzz.fuzz", description="Coverage-guided fuzzing.")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--runs", type=int, help="inputs beyond the corpus, in place of a time")
    parser.add_argument("--seed", type=int, help="of what is tried; another one each time where none is given")
    parser.add_argument("--found", type=Path)
    parser.add_argument("--minimise", action="store_true")
    parser.add_argument("--raw", nargs=argparse.REMAINDER, help="arguments for libFuzzer, as they are")
    chosen = parser.parse_args(arguments)
    found = (chosen.found or ROOT / "out" / "fuzz" / chosen.target).absolute()
    found.mkdir(parents=True, exist_ok=True)
    (CORPUS / chosen.target).mkdir(parents=True, exist_ok=True)
    if chosen.minimise:
        return minimise(chosen.target, found)
    fuzz(chosen.target, chosen.raw or options(chosen.target, found, chosen.seconds, chosen.runs, chosen.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
