"""Somebody who sends packets made by hand: a prober, an attacker, an observer.  A host without a stack.

It answers address resolution for its own address, so that replies reach it, and keeps everything that its link shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tapstack.link.base import Link
from tapstack.types import UNSPECIFIED, address, solicited_node
from tapstack.wire import ethernet, icmpv6, ipv6, nd, tcp
from tapstack.wire.error import WireError

from .network import Lan

Packet = bytes
"""An IPv6 packet from its fixed header on."""


class Raw:
    """A port of a LAN without a host behind it.

    seen: the packets that reached it, newest last, at most `keep`.  address: answered for in neighbour discovery.
    """

    def __init__(self, name: str, lan: Lan, link: Link, own: str, keep: int = 100_000) -> None:
        self.name = name
        self.lan = lan
        self.link = link
        self.address = own
        self.seen: list[tuple[float, Packet]] = []
        self.on_packet: Callable[[float, Packet], None] | None = None
        self._own = address(own)
        self._keep = keep
        self._loop = asyncio.get_running_loop()
        assert link.properties.mac is not None
        self.mac = link.properties.mac
        link.attach(self._loop, self._wake)

    def send(self, packet: Packet, mac: bytes | None = None) -> None:
        """Put an IPv6 packet on the LAN, for the router unless a link-layer address is given."""
        self.link.send([ethernet.header(mac or self.lan.router_mac, self.mac) + packet])

    def send_frame(self, frame: bytes) -> None:
        """Put a frame on the LAN as it is."""
        self.link.send([frame])

    def _wake(self) -> None:
        while (frame := self.link.receive()) is not None:
            self._take(bytes(frame))

    def _take(self, frame: bytes) -> None:
        packet = frame[ethernet.HEADER_LENGTH :]
        if len(packet) < ipv6.HEADER_LENGTH or packet[0] >> 4 != 6:
            return
        if len(self.seen) < self._keep:
            self.seen.append((self._loop.time(), packet))
        if packet[6] == ipv6.ICMPV6:
            self._answer(packet)
        if self.on_packet is not None:
            self.on_packet(self._loop.time(), packet)

    def _answer(self, packet: Packet) -> None:
        """A Neighbor Advertisement for our own address."""
        try:
            message = icmpv6.parse(memoryview(packet)[ipv6.HEADER_LENGTH :])
            if message.type != icmpv6.Type.NEIGHBOR_SOLICITATION:
                return
            asked = nd.NeighborSolicitation.parse(message.body)
        except WireError:
            return
        source = packet[8:24]
        if asked.target != self._own or source == UNSPECIFIED:
            return
        answer = nd.NeighborAdvertisement(
            target=self._own, solicited=True, override=True, options=(nd.TargetLinkLayer(self.mac),)
        )
        option = nd.find(asked.options, nd.SourceLinkLayer)
        packet = icmp(self._own, source, icmpv6.Type.NEIGHBOR_ADVERTISEMENT, answer.pack(), 255)
        self.send(packet, option.address if option is not None else None)


def icmp(src: bytes, dst: bytes, type: int, body: bytes, hop_limit: int = 64) -> Packet:
    """An ICMPv6 packet."""
    message = icmpv6.pack(src, dst, icmpv6.Type(type), 0, body)
    return ipv6.pack_header(src, dst, ipv6.ICMPV6, len(message), hop_limit=hop_limit) + message


def echo_request(src: str | bytes, dst: str | bytes, sequence: int = 0) -> Packet:
    """An echo request."""
    return icmp(
        address(src), address(dst), icmpv6.Type.ECHO_REQUEST, b"\x12\x34" + sequence.to_bytes(2, "big") + b"scenario"
    )


def solicitation(mac: bytes, src: str | bytes, target: str | bytes) -> bytes:
    """The frame of an address resolution: who has `target`, tell `src` (RFC 4861 §7.2.2)."""
    return _asking(mac, address(src), address(target), nd.SourceLinkLayer(mac))


def dad_probe(mac: bytes, target: str | bytes, nonce: bytes) -> bytes:
    """The frame of a duplicate address detection: somebody else wants `target` (RFC 4862 §5.4.2).  nonce: 6 bytes (RFC 7527)."""
    return _asking(mac, UNSPECIFIED, address(target), nd.Nonce(nonce))


def _asking(mac: bytes, source: bytes, target: bytes, option: nd.SourceLinkLayer | nd.Nonce) -> bytes:
    group = solicited_node(target)
    message = nd.NeighborSolicitation(target, (option,))
    packet = icmp(source, group, icmpv6.Type.NEIGHBOR_SOLICITATION, message.pack(), 255)
    return ethernet.header(ethernet.multicast_mac(group), mac) + packet


def knocks(mac: bytes, node_mac: bytes, source: bytes, target: bytes) -> list[bytes]:
    """Frames of a ping and a SYN to `target`, straight to the node's link-layer address, without asking for it first."""
    header = ethernet.header(node_mac, mac)
    return [header + echo_request(source, target), header + segment(source, target, (40_000, 80), tcp.SYN, seq=1)]


def answer_from(prober: Raw, target: str) -> str:
    """What came back for a ping or a SYN, in words; "unreachable" is a router's word about the target."""
    wanted, own = address(target), address(prober.address)
    for _, packet in prober.seen:
        if packet[24:40] != own:
            continue
        if packet[8:24] == wanted and packet[6] == ipv6.TCP:
            return "answered: " + ("SYN-ACK" if packet[53] & tcp.SYN else "RST")
        if packet[6] != ipv6.ICMPV6:
            continue
        if packet[8:24] == wanted and packet[40] == icmpv6.Type.ECHO_REPLY:
            return "answered"
        if packet[40] == icmpv6.Type.DESTINATION_UNREACHABLE and packet[72:88] == wanted:
            return "unreachable"
    return "silence"


def advertises(packet: Packet, target: bytes) -> bool:
    """Whether it is a Neighbor Advertisement about an address."""
    return packet[6] == ipv6.ICMPV6 and packet[40] == icmpv6.Type.NEIGHBOR_ADVERTISEMENT and packet[48:64] == target


def segment(
    src: str | bytes,
    dst: str | bytes,
    ports: tuple[int, int],
    flags: int,
    *,
    seq: int = 0,
    ack: int = 0,
    window: int = 65535,
    data: bytes = b"",
) -> Packet:
    """A TCP segment without options; ports are source and destination."""
    source, target = address(src), address(dst)
    header = tcp.pack(source, target, *ports, seq, ack, flags, window, payload=data)
    return ipv6.pack_header(source, target, ipv6.TCP, len(header) + len(data)) + header + data
