"""Figures and tables as data: what a scenario says about its numbers; `figures.py` draws them.

A value may be a number or (value, low, high) with its confidence interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

Point: TypeAlias = tuple[float, float] | tuple[float, float, float, float]
"""(x, y) or (x, y, low, high)."""

MOST_POINTS = 500
"""Points of a curve that a figure can show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What all figures have.  title: what it shows, in words; caption: what to see in it."""

    title: str
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecdf(Chart):
    """Distributions: for each series, the share of samples up to x."""

    series: Mapping[str, Sequence[float]]
    x: str
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves(Chart):
    """Values over x.  `theory` is drawn as lines, `series` as points with their intervals, joined if `joined`."""

    series: Mapping[str, Sequence[Point]]
    theory: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    joined: bool = True
    steps: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars(Chart):
    """A bar per category and series; `theory` is a mark beside the bar."""

    categories: Sequence[str]
    series: Mapping[str, Sequence[float | tuple[float, float, float]]]
    theory: Mapping[str, Sequence[float]] = field(default_factory=dict)
    y: str
    log: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix(Chart):
    """Counts or shares in cells: a confusion matrix, an interoperability table."""

    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[float]]
    row: str = ""
    column: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Chart):
    """Columns and rows of text; numbers are given as text with the digits they deserve."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def thinned(points: list[Point], most: int = MOST_POINTS) -> list[Point]:
    """At most so many of the points, evenly.

    >>> len(thinned([(x, 0.0) for x in range(1199)], 600))
    600
    """
    return points[:: max(1, -(-len(points) // most))]


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def raised(exponent: int) -> str:
    """An exponent as it is written above the line."""
    return str(exponent).translate(_RAISED)


def number(value: float, digits: int = 3) -> str:
    """A number with so many significant digits, and its thousands apart.

    >>> number(0.0012345), number(12345.6), number(2.0), number(2.0**94), number(float("inf"))
    ('0.00123', '12,346', '2', '1.98·10²⁸', '∞')
    """
    if value in (float("inf"), float("-inf")):
        return "∞" if value > 0 else "−∞"
    if 10 ** (digits - 1) <= abs(value) < 1e10:
        return f"{value:,.0f}"
    text = f"{value:.{digits}g}"
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        return f"{mantissa}·10{raised(int(exponent))}"
    return text


def seconds(value: float) -> str:
    """A time in the unit that suits it.

    >>> seconds(0.00123), seconds(2.5), seconds(0.0)
    ('1.23 ms', '2.5 s', '0 s')
    """
    if 0 < abs(value) < 1e-3:
        return f"{number(value * 1e6)} µs"
    if 0 < abs(value) < 1:
        return f"{number(value * 1e3)} ms"
    return f"{number(value)} s"
