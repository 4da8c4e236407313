"""What a scenario measures: samples by name, and what can be said about them.

A confidence interval is of the mean, 95 %, by Student's t.  It is honest for independent samples: repeats with other seeds are;
samples of one run often are not, which is why the table of a sweep has one value per run.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

_T_95 = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def t_95(degrees: int) -> float:
    """Student's t for a two-sided 95 % interval.

    >>> t_95(1), round(t_95(40), 3), round(t_95(10_000), 2)
    (12.706, 2.021, 1.96)
    """
    if degrees <= len(_T_95):
        return _T_95[max(degrees, 1) - 1]
    z = 1.959964  # Cornish–Fisher expansion around the normal quantile, exact to 0.001 here
    return z + (z**3 + z) / (4 * degrees) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * degrees**2)


def quantile(ordered: Sequence[float], share: float) -> float:
    """The quantile of sorted values, with linear interpolation.

    >>> quantile([1, 2, 3, 4], 0.5)
    2.5
    """
    at = (len(ordered) - 1) * share
    low = math.floor(at)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (at - low)


@dataclass(frozen=True, slots=True)
class Summary:
    """Of one set of samples; `low` and `high` bound the mean with 95 % confidence, and are the mean for a single sample.

    A single sample says nothing of how sure its mean is: `interval` is None then.
    """

    n: int
    mean: float
    low: float
    high: float
    deviation: float
    least: float
    median: float
    p95: float
    most: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Summary:
        """Of at least one sample.

        >>> Summary.of([1.0, 2.0, 3.0]).mean
        2.0
        """
        n = len(samples)
        mean = math.fsum(samples) / n
        deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in samples) / (n - 1)) if n > 1 else 0.0
        half = t_95(n - 1) * deviation / math.sqrt(n) if n > 1 else 0.0
        ordered = sorted(samples)
        middle, late = quantile(ordered, 0.5), quantile(ordered, 0.95)
        return cls(n, mean, mean - half, mean + half, deviation, ordered[0], middle, late, ordered[-1])

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bounds of the mean with 95 % confidence.

        >>> Summary.of([2.0]).interval is None, Summary.of([2.0, 2.0]).interval
        (True, (2.0, 2.0))
        """
        return (self.low, self.high) if self.n > 1 else None


Z_95, Z_999 = 1.959964, 3.290527
"""Quantiles of the normal distribution for two-sided intervals of 95 % and 99.9 %."""


def wilson(hits: int, tries: int, z: float = Z_95) -> tuple[float, float]:
    """The interval of a probability from so many hits in so many tries (Wilson), sound near 0 and 1, too; 95 % by default.

    >>> [round(bound, 3) for bound in wilson(0, 100)]
    [0.0, 0.037]
    """
    if not tries:
        return 0.0, 1.0
    share = hits / tries
    middle = (share + z * z / (2 * tries)) / (1 + z * z / tries)
    half = z / (1 + z * z / tries) * math.sqrt(share * (1 - share) / tries + z * z / (4 * tries * tries))
    return max(0.0, middle - half) if hits else 0.0, min(1.0, middle + half) if hits < tries else 1.0


MANY = 200
"""Hits and misses from which on the normal approximation serves."""


def exact(hits: int, tries: int, level: float = 0.999) -> tuple[float, float]:
    """The exact interval of a probability (Clopper and Pearson), for comparisons with theory, where few hits must not mislead.

    >>> [round(bound, 4) for bound in exact(3, 25, 0.95)]
    [0.0255, 0.3122]
    >>> exact(0, 10)[0], exact(10, 10)[1]
    (0.0, 1.0)
    """
    if min(hits, tries - hits) > MANY:
        return wilson(hits, tries, Z_999)
    if tries - hits < hits:
        low, high = exact(tries - hits, tries, level)
        return 1 - high, 1 - low
    share = (1 - level) / 2
    low = 0.0 if hits == 0 else _where(lambda p: 1 - _at_most(hits - 1, tries, p) > share)
    high = 1.0 if hits == tries else _where(lambda p: _at_most(hits, tries, p) < share)
    return low, high


def poisson(count: int, z: float = Z_999) -> tuple[float, float]:
    """The interval of a Poisson mean from one count, by the approximation of Wilson and Hilferty; 99.9 % by default.

    >>> [round(bound, 1) for bound in poisson(10, Z_95)]
    [4.8, 18.4]
    >>> poisson(0)[0]
    0.0
    """

    def bound(number: float, z: float) -> float:
        return number * (1 - 1 / (9 * number) + z / (3 * math.sqrt(number))) ** 3 if number else 0.0

    return max(bound(count, -z), 0.0), bound(count + 1, z)


def _at_most(hits: int, tries: int, probability: float) -> float:
    """The chance of at most so many hits."""
    if probability <= 0.0:
        return 1.0
    if probability >= 1.0:
        return float(hits >= tries)
    log_p, log_q = math.log(probability), math.log1p(-probability)
    # One factor after the other: of the factorials of many tries nothing precise is left when they are divided.
    ways = itertools.accumulate((math.log((tries - k) / (k + 1)) for k in range(hits)), initial=0.0)
    return math.fsum(math.exp(way + k * log_p + (tries - k) * log_q) for k, way in enumerate(ways))


def _where(begins: Callable[[float], bool]) -> float:
    """The least probability from which on something holds."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if begins(middle) else (middle, high)
    return high


def finite(what: str, value: object) -> float:
    """The value as a number; raises `ValueError` where it is none, or no finite one.

    >>> finite("setup", 3)
    3.0
    """
    try:
        number = math.nan if isinstance(value, str | bytes) else float(cast(float, value))
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{what} cannot be {value!r}: it takes a finite number")
    return number


@dataclass(slots=True)
class Metric:
    """One thing measured; `of` tells variants apart (an addressing, a victim), and may be empty."""

    name: str
    of: str
    unit: str
    samples: list[float] = field(default_factory=list)

    @property
    def column(self) -> str:
        """Its name in tables.

        >>> Metric("setup", "pool hit", "s").column
        'setup: pool hit'
        """
        return f"{self.name}: {self.of}" if self.of else self.name

    def as_dict(self) -> dict[str, object]:
        """For metrics.json."""
        about = Summary.of(self.samples)
        return {
            "name": self.name,
            "of": self.of,
            "unit": self.unit,
            "n": about.n,
            "mean": about.mean,
            "ci95": about.interval,
            "median": about.median,
            "p95": about.p95,
            "min": about.least,
            "max": about.most,
            "samples": self.samples,
        }


class Metrics:
    """All that one run measured, in the order of first mention."""

    def __init__(self) -> None:
        self._by_key: dict[tuple[str, str], Metric] = {}

    def add(self, name: str, value: float, unit: str, of: str) -> None:
        """One more sample; raises `ValueError` for what is no finite number, which neither a mean nor JSON can hold."""
        sample = finite(f"{name}: {of}" if of else name, value)
        metric = self._by_key.get((name, of))
        if metric is None:
            metric = self._by_key[name, of] = Metric(name, of, unit)
        elif metric.unit != unit:
            raise ValueError(f"{metric.column} was measured in {metric.unit!r} before, and now in {unit!r}")
        metric.samples.append(sample)

    def __iter__(self) -> Iterator[Metric]:
        return iter(self._by_key.values())

    def samples(self, name: str, of: str = "") -> list[float]:
        """The samples of one metric, empty if there are none."""
        metric = self._by_key.get((name, of))
        return metric.samples if metric else []

    def means(self) -> dict[str, float]:
        """One number per metric: its mean."""
        return {metric.column: Summary.of(metric.samples).mean for metric in self._by_key.values()}
