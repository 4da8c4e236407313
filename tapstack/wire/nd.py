"""Neighbor Discovery messages (RFC 4861 §4); their options are in nd_options.py and named here too.

Shown from byte 4 on: type, code and checksum before it are those of every ICMPv6 message, the code is 0.

```
  0                   1                   2                   3
  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 Router Solicitation (133)
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |                           Reserved                            |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 Router Advertisement (134)
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 | Cur Hop Limit |M|O|H|Prf|Resvd|        Router Lifetime        |
 |                        Reachable Time                         |
 |                         Retrans Timer                         |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 Neighbor Solicitation (135)
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |                           Reserved                            |
 |                   Target Address (16 bytes)                   |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 Neighbor Advertisement (136)
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |R|S|O|                     Reserved                            |
 |                   Target Address (16 bytes)                   |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 Redirect (137)
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |                           Reserved                            |
 |                   Target Address (16 bytes)                   |
 |                Destination Address (16 bytes)                 |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  options ...
```
`MESSAGES` maps the type to the class; `parse` uses it.  The rules about hop limit 255, code and addresses
(RFC 4861 §6.1, §7.1, §8.1) are the host's: they need the IPv6 header.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from ..types import Buffer
from .error import WireError
from .icmpv6 import Type
from .nd_options import (
    INFINITY,
    OPTIONS,
    Dnssl,
    Mtu,
    NdOption,
    Nonce,
    OptionType,
    Pref64,
    Preference,
    PrefixInformation,
    RawOption,
    Rdnss,
    RedirectedHeader,
    RouteInformation,
    SourceLinkLayer,
    TargetLinkLayer,
    find,
    find_all,
    pack_options,
    parse_options,
)

__all__ = [
    "INFINITY",
    "MESSAGES",
    "OPTIONS",
    "Dnssl",
    "Message",
    "Mtu",
    "NdOption",
    "NeighborAdvertisement",
    "NeighborSolicitation",
    "Nonce",
    "OptionType",
    "Pref64",
    "Preference",
    "PrefixInformation",
    "RawOption",
    "Rdnss",
    "Redirect",
    "RedirectedHeader",
    "RouteInformation",
    "RouterAdvertisement",
    "RouterSolicitation",
    "SourceLinkLayer",
    "TargetLinkLayer",
    "find",
    "find_all",
    "pack_advertisement",
    "pack_options",
    "parse",
    "parse_options",
]

_ADVERTISEMENT = struct.Struct("!BBHII")
_PREFERENCES = (Preference.MEDIUM, Preference.HIGH, Preference.MEDIUM, Preference.LOW)


def _require(body: Buffer, length: int, name: str) -> None:
    if len(body) < length:
        raise WireError(f"the body of a {name} has {length} bytes at least, here are {len(body)}")


@dataclass(frozen=True, slots=True)
class RouterSolicitation:
    """A host asks for routers (RFC 4861 §4.1)."""

    TYPE: ClassVar[Type] = Type.ROUTER_SOLICITATION

    options: tuple[NdOption, ...] = ()

    @classmethod
    def parse(cls, body: Buffer) -> RouterSolicitation:
        """Read the body of a message of type 133."""
        _require(body, 4, "Router Solicitation")
        return cls(parse_options(body[4:]))

    def pack(self) -> bytes:
        """The body."""
        return bytes(4) + pack_options(self.options)


@dataclass(frozen=True, slots=True)
class RouterAdvertisement:
    """A router says what holds on the link (RFC 4861 §4.2, RFC 4191 §2.2).

    hop_limit: for packets sent, 0 where the router does not say.
    router_lifetime: seconds as a default router, 0 for none; reachable_time, retrans_timer: *milliseconds*, 0 unsaid.
    managed, other: the M and O flags, DHCPv6 for addresses and for the rest.
    preference: among default routers; the reserved value reads as MEDIUM.
    """

    TYPE: ClassVar[Type] = Type.ROUTER_ADVERTISEMENT

    hop_limit: int = 0
    managed: bool = False
    other: bool = False
    preference: Preference = Preference.MEDIUM
    router_lifetime: int = 0
    reachable_time: int = 0
    retrans_timer: int = 0
    options: tuple[NdOption, ...] = ()

    @classmethod
    def parse(cls, body: Buffer) -> RouterAdvertisement:
        """Read the body of a message of type 134."""
        _require(body, 12, "Router Advertisement")
        hop_limit, flags, lifetime, reachable, retrans = _ADVERTISEMENT.unpack_from(body)
        return cls(
            hop_limit,
            bool(flags & 0x80),
            bool(flags & 0x40),
            _PREFERENCES[flags >> 3 & 3],
            lifetime,
            reachable,
            retrans,
            parse_options(body[12:]),
        )

    def pack(self) -> bytes:
        """The body."""
        flags = self.managed << 7 | self.other << 6 | (self.preference & 3) << 3
        head = _ADVERTISEMENT.pack(self.hop_limit, flags, self.router_lifetime, self.reachable_time, self.retrans_timer)
        return head + pack_options(self.options)


@dataclass(frozen=True, slots=True)
class NeighborSolicitation:
    """A node asks who has `target`, 16 bytes (RFC 4861 §4.3)."""

    TYPE: ClassVar[Type] = Type.NEIGHBOR_SOLICITATION

    target: bytes
    options: tuple[NdOption, ...] = ()

    @classmethod
    def parse(cls, body: Buffer) -> NeighborSolicitation:
        """Read the body of a message of type 135."""
        _require(body, 20, "Neighbor Solicitation")
        return cls(bytes(body[4:20]), parse_options(body[20:]))

    def pack(self) -> bytes:
        """The body."""
        return bytes(4) + self.target + pack_options(self.options)


def pack_advertisement(target: bytes, router: bool, solicited: bool, override: bool, options: bytes) -> bytes:
    """The body of a Neighbor Advertisement around options that are packed already."""
    return bytes((router << 7 | solicited << 6 | override << 5, 0, 0, 0)) + target + options


@dataclass(frozen=True, slots=True)
class NeighborAdvertisement:
    """A node says that it has `target`, 16 bytes (RFC 4861 §4.4); router, solicited, override: the R, S and O flags."""

    TYPE: ClassVar[Type] = Type.NEIGHBOR_ADVERTISEMENT

    target: bytes
    router: bool = False
    solicited: bool = False
    override: bool = False
    options: tuple[NdOption, ...] = ()

    @classmethod
    def parse(cls, body: Buffer) -> NeighborAdvertisement:
        """Read the body of a message of type 136."""
        _require(body, 20, "Neighbor Advertisement")
        flags = body[0]
        return cls(
            bytes(body[4:20]), bool(flags & 0x80), bool(flags & 0x40), bool(flags & 0x20), parse_options(body[20:])
        )

    def pack(self) -> bytes:
        """The body."""
        options = pack_options(self.options)
        return pack_advertisement(self.target, self.router, self.solicited, self.override, options)


@dataclass(frozen=True, slots=True)
class Redirect:
    """A router names a better first hop (RFC 4861 §4.5).

    target: that hop, or `destination` itself when it is on the link; 16 bytes each.
    """

    TYPE: ClassVar[Type] = Type.REDIRECT

    target: bytes
    destination: bytes
    options: tuple[NdOption, ...] = ()

    @classmethod
    def parse(cls, body: Buffer) -> Redirect:
        """Read the body of a message of type 137."""
        _require(body, 36, "Redirect")
        return cls(bytes(body[4:20]), bytes(body[20:36]), parse_options(body[36:]))

    def pack(self) -> bytes:
        """The body."""
        return bytes(4) + self.target + self.destination + pack_options(self.options)


Message: TypeAlias = RouterSolicitation | RouterAdvertisement | NeighborSolicitation | NeighborAdvertisement | Redirect

MESSAGES: dict[int, type[Message]] = {
    Type.ROUTER_SOLICITATION: RouterSolicitation,
    Type.ROUTER_ADVERTISEMENT: RouterAdvertisement,
    Type.NEIGHBOR_SOLICITATION: NeighborSolicitation,
    Type.NEIGHBOR_ADVERTISEMENT: NeighborAdvertisement,
    Type.REDIRECT: Redirect,
}
"""ICMPv6 type → message class."""


def parse(type: int, body: Buffer) -> Message:
    """Read the body of an ND message; `WireError` for a type that is none."""
    message = MESSAGES.get(type)
    if message is None:
        raise WireError(f"ICMPv6 type {type} is not a Neighbor Discovery message")
    return message.parse(body)
