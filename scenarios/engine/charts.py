"""Figures and tables as data: what a scenario says about its numbers; `figures.py` draws them.

A value may be a number or (value, low, high) with its confidence interval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NoReturn, TypeAlias, cast

Point: TypeAlias = tuple[float, float] | tuple[float, float, float, float]
"""(x, y) or (x, y, low, high)."""

MOST_POINTS = 500
"""Points of a curve that a figure can show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What all figures have.  title: what it shows, in words; caption: what to see in it.

    Raises `ValueError` for what cannot be drawn, where the chart is made: the line of the script is then told.
    """

    title: str
    caption: str = ""

    def __post_init__(self) -> None:
        title: object = self.title
        if not isinstance(title, str) or not title.strip():
            raise ValueError(f"a chart has words for a title, not {title!r}")
        caption: object = self.caption
        if not isinstance(caption, str):
            self._refuse(f"a caption is text, not {caption!r}")
        self._check()

    def _check(self) -> None:
        """Raise `ValueError` where the parts do not fit each other."""

    def _refuse(self, why: str) -> NoReturn:
        raise ValueError(f"{type(self).__name__} {self.title!r}: {why}")

    def _numbers(self, values: object, what: str) -> None:
        """Raise `ValueError` for what is no sequence of numbers."""
        if not _is_list(values):
            self._refuse(f"{what} takes a list of numbers, not {values!r}")
        for value in cast("Sequence[object]", values):
            if not _is_number(value):
                self._refuse(f"{what} has {value!r}, which is no number")

    def _named(self, series: object, what: str) -> Iterator[tuple[str, Any]]:
        """The rows of a mapping, each with words for its error."""
        if not isinstance(series, Mapping):
            self._refuse(f"{what} is a mapping from names to values, not {series!r}")
        for name, values in series.items():
            yield f"the {what} {name!r}", values


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecdf(Chart):
    """Distributions: for each series, the share of samples up to x."""

    series: Mapping[str, Sequence[float]]
    x: str
    log: bool = False

    def _check(self) -> None:
        for what, values in self._named(self.series, "series"):
            self._numbers(values, what)


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

    def _check(self) -> None:
        for what, points in (*self._named(self.series, "series"), *self._named(self.theory, "theory")):
            if not _is_list(points):
                self._refuse(f"{what} takes a list of points, not {points!r}")
            for point in points:
                if not _is_list(point) or len(point) not in (2, 4) or not all(map(_is_number, point)):
                    self._refuse(f"{what} has {point!r}: a point is (x, y) or (x, y, low, high)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bars(Chart):
    """A bar per category and series; `theory` is a mark beside the bar."""

    categories: Sequence[str]
    series: Mapping[str, Sequence[float | tuple[float, float, float]]]
    theory: Mapping[str, Sequence[float]] = field(default_factory=dict)
    y: str
    log: bool = False

    def _check(self) -> None:
        for what, values in (*self._named(self.series, "series"), *self._named(self.theory, "theory")):
            if not _is_list(values) or len(values) != len(self.categories):
                self._refuse(f"{what} takes a value for each of the {len(self.categories)} categories, not {values!r}")
            for value in values:
                self._numbers(value if _is_list(value) and len(value) == 3 else [value], what)


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix(Chart):
    """Counts or shares in cells: a confusion matrix, an interoperability table."""

    rows: Sequence[str]
    columns: Sequence[str]
    cells: Sequence[Sequence[float]]
    row: str = ""
    column: str = ""

    def _check(self) -> None:
        if len(self.cells) != len(self.rows):
            self._refuse(f"there are {len(self.cells)} rows of cells for {len(self.rows)} rows")
        for name, cells in zip(self.rows, self.cells, strict=True):
            self._numbers(cells, f"the row {name!r}")
            if len(cells) != len(self.columns):
                self._refuse(f"the row {name!r} has {len(cells)} cells for {len(self.columns)} columns")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(Chart):
    """Columns and rows of text; numbers are given as text with the digits they deserve."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def _check(self) -> None:
        for row in self.rows:
            if not _is_list(row) or len(row) != len(self.columns) or not all(isinstance(cell, str) for cell in row):
                self._refuse(f"a row takes a text for each of the {len(self.columns)} columns, not {row!r}")


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


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
