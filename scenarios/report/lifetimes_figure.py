"""The figure of address lifetimes: one bar per address over time, each state with its colour, pattern and name.

Up to `MOST_ROWS` addresses have a bar each.  Where there are more, those that were never taken are bundled into one taller
bar per node; where even the taken ones are more, all are bundled into about `BUNDLES` bars, neighbours in time with the
same node and role together.  Such a bar shows how many of its addresses were in which state, stacked.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address

from scenarios.witness import Interval, Judgement, Lifetime

from .palette import STATES, STYLE, fill, patterns
from .svg import figure, line, nice_step, path, rect, seconds, words

MOST_ROWS = 60
BUNDLES = 14
_BAR, _BUNDLE, _GAP, _HEAD = 16, 40, 7, 24
_THINNEST = 3
_CHARACTER = 6.4
"""width of a character of the labels, roughly"""


@dataclass(slots=True)
class Row:
    """One bar: an address, or several."""

    label: str
    role: str
    hint: str
    lives: list[Lifetime]

    @property
    def height(self) -> int:
        """Pixels of its bar."""
        return _BAR if len(self.lives) == 1 else _BUNDLE


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps Unix time to x; `zero` is where its labels count from: the beginning of the capture, as everywhere."""

    zero: float
    begin: float
    end: float
    left: float
    right: float

    def x(self, time: float) -> float:
        """The x of a time, kept inside the figure."""
        span = max(1e-9, self.end - self.begin)
        return self.left + (min(max(time, self.begin), self.end) - self.begin) / span * (self.right - self.left)


def identifier(address: bytes) -> str:
    """The 64-bit interface identifier as it stands in the address's text, so that who searches for it finds both.

    >>> identifier(IPv6Address("2001:db8:1:0:9118:befa:0fb0:f4c1").packed)
    '9118:befa:fb0:f4c1'
    >>> identifier(IPv6Address("2001:db8::1:e1").packed), identifier(IPv6Address("2001:db8:1:2:3::4").packed)
    ('::1:e1', '3::4')
    """
    head, gap, tail = str(IPv6Address(address)).partition("::")
    if gap and tail.count(":") < 3:
        return ":".join(head.split(":")[4:]) + gap + tail
    return ":".join((tail or head).split(":")[-4:])


def rows_of(judgement: Judgement, most: int = MOST_ROWS) -> list[tuple[str, list[Row]]]:
    """The rows under a heading per node.

    Where there are more addresses than `most`, those that were never taken are bundled, one bar per node; where even the
    taken ones are more, all are.
    """
    lives = judgement.lifetimes
    opened = {c.client.address for c in judgement.connections}
    served = {c.server.address for c in judgement.connections if c.syn_ack is not None}
    taken = sum(life.taken is not None for life in lives)
    sizes = {True: 1, False: 1 if len(lives) <= most else len(lives)}
    if taken > most:
        sizes = dict.fromkeys(sizes, math.ceil(len(lives) / BUNDLES))
    groups: dict[str, list[Row]] = {}
    for life in lives:
        role = (
            "EA"
            if life.address in opened
            else "SSA"
            if life.address in served
            else "taken"
            if life.taken
            else "reserved"
        )
        rows = groups.setdefault(f"{life.node.name} · {', '.join(life.node.prefixes)}", [])
        size = sizes[life.taken is not None]
        unfilled = next((row for row in reversed(rows) if row.role == role and len(row.lives) < size), None)
        if unfilled is not None:
            unfilled.lives.append(life)
        else:
            rows.append(Row(identifier(life.address), role, str(IPv6Address(life.address)), [life]))
    for rows in groups.values():
        if len(lives) > most:
            rows.sort(key=lambda row: (row.role == "reserved", row.role if taken > most else ""))
        for row in rows:
            if len(row.lives) > 1:
                row.hint = f"{len(row.lives)} addresses from {row.hint} to {IPv6Address(row.lives[-1].address)}"
                row.label = f"{len(row.lives)} addresses"
    return list(groups.items())


def lifetimes_figure(judgement: Judgement, width: int = 960, prefix: str = "life") -> str:
    """The figure as SVG text.  Below 600 px of `width` the labels stand above the bars, for phones."""
    groups = rows_of(judgement)
    narrow = width < 600
    begin, end = _span(judgement)
    scale = Scale(judgement.evidence.span[0], begin, end, 8 if narrow else 212, width - 14)
    content = [patterns(prefix), rect(0, 0, width, 10, style="fill:none")]
    y = _legend(content, prefix, width)
    top = y + 20
    y = top + 6
    bars: list[str] = []
    for heading, rows in groups:
        y += _HEAD
        bars.append(words(8, y - 7, heading, class_="strong halo"))
        for row in rows:
            bars += _row(row, scale, y, prefix, narrow, judgement)
            y += row.height + _GAP + (13 if narrow else 0)
    if not groups:
        y += _HEAD
        bars.append(words(8, y, "No one-time address was seen.", class_="soft"))
    content += _axis(scale, top, y + 2, narrow)
    content += bars
    title = f"Lifetimes of {len(judgement.lifetimes)} one-time addresses, recomputed from the wire"
    return figure(width, y + 14, title, STYLE, content, "lifetimes")


def _span(judgement: Judgement) -> tuple[float, float]:
    begin, end = judgement.evidence.span
    born = [life.born.time for life in judgement.lifetimes if life.born is not None]
    ends = [life.end(end) for life in judgement.lifetimes]
    if not born:
        return begin, max(end, begin + 1)
    margin = max(0.05, (max(ends) - min(born)) * 0.02)
    return min(born) - margin, max(ends) + margin


