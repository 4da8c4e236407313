"""The TCP header and its options (RFC 9293 §3.1, RFC 7323, RFC 2018).

```
  0                   1                   2                   3
  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
 +---------------------------------------------------------------+
 |          Source Port          |       Destination Port        |
 |                        Sequence Number                        |
 |                    Acknowledgment Number                      |
 |  Data |   |A|C|E|U|A|P|R|S|F|                                 |
 | Offset| r |E|W|C|R|C|S|S|Y|I|            Window               |
 |       |   | |R|E|G|K|H|T|N|N|                                 |
 |           Checksum            |         Urgent Pointer        |
 |                           [Options]                           |
 +---------------------------------------------------------------+
```
Option codecs are the table `_PARSERS`: kind → (allowed lengths, setter).  An option of the wrong length ends the
parse with `WireError` when the length would run out of the header (RFC 9293 MUST-7 allows silent care); a known
option of a wrong but safe length is ignored like an unknown one (MUST-6).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag

from ..types import Buffer
from . import checksum
from .error import WireError

PROTOCOL = 6
HEADER_LENGTH = 20
MAXIMUM_OPTIONS = 40
DEFAULT_MSS = 1220
"""What an IPv6 peer that names no MSS takes (RFC 9293 MUST-15): what a packet of the minimum MTU holds."""
TIMESTAMP_LENGTH = 12
"""Bytes that a timestamp takes in a header: two NOPs and the 10-byte option (RFC 7323 Appendix A)."""
TIMESTAMP_WORD = 0x0101080A
"""How they begin: the NOPs, kind and length."""

FIXED = struct.Struct("!HHIIBBHHH")
_TIMESTAMP_LAYOUT = TIMESTAMP_WORD.to_bytes(4, "big")
_HANDSHAKE = struct.Struct("!HHHHIII")
_HANDSHAKE_KINDS = (0x0204, 0x0402, 0x080A, 0x01030300)
"""The options of nearly every SYN in one piece: MSS, SACK permitted, timestamp, a NOP and window scale, the last byte."""


class Flags(IntFlag):
    """The control bits; AE of RFC 9768 stays in the data-offset byte and is not read."""

    FIN = 0x01
    SYN = 0x02
    RST = 0x04
    PSH = 0x08
    ACK = 0x10
    URG = 0x20
    ECE = 0x40
    CWR = 0x80


FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (int(flag) for flag in Flags)


class OptionKind(IntEnum):
    """Option kinds that tapstack reads or writes."""

    END = 0
    NOP = 1
    MSS = 2
    WINDOW_SCALE = 3
    SACK_PERMITTED = 4
    SACK = 5
    TIMESTAMP = 8
    USER_TIMEOUT = 28


@dataclass(slots=True)
class Options:
    """The options of one segment; None or empty where absent.

    timestamp is (TSval, TSecr); sack is the list of (left edge, right edge) sequence numbers; user_timeout is in seconds
    (RFC 5482), and packed in whole minutes where it is too long for the field.
    """

    mss: int | None = None
    window_scale: int | None = None
    sack_permitted: bool = False
    timestamp: tuple[int, int] | None = None
    sack: list[tuple[int, int]] = field(default_factory=list)
    user_timeout: int | None = None

    @classmethod
    def parse(cls, data: Buffer) -> Options:
        """The options in `data`, the bytes between the fixed header and the payload.

        `WireError` when an option's length is illegal or runs past the end.
        """
        if len(data) == _HANDSHAKE.size:
            mss_kind, mss, sack_kind, timestamp_kind, value, echo, scale = _HANDSHAKE.unpack(data)
            if (mss_kind, sack_kind, timestamp_kind, scale & ~0xFF) == _HANDSHAKE_KINDS:
                return cls(mss, scale & 0xFF, True, (value, echo))
        options = cls()
        position = 0
        while position < len(data):
            kind = data[position]
            if kind == OptionKind.END:
                break
            if kind == OptionKind.NOP:
                position += 1
                continue
            if position + 1 >= len(data):
                raise WireError("TCP option without length")
            length = data[position + 1]
            if length < 2 or position + length > len(data):
                raise WireError("TCP option of illegal length")
            entry = _PARSERS.get(kind)
            if entry is not None and length in entry[0]:
                entry[1](options, bytes(data[position + 2 : position + length]))
            position += length
        return options

    def pack(self) -> bytes:
        """The options padded to 4 bytes; `WireError` when they do not fit in 40."""
        mss, stamp, scale = self.mss, self.timestamp, self.window_scale
        usual = self.sack_permitted and not self.sack and self.user_timeout is None
        if usual and mss is not None and stamp is not None and scale is not None:
            mss_kind, sack_kind, timestamp_kind, scale_kind = _HANDSHAKE_KINDS
            return _HANDSHAKE.pack(mss_kind, mss, sack_kind, timestamp_kind, *stamp, scale_kind | scale)
        parts = []
        if self.mss is not None:
            parts.append(struct.pack("!BBH", OptionKind.MSS, 4, self.mss))
        if self.timestamp is not None:
            if self.sack_permitted:
                parts.append(bytes((OptionKind.SACK_PERMITTED, 2)))
            else:
                parts.append(b"\x01\x01")
            parts.append(struct.pack("!BBII", OptionKind.TIMESTAMP, 10, *self.timestamp))
        elif self.sack_permitted:
            parts.append(bytes((OptionKind.NOP, OptionKind.NOP, OptionKind.SACK_PERMITTED, 2)))
        if self.window_scale is not None:
            parts.append(bytes((OptionKind.NOP, OptionKind.WINDOW_SCALE, 3, self.window_scale)))
        if self.user_timeout is not None:
            parts.append(struct.pack("!BBH", OptionKind.USER_TIMEOUT, 4, _packed_time(self.user_timeout)))
        if self.sack:
            parts.append(bytes((OptionKind.NOP, OptionKind.NOP, OptionKind.SACK, 2 + 8 * len(self.sack))))
            parts.extend(struct.pack("!II", left, right) for left, right in self.sack)
        packed = b"".join(parts)
        if len(packed) > MAXIMUM_OPTIONS:
            raise WireError("TCP options do not fit in 40 bytes")
        return packed


_MINUTES = 0x8000
"""The granularity bit of a user time-out."""


def _packed_time(seconds: int) -> int:
    """The field of a user time-out: seconds, or minutes where those do not fit."""
    return seconds if seconds < _MINUTES else _MINUTES | min(-(-seconds // 60), _MINUTES - 1)


def _set_user_timeout(options: Options, data: bytes) -> None:
    value = int.from_bytes(data, "big")
    seconds = value if value < _MINUTES else (value - _MINUTES) * 60
    options.user_timeout = seconds or None  # zero is reserved, and ignored (RFC 5482 §3.3)


def _set_mss(options: Options, data: bytes) -> None:
    options.mss = int.from_bytes(data, "big")


def _set_window_scale(options: Options, data: bytes) -> None:
    options.window_scale = data[0]


def _set_sack_permitted(options: Options, data: bytes) -> None:
    options.sack_permitted = True


def _set_timestamp(options: Options, data: bytes) -> None:
    value, echo = struct.unpack("!II", data)
    options.timestamp = (value, echo)


def _set_sack(options: Options, data: bytes) -> None:
    options.sack = [struct.unpack_from("!II", data, offset) for offset in range(0, len(data), 8)]


_PARSERS: dict[int, tuple[frozenset[int], Callable[[Options, bytes], None]]] = {
    OptionKind.MSS: (frozenset({4}), _set_mss),
    OptionKind.WINDOW_SCALE: (frozenset({3}), _set_window_scale),
    OptionKind.SACK_PERMITTED: (frozenset({2}), _set_sack_permitted),
    OptionKind.SACK: (frozenset({10, 18, 26, 34}), _set_sack),
    OptionKind.TIMESTAMP: (frozenset({10}), _set_timestamp),
    OptionKind.USER_TIMEOUT: (frozenset({4}), _set_user_timeout),
}


@dataclass(slots=True)
class TcpHeader:
    """The fixed header and the options; `length` is the header's length in bytes, options included."""

    source_port: int
    destination_port: int
    sequence: int
    acknowledgment: int
    flags: int
    window: int
    checksum: int
    urgent: int
    length: int
    options: Options

    @classmethod
    def parse(cls, view: Buffer) -> TcpHeader:
        """The header at the start of `view` (the whole segment); `WireError` on truncation or a bad data offset."""
        if len(view) < HEADER_LENGTH:
            raise WireError("TCP header truncated")
        source, destination, sequence, acknowledgment, offset, flags, window, check, urgent = FIXED.unpack_from(view)
        length = (offset >> 4) * 4
        if length < HEADER_LENGTH or length > len(view):
            raise WireError("TCP data offset out of range")
        if length == HEADER_LENGTH + TIMESTAMP_LENGTH and view[20:24] == _TIMESTAMP_LAYOUT:
            value, echo = struct.unpack_from("!II", view, 24)
            options = Options(timestamp=(value, echo))
        else:
            options = Options.parse(view[HEADER_LENGTH:length])
        return cls(source, destination, sequence, acknowledgment, flags, window, check, urgent, length, options)


def pack(
    src: bytes,
    dst: bytes,
    source_port: int,
    destination_port: int,
    sequence: int,
    acknowledgment: int,
    flags: int,
    window: int,
    *,
    options: bytes = b"",
    urgent: int = 0,
    payload: Buffer = b"",
) -> bytes:
    """The header of a segment with its checksum over `payload`, which is not appended."""
    offset = (HEADER_LENGTH + len(options)) << 2
    header = FIXED.pack(source_port, destination_port, sequence, acknowledgment, offset, flags, window, 0, urgent)
    total = checksum.pseudo_header(src, dst, len(header) + len(options) + len(payload), PROTOCOL)
    total += checksum.residue_of((header, options, payload))
    check = checksum.field(total)
    return b"".join((header[:16], check.to_bytes(2, "big"), header[18:], options))
