"""Annotated copies of the verdict captures, for people: the same frames, with a comment where there is something to say.

The copies are pcapng with nanosecond time stamps; Wireshark shows the comments as `frame.comment`.  Verdicts are taken
from the originals only.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import BinaryIO

from dpkt import pcapng

from .finding import Witness
from .judge import Judgement
from .notes import Notes, collect
from .pcapng import CaptureError, Interface, PcapngFile, file_comments

_PACKET = struct.Struct("=IIIIIII")
_LITTLE = sys.byteorder == "little"
_Option = pcapng.PcapngOptionLE if _LITTLE else pcapng.PcapngOption
_Section = pcapng.SectionHeaderBlockLE if _LITTLE else pcapng.SectionHeaderBlock
_Interface = pcapng.InterfaceDescriptionBlockLE if _LITTLE else pcapng.InterfaceDescriptionBlock
_LONGEST_COMMENT = 60_000


def annotate(judgement: Judgement, folder: Path) -> list[Path]:
    """Write `capture-<name>.pcapng` into `folder` for every readable capture of the judgement; returns the paths.

    Raises `OSError` when the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    notes = collect(judgement)
    written = []
    for capture in judgement.evidence.captures:
        stem = capture.path.stem.removeprefix("capture-")
        target = folder / f"capture-{stem}.pcapng"
        if target.resolve() == capture.path.resolve():
            target = folder / f"capture-{stem}-annotated.pcapng"
        try:
            copy_with_notes(capture.path, target, capture.where, notes)
        except CaptureError:
            target.unlink(missing_ok=True)  # a finding of `captures-whole` says so already
        else:
            written.append(target)
    return written


def copy_with_notes(source: Path, target: Path, where: str, notes: Notes) -> int:
    """Copy one capture with its comments; returns how many frames got one.  Raises `CaptureError` and `OSError`."""
    reader = PcapngFile(source, where)
    commented = described = 0
    with target.open("wb") as out:
        words = f"Annotated copy of {source.name}, taken at {where}. Verdicts rest on the original."
        out.write(_section_header(words, *file_comments(source)))
        for raw in reader.frames():
            while described < len(reader.interfaces):
                out.write(_interface(reader.interfaces[described], where))
                described += 1
            lines = notes.get(Witness(where, source.name, raw.number), [])
            _packet(out, raw.interface, raw.nanoseconds, raw.data, raw.length, "\n".join(lines))
            commented += bool(lines)
    return commented


def _comment(words: str) -> bytes:
    encoded = words.encode()[:_LONGEST_COMMENT].decode(errors="ignore")
    return bytes(_Option(code=pcapng.PCAPNG_OPT_COMMENT, text=encoded)) + bytes(_Option())


def _section_header(*comments: str) -> bytes:
    options = [_Option(code=pcapng.PCAPNG_OPT_COMMENT, text=words) for words in comments]
    return bytes(_Section(opts=[*options, _Option()]))


def _interface(interface: Interface, where: str) -> bytes:
    name = (interface.name or where).encode()
    options = [
        _Option(code=pcapng.PCAPNG_OPT_IF_NAME, data=name),
        _Option(code=pcapng.PCAPNG_OPT_IF_TSRESOL, data=b"\x09"),
        _Option(),
    ]
    return bytes(_Interface(linktype=max(0, interface.link_type), snaplen=interface.snap_length, opts=options))


def _packet(out: BinaryIO, interface: int, nanoseconds: int, data: memoryview, length: int, words: str) -> None:
    padding = bytes(-len(data) % 4)
    options = _comment(words) if words else b""
    total = 32 + len(data) + len(padding) + len(options)
    ticks = max(0, nanoseconds)
    out.write(_PACKET.pack(pcapng.PCAPNG_BT_EPB, total, interface, ticks >> 32, ticks & 0xFFFFFFFF, len(data), length))
    out.write(data)
    out.write(padding + options + struct.pack("=I", total))
