"""The options of Neighbor Discovery messages (RFC 4861 §4.6).

```
  0                   1                   2                   3
  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |     Type      |    Length     |  data ...                     |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
```
Length counts units of 8 bytes, these two included.  Each class below shows its data in the same way.

The codecs are the table `OPTIONS`: type → class.  What a receiver must ignore becomes a `RawOption`: a type that is
not in the table, and a known type whose data do not fit its definition (a wrong length, a reserved value).  So one
odd option does not cost the prefix or the router that stands beside it (RFC 4861 §4.6, RFC 8106 §5.3.1).  Two
things do cost the message: an option of length zero and one that runs over the end (RFC 4861 §6.1, §7.1, §8.1).

Lifetimes are the wire's seconds; `INFINITY` says for ever.  The bits of a prefix behind its length count for
nothing on the wire, and are read as zero.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Protocol, Self, TypeVar

from ..types import Buffer
from .error import WireError
from .names import pack_name, parse_name

INFINITY = 0xFFFFFFFF
"""The lifetime that never ends."""

_PREFIX = struct.Struct("!BBIIxxxx16s")
_RESERVED_AND_LONG = struct.Struct("!xxI")
_ROUTE = struct.Struct("!BBI")


class OptionType(IntEnum):
    """The option types that tapstack knows."""

    SOURCE_LINK_LAYER = 1
    TARGET_LINK_LAYER = 2
    PREFIX_INFORMATION = 3
    REDIRECTED_HEADER = 4
    MTU = 5
    NONCE = 14
    ROUTE_INFORMATION = 24
    RDNSS = 25
    DNSSL = 31
    PREF64 = 38


class Preference(IntEnum):
    """The preference of a router or a route (RFC 4191 §2.1)."""

    LOW = -1
    MEDIUM = 0
    HIGH = 1


class NdOption(Protocol):
    """An option: a value that packs itself."""

    def pack(self) -> bytes:
        """The whole option, type and length included."""


class _KnownOption(NdOption, Protocol):
    @classmethod
    def parse(cls, data: memoryview) -> Self:
        """Read what follows the length byte; `WireError` when it does not fit the definition."""


Found = TypeVar("Found", bound=NdOption)


# -- lists of options ----------------------------------------------------------------------------


def parse_options(view: Buffer) -> tuple[NdOption, ...]:
    """The options that fill `view`, in their order."""
    rest = memoryview(view)
    options: list[NdOption] = []
    while rest:
        if len(rest) < 8:
            raise WireError(f"an ND option has 8 bytes at least, here are {len(rest)}")
        kind = rest[0]
        length = rest[1] * 8
        if not length:
            raise WireError(f"ND option {kind} has the length zero")
        if length > len(rest):
            raise WireError(f"ND option {kind} has {length} bytes, here are {len(rest)}")
        options.append(_parse_option(kind, rest[2:length]))
        rest = rest[length:]
    return tuple(options)


def _parse_option(kind: int, data: memoryview) -> NdOption:
    known = OPTIONS.get(kind)
    if known is not None:
        try:
            return known.parse(data)
        except WireError:
            pass
    return RawOption(kind, bytes(data))


def pack_options(options: Iterable[NdOption]) -> bytes:
    """The options one after another."""
    return b"".join([option.pack() for option in options])


def find(options: Iterable[NdOption], kind: type[Found]) -> Found | None:
    """The first option of a class; None when there is none."""
    for option in options:
        if isinstance(option, kind):
            return option
    return None


def find_all(options: Iterable[NdOption], kind: type[Found]) -> list[Found]:
    """All options of a class, in their order."""
    return [option for option in options if isinstance(option, kind)]


def _option(kind: int, data: bytes) -> bytes:
    """An option around its data, which with the two bytes before them must fill units of 8."""
    length = 2 + len(data)
    if length % 8 or not 8 <= length <= 2040:
        raise WireError(f"ND option {kind} cannot have {length} bytes")
    return bytes((kind, length // 8)) + data


def _require(data: memoryview, *lengths: int) -> None:
    if len(data) not in lengths:
        raise WireError(f"ND option data of {len(data)} bytes")


def _mask(prefix: Buffer, length: int) -> bytes:
    """The 16 bytes of a prefix, given in up to 16, with zeros behind its `length` bits."""
    if length > 128:
        raise WireError(f"prefix length {length}")
    value = int.from_bytes(bytes(prefix).ljust(16, b"\0"), "big")
    return (value >> 128 - length << 128 - length).to_bytes(16, "big")


def _preference(bits: int) -> Preference | None:
    """The preference of two bits; None for the reserved value."""
    return (Preference.MEDIUM, Preference.HIGH, None, Preference.LOW)[bits & 3]


# -- the options ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RawOption:
    """An option that a receiver ignores: of an unknown type, or not as its definition wants it.

    data: what follows the length byte, 6 bytes and then a multiple of 8.
    """

    type: int
    data: bytes

    def pack(self) -> bytes:
        """The whole option."""
        return _option(self.type, self.data)


@dataclass(frozen=True, slots=True)
class _LinkLayer:
    TYPE: ClassVar[int]

    address: bytes

    @classmethod
    def parse(cls, data: memoryview) -> Self:
        """Read an Ethernet address; one of another length is refused (RFC 2464 §6)."""
        _require(data, 6)
        return cls(bytes(data))

    def pack(self) -> bytes:
        """The whole option."""
        return _option(self.TYPE, self.address)


class SourceLinkLayer(_LinkLayer):
    """The link-layer address of the sender, 6 bytes (RFC 4861 §4.6.1)."""

    __slots__ = ()
    TYPE = OptionType.SOURCE_LINK_LAYER


class TargetLinkLayer(_LinkLayer):
    """The link-layer address of the target, 6 bytes (RFC 4861 §4.6.1)."""

    __slots__ = ()
    TYPE = OptionType.TARGET_LINK_LAYER


@dataclass(frozen=True, slots=True)
class PrefixInformation:
    """A prefix of the link (RFC 4861 §4.6.2; P flag: RFC 9762).

    ```
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |       3       |       4       | Prefix Length |L|A|R|P|Resvd  |
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |                        Valid Lifetime                         |
     |                      Preferred Lifetime                       |
     |                           Reserved                            |
     |                       Prefix (16 bytes)                       |
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ```
    prefix: 16 bytes.  on_link, autonomous: the L and A flags.  Lifetimes in seconds.
    delegation_preferred: the P flag, the network would rather delegate a prefix to each node by DHCPv6.
    The R flag of Mobile IPv6 is not read.
    """

    prefix: bytes
    prefix_length: int
    on_link: bool
    autonomous: bool
    valid_lifetime: int
    preferred_lifetime: int
    delegation_preferred: bool = False

    @classmethod
    def parse(cls, data: memoryview) -> PrefixInformation:
        """Read what follows the length byte."""
        _require(data, 30)
        length, flags, valid, preferred, prefix = _PREFIX.unpack(data)
        return cls(
            _mask(prefix, length), length, bool(flags & 0x80), bool(flags & 0x40), valid, preferred, bool(flags & 0x10)
        )

    def pack(self) -> bytes:
        """The whole option."""
        flags = self.on_link << 7 | self.autonomous << 6 | self.delegation_preferred << 4
        data = _PREFIX.pack(self.prefix_length, flags, self.valid_lifetime, self.preferred_lifetime, self.prefix)
        return _option(OptionType.PREFIX_INFORMATION, data)


@dataclass(frozen=True, slots=True)
class RedirectedHeader:
    """The beginning of the packet that caused a redirect (RFC 4861 §4.6.3).

    ```
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |       4       |    Length     |           Reserved            |
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |                           Reserved                            |
     |                 IPv6 header and data (8 n)                    |
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ```
    packet: from the IPv6 header on, cut by the sender to a multiple of 8 bytes.
    """

    packet: bytes

    @classmethod
    def parse(cls, data: memoryview) -> RedirectedHeader:
        """Read what follows the length byte."""
        return cls(bytes(data[6:]))

    def pack(self) -> bytes:
        """The whole option."""
        return _option(OptionType.REDIRECTED_HEADER, bytes(6) + self.packet)


@dataclass(frozen=True, slots=True)
class Mtu:
    """The MTU of the link in bytes (RFC 4861 §4.6.4).

    ```
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |       5       |       1       |           Reserved            |
     |                              MTU                              |
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ```
    """

    mtu: int

    @classmethod
    def parse(cls, data: memoryview) -> Mtu:
        """Read what follows the length byte."""
        _require(data, 6)
        return cls(*_RESERVED_AND_LONG.unpack(data))

    def pack(self) -> bytes:
        """The whole option."""
        return _option(OptionType.MTU, _RESERVED_AND_LONG.pack(self.mtu))


@dataclass(frozen=True, slots=True)
class Nonce:
    """A random number by which a node knows its own solicitation again (RFC 3971 §5.3.2, RFC 7527 §4.1).

    value: 6 bytes, or 6 and a multiple of 8.
    """

    value: bytes

    @classmethod
    def parse(cls, data: memoryview) -> Nonce:
        """Read what follows the length byte."""
        return cls(bytes(data))

    def pack(self) -> bytes:
        """The whole option."""
        return _option(OptionType.NONCE, self.value)


@dataclass(frozen=True, slots=True)
class RouteInformation:
    """A prefix that is reached through the router (RFC 4191 §2.3).

    ```
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |      24       |    Length     | Prefix Length |Resvd|Prf|Resvd|
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |                        Route Lifetime                         |
     |                  Prefix (0, 8 or 16 bytes)                    |
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ```
    prefix: always 16 bytes here.  lifetime in seconds.  A reserved preference makes the option one to ignore.
    """

    prefix: bytes
    prefix_length: int
    preference: Preference
    lifetime: int

    @classmethod
    def parse(cls, data: memoryview) -> RouteInformation:
        """Read what follows the length byte."""
        _require(data, 6, 14, 22)
        length, flags, lifetime = _ROUTE.unpack_from(data)
        preference = _preference(flags >> 3)
        if preference is None or length > (len(data) - 6) * 8:
            raise WireError("route information with a reserved preference or half a prefix")
        return cls(_mask(data[6:], length), length, preference, lifetime)

    def pack(self) -> bytes:
        """The whole option, as short as the prefix allows."""
        room = (self.prefix_length + 63) // 64 * 8
        head = _ROUTE.pack(self.prefix_length, (self.preference & 3) << 3, self.lifetime)
        return _option(OptionType.ROUTE_INFORMATION, head + self.prefix[:room])


@dataclass(frozen=True, slots=True)
class Rdnss:
    """Recursive DNS servers (RFC 8106 §5.1).

    ```
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |      25       |    Length     |           Reserved            |
     |                           Lifetime                            |
     |                  addresses (16 bytes each)                    |
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ```
    servers: one address of 16 bytes at least.  lifetime in seconds; 0 takes the servers back.
    """

    lifetime: int
    servers: tuple[bytes, ...]

    @classmethod
    def parse(cls, data: memoryview) -> Rdnss:
        """Read what follows the length byte."""
        if len(data) < 22 or (len(data) - 6) % 16:
            raise WireError(f"RDNSS data of {len(data)} bytes")
        (lifetime,) = _RESERVED_AND_LONG.unpack_from(data)
        return cls(lifetime, tuple([bytes(data[at : at + 16]) for at in range(6, len(data), 16)]))

    def pack(self) -> bytes:
        """The whole option."""
        return _option(OptionType.RDNSS, _RESERVED_AND_LONG.pack(self.lifetime) + b"".join(self.servers))


@dataclass(frozen=True, slots=True)
class Dnssl:
    """The search list for names (RFC 8106 §5.2).

    ```
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |      31       |    Length     |           Reserved            |
     |                           Lifetime                            |
     |  names (RFC 1035 §3.1, never compressed), zeros to fill       |
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ```
    names: in ASCII with dots, without the dot of the root; one at least.  lifetime in seconds, 0 takes them back.
    """

    lifetime: int
    names: tuple[str, ...]

    @classmethod
    def parse(cls, data: memoryview) -> Dnssl:
        """Read what follows the length byte."""
        if len(data) < 14:
            raise WireError(f"DNSSL data of {len(data)} bytes")
        (lifetime,) = _RESERVED_AND_LONG.unpack_from(data)
        names: list[str] = []
        at = 6
        while at < len(data) and data[at]:
            name, at = parse_name(data, at)
            names.append(name)
        if not names:
            raise WireError("DNSSL without a name")
        return cls(lifetime, tuple(names))

    def pack(self) -> bytes:
        """The whole option."""
        data = _RESERVED_AND_LONG.pack(self.lifetime) + b"".join([pack_name(name) for name in self.names])
        return _option(OptionType.DNSSL, data + bytes(-(len(data) + 2) % 8))


@dataclass(frozen=True, slots=True)
class Pref64:
    """The prefix of a NAT64 (RFC 8781 §4).

    ```
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
     |      38       |       2       |     Scaled Lifetime     | PLC |
     |                first 96 bits of the prefix                    |
     +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    ```
    prefix: always 16 bytes here.  prefix_length: 32, 40, 48, 56, 64 or 96.
    lifetime: seconds, on the wire in units of 8 and 65528 at most; 0 takes the prefix back.
    """

    prefix: bytes
    prefix_length: int
    lifetime: int

    LENGTHS: ClassVar[tuple[int, ...]] = (96, 64, 56, 48, 40, 32)
    """Prefix lengths in the order of their codes."""

    @classmethod
    def parse(cls, data: memoryview) -> Pref64:
        """Read what follows the length byte."""
        _require(data, 14)
        word = data[0] << 8 | data[1]
        if word & 7 >= len(cls.LENGTHS):
            raise WireError(f"PREF64 with the reserved prefix length code {word & 7}")
        length = cls.LENGTHS[word & 7]
        return cls(_mask(data[2:], length), length, word & 0xFFF8)

    def pack(self) -> bytes:
        """The whole option; a lifetime between two steps is rounded up."""
        if self.prefix_length not in self.LENGTHS:
            raise WireError(f"a NAT64 prefix cannot have {self.prefix_length} bits")
        word = min(self.lifetime + 7, 0xFFFF) & 0xFFF8 | self.LENGTHS.index(self.prefix_length)
        return _option(OptionType.PREF64, word.to_bytes(2, "big") + self.prefix[:12])


OPTIONS: dict[int, type[_KnownOption]] = {
    OptionType.SOURCE_LINK_LAYER: SourceLinkLayer,
    OptionType.TARGET_LINK_LAYER: TargetLinkLayer,
    OptionType.PREFIX_INFORMATION: PrefixInformation,
    OptionType.REDIRECTED_HEADER: RedirectedHeader,
    OptionType.MTU: Mtu,
    OptionType.NONCE: Nonce,
    OptionType.ROUTE_INFORMATION: RouteInformation,
    OptionType.RDNSS: Rdnss,
    OptionType.DNSSL: Dnssl,
    OptionType.PREF64: Pref64,
}
"""Option type → class.  A new option is a class with `parse` and `pack`, and a line here."""
