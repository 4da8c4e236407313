"""The tables of a sweep: `results`, one row per run, and `summary`, one row per combination and metric with its interval.

Both as CSV, and as Parquet where pyarrow is installed (extra `cluster`).
"""

from __future__ import annotations

import csv
import importlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .measure import Summary
from .sweep import Sweep, metric_names, points

Cell = str | int | float | bool | None


def results(sweep: Sweep) -> tuple[list[str], list[list[Cell]]]:
    """One row per run: parameters, seed, verdict, and the mean of each metric (None where it was not measured).

    A parameter of the name of another column has "(parameter)" behind it, a metric "(measured)".
    """
    parameters = _apart(sweep.plan.scenario.values(sweep.plan.fixed), ("run", "seed", "passed"), "parameter")
    metrics = metric_names(sweep.rows)
    about = ["run", *parameters, "seed", "passed"]
    head = [*about, *_apart(metrics, about, "measured")]
    rows: list[list[Cell]] = []
    for row in sweep.rows:
        values = sweep.plan.scenario.values(row.values)
        rows.append([row.number, *values.values(), row.seed, row.passed, *(row.means.get(name) for name in metrics)])
    return head, rows


def summary(sweep: Sweep) -> tuple[list[str], list[list[Cell]]]:
    """One row per combination and metric; the interval is of the mean over runs with different seeds, empty for one run.

    A parameter of the name of another column has "(parameter)" behind it.
    """
    about = ["metric", "unit", "runs", "mean", "ci95_low", "ci95_high", "median", "min", "max"]
    head = [*_apart(sweep.plan.axes, about, "parameter"), *about]
    rows: list[list[Cell]] = []
    for combination, done in points(sweep).items():
        for name in metric_names(done):
            samples = [row.means[name] for row in done if name in row.means]
            sample = Summary.of(samples)
            unit = next(row.units[name] for row in done if name in row.units)
            rows.append(
                [
                    *combination,
                    name,
                    unit,
                    sample.n,
                    sample.mean,
                    *(sample.interval or (None, None)),
                    sample.median,
                    sample.least,
                    sample.most,
                ]
            )
    return head, rows


def _apart(names: Iterable[str], others: Sequence[str], what: str) -> list[str]:
    """Headings that none of the others has.

    >>> _apart(["size", "runs"], ["runs", "mean"], "parameter")
    ['size', 'runs (parameter)']
    """
    return [f"{name} ({what})" if name in others else name for name in names]


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
