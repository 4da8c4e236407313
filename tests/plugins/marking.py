"""Copies of captures from a real interface, in which the frames that the test made are told from all others.

dumpcap sees one interface and cannot tell who sent.  A test that puts frames on a real wire passes each through
`taps.by_hand`; in the copy these frames lie on a second interface, `by hand`.  Where the test made segments between two
addresses and this capture was taken at another place, its comment says so: the answers are here, the questions are not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from ipaddress import IPv6Address
from pathlib import Path

from tests.plugins import taps

_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_ETHERNET_HEADER = 14
_TCP = 6
_HOP_LIMIT = 7


def copy_marked(source: Path, target: Path, made: Sequence[bytes], words: Sequence[str] = ()) -> None:
    """Copy a capture of one Ethernet interface.  made: the frames that the test put on a wire; words: for the file's comment."""
    keys = {_key(frame) for frame in made}
    blocks = list(_blocks(source.read_bytes()))
    here = {_key(body[20 : 20 + _captured(body)]) for kind, body in blocks if kind == _PACKET}
    pairs = {pair for frame in made if _key(frame) not in here and (pair := _segment_between(frame)) is not None}
    with target.open("wb") as file:
        described = False
        for kind, body in blocks:
            if kind == _SECTION and (pairs or words):
                body = _with_comments(
                    body, [*words, *(f"made by the test elsewhere: {a} and {b}" for a, b in sorted(pairs))]
                )
            elif kind == _PACKET and not described:
                described = True
                file.write(_by_hand_interface(blocks))
            if kind == _PACKET and _key(body[20 : 20 + _captured(body)]) in keys:
                body = struct.pack("<I", 1) + body[4:]
            file.write(taps.block(kind, body))


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        yield kind, data[at + 8 : at + length - 4]
        at += length


def _captured(body: bytes) -> int:
    return int(struct.unpack_from("<I", body, 12)[0])


def _key(frame: bytes) -> bytes:
    """A frame as it is wherever it is seen: without what routers change."""
    packet = frame[_ETHERNET_HEADER:]
    return packet[:_HOP_LIMIT] + packet[_HOP_LIMIT + 1 :]


def _segment_between(frame: bytes) -> tuple[str, str] | None:
    """The addresses of a TCP segment without extension headers."""
    packet = frame[_ETHERNET_HEADER:]
    if len(packet) < 40 or packet[6] != _TCP:
        return None
    return str(IPv6Address(packet[8:24])), str(IPv6Address(packet[24:40]))


def _with_comments(section: bytes, comments: Sequence[str]) -> bytes:
    return section[:16] + taps.option_list(*((1, text.encode()) for text in comments))[:-4] + section[16:]


def _by_hand_interface(blocks: Sequence[tuple[int, bytes]]) -> bytes:
    """A second interface of the same kind and clock."""
    body = next(body for kind, body in blocks if kind == _INTERFACE)
    options = [(2, taps.BY_HAND.encode())]
    at = 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from("<HH", body, at)
        if code == 9:  # the resolution of its times
            options.append((code, body[at + 4 : at + 4 + length]))
        at += 4 + (length + 3 & ~3)
    return taps.block(_INTERFACE, body[:8] + taps.option_list(*options))
