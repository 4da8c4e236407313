"""P-16 and P-17: addresses drawn and tags verified per second, and ten million addresses without a repeat."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compat.programs.errors import ProgramFailed
from tapstack.types import address
from unimux.diskstate import DiskState
from unimux.prp import FeistelPermutation
from unimux.source import AddressSource
from unimux.tagged import Tag, TagCodec, TagVerifier

from .figures import Figure, Goal, figure
from .setting import Setting

_PREFIX = address("2001:db8:1::")
_KEY = bytes(range(32))
_WORD = 8
"""Bytes of an interface identifier."""


def speed(setting: Setting) -> list[Figure]:
    """P-16: address generation and the verification of tagged addresses, on one core, in processor time."""
    count, singles = setting.many(1_000_000, 1_000), setting.many(10_000, 100)
    words = np.random.default_rng(1).integers(0, 2**64, size=count, dtype=np.uint64)
    permutation = FeistelPermutation(_KEY)
    verifier = TagVerifier(_KEY, 120.0)
    sealed = address("2001:db8:1::")[:8] + TagCodec(_KEY).seal(Tag(1, 1, 0, 0)).to_bytes(_WORD, "big")

    with tempfile.TemporaryDirectory() as folder, DiskState(Path(folder), witness=Path(folder) / "witness") as state:
        source = AddressSource(state)
        bulk: list[tuple[str, Callable[[], object], Goal | None]] = [
            ("addresses drawn in bulk, counter on disk", lambda: source.draw_many(count), None),
            ("identifiers mapped back to their counters in bulk", lambda: permutation.decrypt_many(words), None),
            ("tagged addresses verified in bulk", lambda: verifier.admit_many(words, 0.0), Goal(at_least=200_000)),
        ]
        figures = []
        for what, work, goal in bulk:
            values = [count / _cost(work, 1) for _ in range(setting.repeats)]
            figures.append(figure("P-16", what, "1/s", values, goal=goal))
        single: list[tuple[str, Callable[[], object], Goal | None]] = [
            ("one address drawn, its share of the counter on disk included", lambda: source.draw(_PREFIX), None),
            ("one tagged address verified", lambda: verifier.admit(sealed, 0.0), Goal(at_most=10)),
        ]
        for what, work, goal in single:
            values = [_cost(work, singles) / singles * 1e6 for _ in range(setting.repeats)]
            figures.append(figure("P-16", what, "µs", values, goal=goal))
    return figures


def _cost(work: Callable[[], object], times: int) -> float:
    """Seconds of processor time."""
    began = time.process_time()
    for _ in range(times):
        work()
    return max(time.process_time() - began, 1e-9)


def no_repeat(setting: Setting) -> list[Figure]:
    """P-17: ten million addresses over twenty processes; every second is killed while it draws, one starts on old state."""
    runs = setting.many(20, 4)
    each = setting.many(10_000_000, 4_000) // runs
    drawn: list[NDArray[np.uint64]] = []
    with tempfile.TemporaryDirectory() as folder:
        state, kept = Path(folder) / "state", Path(folder) / "kept"
        for run in range(runs):
            if run == runs // 2:
                shutil.copytree(state, kept)
            if run == runs // 2 + 1:  # somebody puts a backup back
                for file in kept.iterdir():
                    shutil.copyfile(file, state / file.name)
            drawn.append(_draw(Path(folder), state, each, kill=run % 2 == 1))
            setting.say(f"P-17: {sum(map(len, drawn)):,} addresses")
        with DiskState(state, witness=Path(folder) / "witness") as last:
            epochs = len(last.epochs)
    everything = np.concatenate(drawn)
    different = len(np.unique(everything))
    of = f"of {len(everything):,} drawn by {runs} processes, {runs // 2} killed, state put back once ({epochs} keys)"
    goal = Goal(at_least=len(everything))
    return [figure("P-17", f"different addresses {of}", "addresses", [float(different)], goal=goal)]


def _draw(folder: Path, state: Path, count: int, *, kill: bool) -> NDArray[np.uint64]:
    """What a process of its own drew; one that is to be killed is so in the midst, whatever it holds in its hands."""
    argv = [sys.executable, "-m", "scenarios.bench.drawer", str(state), str(folder / "witness")]
    argv.append(str(count if not kill else 1 << 40))
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        said = child.stdout.read(count * _WORD)
        if kill:
            child.kill()
        said += child.stdout.read()
        if child.wait() != (-9 if kill else 0) or len(said) < count * _WORD:
            raise ProgramFailed(f"a process that draws addresses ended with status {child.returncode}.")
    return np.frombuffer(said[: len(said) // _WORD * _WORD], dtype=">u8").astype(np.uint64)
