"""A router in virtual time, with the frames that it sends."""

from __future__ import annotations

from ipaddress import IPv6Address
from random import Random
from typing import Any

from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from scenarios.engine.router import (
    AdvertisedPrefix,
    InterfaceConfig,
    NudState,
    Router,
    RouterConfig,
    RouterDrop,
    UntrackedNa,
)
from tapstack.link.base import LinkProperties
from tapstack.types import address

MAC_0, MAC_1 = "02:00:00:00:00:f0", "02:00:00:00:00:f1"  # the router's
MAC_A, MAC_B = "02:00:00:00:00:0a", "02:00:00:00:00:0b"
LL_0, LL_A = "fe80::ff:fe00:f0", "fe80::a"
A, B, B2 = "2001:db8:a::a", "2001:db8:b::b", "2001:db8:b::b2"
ROUTER_A, ROUTER_B = "2001:db8:a::1", "2001:db8:b::1"


def raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def bytes_text(packed: bytes | bytearray) -> str:
    return str(IPv6Address(bytes(packed)))


class Bench:
    """A router with two interfaces, and what it sends read by scapy.  Port 0 is A's link, port 1 is B's."""

    def __init__(
        self,
        config: RouterConfig | None = None,
        mtu_b: int = 1500,
        untracked: UntrackedNa = UntrackedNa.NO,
        advertise: bool = False,
    ) -> None:
        self.router = Router(config or RouterConfig(), Random(1))
        for mac, prefix, mtu in ((MAC_0, "2001:db8:a::/64", 1500), (MAC_1, "2001:db8:b::/64", mtu_b)):
            self.router.add_interface(
                LinkProperties(mtu=mtu, mac=raw(mac)),
                InterfaceConfig(
                    prefixes=(AdvertisedPrefix(prefix=prefix),),
                    rdnss=(ROUTER_A,),
                    advertise=advertise,
                    accept_untracked_na=untracked,
                ),
            )
        self.router.start(0.0)

    def put(
        self, packet: Packet, now: float = 0.0, *, port: int = 0, src: str = MAC_A, dst: str | None = None
    ) -> list[Any]:
        """A packet comes in; what goes out on account of it, as (port, frame)."""
        frame = Ether(src=src, dst=dst or (MAC_0, MAC_1)[port]) / packet
        self.router.input(port, bytes(frame), now)
        return self.sent()

    def sent(self) -> list[Any]:
        return [(port, Ether(frame)) for port, frame in self.router.output()]

    def run(self, until: float) -> list[tuple[float, int, Any]]:
        """Time passes; what the router sends on its own, with its time."""
        seen = []
        while (deadline := self.router.deadline()) is not None and deadline <= until:
            self.router.advance(deadline)
            seen += [(deadline, port, frame) for port, frame in self.sent()]
        return seen

    def resolve_b(self, now: float = 0.0) -> None:
        """B answers the solicitation that stands."""
        answer = IPv6(src=B, dst="fe80::ff:fe00:f1") / ICMPv6ND_NA(tgt=B, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=MAC_B)
        self.put(answer, now, port=1, src=MAC_B)

    @property
    def drops(self) -> dict[RouterDrop, int]:
        return dict(self.router.counters.drops)

    def state_of_b(self) -> NudState | None:
        entry = self.router.neighbors.get(1, address(B))
        return entry.state if entry else None


def ns(src: str, target: str, *, dst: str | None = None, lladdr: str | None = MAC_A, hlim: int = 255) -> Packet:
    group = "ff02::1:ff" + f"{address(target)[13]:02x}:{int.from_bytes(address(target)[14:], 'big'):x}"
    packet = IPv6(src=src, dst=dst or group, hlim=hlim) / ICMPv6ND_NS(tgt=target)
    return packet / ICMPv6NDOptSrcLLAddr(lladdr=lladdr) if lladdr else packet


def group_mac(packet: Packet) -> str:
    return "33:33:" + address(packet.dst)[12:].hex(":")


def ping(src: str = A, dst: str = B, hlim: int = 64, size: int = 10) -> Packet:
    return IPv6(src=src, dst=dst, hlim=hlim) / ICMPv6EchoRequest(data=bytes(size))
