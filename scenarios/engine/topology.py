"""The network of a run as a figure: LANs with their prefixes, the router with what its cables do to frames, and who is where."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from scenarios.report.palette import STYLE
from scenarios.report.svg import figure, line, rect, words
from tapstack.link.impairment import NONE, Impairment

from .charts import number, seconds
from .network import Lan

MOST = 3
"""Neighbours of one kind, named alike, that get a box each; more of them share one."""
_BOX, _TALL, _GAP = 172, 38, 12


@dataclass(frozen=True, slots=True)
class Place:
    """Somebody on a LAN.  kind: what it is, in a few words."""

    lan: str
    name: str
    kind: str


@dataclass(slots=True)
class Topology:
    """What was declared and who came; LANs in their order."""

    lans: list[Lan] = field(default_factory=list)
    routed: tuple[str, ...] = ()
    places: list[Place] = field(default_factory=list)

    def as_dicts(self) -> list[dict[str, object]]:
        """For metrics.json: each LAN with who is on it."""
        return [
            {
                "lan": lan.name,
                "prefix": lan.prefix,
                "who": [f"{name} ({kind})" for name, kind in boxes([p for p in self.places if p.lan == lan.name])],
            }
            for lan in self.lans
        ]


def impairment_text(impair: Impairment) -> str:
    """What a cable does to frames, in words.

    >>> impairment_text(Impairment(loss=0.01, delay=0.02, rate=50e6))
    '20 ms, loss 1 %, 50 Mbit/s'
    """
    said = []
    if impair.delay or impair.jitter:
        said.append(seconds(impair.delay) + (f" ± {seconds(impair.jitter)}" if impair.jitter else ""))
    for name, value in (
        ("loss", impair.loss),
        ("reordering", impair.reorder),
        ("duplication", impair.duplicate),
        ("corruption", impair.corrupt),
    ):
        if value:
            said.append(f"{name} {number(100 * value)} %")
    if impair.rate is not None:
        said.append(f"{number(impair.rate / 1e6)} Mbit/s")
    return ", ".join(said)


def topology_figure(topology: Topology, width: int = 760) -> str:
    """The figure as SVG text."""
    narrow = width < 600
    left = 80 if narrow else 96
    per_row = max(1, (width - left - _GAP) // (_BOX + _GAP))
    content: list[str] = []
    y = 8.0
    buses = []
    for lan in topology.lans:
        labels = _labels(lan, routed=lan.name in topology.routed, narrow=narrow)
        content += [
            words(left + 10, y + 10 + 15 * row, text, class_="soft" if row else "strong")
            for row, text in enumerate(labels)
        ]
        y += 5 + 15 * len(labels)
        bus = y
        buses.append((bus, lan.name in topology.routed))
        content.append(line(left, bus, width - 8, bus, class_="ink", style="stroke-width:3"))
        here = boxes([place for place in topology.places if place.lan == lan.name])
        for index, (name, kind) in enumerate(here):
            row, column = divmod(index, per_row)
            x, top = left + _GAP + column * (_BOX + _GAP), bus + _GAP + row * (_TALL + 8)
            content.append(line(x + 14, bus if row == 0 else top - 8, x + 14, top, class_="ink"))
            content.append(rect(x, top, _BOX, _TALL, style="fill:var(--paper);stroke:var(--ink);stroke-width:1.2"))
            content.append(words(x + 8, top + 16, name, class_="strong"))
            content.append(words(x + 8, top + 31, kind, class_="soft"))
        y = bus + _GAP + ((len(here) + per_row - 1) // per_row) * (_TALL + 8) + 12
    if any(routed for _, routed in buses):
        first, last = buses[0][0], buses[-1][0]
        content.append(
            rect(
                8, first - 16, left - 30, last - first + 32, style="fill:var(--paper);stroke:var(--ink);stroke-width:2"
            )
        )
        content.append(
            words(8 + (left - 30) / 2, (first + last) / 2 + 4, "router", class_="strong", text_anchor="middle")
        )
        content += [
            line(left - 22, bus, left, bus, class_="ink", style="stroke-width:3") for bus, routed in buses if routed
        ]
    return figure(width, y, "The network of the run", STYLE, content, "topology")


def _labels(lan: Lan, *, routed: bool, narrow: bool) -> list[str]:
    """The lines above a LAN: its name and prefix, and what the cable to the router does."""
    lines = [f"{lan.name} · {lan.prefix}"]
    if routed and lan.uplink != (NONE, NONE):
        there, back = (impairment_text(way) or "–" for way in lan.uplink)
        both = (
            [f"to and from the router: {there}"] if there == back else [f"to the router: {there}", f"from it: {back}"]
        )
        lines += both if narrow else ["; ".join(both)]
    return lines


def boxes(places: Sequence[Place]) -> list[tuple[str, str]]:
    """One box per place, or one for a whole row of the same kind that is numbered."""
    made: list[tuple[str, str]] = []
    for (stem, kind), found in groupby(places, key=lambda place: (re.sub(r"\d.*$", "", place.name), place.kind)):
        alike = [place.name for place in found]
        if len(alike) > MOST:
            made.append((f"{len(alike)} × {stem}", kind))
        else:
            made += [(name, kind) for name in alike]
    return made
