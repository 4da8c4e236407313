"""A scripted wire for the tests of the witness: frames made by scapy, tagged so that a test can bend one of them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from socket import AF_INET6
from typing import Any

from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLDMultAddrRec,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw
from scapy.pton_ntop import inet_ntop, inet_pton
from scapy.utils6 import in6_getnsma, in6_getnsmac

EPOCH = 1_700_000_000.0
NODE_MAC, OTHER_MAC, ROUTER_MAC, STRANGER_MAC = (
    "02:00:00:00:00:0a",
    "02:00:00:00:00:0b",
    "02:00:00:00:00:01",
    "02:00:00:00:00:66",
)
NODE_LL, OTHER_LL, ROUTER_LL = "fe80::a", "fe80::b", "fe80::1"
SSA_LIKE = "2001:db8:a::1:55a"
TO_INCLUDE, TO_EXCLUDE = 3, 4


def group(address: str) -> str:
    """The solicited-node group of an address."""
    return str(inet_ntop(AF_INET6, in6_getnsma(inet_pton(AF_INET6, address))))


def group_mac(address: str) -> str:
    """The Ethernet address of a multicast group."""
    return str(in6_getnsmac(inet_pton(AF_INET6, address)))


@dataclass
class Sent:
    """One frame on the wire."""

    time: float
    tag: str
    packet: Packet


@dataclass
class Wire:
    """Frames in order; `now` moves on with each."""

    frames: list[Sent] = field(default_factory=list)
    now: float = EPOCH

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds

    def put(self, packet: Packet, tag: str = "") -> None:
        """Put one frame on the wire."""
        self.now = round(self.now + 0.001, 6)
        self.frames.append(Sent(self.now, tag, packet))

    # -- bending -------------------------------------------------------------------------------

    def without(self, tag: str) -> Wire:
        """The same wire where the frames of a tag were never sent."""
        kept = [sent for sent in self.frames if sent.tag != tag]
        assert len(kept) < len(self.frames), tag
        return Wire(kept, self.now)

    def after(self, tag: str, *packets: Packet, delay: float = 0.0001) -> Wire:
        """The same wire with more frames behind the last one of a tag."""
        at = max(index for index, sent in enumerate(self.frames) if sent.tag == tag)
        time = self.frames[at].time
        added = [Sent(round(time + delay * (n + 1), 6), "", packet) for n, packet in enumerate(packets)]
        behind = next((n for n, sent in enumerate(self.frames) if sent.time > added[-1].time), len(self.frames))
        return Wire(self.frames[:behind] + added + self.frames[behind:], self.now)

    def changed(self, tag: str, change: Callable[[Packet], Any]) -> Wire:
        """The same wire where `change(packet)` was done to each frame of a tag (checksums are made anew)."""
        frames = []
        hits = 0
        for sent in self.frames:
            if sent.tag == tag:
                packet = sent.packet.copy()
                change(packet)
                frames.append(Sent(sent.time, tag, packet))
                hits += 1
            else:
                frames.append(sent)
        assert hits, tag
        return Wire(frames, self.now)

    def moved(self, tag: str, seconds: float) -> Wire:
        """The same wire where the frames of a tag came `seconds` later (or earlier)."""
        frames = [Sent(round(s.time + seconds, 6), s.tag, s.packet) if s.tag == tag else s for s in self.frames]
        return Wire(sorted(frames, key=lambda sent: sent.time), self.now)

    def packet(self, tag: str) -> Packet:
        """A copy of the first frame of a tag."""
        return next(sent.packet for sent in self.frames if sent.tag == tag).copy()

    def number(self, tag: str) -> int:
        """The frame number of the first frame of a tag."""
        return next(index for index, sent in enumerate(self.frames, 1) if sent.tag == tag)

    # -- files ---------------------------------------------------------------------------------

    def save(self, path: Path, snap: int = 0) -> Path:
        """Write the wire as dumpcap does: one section, one interface, nanoseconds, frames cut to `snap` bytes."""
        with path.open("wb") as file:
            file.write(pcapng_head(snap))
            for sent in self.frames:
                file.write(packet_block(sent.time, bytes(sent.packet), snap))
        return path


def block(kind: int, body: bytes) -> bytes:
    """One pcapng block."""
    body += bytes(-len(body) % 4)
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def pcapng_head(snap: int = 0, link_type: int = 1, resolution: int = 9) -> bytes:
    """Section header and interface description."""
    section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    name = struct.pack("<HH", 2, 4) + b"veth"
    interface = struct.pack("<HHI", link_type, 0, snap) + name + struct.pack("<HHBxxx", 9, 1, resolution) + bytes(4)
    return block(0x0A0D0D0A, section) + block(1, interface)


def packet_block(time: float, data: bytes, snap: int = 0) -> bytes:
    """One enhanced packet block."""
    ticks = round(time * 1e6) * 1000
    cut = data[:snap] if snap else data
    return block(6, struct.pack("<IIIII", 0, ticks >> 32, ticks & 0xFFFFFFFF, len(cut), len(data)) + cut)


def statistics_block(dropped: int) -> bytes:
    """An interface statistics block."""
    return block(5, struct.pack("<III", 0, 0, 0) + struct.pack("<HHQ", 5, 8, dropped) + bytes(4))


# -- packets ---------------------------------------------------------------------------------------


def listener_report(address: str, kind: int, mac: str = NODE_MAC, source: str = NODE_LL) -> Packet:
    """An MLDv2 state change report for the solicited-node group of `address`."""
    return (
        Ether(src=mac, dst="33:33:00:00:00:16")
        / IPv6(src=source, dst="ff02::16", hlim=1)
        / IPv6ExtHdrHopByHop(options=[RouterAlert()])
        / ICMPv6MLReport2(records_number=1, records=[ICMPv6MLDMultAddrRec(rtype=kind, dst=group(address))])
    )


def probe(address: str, mac: str = NODE_MAC, nonce: bytes = b"\x0e\x01nonce!") -> Packet:
    """A DAD probe, with a nonce option unless `nonce` is empty."""
    packet = (
        Ether(src=mac, dst=group_mac(group(address)))
        / IPv6(src="::", dst=group(address), hlim=255)
        / ICMPv6ND_NS(tgt=address)
    )
    return packet / Raw(nonce) if nonce else packet


def advertisement(
    address: str,
    source: str,
    dst: str,
    mac: str = NODE_MAC,
    *,
    s: int = 0,
    o: int = 0,
    eth: str = "33:33:00:00:00:01",
    option: bool = True,
) -> Packet:
    """A neighbor advertisement."""
    packet = Ether(src=mac, dst=eth) / IPv6(src=source, dst=dst, hlim=255) / ICMPv6ND_NA(tgt=address, R=0, S=s, O=o)
    return packet / ICMPv6NDOptDstLLAddr(lladdr=mac) if option else packet


def promotion(address: str, mac: str = NODE_MAC) -> Packet:
    """The NA of UM-ADDR-8."""
    return advertisement(address, address, "ff02::2", mac, eth="33:33:00:00:00:02")


def defence(address: str, mac: str = NODE_MAC, source: str = NODE_LL) -> Packet:
    """The NA of UM-ADDR-5."""
    return advertisement(address, source, "ff02::1", mac, o=1)


def solicitation(address: str, source: str = ROUTER_LL, mac: str = ROUTER_MAC) -> Packet:
    """An NS that asks for the link-layer address."""
    return (
        Ether(src=mac, dst=group_mac(group(address)))
        / IPv6(src=source, dst=group(address), hlim=255)
        / ICMPv6ND_NS(tgt=address)
        / ICMPv6NDOptSrcLLAddr(lladdr=mac)
    )


def resolved(address: str, to: str = ROUTER_LL, mac: str = NODE_MAC) -> Packet:
    """The NA that answers an NS."""
    return advertisement(address, address, to, mac, s=1, o=1, eth=ROUTER_MAC)


def tcp(
    src: str,
    dst: str,
    flags: str,
    seq: int,
    ack: int = 0,
    data: bytes = b"",
    *,
    ports: tuple[int, int] = (1024, 80),
    macs: tuple[str, str] = (NODE_MAC, ROUTER_MAC),
) -> Packet:
    """One segment."""
    packet = Ether(src=macs[0], dst=macs[1]) / IPv6(src=src, dst=dst)
    packet /= TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq % 2**32, ack=ack % 2**32, window=60000)
    return packet / Raw(data) if data else packet


def echo(src: str, dst: str, mac: str = ROUTER_MAC, to: str = NODE_MAC) -> Packet:
    """An echo request."""
    return Ether(src=mac, dst=to) / IPv6(src=src, dst=dst) / ICMPv6EchoRequest(id=7, seq=1)


def echo_reply(src: str, dst: str, mac: str = NODE_MAC) -> Packet:
    """An echo reply."""
    return Ether(src=mac, dst=ROUTER_MAC) / IPv6(src=src, dst=dst) / ICMPv6EchoReply(id=7, seq=1)


def unreachable(source: str, to: str, quoted: Packet, mac: str = NODE_MAC) -> Packet:
    """An ICMPv6 Destination Unreachable that quotes a packet."""
    return Ether(src=mac, dst=ROUTER_MAC) / IPv6(src=source, dst=to) / ICMPv6DestUnreach(code=4) / quoted


def udp(src: str, dst: str, mac: str = ROUTER_MAC) -> Packet:
    """A UDP datagram."""
    return Ether(src=mac, dst=NODE_MAC) / IPv6(src=src, dst=dst) / UDP(sport=5, dport=6) / Raw(b"hello")
