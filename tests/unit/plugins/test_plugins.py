"""The project's pytest plug-ins, each run over a small session of its own."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest

from tests.plugins import requirements

from .sessions import run, table


def test_table_holds_every_requirement_of_both_specifications() -> None:
    table = requirements.load_table()
    ids = [requirement["id"] for requirement in table]
    assert len(ids) == len(set(ids)) == 97
    assert {requirement["spec"] for requirement in table} == {"um", "st"}
    assert all(requirement["text"] and requirement["section"] for requirement in table)


def test_what_is_left_for_later_is_said_and_fails_with_the_test_of_its_door(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        import pytest

        @pytest.mark.proves("UM-SSA-4")
        def test_door():
            assert not (__import__("pathlib").Path("closed").exists())
        """
    )

    def row() -> dict[str, Any]:
        run(session)
        found: dict[str, Any]
        (found,) = (r for r in table(session) if r["id"] == "UM-SSA-4")
        return found

    open_door = row()
    assert open_door["verdict"] == "not-applicable"
    assert open_door["reason"].startswith("Later: ")
    assert len(open_door["tests"]) == 1
    (session.path / "closed").touch()
    assert row()["verdict"] == "failed"


def test_summary_names_tests_verdicts_and_captures(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        import pytest

        @pytest.mark.proves("UM-ADDR-1", "UM-ADDR-2")
        def test_holds(record_property):
            record_property("capture", "out/a.pcapng")

        @pytest.mark.proves("UM-ADDR-2")
        def test_fails():
            assert 1 == 2

        @pytest.mark.proves("UM-ADDR-3")
        def test_not_run():
            pytest.skip("no time")
        """
    )
    run(session).assert_outcomes(passed=1, failed=1, skipped=1)
    rows = {row["id"]: row for row in table(session)}
    assert list(rows) == [requirement["id"] for requirement in requirements.load_tables()]
    assert rows["UM-ADDR-1"]["verdict"] == "passed"
    assert rows["UM-ADDR-1"]["captures"] == ["out/a.pcapng"]
    assert rows["UM-ADDR-2"]["verdict"] == "failed"
    assert len(rows["UM-ADDR-2"]["tests"]) == 2
    assert rows["UM-ADDR-3"]["verdict"] == "untested"
    assert rows["UM-ADDR-3"]["reason"] == "no time"
    assert rows["UM-ADDR-4"]["verdict"] == "untested"


def test_only_tests_of_the_ids_asked_for_run(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        import pytest

        @pytest.mark.proves("UM-ADDR-1")
        def test_one(): pass

        @pytest.mark.proves("UM-ADDR-2")
        def test_two(): pass

        def test_of_nothing(): pass
        """
    )
    elsewhere = session.path / "deep" / "rows.json"
    run(session, "--requirements", "UM-ADDR-2", "--proves", str(elsewhere)).assert_outcomes(passed=1, deselected=2)
    passed = [row["id"] for row in json.loads(elsewhere.read_text())["rows"] if row["verdict"] == "passed"]
    assert passed[0] == "UM-ADDR-2"
    run(session, "--requirements", "all").assert_outcomes(passed=2, deselected=1)
    wrong = run(session, "--requirements", "UM-ADR-2")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    wrong.stderr.fnmatch_lines(["*UM-ADR-2*did you mean UM-ADDR-2?*"])


def test_rows_that_deviate_do_not_apply_or_are_proved_through_others() -> None:
    table: list[requirements.Row] = [
        {"id": "R-1", "spec": "r", "text": "", "not_applicable": "it is a router's"},
        {"id": "R-2", "spec": "r", "text": "", "deviation": "UM-EA-1", "reason": "silence"},
        {"id": "R-3", "spec": "r", "text": "", "through": ["R-2"]},
        {"id": "R-4", "spec": "r", "text": "", "deviation": "UM-EA-1"},
    ]
    passed = requirements.Outcome(("R-2",), captures=["a", "a"])
    rows = {row["id"]: row for row in requirements.verdicts(table, {"t": passed})}
    assert [row["verdict"] for row in rows.values()] == ["not-applicable", "deviation", "passed", "untested"]
    assert rows["R-1"]["reason"] == "it is a router's"
    assert rows["R-2"]["reason"] == "UM-EA-1: silence"
    assert rows["R-3"]["tests"] == ["t"] and rows["R-3"]["captures"] == ["a"]
    failed = requirements.Outcome(("R-1", "R-2"), result="failed", reason="why")
    rows = {row["id"]: row for row in requirements.verdicts(table, {"t": failed})}
    assert [row["verdict"] for row in rows.values()] == ["failed", "failed", "failed", "untested"]


