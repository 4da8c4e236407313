"""The page of results says what falls short, and what is missing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from scenarios.bench import figures
from scenarios.conformance.mutations import Result, Score
from scenarios.conformance.rows import Row, Table, Verdict
from scenarios.conformance.session import LATEST
from tools.results import main, page, rules
from unimux.errors import SetupError


def test_what_falls_short_is_said() -> None:
    rows = (
        Row("um", "UM-A-1", "is so", Verdict.PASSED),
        Row("um", "UM-A-2", "is not", Verdict.DEVIATION, "because"),
        Row("um", "UM-A-3", "is elsewhere", Verdict.NOT_APPLICABLE, "not taken up: why"),
    )
    found = Table(rows, {}, "0123456789ab", "2026-01-02T03:04:05+00:00", skipped=2)
    text = page(found, Score((Result("a", "breaks", ("UM-A-1",), "survived"),), "ba9876543210"), None, ["- `x`: yes"])
    assert "of 0123456789ab, 2026-01-02T03:04:05+00:00; 2 tests were skipped." in text
    assert "- UM-A-3: is elsewhere – why" in text
    assert "- UM-A-2, deviation: is not – because" in text
    assert "UM-A-1, passed" not in text
    assert "0 of 1 defects noticed, 0 % (of ba9876543210, at an unknown time)." in text
    assert "- a, survived: breaks (UM-A-1)" in text
    assert text.count("**Missing") == 1


def test_what_is_not_taken_up_is_no_rule_that_does_not_apply() -> None:
    router = Row("rfc8504", "RFC8504-14", "routers", Verdict.NOT_APPLICABLE, "the stack is a host")
    undone = Row("rfc8504", "RFC8504-13", "IPsec", Verdict.NOT_APPLICABLE, "not taken up: applications do it")
    assert "Every rule passes or does not apply." in page(Table((router,), {}), None, None, [])
    text = page(Table((router, undone), {}), None, None, [])
    assert "Every rule passes" not in text
    assert "not taken up:\n- RFC8504-13: IPsec – applications do it\n" in text
    assert "RFC8504-14:" not in text


def test_nothing_is_claimed_without_a_run() -> None:
    assert page(None, None, None, []).count("**Missing") == 4


def test_a_session_that_was_never_run_is_missing(tmp_path: Path) -> None:
    assert rules(tmp_path / "latest.json") is None


def test_a_run_of_some_rules_is_not_taken_for_the_results(tmp_path: Path) -> None:
    path = tmp_path / "latest.json"
    table = Table((Row("um", "UM-A-1", "is so", Verdict.PASSED),), {}, asked=("UM-A-1",))
    path.write_bytes(msgspec.json.encode(table))
    with pytest.raises(SetupError, match="only for UM-A-1: run it again for all rules"):
        rules(path)
    path.write_bytes(msgspec.json.encode(structs.replace(table, asked=())))
    assert rules(path) is not None


@pytest.mark.parametrize("text", ["[]", '{"rows": []}', "no JSON", "\udcff"])
def test_a_file_of_another_kind_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_bytes(text.encode(errors="surrogateescape"))
    monkeypatch.setattr("sys.argv", ["results.py", "--bench", str(wrong)])
    with pytest.raises(SystemExit, match="is not a result of"):
        main()
    assert capsys.readouterr().out == ""


def test_a_table_of_an_older_format_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / LATEST
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    monkeypatch.setattr("tools.results.ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["results.py"])
    with pytest.raises(SystemExit, match="is not a table of verdicts"):
        main()
    assert capsys.readouterr().out == ""


def test_figures_that_mean_little_say_so() -> None:
    beginning = figures.Beginning("2026-01-02T03:04:05+00:00", 0.0, "0123456789abcdef", False)
    about = figures.circumstances(beginning, "asyncio", "short", False, {})
    row = figures.figure("P-6", "services", "1/s", [1.0], goal=figures.Goal(at_least=3000))

    def text(**more: object) -> str:
        return page(None, None, figures.Result(circumstances=structs.replace(about, **more), figures=[row]), [])

    assert "2026-01-02T03:04:05+00:00" in text() and "commit 0123456789ab;" in text() and "Python 3" in text()
    assert "busy" not in text() and "--smoke" not in text()
    assert "Not reached:" in text()
    assert "busy" in text(load_before=3.0)
    assert "mean nothing" in text(smoke=True)
