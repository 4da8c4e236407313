"""The verdict table in its three forms."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from scenarios.witness import (
    TITLES,
    CaptureFile,
    Finding,
    Verdict,
    Witness,
    as_json,
    exit_status,
    judge,
    summary,
    table,
)

from .story import SETUP, examine, good
from .wire import Wire

PASSED = Finding(
    "checksums", ("MUST-2",), Verdict.PASSED, "7 right", (Witness("lan", "lan.pcapng", 3),), title="Checksums are right"
)
FAILED = Finding("complete", (), Verdict.FAILED, "[no] FIN")
OPEN = Finding("third-host", (), Verdict.NOT_SHOWN, "no third host")


@pytest.mark.parametrize(
    ("findings", "excused", "status"),
    [
        ([PASSED], (), 0),
        ([PASSED, FAILED], (), 1),
        ([PASSED, OPEN], (), 1),
        ([PASSED, OPEN], ("third-host",), 0),
        ([PASSED, FAILED], ("complete",), 1),
        ([], (), 1),
    ],
)
def test_exit_status(findings: list[Finding], excused: tuple[str, ...], status: int) -> None:
    assert exit_status(findings, excused) == status


def test_the_table_shows_everything() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(table([PASSED, FAILED, OPEN]))
    shown = console.export_text()
    for words in ("passed", "FAILED", "not shown", "Checksums are right", "7 right", "lan #3", "[no] FIN"):
        assert words in shown


def test_json_is_one_array_of_objects() -> None:
    rows = json.loads(json.dumps(as_json([PASSED, OPEN])))
    assert rows[0]["verdict"] == "passed"
    assert rows[0]["witnesses"] == [{"where": "lan", "file": "lan.pcapng", "number": 3}]
    assert rows[1]["verdict"] == "not shown"
    assert summary([PASSED, FAILED, OPEN]) == "1 passed, 1 failed, 1 not shown"


def test_no_capture_no_file_and_an_empty_file_all_fail(tmp_path: Path) -> None:
    lan, _ = good()
    missing = judge([CaptureFile(tmp_path / "no.pcapng", "lan")], SETUP, consult_tshark=False)
    assert exit_status(missing.findings) == 1
    assert "No such file" in missing.findings[0].sentence
    empty = examine(tmp_path, Wire(), Wire())
    assert exit_status(empty.findings) == 1
    assert not any(finding.verdict is Verdict.PASSED for finding in empty.findings)
    assert not empty.passed
    assert examine(tmp_path, *good()).passed
    assert lan.frames


def test_all_rules_of_a_good_run_pass_in_both_oracles(tmp_path: Path) -> None:
    assert exit_status(examine(tmp_path, *good(), tshark=True).findings) == 0


def test_the_document_names_every_rule_and_no_other() -> None:
    text = (Path(__file__).parents[3] / "docs" / "reading-the-report.md").read_text()
    table = text.split("## The rules")[1].split("\n\n")[0]
    named = [line.split("`")[1] for line in table.splitlines() if line.startswith("| `")]
    assert named == list(TITLES)
