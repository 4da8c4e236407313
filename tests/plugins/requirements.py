"""`@pytest.mark.proves("UM-ADDR-2", …)`: which requirement a test proves, and the table that comes of it.

The tables are `tests/requirements.toml` (UM and ST) and one file per RFC, `tests/rfc*.toml`.  A row has `id`, `spec`, `section`
and `text`, and may have

    not_applicable   why the rule does not concern this stack; such a row needs no test
    deviation        the UM id that asks for another behaviour, and in `reason` what it is; the tests show that behaviour
    through          ids whose tests prove this row too

`@pytest.mark.proves("UM-LIS-1", by="api")` is of a test that judges by what the stack says of itself: its states, its
counters, what a call returns.  Its captures are no evidence.  Where no test of a rule that passed judges by the wire, since
nothing of it is there, `tests/api.toml` says why, and then the row's reason does.
`tests/later.toml` makes a row of the generated table `not_applicable` for the time being.

Ids are checked against the tables when tests are collected, so a misspelt id fails at once.  Every session ends by
writing `out/proves.json` (`--proves FILE` names another): `revision` of the sources, `ended`, how many tests were
`skipped`, `kept`, the captures of each test, evidence or not, and `rows`, one object per requirement in the order of the
specifications: `spec`, `id`, `text`, `verdict`, `reason`, `tests` (pytest node ids), `captures` (paths of the evidence).
The verdicts: `failed` if any test of the id failed; else
`not-applicable` or, if a test passed, `deviation`, where the table says so; else `untested` if none ran (with the reason,
where one was skipped); else `passed`.  An id without a test is listed, never left out.

`--requirements ID,…` runs only tests that prove one of these ids; `--requirements all`, those that prove any.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from scenarios.revision import described
from tests.plugins.real import plain

TABLE = Path(__file__).parents[1] / "requirements.toml"
API = TABLE.with_name("api.toml")
LATER = TABLE.with_name("later.toml")
BY_THE_API = "witnessed by the API: "
"""Begins the reason of a rule that needs no capture."""
Row: TypeAlias = dict[str, Any]
PROPERTY = "proves"
BY_API = "proves by the API"
"""The property with those of the ids that a test proves by what the stack says of itself."""
CAPTURE = "capture"
"""`record_property(CAPTURE, path)` in a test adds a capture to the rows of the ids that it proves."""

VERDICTS = ("passed", "failed", "untested", "deviation", "not-applicable")
_ALWAYS = VERDICTS[:3]  # told even where there is none
_LONGEST_REASON = 240  # characters
_RANK = {"passed": 0, "skipped": 1, "failed": 2}


@dataclass(slots=True)
class Outcome:
    """What became of one test."""

    ids: tuple[str, ...]
    by_api: frozenset[str] = frozenset()
    """those of the ids that no wire shows in this test"""
    result: str = "passed"
    reason: str = ""
    captures: list[str] = field(default_factory=list)

    def judges_by_wire(self, ids: set[str]) -> bool:
        """Whether the test looks at a wire for one of these ids."""
        return not self.by_api.issuperset(ids.intersection(self.ids))


def load_table(path: Path = TABLE) -> list[Row]:
    """The requirements of one file, in the order of the specification."""
    table: list[Row] = tomllib.loads(path.read_text(encoding="utf-8"))["requirement"]
    return table


def load_tables() -> list[Row]:
    """The requirements of all files: UM and ST, then the RFCs by number, newest first."""
    files = [TABLE, *sorted(TABLE.parent.glob("rfc*.toml"), reverse=True)]
    later = tomllib.loads(LATER.read_text(encoding="utf-8"))["later"]
    table = [requirement for path in files for requirement in load_table(path)]
    for requirement in table:
        if why := later.get(requirement["id"]):
            requirement["not_applicable"] = why
    return table


@cache
def api_witnessed() -> dict[str, str]:
    """Ids of which nothing is on a wire, and why."""
    table: dict[str, str] = tomllib.loads(API.read_text(encoding="utf-8"))["api"]
    return table


def ids_of(requirement: Row) -> set[str]:
    """The id of a row, and those whose tests prove it too."""
    return {requirement["id"], *requirement.get("through", ())}


def verdicts(table: Sequence[Row], outcomes: dict[str, Outcome]) -> list[Row]:
    """One row per requirement from the outcome of each test."""
    return [_row(requirement, outcomes) for requirement in table]


def _row(requirement: Row, outcomes: dict[str, Outcome]) -> Row:
    wanted = ids_of(requirement)
    tests = {name: outcome for name, outcome in outcomes.items() if not wanted.isdisjoint(outcome.ids)}
    reasons = list(dict.fromkeys(outcome.reason for outcome in tests.values() if outcome.reason))
    verdict = _verdict(requirement, {outcome.result for outcome in tests.values()})
    match verdict:
        case "not-applicable":
            reasons = [requirement["not_applicable"]]
        case "deviation":
            reasons = [f"{requirement['deviation']}: {requirement.get('reason', 'asked for')}"]
        case "untested" if not tests:
            reasons = ["no test of this run names it"]
    on_the_wire = [outcome for outcome in tests.values() if outcome.judges_by_wire(wanted)]
    captures = sorted({capture for outcome in on_the_wire for capture in outcome.captures})
    if verdict == "passed" and not captures and (why := api_witnessed().get(requirement["id"])):
        reasons = [BY_THE_API + why]
    return {
        "spec": requirement["spec"],
        "id": requirement["id"],
        "text": requirement["text"],
        "verdict": verdict,
        "reason": "; ".join(reasons),
        "tests": sorted(tests),
        "captures": captures,
    }


def _verdict(requirement: Row, results: set[str]) -> str:
    if "failed" in results:
        return "failed"
    if "not_applicable" in requirement:
        return "not-applicable"
    if "passed" in results:
        return "deviation" if "deviation" in requirement else "passed"
    return "untested"


class Requirements:
    """Collects the outcome of every test that carries the marker; one per session."""

    def __init__(self, root: Path, summary: Path | None, asked: str | None = None) -> None:
        self.root = root
        self.table = load_tables()
        self.known = {requirement["id"] for requirement in self.table}
        self.asked = self._asked(asked)
        self.outcomes: dict[str, Outcome] = {}
        self.summary = summary
        self.rows: list[Row] = []
        """once the session is over"""

    def _asked(self, names: str | None) -> set[str] | None:
        """The ids whose tests are to run; None for all tests, those that prove nothing included."""
        if names is None:
            return None
        if names == "all":
            return self.known
        wanted = {name for name in names.split(",") if name}
        if wrong := sorted(wanted - self.known):
            raise pytest.UsageError(f"--requirements {wrong[0]}: no table has this id{self._hint(wrong[0])}")
        return {name for row in self.table if row["id"] in wanted for name in ids_of(row)}

    def _hint(self, wrong: str) -> str:
        near = difflib.get_close_matches(wrong, self.known, n=1)
        return f"; did you mean {near[0]}?" if near else ""

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        left_out: list[pytest.Item] = []
        for item in items:
            ids: list[str] = []
            on_the_wire: set[str] = set()
            for marker in item.iter_markers(PROPERTY):
                ids.extend(marker.args)
                if marker.kwargs not in ({}, {"by": "api"}):
                    raise pytest.UsageError(f'{item.nodeid}: `proves` takes ids and by="api", not {marker.kwargs}')
                if not marker.kwargs:
                    on_the_wire.update(marker.args)
            for wrong in [name for name in ids if name not in self.known]:
                hint = self._hint(str(wrong))
                raise pytest.UsageError(f"{item.nodeid} proves {wrong!r}, which is in no table{hint}")
            if ids:
                # Properties travel with the report, so this works under xdist too.
                item.user_properties.append((PROPERTY, " ".join(dict.fromkeys(ids))))
                item.user_properties.append((BY_API, " ".join(sorted(set(ids) - on_the_wire))))
            if self.asked is not None and self.asked.isdisjoint(ids):
                left_out.append(item)
        if left_out:
            config.hook.pytest_deselected(items=left_out)
            gone = set(map(id, left_out))
            items[:] = [item for item in items if id(item) not in gone]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if PROPERTY not in properties:
            return
        ids, by_api = (str(properties[name]).split() for name in (PROPERTY, BY_API))
        outcome = self.outcomes.setdefault(plain(report.nodeid), Outcome(tuple(ids), frozenset(by_api)))
        if _RANK[report.outcome] > _RANK[outcome.result]:
            outcome.result = report.outcome
            outcome.reason = _reason(report)
        outcome.captures = [str(value) for key, value in report.user_properties if key == CAPTURE]

    def pytest_sessionfinish(self) -> None:
        if self.summary is None:
            return
        self.rows = verdicts(self.table, self.outcomes)
        self.summary.parent.mkdir(parents=True, exist_ok=True)
        partial = self.summary.with_name(f"{self.summary.name}.{os.getpid()}")
        record = {
            "revision": described(self.root),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "skipped": sum(outcome.result == "skipped" for outcome in self.outcomes.values()),
            "kept": {name: outcome.captures for name, outcome in sorted(self.outcomes.items()) if outcome.captures},
            "rows": self.rows,
        }
        partial.write_text(json.dumps(record, ensure_ascii=False, indent=1) + "\n")
        partial.replace(self.summary)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.outcomes or self.summary is None:
            return
        count = Counter(row["verdict"] for row in self.rows)
        told = ", ".join(f"{count[verdict]} {verdict}" for verdict in VERDICTS if count[verdict] or verdict in _ALWAYS)
        terminalreporter.write_line(f"requirements: {told} of {len(self.rows)} ({self.summary})")


def _reason(report: pytest.TestReport) -> str:
    """One line on why the test did not pass."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else report.longrepr)
    line = text.splitlines()[0] if text else report.outcome
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]} …"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("requirements")
    group.addoption("--requirements", metavar="ID,…", help="only tests that prove one of these ids; `all` for any id")
    group.addoption("--proves", metavar="FILE", help="the file of the verdicts (default: out/proves.json)")


def pytest_configure(config: pytest.Config) -> None:
    # An xdist worker reports to its controller, which writes the one summary.
    name = config.getoption("--proves") or config.rootpath / "out" / "proves.json"
    summary = None if hasattr(config, "workerinput") else Path(name)
    config.pluginmanager.register(
        Requirements(config.rootpath, summary, config.getoption("--requirements")), "unimux-requirements"
    )
