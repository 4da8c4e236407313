"""Experiments in simulation or between real namespaces: run, vary, repeat, and read the report."""

from __future__ import annotations

import json as json_module
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unimux.cli.exits import ExitCode

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

    from scenarios.engine.definition import Scenario
    from scenarios.engine.execute import Order
    from scenarios.engine.sweep import Row, Sweep

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
    from rich.table import Table

    table = Table("scenario", "question", "runs on", "parameters", show_lines=False, box=None, pad_edge=False)
    for each in found.values():
        parameters = ", ".join(f"{p.name}={p.default}" for p in each.parameters)
        table.add_row(f"[bold]{each.name}[/]", each.question, ", ".join(each.backends), parameters)
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
        table.add_row(f"[bold]{each.name}[/]", str(each.default), escape(each.about.text), escape(each.allowed()))
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
    from scenarios.engine.recall import print_folder, recall

    result = recall(folder)
    if json:
        typer.echo(json_module.dumps(result, ensure_ascii=False))
    else:
        print_folder(result)
    raise typer.Exit(ExitCode.DONE if result["passed"] else ExitCode.NO)


@scenario.command()
def answers(folder: Annotated[Path, typer.Argument(help="The folder that `run --all --out` filled.")]) -> None:
    """The answers of many runs in one line each, and what each asked and measured: a page of Markdown."""
    from scenarios.engine.answers import answers_page

    typer.echo(answers_page(folder), nl=False)


@scenario.command()
def run(
    names: Annotated[list[str] | None, typer.Argument(help="Scenarios, or paths of their files.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Run the whole catalogue, each on its first backend.")] = False,
    again: Annotated[Path | None, typer.Option(help="Repeat the run that left this folder.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="sim or netns (real namespaces; root).", show_default="the scenario's first")
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set a parameter.")] = None,
    sweep: Annotated[
        list[str] | None, typer.Option(metavar="KEY=A,B,C", help="Run with each value; 1..5 is a range.")
    ] = None,
    repeat: Annotated[int, typer.Option(min=1, help="Runs with different seeds, at each value.")] = 1,
    seed: Annotated[int, typer.Option(help="The first seed; in sim equal seeds give equal runs, to the byte.")] = 1,
    quick: Annotated[bool, typer.Option("--quick", help="Small parameters, for a look or for CI.")] = False,
    captures: Annotated[bool, typer.Option("--captures", help="In a sweep: capture and judge every run.")] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="Processes for a sweep.", show_default="all cores; 1 on netns")
    ] = None,
    connection: Annotated[
        int | None,
        typer.Option(min=1, help="Number of the connection that the report draws.", show_default="one that tells most"),
    ] = None,
    cluster: Annotated[
        str | None, typer.Option(metavar="ADDRESS|local", help="Sweep on a Dask cluster (extra `cluster`).")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for what the run leaves.", show_default="out/NAME-TIME")
    ] = None,
    json: Json = False,
) -> None:
    """Run scenarios and judge them; exit status 0 only if everything that must hold does.

    With --sweep or --repeat: a table of all runs (CSV, Parquet) and figures with confidence intervals.
    """
    from rich.console import Console

    from scenarios.engine.errors import ScenarioError
    from unimux.errors import UnimuxError

    console = Console(stderr=True, quiet=True) if json else Console()
    results: list[dict[str, Any]] = []
    if again is not None:
        if names or every or set_ or sweep:
            raise ScenarioError("--again repeats a run as it was: name no scenario and set nothing.")
        from scenarios.engine.folder import read_order

        order, differs = read_order(again)
        for text in differs:
            console.print(f"[bold]{text}[/]", highlight=False)
        results.append(_single(order, _folder(out, again.name), console, connection))
        raise _finish(results, console, json)
    if connection is not None and (every or sweep or repeat > 1 or len(names or []) > 1):
        raise ScenarioError("--connection chooses what the report of one run draws: name one scenario, and no --sweep.")
    chosen_ones = _chosen(names or [], every, backend)
    for place, found in enumerate(chosen_ones, 1):
        chosen = found.backend(backend)
        values = _values(found, set_ or [], quick)
        where = out if out is None or not (every or len(names or []) > 1) else out / found.name
        folder = _folder(where, found.name)
        if sweep or repeat > 1 or cluster:
            results.append(
                _many(
                    found, chosen, values, sweep or [], repeat, seed, folder, console, jobs, cluster, captures=captures
                )
            )
        else:
            from scenarios.engine.execute import Order

            label = f"{place}/{len(chosen_ones)} {found.name}" if len(chosen_ones) > 1 else ""
            order = Order(found.source, values, seed, chosen)
            try:
                results.append(_single(order, folder, console, connection, label))
            except UnimuxError as error:
                if not label:
                    raise
                results.append(_not_run(order, found.name, folder, error))
            if results[-1]["interrupted"]:
                break
    raise _finish(results, console, json)


