"""Numbers that must not link two sessions of one node (RFC 6528, RFC 7323 §5.4, RFC 6437; UM-GEN-7, UM-PORT-10)."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from .sequence import MASK


class SessionNumbers(NamedTuple):
    """What a new connection writes: ISN, timestamp offset and flow label."""

    isn: int
    timestamp_offset: int
    flow_label: int


def session_numbers(secret: bytes, key: bytes, now: float) -> SessionNumbers:
    """The numbers of the connection `key` (remote and local address and ports, any layout), under `secret`.

    The ISN is the 4-microsecond clock plus a keyed hash of the key (RFC 6528 §3); the others are parts of the same hash, so
    they are independent from one address pair to the next.
    """
    digest = hashlib.blake2b(key, key=secret, digest_size=11).digest()
    return SessionNumbers(
        (int.from_bytes(digest[0:4], "big") + int(now * 250_000)) & MASK,
        int.from_bytes(digest[4:8], "big"),
        int.from_bytes(digest[8:11], "big") & 0xFFFFF,
    )
