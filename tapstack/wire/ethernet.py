"""The Ethernet header as IPv6 uses it (RFC 2464).

```
  0                   1                   2                   3
  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |                      Destination address                      |
 +                               +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |                               |                               |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+                               +
 |                        Source address                         |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |           EtherType           |  IPv6 packet ...
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-
```
An IPv6 multicast group has a link-layer address of its own, 33:33 and the last four bytes of the group
(RFC 2464 §7), so a group is never resolved.  VLAN tags are the business of the link, not of the stack.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..types import Buffer
from .error import WireError

HEADER_LENGTH = 14
ADDRESS_LENGTH = 6

IPV6 = 0x86DD
"""The EtherType of IPv6 (RFC 2464 §3)."""

_IPV6_BYTES = IPV6.to_bytes(2, "big")
_MULTICAST_PREFIX = b"\x33\x33"


@dataclass(frozen=True, slots=True)
class EthernetHeader:
    """The 14 bytes in front of a packet; `dst` and `src` are 6 bytes each."""

    dst: bytes
    src: bytes
    ethertype: int

    @classmethod
    def parse(cls, view: Buffer) -> EthernetHeader:
        """Read the header at the start of `view`; what follows it is not looked at."""
        if len(view) < HEADER_LENGTH:
            raise WireError(f"an Ethernet header has {HEADER_LENGTH} bytes, here are {len(view)}")
        return cls(bytes(view[:6]), bytes(view[6:12]), view[12] << 8 | view[13])

    def pack(self) -> bytes:
        """The 14 bytes of the header."""
        return header(self.dst, self.src, self.ethertype)


def header(dst: bytes, src: bytes, ethertype: int = IPV6) -> bytes:
    """The 14 bytes of a header; raises `WireError` for an address that has not 6 bytes.

    >>> header(bytes.fromhex("333300000001"), bytes.fromhex("020000000001")).hex(" ", 2)
    '3333 0000 0001 0200 0000 0001 86dd'
    """
    if len(dst) != ADDRESS_LENGTH or len(src) != ADDRESS_LENGTH:
        raise WireError(f"link-layer addresses have 6 bytes, not {len(dst)} and {len(src)}")
    return dst + src + (_IPV6_BYTES if ethertype == IPV6 else ethertype.to_bytes(2, "big"))


def multicast_mac(ipv6_group: bytes) -> bytes:
    """The link-layer address of an IPv6 multicast group (RFC 2464 §7).

    >>> multicast_mac(bytes.fromhex("ff0200000000000000000001ff123456")).hex(":")
    '33:33:ff:12:34:56'
    """
    return _MULTICAST_PREFIX + ipv6_group[12:16]


def is_group(mac: Buffer) -> bool:
    """Whether a link-layer address means more than one station: the I/G bit, set in multicast and broadcast."""
    return bool(mac[0] & 1)