def _finish(results: list[dict[str, Any]], console: Console, json: bool) -> typer.Exit:
    if json:
        typer.echo(json_module.dumps(results if len(results) != 1 else results[0], ensure_ascii=False))
    elif len(results) > 1:
        console.rule()
        for result in results:
            mark = "[green]✔ passed[/]" if result["passed"] else "[bold red]✘ FAILED[/]"
            console.print(
                f"{mark}  {result['scenario']:18} {result['seconds']:6.1f} s  {result['folder']}/report.html",
                highlight=False,
                soft_wrap=True,
            )
            if result.get("answer"):
                console.print(f"   {result['answer']}", markup=False, highlight=False, soft_wrap=True)
    return typer.Exit(ExitCode.DONE if results and all(result["passed"] for result in results) else ExitCode.NO)


def _chosen(names: list[str], every: bool, backend: str | None) -> list[Scenario]:
    from scenarios.engine.definition import catalogue, load
    from scenarios.engine.errors import ScenarioError

    if every and names:
        raise ScenarioError("--all runs every scenario: name none, or leave --all out.")
    if every:
        return [each for each in catalogue().values() if backend is None or backend in each.backends]
    if not names:
        raise ScenarioError("Name a scenario to run; `unimux scenario list` shows them.")
    return [load(name) for name in names]


def _values(found: Scenario, texts: list[str], quick: bool) -> dict[str, Any]:
    from scenarios.engine.parameters import settings

    return found.values(settings(found.parameters, texts), quick=quick)


def _folder(out: Path | None, name: str) -> Path:
    from scenarios.engine.folder import prepare

    folder = out or Path("out") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
    number = 1
    while out is None and folder.exists():
        number += 1
        folder = Path("out") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}-{number}"
    prepare(folder)
    return folder


