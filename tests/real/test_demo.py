"""The main job: `unimux demo` between real kernels, as its user runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compat.kernel import NETNS_DIR, clean_leftovers

PROGRAMS = ("dumpcap", "nginx", "radvd", "curl", "tshark")


def demo(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "unimux", "demo", "--json", "--out", str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def namespaces() -> set[str]:
    return {path.name for path in NETNS_DIR.glob("unimux-*")} if NETNS_DIR.exists() else set()


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    out, err = process.communicate(timeout=240)
    assert out, err
    result = json.loads(out)
    assert isinstance(result, dict)
    not_passed = [finding for finding in result["findings"] if finding["verdict"] != "passed"]
    assert not not_passed, err
    assert process.returncode == 0, err
    return result


@pytest.mark.real(*PROGRAMS)
@pytest.mark.proves(
    "UM-NODE-1", "UM-NODE-2", "UM-NODE-4", "UM-ADDR-2", "UM-ADDR-3", "UM-ADDR-5", "UM-ADDR-7", "UM-ADDR-8", "UM-ADDR-9",
    "UM-LIS-6", "UM-EA-1", "UM-PORT-1", "UM-PORT-2", "UM-REL-1", "ST-LINK-1", "ST-IP6-12",
)  # fmt: skip
def test_the_demo_passes_and_leaves_its_folder(artefacts: Path) -> None:
    folder = artefacts / "demo"
    before = namespaces()
    result = finish(demo(folder))
    assert result["passed"] is True
    findings = result["findings"]
    assert isinstance(findings, list)
    assert {finding["verdict"] for finding in findings} == {"passed"}
    assert len(findings) >= 30
    assert {path.name for path in folder.glob("capture-*.pcapng")} == {
        "capture-client-bulk.pcapng",
        "capture-client.pcapng",
        "capture-server.pcapng",
    }
    assert "<svg" in (folder / "report.html").read_text(encoding="utf-8")
    assert (folder / "events.jsonl").stat().st_size > 0
    assert namespaces() <= before


@pytest.mark.real(*PROGRAMS)
def test_after_kill_9_the_next_start_cleans_up(artefacts: Path) -> None:
    before = namespaces()
    process = demo(artefacts / "killed")
    deadline = time.monotonic() + 120
    while not (artefacts / "killed" / "events.jsonl").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        os.sched_yield()
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    left = namespaces() - before
    assert left, "the demo was killed in the middle, and its namespaces were still there"
    clean_leftovers()
    assert namespaces() <= before
