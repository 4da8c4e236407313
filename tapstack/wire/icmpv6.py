"""ICMPv6 messages: errors and echo (RFC 4443); nd.py and mld.py read the bodies of their own types.

```
  0                   1                   2                   3
  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |     Type      |     Code      |           Checksum            |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  body ...

 The body of an error (types 0 … 127):
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  Info: the MTU (type 2), the Pointer (type 4); else           |
 |  Length (RFC 4884)  and 3 unused bytes                        |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  as much of the packet in error as fits 1280 bytes in all     |
 |  ...

 The body of an echo (types 128, 129):
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |          Identifier           |        Sequence Number        |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  data ...
```
`parse` does not check the checksum, since that needs the IPv6 header: use `checksum.valid` first.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from ..types import Buffer
from . import checksum, ipv6
from .error import WireError

HEADER_LENGTH = 4
MAXIMUM_QUOTE = ipv6.MINIMUM_MTU - ipv6.HEADER_LENGTH - HEADER_LENGTH - 4
"""Bytes of the packet in error that an error message can carry (RFC 4443 §2.4 (c))."""

_HEADER = struct.Struct("!BBH")
_WORD = struct.Struct("!I")
_ECHO = struct.Struct("!HH")


class Type(IntEnum):
    """The message types that tapstack reads or writes; a type below 128 is an error (RFC 4443 §2.1)."""

    DESTINATION_UNREACHABLE = 1
    PACKET_TOO_BIG = 2
    TIME_EXCEEDED = 3
    PARAMETER_PROBLEM = 4
    ECHO_REQUEST = 128
    ECHO_REPLY = 129
    MLD_QUERY = 130
    MLD_REPORT_V1 = 131
    MLD_DONE_V1 = 132
    ROUTER_SOLICITATION = 133
    ROUTER_ADVERTISEMENT = 134
    NEIGHBOR_SOLICITATION = 135
    NEIGHBOR_ADVERTISEMENT = 136
    REDIRECT = 137
    MLD_REPORT_V2 = 143


class UnreachableCode(IntEnum):
    """Codes of Destination Unreachable (RFC 4443 §3.1)."""

    NO_ROUTE = 0
    PROHIBITED = 1
    BEYOND_SCOPE = 2
    ADDRESS = 3
    PORT = 4
    SOURCE_POLICY = 5
    REJECT_ROUTE = 6


class TimeExceededCode(IntEnum):
    """Codes of Time Exceeded (RFC 4443 §3.3)."""

    HOP_LIMIT = 0
    REASSEMBLY = 1


class ParameterProblemCode(IntEnum):
    """Codes of Parameter Problem (RFC 4443 §3.4; FIRST_FRAGMENT: RFC 7112 §5)."""

    HEADER_FIELD = 0
    NEXT_HEADER = 1
    OPTION = 2
    FIRST_FRAGMENT = 3


_EXTENSIBLE = (Type.DESTINATION_UNREACHABLE, Type.TIME_EXCEEDED)


class Icmpv6(NamedTuple):
    """A message; `type` compares equal to its `Type` member, `body` is what follows the checksum."""

    type: int
    code: int
    body: memoryview

    @property
    def is_error(self) -> bool:
        """Whether the type is one of an error message."""
        return self.type < 128


def parse(view: Buffer) -> Icmpv6:
    """Read the message that fills `view`."""
    if len(view) < HEADER_LENGTH:
        raise WireError(f"an ICMPv6 message has {HEADER_LENGTH} bytes at least, here are {len(view)}")
    return Icmpv6(view[0], view[1], memoryview(view)[HEADER_LENGTH:])


def pack(src: bytes, dst: bytes, type: int, code: int, body: Buffer) -> bytes:
    """The bytes of a message with its checksum, for the addresses it will travel between."""
    total = checksum.pseudo_header(src, dst, HEADER_LENGTH + len(body), ipv6.ICMPV6)
    total += (type << 8 | code) + checksum.residue(body)
    return _HEADER.pack(type, code, checksum.field(total)) + body


# -- errors --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ErrorMessage:
    """An ICMPv6 error.

    info: the MTU in bytes (Packet Too Big), the offset into the packet in bytes (Parameter Problem), else 0.
    quoted: the packet in error from its IPv6 header on, most often cut short.
    """

    type: int
    code: int
    info: int
    quoted: memoryview


def parse_error(message: Icmpv6) -> ErrorMessage:
    """Read the body of an error message.

    An extension structure behind the quoted packet is left out (RFC 4884 §4.4, §4.5).
    """
    if not message.is_error:
        raise WireError(f"ICMPv6 type {message.type} is not an error")
    body = message.body
    if len(body) < 4:
        raise WireError(f"the body of an ICMPv6 error has 4 bytes at least, here are {len(body)}")
    info: int
    (info,) = _WORD.unpack_from(body)
    quoted = body[4:]
    if message.type in _EXTENSIBLE:
        length = (info >> 24) * 8
        if length:
            quoted = quoted[:length]
        info = 0
    return ErrorMessage(message.type, message.code, info, quoted)


def pack_error(src: bytes, dst: bytes, type: int, code: int, info: int, packet: Buffer) -> bytes:
    """An error about `packet`, given from its IPv6 header on; `info` as in `ErrorMessage`, 0 where there is none."""
    return pack(src, dst, type, code, _WORD.pack(info) + packet[:MAXIMUM_QUOTE])


def destination_unreachable(src: bytes, dst: bytes, code: UnreachableCode, packet: Buffer) -> bytes:
    """`packet` cannot be delivered (RFC 4443 §3.1)."""
    return pack_error(src, dst, Type.DESTINATION_UNREACHABLE, code, 0, packet)


# -- echo ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Echo:
    """The body of an Echo Request or Reply (RFC 4443 §4)."""

    identifier: int
    sequence: int
    data: bytes = b""

    @classmethod
    def parse(cls, body: Buffer) -> Echo:
        """Read the body of a message of type 128 or 129."""
        if len(body) < 4:
            raise WireError(f"the body of an echo has 4 bytes at least, here are {len(body)}")
        identifier, sequence = _ECHO.unpack_from(body)
        return cls(identifier, sequence, bytes(body[4:]))

    def pack(self) -> bytes:
        """The body, to be given to `pack` of this module."""
        return _ECHO.pack(self.identifier, self.sequence) + self.data
