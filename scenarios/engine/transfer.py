"""Figures of one connection as the wire shows it: goodput, and bytes in flight beside the congestion window.

Bytes are in flight from the segment that carries them to the acknowledgment, both as seen where the capture was taken: near
the opener for what it receives, a path away for what it sends.  The congestion window is on no wire; it is the sender's own
word, from its events, and drawn only where the sender is a unified node whose options ask for a trace.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path

from scenarios.witness import Connection
from scenarios.witness.flows import Side

from .charts import Chart, Curves, Point, thinned

SEGMENTS = 12
"""Data segments from which on a curve has something to say."""
BINS = 40
_WRAP, _HALF = 1 << 32, 1 << 31


@dataclass(slots=True)
class _Way:
    """One direction: highest byte sent and acknowledged, and how both grew."""

    side: Side
    sent: int = 0
    acked: int = 0
    segments: int = 0
    flight: list[Point] = field(default_factory=list)
    growth: list[tuple[float, int]] = field(default_factory=list)

    def near(self, value: int, last: int) -> int:
        """A sequence number as a count from this side's first, near the one before."""
        relative = (value - (self.side.isn or 0)) % _WRAP
        return last + (relative - last + _HALF) % _WRAP - _HALF


def transfer_charts(connection: Connection, events: Path) -> list[Chart]:
    """Goodput and window of a connection; nothing where it carried too little."""
    ways = _ways(connection)
    telling = {name: way for name, way in ways.items() if way.segments >= SEGMENTS and way.growth}
    if not telling:
        return []
    start = connection.syn.time
    goodput = {name: _goodput(way, start) for name, way in telling.items()}
    windows: dict[str, list[Point]] = {}
    for name, way in telling.items():
        windows[f"in flight {name}"] = thinned([(time - start, level / 1000) for time, level in _pairs(way.flight)])
        if trace := _congestion(events, way.side, connection):
            windows[f"cwnd {name}"] = thinned([(time - start, level / 1000) for time, level in trace])
    return [
        Curves(
            title=f"Goodput of connection {connection.number}",
            x="seconds since the SYN",
            y="Mbit/s acknowledged",
            series=goodput,
            steps=True,
        ),
        Curves(
            title=f"Window of connection {connection.number}",
            x="seconds since the SYN",
            y="kilobytes",
            series=windows,
            steps=True,
            caption="In flight: sent and not yet acknowledged, where the capture was taken. cwnd: the sender's own word.",
        ),
    ]


def _pairs(points: list[Point]) -> Iterator[tuple[float, float]]:
    return ((point[0], point[1]) for point in points)


def _ways(connection: Connection) -> dict[str, _Way]:
    ways = {"from the opener": _Way(connection.client), "from the accepter": _Way(connection.server)}
    by_address = {way.side.address: way for way in ways.values()}
    for frame in connection.frames:
        sender, receiver = connection.sides(frame)
        own, other = by_address[sender.address], by_address[receiver.address]
        if frame.payload:
            own.segments += 1
            own.sent = max(own.sent, own.near(frame.seq + frame.payload, own.sent))
            own.flight.append((frame.time, float(own.sent - max(own.acked, 1))))
        if other.side.isn is not None and other.segments:
            acked = other.near(frame.ack, other.acked)
            if other.acked < acked <= other.sent + 1:
                other.acked = acked
                other.growth.append((frame.time, acked))
                other.flight.append((frame.time, float(max(other.sent - acked, 0))))
    return ways


def _goodput(way: _Way, start: float) -> list[Point]:
    """Megabits per second acknowledged, in equal slices of the time in which anything was."""
    first, last = way.growth[0][0], way.growth[-1][0]
    width = max(last - first, 1e-6) / BINS
    slices = [0.0] * BINS
    before = 1
    for time, acked in way.growth:
        slices[min(int((time - first) / width), BINS - 1)] += acked - before
        before = acked
    points: list[Point] = [(first - start + i * width, octets * 8 / width / 1e6) for i, octets in enumerate(slices)]
    return [*points, (last - start, points[-1][1])]


def _congestion(events: Path, side: Side, connection: Connection) -> list[tuple[float, float]]:
    """(Unix seconds, bytes) of the congestion window of one end, by its events."""
    if not events.exists():
        return []
    pair = [str(IPv6Address(side.address)), str(IPv6Address(_other(connection, side).address))]
    who: tuple[str, int] | None = None
    found = []
    with events.open(encoding="utf-8") as file:
        for text in file:
            if '"congestion"' not in text and pair[0] not in text:
                continue
            said = json.loads(text)
            if said["event"] == "connection" and [said["local"], said["remote"]] == pair:
                who = said["node"], said["connection"]
            elif (
                said["event"] == "congestion" and (said["node"], said["connection"]) == who and said["cwnd"] is not None
            ):
                found.append((float(said["wall"]), float(said["cwnd"])))
    return found


def _other(connection: Connection, side: Side) -> Side:
    return connection.server if side is connection.client else connection.client
