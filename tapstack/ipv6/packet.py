"""What the IPv6 host hands up: received packets and ICMPv6 errors about sent ones."""

from __future__ import annotations

from ..types import address_text
from .addresses import AddressEntry


class NoRouteError(OSError):
    """There is no way to a destination: no on-link prefix, no route and no default router covers it."""

    def __init__(self, dst: bytes, why: str = "no router and no on-link prefix leads there") -> None:
        super().__init__(f"no route to {address_text(dst)}: {why}")
        self.dst = dst


def traffic_class(whole: memoryview) -> int:
    """The traffic class of an IPv6 packet: DSCP in the upper six bits, ECN in the lower two (RFC 8200 §7, RFC 3168 §5)."""
    return (whole[0] << 4 | whole[1] >> 4) & 0xFF


class Packet:
    """A received IPv6 packet after its extension headers.

    entry: the entry of `dst` in the address table; None when `dst` is multicast.
    payload: from the upper-layer header on, trimmed to the payload length.
    checksum_trusted: the virtio header vouches for the TCP or UDP checksum.
    gso_size: payload bytes per original segment of a super-segment, from the virtio header; 0 if it is none.
    whole: the IPv6 packet, for quoting in ICMPv6 errors.
    next_header_at: offset in `whole` of the field that named `next_header`, for Parameter Problem.
    link_group: the frame was addressed to a group or broadcast at the link (RFC 4443 §2.4 (e.4)).
    fragmented: the packet carried a Fragment header (RFC 6980).
    looped: this node sent it to itself; from the link, a packet with a source of ours is a lie.
    """

    __slots__ = (
        "checksum_trusted",
        "dst",
        "entry",
        "fragmented",
        "gso_size",
        "hop_limit",
        "link_group",
        "looped",
        "next_header",
        "next_header_at",
        "payload",
        "router_alert",
        "src",
        "traffic_class",
        "whole",
    )

    def __init__(self, src: bytes, dst: bytes, entry: AddressEntry | None, whole: memoryview) -> None:
        self.src = src
        self.dst = dst
        self.entry = entry
        self.whole = whole
        self.next_header = whole[6]
        self.next_header_at = 6
        self.hop_limit = whole[7]
        self.traffic_class = traffic_class(whole)
        self.payload = whole[40:]
        self.checksum_trusted = False
        self.gso_size = 0
        self.link_group = False
        self.fragmented = False
        self.looped = False
        self.router_alert = False

    def __repr__(self) -> str:
        return f"<Packet {address_text(self.src)} → {address_text(self.dst)} next header {self.next_header}>"


class IcmpError:
    """An ICMPv6 error about a packet that this node sent.

    info: the MTU of Packet Too Big, the pointer of Parameter Problem, otherwise 0.
    reporter: who sent the error; one of our own addresses when address resolution failed here.
    src, dst, next_header, payload: of the quoted packet: `src` is ours, `payload` the quoted upper-layer bytes, at
    least 8.
    Path MTUs change only when the upper layer finds the quoted bytes genuine and calls `Host.accept_path_mtu`.
    """

    __slots__ = ("code", "dst", "info", "next_header", "payload", "reporter", "src", "type")

    def __init__(
        self,
        type: int,
        code: int,
        info: int,
        reporter: bytes,
        src: bytes,
        dst: bytes,
        next_header: int,
        payload: memoryview,
    ) -> None:
        self.type = type
        self.code = code
        self.info = info
        self.reporter = reporter
        self.src = src
        self.dst = dst
        self.next_header = next_header
        self.payload = payload

    def __repr__(self) -> str:
        return f"<IcmpError {self.type}/{self.code} about {address_text(self.src)} → {address_text(self.dst)}>"
