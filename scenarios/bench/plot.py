"""P-14 as a chart: what a unit costs at ×1, ×10 and ×100, relative to ×1; level or falling is linear or better."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from unimux.errors import SetupError

from .figures import Figure

_WHAT = re.compile(r"(?P<series>.+), ×(?P<factor>\d+)(?:;.*)?")
_ENDINGS = (".svg", ".pdf", ".png")
_STYLES = (("o", "-"), ("s", "--"), ("^", ":"))


def series(figures: Sequence[Figure]) -> dict[str, list[tuple[int, float]]]:
    """The cost of a unit relative to ×1, by factor, of each series of P-14.

    >>> from .figures import figure
    >>> series([figure("P-14", "time per GB, ×1", "s/GB", [2.0]), figure("P-14", "time per GB, ×10; baseline ×1", "s/GB", [3.0])])
    {'time per GB': [(1, 1.0), (10, 1.5)]}
    """
    points: dict[str, list[tuple[int, float]]] = {}
    for row in figures:
        found = _WHAT.fullmatch(row.what)
        if row.id == "P-14" and found:
            points.setdefault(found["series"], []).append((int(found["factor"]), row.value))
    return {name: [(factor, value / of[0][1]) for factor, value in of] for name, of in points.items() if of[0][1]}


def check_chart(path: Path) -> None:
    """Raise `SetupError` where no chart can be written to `path`, before anything is measured for it."""
    if path.suffix not in _ENDINGS:
        raise SetupError(
            f"The name of a chart ends in {', '.join(_ENDINGS)}, unlike {path}: name another file with --plot."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new = not path.exists()
        path.open("ab").close()
        if new:
            path.unlink()
    except OSError as error:
        raise _unwritten(path, error) from error


def _unwritten(path: Path, error: OSError) -> SetupError:
    return SetupError(f"The chart cannot be written to {path}: {error.strerror}; name another file with --plot.")


def plot(figures: Sequence[Figure], path: Path) -> None:
    """Write the chart; the ending of `path` says the format (svg, pdf, png)."""
    check_chart(path)
    lines = series(figures)
    if not lines:
        raise SetupError("There is nothing to plot: the chart shows P-14, which was not measured.")
    import matplotlib as mpl
    from matplotlib.figure import Figure as Chart

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unimux"}):
        chart = Chart(figsize=(7, 4.2), layout="constrained")
        axes = chart.subplots()
        for (name, of), (marker, dashes) in zip(lines.items(), _STYLES * len(lines), strict=False):
            axes.plot(
                [x for x, _ in of], [y for _, y in of], marker=marker, linestyle=dashes, label=name.partition(",")[0]
            )
        axes.axhline(1.0, color="0.6", linewidth=0.8)
        axes.set(xscale="log", xlabel="times as many", ylabel="cost of one, relative to ×1")
        axes.set_ylim(bottom=0)
        axes.legend()
        try:
            chart.savefig(path)
        except OSError as error:
            raise _unwritten(path, error) from error
