"""A host on a test bench in virtual time: frames in, frames out with their times, read and written with scapy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from scapy.layers.inet6 import (
    ICMPv6MLDMultAddrRec,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    _IPv6ExtHdr,
    in6_chksum,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket

from tapstack.events import AddressChanged, Counters, DropReason, Event, EventStream
from tapstack.ipv6.addresses import AddressEntry, AddressKind, Answers
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.host import Host
from tapstack.ipv6.packet import Packet
from tapstack.ipv6.prefixes import Prefix
from tapstack.link.base import LinkProperties
from tapstack.randomness import KeyedRandom
from tapstack.timers import TimerQueue
from tapstack.types import Frame, address, address_text, solicited_node
from tests.plugins import taps

OUR_MAC = "02:00:00:00:00:01"
ROUTER_MAC = "02:00:00:00:00:fe"
ROUTER = "fe80::fe"
SECOND_MAC = "02:00:00:00:00:fd"
SECOND = "fe80::fd"
STRANGER_MAC = "02:00:00:00:00:66"
STRANGER = "2001:db8:1::66"
PREFIX = "2001:db8:1::"
OFF_LINK = "2001:db8:ffff::1"


class Bench:
    """A started host; `now` is its clock, `out` the frames it sent as (time, scapy packet)."""

    def __init__(
        self,
        config: HostConfig | None = None,
        *,
        mtu: int = 1500,
        vnet: bool = False,
        tun: bool = False,
        seed: int = 1,
        secret: bytes = b"a secret of the bench",
        start: bool = True,
    ) -> None:
        mac = None if tun else bytes.fromhex(OUR_MAC.replace(":", ""))
        self.now = 1000.0
        self.timers = TimerQueue()
        self.events: list[Event] = []
        stream = EventStream()
        stream.subscribe(self.events.append)
        self.tap = taps.world("bench", taps.RAW_IP if tun else taps.ETHERNET)
        stream.subscribe(lambda event: self.tap.say(f"host says: {event.text()}"))
        self.counters = Counters()
        self.vnet = vnet
        self.out: list[tuple[float, ScapyPacket]] = []
        self.host = Host(
            config or HostConfig(dad_initial_delay=0.0),
            LinkProperties(mtu, mac, vnet_header=vnet),
            self.timers,
            stream,
            self.counters,
            KeyedRandom(seed.to_bytes(32, "big"), "bench"),
            secret,
            self._transmit,
        )
        if start:
            self.host.start(self.now)

    def _transmit(self, frame: Frame) -> None:
        data = b"".join(frame)
        if self.vnet:
            assert data[:10] == bytes(10)
            data = data[10:]
        self.tap.sent(self.now, "host", data)
        src = data[8:24] if self.host.interface.mac is None else data[22:38]
        entry = self.host.addresses.get(src)
        assert src == bytes(16) or (entry is not None and entry.answers & Answers.TRAFFIC), (
            "a source outside its lifetime"
        )
        assert len(data) <= self.host.properties.mtu + 14
        packet = IPv6(data) if self.host.interface.mac is None else Ether(data)
        self.out.append((self.now, packet))

    # -- time ------------------------------------------------------------------------------------

    def run(self, seconds: float) -> list[ScapyPacket]:
        """Let time pass; returns what was sent meanwhile."""
        return self.run_until(self.now + seconds)

    def run_until(self, when: float) -> list[ScapyPacket]:
        """Let time pass until `when`."""
        before = len(self.out)
        while (due := self.timers.deadline()) is not None and due <= when:
            self.now = max(self.now, due)
            self.timers.run(self.now)
            self.check()
        self.now = max(self.now, when)
        return [packet for _, packet in self.out[before:]]

    def check(self) -> None:
        """All invariants."""
        self.host.addresses.check()
        self.host.neighbors.check()

    # -- frames in ---------------------------------------------------------------------------------

    def feed(self, packet: ScapyPacket | bytes, *, virtio: bytes = bytes(10)) -> list[ScapyPacket]:
        """Give the host one frame; returns what it sends at once, timers of this very moment included."""
        before = len(self.out)
        data = bytes(packet)
        self.tap.arrived(self.now, data)
        self.host.input((virtio + data) if self.vnet else data, self.now)
        self.timers.run(self.now)
        self.check()
        return [packet for _, packet in self.out[before:]]

    def drops(self, reason: DropReason) -> int:
        """How many packets were dropped for a reason."""
        return self.counters.drops[reason]

    # -- events ------------------------------------------------------------------------------------

    def moves(self, text: str) -> list[tuple[str, str]]:
        """The state changes of an address, as (old, new)."""
        canonical = address_text(address(text))
        return [(e.old, e.new) for e in self.events if isinstance(e, AddressChanged) and e.address == canonical]

    # -- a world around it -------------------------------------------------------------------------

    def settle(self, *, router: bool = True, **options: Any) -> None:
        """Link-local address up, router advertised, everything quiet, `out` empty."""
        self.run(1.5)
        assert self.host.link_local is not None
        if router:
            self.feed(advertisement(**options))
        self.run(5.0)
        self.out.clear()

    @property
    def sent(self) -> list[ScapyPacket]:
        """The packets of `out` without their times."""
        return [packet for _, packet in self.out]

    @property
    def link_local(self) -> str:
        """The link-local address as text."""
        assert self.host.link_local is not None
        return address_text(self.host.link_local)

    @property
    def stable(self) -> AddressEntry:
        """The first of the stable addresses (RFC 7217)."""
        return next(entry for entry in self.host.addresses if entry.kind is AddressKind.STABLE)

    @property
    def prefix(self) -> Prefix:
        """The autonomous prefix of the bench's router."""
        return next(prefix for prefix in self.host.prefixes if prefix.autonomous)

    def reserve(self, text: str = PREFIX + "abcd:1234:5678", *, settle: bool = True) -> AddressEntry:
        """An UNCERTAIN address, or a TENTATIVE one with settle=False."""
        entry = self.host.reserve(address(text), self.prefix, self.now)
        if settle:
            self.run(1.5)
            assert entry.state == "UNCERTAIN"
            self.out.clear()
        return entry

    def ephemeral(self, text: str = PREFIX + "abcd:1234:5678", peer: str | None = None) -> AddressEntry:
        """A PREFERRED ephemeral address with one user, who serves `peer`."""
        entry = self.reserve(text)
        self.host.addresses.take(entry, AddressKind.EPHEMERAL, self.now, "test")
        self.host.addresses.acquire(entry, User(peer))
        self.out.clear()
        return entry

    def teach(self, ip: str, mac: str = STRANGER_MAC) -> None:
        """Let the host know a neighbour's link-layer address, as its solicitation would."""
        self.host.neighbors.heard(address(ip), bytes.fromhex(mac.replace(":", "")), self.now)


