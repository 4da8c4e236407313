"""Cutting a packet into fragments at its source (RFC 8200 §4.5)."""

from __future__ import annotations

from collections.abc import Iterator

from ..wire import WireError, ipv6


def fragments(
    src: bytes,
    dst: bytes,
    next_header: int,
    payload: bytes,
    mtu: int,
    identification: int,
    hop_limit: int,
    flow_label: int,
) -> Iterator[bytes]:
    """The packets that carry `payload`, each at most `mtu` bytes; raises `WireError` for a payload that no packet holds.

    identification: 32 bits that do not repeat between the two addresses while the packet may be on its way, and that
    tell nothing of other packets of this node (UM-GEN-7).
    """
    if len(payload) > ipv6.MAXIMUM_PAYLOAD:
        raise WireError(f"{len(payload)} bytes do not fit one packet")
    room = (mtu - ipv6.HEADER_LENGTH - ipv6.FRAGMENT_LENGTH) & ~7
    for offset in range(0, len(payload), room):
        piece = payload[offset : offset + room]
        more = offset + room < len(payload)
        length = ipv6.FRAGMENT_LENGTH + len(piece)
        header = ipv6.pack_header(src, dst, ipv6.FRAGMENT, length, hop_limit, flow_label=flow_label)
        yield header + ipv6.Fragment(next_header, offset, more, identification).pack() + piece
