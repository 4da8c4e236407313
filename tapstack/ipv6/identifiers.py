"""Interface identifiers of the addresses that stay: stable, yet different in every prefix (RFC 7217, RFC 5453)."""

from __future__ import annotations

import hashlib
import hmac

RESERVED_IDENTIFIERS = (
    (0x0000_0000_0000_0000, 0x0000_0000_0000_0000),  # subnet-router anycast, RFC 4291 §2.6.1
    (0x0200_5EFF_FE00_0000, 0x0200_5EFF_FEFF_FFFF),  # the IANA Ethernet block (RFC 9542; proxy mobile IPv6, RFC 6543)
    (0xFDFF_FFFF_FFFF_FF80, 0xFDFF_FFFF_FFFF_FFFF),  # reserved subnet anycast, RFC 2526
)
"""The IANA registry that RFC 5453 opened, as (first, last) of 64-bit interface identifiers."""


def is_reserved(identifier: int) -> bool:
    """Whether a 64-bit interface identifier must not be given to a node (RFC 5453 §3, RFC 4291 §2.6.1).

    >>> is_reserved(0), is_reserved(1), is_reserved(0xFDFFFFFFFFFFFFFE)
    (True, False, True)
    """
    return any(first <= identifier <= last for first, last in RESERVED_IDENTIFIERS)


def stable_address(prefix: bytes, secret: bytes, counter: int = 0, network: bytes = b"") -> bytes:
    """The address that a node with this secret always forms in a /64 (RFC 7217 §5).

    prefix: 16 bytes, of which the first 8 count.  counter: raised after each conflict (DAD_Counter).
    network: tells networks with the same prefix apart (Network_ID), empty where nothing does.
    """
    draw = 0
    while True:
        message = b"".join(
            (prefix[:8], len(network).to_bytes(2, "big"), network, counter.to_bytes(4, "big"), draw.to_bytes(4, "big"))
        )
        identifier = hmac.new(secret, message, hashlib.sha256).digest()[:8]
        if not is_reserved(int.from_bytes(identifier, "big")):
            return prefix[:8] + identifier
        draw += 1
