"""What the stack says of itself against what the wire shows.  Where they differ, the wire is right.

`events.jsonl` holds one JSON object per line.  Those with `"event": "address"` are claims: `wall` (Unix seconds),
`address`, `old`, `new`, `cause`.  Lines that cannot be read are counted, not raised.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from .evidence import Evidence
from .finding import Finding, count
from .frames import Frame, text
from .lifetimes import Lifetime
from .rules.addresses import Problem

_FIRST_PROBE_DELAY = 1.0
"""RFC 4862 §5.4.2: the first probe waits up to MAX_RTR_SOLICITATION_DELAY after the address was made"""


@dataclass(slots=True)
class Claims:
    """The events of a run."""

    events: list[dict[str, Any]] = field(default_factory=list)
    unreadable: int = 0


def packed_or_none(name: object) -> bytes | None:
    """The bytes of an address, None for text that is none."""
    try:
        return IPv6Address(str(name)).packed
    except ValueError:
        return None


def read_events(paths: Iterable[Path]) -> Claims:
    """The events of one or several JSON-lines files.  Raises `OSError` for a file that cannot be opened."""
    claims = Claims()
    for path in paths:
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if not line.strip():
                    continue
                try:
                    event = json.loads(line)
                    if not isinstance(event, dict):
                        raise TypeError
                    event["wall"] = float(event["wall"])
                except (ValueError, TypeError, KeyError):
                    claims.unreadable += 1
                    continue
                claims.events.append(event)
    claims.events.sort(key=lambda event: float(event["wall"]))
    return claims


def compare(evidence: Evidence, claims: Claims) -> Finding:
    """Every lifetime that the events claim is the one the wire shows, within the tolerance (UM-NODE-4)."""
    problems: list[Problem] = []
    compared = 0
    moves: dict[bytes, list[tuple[float, str, str, str]]] = {}
    for event in claims.events:
        address = packed_or_none(event.get("address")) if event.get("event") == "address" else None
        if address is not None:
            moves.setdefault(address, []).append((event["wall"], str(event.get("old")), str(event.get("new")), ""))
    for life in evidence.lifetimes:
        if life.node.dedicated:
            continue
        if life.address not in moves:
            problems.append((f"{text(life.address)} is on the wire, but no event speaks of it", life.born))
            continue
        for sentence, frame, matched in _differences(life, moves[life.address], evidence):
            compared += matched
            if sentence:
                problems.append((sentence, frame))
    problems += _never_seen(evidence, moves)
    if claims.unreadable:
        problems.append((f"{count(claims.unreadable, 'line')} of the events cannot be read", None))
    return evidence.finding(
        "claims",
        ("UM-NODE-4",),
        problems,
        f"{count(compared, 'claimed state change')} of {count(len(evidence.lifetimes), 'address', 'addresses')} "
        f"found on the wire within {evidence.setup.claim_tolerance:g} s",
        (),
        compared > 0,
        "there is no claimed state change to compare",
    )


def _differences(
    life: Lifetime, moves: list[tuple[float, str, str, str]], evidence: Evidence
) -> Iterator[tuple[str, Frame | None, int]]:
    """(difference or empty, witness, 1 when a claim was compared) for each state that both could speak of."""
    claimed = {new: wall for wall, _, new, _ in reversed(moves)}
    name, tolerance = text(life.address), evidence.setup.claim_tolerance
    taken, dad_end = life.taken, life.dad_end
    on_wire: list[tuple[str, float | None, Frame | None, float]] = [
        ("TENTATIVE", life.probes[0].time if life.probes else None, life.born, _FIRST_PROBE_DELAY),
        (
            "UNCERTAIN",
            None if taken is not None and dad_end is not None and taken.time < dad_end else dad_end,
            life.born,
            0,
        ),
        ("PREFERRED", taken.time if taken is not None else None, taken, 0),
        ("INVALID", life.leave.time if life.leave is not None else None, life.leave, 0),
    ]
    for state, seen, frame, early in on_wire:
        wall = claimed.get(state)
        if wall is None and seen is None:
            continue
        if state == "UNCERTAIN" and (wall is None or seen is None):
            if wall is not None and life.conflict is not None:
                yield f"{name}: UNCERTAIN claimed although DAD found another owner", life.conflict, 1
            continue
        if state == "INVALID" and (life.shares_group or (seen is None and wall is not None and not life.taken)):
            continue
        if wall is None:
            if state == "INVALID" and life.conflict is not None and "DUPLICATED" in claimed:
                continue
            yield f"{name}: {state} on the wire, never claimed", frame, 0
        elif seen is None:
            yield f"{name}: {state} claimed, not seen on the wire", frame, 1
        elif not -early - tolerance - life.node.delay <= wall - seen <= tolerance:
            yield (
                f"{name}: {state} claimed {abs(wall - seen):.2f} s {'after' if wall > seen else 'before'} the wire",
                frame,
                1,
            )
        else:
            yield "", None, 1


def _never_seen(evidence: Evidence, moves: dict[bytes, list[tuple[float, str, str, str]]]) -> Iterator[Problem]:
    known = {life.address for life in evidence.lifetimes}
    last = evidence.span[1]
    for address in sorted(moves.keys() - known):
        ours = any(not s.node.dedicated and s.member.in_prefix(address) for s in evidence.stories)
        reached = [new for wall, _, new, _ in moves[address] if wall < last - evidence.setup.retrans_timer]
        if ours and ("UNCERTAIN" in reached or "PREFERRED" in reached):
            yield f"{text(address)}: {reached[-1]} claimed, but the wire never saw the address", None
