"""The findings of a run together, and what ran it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import scenarios
from scenarios.revision import described
from scenarios.witness.finding import Finding, Verdict


@dataclass(frozen=True, slots=True)
class Verdicts:
    """The findings of a run: from captures, and from the script; `untouched` are rules that nothing in it concerned."""

    captured: list[Finding]
    claimed: list[Finding]
    untouched: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether there are findings and all are passes."""
        every = [*self.captured, *self.claimed]
        return bool(every) and all(finding.verdict is Verdict.PASSED for finding in every)


def versions() -> dict[str, str]:
    """What ran it; commit: that of a checkout, with `+` where a file of it differs."""
    found = {"unimux": version("unimux"), "python": platform.python_version()}
    if commit := _commit():
        found["commit"] = commit
    for package in ("cryptography", "matplotlib", "msgspec", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@cache
def _commit() -> str:
    return described(Path(scenarios.__file__).parents[1])
