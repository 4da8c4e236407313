"""The virtio network header that precedes each frame of a TAP with IFF_VNET_HDR (virtio 1.2 §5.1.6).

```
 0        1          2           4           6             8             10
 +--------+----------+-----------+-----------+-------------+-------------+
 | flags  | gso type | hdr_len   | gso_size  | csum_start  | csum_offset |
 +--------+----------+-----------+-----------+-------------+-------------+
```
The 16-bit fields are in the byte order of the machine (the TAP's default, "legacy" layout).
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

from ..types import Buffer
from . import checksum, udp
from .error import WireError

HEADER_LENGTH = 10
PLAIN = bytes(HEADER_LENGTH)
"""A frame of ordinary size whose checksum is complete."""

NEEDS_CSUM = 1
DATA_VALID = 2
GSO_NONE = 0
GSO_TCPV6 = 4
GSO_ECN = 0x80

FORMAT = "BBHHHH"
BYTE_ORDER = "<" if sys.byteorder == "little" else ">"
_header = struct.Struct(BYTE_ORDER + FORMAT)


@dataclass(frozen=True, slots=True)
class VirtioHeader:
    """flags, GSO type, length of the headers, payload bytes per segment, and where the checksum goes."""

    flags: int = 0
    gso_type: int = GSO_NONE
    header_length: int = 0
    gso_size: int = 0
    checksum_start: int = 0
    checksum_offset: int = 0

    @classmethod
    def parse(cls, view: Buffer) -> VirtioHeader:
        """The header at the start of `view`; `WireError` when there are fewer than 10 bytes."""
        if len(view) < HEADER_LENGTH:
            raise WireError("virtio header truncated")
        return cls(*_header.unpack_from(view))

    def pack(self) -> bytes:
        """The 10 bytes."""
        return _header.pack(
            self.flags, self.gso_type, self.header_length, self.gso_size, self.checksum_start, self.checksum_offset
        )

    @property
    def checksum_trusted(self) -> bool:
        """Whether the sender vouches for the checksum: it never left the machine, or hardware verified it."""
        return bool(self.flags & (NEEDS_CSUM | DATA_VALID))


def read(frame: Buffer) -> tuple[bool, int]:
    """Of a frame that begins with a header: whether its checksum is trusted, and its `gso_size`; without an object."""
    flags, _, _, gso_size, _, _ = _header.unpack_from(frame)
    return flags & (NEEDS_CSUM | DATA_VALID) != 0, gso_size


def completed(frame: bytes) -> bytes:
    """Of a frame that begins with a header: the frame alone, its checksum finished where that was left to the link."""
    flags, _, _, _, start, offset = _header.unpack_from(frame)
    bare = frame[HEADER_LENGTH:]
    at = start + offset
    if not flags & NEEDS_CSUM or at + 2 > len(bare):
        return bare
    field = checksum.field(checksum.residue(bare[start:]))
    if not field and offset == udp.CHECKSUM_OFFSET:  # zero means none (RFC 8200 §8.1); elsewhere it is like any value
        field = 0xFFFF
    return bare[:at] + field.to_bytes(2, "big") + bare[at + 2 :]
