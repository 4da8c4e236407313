"""`report.html` of a sweep: one figure per metric over the swept values, and the table behind it."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib import resources
from pathlib import Path

from .charts import Bars, Chart, Curves, Ecdf, Point, Table, number, seconds
from .figures import chart_html, save
from .measure import Summary
from .parameters import Value
from .sweep import Row, Sweep, metric_names, points
from .verdicts import versions

MOST_FIGURES = 12


def write_sweep_page(sweep: Sweep, folder: Path, remarks: list[str]) -> Path:
    """Write report.html with its figures as files beside it."""
    plan = sweep.plan
    parts = []
    for count, chart in enumerate([*charts(sweep)[:MOST_FIGURES], table(sweep)], 1):
        files = {path.name: path.name for path in save(chart, folder / f"figure-{count}")}
        parts.append(chart_html(chart, files))
    failed = [row for row in sweep.rows if not row.passed]
    badge = "passed" if sweep.passed else "failed"
    verdict = f"{len(sweep.rows) - len(failed)} of {sweep.total} runs passed"
    said = [*remarks]
    if not sweep.whole:
        said.append(f"{sweep.stopped}: {len(sweep.rows)} of {sweep.total} runs were done.")
    if any(row.means for row in failed):
        said.append("Means and intervals include what failed runs had measured; results.csv says which those are.")
    said += [f"Run {row.number} (seed {row.seed}) failed: {'; '.join(row.failed)}." for row in failed[:20]]
    facts = {"backend": plan.backend, "seeds": f"{plan.seed} to {plan.seed + plan.repeat - 1}", **plan.fixed}
    facts |= {axis: ", ".join(map(str, values)) for axis, values in plan.axes.items()}
    style = (resources.files("scenarios.report") / "report.css").read_text(encoding="utf-8")
    page = folder / "report.html"
    page.write_text(
        "<!doctype html>\n<html lang=en><head><meta charset=utf-8>"
        "<meta name=viewport content='width=device-width, initial-scale=1'>"
        f"<meta name=color-scheme content='light dark'><title>{escape(plan.scenario.name)}: sweep</title>"
        f"<style>{style}</style></head><body>\n"
        f"<header><h1>{escape(plan.scenario.name)}: {escape(plan.scenario.question)}</h1>"
        f"<p class=badges><span class='badge {badge}'>{'✔' if sweep.passed else '✘'} {verdict}</span></p>"
        + "".join(f"<p class=remark>{escape(text)}</p>" for text in said)
        + "</header>\n<section><h2>Answer</h2>\n"
        + "\n".join(parts)
        + "</section>\n"
        + _pairs("Parameters", facts)
        + _pairs("Versions", versions())
        + "</body></html>\n",
        encoding="utf-8",
    )
    return page


def _pairs(heading: str, values: Mapping[str, object]) -> str:
    rows = "".join(f"<tr><th scope=row>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in values.items())
    return f"<section><h2>{heading}</h2><table class=plain><tbody>{rows}</tbody></table></section>\n"


def charts(sweep: Sweep) -> list[Chart]:
    """A figure per metric: a curve over the first axis, a bar per value where it is no number, else its distribution."""
    axes = list(sweep.plan.axes)
    units = {name: unit for row in sweep.rows for name, unit in row.units.items()}
    made: list[Chart] = []
    for name in metric_names(sweep.rows):
        label = f"{name} [{units[name]}]" if units[name] else name
        if not axes:
            samples = [row.means[name] for row in sweep.rows if name in row.means]
            if len(set(samples)) > 1:
                made.append(
                    Ecdf(
                        title=f"{name} over the runs",
                        x=label,
                        series={name: samples},
                        caption="Each run gives one sample.",
                    )
                )
            continue
        numeric = all(
            isinstance(value, int | float) and not isinstance(value, bool) for value in sweep.plan.axes[axes[0]]
        )
        series = _series(points(sweep), name, axes)
        if numeric:
            curves: dict[str, list[Point]] = {
                key: [(float(x), s.mean, s.low, s.high) for x, s in values.items()] for key, values in series.items()
            }
            made.append(
                Curves(
                    title=f"{name} over {axes[0]}",
                    x=_axis(sweep, axes[0]),
                    y=label,
                    series=curves,
                    caption=_caption(series),
                )
            )
        else:
            categories = [str(value) for value in sweep.plan.axes[axes[0]]]
            bars = {
                key: [(s.mean, s.low, s.high) if (s := values.get(x)) else 0.0 for x in sweep.plan.axes[axes[0]]]
                for key, values in series.items()
            }
            made.append(
                Bars(
                    title=f"{name} by {axes[0]}", y=label, categories=categories, series=bars, caption=_caption(series)
                )
            )
    return made


def _caption(series: Mapping[str, Mapping[Value, Summary]]) -> str:
    if all(about.n == 1 for values in series.values() for about in values.values()):
        return "Each from one run."
    return "Means over runs with different seeds, with 95 % confidence intervals where there is more than one run."


def _axis(sweep: Sweep, axis: str) -> str:
    about = next(each.about for each in sweep.plan.scenario.parameters if each.name == axis)
    return f"{axis} [{about.unit}]" if about.unit else axis


def _series(rows: Mapping[tuple[Value, ...], list[Row]], name: str, axes: list[str]) -> dict[str, dict[Value, Summary]]:
    found: dict[str, dict[Value, Summary]] = {}
    for combination, done in rows.items():
        samples = [row.means[name] for row in done if name in row.means]
        if samples:
            rest = ", ".join(f"{axis}={value}" for axis, value in zip(axes[1:], combination[1:], strict=True))
            found.setdefault(rest or name, {})[combination[0]] = Summary.of(samples)
    return found


def table(sweep: Sweep) -> Table:
    """Every combination and metric with its interval."""
    axes = list(sweep.plan.axes)
    rows = []
    for combination, done in points(sweep).items():
        for name in metric_names(done):
            about = Summary.of([row.means[name] for row in done if name in row.means])
            unit = next(row.units[name] for row in done if name in row.units)
            show = seconds if unit == "s" else number
            label = f"{name} [{unit}]" if unit not in ("", "s") else name
            rows.append(
                (
                    *map(str, combination),
                    label,
                    str(about.n),
                    show(about.mean),
                    " to ".join(map(show, about.interval)) if about.interval else "–",
                )
            )
    return Table(title="All numbers", columns=(*axes, "metric", "runs", "mean", "95 % interval"), rows=rows)
