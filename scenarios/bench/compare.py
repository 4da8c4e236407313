"""What changed between two results: figures that both have, side by side."""

from __future__ import annotations

from dataclasses import dataclass

from .figures import Figure, Result

LOWER_IS_BETTER = frozenset({"ns", "µs", "ms", "s", "s/GB", "× the kernel's time", "B", "MiB", "% of a core"})
"""Units of costs; all others are of yields, unless their goal bounds them from above."""
_MARGIN = 0.05


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
        """better, worse, same; or within, when the measurements of both overlap.

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
        if not self.of_ratio and self.before.min <= self.after.max and self.after.min <= self.before.max:
            return "within"
        return "better" if (by < 1) == self._is_cost else "worse"

    @property
    def _is_cost(self) -> bool:
        """Whether less is better."""
        return self.before.unit in LOWER_IS_BETTER or (self.before.reach or "").startswith("≤")


def changes(before: Result, after: Result) -> list[Change]:
    """The figures that both results have."""
    known = {(each.id, each.what): each for each in before.figures}
    return [Change(known[row.id, row.what], row) for row in after.figures if (row.id, row.what) in known]
