"""What there is to say about single frames: gathered from lifetimes, connections, findings and the stack's events."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import Any

from .capture import read_file
from .claims import Claims, packed_or_none
from .evidence import Evidence
from .finding import Finding, Verdict, Witness
from .flows import Connection
from .frames import UNSPECIFIED, Advertisement, Frame, Kind, Solicitation, text
from .judge import Judgement
from .lifetimes import Lifetime, Phase, is_defence
from .rules.silence import probe_kind
from .setup import CaptureFile

Notes = dict[Witness, list[str]]

EVENT_REACH = 0.25
"""seconds between an event and the frame of its address to which it is attached"""


def collect(judgement: Judgement) -> Notes:
    """All notes by frame, in the order: findings that failed, lifetime, connection, events, what the frame is witness of."""
    notes: Notes = {}

    def note(frame: Frame | None, words: str) -> None:
        if frame is not None:
            notes.setdefault(Witness(frame.where, frame.file, frame.number), []).append(words)

    for finding in judgement.findings:
        if finding.verdict is Verdict.FAILED:
            _finding(notes, finding, f"FAILED {finding.rule}: {finding.sentence}")
    for life in judgement.lifetimes:
        for frame, words in _lifetime(life):
            note(frame, words)
    for connection in judgement.connections:
        for frame, words in _connection(connection):
            note(frame, words)
    if judgement.claims is not None:
        for frame, words in _events(judgement.evidence, judgement.claims):
            note(frame, words)
    for finding in judgement.findings:
        if finding.verdict is Verdict.PASSED:
            _finding(notes, finding, f"witness of: {finding.title or finding.rule}")
    return notes


def _finding(notes: Notes, finding: Finding, words: str) -> None:
    for witness in finding.witnesses:
        notes.setdefault(witness, []).append(words)


def _lifetime(life: Lifetime) -> Iterator[tuple[Frame | None, str]]:
    name, node = text(life.address), life.node.name
    yield life.join, f"{node} joins the solicited-node group of {name}"
    for number, probe in enumerate(life.probes, 1):
        dad_end = life.dad_end or probe.time
        yield probe, f"{name} TENTATIVE (probe {number} of {node}); UNCERTAIN {dad_end - probe.time:.3f} s from here"
    yield life.conflict, f"{name} is a duplicate: another owner answers"
    taken = life.taken
    for promotion in life.promotions:
        yield promotion, f"{name} PREFERRED: the promotion NA"
    if taken is not None and not life.promotions:
        yield taken, f"{name} PREFERRED: its first use, no promotion NA was seen"
    if life.traffic:
        yield life.traffic[0], f"first packet from {name}"
        yield life.traffic[-1], f"last packet from {name}"
    for frame in life.emissions:
        if is_defence(frame):
            yield frame, f"{name} is defended against a DAD probe"
    for frame in life.arrivals:
        phase = life.phase(frame)
        if phase is Phase.PREFERRED:
            continue
        asks = (
            "a DAD probe, to be answered" if _must_defend(frame, phase) else f"{probe_kind(frame)}: must meet silence"
        )
        yield frame, f"{name} is {phase}; {asks}"
    if life.leave is not None:
        lived = (
            f" after {life.leave.time - taken.time:.3f} s PREFERRED, {len(life.traffic)} packets sent"
            if taken
            else ", never used"
        )
        yield life.leave, f"{name} gone{lived}: {node} leaves its group"


def _must_defend(frame: Frame, phase: Phase) -> bool:
    return phase is Phase.UNCERTAIN and frame.kind is Kind.SOLICITATION and frame.src == UNSPECIFIED


def _connection(connection: Connection) -> Iterator[tuple[Frame | None, str]]:
    name = f"{'connection' if connection.established else 'attempt'} {connection.number}"
    yield connection.syn, f"{name}: {text(connection.client.address)} opens to {text(connection.server.address)}"
    if connection.established is not None:
        took = (connection.established.time - connection.syn.time) * 1000
        yield connection.established, f"{name}: established {took:.1f} ms after its SYN"
    for frame in connection.changes:
        yield frame, f"{name}: the ports change to {frame.sport} → {frame.dport}"
    for side in (connection.client, connection.server):
        yield side.fin, f"{name}: FIN of {text(side.address)} after {side.data:,} bytes"
        yield side.rst, f"{name}: reset by {text(side.address)}"
    yield connection.closed, f"{name}: both FINs acknowledged"


def _events(evidence: Evidence, claims: Claims) -> Iterator[tuple[Frame, str]]:
    """Each event of a one-time address, or of a session of one, beside a frame of its lifetime."""
    frames: dict[bytes, list[Frame]] = {}
    for life in evidence.lifetimes:
        own = [f for f in (life.join, life.leave, life.conflict) if f is not None]
        unique = {id(frame): frame for frame in own + life.probes + life.emissions + life.arrivals}
        frames[life.address] = sorted(unique.values(), key=lambda frame: frame.time)
    return _beside(frames, claims)


def beside(capture: CaptureFile, claims: Claims) -> dict[int, list[str]]:
    """The events of a run by the frames of one capture, where nobody has said who is who there.

    An event stands beside the frame that is nearest in time of those that name its address: as source, destination, or target
    of neighbour discovery.  Raises `CaptureError` where the file cannot be read.
    """
    frames: dict[bytes, list[Frame]] = {}
    _, _, captured = read_file(capture)
    for frame in captured:
        named = {frame.src, frame.dst}
        if isinstance(frame.message, Solicitation | Advertisement):
            named.add(frame.message.target)
        for address in named:
            frames.setdefault(address, []).append(frame)
    notes: dict[int, list[str]] = {}
    for frame, said in _beside(frames, claims):
        notes.setdefault(frame.number, []).append(said)
    return notes


def _beside(frames: dict[bytes, list[Frame]], claims: Claims) -> Iterator[tuple[Frame, str]]:
    """Each event with the frame of its address that is nearest in time; frames: by address, each in order of time."""
    for event in claims.events:
        for key in ("address", "local", "remote"):
            near = frames.get(packed_or_none(event.get(key)) or b"")
            if near:
                frame = _nearest(near, float(event["wall"]))
                said = _event_text(event)
                if frame is not None and said:
                    yield frame, said
                break


def _nearest(frames: list[Frame], wall: float) -> Frame | None:
    at = bisect_left(frames, wall, key=lambda frame: frame.time)
    best = min(frames[max(0, at - 1) : at + 1], key=lambda frame: abs(frame.time - wall))
    return best if abs(best.time - wall) <= EVENT_REACH else None


def _event_text(event: dict[str, Any]) -> str:
    """What the stack says at this moment; nothing for what is no change of state and says nothing of an address."""
    kind = str(event.get("event", "event"))
    who = f"{event['node']} says: " if event.get("node") else "the stack says: "
    if kind == "assigned":
        purpose = (("towards", "destination"), ("through", "front_end"), ("for", "who"), ("of", "service"))
        told = "".join(f" {word} {event[key]}" for word, key in purpose if event.get(key))
        return f"{who}address {event.get('address')} assigned{told}"
    if "new" not in event:
        return ""
    which = event.get(kind, "") if kind in ("address", "connection", "listener") else ""
    return f"{who}{kind} {which} {event.get('old', '')} → {event['new']} ({event.get('cause', '')})"
