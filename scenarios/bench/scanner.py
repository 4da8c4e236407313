"""Scans a /64 with raw frames at a given rate, until its standard input ends: the attacker of P-18.

    python -I -S scanner.py INTERFACE KIND RATE NODE_MAC NODE_LINK_LOCAL PREFIX

KIND is on-link (address resolution of random addresses, solicitations of spoofed neighbours to the node, echo requests to random
addresses) or off-link (SYN, echo request and datagram to random addresses, from afar, as a router delivers them).  It says
{"begun": true} and at the end {"sent": frames, "seconds": s}.  It imports nothing of this project.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle

TCP, UDP, ICMPV6 = 6, 17, 58
OUR_MAC = bytes.fromhex("020000005ca4")
AFAR = socket.inet_pton(socket.AF_INET6, "2001:db8:ffff::")[:8]


def packet(src: bytes, dst: bytes, protocol: int, payload: bytes, checksum_at: int, hop_limit: int = 64) -> bytes:
    """An IPv6 packet; the checksum of the payload is written at `checksum_at`."""
    pseudo = src + dst + struct.pack("!II", len(payload), protocol)
    whole = pseudo + payload + bytes(len(payload) & 1)
    total = sum(struct.unpack(f"!{len(whole) // 2}H", whole))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = payload[:checksum_at] + struct.pack("!H", ~total & 0xFFFF) + payload[checksum_at + 2 :]
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hop_limit) + src + dst + body


def on_link(node_mac: bytes, node: bytes, prefix: bytes) -> Iterator[bytes]:
    """What a scanner on the link sends, without end."""

    def anybody() -> bytes:
        return prefix + os.urandom(8)

    def solicitation(target: bytes, dst: bytes, mac: bytes) -> bytes:
        body = struct.pack("!BBHI", 135, 0, 0, 0) + target + b"\x01\x01" + OUR_MAC
        return frame(mac, packet(anybody(), dst, ICMPV6, body, 2, 255))

    def resolve() -> bytes:
        target = anybody()
        group = bytes.fromhex("ff0200000000000000000001ff") + target[13:]
        return solicitation(target, group, b"\x33\x33" + group[12:])

    def spoof() -> bytes:
        return solicitation(node, node, node_mac)

    def ping() -> bytes:
        return frame(node_mac, packet(anybody(), anybody(), ICMPV6, struct.pack("!BBHI", 128, 0, 0, 1), 2))

    return endless(resolve, spoof, ping)


def off_link(node_mac: bytes, prefix: bytes) -> Iterator[bytes]:
    """What a router delivers of a scan from outside, without end."""

    def to(protocol: int, payload: bytes, checksum_at: int) -> bytes:
        return frame(node_mac, packet(AFAR + os.urandom(8), prefix + os.urandom(8), protocol, payload, checksum_at))

    return endless(
        lambda: to(TCP, struct.pack("!HHIIHHHH", 40000, 80, 1, 0, 5 << 12 | 2, 65535, 0, 0), 16),
        lambda: to(ICMPV6, struct.pack("!BBHI", 128, 0, 0, 1), 2),
        lambda: to(UDP, struct.pack("!HHHH", 40000, 53, 8, 0), 6),
    )


def endless(*makers: Callable[[], bytes]) -> Iterator[bytes]:
    """What they make, in turn."""
    return (make() for make in cycle(makers))


def frame(mac: bytes, content: bytes) -> bytes:
    """An Ethernet frame."""
    return mac + OUR_MAC + b"\x86\xdd" + content


def main(interface: str, kind: str, rate: str, mac: str, node: str, prefix: str) -> None:
    """Scan."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind((interface, 0))
    node_mac, beginning = bytes.fromhex(mac), socket.inet_pton(socket.AF_INET6, prefix)[:8]
    if kind == "on-link":
        frames = on_link(node_mac, socket.inet_pton(socket.AF_INET6, node), beginning)
    else:
        frames = off_link(node_mac, beginning)
    link.send(next(frames))  # so that nobody's work is over before the scan has begun
    began, sent = time.monotonic(), 1
    print(json.dumps({"begun": True}), flush=True)
    while not select.select([sys.stdin], [], [], 0.005)[0]:
        due = int((time.monotonic() - began) * float(rate))
        while sent < due:
            try:
                link.send(next(frames))
            except OSError:  # the queue is full: that one is lost
                pass
            sent += 1
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
