"""Confidence intervals, quantiles and figures beside independent arithmetic."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import numpy as np
import pytest

from scenarios.engine.charts import Bars, Chart, Curves, Ecdf, Matrix
from scenarios.engine.figures import NARROW, chart_html, save, svg
from scenarios.engine.measure import Metrics, Summary, exact, wilson
from scenarios.pool_exhaustion import erlang_loss


def test_a_summary_is_what_numpy_says() -> None:
    samples = [Random(4).gauss(10, 2) for _ in range(1)] + [float(x) for x in range(20)]
    about = Summary.of(samples)
    assert about.mean == pytest.approx(np.mean(samples))
    assert about.deviation == pytest.approx(np.std(samples, ddof=1))
    assert about.p95 == pytest.approx(np.quantile(samples, 0.95))
    assert about.high - about.mean == pytest.approx(2.086 * about.deviation / math.sqrt(21), rel=1e-3)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = Random(1)
    means = proportions = 0
    for _ in range(1000):
        about = Summary.of([random.expovariate(1.0) for _ in range(40)])
        means += about.low <= 1.0 <= about.high
        low, high = wilson(sum(random.random() < 0.1 for _ in range(60)), 60)
        proportions += low <= 0.1 <= high
    assert 900 <= means <= 975
    assert 920 <= proportions <= 985


def test_erlang_against_a_simulated_queue() -> None:
    random = Random(3)
    servers, rate, busy_until, lost, total = 4, 3.0, [0.0] * 4, 0, 60_000
    now = 0.0
    for _ in range(total):
        now += random.expovariate(rate)
        free = min(range(servers), key=busy_until.__getitem__)
        if busy_until[free] > now:
            lost += 1
        else:
            busy_until[free] = now + random.expovariate(1.0)
    assert lost / total == pytest.approx(erlang_loss(servers, rate), rel=0.05)


def test_a_metric_keeps_its_unit() -> None:
    metrics = Metrics()
    metrics.add("setup", 1.0, "s", "")
    with pytest.raises(ValueError, match="measured in 's' before"):
        metrics.add("setup", 1.0, "ms", "")


CHARTS: list[Chart] = [
    Ecdf(title="An <ECDF>", x="s", series={"one": [1, 2, 3], "none": [], "two": [0.1, 100]}, log=True),
    Curves(
        title="Curves",
        x="x",
        y="y",
        series={"a": [(1, 2), (2, 3, 2, 4)]},
        theory={"law": [(1, 1), (9, 900)]},
        log_y=True,
    ),
    Curves(title="Steps", x="x", y="y", series={"a": [(0, 0), (1, 1)]}, steps=True),
    Bars(title="Bars", categories=["a b c d e f", "g"], series={"": [1, (2, 1, 3)]}, theory={"law": [1, 2]}, y="y"),
    Matrix(title="Matrix", rows=["r"], columns=["c", "d"], cells=[[1, math.nan]]),
]


@pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: chart.title)
def test_figures_are_the_same_each_time_and_follow_the_reader(chart: Chart, tmp_path: Path) -> None:
    assert svg(chart) == svg(chart)
    one, two = save(chart, tmp_path / "one"), save(chart, tmp_path / "two")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    text = svg(chart, NARROW)
    assert "prefers-color-scheme:dark" in text
    assert "var(--ink)" in text
    assert "<text" in text  # words stay words: they can be selected, searched and read out
    page = chart_html(chart, {"figure.svg": "figure.svg"})
    assert "<ECDF>" not in page
    assert page.count("<svg") == 2


@pytest.mark.parametrize("tries", [10**6, 10**9, 10**12, 10**15])
@pytest.mark.parametrize(("hits", "low", "high"), [(0, 0.0, 7.6009), (3, 0.1497, 13.9340), (60, 37.733, 90.013)])
def test_the_exact_interval_of_few_hits_is_that_of_poisson_however_many_tries(
    hits: int, low: float, high: float, tries: int
) -> None:
    """The bounds of a Poisson mean, 99.9 %: half the 0.05 % and 99.95 % points of chi-squared (Garwood, Biometrika 28, 1936)."""
    found = exact(hits, tries)
    assert [each * tries for each in found] == pytest.approx([low, high], rel=2e-3, abs=1e-3)


def test_a_series_whose_name_begins_with_an_underscore_is_in_the_legend() -> None:
    drawn = svg(Curves(title="t", x="x", y="y", series={"_hidden": [(1, 2), (2, 3)], "shown": [(1, 1), (2, 2)]}))
    assert "_hidden" in drawn and "shown" in drawn