def settled() -> Bench:
    """A bench whose host has its addresses, and knows STRANGER."""
    bench = Bench()
    bench.settle()
    bench.teach(STRANGER)
    return bench


class Receiver(Bench):
    """A settled bench that knows STRANGER; `us` is its stable address, `delivered` what UDP is given."""

    def __init__(self, config: HostConfig | None = None) -> None:
        super().__init__(config)
        self.settle()
        self.teach(STRANGER)
        self.us = address_text(self.stable.address)
        self.delivered: list[Packet] = []
        self.host.upper[17] = lambda packet, now: self.delivered.append(packet)


class User:
    """An `AddressUser` that serves one peer."""

    def __init__(self, peer: str | None) -> None:
        self._peer = address(peer) if peer else None

    def serves(self, remote: bytes) -> bool:
        """Whether it is the peer."""
        return remote == self._peer

    heard = True

    @property
    def remote(self) -> bytes | None:
        return self._peer


# -- packets -----------------------------------------------------------------------------------------


def to_us(src: str, dst: str, mac: str = STRANGER_MAC, **fields: Any) -> ScapyPacket:
    """Ethernet and IPv6 header of a unicast frame to the host."""
    return Ether(src=mac, dst=OUR_MAC) / IPv6(src=src, dst=dst, **fields)


def to_group(src: str, group: str, mac: str = STRANGER_MAC, **fields: Any) -> ScapyPacket:
    """Ethernet and IPv6 header of a frame to a group."""
    last = address(group)[12:].hex(":")
    return Ether(src=mac, dst=f"33:33:{last}") / IPv6(src=src, dst=group, **fields)


def group_of(text: str) -> str:
    """The solicited-node group of an address, as text."""
    return address_text(solicited_node(address(text)))


def probe(target: str, *options: ScapyPacket, mac: str = STRANGER_MAC) -> ScapyPacket:
    """Somebody's DAD probe."""
    packet = to_group("::", group_of(target), mac, hlim=255) / ICMPv6ND_NS(tgt=target)
    for option in options:
        packet = packet / option
    return packet


def solicitation(target: str, src: str = STRANGER, mac: str = STRANGER_MAC, unicast: bool = False) -> ScapyPacket:
    """Somebody's address resolution, or unreachability probe with unicast=True."""
    head = to_us(src, target, mac, hlim=255) if unicast else to_group(src, group_of(target), mac, hlim=255)
    return head / ICMPv6ND_NS(tgt=target) / ICMPv6NDOptSrcLLAddr(lladdr=mac)


