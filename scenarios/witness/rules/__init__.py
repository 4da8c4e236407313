"""The rules, one small function each: evidence in, a `Finding` out.  `RULES` is their table, in the order of a report."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..evidence import Evidence
from ..finding import Finding
from . import addresses, connections, packets, silence


class Rule(NamedTuple):
    """One rule: its id, what it says in a few words, and the function that judges it."""

    id: str
    title: str
    judge: Callable[[Evidence], Finding]


RULES: tuple[Rule, ...] = (
    Rule("captures-whole", "The captures are whole", packets.captures_whole),
    Rule("own-pair", "Every connection had its own address pair", connections.own_pair),
    Rule("complete", "Every connection completed", connections.complete),
    Rule("dad-first", "Every address passed DAD before use, once", addresses.dad_first),
    Rule("group-held", "Solicited-node groups were held from DAD to release", addresses.group_held),
    Rule("promotion-once", "One promotion NA per taken address", addresses.promotion_once),
    Rule("defended", "Reserved addresses were defended", addresses.defended),
    Rule("speaks-within-life", "No packet from an address outside its lifetime", addresses.speaks_within_life),
    Rule("silence-before", "No answer before an address is taken", silence.silence_before),
    Rule("silence-after", "No answer after release", silence.silence_after),
    Rule("released", "Every taken address was released", addresses.released),
    Rule("never-again", "No released address came back", addresses.never_again),
    Rule("second-fetch", "A used SSA never connects again", silence.second_fetch),
    Rule("third-host", "A third host gets nothing", silence.third_host),
    Rule("ports-free", "Ports at L0 have no effect", connections.ports_free),
    Rule("hop-limits", "Neighbor discovery and MLD carry their hop limits", packets.discovery_hop_limit),
    Rule("checksums", "Checksums are right", packets.checksums),
    Rule("within-mtu", "No packet exceeds the MTU", packets.within_mtu),
)
"""The rules that need nothing but the captures and the setup; `tshark` and `claims` add theirs in `judge`."""
