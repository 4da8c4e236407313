"""`report.html`: one self-contained page with the verdicts, the figures and the connections of a run.

No script, no font, no picture from elsewhere: the page can be mailed, archived and read offline.  It follows the
reader's light or dark setting, fits a phone, and prints.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import resources
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from scenarios.witness import Connection, Finding, Judgement, Verdict, annotate, as_json

from .lifetimes_figure import lifetimes_figure
from .sequence_figure import choose, sequence_figure

MOST_CONNECTIONS = 200


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page that a scenario adds; `body` is HTML, already escaped."""

    title: str
    body: Markup


@dataclass(frozen=True, slots=True)
class Report:
    """What a scenario has to say beside its judgement."""

    title: str
    judgement: Judgement
    lead: str = ""
    """one or two sentences: the question of the scenario and how it was run"""
    steps: Sequence[str] = ()
    """what ran, in order"""
    versions: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    """what a reader must know to judge the run: the TIME-WAIT option, a simulated peer"""
    other_findings: Sequence[Finding] = ()
    """findings that do not come from a capture (bytes compared, a listener's state asked by the API)"""
    connection: Connection | None = None
    """the connection of the sequence diagram; chosen when None"""
    sections: Sequence[Section] = ()
    """figures and tables of the scenario itself, before the verdict"""


def write_report(folder: Path, report: Report) -> Path:
    """Write the report folder and return the path of `report.html`.

    Beside it: `capture-*.pcapng` (annotated), `lifetimes` and `sequence` as .svg and .pdf, `findings.json`.  Raises `OSError`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    annotated = annotate(report.judgement, folder)
    connection = report.connection or choose(report.judgement)
    _save(folder / "lifetimes", lifetimes_figure(report.judgement))
    if connection is not None:
        _save(folder / "sequence", sequence_figure(connection, report.judgement))
    findings = [*report.judgement.findings, *report.other_findings]
    text = json.dumps(as_json(findings), indent=1, ensure_ascii=False)
    (folder / "findings.json").write_text(text + "\n", encoding="utf-8")
    page = folder / "report.html"
    page.write_text(html(report, [path.name for path in annotated]), encoding="utf-8")
    return page


def _save(stem: Path, figure: str) -> None:
    from .pdf import pdf  # matplotlib takes its time to be imported

    stem.with_suffix(".svg").write_text(figure, encoding="utf-8")
    stem.with_suffix(".pdf").write_bytes(pdf(figure))


def html(report: Report, annotated: Sequence[str] = ()) -> str:
    """The page as text; `annotated` are the file names of annotated captures beside it."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    source = resources.files(__package__)
    template = environment.from_string((source / "report.html.j2").read_text(encoding="utf-8"))
    style = (source / "report.css").read_text(encoding="utf-8")
    judgement = report.judgement
    connection = report.connection or choose(judgement)
    begin, end = judgement.evidence.span
    return template.render(
        report=report,
        style=Markup(style),
        counts=_counts([*judgement.findings, *report.other_findings]),
        when=datetime.fromtimestamp(begin, UTC).strftime("%d %B %Y, %H:%M:%S UTC") if begin else "nothing captured",
        duration=f"{end - begin:.1f} s",
        lifetimes_wide=Markup(lifetimes_figure(judgement, 1120, "wide")),
        lifetimes_narrow=Markup(lifetimes_figure(judgement, 360, "narrow")),
        sequence_wide=Markup(sequence_figure(connection, judgement, 760)) if connection else "",
        sequence_narrow=Markup(sequence_figure(connection, judgement, 360)) if connection else "",
        chosen=connection,
        rows=[_row(c, judgement) for c in judgement.connections[:MOST_CONNECTIONS]],
        more_connections=max(0, len(judgement.connections) - MOST_CONNECTIONS),
        captures=_captures(judgement, annotated),
    )


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {verdict.value.replace(" ", "-"): sum(f.verdict is verdict for f in findings) for verdict in Verdict}


def _row(connection: Connection, judgement: Judgement) -> dict[str, Any]:
    established, last = connection.established, connection.last or connection.syn
    outcome = "complete" if connection.complete else connection.why_incomplete()
    ports = f"{connection.syn.sport} → {connection.syn.dport}"
    return {
        "number": connection.number,
        "opener": str(IPv6Address(connection.client.address)),
        "accepter": str(IPv6Address(connection.server.address)),
        "ports": ports + (f" ({len(connection.changes)} changes)" if connection.changes else ""),
        "handshake": f"{(established.time - connection.syn.time) * 1000:.1f} ms" if established else "–",
        "up": f"{connection.client.data:,}" if established else "–",
        "down": f"{connection.server.data:,}" if established else "–",
        "duration": f"{last.time - connection.syn.time:.3f} s",
        "outcome": outcome,
        "good": connection.complete or connection.syn_ack is None,
        "frame": f"{connection.syn.file}#{connection.syn.number}",
    }


def _captures(judgement: Judgement, annotated: Sequence[str]) -> list[dict[str, Any]]:
    rows = []
    for capture in judgement.evidence.captures:
        point = judgement.evidence.points[capture.where]
        stem = capture.path.stem.removeprefix("capture-")
        names = [name for name in annotated if name in (f"capture-{stem}.pcapng", f"capture-{stem}-annotated.pcapng")]
        rows.append(
            {
                "where": capture.where,
                "file": capture.path.name,
                "frames": f"{sum(frame.file == capture.path.name for frame in point.frames):,}",
                "offload": "off" if capture.offload_free else "on: exempt from checksums and size",
                "annotated": names[-1] if names else "",
            }
        )
    return rows
