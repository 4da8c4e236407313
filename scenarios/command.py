"""Experiments in simulation or between real namespaces: run, vary, repeat, and read the report."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimux.cli.exits import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from scenarios.engine.definition import Scenario
    from scenarios.engine.parameters import Value

scenario = typer.Typer(help=__doc__, no_args_is_help=True, add_completion=False)

Json = Annotated[bool, typer.Option("--json", help="Print one value for programs, nothing else.")]


@scenario.command("list")
def list_(json: Json = False) -> None:
    """Every scenario with its question, its backends and its parameters."""
    from scenarios.engine.definition import catalogue

    found = catalogue()
    if json:
        typer.echo(json_module.dumps([_described(each) for each in found.values()], ensure_ascii=False))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("scenario", "question", "runs on", "parameters", show_lines=False, box=None, pad_edge=False)
    for each in found.values():
        parameters = ", ".join(f"{p.name}={p.default}" for p in each.parameters)
        table.add_row(f"[bold]{each.name}[/]", escape(each.question), ", ".join(each.backends), escape(parameters))
    Console().print(table)


def _described(each: Scenario) -> dict[str, Any]:
    return {
        "name": each.name,
        "question": each.question,
        "backends": list(each.backends),
        "requirements": list(each.requirements),
        "parameters": [
            {"name": p.name, "default": p.default, "meaning": p.about.text, "unit": p.about.unit, "takes": p.allowed()}
            for p in each.parameters
        ],
    }


@scenario.command()
def show(name: Annotated[str, typer.Argument(help="A scenario, or the path of its file.")]) -> None:
    """What a scenario asks, and each of its parameters with the values that it takes."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from scenarios.engine.definition import load

    found = load(name)
    console = Console()
    console.print(found.text, markup=False, highlight=False)
    table = Table("parameter", "default", "meaning", "takes", box=None, pad_edge=False)
    for each in found.parameters:
        table.add_row(
            f"[bold]{each.name}[/]", escape(str(each.default)), escape(each.about.text), escape(each.allowed())
        )
    if found.parameters:
        console.print()
        console.print(table)
    console.print(f"\nRuns on {' and '.join(found.backends)}.", highlight=False)


@scenario.command()
def new(
    name: Annotated[str, typer.Argument(help="Its name; the file is NAME.py.")],
    folder: Annotated[Path, typer.Option(help="Where to write it.")] = Path(),
) -> None:
    """Write a scenario to begin with; it runs at once."""
    from scenarios.engine.template import new_scenario

    path = new_scenario(name, folder)
    typer.echo(f"{path} is ready: unimux scenario run {path}")


@scenario.command()
def report(
    folder: Annotated[Path, typer.Argument(help="The folder that a run or a sweep left.")], json: Json = False
) -> None:
    """The verdict and the numbers of a run that was done before; exit status 0 only if it passed."""
    from scenarios.engine.recall import recall

    result = recall(folder)
    if json:
        typer.echo(json_module.dumps(result, ensure_ascii=False))
    else:
        from scenarios.engine.console import print_folder

        print_folder(result)
    raise typer.Exit(ExitCode.DONE if result["passed"] else ExitCode.NO)


@scenario.command()
def answers(folder: Annotated[Path, typer.Argument(help="The folder that `run --all --out` filled.")]) -> None:
    """The answers of many runs in one line each, and what each asked and measured: a page of Markdown."""
    from scenarios.engine.answers import answers_page

    typer.echo(answers_page(folder), nl=False)


