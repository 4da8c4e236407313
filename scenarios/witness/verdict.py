"""The verdict table: for people (rich), for programs (JSON), and as an exit status."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from rich.markup import escape
from rich.table import Table

from .finding import Finding, Verdict, frames_text

_MARKS = {
    Verdict.PASSED: ("✔ passed", "green"),
    Verdict.FAILED: ("✘ FAILED", "bold red"),
    Verdict.NOT_SHOWN: ("– not shown", "yellow"),
}


def table(
    findings: Sequence[Finding], title: str = "Verdict from the captures", subject: str = "what the wire shows"
) -> Table:
    """A rich table: verdict, rule, what was found, and witness frames where any finding has some."""
    framed = any(finding.witnesses for finding in findings)
    shown = Table(title=title, title_justify="left", expand=True)
    shown.add_column("verdict", no_wrap=True)
    shown.add_column("rule", ratio=2)
    shown.add_column(subject, ratio=4)
    if framed:
        shown.add_column("witness frames", ratio=2, overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.verdict]
        shown.add_row(
            f"[{style}]{mark}[/]",
            escape(finding.title or finding.rule),
            escape(finding.sentence),
            *([escape(frames_text(finding.witnesses))] if framed else []),
        )
    return shown


def as_json(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """The findings as plain values for `json.dumps`."""
    return [
        {
            "rule": finding.rule,
            "title": finding.title,
            "requirements": list(finding.requirements),
            "verdict": finding.verdict.value,
            "sentence": finding.sentence,
            "witnesses": [witness._asdict() for witness in finding.witnesses],
            "details": list(finding.details),
        }
        for finding in findings
    ]


def summary(findings: Sequence[Finding]) -> str:
    """One line.

    >>> summary([Finding("checksums", (), Verdict.PASSED, ""), Finding("complete", (), Verdict.FAILED, "")])
    '1 passed, 1 failed, 0 not shown'
    """
    counted = Counter(finding.verdict for finding in findings)
    return ", ".join(f"{counted[verdict]} {verdict.value}" for verdict in Verdict)


def exit_status(findings: Sequence[Finding], may_be_missing: Collection[str] = ()) -> int:
    """0 only if there are findings and each passed; a rule in `may_be_missing` may also be `not shown`.

    >>> exit_status([])
    1
    """
    if not findings:
        return 1
    for finding in findings:
        excused = finding.verdict is Verdict.NOT_SHOWN and finding.rule in may_be_missing
        if finding.verdict is not Verdict.PASSED and not excused:
            return 1
    return 0
