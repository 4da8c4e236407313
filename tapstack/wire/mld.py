"""Multicast Listener Discovery messages, version 2 and 1 (RFC 3810, RFC 2710).

Shown from byte 4 on: type, code and checksum before it are those of every ICMPv6 message, the code is 0.

```
  0                   1                   2                   3
  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 Query (130); version 1 ends before the line of the S flag
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |     Maximum Response Code     |           Reserved            |
 |                 Multicast Address (16 bytes)                  |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 | Resv  |S| QRV |     QQIC      |     Number of Sources (N)     |
 |              N source addresses (16 bytes each)               |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 Report, version 2 (143)
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |           Reserved            |     Number of Records (M)     |
 |                   M records of the form                       |
 |  Record Type  |  Aux Data Len |     Number of Sources (N)     |
 |                 Multicast Address (16 bytes)                  |
 |              N source addresses (16 bytes each)               |
 |           auxiliary data (4 · Aux Data Len bytes)             |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 Report, version 1 (131), and Done (132)
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
 |                           Reserved                            |
 |                 Multicast Address (16 bytes)                  |
 +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
```
Every MLD message travels with hop limit 1 behind `ROUTER_ALERT_HEADER`.  What follows the last record or source is
ignored, as are auxiliary data (RFC 3810 §5.1.12, §5.2.10, §5.2.11).

Two fields are small floating-point numbers (RFC 3810 §5.1.3, §5.1.9): below the top bit the code is the value;
with it, the value is (mantissa | leading one) << (exponent + 3).  Messages hold the codes, so that parse and pack
are exact inverses; properties give the values.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Self, TypeAlias

from ..types import UNSPECIFIED, Buffer
from . import ipv6
from .error import WireError
from .icmpv6 import Type

ROUTER_ALERT_HEADER = ipv6.HopByHop(ipv6.ICMPV6, (ipv6.Option(ipv6.OptionType.ROUTER_ALERT, b"\x00\x00"),)).pack()
"""The Hop-by-Hop Options header in front of every MLD message (RFC 3810 §5, RFC 2711)."""

HOP_LIMIT = 1

_GROUP = struct.Struct("!HH16s")
_QUERY = struct.Struct("!BBH")
_RECORDS = struct.Struct("!HH")
_RECORD = struct.Struct("!BBH16s")


class RecordType(IntEnum):
    """The types of multicast address records (RFC 3810 §5.2.12)."""

    MODE_IS_INCLUDE = 1
    MODE_IS_EXCLUDE = 2
    CHANGE_TO_INCLUDE = 3
    CHANGE_TO_EXCLUDE = 4
    ALLOW_NEW_SOURCES = 5
    BLOCK_OLD_SOURCES = 6


def _decode(code: int, mantissa_bits: int) -> int:
    one = 1 << mantissa_bits
    if code < one << 3:
        return code
    return (code & one - 1 | one) << (code >> mantissa_bits & 7) + 3


def _encode(value: int, mantissa_bits: int) -> int:
    """The code of the largest value that can be written and is not above `value`."""
    one = 1 << mantissa_bits
    if value < one << 3:
        return max(value, 0)
    exponent = value.bit_length() - mantissa_bits - 4
    if exponent > 7:
        return (one << 4) - 1
    return one << 3 | exponent << mantissa_bits | value >> exponent + 3 & one - 1


def response_code(milliseconds: int) -> int:
    """The Maximum Response Code of a delay, rounded down to one that can be written (RFC 3810 §5.1.3).

    >>> hex(response_code(32768)), hex(response_code(10_000))
    ('0x8000', '0x2710')
    """
    return _encode(milliseconds, 12)


def interval_code(seconds: int) -> int:
    """The Querier's Query Interval Code of an interval, rounded down to one that can be written (RFC 3810 §5.1.9)."""
    return _encode(seconds, 4)


def _addresses(view: Buffer, at: int, count: int) -> tuple[bytes, ...]:
    """`count` addresses from offset `at` on."""
    end = at + 16 * count
    if end > len(view):
        raise WireError(f"{count} source addresses do not fit into {len(view) - at} bytes")
    return tuple([bytes(view[begin : begin + 16]) for begin in range(at, end, 16)])


