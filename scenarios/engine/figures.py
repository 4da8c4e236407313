"""Draws charts with matplotlib: as SVG that follows the reader's light or dark setting, and as PDF for a paper.

Series differ by hue (Okabe and Ito's, which readers with any common colour vision tell apart), by dash and by marker, so a figure
also holds in grey.  What is measured is drawn as points and steps, theory as thin black lines.  Equal data give equal files.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from .charts import Bars, Chart, Curves, Ecdf, Matrix, Point, Table, raised
from .charts import number as numbers

# Colours as matplotlib gets them, and the CSS variables that take their place.
_INK, _SOFT, _GRID = "#010203", "#040506", "#070809"
_HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6e7681")
_DARK = ("#4da3e0", "#ff8a4c", "#34c796", "#e59cc3", "#f0b54a", "#8fd0f5", "#a3acb7")
_DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_THEORIES = ("D", "s", "o")
_HATCHES = ("", "////", "....", "xx", "\\\\\\\\", "--", "oo")
_STYLE = (
    ".chart{--ink:#1c2128;--soft:#5b6470;--grid:#dde1e6;"
    + "".join(f"--s{i}:{hue};" for i, hue in enumerate(_HUES))
    + "max-width:100%;height:auto}"
    "@media (prefers-color-scheme:dark){.chart{--ink:#e4e8ed;--soft:#9aa4b0;--grid:#2c333c;"
    + "".join(f"--s{i}:{hue};" for i, hue in enumerate(_DARK))
    + "}}@media print{.chart{--ink:#000;--soft:#333;--grid:#ccc;"
    + "".join(f"--s{i}:{hue};" for i, hue in enumerate(_HUES))
    + "}}"
)
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "unimux",
    "pdf.fonttype": 42,
    "font.family": "sans-serif",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "hatch.linewidth": 0.6,
    "legend.frameon": False,
}
WIDE, NARROW = (8.4, 3.6), (4.1, 3.5)
"""Inches, for a desk and for a phone."""


def svg(chart: Chart, size: tuple[float, float] = WIDE) -> str:
    """The figure as SVG text for inside HTML or for a file of its own."""
    with _drawn(chart, size, _INK, _SOFT, _GRID) as figure:
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    for colour, name in ((_INK, "ink"), (_SOFT, "soft"), (_GRID, "grid"), *((h, f"s{i}") for i, h in enumerate(_HUES))):
        text = text.replace(colour, f"var(--{name})")
    text = re.sub(
        r"(<style[^>]*>)[^<]*",
        lambda found: found[1] + _STYLE + "*{stroke-linejoin:round;stroke-linecap:butt}",
        text,
        count=1,
    )
    text = text.replace("font: 10px 'sans-serif'", "font: 10px system-ui, sans-serif")
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg class="chart" role="img" aria-label="{escape(chart.title)}" ', 1).strip()


def save(chart: Chart, stem: Path) -> list[Path]:
    """Write stem.svg and stem.pdf; a table has no picture."""
    if isinstance(chart, Table):
        return []
    vector, paper = stem.with_suffix(".svg"), stem.with_suffix(".pdf")
    vector.write_text(svg(chart) + "\n", encoding="utf-8")
    with _drawn(chart, WIDE, "#000000", "#333333", "#cccccc") as figure:
        figure.savefig(paper, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return [vector, paper]


@contextmanager
def _drawn(chart: Chart, size: tuple[float, float], ink: str, soft: str, grid: str) -> Iterator[Figure]:
    colours = {
        "text.color": ink,
        "axes.edgecolor": soft,
        "axes.labelcolor": ink,
        "xtick.color": soft,
        "ytick.color": soft,
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "grid.color": grid,
        "hatch.color": ink,
    }
    settings: dict[Any, Any] = {**_SETTINGS, **colours}
    with mpl.rc_context(settings):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        narrow = size[0] < 6
        if isinstance(chart, Ecdf):
            _ecdf(axes, chart)
        elif isinstance(chart, Curves):
            _curves(axes, chart, ink)
        elif isinstance(chart, Bars):
            _bars(axes, chart, ink, narrow=narrow)
        elif isinstance(chart, Matrix):
            _matrix(axes, chart)
        else:
            raise TypeError(f"there is no picture of {type(chart).__name__}")
        if narrow and isinstance(chart, Ecdf | Curves) and axes.get_xscale() == "linear":
            axes.xaxis.set_major_locator(MaxNLocator(5))
        labels = axes.get_legend_handles_labels()[1]
        if labels and not isinstance(chart, Matrix):
            figure.legend(loc="outside upper left", ncols=_legend_columns(labels, size[0]), fontsize=9)
        yield figure


def _legend_columns(labels: Sequence[str], inches: float) -> int:
    """As many columns as fit beside each other.

    >>> _legend_columns(["short"] * 3, 8), _legend_columns(["x" * 60, "y" * 60], 8)
    (3, 1)
    """
    longest = max(map(len, labels)) + 7  # the sample of the line before the text
    return max(1, min(len(labels), 4, int(inches * 13 / longest)))


def _scale(axes: Axes, which: Literal["x", "y"], values: Sequence[float]) -> None:
    """A logarithmic axis where the values span more than a factor of five, with numbers as people write them."""
    positive = [value for value in values if value > 0]
    if not positive or max(positive) < 5 * min(positive):
        return
    if which == "x":
        axes.autoscale(axis="x")
        axes.set_xscale("log")
    else:
        axes.autoscale(axis="y")
        axes.set_yscale("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    spans = math.log10(max(positive) / min(positive))
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if spans < 2 else (1,), numticks=9))
    axis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    axis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    """A value on a logarithmic axis.

    >>> _tick(0.02), _tick(5000), _tick(1e-12)
    ('0.02', '5,000', '10⁻¹²')
    """
    if 1e-4 < value < 1e6:
        return numbers(value)
    exponent = math.log10(value)
    return f"10{raised(round(exponent))}" if abs(exponent - round(exponent)) < 1e-6 else ""


def _ecdf(axes: Axes, chart: Ecdf) -> None:
    for number, (name, samples) in enumerate(chart.series.items()):
        ordered = sorted(samples)
        if not ordered:
            continue
        shares = [(i + 1) / len(ordered) for i in range(len(ordered))]
        axes.step(
            [ordered[0], *ordered], [0.0, *shares], where="post", color=_hue(number), linestyle=_dash(number), linewidth=1.8,
            label=_label(f"{name} (n={len(ordered)})"),
        )  # fmt: skip
    axes.set_ylim(0, 1.02)
    axes.set_ylabel("share of samples")
    axes.set_xlabel(chart.x)
    everything = [value for samples in chart.series.values() for value in samples]
    axes.set_xlim(left=min([0.0, *everything]))
    if chart.log:
        _scale(axes, "x", everything)


def _curves(axes: Axes, chart: Curves, ink: str) -> None:
    for number, (name, points) in enumerate(chart.theory.items()):
        xs, ys, _ = _columns(points)
        axes.plot(xs, ys, color=ink, linewidth=1.0, linestyle=_dash(number), label=_label(name))
    for number, (name, points) in enumerate(chart.series.items()):
        xs, ys, bars = _columns(points)
        if chart.steps:
            axes.step(
                xs, ys, where="post", color=_hue(number), linestyle=_dash(number), linewidth=1.6, label=_label(name)
            )
            continue
        dense = len(xs) > 40
        axes.errorbar(
            xs, ys, yerr=bars, color=_hue(number), linestyle=_dash(number) if chart.joined else "none",
            marker="" if dense else _MARKERS[number % len(_MARKERS)], markersize=5, linewidth=1.5, elinewidth=1.2,
            capsize=3, label=_label(name),
        )  # fmt: skip
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    points = [point for each in (*chart.series.values(), *chart.theory.values()) for point in each]
    bottom, top = axes.get_ylim()
    low = min(0.0, bottom)
    axes.set_ylim(
        low, top + 0.04 * (top - low)
    )  # room for the marker of the highest point, however close the points are
    if chart.log_x:
        _scale(axes, "x", [point[0] for point in points])
    if chart.log_y:
        _scale(axes, "y", [point[1] for point in points])


def _label(name: object) -> str:
    """A name for the legend, a number perhaps; matplotlib leaves out those that begin with an underscore."""
    text = str(name)
    return f"\u2009{text}" if text.startswith("_") else text


def _columns(points: Sequence[Point]) -> tuple[list[float], list[float], list[list[float]] | None]:
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    if not any(len(point) == 4 for point in points):
        return xs, ys, None
    low = [max(point[1] - point[2], 0.0) if len(point) == 4 else 0.0 for point in points]
    high = [max(point[3] - point[1], 0.0) if len(point) == 4 else 0.0 for point in points]
    return xs, ys, [low, high]


def _bars(axes: Axes, chart: Bars, ink: str, *, narrow: bool) -> None:
    width = 0.8 / max(len(chart.series), 1)
    places = range(len(chart.categories))
    for number, (name, values) in enumerate(chart.series.items()):
        heights = [value if isinstance(value, int | float) else value[0] for value in values]
        bounds = [(value, value, value) if isinstance(value, int | float) else value for value in values]
        errors = [[max(b[0] - b[1], 0.0) for b in bounds], [max(b[2] - b[0], 0.0) for b in bounds]]
        at = [place - 0.4 + width * (number + 0.5) for place in places]
        axes.bar(
            at, heights, width * 0.92, color=_hue(number), hatch=_HATCHES[number % len(_HATCHES)], edgecolor=ink, linewidth=0.5,
            label=_label(name) if name else None, yerr=errors if any(map(any, errors)) else None, capsize=3, ecolor=ink,
        )  # fmt: skip
        if len(chart.categories) * len(chart.series) <= 14:
            for x, height, bound in zip(at, heights, bounds, strict=True):
                axes.annotate(
                    numbers(height),
                    (x, max(height, bound[2])),
                    ha="center",
                    va="bottom",
                    fontsize=8,
                    xytext=(0, 1),
                    textcoords="offset points",
                )
    for number, (name, values) in enumerate(chart.theory.items()):
        # As many theories as series: each belongs to the bar of its own.
        beside = width * (number + 0.5) - 0.4 if len(chart.theory) == len(chart.series) else 0.0
        axes.plot(
            [place + beside for place in places], list(values), linestyle="none", marker=_THEORIES[number % len(_THEORIES)],
            markersize=7, markerfacecolor="#ffffff", markeredgecolor=ink, markeredgewidth=1.4, label=_label(name), zorder=5,
            clip_on=False,
        )  # fmt: skip
    axes.set_xticks(list(places), [_wrapped(category, 9 if narrow else 16) for category in chart.categories])
    if narrow:
        axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel(chart.y)
    axes.grid(visible=False, axis="x")
    axes.margins(y=0.12)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if chart.log:
        _scale(
            axes,
            "y",
            [value if isinstance(value, int | float) else value[0] for each in chart.series.values() for value in each],
        )


def _wrapped(text: str, width: int) -> str:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + len(word) < width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return "\n".join(lines)


def _matrix(axes: Axes, chart: Matrix) -> None:
    most = max((value for row in chart.cells for value in row if value == value), default=0.0) or 1.0
    for y, row in enumerate(chart.cells):
        for x, value in enumerate(row):
            known = value == value
            # One hue of growing weight: what is written in the cell says the same.
            weight = 0.05 + 0.6 * value / most if known else 0.0
            cell = Rectangle((x - 0.5, y - 0.5), 1, 1, facecolor=_HUES[0], alpha=weight, linewidth=0)
            axes.add_patch(cell)
            axes.text(x, y, f"{value:.3g}" if known else "–", ha="center", va="center", fontsize=9)
    axes.set_xlim(-0.5, len(chart.columns) - 0.5)
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(chart.columns)), [_wrapped(name, 12) for name in chart.columns], fontsize=8)
    axes.set_yticks(range(len(chart.rows)), [_wrapped(name, 18) for name in chart.rows], fontsize=8)
    axes.set_xlabel(chart.column)
    axes.set_ylabel(chart.row)
    axes.grid(visible=False)


def _hue(number: int) -> str:
    return _HUES[number % len(_HUES)]


def _dash(number: int) -> Any:
    return _DASHES[number % len(_DASHES)]


def table_html(chart: Table) -> str:
    """A table as HTML, with labels for narrow screens."""
    head = "".join(f"<th>{escape(name)}</th>" for name in chart.columns)
    body = "".join(
        "<tr>"
        + "".join(
            f'<td data-label="{escape(name)}"><div>{escape(cell)}</div></td>'
            for name, cell in zip(chart.columns, row, strict=True)
        )
        + "</tr>"
        for row in chart.rows
    )
    return f'<table class="cards"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def chart_html(chart: Chart, files: Mapping[str, str]) -> str:
    """A figure in both widths with its caption and links to its files, or a table."""
    picture = not isinstance(chart, Table)
    parts = ["<figure>"] if picture else []
    parts.append(f"<h3>{escape(chart.title)}</h3>")
    if isinstance(chart, Table):
        parts.append(table_html(chart))
    else:
        parts.append(
            f'<div class="wide">{svg(chart, WIDE)}</div><div class="narrow">{_renamed(svg(chart, NARROW))}</div>'
        )
    links = ", ".join(f'<a href="{escape(path)}">{escape(kind)}</a>' for kind, path in files.items())
    if chart.caption or links:
        parts.append(
            f'<p class="soft">{escape(chart.caption)}{" Also as " if links else ""}{links}{"." if links else ""}</p>'
        )
    return "\n".join([*parts, "</figure>"] if picture else parts)


def _renamed(text: str) -> str:
    """Ids of a second copy, so that two figures on one page do not share clip paths."""
    return re.sub(r'(id="|url\(#|href="#)', r"\1n-", text)
