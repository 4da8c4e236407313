"""What a benchmark yields: figures with a baseline and a goal, and the file that keeps those of a run."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, TextIO

import msgspec

from scenarios.revision import revision
from unimux.errors import SetupError

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = ("unimux", "uvloop", "cryptography", "pyroute2", "python-pytun")
"""Distributions whose versions a result names."""


@dataclass(frozen=True, slots=True)
class Goal:
    """What a figure is to reach: bounds of its value, or of its ratio to the baseline."""

    at_least: float | None = None
    at_most: float | None = None
    of_ratio: bool = False

    def met(self, value: float, ratio: float | None) -> bool | None:
        """Whether it is reached; None without a baseline where one is needed."""
        measured = ratio if self.of_ratio else value
        if measured is None:
            return None
        return (self.at_least is None or measured >= self.at_least) and (
            self.at_most is None or measured <= self.at_most
        )

    def __str__(self) -> str:
        sign, bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        return f"{sign} {bound:,g}" + (" × baseline" if self.of_ratio else "")


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a result.

    id: of the benchmark, P-1 …; one may yield several figures, told apart by `what`.  value: the median of `repeats`
    measurements, between `min` and `max`, in `unit`.  baseline: the median of the runs that took turns with them, in
    the same unit; ratio: value by baseline.  reach: the goal as text, None for a figure that has none; met: whether
    it is reached.  ratio_min, ratio_max: of each measurement by that of the baseline in the same turn; None without one, or in a
    result from before results had them.
    """

    id: str
    what: str
    value: float
    unit: str
    baseline: float | None
    ratio: float | None
    reach: str | None
    met: bool | None
    repeats: int
    min: float
    median: float
    max: float
    ratio_min: float | None = None
    ratio_max: float | None = None

    def facts(self) -> dict[str, object]:
        """What programs are told; the spread of the ratio is for comparisons alone."""
        return {name: getattr(self, name) for name in self.__struct_fields__ if not name.startswith("ratio_")}


def figure(
    id: str, what: str, unit: str, values: Sequence[float], baselines: Sequence[float] = (), goal: Goal | None = None
) -> Figure:
    """The figure of several measurements, and those of the baseline.

    >>> figure("P-1", "bulk", "Gbit/s", [1.0, 3.0, 2.0], [4.0, 4.0, 5.0], Goal(at_least=0.4, of_ratio=True)).ratio
    0.5
    """
    median = statistics.median(values)
    baseline = statistics.median(baselines) if baselines else None
    ratio = median / baseline if baseline else None
    in_turn = [value / of for value, of in zip(values, baselines, strict=True)] if baselines and all(baselines) else []
    return Figure(
        id=id,
        what=what,
        value=_short(median),
        unit=unit,
        baseline=None if baseline is None else _short(baseline),
        ratio=None if ratio is None else _short(ratio),
        reach=None if goal is None else str(goal),
        met=None if goal is None else goal.met(median, ratio),
        repeats=len(values),
        min=_short(min(values)),
        median=_short(median),
        max=_short(max(values)),
        ratio_min=_short(min(in_turn)) if in_turn else None,
        ratio_max=_short(max(in_turn)) if in_turn else None,
    )


def _short(number: float) -> float:
    """Four digits are more than any of this is good for."""
    return float(f"{number:.4g}")


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """Where and when a run took place; `load_before` and `load_after` are the machine's load averages over one minute.

    A load before the run above a few tenths says that others used the machine: the figures are noisy then.
    time_wait: the option of every row that names no other.
    commit: of the working copy that ran, None where it was none, or in a result from before results had it; changed: whether a
    file differed from that commit.
    """

    started: str
    versions: dict[str, str]
    system: str
    processors: int
    load_before: float
    load_after: float
    loop: str
    time_wait: str
    smoke: bool
    commit: str | None = None
    changed: bool = False

    def __str__(self) -> str:
        """What ran, and on what, in one line."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        code = "no commit known" if self.commit is None else f"commit {self.commit[:12]}"
        return (
            f"{versions}; {code}{', with files changed since' if self.changed else ''}; {self.processors} processors, "
            f"{self.system}; {self.loop}; TIME-WAIT {self.time_wait} where a row names no other."
        )

    @property
    def noisy(self) -> bool:
        """Whether the machine was busy before the run began."""
        return self.load_before > 0.5


@contextmanager
def writing(path: Path, mode: Literal["w", "a"] = "w") -> Iterator[TextIO]:
    """The file of a result, opened; raises `SetupError` where it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open(mode, encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise SetupError(
            f"The result cannot be written to {path}: {error.strerror}; name another file with --out."
        ) from error


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one run, as `--out` writes them."""

    circumstances: Circumstances
    figures: list[Figure]

    def write(self, path: Path) -> None:
        """Write the result as JSON, one figure per line, so that two files can be compared by eye as well.

        Raises `SetupError`.
        """
        rows = ",\n".join("  " + msgspec.json.encode(row).decode() for row in self.figures)
        head = msgspec.json.encode(self.circumstances).decode()
        with writing(path) as file:
            file.write(f'{{"circumstances": {head},\n"figures": [\n{rows}\n]}}\n')

    @classmethod
    def read(cls, path: Path) -> Result:
        """A result that `write` wrote; raises `SetupError`."""
        try:
            return msgspec.json.decode(path.read_bytes(), type=cls)
        except OSError as error:
            raise SetupError(
                f"{path} cannot be read: {error.strerror}; name a file that `unimux bench --out` wrote."
            ) from error
        except msgspec.DecodeError as error:
            raise SetupError(f"{path} is not a result of `unimux bench --out`: {error}.") from error


@dataclass(frozen=True, slots=True)
class Beginning:
    """What a run finds when it begins: the time, the machine's load, the commit and whether a file differs from it."""

    started: str
    load: float
    commit: str | None
    changed: bool

    @classmethod
    def now(cls) -> Beginning:
        """That of a run that begins now."""
        commit, changed = revision(ROOT)
        return cls(datetime.now(UTC).isoformat(timespec="seconds"), os.getloadavg()[0], commit, changed)


def circumstances(
    beginning: Beginning, loop: str, time_wait: str, smoke: bool, programs: dict[str, str]
) -> Circumstances:
    """Those of a run that has got as far as now; `programs` are versions of programs that took part."""
    versions = {"Python": sys.version.split()[0], "Linux": platform.release(), **programs}
    for name in DISTRIBUTIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return Circumstances(
        started=beginning.started,
        versions=versions,
        system=platform.machine(),
        processors=os.cpu_count() or 1,
        load_before=round(beginning.load, 2),
        load_after=round(os.getloadavg()[0], 2),
        loop=loop,
        time_wait=time_wait,
        smoke=smoke,
        commit=beginning.commit,
        changed=beginning.changed,
    )
