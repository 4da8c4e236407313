"""Runs on a terminal: a bar while they last, then verdicts and numbers, also as values for programs; and runs of the past."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from scenarios.witness import as_json, summary, table
from unimux.cli.ending import ended_by, unheard
from unimux.errors import UnimuxError

from .definition import Scenario, load
from .errors import ScenarioError, written_to
from .execute import SIMULATED, Order, Outcome, execute
from .folder import conclude, summary_text, sweep_toml
from .measure import Summary
from .sweep import INTERRUPTED, Plan, Row, Sweep, cluster, cores, processes, run_sweep
from .sweep_page import write_sweep_page
from .tables import write_tables
from .verdicts import Verdicts

DOUBT = "The run did not pass, so this answer does not stand: "
"""Before the answer of a run that did not, since a script says it before all is judged."""

MOST_FAILURES = 10
"""Runs of a sweep that are told why they failed; all of them are in its table."""


def run_one(order: Order, console: Console, connection: int | None = None, label: str = "") -> dict[str, Any]:
    """One whole run; an interrupted one is judged and kept as far as it came.

    connection: the number of the one that the report draws.  label: of one among several, which are printed in short if they
    pass; where this machine cannot run it, the result says why and the others go on.
    """
    found = load(order.source)
    began = time.monotonic()
    assert order.folder is not None
    try:
        with written_to(order.folder):
            outcome, verdicts = _with_bar(found, order, console, connection, label or found.name)
    except UnimuxError as error:
        if not label:
            raise
        return {**_about(found, order), "passed": False, "interrupted": False, "answer": str(error), "seconds": 0.0}
    elapsed = time.monotonic() - began
    means = {metric.column: Summary.of(metric.samples) for metric in outcome.metrics}
    if not (label and verdicts.passed):  # of many that pass, the last line says enough
        console.print(table(verdicts.captured))
        console.print(table(verdicts.claimed, "What the script requires", "what it saw"))
        for metric in outcome.metrics:
            text = summary_text(means[metric.column], metric.unit)
            console.print(f"  {metric.column}: {text}", markup=False, highlight=False, soft_wrap=True)
    if outcome.answer:
        doubt = "" if verdicts.passed else DOUBT
        console.print(f"[bold]{doubt}{escape(outcome.answer)}[/]", highlight=False, soft_wrap=True)
    findings = [*verdicts.captured, *verdicts.claimed]
    took = f"{outcome.seconds:.1f} s of the scenario's time in {elapsed:.1f} s"
    console.print(
        f"{summary(findings)}; {took}.  Read {order.folder}/report.html.", markup=False, highlight=False, soft_wrap=True
    )
    return {
        **_about(found, order),
        "parameters": found.values(order.values),
        "passed": verdicts.passed,
        "interrupted": outcome.interrupted,
        "answer": outcome.answer,
        "seconds": round(elapsed, 2),
        "metrics": {column: of.mean for column, of in means.items()},
        "findings": as_json(findings),
    }


def _about(found: Scenario, order: Order) -> dict[str, Any]:
    return {"scenario": found.name, "backend": order.backend, "seed": order.seed, "folder": str(order.folder)}


def _with_bar(
    found: Scenario, order: Order, console: Console, connection: int | None, label: str
) -> tuple[Outcome, Verdicts]:
    """Run and judge."""
    console.print(
        f"[bold]{found.name}[/] on {order.backend}: {escape(found.question)}", highlight=False, soft_wrap=True
    )
    with _bar(console) as progress:
        task = progress.add_task(label, total=None, rate="")
        rate = _rate()

        def told(done: float, total: float, unit: str) -> None:
            progress.update(task, completed=done, total=total, rate=f"{rate(done):.3g} {unit}/s".replace(" /", "/"))

        def said(text: str) -> None:
            progress.console.print(f"  {text}", markup=False, highlight=False, soft_wrap=True)

        outcome = execute(found, order, said, told)
        progress.update(task, description=f"{label}: judging the captures")
        return outcome, conclude(outcome, connection)


def run_many(plan: Plan, folder: Path, console: Console, jobs: int | None, where: str | None) -> dict[str, Any]:
    """A sweep or repeats; what is done is kept when it is interrupted.

    jobs: processes, by default as many as there are cores.  where: a Dask cluster in place of processes, see `sweep.cluster`.
    """
    if plan.backend == "netns" and (where or (jobs or 1) > 1):
        raise ScenarioError(
            "Runs between namespaces disturb each other: leave --jobs and --cluster out, or use --backend sim."
        )
    began = time.monotonic()
    with written_to(folder):
        sweep = _swept(plan, folder, console, jobs, where)
    interrupted = sweep.stopped == INTERRUPTED
    if interrupted and not sweep.rows:
        raise KeyboardInterrupt
    if not sweep.rows:
        raise ScenarioError(f"{sweep.stopped} before any run was done.")
    with written_to(folder), unheard() if sweep.stopped else nullcontext():
        made_of = sweep_toml(plan.orders()[0], plan.scenario, plan.repeat, plan.fixed, plan.axes)
        (folder / "scenario.toml").write_text(made_of, encoding="utf-8")
        tables = write_tables(sweep, folder)
        page = write_sweep_page(sweep, folder, _remarks(plan))
    (folder / "journal.jsonl").unlink(missing_ok=True)
    elapsed = time.monotonic() - began
    failed = [row for row in sweep.rows if not row.passed]
    for row in failed[:MOST_FAILURES]:
        why = escape("; ".join(row.failed))
        console.print(f"[bold red]✘[/] run {row.number}, seed {row.seed}: {why}", highlight=False)
    done = f"{len(sweep.rows)} of {sweep.total} runs done, {len(failed)} failed, in {elapsed:.1f} s"
    if sweep.stopped:
        console.print(f"[bold red]{sweep.stopped}.[/]", highlight=False)
    left = f"{', '.join(path.name for path in tables)} and {page}"
    console.print(f"{done}.  {left}.", markup=False, highlight=False, soft_wrap=True)
    result = {
        "scenario": plan.scenario.name,
        "backend": plan.backend,
        "parameters": plan.fixed,
        "sweep": {axis: list(values) for axis, values in plan.axes.items()},
        "runs": len(sweep.rows),
        "of": sweep.total,
        "failed": len(failed),
        "stopped": sweep.stopped,
        "interrupted": interrupted,
        "passed": sweep.passed,
        "seconds": round(elapsed, 2),
        "folder": str(folder),
    }
    (folder / "sweep.json").write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return result


def _remarks(plan: Plan) -> list[str]:
    remarks = []
    if plan.folder is None:
        remarks.append(
            "Light runs: judged by the script's requirements; no captures were taken (--captures takes them)."
        )
    if plan.backend == "sim":
        remarks.append(SIMULATED)
    return remarks


def _swept(plan: Plan, folder: Path, console: Console, jobs: int | None, where: str | None) -> Sweep:
    count = jobs or (1 if plan.backend == "netns" else cores())
    with _bar(console, MofNCompleteColumn()) as progress:
        task = progress.add_task(plan.scenario.name, total=len(plan.orders()), rate="")
        rate = _rate()

        def told(done: int, total: int, row: Row) -> None:
            progress.update(task, completed=done, rate=f"{rate(done):.1f} runs/s")

        journal = folder / "journal.jsonl"
        if where is not None:
            with cluster(where, count) as (executor, workers):
                return run_sweep(plan, executor, workers, journal, told)
        with processes(count) as executor:
            sweep = run_sweep(plan, executor, count, journal, told)
            if sweep.stopped == INTERRUPTED and ended_by() is None:
                progress.console.print(
                    "Interrupted: what is under way is waited for; ^C again ends it.", highlight=False
                )
            return sweep


def _bar(console: Console, *more: ProgressColumn) -> Progress:
    """A bar with the rate, the time that it took and the time that is left; it goes when all is done."""
    rate = TextColumn("{task.fields[rate]}")
    columns = (TextColumn("{task.description}"), BarColumn(), *more, rate, TimeElapsedColumn(), TextColumn("left"))
    return Progress(*columns, TimeRemainingColumn(), console=console, transient=not more)


def _rate() -> Callable[[float], float]:
    """How much is done per second, from now on."""
    began = time.monotonic()
    return lambda done: done / max(time.monotonic() - began, 1e-9)


def print_results(results: Sequence[dict[str, Any]], console: Console) -> None:
    """One line for each of several runs."""
    console.rule()
    for result in results:
        console.print(
            f"{_mark(result)}  {result['scenario']:18} {result['seconds']:6.1f} s  {escape(result['folder'])}/report.html",
            highlight=False,
            soft_wrap=True,
        )
        if result.get("answer"):
            console.print(f"   {_answer(result)}", markup=False, highlight=False, soft_wrap=True)


def print_folder(result: dict[str, Any]) -> None:
    """What `recall` reads from a folder, for people."""
    console = Console()
    console.print(f"{_mark(result)}  {result['scenario']} on {result['backend']}", highlight=False)
    if result.get("answer"):
        console.print(f"  {_answer(result)}", markup=False, highlight=False, soft_wrap=True)
    if "summary" in result:
        rows = result["summary"]
        grid = Table(*(Column(escape(name), no_wrap=True) for name in (rows[0] if rows else ())), box=None)
        for row in rows:
            grid.add_row(*map(escape, row.values()))
        # As wide as it is: of a number that is cut the exponent would be lost.
        wide = Measurement.get(console, console.options.update(width=10_000), grid).maximum
        Console(width=max(wide, console.width)).print(grid)
    else:
        for finding in result["findings"]:
            if finding["verdict"] != "passed":
                console.print(
                    f"  [bold]{finding['verdict']}[/]  {escape(finding['title'])}: {escape(finding['sentence'])}",
                    highlight=False,
                )
        for metric in result["metrics"]:
            about = f"{metric['name']} {metric['of']}".strip()
            console.print(
                f"  {about}: mean {metric['mean']:.6g} {metric['unit']}, n={metric['n']}", markup=False, highlight=False
            )
    console.print(f"Read {result['folder']}/report.html.", markup=False, highlight=False, soft_wrap=True)


def _answer(result: dict[str, Any]) -> str:
    """Its answer, with the doubt about it; one that could not be run says why, and leaves no findings."""
    doubt = DOUBT if "findings" in result and not result["passed"] else ""
    return f"{doubt}{result['answer']}"


def _mark(result: dict[str, Any]) -> str:
    return "[green]✔ passed[/]" if result["passed"] else "[bold red]✘ FAILED[/]"