@dataclass(frozen=True, slots=True)
class Query:
    """A router asks who listens (RFC 3810 §5.1); `group` is `::` in a general query.

    version: 1 or 2; in version 1 the fields behind it are not on the wire.
    suppress: the S flag, for other routers.  robustness: QRV, 0 unsaid.
    """

    TYPE: ClassVar[Type] = Type.MLD_QUERY

    response_code: int
    group: bytes = UNSPECIFIED
    version: int = 2
    suppress: bool = False
    robustness: int = 0
    interval_code: int = 0
    sources: tuple[bytes, ...] = ()

    @property
    def maximum_response_delay(self) -> float:
        """Seconds within which listeners answer; in version 1 the code is plain milliseconds (RFC 3810 §8.2.1)."""
        milliseconds = self.response_code if self.version == 1 else _decode(self.response_code, 12)
        return milliseconds / 1000

    @property
    def query_interval(self) -> float:
        """The querier's interval in seconds, 0 unsaid."""
        return float(_decode(self.interval_code, 4))

    @classmethod
    def parse(cls, body: Buffer) -> Query:
        """Read the body of a message of type 130; its length tells the version (RFC 3810 §8.1)."""
        length = len(body)
        if length != 20 and length < 24:
            raise WireError(f"the body of an MLD query has 20 bytes, or 24 at least, not {length}")
        code, _, group = _GROUP.unpack_from(body)
        if length == 20:
            return cls(code, group, 1)
        flags, interval, count = _QUERY.unpack_from(body, 20)
        return cls(code, group, 2, bool(flags & 8), flags & 7, interval, _addresses(body, 24, count))

    def pack(self) -> bytes:
        """The body."""
        head = _GROUP.pack(self.response_code, 0, self.group)
        if self.version == 1:
            return head
        flags = self.suppress << 3 | self.robustness & 7
        return head + _QUERY.pack(flags, self.interval_code, len(self.sources)) + b"".join(self.sources)


@dataclass(frozen=True, slots=True)
class Record:
    """What a node listens to in one group; `type` compares equal to its `RecordType`, others are to be ignored."""

    type: int
    group: bytes
    sources: tuple[bytes, ...] = ()

    def pack(self) -> bytes:
        """The record, without auxiliary data."""
        return _RECORD.pack(self.type, 0, len(self.sources), self.group) + b"".join(self.sources)


@dataclass(frozen=True, slots=True)
class ReportV2:
    """A node says what it listens to (RFC 3810 §5.2)."""

    TYPE: ClassVar[Type] = Type.MLD_REPORT_V2

    records: tuple[Record, ...]

    @classmethod
    def parse(cls, body: Buffer) -> ReportV2:
        """Read the body of a message of type 143."""
        if len(body) < 4:
            raise WireError(f"the body of an MLDv2 report has 4 bytes at least, here are {len(body)}")
        _, count = _RECORDS.unpack_from(body)
        at = 4
        records: list[Record] = []
        for _ in range(count):
            if at + 20 > len(body):
                raise WireError("an MLDv2 report ends within a record")
            kind, auxiliary, sources, group = _RECORD.unpack_from(body, at)
            records.append(Record(kind, group, _addresses(body, at + 20, sources)))
            at += 20 + 16 * sources + 4 * auxiliary
        if at > len(body):
            raise WireError("an MLDv2 report ends within auxiliary data")
        return cls(tuple(records))

    def pack(self) -> bytes:
        """The body."""
        return _RECORDS.pack(0, len(self.records)) + b"".join([record.pack() for record in self.records])


@dataclass(frozen=True, slots=True)
class _GroupMessage:
    group: bytes

    @classmethod
    def parse(cls, body: Buffer) -> Self:
        """Read the body; what follows the group is ignored."""
        if len(body) < 20:
            raise WireError(f"the body of an MLDv1 message has 20 bytes, here are {len(body)}")
        return cls(_GROUP.unpack_from(body)[2])

    def pack(self) -> bytes:
        """The body."""
        return _GROUP.pack(0, 0, self.group)


class ReportV1(_GroupMessage):
    """A node listens to `group` (RFC 2710 §3)."""

    __slots__ = ()
    TYPE: ClassVar[Type] = Type.MLD_REPORT_V1


class DoneV1(_GroupMessage):
    """A node no longer listens to `group` (RFC 2710 §3)."""

    __slots__ = ()
    TYPE: ClassVar[Type] = Type.MLD_DONE_V1


Message: TypeAlias = Query | ReportV2 | ReportV1 | DoneV1

MESSAGES: dict[int, Callable[[Buffer], Message]] = {
    Type.MLD_QUERY: Query.parse,
    Type.MLD_REPORT_V1: ReportV1.parse,
    Type.MLD_DONE_V1: DoneV1.parse,
    Type.MLD_REPORT_V2: ReportV2.parse,
}
"""ICMPv6 type → parser of the body."""


def parse(type: int, body: Buffer) -> Message:
    """Read the body of an MLD message; `WireError` for a type that is none."""
    parser = MESSAGES.get(type)
    if parser is None:
        raise WireError(f"ICMPv6 type {type} is not an MLD message")
    return parser(body)
