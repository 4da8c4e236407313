"""Equal seeds, equal bytes: whole runs in processes with different hash seeds leave the same folder."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

RUN = "from unimux.__main__ import main; main()"


def run(name: str, folder: Path, *, hash_seed: int, seed: int = 1) -> dict[str, str]:
    """Run a scenario in a process of its own; the digests of what it left."""
    command = [sys.executable, "-c", RUN, "scenario", "run", name, "--quick", "--backend", "sim", "--seed", str(seed)]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    subprocess.run([*command, "--out", str(folder), "--json"], check=True, capture_output=True, env=environment)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("name", ["hello", "parallel", "churn", "scan"])
def test_two_runs_are_equal_to_the_byte(name: str, tmp_path: Path) -> None:
    one, two = (run(name, tmp_path / str(number), hash_seed=number) for number in (1, 2))
    assert {"events.jsonl", "metrics.json", "report.html", "lifetimes.pdf"} <= one.keys()
    assert sum(file.startswith("wire/") for file in one) == 2
    assert one == two


def test_another_seed_gives_other_bytes(tmp_path: Path) -> None:
    one, two = (run("hello", tmp_path / str(seed), hash_seed=1, seed=seed) for seed in (1, 2))
    assert one["wire/client.pcapng"] != two["wire/client.pcapng"]
