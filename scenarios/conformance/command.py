"""Every numbered rule with its tests, its verdict and the captures that show it."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scenarios.conformance import checkout as checkouts
from scenarios.conformance.rows import (
    SECTIONS,
    SPECIFICATIONS,
    Row,
    Table,
    asked_for,
    holds,
    known_ids,
    load,
    needless_reasons,
    without_evidence,
)
from scenarios.conformance.session import LATEST
from unimux.errors import SetupError

if TYPE_CHECKING:
    from rich.console import Console


MOST_OBJECTIONS = 20
"""Lines on what tshark objects to; the report has the others."""


def conformance(
    spec: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,…", help=f"Only these specifications: {', '.join([*SPECIFICATIONS, *SECTIONS])}."),
    ] = None,
    id: Annotated[
        list[str] | None,
        typer.Option(
            "--id",
            metavar="ID,…",
            help="Only these requirements (beside those of --spec), each with all its tests and captures.",
        ),
    ] = None,
    last: Annotated[bool, typer.Option("--last", help="Print the table of the latest run; run nothing.")] = False,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write the report, with every packet list.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the tests' results as JUnit XML.")] = None,
    json: Annotated[
        bool, typer.Option("--json", help="Print one array of objects for programs, nothing else.")
    ] = False,
    mutations: Annotated[
        bool, typer.Option("--mutations", help="Break the stack in each known way instead, and see the tests fail.")
    ] = False,
) -> None:
    """Run the tests that prove the requirements, and print the table of verdicts.

    Exit status 0 only if nothing failed and nothing that was asked for is untested.

    A rule that passed also needs a capture, or a reason why it can have none; an objection of tshark needs an explanation.
    """
    from rich.console import Console

    checkout = checkouts.find()
    specs, ids = _names(spec), _names(id)
    wanted = _wanted(checkout, specs, ids)
    console = Console(stderr=True)
    if mutations:
        from .mutations import run as run_mutations

        if last or specs or ids or junit is not None or report is not None:
            raise typer.BadParameter("--mutations runs all of them, and takes no other option than --json.")
        checkouts.require_tools()
        raise typer.Exit(run_mutations(checkout, json=json))
    if last:
        if junit is not None:
            raise typer.BadParameter("--junit needs a run; leave out --last.")
        table = load(checkout / LATEST)
        console.print(f"The latest run: {table.origin()}", style="dim", highlight=False)
    else:
        checkouts.require_tools()
        _require_writable(report, junit)
        table = _run(checkout, wanted, junit, console)
    if table.skipped:
        console.print(
            f"{table.skipped} tests were skipped, for the reasons that their rows tell: what they would show is not shown.",
            style="bold red",
        )
    chosen = table.chosen(specs, ids)
    _print(chosen, ids, json=json)
    sound = True
    if report is not None or not last:  # behind the table, so that what is wrong stands last
        sound = _examine(checkout, table, chosen, report, console) & _evident(checkout, chosen, console)
    raise typer.Exit(0 if holds(chosen) and sound else 1)


def _require_writable(report: Path | None, junit: Path | None) -> None:
    """Say before the tests run, and not after, what cannot be written."""
    try:
        if report is not None:
            report.mkdir(parents=True, exist_ok=True)
        if junit is not None:
            junit.parent.mkdir(parents=True, exist_ok=True)
            junit.open("a").close()
    except OSError as error:
        raise SetupError(f"{error.filename} cannot be written: {error.strerror}.") from error


def _names(values: Sequence[str] | None) -> list[str]:
    return [name for value in values or () for name in value.split(",") if name]


def _wanted(checkout: Path, specs: Sequence[str], ids: Sequence[str]) -> list[str] | None:
    """The ids that were asked for, None for all; `BadParameter` names what does not exist."""
    known = known_ids(checkout)
    for name in specs:
        if name not in SPECIFICATIONS and name not in SECTIONS:
            raise typer.BadParameter(_unknown("specification", name, [*SPECIFICATIONS, *SECTIONS]))
    for name in ids:
        if name not in {known_id for _, known_id in known}:
            raise typer.BadParameter(_unknown("requirement", name, [known_id for _, known_id in known]))
    wanted = [name for of_spec, name in known if asked_for(of_spec, name, specs, ids)]
    return wanted if len(wanted) < len(known) else None


def _unknown(what: str, name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1) or difflib.get_close_matches(name.upper(), known, n=1)
    return f"there is no {what} {name!r}" + (f"; did you mean {near[0]!r}?" if near else ".")


def _run(checkout: Path, ids: list[str] | None, junit: Path | None, console: Console) -> Table:
    from rich.markup import escape

    from .session import run

    def tell(percent: int, test: str) -> None:
        status.update(f"{percent} % · {escape(test.removeprefix('tests/'))}")

    with console.status("Collecting the tests") as status:
        session = run(checkout, ids, junit, tell)
    console.print(f"The tests' log: {session.log}", style="dim", highlight=False)
    return session.table


def _examine(checkout: Path, table: Table, rows: list[Row], report: Path | None, console: Console) -> bool:
    """Let tshark read every capture, and write the report if one is wanted; whether tshark has no objection."""
    from scenarios.witness.tshark import TsharkError

    from .oracle import consult
    from .page import write

    try:
        with console.status("tshark reads the captures") as status:
            opinion = consult(
                checkout,
                table.captures(rows),
                lambda done, of: status.update(f"tshark reads the captures: {done} of {of}"),
            )
    except TsharkError as error:
        console.print(f"The captures were not judged: {error}.", style="yellow", markup=False, highlight=False)
        return False
    console.print(opinion.sentence(), style="dim" if opinion.sound else "red", highlight=False)
    objections = opinion.objections()
    for line in objections[:MOST_OBJECTIONS]:
        console.print(f"  {line}", style="red", markup=False, highlight=False)
    if more := len(objections[MOST_OBJECTIONS:]):
        console.print(f"  and {more} more", style="red", highlight=False)
    if report is not None:
        page = write(report, checkout, table, rows, opinion)
        console.print(f"The report: {page}", markup=False, highlight=False)
    return opinion.sound


def _evident(checkout: Path, rows: list[Row], console: Console) -> bool:
    """Whether every rule that passed shows why: a capture, or what the API told, and no more than one of them."""
    missing = without_evidence(rows)
    if missing:
        console.print(
            f"Passed without a capture of a test that judges it, and without a reason in tests/api.toml: {', '.join(missing)}",
            style="red",
        )
    needless = needless_reasons(rows, checkout)
    if needless:
        console.print(f"Excused in tests/api.toml, and yet with a capture: {', '.join(needless)}", style="red")
    return not missing and not needless


def _print(rows: list[Row], named: Sequence[str], *, json: bool) -> None:
    if json:
        import msgspec

        sys.stdout.write(msgspec.json.encode(rows).decode() + "\n")
        return
    from rich.console import Console

    from .table import WHERE_PATHS_STAND, parts, summary

    console = Console()
    for part in parts(rows, named):
        if isinstance(part, str):
            console.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(part)
    console.print(summary(rows), highlight=False)
    if any(row.tests and row.id not in named for row in rows):
        console.print(WHERE_PATHS_STAND, style="dim", highlight=False, soft_wrap=True)
