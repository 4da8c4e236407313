"""SYN cookies: a handshake that costs no memory until it completes (RFC 4987 §3.6).

Model.  When a listener's table of half-open handshakes is full, its SYN-ACK carries everything that the ACK must bring back:

    ISN (32 bits)        29 bits of a keyed hash | 3 bits: index of the MSS in `MSS_TABLE`
    TSval, low 6 bits    window scale (4; 15: none) | SACK permitted | ECN

The hash covers addresses, ports, the peer's ISN, the option bits, the MSS index and a counter of `PERIOD` seconds; the
current and the last value of the counter are accepted, so a cookie lives one to two periods.  A peer without timestamps
gets neither window scaling nor SACK, since nothing would bring them back.

A blind guess completes a handshake with probability 2⁻²⁵ (two counters, eight indices).

What a cookie cannot do, here as in every kernel: when the client's ACK is lost, nobody remembers to repeat the SYN-ACK.
The client's first data repairs it, or its first keep-alive probe; a client that waits for the server to speak first, without
keep-alive, waits until its program gives up.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..wire.tcp import Options
from .sequence import MASK

PERIOD = 64.0
MSS_TABLE = (64, 536, 1220, 1360, 1420, 1440, 4036, 8940)
_INDEX_BITS = 3
_NO_SCALE = 15
_SACK = 0x10
_ECN = 0x20
OPTION_MASK = 0x3F


@dataclass(frozen=True, slots=True)
class Cookie:
    """What a cookie brings back: the options that the peer's SYN carried, as far as they fit, and whether it asked for ECN."""

    options: Options
    ecn: bool


def option_bits(options: Options, ecn: bool) -> int:
    """The six bits for TSval."""
    scale = _NO_SCALE if options.window_scale is None else min(options.window_scale, 14)
    return scale | (_SACK if options.sack_permitted else 0) | (_ECN if ecn else 0)


def mark(value: int, bits: int) -> int:
    """`value`, a timestamp, with its low bits replaced, not later than it was.

    >>> hex(mark(0x1234567, 0x15)), hex(mark(0x1000, 0x3f))
    ('0x1234555', '0xfff')
    """
    marked = value & ~OPTION_MASK | bits
    return (marked if marked <= value else marked - OPTION_MASK - 1) & MASK


def make(secret: bytes, key: bytes, peer_isn: int, options: Options, bits: int, now: float) -> int:
    """The ISN for a SYN-ACK; `key` identifies the handshake (addresses, and ports where they are read)."""
    wanted = options.mss or MSS_TABLE[1]
    index = max((i for i, mss in enumerate(MSS_TABLE) if mss <= wanted), default=0)
    return _code(secret, key, peer_isn, bits, index, int(now / PERIOD))


def check(
    secret: bytes, key: bytes, isn: int, peer_isn: int, stamp: tuple[int, int] | None, now: float
) -> Cookie | None:
    """What the cookie `isn`, acknowledged by a segment with the timestamp `stamp`, says; None when it is not one of ours."""
    bits = stamp[1] & OPTION_MASK if stamp is not None else _NO_SCALE
    index = isn & (1 << _INDEX_BITS) - 1
    counter = int(now / PERIOD)
    if isn not in (_code(secret, key, peer_isn, bits, index, c) for c in (counter, counter - 1)):
        return None
    scale = bits & 0x0F
    return Cookie(
        Options(
            mss=MSS_TABLE[index],
            window_scale=None if scale == _NO_SCALE else scale,
            sack_permitted=bool(bits & _SACK),
            timestamp=stamp,
        ),
        bool(bits & _ECN),
    )


def _code(secret: bytes, key: bytes, peer_isn: int, bits: int, index: int, counter: int) -> int:
    text = key + peer_isn.to_bytes(4, "big") + bytes((bits, index)) + (counter & 0xFFFFFFFFFFFF).to_bytes(6, "big")
    digest = hashlib.blake2b(text, key=secret, digest_size=4, person=b"cookie").digest()
    return int.from_bytes(digest, "big") & ~((1 << _INDEX_BITS) - 1) & MASK | index
