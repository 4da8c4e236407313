"""The sequence diagram of one connection: the life of both addresses and every segment that matters.

Rows are in the order of the capture, not to scale in time; long runs of data and acknowledgements are one row that
counts them.  A lifeline is thin while its address is reserved and thick while it is PREFERRED.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address

from scenarios.witness import Connection, Judgement, Lifetime
from scenarios.witness.frames import FIN, RST, SYN, Frame, Kind, flags_text

from .palette import STYLE
from .svg import figure, line, path, rect, words

_ROW = 30
_SHOWN = 6
"""segments of a run of data that keep a row of their own, at its beginning"""
_CHANGES_SHOWN = 4
"""port changes that keep a row of their own"""


@dataclass(slots=True)
class Step:
    """One row of the diagram."""

    time: float
    kind: str
    """`segment`, `run` or `note`"""
    label: str
    second: str = ""
    leftward: bool = False
    of_client: bool = True
    frames: list[Frame] = field(default_factory=list)

    @property
    def order(self) -> int:
        """Its place in the capture among rows of one time; what no frame marks comes first."""
        return self.frames[0].order if self.frames else -1


def choose(judgement: Judgement) -> Connection | None:
    """The most telling connection: one whose ports change, else a complete one with the most kinds of ends."""
    whole = [connection for connection in judgement.connections if connection.complete]
    changing = [connection for connection in whole if connection.changes]
    candidates = changing or whole or [c for c in judgement.connections if c.established] or judgement.connections
    return candidates[0] if candidates else None


def steps_of(connection: Connection, judgement: Judgement) -> list[Step]:
    """The rows: notes on both addresses and segments, in order of the capture."""
    steps = list(_segments(connection))
    for address, of_client in ((connection.client.address, True), (connection.server.address, False)):
        life = judgement.evidence.lifetime(address)
        if life is not None:
            steps += _notes(life, of_client)
    return sorted(steps, key=lambda step: (step.time, step.order))


def _notes(life: Lifetime, of_client: bool) -> Iterator[Step]:
    if life.probes:
        yield _note(life.probes[0], "DAD probe", "TENTATIVE", of_client)
    if life.dad_end is not None and life.taken is not None and life.dad_end < life.taken.time:
        yield Step(life.dad_end, "note", "DAD passed", "UNCERTAIN", of_client=of_client)
    if life.promotions:
        yield _note(life.promotions[0], "promotion NA", "PREFERRED", of_client)
    if life.leave is not None:
        yield _note(life.leave, "group left", "gone", of_client)


def _note(frame: Frame, label: str, state: str, of_client: bool) -> Step:
    return Step(frame.time, "note", label, state, of_client=of_client, frames=[frame])


def _segments(connection: Connection) -> Iterator[Step]:
    changes = {id(frame) for frame in connection.changes}
    told = {id(frame) for frame in connection.changes[:_CHANGES_SHOWN]}
    run: list[Frame] = []
    alone = 0
    for frame in connection.frames:
        marked = bool(frame.flags & (SYN | FIN | RST)) or id(frame) in told or frame is connection.established
        marked = marked or frame is connection.closed
        if marked or (alone < _SHOWN and not run):
            yield from _run(run, connection, changes)
            run = []
            alone = 0 if marked else alone + 1
            yield _segment(frame, connection, id(frame) in changes)
        else:
            run.append(frame)
    yield from _run(run, connection, changes)


def _segment(frame: Frame, connection: Connection, changed: bool) -> Step:
    sender, receiver = connection.sides(frame)
    parts = [flags_text(frame.flags).replace("PSH,", "")]
    if frame.payload:
        parts.append(f"{frame.payload:,} bytes")
    if not frame.flags & SYN:
        parts.append(f"seq {(frame.seq - (sender.isn or 0)) % (1 << 32):,}")
    if receiver.isn is not None and frame.flags & 16:
        parts.append(f"ack {(frame.ack - receiver.isn) % (1 << 32):,}")
    ports = f"ports {frame.sport} → {frame.dport}" if changed or frame.flags & SYN else ""
    if changed:
        ports += ", changed"
    return Step(frame.time, "segment", " · ".join(parts), ports, sender is connection.server, frames=[frame])


def _run(frames: list[Frame], connection: Connection, changes: set[int]) -> Iterator[Step]:
    if len(frames) == 1:
        yield _segment(frames[0], connection, id(frames[0]) in changes)
    elif frames:
        up = sum(frame.payload for frame in frames if frame.src == connection.client.address)
        down = sum(frame.payload for frame in frames) - up
        changed = sum(id(frame) in changes for frame in frames)
        label = f"{len(frames):,} more segments"
        if changed:
            label += f", {changed:,} on other ports"
        carried = f"→ {up:,} and ← {down:,} bytes in {frames[-1].time - frames[0].time:.3f} s"
        yield Step(frames[0].time, "run", label, carried, frames=frames)


def sequence_figure(connection: Connection, judgement: Judgement, width: int = 760) -> str:
    """The diagram as SVG text.  Below 600 px of `width` times stand above the arrows, for phones."""
    narrow = width < 600
    left, right = (44.0, width - 44.0) if narrow else (190.0, width - 132.0)
    begin = judgement.evidence.span[0]
    steps = steps_of(connection, judgement)
    content = _heads(connection, judgement, left, right, width, narrow)
    y = 84.0 if narrow else 64.0
    placed: list[tuple[Step, float]] = []
    for step in steps:
        placed.append((step, y))
        tall = step.kind != "note" and (narrow or bool(step.second))
        y += _ROW + (6 if tall else -4)
    content += _lifelines(connection, judgement, placed, (left, right), (64.0 if narrow else 44.0, y))
    for step, at in placed:
        content += _draw(step, at, left, right, begin, narrow)
    title = f"Connection {connection.number}, segment by segment"
    return figure(width, y + 10, title, STYLE, content, "sequence")


def _heads(
    connection: Connection, judgement: Judgement, left: float, right: float, width: int, narrow: bool
) -> list[str]:
    """Who stands at which line; on a phone one below the other, since two addresses do not fit side by side."""
    heads = []
    for x, address, role in ((left, connection.client.address, "opens"), (right, connection.server.address, "accepts")):
        life = judgement.evidence.lifetime(address)
        who = f"{life.node.name} {role}" if life is not None else f"legacy host {role}"
        anchor, y = "middle", 16.0
        if narrow:
            anchor, x, y = ("start", 4.0, 14.0) if x == left else ("end", width - 4.0, 42.0)
        heads.append(words(x, y, who, class_="strong", text_anchor=anchor))
        heads.append(words(x, y + 15, str(IPv6Address(address)), class_="mono", text_anchor=anchor))
    return heads


def _lifelines(
    connection: Connection,
    judgement: Judgement,
    placed: list[tuple[Step, float]],
    places: tuple[float, float],
    span: tuple[float, float],
) -> list[str]:
    """Thin from the first row on, thick between the promotion and the leave; a legacy end is one grey line."""
    lines = []
    top, end = span
    for x, address, of_client in zip(places, connection.pair, (True, False), strict=True):
        own = {step.label: y for step, y in placed if step.kind == "note" and step.of_client == of_client}
        lines.append(line(x, top, x, end, class_="grid"))
        if judgement.evidence.lifetime(address) is None:
            lines.append(line(x, top, x, end, style="stroke:var(--soft);stroke-width:2"))
            continue
        thick, until = own.get("promotion NA", top), own.get("group left", end)
        if "DAD probe" in own:
            start = own["DAD probe"] + 4
            lines.append(line(x, start, x, thick, class_="dashed", style="stroke:var(--uncertain);stroke-width:2"))
        lines.append(line(x, thick, x, until, style="stroke:var(--preferred);stroke-width:5"))
    return lines


def _draw(step: Step, y: float, left: float, right: float, begin: float, narrow: bool) -> Iterator[str]:
    stamp = f"{step.time - begin:.3f} s"
    if not narrow:
        yield words(8, y + 4, stamp, class_="soft mono")
    if step.kind == "note":
        x, anchor, away = (left, "start", 12) if step.of_client else (right, "end", -12)
        label = f"{step.label}: {step.second}" + (f" ({stamp})" if narrow else "")
        yield rect(x - 4, y - 4, 8, 8, style="fill:var(--paper);stroke:var(--ink);stroke-width:1.5")
        yield words(x + away, y + 4, label, class_="halo", text_anchor=anchor)
        return
    middle = (left + right) / 2
    second = ", ".join(part for part in (step.second, stamp) if part) if narrow else step.second
    if step.kind == "run":
        yield rect(left + 20, y - 12, right - left - 40, 24, style="fill:var(--paper);stroke:var(--grid)")
        yield words(middle, y - 2, step.label, class_="soft", text_anchor="middle")
        yield words(middle, y + 9, step.second, class_="soft", text_anchor="middle")
        return
    start, tip, back = (right - 3, left + 3, 7) if step.leftward else (left + 3, right - 3, -7)
    yield line(start, y, tip, y, class_="ink")
    yield path(f"M{tip:.1f} {y:.1f}l{back} -4v8z", class_="arrowhead")
    numbers = ", ".join(f"{frame.file}#{frame.number}" for frame in step.frames if frame.kind is Kind.TCP)
    yield words(middle, y - 4, step.label, numbers, class_="halo", text_anchor="middle")
    yield words(middle, y + 12, second, class_="soft halo", text_anchor="middle")
