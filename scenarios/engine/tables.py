"""The tables of a sweep: `results`, one row per run, and `summary`, one row per combination and metric with its interval.

Both as CSV, and as Parquet where pyarrow is installed (extra `cluster`).
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .measure import Summary
from .sweep import Sweep, metric_names, points

Cell = str | int | float | bool | None


def results(sweep: Sweep) -> tuple[list[str], list[list[Cell]]]:
    """One row per run: parameters, seed, verdict, and the mean of each metric (None where it was not measured).

    A metric of the name of another column has "(measured)" behind it.
    """
    parameters = list(sweep.plan.scenario.values(sweep.plan.fixed))
    metrics = metric_names(sweep.rows)
    about = ["run", *parameters, "seed", "passed"]
    head = [*about, *(f"{name} (measured)" if name in about else name for name in metrics)]
    rows: list[list[Cell]] = []
    for row in sweep.rows:
        values = sweep.plan.scenario.values(row.values)
        rows.append([row.number, *values.values(), row.seed, row.passed, *(row.means.get(name) for name in metrics)])
    return head, rows


def summary(sweep: Sweep) -> tuple[list[str], list[list[Cell]]]:
    """One row per combination and metric; the interval is of the mean over runs with different seeds, empty for one run."""
    head = [*sweep.plan.axes, "metric", "unit", "runs", "mean", "ci95_low", "ci95_high", "median", "min", "max"]
    rows: list[list[Cell]] = []
    for combination, done in points(sweep).items():
        for name in metric_names(done):
            samples = [row.means[name] for row in done if name in row.means]
            about = Summary.of(samples)
            unit = next(row.units[name] for row in done if name in row.units)
            rows.append(
                [
                    *combination,
                    name,
                    unit,
                    about.n,
                    about.mean,
                    *(about.interval or (None, None)),
                    about.median,
                    about.least,
                    about.most,
                ]
            )
    return head, rows


def write_tables(sweep: Sweep, folder: Path) -> list[Path]:
    """Write both tables; returns the files."""
    written = []
    for name, (head, rows) in (("results", results(sweep)), ("summary", summary(sweep))):
        path = folder / f"{name}.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(head)
            writer.writerows([[_text(cell) for cell in row] for row in rows])
        written.append(path)
        parquet = _parquet(folder / f"{name}.parquet", head, rows)
        if parquet is not None:
            written.append(parquet)
    return written


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return repr(cell) if isinstance(cell, float) else str(cell)


def _parquet(path: Path, head: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path | None:
    try:
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError:
        return None
    columns = {name: [row[i] for row in rows] for i, name in enumerate(head)}
    for name, cells in columns.items():
        if any(isinstance(cell, float) for cell in cells):
            columns[name] = [None if cell is None else float(cell) for cell in cells]
        elif any(isinstance(cell, str) for cell in cells):
            columns[name] = [None if cell is None else str(cell) for cell in cells]
    parquet.write_table(arrow.table(columns), path)
    return path
