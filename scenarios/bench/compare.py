"""What changed between two results: the figures that both have side by side, and those that only one has."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .figures import Figure, Result

LOWER_IS_BETTER = frozenset({"ns", "µs", "ms", "s", "s/GB", "× the kernel's time", "B", "MiB", "% of a core"})
"""Units of costs; all others are of yields, unless their goal bounds them from above."""
_MARGIN = 0.05
_TIME_WAIT = re.compile(r",? TIME-WAIT (?P<option>[a-z]+)")


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in both results.  `by`: what the second is of the first; of the ratios to the baselines where both have one
    that was measured in the same run, since values of different moments are not comparable."""

    before: Figure
    after: Figure

    @property
    def of_ratio(self) -> bool:
        """Whether ratios are compared."""
        return bool(self.before.ratio and self.after.ratio)

    @property
    def by(self) -> float | None:
        """After by before; None where the figure before is 0."""
        if self.before.ratio and self.after.ratio:
            return self.after.ratio / self.before.ratio
        return self.after.value / self.before.value if self.before.value else None

    @property
    def verdict(self) -> str:
        """better, worse, same; or within, when the measurements of both overlap, or their ratios to the baselines.

        >>> from .figures import figure
        >>> Change(figure("P-6", "x", "1/s", [2.0]), figure("P-6", "x", "1/s", [1.0])).verdict
        'worse'
        >>> Change(figure("P-9", "x", "B", [2.0]), figure("P-9", "x", "B", [1.0])).verdict
        'better'
        """
        by = self.by
        if by is None:  # there was nothing before
            return "same" if not self.after.value else "worse" if self._is_cost else "better"
        if abs(by - 1) <= _MARGIN:
            return "same"
        (least, most), (low, high) = self._spread(self.before), self._spread(self.after)
        if least <= high and low <= most:
            return "within"
        return "better" if (by < 1) == self._is_cost else "worse"

    def _spread(self, row: Figure) -> tuple[float, float]:
        """Between what the measurements of a figure lie; of a ratio whose turns were not kept that is no more than itself."""
        if not self.of_ratio:
            return row.min, row.max
        assert row.ratio is not None
        if row.ratio_min is None or row.ratio_max is None:
            return row.ratio, row.ratio
        return row.ratio_min, row.ratio_max

    @property
    def regression(self) -> bool:
        """Whether a figure that has a goal got worse."""
        return self.verdict == "worse" and self.after.reach is not None

    @property
    def _is_cost(self) -> bool:
        """Whether less is better."""
        return self.before.unit in LOWER_IS_BETTER or (self.after.reach or self.before.reach or "").startswith("≤")


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two results.  changes: of the figures that both have; gone, new: the figures of the first and of the second alone."""

    changes: list[Change]
    gone: list[Figure]
    new: list[Figure]


def compare(before: Result, after: Result) -> Comparison:
    """Every figure of both results, each once."""
    known = {_name(each): each for each in before.figures}
    common: list[Change] = []
    new: list[Figure] = []
    for row in after.figures:
        old = known.get(_name(row))
        if old is None or not _alike(old, row):
            new.append(row)
        else:
            common.append(Change(old, row))
    met = {_name(each.before) for each in common}
    return Comparison(common, [each for each in before.figures if _name(each) not in met], new)


def _name(row: Figure) -> tuple[str, str]:
    return row.id, _TIME_WAIT.sub("", row.what)


def _alike(one: Figure, other: Figure) -> bool:
    """Whether two rows of one name had the same TIME-WAIT; one of an older result may not say which."""
    options = [found["option"] for each in (one, other) if (found := _TIME_WAIT.search(each.what))]
    return len(set(options)) <= 1
