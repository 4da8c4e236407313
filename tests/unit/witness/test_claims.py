"""The stack's events against the wire: the wire is right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scenarios.witness import Finding, Verdict

from .story import EA, EA0, IDLE, SETUP, SSA, SSA0, examine, good
from .wire import Wire

ONLY = replace(SETUP, rules=("claims",))


def honest(lan: Wire) -> list[dict[str, Any]]:
    """What a truthful node would have written."""
    times = {sent.tag: sent.time for sent in reversed(lan.frames)}
    events = []
    for name, address in (("ea", EA), ("ssa", SSA), ("ea0", EA0), ("ssa0", SSA0), ("idle", IDLE)):
        moves = [("INVALID", "TENTATIVE", times[f"probe:{name}"] - 0.4)]
        moves.append(("TENTATIVE", "UNCERTAIN", times[f"probe:{name}"] + 1.002))
        if name != "idle":
            moves.append(("UNCERTAIN", "PREFERRED", times[f"promotion:{name}"] - 0.0001))
        moves.append(("PREFERRED", "INVALID", times[f"leave:{name}"] - 0.0001))
        for old, new, wall in moves:
            events.append(
                {
                    "event": "address",
                    "time": wall - 1.7e9,
                    "wall": wall,
                    "address": address,
                    "old": old,
                    "new": new,
                    "cause": "x",
                }
            )
    return events


def claims(
    folder: Path, change: Callable[[list[dict[str, Any]]], None] = lambda events: None, extra: str = ""
) -> Finding:
    lan, far = good()
    events = honest(lan)
    change(events)
    path = folder / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + extra)
    (finding,) = examine(folder, lan, far, ONLY, events=(path,)).findings
    return finding


def of(events: list[dict[str, Any]], address: str, new: str) -> dict[str, Any]:
    return next(event for event in events if event["address"] == address and event["new"] == new)


def test_honest_events_agree(tmp_path: Path) -> None:
    finding = claims(tmp_path)
    assert finding.verdict is Verdict.PASSED
    assert "19 claimed state changes of 5 addresses" in finding.sentence


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda e: of(e, EA, "PREFERRED").update(wall=of(e, EA, "PREFERRED")["wall"] + 0.5),
            "PREFERRED claimed 0.50 s after the wire",
        ),
        (
            lambda e: of(e, EA, "INVALID").update(wall=of(e, EA, "INVALID")["wall"] - 0.3),
            "INVALID claimed 0.30 s before the wire",
        ),
        (
            lambda e: of(e, EA, "TENTATIVE").update(wall=of(e, EA, "TENTATIVE")["wall"] - 2),
            "TENTATIVE claimed 2.40 s before the wire",
        ),
        (
            lambda e: of(e, EA, "UNCERTAIN").update(wall=of(e, EA, "UNCERTAIN")["wall"] - 0.5),
            "UNCERTAIN claimed 0.50 s before",
        ),
        (lambda e: e.remove(of(e, SSA, "PREFERRED")), "PREFERRED on the wire, never claimed"),
        (lambda e: e.append({**of(e, EA, "PREFERRED"), "address": IDLE}), "PREFERRED claimed, not seen on the wire"),
        (lambda e: [e.remove(x) for x in list(e) if x["address"] == EA], "no event speaks of it"),
        (
            lambda e: e.append({**of(e, EA, "UNCERTAIN"), "address": "2001:db8:a::dead", "wall": e[0]["wall"]}),
            "the wire never saw the address",
        ),
    ],
    ids=[
        "late",
        "early",
        "long before the probe",
        "DAD cut short",
        "promotion hidden",
        "promotion invented",
        "an address hidden",
        "an address invented",
    ],
)
def test_dishonest_events_are_found(
    tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], sentence: str
) -> None:
    finding = claims(tmp_path, change)
    assert finding.verdict is Verdict.FAILED
    assert any(sentence in line for line in finding.details), finding.details


def test_unreadable_lines_are_counted(tmp_path: Path) -> None:
    finding = claims(tmp_path, extra='{"event": "address"\n[1]\n{"event": "link", "wall": "noon"}\n\n')
    assert finding.verdict is Verdict.FAILED
    assert finding.sentence == "3 lines of the events cannot be read"


def test_without_events_nothing_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("")
    lan, far = good()
    (finding,) = examine(tmp_path, lan, far, ONLY, events=(path,)).findings
    assert finding.verdict is Verdict.FAILED
    assert "no event speaks of it" in finding.sentence
