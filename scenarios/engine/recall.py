"""Reads what a run or a sweep left, for who wants its verdict again without running it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from .errors import ScenarioError


def recall(folder: Path) -> dict[str, Any]:
    """The verdict and the numbers of a folder; raises `ScenarioError` where it holds none."""
    if (folder / "sweep.json").is_file():
        result = _json(folder / "sweep.json")
        if not (folder / "summary.csv").is_file():
            raise ScenarioError(f"{folder} holds no run: there is no summary.csv in it.")
        with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
            return {**result, "folder": str(folder), "summary": list(csv.DictReader(file))}
    if not (folder / "metrics.json").is_file():
        raise ScenarioError(f"{folder} holds no run: there is no metrics.json in it.")
    measured, findings = _json(folder / "metrics.json"), _json(folder / "findings.json")
    passed = bool(findings) and all(finding["verdict"] == "passed" for finding in findings)
    return {**measured, "folder": str(folder), "passed": passed, "findings": findings}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path} cannot be read: {error}.") from error


def print_folder(result: dict[str, Any]) -> None:
    """The same for people."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    mark = "[green]✔ passed[/]" if result["passed"] else "[bold red]✘ FAILED[/]"
    console.print(f"{mark}  {result['scenario']} on {result['backend']}", highlight=False)
    if result.get("answer"):
        console.print(f"  {result['answer']}", markup=False, highlight=False)
    if "summary" in result:
        rows = result["summary"]
        table = Table(*map(escape, rows[0] if rows else ()), box=None)
        for row in rows:
            table.add_row(*map(escape, row.values()))
        console.print(table)
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
