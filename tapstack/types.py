"""The few type names that every room of tapstack shares.

Inside tapstack an IPv6 address is its 16 network-order bytes and a link-layer address its 6: both are
slices of a frame and keys of a dict without conversion.  Times are float seconds of the caller's clock.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from socket import AF_INET6, inet_ntop
from typing import TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview
"""Bytes that are read, never written."""

Frame: TypeAlias = list[Buffer]
"""One outgoing frame as the pieces that `writev` joins; the first piece begins with the virtio header where the link has one."""

UNSPECIFIED = bytes(16)
LOOPBACK = IPv6Address("::1").packed
DYNAMIC_PORTS = range(49152, 65536)
"""Where the stack chooses ports (RFC 6335 §6)."""
PORT_ATTEMPTS = 64
"""Ports that are tried before an address counts as full."""
ALL_NODES = IPv6Address("ff02::1").packed
ALL_ROUTERS = IPv6Address("ff02::2").packed
MLDV2_REPORTS = IPv6Address("ff02::16").packed
_IPV4_INSIDE = bytes(10)
_SOLICITED_NODE_PREFIX = IPv6Address("ff02::1:ff00:0").packed[:13]


def address(text: str | bytes | IPv6Address) -> bytes:
    """The 16 bytes of an address given as text, bytes or `IPv6Address`.

    >>> address("2001:db8::1").hex()
    '20010db8000000000000000000000001'
    """
    if isinstance(text, bytes):
        if len(text) != 16:
            raise ValueError(f"an IPv6 address has 16 bytes, not {len(text)}")
        return text
    return IPv6Address(text).packed


def address_text(packed: bytes) -> str:
    """The RFC 5952 text of 16 address bytes.

    >>> address_text(address("2001:db8:0:0:1:0:0:1")), address_text(address("::ffff:192.0.2.1"))
    ('2001:db8::1:0:0:1', '::ffff:c000:201')
    """
    if packed.startswith(_IPV4_INSIDE):  # the C library would write the end of these in dots
        return str(IPv6Address(packed))
    return inet_ntop(AF_INET6, packed)


def check_port(port: int | None) -> None:
    """Raise OverflowError for what is no port number, as the kernel's sockets do; None is no choice, which is fine."""
    if port is not None and not 0 <= port < 1 << 16:
        raise OverflowError(f"a port is a number from 0 to 65535, not {port}")


def is_multicast(addr: bytes) -> bool:
    """Whether the address is in ff00::/8 (RFC 4291 §2.7)."""
    return addr[0] == 0xFF


def valid_peer(addr: bytes) -> bool:
    """Whether `addr` can be a peer's: no group, nor the unspecified or the loopback one (RFC 4291 §2.5.2, §2.5.3).

    >>> [valid_peer(address(text)) for text in ("2001:db8::1", "ff02::1", "::", "::1")]
    [True, False, False, False]
    """
    return not is_multicast(addr) and addr != UNSPECIFIED and addr != LOOPBACK


def is_link_local(addr: bytes) -> bool:
    """Whether the address is in fe80::/10 (RFC 4291 §2.5.6)."""
    return addr[0] == 0xFE and addr[1] & 0xC0 == 0x80


def solicited_node(addr: bytes) -> bytes:
    """The solicited-node multicast address of `addr` (RFC 4291 §2.7.1).

    >>> address_text(solicited_node(address("2001:db8::12:3456")))
    'ff02::1:ff12:3456'
    """
    return _SOLICITED_NODE_PREFIX + addr[13:]
