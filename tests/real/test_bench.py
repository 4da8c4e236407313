"""`unimux bench --smoke` between real kernels: every benchmark yields numbers.  What they are is nobody's business here."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from compat.kernel import NETNS_DIR
from scenarios.bench.catalogue import BENCHMARKS, WITHOUT_KERNEL
from scenarios.bench.figures import Result

# How many figures each benchmark has when it is small.
FIGURES = {
    "P-1": 2, "P-2": 1, "P-3": 2, "P-4": 10, "P-5": 4, "P-6": 7, "P-7": 6, "P-10": 2, "P-11": 4, "P-12": 2, "P-14": 8,
    "P-15": 3, "P-18": 8, "P-19": 5,
}  # fmt: skip
WITH_BASELINE = {"P-1", "P-2", "P-3", "P-5", "P-7", "P-11"}
ZERO = {"MiB", "% of a core", "ms", ""}


def smoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "unimux", "bench", "--smoke", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.real("iperf3", "radvd")
def test_every_benchmark_yields_numbers(tmp_path: Path) -> None:
    ids = [id for id in BENCHMARKS if id not in WITHOUT_KERNEL]
    assert ids == list(FIGURES)
    before = {path.name for path in NETNS_DIR.glob("*")} if NETNS_DIR.exists() else set()
    out = tmp_path / "result.json"
    done = smoke("--json", "--out", str(out), *(word for id in ids for word in ("--id", id)))
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    for id in ids:
        mine = [row for row in rows if row["id"] == id]
        assert len(mine) == FIGURES[id], (id, mine)
        for row in mine:
            assert math.isfinite(row["value"]) and row["min"] <= row["value"] <= row["max"], row
            assert id not in WITH_BASELINE or row["baseline"] > 0, row
            assert row["value"] > 0 or row["unit"] in ZERO, row
            assert id == "P-12" or "between two kernels" in row["what"] or "TIME-WAIT sharp" in row["what"], row
    kept = Result.read(out)
    assert [row.what for row in kept.figures] == [row["what"] for row in rows]
    assert kept.circumstances.smoke and "iperf3" in kept.circumstances.versions
    assert not {name for name in left() - before if name.endswith(("-peer", "-twin"))}


def left() -> set[str]:
    return {path.name for path in NETNS_DIR.glob("*")} if NETNS_DIR.exists() else set()
