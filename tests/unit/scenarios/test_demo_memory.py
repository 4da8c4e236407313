"""`unimux demo --memory`: the story in virtual time, without privilege."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from scenarios.demo.outcome import Outcome
from unimux.cli.main import app


def run(folder: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    result = CliRunner().invoke(app, ["demo", "--memory", "--json", "--out", str(folder), *arguments])
    return result.exit_code, json.loads(result.stdout) if result.stdout.startswith("{") else {}


def test_the_story_in_memory_passes_and_says_what_it_cannot_show(tmp_path: Path) -> None:
    status, result = run(tmp_path / "out", "--seed", "1")
    assert status == 0
    findings = result["findings"]
    assert isinstance(findings, list)
    needs_kernel = [f for f in findings if f["rule"] == "needs-kernel"]
    assert len(needs_kernel) == 3
    assert all(f["verdict"] == "not shown" for f in needs_kernel)
    assert not [f for f in findings if f["verdict"] == "failed"]
    assert sum(f["verdict"] == "passed" for f in findings) >= 25
    page = (tmp_path / "out" / "report.html").read_text()
    told = page.partition("What ran")[2].partition("</ol>")[0]
    assert told.count("<li>") == 4, "the chapters of the story are in its report"
    assert "A neighbour probes a reserved (UNCERTAIN) address" in told


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    status, result = run(tmp_path)
    assert status != 0
    assert result == {}


def test_a_failed_fact_makes_the_exit_status(tmp_path: Path, monkeypatch: object) -> None:
    outcome = Outcome(tmp_path)
    outcome.fact("something", False, "it did not hold", "UM-NODE-1")
    assert not outcome.facts[0].passed
    import scenarios.demo.memory as memory

    real = memory.tell

    def spoilt(outcome: Outcome, *arguments: object) -> None:
        real(outcome, *arguments)  # type: ignore[arg-type]
        outcome.fact("something", False, "it did not hold")

    monkeypatch.setattr(memory, "tell", spoilt)  # type: ignore[attr-defined]
    status, result = run(tmp_path / "out")
    assert status == 1
    assert result["passed"] is False
