"""Packets that a curious neighbour sends: to a reserved address, to a released one, to somebody else's service."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from random import Random

from compat.kernel import Interface, in_namespace
from tapstack.types import UNSPECIFIED, solicited_node
from tapstack.wire import ethernet, icmpv6, ipv6, nd, tcp


def dad_probe(mac: bytes, target: bytes, random: Random) -> bytes:
    """A Neighbor Solicitation from the unspecified address: somebody else wants `target` (RFC 4862 §5.4.2)."""
    message = nd.NeighborSolicitation(target, (nd.Nonce(random.randbytes(6)),))
    return _solicitation(mac, UNSPECIFIED, target, message)


def resolution(mac: bytes, source: bytes, target: bytes) -> bytes:
    """A Neighbor Solicitation from a unicast address: somebody wants to talk to `target` (RFC 4861 §7.2.2)."""
    return _solicitation(mac, source, target, nd.NeighborSolicitation(target, (nd.SourceLinkLayer(mac),)))


def _solicitation(mac: bytes, source: bytes, target: bytes, message: nd.NeighborSolicitation) -> bytes:
    group = solicited_node(target)
    body = icmpv6.pack(source, group, icmpv6.Type.NEIGHBOR_SOLICITATION, 0, message.pack())
    packet = ipv6.pack_header(source, group, ipv6.ICMPV6, len(body), hop_limit=255) + body
    return ethernet.header(ethernet.multicast_mac(group), mac) + packet


def knocks(mac: bytes, node_mac: bytes, source: bytes, target: bytes) -> list[bytes]:
    """An echo request and a SYN to `target`, straight to the node's link-layer address, without asking for it first."""
    echo = icmpv6.pack(source, target, icmpv6.Type.ECHO_REQUEST, 0, b"\x12\x67\0\0unimux demo")
    syn = tcp.pack(source, target, 40_000, 80, 1, 0, tcp.SYN, 65_535)
    header = ethernet.header(node_mac, mac)
    return [
        header + ipv6.pack_header(source, target, protocol, len(body)) + body
        for protocol, body in ((ipv6.ICMPV6, echo), (ipv6.TCP, syn))
    ]


def inject(interface: Interface, frames: Sequence[bytes]) -> None:
    """Send frames out of an interface, as its host would."""
    with in_namespace(interface.namespace):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind((interface.name, 0))
        for frame in frames:
            raw.send(frame)


async def ping(where: Interface, target: str, *, count: int = 1, wait: float = 1.0) -> bool:
    """Whether the target answers an echo request sent from the interface's namespace, within `wait` seconds each."""
    return await asyncio.to_thread(_ping, where, target, count, wait)


def _ping(where: Interface, target: str, count: int, wait: float) -> bool:
    with in_namespace(where.namespace):
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with raw:
        raw.settimeout(wait)
        for sequence in range(count):
            header = (
                bytes((icmpv6.Type.ECHO_REQUEST, 0, 0, 0)) + (4711).to_bytes(2, "big") + sequence.to_bytes(2, "big")
            )
            try:
                raw.sendto(header + b"unimux demo", (target, 0))
                while True:
                    data, sender = raw.recvfrom(2048)
                    if data[0] == icmpv6.Type.ECHO_REPLY and sender[0] == target:
                        return True
            except OSError:
                continue
    return False