NamesArgument = Annotated[list[str] | None, typer.Argument(help="Scenarios, or paths of their files.")]
EveryOption = Annotated[bool, typer.Option("--all", help="Run the whole catalogue, each on its first backend.")]
AgainOption = Annotated[Path | None, typer.Option(help="Repeat the run that left this folder.")]
BackendOption = Annotated[
    str | None, typer.Option(help="sim or netns (real namespaces; root).", show_default="the scenario's first")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter.")]
SweepOption = Annotated[
    list[str] | None, typer.Option(metavar="KEY=A,B,C", help="Run with each value; 1..5 is a range.")
]
RepeatOption = Annotated[int, typer.Option(min=1, help="Runs with different seeds, at each value.")]
SeedOption = Annotated[int, typer.Option(help="The first seed; in sim equal seeds give equal runs, to the byte.")]
QuickOption = Annotated[bool, typer.Option("--quick", help="Small parameters, for a look or for CI.")]
CapturesOption = Annotated[bool, typer.Option("--captures", help="In a sweep: capture and judge every run.")]
JobsOption = Annotated[
    int | None, typer.Option(min=1, help="Processes for a sweep.", show_default="all cores; 1 on netns")
]
ConnectionOption = Annotated[
    int | None,
    typer.Option(min=1, help="Number of the connection that the report draws.", show_default="one that tells most"),
]
ClusterOption = Annotated[
    str | None, typer.Option(metavar="ADDRESS|local", help="Sweep on a Dask cluster (extra `cluster`).")
]
OutOption = Annotated[Path | None, typer.Option(help="Folder for what the run leaves.", show_default="out/NAME-TIME")]


@scenario.command()
def run(
    names: NamesArgument = None,
    every: EveryOption = False,
    again: AgainOption = None,
    backend: BackendOption = None,
    set_: SetOption = None,
    sweep: SweepOption = None,
    repeat: RepeatOption = 1,
    seed: SeedOption = 1,
    quick: QuickOption = False,
    captures: CapturesOption = False,
    jobs: JobsOption = None,
    connection: ConnectionOption = None,
    cluster: ClusterOption = None,
    out: OutOption = None,
    json: Json = False,
) -> None:
    """Run scenarios and judge them; exit status 0 only if everything that must hold does, 130 where ^C ended it.

    With --sweep or --repeat: a table of all runs (CSV, Parquet) and figures with confidence intervals.
    """
    from rich.console import Console

    from scenarios.engine.console import run_many, run_one
    from scenarios.engine.errors import ScenarioError
    from scenarios.engine.execute import Order
    from scenarios.engine.folder import fresh
    from scenarios.engine.sweep import Plan

    console = Console(stderr=True, quiet=True) if json else Console()
    if again is not None:
        varied = set_ or sweep or repeat > 1 or seed != 1 or backend or quick or captures or jobs or cluster
        if names or every or varied:
            raise ScenarioError("--again repeats a run as it was: name no scenario and set nothing.")
        raise _finish([_repeated(again, out, console, connection)], console, json)
    named = names or []
    if connection is not None and (every or sweep or repeat > 1 or len(named) > 1):
        raise ScenarioError("--connection chooses what the report of one run draws: name one scenario, and no --sweep.")
    if (jobs or captures) and not (sweep or repeat > 1 or cluster):
        raise ScenarioError("--jobs and --captures are for many runs of a scenario: add --sweep or --repeat.")
    results: list[dict[str, Any]] = []
    chosen = _chosen(named, every, backend)
    todo = [(found, found.backend(backend), *_values(found, set_ or [], sweep or [], quick)) for found in chosen]
    for place, (found, on, values, axes) in enumerate(todo, 1):
        folder = fresh(out / found.name if out is not None and (every or len(named) > 1) else out, found.name)
        if sweep or repeat > 1 or cluster:
            fixed = {name: value for name, value in values.items() if name not in axes}
            plan = Plan(found, on, fixed, axes, repeat, seed, folder if captures else None)
            results.append(run_many(plan, folder, console, jobs, cluster))
        else:
            label = f"{place}/{len(chosen)} {found.name}" if len(chosen) > 1 else ""
            results.append(run_one(Order(found.source, values, seed, on, folder), console, connection, label))
        if results[-1]["interrupted"]:
            break
    raise _finish(results, console, json)


def _repeated(again: Path, out: Path | None, console: Console, connection: int | None) -> dict[str, Any]:
    """The run that left a folder, once more in another one."""
    from dataclasses import replace

    from scenarios.engine.console import run_one
    from scenarios.engine.folder import fresh, read_order

    order, differs = read_order(again)
    for text in differs:
        console.print(text, style="bold", markup=False, highlight=False, soft_wrap=True)
    return run_one(replace(order, folder=fresh(out, again.name)), console, connection)


def _finish(results: list[dict[str, Any]], console: Console, json: bool) -> typer.Exit:
    from scenarios.engine.console import print_results

    if json:
        typer.echo(json_module.dumps(results if len(results) != 1 else results[0], ensure_ascii=False))
    elif len(results) > 1:
        print_results(results, console)
    if any(result["interrupted"] for result in results):
        return typer.Exit(ExitCode.INTERRUPTED)
    return typer.Exit(ExitCode.DONE if results and all(result["passed"] for result in results) else ExitCode.NO)


def _chosen(names: list[str], every: bool, backend: str | None) -> list[Scenario]:
    from scenarios.engine.definition import catalogue, known_backend, load
    from scenarios.engine.errors import ScenarioError

    if backend is not None:
        known_backend(backend)
    if every and names:
        raise ScenarioError("--all runs every scenario: name none, or leave --all out.")
    if every:
        return [each for each in catalogue().values() if backend is None or backend in each.backends]
    if not names:
        raise ScenarioError("Name a scenario to run; `unimux scenario list` shows them.")
    return [load(name) for name in names]


def _values(
    found: Scenario, set_: list[str], sweep: list[str], quick: bool
) -> tuple[dict[str, Value], dict[str, tuple[Value, ...]]]:
    """The values of its parameters, and those that it is swept over."""
    from scenarios.engine.errors import ParameterError
    from scenarios.engine.parameters import settings, sweep_axes

    given, axes = settings(found.parameters, set_), sweep_axes(found.parameters, sweep)
    if both := sorted(given.keys() & axes.keys()):
        raise ParameterError(f"{both[0]} is set and swept: leave one of them out.")
    return found.values(given, quick=quick), axes
