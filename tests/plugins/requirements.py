"""`@pytest.mark.proves("UM-ADDR-2", …)`: which requirement a test proves, and the table that comes of it.

Ids are checked against `tests/requirements.toml` when tests are collected, so a misspelt id fails at once.  Every
session ends by writing `out/proves.json`, an array of one object per requirement in the order of the specification:
`spec`, `id`, `text`, `verdict`, `reason`, `tests` (pytest node ids), `captures` (paths).  The verdicts: `failed` if any
test of the id failed, else `untested` if none ran (with the reason, where one was skipped), else `passed`.  An id without a test
is listed, never left out.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

import pytest

TABLE = Path(__file__).parents[1] / "requirements.toml"
PROPERTY = "proves"
CAPTURE = "capture"
"""`record_property(CAPTURE, path)` in a test adds a capture to the rows of the ids that it proves."""

_RANK = {"passed": 0, "skipped": 1, "failed": 2}


@dataclass(slots=True)
class Outcome:
    """What became of one test."""

    ids: tuple[str, ...]
    result: str = "passed"
    reason: str = ""
    captures: list[str] = field(default_factory=list)


def load_table(path: Path = TABLE) -> list[dict[str, str]]:
    """The requirements, in the order of the specification."""
    table: list[dict[str, str]] = tomllib.loads(path.read_text(encoding="utf-8"))["requirement"]
    return table


def verdicts(table: list[dict[str, str]], outcomes: dict[str, Outcome]) -> list[dict[str, object]]:
    """One row per requirement from the outcome of each test."""
    rows: list[dict[str, object]] = []
    for requirement in table:
        tests = {name: outcome for name, outcome in outcomes.items() if requirement["id"] in outcome.ids}
        results = {outcome.result for outcome in tests.values()}
        if "failed" in results:
            verdict = "failed"
        elif "passed" in results:
            verdict = "passed"
        else:
            verdict = "untested"
        reasons = [outcome.reason for outcome in tests.values() if outcome.reason]
        rows.append(
            {
                "spec": requirement["spec"],
                "id": requirement["id"],
                "text": requirement["text"],
                "verdict": verdict,
                "reason": "; ".join(dict.fromkeys(reasons)) if tests else "no test of this run names it",
                "tests": sorted(tests),
                "captures": sorted(capture for outcome in tests.values() for capture in outcome.captures),
            }
        )
    return rows


class Requirements:
    """Collects the outcome of every test that carries the marker; one per session."""

    def __init__(self, summary: Path | None) -> None:
        self.table = load_table()
        self.known = {requirement["id"] for requirement in self.table}
        self.outcomes: dict[str, Outcome] = {}
        self.summary = summary

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        for item in items:
            ids: list[str] = []
            for marker in item.iter_markers(PROPERTY):
                ids.extend(marker.args)
            for wrong in [name for name in ids if name not in self.known]:
                near = difflib.get_close_matches(str(wrong), self.known, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise pytest.UsageError(f"{item.nodeid} proves {wrong!r}, which is not in {TABLE.name}{hint}")
            if ids:
                # Properties travel with the report, so this works under xdist too.
                item.user_properties.append((PROPERTY, " ".join(dict.fromkeys(ids))))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        properties = dict(report.user_properties)
        if PROPERTY not in properties:
            return
        outcome = self.outcomes.setdefault(report.nodeid, Outcome(tuple(str(properties[PROPERTY]).split())))
        if _RANK[report.outcome] > _RANK[outcome.result]:
            outcome.result = report.outcome
            outcome.reason = _reason(report)
        outcome.captures = [str(value) for key, value in report.user_properties if key == CAPTURE]

    def pytest_sessionfinish(self) -> None:
        if self.summary is None:
            return
        self.summary.parent.mkdir(exist_ok=True)
        partial = self.summary.with_name(f"{self.summary.name}.{os.getpid()}")
        partial.write_text(json.dumps(verdicts(self.table, self.outcomes), ensure_ascii=False, indent=1) + "\n")
        partial.replace(self.summary)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.outcomes or self.summary is None:
            return
        rows = verdicts(self.table, self.outcomes)
        count = {
            verdict: sum(row["verdict"] == verdict for row in rows) for verdict in ("passed", "failed", "untested")
        }
        terminalreporter.write_line(
            f"requirements: {count['passed']} passed, {count['failed']} failed, {count['untested']} untested"
            f" of {len(rows)} ({self.summary})"
        )


def _reason(report: pytest.TestReport) -> str:
    """One line on why the test did not pass."""
    if isinstance(report.longrepr, tuple):
        return str(report.longrepr[2]).removeprefix("Skipped: ")
    crash = getattr(report.longrepr, "reprcrash", None)
    text = str(crash.message if crash is not None else report.longrepr)
    return text.splitlines()[0] if text else report.outcome


def pytest_configure(config: pytest.Config) -> None:
    # An xdist worker reports to its controller, which writes the one summary.
    summary = None if hasattr(config, "workerinput") else config.rootpath / "out" / "proves.json"
    config.pluginmanager.register(Requirements(summary), "unimux-requirements")
