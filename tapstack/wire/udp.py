"""The UDP header (RFC 768), over IPv6 always with a checksum (RFC 8200 §8.1).

```
  0                   1                   2                   3
  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |          Source Port          |       Destination Port        |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |            Length             |           Checksum            |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  payload ...
```
A checksum that computes to zero is sent as 0xFFFF; one that arrives as zero is none, and the packet is to be dropped.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ..types import Buffer
from . import checksum, ipv6
from .error import WireError

HEADER_LENGTH = 8
CHECKSUM_OFFSET = 6

_HEADER = struct.Struct("!HHHH")


@dataclass(frozen=True, slots=True)
class UdpHeader:
    """The header of a datagram; `length` in bytes counts the header too."""

    src_port: int
    dst_port: int
    length: int
    checksum: int

    def pack(self) -> bytes:
        """The 8 bytes of the header."""
        return _HEADER.pack(self.src_port, self.dst_port, self.length, self.checksum)


def parse(view: Buffer) -> UdpHeader:
    """Read the header of the datagram in `view`; the payload is `view[8:length]`.

    Raises `WireError` when the datagram is longer than `view`.  The checksum is not checked: use `checksum.valid`
    over `view[:length]`, and drop a zero one first.
    """
    if len(view) < HEADER_LENGTH:
        raise WireError(f"a UDP header has {HEADER_LENGTH} bytes, here are {len(view)}")
    src_port, dst_port, length, field = _HEADER.unpack_from(view)
    if not HEADER_LENGTH <= length <= len(view):
        raise WireError(f"a UDP datagram of {length} bytes in {len(view)}")
    return UdpHeader(src_port, dst_port, length, field)


def pack(src: bytes, dst: bytes, sport: int, dport: int, payload: Buffer) -> bytes:
    """The 8 bytes of the header that goes in front of `payload`, with its checksum."""
    length = HEADER_LENGTH + len(payload)
    if length > ipv6.MAXIMUM_PAYLOAD:
        raise WireError(f"a UDP datagram cannot have {length} bytes")
    total = checksum.pseudo_header(src, dst, length, ipv6.UDP) + sport + dport + length + checksum.residue(payload)
    return _HEADER.pack(sport, dport, length, checksum.field(total) or 0xFFFF)