def _legend(content: list[str], prefix: str, width: int) -> float:
    """State names with their fills, wrapped to the width; returns the y below."""
    entries = [
        (
            state,
            {"TENTATIVE": "DAD under way", "UNCERTAIN": "reserved, defended, else silent", "PREFERRED": "in use"}.get(
                state, ""
            ),
        )
        for state in STATES[:3]
    ]
    x, y = 8.0, 8.0
    for state, meaning in entries:
        label = f"{state}: {meaning}"
        needed = 26 + len(label) * _CHARACTER + 12
        if x + needed > width and x > 8:
            x, y = 8.0, y + 20
        content.append(rect(x, y, 20, 12, fill=fill(prefix, state), class_="edge"))
        content.append(words(x + 26, y + 10, label))
        x += needed
    label = "│ first and last packet"
    if x + len(label) * _CHARACTER > width:
        x, y = 8.0, y + 20
    content.append(words(x, y + 10, label))
    return y + 16


def _axis(scale: Scale, top: float, bottom: float, narrow: bool) -> list[str]:
    step = nice_step(scale.end - scale.begin, 5 if narrow else 12)
    marks = []
    tick = math.ceil((scale.begin - scale.zero) / step) * step
    while tick <= scale.end - scale.zero + 1e-9:
        x = scale.x(scale.zero + tick)
        marks.append(line(x, top, x, bottom, class_="grid"))
        anchor = "start" if x < scale.left + 10 else "end" if x > scale.right - 16 else "middle"
        marks.append(words(x, top - 4, seconds(tick, step), class_="soft", text_anchor=anchor))
        tick += step
    return marks


def _row(row: Row, scale: Scale, y: float, prefix: str, narrow: bool, judgement: Judgement) -> Iterator[str]:
    if narrow:
        yield words(8, y + 9, row.label, row.hint, class_="mono halo")
        yield words(8 + 21 * 6.4, y + 9, row.role, class_="soft halo")
        y += 13
    else:
        baseline = y + row.height / 2 + 4
        yield words(8, baseline, row.label, row.hint, class_="mono")
        yield words(204, baseline, row.role, class_="soft", text_anchor="end")
    capture_end = judgement.evidence.span[1]
    if len(row.lives) > 1:
        yield from _bundle(row, scale, y, prefix, capture_end)
    else:
        yield from _bar(row.lives[0], scale, y, prefix, capture_end)


def _bar(life: Lifetime, scale: Scale, y: float, prefix: str, capture_end: float) -> Iterator[str]:
    intervals = life.intervals(capture_end)
    name = str(IPv6Address(life.address))
    for interval in intervals:
        x, until = scale.x(interval.begin), scale.x(interval.end)
        until = max(until, x + _THINNEST)  # however short, it was there
        hint = f"{name} {interval.phase} for {interval.end - interval.begin:.3f} s"
        yield rect(x, y, until - x, _BAR, hint, fill=fill(prefix, interval.phase), class_="edge")
        yield from _name(interval, x, until, y)
    for frame in (life.traffic[:1] + life.traffic[-1:]) if life.traffic else []:
        x = scale.x(frame.time)
        yield line(x, y - 3, x, y + _BAR + 3, class_="mark")
    if intervals and life.leave is None and life.closed_at is None:
        x = scale.x(intervals[-1].end)
        yield path(f"M{x + 1:.1f} {y + 3} l7 5 l-7 5 z", "still there when the capture ended", class_="arrowhead")


def _name(interval: Interval, x: float, until: float, y: float) -> Iterator[str]:
    phase = interval.phase.value
    style = "on-preferred" if phase == "PREFERRED" else "halo"
    for label in (phase, phase[0]):
        if until - x >= len(label) * 7.2 + 8:
            yield words((x + until) / 2, y + 12, label, class_=f"strong {style}", text_anchor="middle")
            return


def _bundle(row: Row, scale: Scale, y: float, prefix: str, capture_end: float) -> Iterator[str]:
    """How many addresses of the row were in which state, stacked over the height of the bar."""
    intervals = [interval for life in row.lives for interval in life.intervals(capture_end)]
    height = _BUNDLE / len(row.lives)
    times = sorted({time for interval in intervals for time in (interval.begin, interval.end)})
    below = [0] * max(0, len(times) - 1)
    for state in ("PREFERRED", "UNCERTAIN", "TENTATIVE", "DUPLICATED"):
        shape = []
        counts = _counts([i for i in intervals if i.phase.value == state], times)
        for index, number in enumerate(counts):
            if number:
                x, until = scale.x(times[index]), scale.x(times[index + 1])
                high, low = y + _BUNDLE - (below[index] + number) * height, y + _BUNDLE - below[index] * height
                shape.append(f"M{x:.1f} {high:.1f}H{until:.1f}V{low:.1f}H{x:.1f}z")
            below[index] += number
        if shape:
            hint = f"{row.hint}: at most {max(counts)} {state} at once"
            yield path("".join(shape), hint, fill=fill(prefix, state))
    if times:
        yield line(scale.x(times[0]), y + _BUNDLE, scale.x(times[-1]), y + _BUNDLE, class_="mark")


def _counts(intervals: Sequence[Interval], times: list[float]) -> list[int]:
    place = {time: index for index, time in enumerate(times)}
    change = [0] * (len(times) + 1)
    for interval in intervals:
        change[place[interval.begin]] += 1
        change[place[interval.end]] -= 1
    counts, total = [], 0
    for index in range(max(0, len(times) - 1)):
        total += change[index]
        counts.append(total)
    return counts
