"""Changes of the run in which all is right, and findings by rule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scenarios.witness import Finding, Judgement

from .story import CLIENT, SSA, session
from .wire import (
    NODE_MAC,
    ROUTER_MAC,
    Wire,
)

IN, OUT = (ROUTER_MAC, NODE_MAC), (NODE_MAC, ROUTER_MAC)
Bend = Callable[[Wire, Wire], tuple[Wire, Wire]]


def on_lan(bend: Callable[[Wire], Wire]) -> Bend:
    """A change on the unified nodes' link only."""
    return lambda lan, far: (bend(lan), far)


def found(judgement: Judgement, rule: str) -> Finding:
    """The finding of one rule."""
    return next(finding for finding in judgement.findings if finding.rule == rule)


def with_bad_checksum(packet: Any) -> None:
    packet["TCP"].chksum = 0xBEEF


def second_session(wire: Wire) -> Wire:
    """The SSA serves a second connection of the same client."""
    more = Wire()
    session(more, "more", CLIENT, SSA, IN, isn=(5555, 9999), ports=(40009, 80))
    return wire.after("last-ack:ssa", *(sent.packet for sent in more.frames))
