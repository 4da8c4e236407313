"""One call from captures to findings."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from . import claims, tshark
from .evidence import Evidence, gather
from .finding import Finding, Verdict
from .flows import Connection
from .lifetimes import Lifetime
from .rules import RULES
from .setup import CaptureFile, Setup

TITLES = {
    **{rule.id: rule.title for rule in RULES},
    "second-opinion": "tshark finds nothing unexplained",
    "dissectors-agree": "Two dissectors read the same",
    "claims": "The events claim what the wire shows",
}
"""Every rule by id, in the order of a report."""


@dataclass(slots=True)
class Judgement:
    """The findings and what they rest on."""

    findings: list[Finding]
    evidence: Evidence
    claims: claims.Claims | None = None

    @property
    def lifetimes(self) -> list[Lifetime]:
        """Every one-time address, in order of birth."""
        return self.evidence.lifetimes

    @property
    def connections(self) -> list[Connection]:
        """Every connection and attempt of one-time addresses, in order of their SYNs."""
        return self.evidence.connections

    @property
    def passed(self) -> bool:
        """Whether every finding is a pass."""
        return bool(self.findings) and all(finding.verdict is Verdict.PASSED for finding in self.findings)


def judge(
    captures: Iterable[CaptureFile], setup: Setup, events: Iterable[Path] = (), *, consult_tshark: bool = True
) -> Judgement:
    """Judge the captures of one run.

    `events` are the nodes' event files; without them there is no rule `claims`.  `setup.rules` limits the rules.
    Raises `ValueError` when the setup contradicts itself (a node on a point without capture, a rule that does not
    exist) and `OSError` for an event file that cannot be opened; bad captures are findings.
    """
    unknown = set(setup.rules or ()) - TITLES.keys()
    if unknown:
        raise ValueError(f"no such rule: {', '.join(sorted(unknown))}")

    def asked(*ids: str) -> bool:
        return setup.rules is None or any(rule in setup.rules for rule in ids)

    files = tuple(captures)
    second = files if consult_tshark and asked("second-opinion", "dissectors-agree") else None
    with _without_collection(), tshark.Inquiry(second or ()) as inquiry:
        evidence = gather(files, setup)
        findings = [rule.judge(evidence) for rule in RULES if asked(rule.id)]
        if second is not None:
            findings += [finding for finding in inquiry.findings(evidence) if asked(finding.rule)]
        paths = list(events)
        stated = claims.read_events(paths) if paths else None
        if stated is not None and asked("claims"):
            findings.append(claims.compare(evidence, stated))
    return Judgement([replace(finding, title=TITLES[finding.rule]) for finding in findings], evidence, stated)


@contextmanager
def _without_collection() -> Iterator[None]:
    """Hundreds of thousands of records are made and all are kept: looking for cycles among them is wasted."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