def _single(
    order: Order, folder: Path, console: Console, connection: int | None = None, label: str = ""
) -> dict[str, Any]:
    """One whole run, with a bar while it lasts; an interrupted one is judged and kept as far as it came."""
    from dataclasses import replace

    from rich.markup import escape

    from scenarios.engine.definition import load
    from scenarios.engine.execute import execute
    from scenarios.engine.folder import conclude, summary_text
    from scenarios.engine.measure import Summary
    from scenarios.witness import as_json, summary, table

    found = load(order.source)
    began = time.monotonic()
    console.print(f"[bold]{found.name}[/] on {order.backend}: {found.question}", highlight=False)
    with _bar(console) as progress:
        task = progress.add_task(label or found.name, total=None, rate="")

        def told(done: float, total: float, unit: str) -> None:
            rate = done / max(time.monotonic() - began, 1e-9)
            progress.update(task, completed=done, total=total, rate=f"{rate:.3g} {unit}/s".replace(" /", "/"))

        def said(text: str) -> None:
            progress.console.print(f"  {text}", markup=False, highlight=False)

        outcome = execute(found, replace(order, folder=folder), said, told)
        progress.update(task, description=f"{label or found.name}: judging the captures")
        verdicts = conclude(outcome, connection)
    elapsed = time.monotonic() - began
    if not (label and verdicts.passed):  # of many that pass, the last line says enough
        console.print(table(verdicts.captured))
        console.print(table(verdicts.claimed, "What the script requires", "what it saw"))
        for metric in outcome.metrics:
            text = summary_text(Summary.of(metric.samples), metric.unit)
            console.print(f"  {metric.column}: {text}", markup=False, highlight=False)
    if outcome.answer:
        doubt = "" if verdicts.passed else "The run did not pass, so this answer does not stand: "
        console.print(f"[bold]{doubt}{escape(outcome.answer)}[/]", highlight=False, soft_wrap=True)
    findings = [*verdicts.captured, *verdicts.claimed]
    console.print(
        f"{summary(findings)}; {outcome.seconds:.1f} s of the scenario's time in {elapsed:.1f} s.  Read {folder}/report.html.",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return {
        "scenario": found.name,
        "backend": order.backend,
        "seed": order.seed,
        "parameters": found.values(order.values),
        "passed": verdicts.passed,
        "interrupted": outcome.interrupted,
        "answer": outcome.answer,
        "seconds": round(elapsed, 2),
        "folder": str(folder),
        "metrics": {metric.column: Summary.of(metric.samples).mean for metric in outcome.metrics},
        "findings": as_json(findings),
    }


def _not_run(order: Order, name: str, folder: Path, error: Exception) -> dict[str, Any]:
    """The result of one of several that this machine cannot run; the others go on."""
    about = {"scenario": name, "backend": order.backend, "seed": order.seed, "folder": str(folder)}
    return {**about, "passed": False, "interrupted": False, "answer": str(error), "seconds": 0.0}


def _many(
    found: Scenario,
    backend: Any,
    values: dict[str, Any],
    texts: list[str],
    repeat: int,
    seed: int,
    folder: Path,
    console: Console,
    jobs: int | None,
    cluster: str | None,
    *,
    captures: bool,
) -> dict[str, Any]:
    """A sweep or repeats, with progress; what is done is kept when it is interrupted."""
    from scenarios.engine.errors import ScenarioError
    from scenarios.engine.parameters import sweep_axes
    from scenarios.engine.sweep import Plan
    from scenarios.engine.sweep_page import write_sweep_page
    from scenarios.engine.tables import write_tables

    axes = sweep_axes(found.parameters, texts)
    fixed = {name: value for name, value in values.items() if name not in axes}
    if backend == "netns" and (cluster or (jobs or 1) > 1):
        raise ScenarioError(
            "Runs between namespaces disturb each other: leave --jobs and --cluster out, or use --backend sim."
        )
    plan = Plan(found, backend, fixed, axes, repeat, seed, folder if captures else None)
    began = time.monotonic()
    sweep = _sweep(plan, folder, console, jobs, cluster)
    if not sweep.rows:
        raise ScenarioError(f"{sweep.stopped} before any run was done.")
    tables = write_tables(sweep, folder)
    remarks = (
        []
        if captures
        else ["Light runs: judged by the script's requirements; no captures were taken (--captures takes them)."]
    )
    if backend == "sim":
        remarks.append("Simulated in virtual time: the router and the ordinary hosts are not Linux.")
    page = write_sweep_page(sweep, folder, remarks)
    (folder / "journal.jsonl").unlink(missing_ok=True)
    elapsed = time.monotonic() - began
    failed = [row for row in sweep.rows if not row.passed]
    for row in failed[:10]:
        console.print(f"[bold red]✘[/] run {row.number}, seed {row.seed}: {'; '.join(row.failed)}", highlight=False)
    done = f"{len(sweep.rows)} of {sweep.total} runs done, {len(failed)} failed, in {elapsed:.1f} s"
    if sweep.stopped:
        console.print(f"[bold red]{sweep.stopped}.[/]", highlight=False)
    console.print(f"{done}.  {', '.join(path.name for path in tables)} and {page}.", highlight=False, soft_wrap=True)
    result = {
        "scenario": found.name,
        "backend": backend,
        "parameters": fixed,
        "sweep": {axis: list(values) for axis, values in axes.items()},
        "runs": len(sweep.rows),
        "of": sweep.total,
        "failed": len(failed),
        "stopped": sweep.stopped,
        "passed": sweep.passed,
        "seconds": round(elapsed, 2),
        "folder": str(folder),
    }
    (folder / "sweep.json").write_text(json_module.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return result


def _bar(console: Console, *more: Any) -> Progress:
    """A bar with the rate, the time that it took and the time that is left; it goes when all is done."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), *more, rate, TimeElapsedColumn(), TextColumn("left"))
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=not more)


def _sweep(plan: Any, folder: Path, console: Console, jobs: int | None, where: str | None) -> Sweep:
    from rich.progress import MofNCompleteColumn

    from scenarios.engine import sweep as engine

    count = jobs or (1 if plan.backend == "netns" else engine.cores())
    with _bar(console, MofNCompleteColumn()) as progress:
        task = progress.add_task(plan.scenario.name, total=len(plan.orders()), rate="")
        began = time.monotonic()

        def told(done: int, total: int, row: Row) -> None:
            rate = done / max(time.monotonic() - began, 1e-9)
            progress.update(task, completed=done, rate=f"{rate:.1f} runs/s")

        journal = folder / "journal.jsonl"
        if where is not None:
            with engine.cluster(where, count) as (executor, workers):
                return engine.run_sweep(plan, executor, workers, journal, told)
        with engine.processes(count) as executor:
            return engine.run_sweep(plan, executor, count, journal, told)
