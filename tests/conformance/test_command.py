"""`unimux conformance`: what it prints and returns, over tables that a test has written and over one small run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from pathlib import Path

import pytest

from compat.kernel import Owner
from scenarios.conformance import checkout as checkouts
from scenarios.conformance.page import page_name, prose
from scenarios.conformance.rows import (
    BY_THE_API,
    Row,
    Verdict,
    asked_for,
    grouped,
    holds,
    known_ids,
    load,
    needless_reasons,
    without_evidence,
)
from scenarios.conformance.session import LATEST
from scenarios.conformance.table import WHERE_PATHS_STAND
from tests.plugins import requirements
from tests.plugins.requirements import api_witnessed
from unimux.cli.main import run

from .talk import TALK, capture

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two specifications of two rules each, and no tests."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "pyproject.toml").touch()
    rule = '[[requirement]]\nid = "{}"\nspec = "{}"\nsection = "1"\ntext = "A rule."\n'
    (tmp_path / "tests" / "requirements.toml").write_text(
        rule.format("UM-X-1", "um") + rule.format("ST-TCP-1", "st") + rule.format("ST-LINK-1", "st")
    )
    (tmp_path / "tests" / "rfc8504.toml").write_text(rule.format("RFC8504-4", "rfc8504"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def leave(checkout: Path, skipped: int = 0, asked: Sequence[str] = (), /, **verdicts: str) -> None:
    """What a run would have left."""
    rows = []
    for spec, name in known_ids(checkout):
        row = {"spec": spec, "id": name, "text": "A rule.", "verdict": verdicts.get(name, "passed")}
        rows.append({**row, "reason": "", "tests": ["t::x"], "captures": []})
    about = {"revision": "0123456789ab", "ended": "2026-11-22T09:00:00+00:00", "skipped": skipped, "asked": asked}
    write(checkout, json.dumps({"rows": rows, "kept": {}, **about}))


def write(checkout: Path, text: str) -> None:
    path = checkout / LATEST
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, object]]]:
    status = run(["conformance", "--last", "--json", *arguments])
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)
    return status, found


def test_for_programs_it_prints_one_array_of_objects(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    leave(checkout)
    status, rows = printed(capsys)
    assert status == 0
    assert [row["id"] for row in rows] == ["UM-X-1", "ST-TCP-1", "ST-LINK-1", "RFC8504-4"]
    assert all(list(row) == ["spec", "id", "text", "verdict", "reason", "tests", "captures"] for row in rows)


@pytest.mark.parametrize(
    ("verdict", "status"), [("passed", 0), ("deviation", 0), ("not-applicable", 0), ("untested", 1), ("failed", 1)]
)
def test_only_a_failed_or_untested_rule_makes_it_fail(
    checkout: Path, capsys: pytest.CaptureFixture[str], verdict: str, status: int
) -> None:
    leave(checkout, **{"ST-TCP-1": verdict})
    assert printed(capsys)[0] == status
    assert printed(capsys, "--spec", "um")[0] == 0, "only what was asked for counts"


@pytest.mark.parametrize(
    ("arguments", "ids"),
    [
        (("--spec", "um"), ["UM-X-1"]),
        (("--spec", "tcp"), ["ST-TCP-1"]),
        (("--spec", "st,rfc8504"), ["ST-TCP-1", "ST-LINK-1", "RFC8504-4"]),
        (("--spec", "link", "--spec", "um"), ["UM-X-1", "ST-LINK-1"]),
        (("--id", "ST-LINK-1"), ["ST-LINK-1"]),
        (("--spec", "um", "--id", "ST-TCP-1"), ["UM-X-1", "ST-TCP-1"]),
    ],
)
def test_what_was_asked_for(
    checkout: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], ids: list[str]
) -> None:
    leave(checkout)
    assert [row["id"] for row in printed(capsys, *arguments)[1]] == ids


def test_the_latest_run_says_which_it_was_and_what_it_lacked(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(checkout)
    assert run(["conformance", "--last"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "The latest run: of 0123456789ab, 2026-11-22T09:00:00+00:00" in said and "skipped" not in said
    leave(checkout, 3)
    assert run(["conformance", "--last"]) == 0
    assert "3 tests were skipped" in " ".join(capsys.readouterr().err.split())


def test_the_latest_run_may_have_been_for_some_rules_and_tells_nothing_of_the_others(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(checkout, 0, ["ST-TCP-1", "ST-LINK-1"], **{"UM-X-1": "untested"})
    status, rows = printed(capsys)
    assert (status, [row["id"] for row in rows]) == (0, ["ST-TCP-1", "ST-LINK-1"])
    status, rows = printed(capsys, "--spec", "tcp")
    assert (status, [row["id"] for row in rows]) == (0, ["ST-TCP-1"])
    assert run(["conformance", "--last"]) == 0
    assert "09:00:00+00:00, only for ST-TCP-1, ST-LINK-1" in " ".join(capsys.readouterr().err.split())
    assert run(["conformance", "--last", "--id", "ST-TCP-1,UM-X-1"]) == 3
    said = capsys.readouterr()
    assert "was only for ST-TCP-1, ST-LINK-1, and not for UM-X-1" in " ".join(said.err.split())
    assert said.out == ""


def test_a_rule_that_is_named_shows_every_test_and_capture_by_its_path(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On lines of their own, whole on the narrowest terminal; the table of all rules counts them and says where they stand."""
    monkeypatch.setenv("COLUMNS", "60")
    tests = [f"tests/unit/a_long_way/test_file.py::test_{name}[case {name}]" for name in "abcd"]
    captures = [f"out/conformance/captures/{'x' * 60}-{name}.pcapng" for name in "abcd"]
    rows = [
        {"spec": spec, "id": name, "text": "A rule.", "verdict": "passed", "tests": tests, "captures": captures}
        for spec, name in known_ids(checkout)
    ]
    write(checkout, json.dumps({"rows": rows, "kept": {}}))
    assert run(["conformance", "--last", "--id", "ST-TCP-1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(maxsplit=1) for line in lines if line.startswith("  ") and "/" in line] == [
        *(["test", test] for test in tests),
        *(["capture", capture] for capture in captures),
    ]
    assert WHERE_PATHS_STAND not in lines
    assert run(["conformance", "--last", "--spec", "um", "--id", "ST-TCP-1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines.count(f"  capture  {capture}") for capture in captures] == [1] * 4
    assert WHERE_PATHS_STAND in lines
    assert run(["conformance", "--last"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not any("pcapng" in line for line in lines) and WHERE_PATHS_STAND in lines
    assert len([line for line in lines if line.startswith(("UM-", "ST-", "RFC")) and "passed" in line]) == 4


RULES = """
import json, sys
from pathlib import Path
words = dict(zip(sys.argv, sys.argv[1:]))
Path("pytest-words.json").write_text(json.dumps(words))
rows = [dict(spec="um", id="UM-X-1", text="A rule.", verdict="not-applicable")]
Path(words["--proves"]).write_text({table})
sys.exit({status})
"""


def in_place_of_pytest(checkout: Path, monkeypatch: pytest.MonkeyPatch, table: str, status: int) -> None:
    """A module of that name, which the command runs in the checkout."""
    (checkout / "pytest.py").write_text(RULES.format(table=table, status=status))
    monkeypatch.setattr(checkouts, "require_tools", lambda: None)


@pytest.mark.parametrize(
    ("arguments", "requirements", "asked"),
    [
        (("--id", "UM-X-1"), "UM-X-1", ("UM-X-1",)),
        ((), "all", ()),
        (("--spec", "um,st,rfc8504"), "all", ()),
    ],
)
def test_a_run_leaves_what_it_was_for(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], requirements: str, asked: tuple[str]
) -> None:
    in_place_of_pytest(checkout, monkeypatch, 'json.dumps({"rows": rows, "kept": {}})', 0)
    (checkout / "tests" / "api.toml").write_text("[api]\n")
    run(["conformance", *arguments])
    assert json.loads((checkout / "pytest-words.json").read_text())["--requirements"] == requirements
    assert load(checkout / LATEST).asked == asked


@pytest.mark.parametrize(("table", "status"), [('"{}"', 0), ('json.dumps({"rows": rows, "kept": {}})', 2)])
def test_a_run_that_comes_to_nothing_leaves_the_latest_table_alone_and_none_of_its_own(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, table: str, status: int
) -> None:
    leave(checkout)
    before = load(checkout / LATEST)
    in_place_of_pytest(checkout, monkeypatch, table, status)
    assert run(["conformance"]) == 3
    assert load(checkout / LATEST) == before
    assert list((checkout / LATEST).parent.glob("latest*")) == [checkout / LATEST]


def test_for_people_it_prints_a_table_for_each_specification(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(checkout, **{"UM-X-1": "untested"})
    assert run(["conformance", "--last"]) == 1
    out = capsys.readouterr().out
    assert "Unified Multiplex" in out and "RFC 8504" in out
    assert "4 requirements: 3 passed, 1 untested" in out


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (("--spec", "umm"), 2, "there is no specification 'umm'; did you mean 'um'?"),
        (("--id", "UM-X-2"), 2, "there is no requirement 'UM-X-2'; did you mean 'UM-X-1'?"),
        (("--report", "/proc/x"), 3, "/proc/x cannot be written: No such file or directory."),
        (("--junit", "/proc/x/y.xml"), 3, "/proc/x cannot be written: No such file or directory."),
        (("--junit", "/proc/self"), 3, "/proc/self cannot be written: Is a directory."),
        (("--last", "--junit", "x.xml"), 2, "--junit needs a run"),
        (("--last",), 3, "has not run here yet"),
        (("--mutations", "--last"), 2, "takes no other option than --json"),
        (("--mutations", "--id", "UM-X-1"), 2, "takes no other option than --json"),
        (("--mutations", "--junit", "x.xml"), 2, "takes no other option than --json"),
    ],
)
def test_errors_are_one_sentence(
    checkout: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    assert run(["conformance", *arguments]) == status
    said = capsys.readouterr().err
    assert sentence in " ".join(said.split())
    assert "Traceback" not in said


STANDS = """
import os, signal
from pathlib import Path
Path("begun").write_text(str(os.getpid()))
signal.pause()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_negative_controls_end_with_who_started_them(tmp_path: Path, number: signal.Signals) -> None:
    module = tmp_path / "tests" / "conformance" / "mutate.py"
    module.parent.mkdir(parents=True)
    module.write_text(STANDS)
    code = f"from pathlib import Path; from scenarios.conformance.mutations import run; run(Path({str(tmp_path)!r}), json=True)"
    caller = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    begun = tmp_path / "begun"
    while not (begun.exists() and begun.read_text()):
        assert caller.poll() is None and time.monotonic() < deadline
        os.sched_yield()
    child = Owner.of_pid(int(begun.read_text()))
    assert child is not None
    caller.send_signal(number)
    assert caller.wait(60) == -number
    try:
        while child.alive():
            assert time.monotonic() < deadline, "it goes on"
            os.sched_yield()
    finally:
        with suppress(ProcessLookupError):
            os.kill(child.pid, signal.SIGKILL)


def test_a_damaged_table_is_one_sentence(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(checkout, "[{]")
    assert run(["conformance", "--last"]) == 3
    assert "is not a table of verdicts" in " ".join(capsys.readouterr().err.split())


def test_without_a_checkout_it_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert checkouts.find() == ROOT, "an editable installation knows its own checkout"
    monkeypatch.setattr(
        checkouts, "__file__", str(tmp_path / "site-packages" / "scenarios" / "conformance" / "checkout.py")
    )
    assert run(["conformance"]) == 3
    assert "run `unimux conformance` in a checkout of unimux" in " ".join(capsys.readouterr().err.split())


@pytest.mark.real("tshark")
@pytest.mark.timeout(1000)
def test_a_run_leaves_the_table_the_captures_and_the_report(tmp_path: Path) -> None:
    """On a copy of the checkout, so that the run of which this test is a part keeps its own table."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in ROOT.iterdir():
        if not path.name.startswith(".") and path.name not in ("out", "build", "dist"):
            (copy / path.name).symlink_to(path)
    command = [sys.executable, "-m", "unimux", "conformance", "--id", "UM-PORT-12", "--json"]
    command += ["--report", str(tmp_path / "report"), "--junit", str(tmp_path / "junit.xml")]
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert (row["id"], row["verdict"]) == ("UM-PORT-12", "passed")
    assert row["tests"]
    captures = [copy / name for name in row["captures"]]
    assert captures and all(path.stat().st_size > 100 for path in captures)
    index = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    for name in row["captures"]:
        assert f'href="captures/{page_name(name)}.html"' in index
        listing = (tmp_path / "report" / "captures" / f"{page_name(name)}.html").read_text(encoding="utf-8")
        assert "[SYN]" in listing and "without an explanation" not in listing
        assert (tmp_path / "report" / "captures" / f"{page_name(name)}.pcapng").exists()
    assert "http" not in index.replace("https://", "").split("<style>")[0], "nothing comes from elsewhere"
    assert "<testcase" in (tmp_path / "junit.xml").read_text(encoding="utf-8")
    assert load(copy / LATEST).asked == ("UM-PORT-12",)
    assert not (copy / "out" / "proves.json").exists(), "other sessions keep theirs"


def test_a_rule_that_passed_has_a_capture_or_says_why_there_is_none() -> None:
    rows = [
        Row("um", "U-1", "", Verdict.PASSED, captures=("a.pcapng",)),
        Row("um", "U-2", "", Verdict.PASSED, BY_THE_API + "numbers are drawn"),
        Row("um", "U-3", "", Verdict.PASSED),
        Row("um", "U-4", "", Verdict.DEVIATION, "UM-EA-1: silence"),
        Row("um", "U-5", "", Verdict.UNTESTED),
    ]
    assert without_evidence(rows) == ["U-3", "U-4"]
    known = {name for _, name in known_ids(ROOT)}
    assert known.issuperset(api_witnessed()), "an id of tests/api.toml does not exist"
    assert requirements.BY_THE_API == BY_THE_API, "the two sides of the table agree"
    excused = next(iter(api_witnessed()))
    both = Row("um", excused, "", Verdict.PASSED, captures=("b.pcapng",))
    assert needless_reasons([*rows, both, Row("um", excused, "", Verdict.PASSED)], ROOT) == [excused]


@pytest.mark.real("tshark")
@pytest.mark.parametrize("fault", [False, True], ids=["clean", "with a fault"])
def test_a_fault_in_a_capture_that_is_no_evidence_makes_it_fail(
    checkout: Path, capsys: pytest.CaptureFixture[str], fault: bool
) -> None:
    """The test of the one rule judges by the API alone, and tshark reads what was on its wire all the same."""
    (checkout / "tests" / "api.toml").write_text('[api]\nUM-X-1 = "a number"\n')
    frames = [(who, bytes(packet)) for who, packet in TALK]
    times = (0.0, 0.1, 0.2, 0.3, 0.4, 4.0)
    capture(checkout / "captures/x.pcapng", frames + frames[3:4] * fault, times=times)
    test = "tests/x.py::test_of_a_number[1]"
    row = {"spec": "um", "id": "UM-X-1", "text": "A rule.", "verdict": "passed", "reason": f"{BY_THE_API}a number"}
    others = {"tests/x.py::test_of_another_rule": ["captures/gone.pcapng"]}
    kept = {test: ["captures/x.pcapng"], **others}
    write(checkout, json.dumps({"rows": [{**row, "tests": [test], "captures": []}], "kept": kept}))
    with redirect_stdout(sys.stderr):
        assert run(["conformance", "--last", "--report", "report"]) == (1 if fault else 0)
    said = " ".join(capsys.readouterr().err.split())
    assert said.index("1 requirement") < said.index("1 capture, "), "what is wrong is read last"
    assert "1 capture, " in said, "those of the rules that were asked for, and no others"
    assert (test in said) is fault and ("captures/x.pcapng#6: " in said) is fault
    index = (checkout / "report" / "index.html").read_text(encoding="utf-8")
    assert f"<code>{test}</code>: <a" in " ".join(index.split()) and 'href="captures/x.html"' in index
    assert ("tshark objects" in index) is fault and ("<details open>" in index) is fault
    assert '<span class="soft">by the API</span>' in index, "it is still no evidence"
    page = (checkout / "report" / "captures" / "x.html").read_text(encoding="utf-8")
    assert f"Left by <code>{test}</code>, and evidence for no rule." in page and "index.html#others" in page
    assert ("without an explanation" in page) is fault


def test_rows() -> None:
    rows = [Row("rfc8504", "R", "", Verdict.PASSED), Row("um", "U", "", Verdict.NOT_APPLICABLE)]
    assert list(grouped(rows)) == ["um", "rfc8504"]
    assert holds(rows)
    assert not holds([*rows, Row("um", "V", "", Verdict.UNTESTED)])
    assert asked_for("st", "ST-IP6-1", ["ip6"], [])
    assert not asked_for("st", "ST-IP6-1", ["tcp"], [])
    assert prose("a *b* `c*d*` <e>") == "a <i>b</i> <code>c*d*</code> &lt;e&gt;"
