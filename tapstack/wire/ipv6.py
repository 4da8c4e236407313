"""The IPv6 header and its extension headers (RFC 8200).

```
  0                   1                   2                   3
  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |Version| Traffic Class |              Flow Label               |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |        Payload Length         |  Next Header  |   Hop Limit   |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |                   Source Address (16 bytes)                   |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |                 Destination Address (16 bytes)                |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

 Hop-by-Hop Options (0), Destination Options (60):
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  Next Header  |  Hdr Ext Len  |  options, each of the form    |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+                               +
 |  Option Type  |  Opt Data Len |  Option Data ...              |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

 Routing (43):
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  Next Header  |  Hdr Ext Len  |  Routing Type | Segments Left |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  type-specific data ...                                       |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+

 Fragment (44):
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |  Next Header  |   Reserved    |     Fragment Offset     |Res|M|
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |                        Identification                         |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
```
Hdr Ext Len counts units of 8 bytes without the first one.  The codecs say what is there; what a node must do
about it (order of headers, unknown options, reassembly) is the business of the host.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import ClassVar, Self

from ..types import Buffer
from .error import WireError

HOP_BY_HOP = 0
TCP = 6
UDP = 17
ROUTING = 43
FRAGMENT = 44
ESP = 50
AH = 51
ICMPV6 = 58
NO_NEXT = 59
DESTINATION = 60
MOBILITY = 135
HIP = 139
SHIM6 = 140
EXPERIMENT_1 = 253
EXPERIMENT_2 = 254

HEADER_LENGTH = 40
FRAGMENT_LENGTH = 8
MINIMUM_MTU = 1280
"""The MTU that every IPv6 link has at least, in bytes (RFC 8200 §5)."""

MAXIMUM_PAYLOAD = 65535

_HEADER = struct.Struct("!IHBB16s16s")
_VERSION = 6 << 28
_FRAGMENT = struct.Struct("!BxHI")


@dataclass(frozen=True, slots=True)
class Ipv6Header:
    """The fixed header; `payload_length` in bytes is what follows it, extension headers included."""

    traffic_class: int
    flow_label: int
    payload_length: int
    next_header: int
    hop_limit: int
    src: bytes
    dst: bytes

    @classmethod
    def parse(cls, view: Buffer) -> Ipv6Header:
        """Read the header at the start of `view`; whether the payload is all there is left to the caller."""
        if len(view) < HEADER_LENGTH:
            raise WireError(f"an IPv6 header has {HEADER_LENGTH} bytes, here are {len(view)}")
        first, payload_length, next_header, hop_limit, src, dst = _HEADER.unpack_from(view)
        if first >> 28 != 6:
            raise WireError(f"IP version {first >> 28}, not 6")
        return cls(first >> 20 & 0xFF, first & 0xFFFFF, payload_length, next_header, hop_limit, src, dst)

    def pack(self) -> bytes:
        """The 40 bytes of the header."""
        return pack_header(
            self.src,
            self.dst,
            self.next_header,
            self.payload_length,
            self.hop_limit,
            self.traffic_class,
            self.flow_label,
        )


def pack_header(
    src: bytes,
    dst: bytes,
    next_header: int,
    payload_length: int,
    hop_limit: int = 64,
    traffic_class: int = 0,
    flow_label: int = 0,
) -> bytes:
    """The 40 bytes of a header; `payload_length` in bytes.  Every value must fit its field."""
    first = _VERSION | traffic_class << 20 | flow_label
    return _HEADER.pack(first, payload_length, next_header, hop_limit, src, dst)


# -- options -------------------------------------------------------------------------------------


class OptionType(IntEnum):
    """The options that tapstack knows; all others are told apart by their `UnknownAction`."""

    PAD1 = 0x00
    PADN = 0x01
    ROUTER_ALERT = 0x05
    JUMBO_PAYLOAD = 0xC2


class UnknownAction(IntEnum):
    """What to do about an unknown option: the two high bits of its type (RFC 8200 §4.2)."""

    SKIP = 0
    DISCARD = 1
    DISCARD_AND_REPORT = 2
    DISCARD_AND_REPORT_UNICAST = 3


ALIGNMENT: dict[int, tuple[int, int]] = {
    OptionType.ROUTER_ALERT: (2, 0),
    OptionType.JUMBO_PAYLOAD: (4, 2),
}
"""Option type → (x, y): the type byte stands at xn+y from the start of the header (RFC 2711 §2.1, RFC 2675 §2)."""

MAXIMUM_PADDING = 7
"""Bytes of padding in a row: more than alignment to 8 can need is refused (RFC 8504 §5.3)."""

MAXIMUM_OPTIONS = 8
"""Options in one header that are no padding: more are refused (the default of RFC 8504 §5.3)."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a Hop-by-Hop or Destination Options header.

    offset: where its type byte was found, from the start of the header; a Parameter Problem points there.
    """

    type: int
    data: bytes = b""
    offset: int = field(default=0, compare=False)

    @property
    def unknown_action(self) -> UnknownAction:
        """What a node that does not know the type must do."""
        return UnknownAction(self.type >> 6)


def parse_options(view: Buffer, base: int = 2, limit: int = MAXIMUM_OPTIONS) -> tuple[Option, ...]:
    """The options of an options area, padding left out; `base` is the offset of the area in its header.

    Raises `WireError` where an option runs over the end, padding is not zero or longer than any alignment needs, or
    there are more than `limit` options: a packet to drop in silence.  So the work per header is bounded.
    """
    options: list[Option] = []
    at = padding = 0
    end = len(view)
    while at < end:
        kind = view[at]
        if kind == OptionType.PAD1:
            after = at + 1
        else:
            if at + 2 > end or (after := at + 2 + view[at + 1]) > end:
                raise WireError(f"option {kind:#04x} runs over the end of its header")
            if kind != OptionType.PADN:
                if len(options) == limit:
                    raise WireError(f"more than {limit} options in a header")
                options.append(Option(kind, bytes(view[at + 2 : after]), base + at))
                at = after
                padding = 0
                continue
            if any(view[at + 2 : after]):
                raise WireError("PadN option with data")
        padding += after - at
        if padding > MAXIMUM_PADDING:
            raise WireError(f"more than {MAXIMUM_PADDING} bytes of padding in a row")
        at = after
    return tuple(options)


def pack_options(options: Iterable[Option]) -> bytes:
    """An options area: each option at its alignment, the end padded so that the whole header is a multiple of 8."""
    area = bytearray()
    for option in options:
        multiple, rest = ALIGNMENT.get(option.type, (1, 0))
        area += _padding((rest - 2 - len(area)) % multiple)
        if len(option.data) > 255:
            raise WireError(f"option {option.type:#04x} has more than 255 bytes of data")
        area.append(option.type)
        area.append(len(option.data))
        area += option.data
    area += _padding(-(len(area) + 2) % 8)
    return bytes(area)


def _padding(length: int) -> bytes:
    if length < 2:
        return bytes(length)
    return bytes((OptionType.PADN, length - 2)) + bytes(length - 2)


# -- extension headers ---------------------------------------------------------------------------


def extension_length(next_header: int, view: Buffer) -> int:
    """The length in bytes of the extension header of type `next_header` at the start of `view`.

    Raises `WireError` when the type is no extension header with a length, or the header is not all there.
    """
    if next_header not in _UNITS:
        raise WireError(f"{next_header} is not an extension header that can be stepped over")
    if len(view) < 8:
        raise WireError(f"an extension header has 8 bytes at least, here are {len(view)}")
    unit, base = _UNITS[next_header]
    length = view[1] * unit + base
    if length > len(view):
        raise WireError(f"an extension header of {length} bytes, here are {len(view)}")
    return length


_UNITS: dict[int, tuple[int, int]] = {
    HOP_BY_HOP: (8, 8),
    ROUTING: (8, 8),
    FRAGMENT: (0, 8),
    AH: (4, 8),
    DESTINATION: (8, 8),
    MOBILITY: (8, 8),
    HIP: (8, 8),
    SHIM6: (8, 8),
}
"""Next header → (bytes per unit of its length byte, bytes not counted): RFC 8200 §4, RFC 4302 §2.2, RFC 6564 §4."""


def _length_byte(length: int) -> int:
    """Hdr Ext Len of a header of `length` bytes."""
    if length % 8 or not 8 <= length <= 2048:
        raise WireError(f"an extension header cannot have {length} bytes")
    return length // 8 - 1


@dataclass(frozen=True, slots=True)
class _OptionsHeader:
    """A header made of options.

    wire_length: the bytes it took where it was parsed, which a sender may have padded more than needed; else 0.
    """

    PROTOCOL: ClassVar[int]

    next_header: int
    options: tuple[Option, ...] = ()
    wire_length: int = field(default=0, compare=False, repr=False)

    @classmethod
    def parse(cls, view: Buffer) -> Self:
        """Read the header at the start of `view`."""
        length = extension_length(cls.PROTOCOL, view)
        return cls(view[0], parse_options(view[2:length]), length)

    @property
    def length(self) -> int:
        """Bytes on the wire: as parsed, or as `pack` makes them."""
        return self.wire_length or len(self.pack())

    def pack(self) -> bytes:
        """The header with the least padding."""
        area = pack_options(self.options)
        return bytes((self.next_header, _length_byte(2 + len(area)))) + area


class HopByHop(_OptionsHeader):
    """The Hop-by-Hop Options header (RFC 8200 §4.3)."""

    __slots__ = ()
    PROTOCOL = HOP_BY_HOP


class DestinationOptions(_OptionsHeader):
    """The Destination Options header (RFC 8200 §4.6)."""

    __slots__ = ()
    PROTOCOL = DESTINATION


@dataclass(frozen=True, slots=True)
class Routing:
    """The Routing header (RFC 8200 §4.4); `data` is what follows Segments Left, 4 bytes and then a multiple of 8."""

    PROTOCOL: ClassVar[int] = ROUTING

    next_header: int
    type: int
    segments_left: int
    data: bytes = bytes(4)

    @classmethod
    def parse(cls, view: Buffer) -> Routing:
        """Read the header at the start of `view`."""
        length = extension_length(ROUTING, view)
        return cls(view[0], view[2], view[3], bytes(view[4:length]))

    @property
    def length(self) -> int:
        """Bytes on the wire."""
        return 4 + len(self.data)

    def pack(self) -> bytes:
        """The bytes of the header."""
        return bytes((self.next_header, _length_byte(self.length), self.type, self.segments_left)) + self.data


@dataclass(frozen=True, slots=True)
class Fragment:
    """The Fragment header (RFC 8200 §4.5); `offset` in bytes, a multiple of 8, counts from the fragmentable part."""

    PROTOCOL: ClassVar[int] = FRAGMENT

    next_header: int
    offset: int
    more: bool
    identification: int

    @classmethod
    def parse(cls, view: Buffer) -> Fragment:
        """Read the header at the start of `view`."""
        if len(view) < FRAGMENT_LENGTH:
            raise WireError(f"a Fragment header has {FRAGMENT_LENGTH} bytes, here are {len(view)}")
        next_header, offset, identification = _FRAGMENT.unpack_from(view)
        return cls(next_header, offset & 0xFFF8, bool(offset & 1), identification)

    @property
    def length(self) -> int:
        """Bytes on the wire."""
        return FRAGMENT_LENGTH

    @property
    def atomic(self) -> bool:
        """Whether this one fragment is the whole packet (RFC 6946)."""
        return not self.offset and not self.more

    def pack(self) -> bytes:
        """The 8 bytes of the header."""
        if self.offset & 7 or self.offset >> 16:
            raise WireError(f"a fragment cannot begin at byte {self.offset}")
        return _FRAGMENT.pack(self.next_header, self.offset | self.more, self.identification)


# -- the chain -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UpperLayer:
    """Where the header chain of a packet ends; offsets in bytes from the start of the IPv6 header.

    next_header: the protocol found there, possibly NO_NEXT, ESP or unknown.
    offset: where its header begins, or the rest of it in a later fragment.
    named_at: the byte that named it, where a Parameter Problem would point.
    fragment: the Fragment header passed on the way.
    """

    next_header: int
    offset: int
    named_at: int
    fragment: Fragment | None = None


def find_upper_layer(packet: Buffer) -> UpperLayer:
    """Step over the extension headers of a packet, for instance one quoted in an ICMPv6 error.

    The packet may be cut off behind its last extension header.  The chain ends at a fragment that is not the
    first, since the headers after it are in the first.  Raises `WireError` when it breaks off before its end.
    """
    if len(packet) < HEADER_LENGTH or packet[0] >> 4 != 6:
        raise WireError("not an IPv6 packet")
    view = memoryview(packet)
    named_at, offset = 6, HEADER_LENGTH
    fragment = None
    while (next_header := view[named_at]) in _UNITS:
        length = extension_length(next_header, view[offset:])
        named_at = offset
        offset += length
        if next_header == FRAGMENT:
            fragment = Fragment.parse(view[named_at:])
            if fragment.offset:
                return UpperLayer(fragment.next_header, offset, named_at, fragment)
    return UpperLayer(next_header, offset, named_at, fragment)
