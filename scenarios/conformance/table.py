"""The table of verdicts for people: one per specification, as wide as the terminal, and in full for a rule that is named."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

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


WHERE_PATHS_STAND = "Every test and capture by its path: with --id, --json or --report."
"""What the table itself is too narrow for."""


def parts(rows: Sequence[Row], named: Collection[str] = ()) -> Iterator[Table | str]:
    """A table for each specification, and lines that are not to be cut to the terminal's width.

    named: ids of rows that are told in full. Below such a row stand the node ids of all its tests and the paths of all its
    captures, and the table goes on behind them.
    """
    for spec, members in grouped(rows).items():
        table = _empty(SPECIFICATIONS.get(spec, spec))
        for row in members:
            style = _STYLES[row.verdict]
            text = escape(row.text)
            if row.reason:
                text += f"\n[{style}]{escape(row.reason)}[/]"
            captures = str(len(row.captures)) if row.captures else "–"
            table.add_row(row.id, f"[{style}]{row.verdict.value}[/]", text, escape(tests_line(row)), captures)
            if row.id in named:
                yield table
                yield from paths(row)
                table = _empty(None)
        if table.row_count:
            yield table
        yield ""


def _empty(title: str | None) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.box = None
    table.add_column("id", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    table.add_column("text", overflow="fold", ratio=5)
    table.add_column("tests", overflow="fold", ratio=4)
    table.add_column("captures", justify="right", no_wrap=True)
    return table


def paths(row: Row) -> Iterator[str]:
    """Every test and every capture of a row, one to a line.

    >>> list(paths(Row("um", "X-1", "", Verdict.PASSED, tests=("tests/a.py::test_b",), captures=("out/b.pcapng",))))
    ['  test     tests/a.py::test_b', '  capture  out/b.pcapng']
    """
    yield from (f"  test     {test}" for test in row.tests)
    yield from (f"  capture  {capture}" for capture in row.captures)


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
