"""The table of verdicts for people: one per specification, as wide as the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.markup import escape
from rich.table import Table

from .rows import SPECIFICATIONS, Row, Verdict, counts, grouped

_STYLES = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.UNTESTED: "yellow",
    Verdict.DEVIATION: "cyan",
    Verdict.NOT_APPLICABLE: "dim",
}
_TESTS_SHOWN = 2


def tables(rows: Sequence[Row]) -> Iterator[Table]:
    """A table for each specification."""
    for spec, members in grouped(rows).items():
        table = Table(title=SPECIFICATIONS.get(spec, spec), title_justify="left", title_style="bold", pad_edge=False)
        table.box = None
        table.add_column("id", no_wrap=True)
        table.add_column("verdict", no_wrap=True)
        table.add_column("text", overflow="fold", ratio=5)
        table.add_column("tests", overflow="fold", ratio=4)
        table.add_column("captures", justify="right", no_wrap=True)
        for row in members:
            style = _STYLES[row.verdict]
            text = escape(row.text)
            if row.reason:
                text += f"\n[{style}]{escape(row.reason)}[/]"
            captures = str(len(row.captures)) if row.captures else "–"
            table.add_row(row.id, f"[{style}]{row.verdict.value}[/]", text, escape(tests_line(row)), captures)
        yield table


def tests_line(row: Row) -> str:
    """The tests of a row by their names: the first ones, and how many there are.

    >>> tests_line(Row("um", "X-1", "", Verdict.PASSED, tests=("tests/a.py::test_b[1]", "tests/a.py::test_b[2]")))
    'test_b (2)'
    """
    cases: dict[str, int] = {}
    for test in row.tests:
        name = test.rpartition("::")[2].partition("[")[0]
        cases[name] = cases.get(name, 0) + 1
    shown = [f"{name} ({number})" if number > 1 else name for name, number in list(cases.items())[:_TESTS_SHOWN]]
    if len(cases) > _TESTS_SHOWN:
        shown.append(f"and {len(cases) - _TESTS_SHOWN} more")
    return "\n".join(shown) or "–"


def summary(rows: Sequence[Row]) -> str:
    """One line: how many requirements have which verdict.

    >>> summary([Row("um", "X-1", "", Verdict.PASSED), Row("um", "X-2", "", Verdict.UNTESTED)])
    '2 requirements: 1 passed, 1 untested'
    """
    told = ", ".join(f"{number} {verdict.value}" for verdict, number in counts(rows).items() if number)
    return f"{len(rows)} requirement{'s' if len(rows) != 1 else ''}: {told or 'none asked for'}"
