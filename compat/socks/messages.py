"""The values and formats of RFC 1928, and what the three front-end protocols have in common: a request.

+----+-----+-------+------+----------+----------+     +----+------+------+----------+----------+----------+
|VER | CMD |  RSV  | ATYP | DST.ADDR | DST.PORT |     |RSV | FRAG | ATYP | DST.ADDR | DST.PORT |   DATA   |
+----+-----+-------+------+----------+----------+     +----+------+------+----------+----------+----------+
  a request; a reply has REP for CMD                    a datagram (§7)
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum, StrEnum

from compat.socks.session import Session
from tapstack.types import Buffer

SOCKS5 = 5
SOCKS4 = 4
PASSWORD_VERSION = 1
MAX_NAME = 255
"""Bytes of a host name, in every one of the protocols."""


class Dialect(StrEnum):
    """Which protocol a client speaks."""

    SOCKS5 = "socks5"
    SOCKS4 = "socks4"
    HTTP = "http"


class Method(IntEnum):
    """Authentication methods (RFC 1928 §3)."""

    NONE = 0x00
    GSSAPI = 0x01
    PASSWORD = 0x02
    NO_ACCEPTABLE = 0xFF


class Command(IntEnum):
    """What a client asks for (RFC 1928 §4)."""

    CONNECT = 0x01
    BIND = 0x02
    UDP_ASSOCIATE = 0x03


class AddressType(IntEnum):
    """ATYP (RFC 1928 §5)."""

    IPV4 = 0x01
    NAME = 0x03
    IPV6 = 0x04


class Reply(IntEnum):
    """REP (RFC 1928 §6)."""

    SUCCEEDED = 0x00
    GENERAL_FAILURE = 0x01
    NOT_ALLOWED = 0x02
    NETWORK_UNREACHABLE = 0x03
    HOST_UNREACHABLE = 0x04
    CONNECTION_REFUSED = 0x05
    TTL_EXPIRED = 0x06
    COMMAND_NOT_SUPPORTED = 0x07
    ADDRESS_TYPE_NOT_SUPPORTED = 0x08


class MalformedError(ValueError):
    """Bytes that are not what the protocol says."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a client wants, after it has authenticated.

    host: a name, or an address as text, as the client gave it; port: 0 to 65535.
    user: the name it gave, without the session part; empty if it gave none.
    """

    dialect: Dialect
    command: Command
    address_type: AddressType
    host: str
    port: int
    user: str = ""
    session: Session | None = None


def host_text(raw: bytes) -> str:
    """A host as it stands in a message, as text; raises `MalformedError` for what no host can be.

    >>> host_text(b"example.org"), host_text(b"[2001:db8::1]")
    ('example.org', '2001:db8::1')
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise MalformedError("a host name that is not UTF-8") from None
    if text.startswith("[") and text.endswith("]"):
        text = text[1:-1]
    if not text or len(raw) > MAX_NAME or any(c <= " " or c == "\x7f" for c in text):
        raise MalformedError("a host name that cannot be one")
    return text


def address_type(host: str) -> AddressType:
    """What kind of address `host` is.

    >>> address_type("192.0.2.1").name, address_type("2001:db8::1").name, address_type("example.org").name
    ('IPV4', 'IPV6', 'NAME')
    """
    try:
        return AddressType.IPV4 if ipaddress.ip_address(host).version == 4 else AddressType.IPV6
    except ValueError:
        return AddressType.NAME


def pack_address(host: str, port: int) -> bytes:
    """ATYP, address and port; `host` is a name or an address (RFC 1928 §5).

    >>> pack_address("2001:db8::1", 80).hex()
    '0420010db80000000000000000000000010050'
    """
    kind = address_type(host)
    if kind is AddressType.NAME:
        name = host.encode()
        if not 0 < len(name) <= MAX_NAME:
            raise ValueError(f"a host name has 1 to {MAX_NAME} bytes")
        packed = bytes([len(name)]) + name
    else:
        packed = ipaddress.ip_address(host.partition("%")[0]).packed
    return bytes([kind]) + packed + struct.pack("!H", port)


def pack_reply(reply: Reply, host: str = "::", port: int = 0) -> bytes:
    """A SOCKS5 reply; `host` and `port` are BND.ADDR and BND.PORT (RFC 1928 §6)."""
    return bytes([SOCKS5, reply, 0]) + pack_address(host, port)


@dataclass(frozen=True, slots=True)
class UdpDatagram:
    """A datagram of a UDP association, with its RFC 1928 §7 header parsed."""

    fragment: int
    host: str
    port: int
    data: memoryview


def parse_datagram(packet: Buffer) -> UdpDatagram:
    """Parse what a client sent to its UDP relay; raises `MalformedError`."""
    view = memoryview(packet)
    if len(view) < 4 or view[0] or view[1]:
        raise MalformedError("not a SOCKS datagram")
    fragment, kind = view[2], view[3]
    if kind == AddressType.NAME:
        start, length = 5, view[4] if len(view) > 4 else 0
    elif kind in (AddressType.IPV4, AddressType.IPV6):
        start, length = 4, 4 if kind == AddressType.IPV4 else 16
    else:
        raise MalformedError("an unknown address type")
    end = start + length
    if len(view) < end + 2:
        raise MalformedError("a truncated SOCKS datagram")
    raw = bytes(view[start:end])
    host = host_text(raw) if kind == AddressType.NAME else str(ipaddress.ip_address(raw))
    return UdpDatagram(fragment, host, int.from_bytes(view[end : end + 2]), view[end + 2 :])


def pack_datagram(host: str, port: int, data: Buffer) -> bytes:
    """A datagram for a client, from `host` and `port` (RFC 1928 §7)."""
    return b"".join((b"\0\0\0", pack_address(host, port), data))
