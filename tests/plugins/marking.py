"""Copies of captures from a real interface, with what dumpcap cannot know.

dumpcap sees one interface and cannot tell who sent.  A test that puts frames on a real wire passes each through
`taps.by_hand`; in the copy these frames lie on a second interface, `by hand`.  Where the test made segments between two
addresses and this capture was taken at another place, a label says so: the answers are here, the questions are not.
What the stacks of this process said while the capture was taken stands beside its frames.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv6Address
from pathlib import Path

import msgspec

from scenarios.conformance.labels import BY_HAND, ELSEWHERE, label
from tests.plugins import taps

ANNOTATED = "-annotated"
"""Ends the name, before its suffix, of a copy that says more than the capture that it was made of."""
_SECTION, _INTERFACE, _PACKET = 0x0A0D0D0A, 1, 6
_PACKET_DATA = 20
_ETHERNET_HEADER = 14
_TCP = 6
_HOP_LIMIT = 7


def real_captures(folder: Path) -> list[Path]:
    """The captures in a test's artefacts; of one and its annotated copy, the copy."""
    found = sorted(folder.rglob("*.pcapng"))
    return [path for path in found if path.with_name(f"{path.stem}{ANNOTATED}.pcapng") not in found]


def events_of(capture: Path, recording: taps.Recording) -> dict[int, list[str]]:
    """What the stacks on real links said, by the frames of a capture; nothing where it cannot be read."""
    # Here, since most sessions keep no capture.
    from scenarios.witness import CaptureError, CaptureFile
    from scenarios.witness.claims import Claims
    from scenarios.witness.notes import beside

    events = [{**msgspec.to_builtins(event), "wall": wall, "node": name} for wall, name, event in recording.told]
    try:
        return beside(CaptureFile(capture, "the test"), Claims(events))
    except CaptureError:
        return {}


def copy_marked(
    source: Path,
    target: Path,
    *,
    made: Sequence[bytes] = (),
    words: Sequence[str] = (),
    notes: Mapping[int, Sequence[str]] | None = None,
    most_bytes: int = 1 << 62,
) -> None:
    """Copy a capture of one Ethernet interface.

    made: the frames that the test put on a wire.  words: labels of the file.  notes: comments, by frame.  most_bytes: what
    follows these is left out, and counted in a label.
    """
    notes = notes or {}
    if not made and not words and not notes and source.stat().st_size <= most_bytes:
        shutil.copyfile(source, target)
        return
    keys = {_key(frame) for frame in made}
    blocks, beyond = _cut(list(_blocks(source.read_bytes())), most_bytes)
    here = {_key(_frame(body)) for kind, body in blocks if kind == _PACKET}
    pairs = {pair for frame in made if _key(frame) not in here and (pair := _segment_between(frame)) is not None}
    comments = [*words, *(label(ELSEWHERE, f"{a} and {b}") for a, b in sorted(pairs))]
    if beyond:
        comments.append(taps.left_out(beyond, "frame"))
    number = 0
    with target.open("wb") as file:
        for kind, body in blocks:
            if kind == _SECTION:
                body = _with_comments(body, 16, comments)
            elif kind == _PACKET:
                if not number and keys:
                    file.write(_by_hand_interface(blocks))
                number += 1
                if _key(_frame(body)) in keys:
                    body = struct.pack("<I", 1) + body[4:]
                body = _with_comments(body, _PACKET_DATA + (_captured(body) + 3 & ~3), notes.get(number, ()))
            file.write(taps.block(kind, body))


def _cut(blocks: Sequence[tuple[int, bytes]], most_bytes: int) -> tuple[list[tuple[int, bytes]], int]:
    """The blocks without the packets that do not fit, and how many these are."""
    kept, size, beyond = list[tuple[int, bytes]](), 0, 0
    for kind, body in blocks:
        size += len(body)
        if kind == _PACKET and size > most_bytes:
            beyond += 1
        else:
            kept.append((kind, body))
    return kept, beyond


def _blocks(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("<II", data, at)
        if length < 12 or at + length > len(data):
            return  # cut off, as where dumpcap was killed
        yield kind, data[at + 8 : at + length - 4]
        at += length


def _captured(body: bytes) -> int:
    return int(struct.unpack_from("<I", body, 12)[0])


def _frame(body: bytes) -> bytes:
    return body[_PACKET_DATA : _PACKET_DATA + _captured(body)]


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


def _with_comments(body: bytes, at: int, comments: Sequence[str]) -> bytes:
    """A block's body with comments before its own options, which begin `at`."""
    if not comments:
        return body
    options = taps.option_list(*((1, text.encode()) for text in comments))
    return body[:at] + options[:-4] + (body[at:] or options[-4:])


def _by_hand_interface(blocks: Sequence[tuple[int, bytes]]) -> bytes:
    """A second interface of the same kind and clock."""
    body = next(body for kind, body in blocks if kind == _INTERFACE)
    options = [(2, BY_HAND.encode())]
    at = 8
    while at + 4 <= len(body):
        code, length = struct.unpack_from("<HH", body, at)
        if code == 9:  # the resolution of its times
            options.append((code, body[at + 4 : at + 4 + length]))
        at += 4 + (length + 3 & ~3)
    return taps.block(_INTERFACE, body[:8] + taps.option_list(*options))
