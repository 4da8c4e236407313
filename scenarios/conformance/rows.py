"""The table of verdicts: one row per requirement, as a test session writes it.

`unimux conformance` keeps that of its latest run in `out/conformance/latest.json`; other sessions leave that file alone.
A session knows every requirement of every specification; what a reader asked for is chosen here.  Nothing asked for is
left out: an id without a test is a row, `untested`.
"""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path

import msgspec

from scenarios.revision import origin
from unimux.errors import SetupError


class Verdict(StrEnum):
    """What is known of a requirement."""

    PASSED = "passed"
    FAILED = "failed"
    UNTESTED = "untested"
    DEVIATION = "deviation"
    NOT_APPLICABLE = "not-applicable"


class Row(msgspec.Struct, frozen=True):
    """One requirement.  This is the object of `unimux conformance --json`."""

    spec: str
    id: str
    text: str
    verdict: Verdict
    reason: str = ""
    tests: tuple[str, ...] = ()
    """pytest node ids"""
    captures: tuple[str, ...] = ()
    """paths, from the checkout on"""


class Table(msgspec.Struct, frozen=True):
    """What one session of tests found."""

    rows: tuple[Row, ...]
    kept: dict[str, tuple[str, ...]]
    """the paths of the captures that each test left, by its node id: those that are evidence for a row, and all others"""
    revision: str = ""
    """of the sources (`scenarios.revision`)"""
    ended: str = ""
    """when, in UTC"""
    skipped: int = 0
    """tests that prove something and did not run"""
    asked: tuple[str, ...] = ()
    """the ids whose tests were to run; empty for all.  Other rows hold what these tests happened to show"""

    def origin(self) -> str:
        """Which run this is, for people.

        >>> Table((), {}, "0123456789ab", "2026-11-22T09:00:00+00:00", asked=("UM-X-1", "UM-X-2")).origin()
        'of 0123456789ab, 2026-11-22T09:00:00+00:00, only for UM-X-1, UM-X-2'
        """
        return origin(self.revision, self.ended) + (f", only for {self._named()}" if self.asked else "")

    def _named(self) -> str:
        more = len(self.asked) - _NAMED
        return ", ".join(self.asked[:_NAMED]) + (f" and {more} more" if more > 0 else "")

    def chosen(self, specs: Sequence[str], ids: Sequence[str]) -> list[Row]:
        """The rows that were asked for, by default all that the run was for.

        Raises `SetupError` where the run was not for one of them: nothing is known of it then, not even that it is untested.
        """
        ran = set(self.asked)
        if ran and not specs and not ids:
            return [row for row in self.rows if row.id in ran]
        found = [row for row in self.rows if asked_for(row.spec, row.id, specs, ids)]
        if ran and (missing := [row.id for row in found if row.id not in ran]):
            raise SetupError(
                f"The latest run was only for {self._named()}, and not for {missing[0]}: leave out --last to run its tests."
            )
        return found

    def captures(self, rows: Iterable[Row]) -> dict[str, str]:
        """The captures that the tests of some rows left, as evidence or not, each with the node id of its test."""
        tests = dict.fromkeys(test for row in rows for test in row.tests)
        return {name: test for test in tests for name in self.kept.get(test, ())}


SPECIFICATIONS = {
    "um": "Unified Multiplex",
    "st": "The stack",
    "rfc9293": "RFC 9293 – TCP",
    "rfc8504": "RFC 8504 – IPv6 node requirements",
}
"""The specifications, in the order of the report."""

SECTIONS = {"link": "ST-LINK-", "ip6": "ST-IP6-", "tcp": "ST-TCP-"}
"""Sections of the stack's specification, by the beginning of their ids."""


_NAMED = 3
"""Ids of a choice that a sentence names."""

BY_THE_API = "witnessed by the API: "
"""Begins the reason of a rule of which nothing is on a wire (tests/api.toml)."""


class NoRun(SetupError):
    """There is no table of an earlier run."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} does not exist: `unimux conformance` has not run here yet.")


def known_ids(checkout: Path) -> list[tuple[str, str]]:
    """(specification, id) of every requirement of a checkout, in order."""
    tests = checkout / "tests"
    files = [tests / "requirements.toml", *sorted(tests.glob("rfc*.toml"), reverse=True)]
    tables = (tomllib.loads(path.read_text(encoding="utf-8"))["requirement"] for path in files)
    return [(row["spec"], row["id"]) for table in tables for row in table]


def asked_for(spec: str, name: str, specs: Sequence[str], ids: Sequence[str]) -> bool:
    """Whether a requirement is among those that were asked for; no specification and no id means all."""
    if not specs and not ids:
        return True
    sections = tuple(SECTIONS[wanted] for wanted in specs if wanted in SECTIONS)
    return name in ids or spec in specs or name.startswith(sections)


def load(path: Path) -> Table:
    """The table of a session.  Raises `NoRun`, and `SetupError` where the file holds something else."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Table)
    except FileNotFoundError:
        raise NoRun(path) from None
    except msgspec.MsgspecError as error:
        raise SetupError(f"{path} is not a table of verdicts ({error}): run `unimux conformance` again.") from error


def counts(rows: Iterable[Row]) -> dict[Verdict, int]:
    """How many rows have each verdict."""
    found = Counter(row.verdict for row in rows)
    return {verdict: found[verdict] for verdict in Verdict}


def holds(rows: Iterable[Row]) -> bool:
    """Whether nothing failed and nothing is untested."""
    return not any(row.verdict in (Verdict.FAILED, Verdict.UNTESTED) for row in rows)


def without_evidence(rows: Iterable[Row]) -> list[str]:
    """The ids that were shown to hold or to deviate, but neither by a capture nor, as their reason would say, by the API."""
    shown = (Verdict.PASSED, Verdict.DEVIATION)
    return [
        row.id for row in rows if row.verdict in shown and not row.captures and not row.reason.startswith(BY_THE_API)
    ]


def grouped(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """The rows by specification, in the order of `SPECIFICATIONS`."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row.spec, []).append(row)
    order = list(SPECIFICATIONS)
    return dict(sorted(found.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def needless_reasons(rows: Iterable[Row], checkout: Path) -> list[str]:
    """The ids that tests/api.toml excuses from having a capture although they have one."""
    excused = tomllib.loads((checkout / "tests" / "api.toml").read_text(encoding="utf-8"))["api"]
    return [row.id for row in rows if row.id in excused and row.captures]