def neighbor_advertisement(
    target: str, mac: str | None = STRANGER_MAC, *, dst: str = "ff02::1", src: str | None = None, **flags: int
) -> ScapyPacket:
    """Somebody's advertisement."""
    source = src or target
    head = to_group(source, dst, hlim=255) if dst.startswith("ff") else to_us(source, dst, hlim=255)
    packet = head / ICMPv6ND_NA(tgt=target, **{"R": 0, "S": 0, "O": 1, **flags})
    return packet / ICMPv6NDOptDstLLAddr(lladdr=mac) if mac else packet


def advertisement(
    *options: ScapyPacket,
    prefix: str | None = PREFIX,
    valid: int = 86400,
    preferred: int = 14400,
    lifetime: int = 1800,
    source: str = ROUTER,
    mac: str = ROUTER_MAC,
    mtu: int | None = None,
    rdnss: tuple[str, ...] = (),
    rdnss_lifetime: int = 600,
    on_link: int = 1,
    autonomous: int = 1,
    **fields: Any,
) -> ScapyPacket:
    """A Router Advertisement to all nodes."""
    packet = to_group(source, "ff02::1", mac, hlim=255)
    packet = (
        packet
        / ICMPv6ND_RA(routerlifetime=lifetime, **{"chlim": 64, "prf": 0, **fields})
        / ICMPv6NDOptSrcLLAddr(lladdr=mac)
    )
    if prefix:
        packet = packet / ICMPv6NDOptPrefixInfo(
            prefix=prefix,
            prefixlen=64,
            L=on_link,
            A=autonomous,
            validlifetime=valid,
            preferredlifetime=preferred,
        )
    if mtu is not None:
        packet = packet / ICMPv6NDOptMTU(mtu=mtu)
    if rdnss:
        packet = packet / ICMPv6NDOptRDNSS(dns=list(rdnss), lifetime=rdnss_lifetime)
    for option in options:
        packet = packet / option
    return packet


# -- what was sent -------------------------------------------------------------------------------------


def only(packets: list[ScapyPacket], layer: type[ScapyPacket] | Callable[[ScapyPacket], bool]) -> list[ScapyPacket]:
    """The packets that contain a layer, or of which a predicate holds."""
    if isinstance(layer, type):
        return [packet for packet in packets if layer in packet]
    return [packet for packet in packets if layer(packet)]


def one(packets: list[ScapyPacket], layer: type[ScapyPacket]) -> ScapyPacket:
    """The one packet that contains a layer."""
    found = only(packets, layer)
    assert len(found) == 1, [packet.summary() for packet in packets]
    return found[0]


def records(packets: list[ScapyPacket]) -> list[tuple[int, str]]:
    """The records of all MLDv2 reports among the packets, as (type, group)."""
    found = []
    for packet in only(packets, ICMPv6MLReport2):
        assert len(packet[ICMPv6MLReport2].records) <= 1  # scapy hangs the second record below the first
        for record in packet[ICMPv6MLReport2].records:
            while isinstance(record, ICMPv6MLDMultAddrRec):
                found.append((record.rtype, record.dst))
                record = record.payload
        assert len(found) >= packet[ICMPv6MLReport2].records_number
    return found


def leaves_for(bench: Bench, dst: str, *, confirmed: bool = True) -> str:
    """Where a packet to `dst` goes: the router that its frame is for, or the neighbour that is solicited instead.

    Empty where nothing leaves.  confirmed: a router that gets it answers as a living neighbour does.
    """
    before = len(bench.out)
    bench.host.send(address(bench.link_local), address(dst), 253, [bytes(8)], bench.now)
    if not (sent := bench.sent[before:]):
        return ""
    (packet,) = sent
    if ICMPv6ND_NS in packet:
        return str(packet[ICMPv6ND_NS].tgt)
    assert packet[IPv6].dst == dst
    router = {ROUTER_MAC: ROUTER, SECOND_MAC: SECOND}[packet[Ether].dst]
    if confirmed:
        bench.feed(neighbor_advertisement(router, packet[Ether].dst, dst=bench.link_local, S=1, R=1))
    return router


def checksum_is_right(packet: ScapyPacket) -> bool:
    """Whether the upper-layer checksum is right, as scapy sums it up; for packets of which it is the last header."""
    layer = packet[IPv6]
    while isinstance(layer.payload, _IPv6ExtHdr):
        layer = layer.payload
    return bool(in6_chksum(layer.nh, packet[IPv6], bytes(layer.payload)) in (0, 0xFFFF))


__all__ = [
    "OFF_LINK",
    "OUR_MAC",
    "PREFIX",
    "ROUTER",
    "ROUTER_MAC",
    "SECOND",
    "SECOND_MAC",
    "STRANGER",
    "STRANGER_MAC",
    "Bench",
    "ICMPv6ND_RS",
    "Receiver",
    "User",
    "advertisement",
    "checksum_is_right",
    "group_of",
    "leaves_for",
    "neighbor_advertisement",
    "one",
    "only",
    "probe",
    "records",
    "settled",
    "solicitation",
    "to_group",
    "to_us",
]
