"""`report.html` of a run: the report of the witness, with the scenario's own figures and numbers in front."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup

from scenarios.report import Report, Section, choose, write_report
from scenarios.report.pdf import pdf
from scenarios.witness import TITLES, Connection, Judgement
from tapstack.types import address

from .charts import Chart, Table, number, seconds
from .errors import ScenarioError
from .execute import Outcome
from .figures import chart_html, save
from .measure import Metric, Summary
from .topology import topology_figure
from .transfer import transfer_charts
from .verdicts import Verdicts, versions


def write_page(
    folder: Path, outcome: Outcome, judgement: Judgement, verdicts: Verdicts, connection: int | None = None
) -> Path:
    """Write report.html and everything that it links to; connection: the number of the one to draw.

    Raises `ScenarioError` where there is no such connection, when all is written and another one is drawn.
    """
    scenario, order = outcome.scenario, outcome.order
    lead, _, rest = scenario.text.partition("\n\n")
    wanted = next((each for each in judgement.connections if each.number == connection), None)
    chosen = wanted or chosen_connection(outcome, judgement)
    remarks = list(outcome.remarks)
    if verdicts.untouched:
        names = "; ".join(TITLES[rule] for rule in verdicts.untouched)
        remarks.append(f"Not asked here, so neither passed nor failed: {names}.")
    parameters = {
        each.name: f"{value} {each.about.unit} – {each.about.text}".replace("  ", " ")
        for each, value in zip(scenario.parameters, scenario.values(order.values).values(), strict=True)
    }
    page = write_report(
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
            connection=chosen,
            sections=[*answer(folder, outcome, chosen, stands=verdicts.passed), network(folder, outcome)],
        ),
    )
    if connection is not None and wanted is None:
        raise ScenarioError(
            f"There is no connection {connection}: this run had {len(judgement.connections)}. Read {page}."
        )
    return page


def chosen_connection(outcome: Outcome, judgement: Judgement) -> Connection | None:
    """The connection to draw where nobody names one: the script's choice, else the most telling one."""
    if outcome.chosen is not None:
        wanted = address(outcome.chosen)
        found = [each for each in judgement.connections if wanted in each.pair]
        if found:
            return found[0]
        outcome.remarks.append(
            f"The script chose {outcome.chosen} to be drawn, which no connection has: it is another one."
        )
    return choose(judgement)


def answer(folder: Path, outcome: Outcome, chosen: Connection | None = None, *, stands: bool = True) -> list[Section]:
    """The section with the answer, the figures, the numbers, and theory beside them; none where nothing was measured.

    stands: whether the run passed; if not, the answer says so, since a script says it before all is judged.
    """
    charts: list[Chart] = list(outcome.charts)
    if table := theory_table(outcome):
        charts.append(table)
    if table := numbers_table(outcome.metrics):
        charts.append(table)
    if chosen is not None:
        charts += transfer_charts(chosen, folder / "events.jsonl")
    said = [Markup('<p class="lead"><b>{}</b></p>').format(outcome.answer)] if outcome.answer else []
    if said and not stands:
        said.insert(0, Markup('<p class="remark">The run did not pass, so this answer does not stand:</p>'))
    if not charts and not said:
        return []
    return [Section("Answer", Markup("\n").join([*said, *map(Markup, drawn(folder, charts))]))]


def network(folder: Path, outcome: Outcome) -> Section:
    """The section with the topology, its figure written to the folder."""
    wide, narrow = topology_figure(outcome.topology, 760), topology_figure(outcome.topology, 360)
    (folder / "topology.svg").write_text(wide, encoding="utf-8")
    (folder / "topology.pdf").write_bytes(pdf(wide))
    return Section(
        "Network",
        Markup(
            f'<div class="wide">{wide}</div><div class="narrow">{narrow}</div>'
            '<p class="soft">Also as <a href="topology.svg">topology.svg</a>, <a href="topology.pdf">topology.pdf</a>.</p>'
        ),
    )


def drawn(folder: Path, charts: Iterable[Chart]) -> list[str]:
    """Charts as HTML, their files written to the folder: `figure-1` and so on; a table has none."""
    parts, count = [], 1
    for chart in charts:
        files = {path.name: path.name for path in save(chart, folder / f"figure-{count}")}
        count += bool(files)
        parts.append(chart_html(chart, files))
    return parts


def numbers_table(metrics: Iterable[Metric]) -> Table | None:
    """What was measured, with confidence intervals."""
    rows = []
    for metric in metrics:
        about = Summary.of(metric.samples)
        show = seconds if metric.unit == "s" else number
        interval = " to ".join(map(show, about.interval)) if about.interval else "–"
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
        title="Theory beside measurement",
        columns=("quantity", "measured", "theory", "interval", "verdict"),
        rows=rows,
        caption="Where shares and counts are compared, the interval is that of the measurement, mostly of 99.9 %, and "
        "theory has to lie in it. Else it is what theory allows, and the measurement has to lie in it.",
    )
