"""What the scenario tells the judge: where the captures were taken and who is who.

Nothing here is guessed from the traffic.  A rule that needs a role which the scenario did not name says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from .frames import Frame

_TOLD_WITHIN = 0.25
_TOLD_LATE = 2.0


@dataclass(frozen=True, slots=True)
class CaptureFile:
    """One verdict capture."""

    path: Path
    where: str
    """the point on the network, by a name of the scenario; several files of one point (a ring of files) share it"""
    offload_free: bool = False
    """tx, gso, tso and gro are off at both ends of this link, so checksums and packet sizes are those of the wire"""
    mtu: int = 1500


@dataclass(frozen=True, slots=True)
class UnifiedNode:
    """A node whose one-time addresses are judged."""

    name: str
    where: str
    """the capture point on the node's own link"""
    macs: tuple[str, ...]
    prefixes: tuple[str, ...]
    stable: tuple[str, ...] = ()
    """addresses of the node in these prefixes that are not one-time"""
    dedicated: bool = False
    """the prefixes are routed to the node: no DAD, no MLD, no NA per address (UM-POOL-4)"""
    delay: float = 0.0
    """seconds that what it sends may take to the capture point"""

    def networks(self) -> list[IPv6Network]:
        """The prefixes, parsed; raises `ValueError` on one that is not."""
        return [IPv6Network(prefix) for prefix in self.prefixes]


@dataclass(frozen=True, slots=True)
class Explanation:
    """A tshark message that the scenario provokes on purpose."""

    pattern: str
    """a regular expression searched in the message"""
    reason: str
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Setup:
    """The roles and parameters of one run."""

    nodes: tuple[UnifiedNode, ...]
    strangers: tuple[str, ...] = ()
    """addresses of third hosts that must never get an answer from a one-time address"""
    second_fetch: tuple[str, ...] = ()
    """SSAs that the scenario tries again after their last permitted session"""
    sessions: Mapping[str, int] = field(default_factory=dict)
    """how many sessions an SSA was issued for, or an EA may open (a sticky session); 1 where not named"""
    connections: int = 1
    """how many complete connections there must be at least"""
    port_changes: int = 1
    """how many connections must have changed a port in mid-stream, for the rule `ports-free`"""
    aborted: tuple[str, ...] = ()
    """one-time addresses whose connection the scenario broke on purpose"""
    held: tuple[str, ...] = ()
    """one-time addresses that are still in use when the captures end"""
    retrans_timer: float = 1.0
    """seconds, RFC 4861 RetransTimer of the link"""
    dad_transmits: int = 1
    """RFC 4862 DupAddrDetectTransmits of the nodes"""
    dad_tolerance: float = 0.1
    """seconds by which the wire may shorten the DAD wait (what lies between two clocks, and between a write and the capture)"""
    answer_within: float = 1.0
    """seconds in which a permitted probe must be answered"""
    real_time: bool = False
    """nodes and kernels ran on a machine that may be busy: events may be told 2 s late, and what a kernel hands to two
    CPUs at once may go out in exchanged order; neither breaks a rule"""
    time_wait: float = 1.0
    """seconds for which a dedicated address may still speak after its connection closed"""
    explanations: tuple[Explanation, ...] = ()
    rules: tuple[str, ...] | None = None
    """the rules to judge by id; None for all"""

    @property
    def claim_tolerance(self) -> float:
        """Seconds between what a node's events claim and what the wire shows."""
        return _TOLD_LATE if self.real_time else _TOLD_WITHIN


def fact(name: str, value: object) -> Any:
    """A value as the field of `Setup` has it; raises `ValueError` where it takes no such one, or there is no such field.

    >>> fact("connections", 3), fact("rules", ["DAD before use"])
    (3, ('DAD before use',))
    >>> fact("conections", 3)
    Traceback (most recent call last):
    ValueError: the judge has no 'conections'; did you mean 'connections'?
    """
    hints = get_type_hints(Setup)
    if name not in hints:
        near = difflib.get_close_matches(name, hints, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(hints)}"
        raise ValueError(f"the judge has no {name!r}; {hint}")
    try:
        return msgspec.convert(value, hints[name], from_attributes=True)
    except msgspec.ValidationError as error:
        raise ValueError(f"{name} of the judge cannot be {value!r}: {str(error)[:1].lower()}{str(error)[1:]}") from None


def packed(addresses: tuple[str, ...]) -> frozenset[bytes]:
    """Addresses as bytes; raises `ValueError` on text that is none."""
    return frozenset(IPv6Address(address).packed for address in addresses)


class Membership:
    """Answers quickly whether a frame is from a node, and whose one-time address an address would be."""

    def __init__(self, node: UnifiedNode) -> None:
        self.node = node
        self.macs = frozenset(bytes.fromhex(mac.replace(":", "").replace("-", "")) for mac in node.macs)
        self._stable = packed(node.stable)
        self._networks = node.networks()
        self._known: dict[bytes, bool] = {}

    def in_prefix(self, address: bytes) -> bool:
        """Whether the address lies in a prefix of the node and is not one of its stable ones."""
        known = self._known.get(address)
        if known is None:
            value = IPv6Address(address)
            known = address not in self._stable and any(value in network for network in self._networks)
            self._known[address] = known
        return known

    def sent(self, frame: Frame) -> bool:
        """Whether the node put the frame on its link (on a link without Ethernet: by its source address)."""
        if frame.eth_src:
            return frame.eth_src in self.macs
        return self.in_prefix(frame.src) or frame.src in self._stable
