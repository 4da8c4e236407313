"""The network of a scenario as it is declared, the same on every backend: LANs, at most one router, and who is on which LAN.

LAN n (from 1 on) has the prefix 2001:db8:n::/64, the router is ::1 in it, and hosts with an ordinary address follow from
::10 on.  Link-layer addresses say whose they are: 02:00:<LAN>:<kind>:00:<number>, the router's 02:00:<LAN>:00:00:01.
Equal declarations give equal addresses, so a capture of one backend can be laid beside one of the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv6Network

from scenarios.engine.router import NeighborLimits
from tapstack.link.impairment import NONE, Impairment

from .errors import ScenarioError

FIRST_HOST = 0x10


class Kind(IntEnum):
    """What a link-layer address belongs to."""

    ROUTER = 0
    NODE = 1
    HOST = 2
    RAW = 3


@dataclass(slots=True)
class Lan:
    """One Ethernet.  latency: seconds through its switch (sim; a kernel bridge takes what it takes).  mtu in bytes."""

    name: str
    number: int
    mtu: int = 1500
    latency: float = 0.0005
    bits: int = 64
    """of an address that are its hosts' own"""
    uplink: tuple[Impairment, Impairment] = (NONE, NONE)
    """what the cable to the router does to frames, towards the router and from it"""
    _taken: dict[Kind, int] = field(default_factory=dict)

    @property
    def network(self) -> IPv6Network:
        """Its prefix."""
        return IPv6Network((0x20010DB8 << 96 | self.number << 80, 128 - self.bits))

    @property
    def prefix(self) -> str:
        """Its prefix as text."""
        return str(self.network)

    @property
    def router(self) -> str:
        """The router's address on it."""
        return str(self.network[1])

    def mac(self, kind: Kind, number: int) -> bytes:
        """The link-layer address of the given host of a kind."""
        return bytes((2, 0, self.number, kind, number >> 8, number & 0xFF))

    @property
    def router_mac(self) -> bytes:
        """The router's link-layer address on it."""
        return self.mac(Kind.ROUTER, 1)

    def next_mac(self, kind: Kind) -> bytes:
        """A link-layer address for one more host."""
        number = self._taken[kind] = self._taken.get(kind, 0) + 1
        return self.mac(kind, number)

    def address(self, number: int) -> str:
        """The address with that number in the prefix."""
        return str(self.network[number])

    def next_address(self) -> str:
        """An ordinary address for one more host."""
        number = self._taken[Kind.ROUTER] = self._taken.get(Kind.ROUTER, FIRST_HOST - 1) + 1
        return self.address(number)


@dataclass(slots=True)
class RouterPlan:
    """The router between LANs.

    limits: of its neighbour cache.  learns: whether an unsolicited advertisement makes a cache entry (RFC 9131).
    """

    lans: tuple[Lan, ...]
    limits: NeighborLimits
    learns: bool = False


@dataclass(slots=True)
class Network:
    """Everything declared so far; closed for declarations once something runs on it."""

    lans: dict[str, Lan] = field(default_factory=dict)
    router: RouterPlan | None = None
    built: bool = False

    def add_lan(
        self, name: str, mtu: int, latency: float, uplink: tuple[Impairment, Impairment], bits: int = 64
    ) -> Lan:
        """Declare a LAN."""
        self._open("LAN", name)
        if name in self.lans:
            raise ScenarioError(f"There are two LANs named {name!r}: give one another name.")
        if not name.isidentifier() or len(name) > 12:
            raise ScenarioError(f"A LAN cannot be named {name!r}: take a word of up to 12 letters.")
        made = self.lans[name] = Lan(name, len(self.lans) + 1, mtu, latency, bits, uplink)
        return made

    def add_router(self, lans: tuple[Lan, ...], limits: NeighborLimits | None, learns: bool) -> RouterPlan:
        """Declare the router."""
        self._open("router", "")
        if self.router is not None:
            raise ScenarioError("A scenario has one router: name all its LANs in one call.")
        if any(lan.bits != 64 for lan in lans):
            raise ScenarioError(
                "A router announces prefixes of 64 bits: leave the LAN with fewer bits without a router."
            )
        if not lans:
            raise ScenarioError("A router without a LAN routes nothing: name the LANs it is on.")
        self.router = RouterPlan(lans, limits or NeighborLimits(), learns)
        return self.router

    def _open(self, what: str, name: str) -> None:
        if self.built:
            raise ScenarioError(
                f"The {' '.join((what, name)).strip()} comes too late: declare LANs and router before anything runs on them."
            )
