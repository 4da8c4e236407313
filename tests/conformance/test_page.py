"""The report says which run it is of."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from scenarios.conformance.mutations import RESULTS, Result, Score
from scenarios.conformance.oracle import Opinion
from scenarios.conformance.page import write
from scenarios.conformance.rows import Row, Table, Verdict

TESTED = "0123456789ab"
OTHERS = "These are other sources"


def index(folder: Path) -> str:
    rows = (Row("um", "UM-X-1", "A rule.", Verdict.PASSED),)
    table = Table(rows, {}, TESTED, "2026-11-22T09:00:00+00:00")
    return write(folder / "report", folder, table, rows, Opinion({}, "TShark 4", {})).read_text(encoding="utf-8")


def test_the_report_names_the_sources_that_were_tested_not_those_that_are_there_now(tmp_path: Path) -> None:
    assert f"The run of {TESTED}, 2026-11-22T09:00:00+00:00." in index(tmp_path)


@pytest.mark.parametrize(("revision", "told"), [(TESTED, False), ("ba9876543210", True)])
def test_defects_made_in_other_sources_are_said_to_be(tmp_path: Path, revision: str, told: bool) -> None:
    path = tmp_path / RESULTS
    path.parent.mkdir(parents=True)
    score = Score((Result("a", "breaks", ("UM-X-1",), "caught"),), revision, "2026-11-21T08:00:00+00:00")
    path.write_bytes(msgspec.json.encode(score))
    page = index(tmp_path)
    assert f"The run of {revision}, 2026-11-21T08:00:00+00:00." in page
    assert (OTHERS in page) is told
