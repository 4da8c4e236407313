"""The main job in one go: one-time addresses between real kernels, proven from the captures."""

from __future__ import annotations

import asyncio
import json as json_module
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from unimux.errors import SetupError


def demo(
    memory: Annotated[
        bool, typer.Option("--memory", help="Tell the story on an in-memory link in virtual time; no privilege needed.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder for captures, events and report.", show_default="out/demo-TIME")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of the story; with --memory of its addresses, too.", show_default="none"),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one object for programs, nothing else.")] = False,
) -> None:
    """Build a network, let unmodified programs talk over one-time addresses, and judge the captures.

    Exit status 0 only if every line of the verdict holds or is excused.
    """
    from rich.console import Console

    from scenarios.engine.errors import written_to
    from scenarios.engine.folder import fresh

    from .outcome import Outcome

    if not memory:
        _require_kernel()
    folder = fresh(out, "demo")
    console = Console(stderr=True, quiet=True) if json else Console()
    outcome = Outcome(folder)
    with written_to(folder):
        status = _run(outcome, console, seed, memory=memory, json=json)
    raise typer.Exit(status)


def _run(outcome: Any, console: Any, seed: int | None, *, memory: bool, json: bool) -> int:
    """Tell the story and judge it; returns the exit status."""
    from .live import LiveView

    began = time.monotonic()
    with LiveView(console) as live:

        def say(text: str) -> None:
            outcome.steps.append(text)
            live.say(text)

        live.say("unimux demo – an address of its own for every connection; TIME-WAIT option: short")
        if memory:
            from . import memory as story_in_memory

            story_in_memory.tell(outcome, say, live.watch, seed)
        else:
            _tell_real(outcome, live, say, seed)
        live.say("Judging the captures" if outcome.captures else "Judging")
    return _conclude(outcome, console, began, memory=memory, json=json)


def _require_kernel() -> None:
    from compat import kernel

    missing = kernel.capabilities().missing
    if missing:
        raise SetupError(f"{missing[0].rstrip('.')}; or run the story in memory with `unimux demo --memory`.")


def _tell_real(outcome: Any, live: Any, say: Any, seed: int | None) -> None:
    from . import real

    asyncio.run(real.tell(outcome, say, live.watch, seed))


def _conclude(outcome: Any, console: Any, began: float, *, memory: bool, json: bool) -> int:
    """Judge, write the folder, print the table; returns the exit status."""
    from scenarios.report import Report, write_report
    from scenarios.witness.finding import Finding, Verdict
    from scenarios.witness.judge import judge
    from scenarios.witness.verdict import as_json, exit_status, summary, table

    judgement = judge(outcome.captures, outcome.setup, [outcome.events])
    facts = [
        Finding(
            "observed",
            fact.requirements,
            Verdict.PASSED if fact.passed else Verdict.FAILED,
            fact.sentence,
            title=fact.title,
        )
        for fact in outcome.facts
    ]
    facts += [
        Finding("needs-kernel", (), Verdict.NOT_SHOWN, why, title=title) for title, why in outcome.not_shown.items()
    ]
    findings = [*judgement.findings, *facts]
    # In memory nothing but Python is needed: not even tshark, whose second opinion is then missing, and said to be.
    excused = {"needs-kernel", "second-opinion", "dissectors-agree"} if memory else set()
    status = exit_status(findings, excused)
    write_report(
        outcome.folder,
        Report(
            title="unimux demo",
            judgement=judgement,
            lead="One-time addresses in use, told in five chapters and judged from what was captured on the router's links.",
            versions={"unimux": version("unimux"), "Python": sys.version.split()[0]},
            steps=outcome.chapters(),
            remarks=["TIME-WAIT option: short.", *outcome.remarks],
            other_findings=facts,
        ),
    )
    elapsed = time.monotonic() - began
    if json:
        result = {
            "passed": status == 0,
            "seconds": round(elapsed, 1),
            "memory": memory,
            "folder": str(outcome.folder),
            "findings": as_json(findings),
        }
        typer.echo(json_module.dumps(result, ensure_ascii=False))
        return status
    console.print(table(judgement.findings))
    console.print(table(facts, "Seen by the programs", "what they saw"))
    console.print(
        f"{summary(findings)} in {elapsed:.0f} s.  The folder: {outcome.folder} – begin with report.html.", markup=False
    )
    return status
