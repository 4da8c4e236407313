"""The page of results says what falls short, and what is missing."""

from __future__ import annotations

from scenarios.conformance.mutations import Result, Score
from scenarios.conformance.rows import Row, Verdict
from tools.results import page


def test_what_falls_short_is_said() -> None:
    rows = [Row("um", "UM-A-1", "is so", Verdict.PASSED), Row("um", "UM-A-2", "is not", Verdict.DEVIATION, "because")]
    text = page(rows, Score((Result("a", "breaks", ("UM-A-1",), "survived"),)), [], ["- `x`: yes"])
    assert "- UM-A-2, deviation: is not – because" in text
    assert "UM-A-1, passed" not in text
    assert "0 of 1 defects noticed, 0 %." in text
    assert "- a, survived: breaks (UM-A-1)" in text
    assert text.count("**Missing") == 1


def test_nothing_is_claimed_without_a_run() -> None:
    assert page([], None, [], []).count("**Missing") == 4