def test_what_the_stack_says_of_itself_is_no_evidence() -> None:
    table: list[requirements.Row] = [{"id": name, "spec": "r", "text": ""} for name in ("R-1", "R-2", "R-3")] + [
        {"id": "R-4", "spec": "r", "text": "", "through": ["R-1", "R-3"]},
        {"id": "R-5", "spec": "r", "text": "", "through": ["R-2", "R-3"]},
    ]
    outcomes = {
        "t::api": requirements.Outcome(("R-1", "R-2"), frozenset({"R-1", "R-2"}), captures=["a"]),
        "t::both": requirements.Outcome(("R-2", "R-3"), frozenset({"R-3"}), captures=["b"]),
    }
    rows = {row["id"]: row for row in requirements.verdicts(table, outcomes)}
    captures = {name: row["captures"] for name, row in rows.items()}
    assert captures == {"R-1": [], "R-2": ["b"], "R-3": [], "R-4": [], "R-5": ["b"]}
    assert [row["verdict"] for row in rows.values()] == ["passed"] * 5
    assert rows["R-1"]["tests"] == ["t::api"]


def test_a_test_says_how_it_judges(session: pytest.Pytester) -> None:
    module = """
        import pytest

        @pytest.mark.proves("UM-ADDR-1")
        @pytest.mark.proves("UM-ADDR-2", by="api")
        def test_holds(record_property):
            record_property("capture", "x.pcapng")
        """
    session.makepyfile(module)
    for workers in ((), ("-n", "1")):
        run(session, *workers).assert_outcomes(passed=1)
        captures = {row["id"]: row["captures"] for row in table(session) if row["tests"]}
        assert captures == {"UM-ADDR-1": ["x.pcapng"], "UM-ADDR-2": []}
    session.makepyfile(module.replace('"api"', '"eye"'))
    wrong = run(session)
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    wrong.stderr.fnmatch_lines(["*takes ids and by=*"])


def test_summary_is_the_same_under_xdist(session: pytest.Pytester) -> None:
    session.makepyfile("import pytest\n@pytest.mark.proves('UM-ADDR-1')\ndef test_holds(): pass")
    run(session, "-n", "1").assert_outcomes(passed=1)
    rows = table(session)
    assert rows[0]["verdict"] == "passed"


def test_misspelt_id_is_refused_with_a_suggestion(session: pytest.Pytester) -> None:
    session.makepyfile("import pytest\n@pytest.mark.proves('UM-ADR-1')\ndef test_holds(): pass")
    result = run(session)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*UM-ADR-1*did you mean UM-ADDR-1?*"])


@pytest.mark.parametrize(
    "body",
    [
        "@pytest.mark.skip(reason='later')\ndef test_it(): pass",
        "def test_it(): pytest.skip('later')",
        "@pytest.mark.xfail(reason='later')\ndef test_it(): assert False",
        "pytest.skip('later', allow_module_level=True)",
    ],
)
def test_forbidden_skips_fail_the_session(session: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, body: str) -> None:
    session.makepyfile("import pytest\n" + body)
    assert run(session).ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    monkeypatch.setenv("UNIMUX_FORBID_SKIPS", "1")
    result = run(session)
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    result.stdout.fnmatch_lines(["*UNIMUX_FORBID_SKIPS is set*later*"])


def test_real_test_without_its_programs_is_skipped_loudly(
    session: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.makepyfile("import pytest\n@pytest.mark.real('no-such-program')\ndef test_it(): pass")
    result = run(session)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*REAL TESTS NOT RUN*", "1 tests against real kernels were skipped: *"])
    monkeypatch.setenv("UNIMUX_FORBID_SKIPS", "1")
    run(session).assert_outcomes(errors=1)


def test_artefacts_stay_only_where_a_test_failed(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        def test_good(artefacts):
            (artefacts / "capture").write_text("x")

        def test_bad(artefacts):
            (artefacts / "capture").write_text("x")
            assert 1 == 2
        """
    )
    result = run(session)
    result.assert_outcomes(passed=1, failed=1)
    folder = session.path / "out" / "tests"
    assert [entry.name for entry in folder.iterdir()] == [next(folder.glob("*test_bad")).name]
    assert (next(folder.iterdir()) / "capture").read_text() == "x"
    result.stdout.fnmatch_lines(["*- artefacts -*", f"*{os.sep}out{os.sep}tests{os.sep}*test_bad"])
    run(session, "--keep-artefacts")
    assert len(list(folder.iterdir())) == 2


def test_seed_is_repeatable_differs_by_test_and_is_shown_on_failure(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        def test_one(seed, rng):
            print("one", seed)
            assert rng.random() == -1

        def test_two(seed):
            print("two", seed)
            assert False
        """
    )

    def seeds(*arguments: str) -> list[str]:
        result = run(session, *arguments)
        result.stdout.fnmatch_lines(["*- seed -*"])
        return [line for line in result.outlines if line.startswith(("one ", "two "))]

    first = seeds()
    assert len(first) == 2
    assert first[0].split()[1] != first[1].split()[1]
    assert seeds() == first
    assert seeds("--seed", "2") != first


def test_programs_of_a_session_in_the_background_can_be_interrupted(session: pytest.Pytester) -> None:
    session.makepyfile(
        """
        import signal, subprocess

        def test_interrupted():
            process = subprocess.Popen(["sleep", "60"])
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == -signal.SIGINT
        """
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell without job control does for `command &`
    try:
        run(session).assert_outcomes(passed=1)
    finally:
        signal.signal(signal.SIGINT, before)
