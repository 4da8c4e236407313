"""The Internet checksum as arithmetic modulo 65535 (RFC 1071).

The ones' complement sum of 16-bit words is the number that the bytes spell, modulo 2^16 - 1, because
2^16 ≡ 1.  CPython computes that remainder of a big integer at several GB/s, faster than any loop, and
for short data faster than numpy's call.

A *residue* is such a remainder.  A piece that starts at an odd offset counts 256-fold.
The all-zero sum never occurs in practice: every pseudo-header has a non-zero next header.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..types import Buffer

_from_bytes = int.from_bytes


def residue(data: Buffer) -> int:
    """The ones' complement sum of `data`, odd lengths padded with a zero byte, as 0 … 65534.

    >>> hex(residue(bytes.fromhex("0001f203f4f5f6f7")))  # the example of RFC 1071 §3
    '0xddf2'
    """
    if len(data) & 1:
        return (_from_bytes(data, "big") << 8) % 65535
    return _from_bytes(data, "big") % 65535


def residue_of(pieces: Iterable[Buffer]) -> int:
    """The residue of the concatenation of `pieces`, whatever their lengths."""
    total = 0
    odd = False
    for piece in pieces:
        part = residue(piece)
        total += part << 8 if odd else part
        if len(piece) & 1:
            odd = not odd
    return total % 65535


def pseudo_header(src: bytes, dst: bytes, length: int, next_header: int) -> int:
    """The residue of the IPv6 pseudo-header (RFC 8200 §8.1); `length` is that of the upper-layer packet in bytes."""
    return (_from_bytes(src, "big") + _from_bytes(dst, "big") + length + next_header) % 65535


def field(total: int) -> int:
    """The checksum to write, for the residue of pseudo-header and packet with a zero checksum field."""
    return 65535 - (total % 65535 or 65535)


def valid(src: bytes, dst: bytes, next_header: int, data: Buffer) -> bool:
    """Whether an upper-layer packet carries the right checksum."""
    return (pseudo_header(src, dst, len(data), next_header) + residue(data)) % 65535 == 0
