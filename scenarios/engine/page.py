"""`report.html` of a run: the report of the witness, with the scenario's own figures and numbers in front."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup

from scenarios.report import Report, Section, write_report
from scenarios.witness import TITLES, Judgement

from .charts import Chart, Table, number, seconds
from .execute import Outcome
from .figures import chart_html, save
from .measure import Metric, Summary
from .verdicts import Verdicts, versions


def write_page(folder: Path, outcome: Outcome, judgement: Judgement, verdicts: Verdicts) -> Path:
    """Write report.html and everything that it links to."""
    scenario, order = outcome.scenario, outcome.order
    lead, _, rest = scenario.text.partition("\n\n")
    remarks = list(outcome.remarks)
    if verdicts.untouched:
        names = ", ".join(TITLES[rule].lower() for rule in verdicts.untouched)
        remarks.append(f"Not asked here, so neither passed nor failed: {names}.")
    parameters = {
        each.name: f"{value} {each.about.unit} – {each.about.text}".replace("  ", " ")
        for each, value in zip(scenario.parameters, scenario.values(order.values).values(), strict=True)
    }
    return write_report(
        folder,
        Report(
            title=f"{scenario.name}: {' '.join(lead.split())}",
            judgement=judgement,
            lead=" ".join(rest.split()),
            steps=outcome.steps,
            versions=versions(),
            parameters={"backend": order.backend, "seed": str(order.seed), **parameters},
            remarks=remarks,
            other_findings=verdicts.claimed,
            sections=[section] if (section := answer(folder, outcome)) else [],
        ),
    )


def answer(folder: Path, outcome: Outcome) -> Section | None:
    """The section with the figures, the numbers, and theory beside them; None where nothing was measured."""
    charts: list[Chart] = list(outcome.charts)
    if table := theory_table(outcome):
        charts.append(table)
    if table := numbers_table(outcome.metrics):
        charts.append(table)
    if not charts:
        return None
    return Section("Answer", Markup("\n".join(drawn(folder, charts))))


def drawn(folder: Path, charts: Iterable[Chart]) -> list[str]:
    """Charts as HTML, their files written to the folder."""
    parts = []
    for count, chart in enumerate(charts, 1):
        files = {path.name: path.name for path in save(chart, folder / f"figure-{count}")}
        parts.append(chart_html(chart, files))
    return parts


def numbers_table(metrics: Iterable[Metric]) -> Table | None:
    """What was measured, with confidence intervals."""
    rows = []
    for metric in metrics:
        about = Summary.of(metric.samples)
        show = seconds if metric.unit == "s" else number
        interval = f"{show(about.low)} to {show(about.high)}" if about.n > 1 else "–"
        name = metric.column + (f" [{metric.unit}]" if metric.unit not in ("", "s") else "")
        rows.append((name, str(about.n), show(about.mean), interval, show(about.median), show(about.p95)))
    if not rows:
        return None
    return Table(
        title="Measurements", columns=("measured", "n", "mean", "95 % interval", "median", "95th percentile"), rows=rows
    )


def theory_table(outcome: Outcome) -> Table | None:
    """Measured values beside those of theory."""
    rows = [
        (
            c.what,
            number(c.measured),
            number(c.theory),
            f"{number(c.low)} to {number(c.high)}",
            "agrees" if c.agrees else "DIFFERS",
        )
        for c in outcome.comparisons
    ]
    if not rows:
        return None
    return Table(
        title="Theory beside measurement", columns=("quantity", "measured", "theory", "interval", "verdict"), rows=rows
    )
