"""The container format: pcapng files, read block by block (draft-ietf-opsawg-pcapng).

dumpcap writes one section per file: a section header, a description per interface, an enhanced packet block per
frame, and at the end a statistics block that says how many frames the kernel dropped.  Options are decoded by dpkt;
the packet blocks, of which there may be hundreds of thousands, by one `struct` call each from a mapped file.

Frame numbers count packet blocks from 1, as tshark's `frame.number` does.  A file that ends in the middle of a
block (a killed dumpcap) yields what is whole and one `Fault`; only a file that is no pcapng at all raises.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dpkt import pcapng

ETHERNET = 1
RAW_IP = 101
IPV6_ONLY = 229
_INTERFACE_STATISTICS = 5
_STATISTIC_DROPS = 5, 7  # isb_ifdrop, isb_osdrop
_BLOCK = {"<": struct.Struct("<II"), ">": struct.Struct(">II")}
_PACKET = {"<": struct.Struct("<IIIII"), ">": struct.Struct(">IIIII")}


class CaptureError(Exception):
    """The file cannot be opened, or is not pcapng."""


class Fault(NamedTuple):
    """Something in a capture that cannot be read: reported, never raised."""

    where: str
    file: str
    number: int
    reason: str
    sender: bytes = b""
    """the Ethernet source of the frame, as far as it could be read"""


class RawFrame(NamedTuple):
    """One captured frame before its protocols are looked at."""

    number: int
    nanoseconds: int
    """Unix time"""
    interface: int
    data: memoryview
    length: int
    """bytes on the wire; more than `data` where the snapshot length cut it"""


@dataclass(slots=True)
class Interface:
    """One interface description block."""

    link_type: int
    name: str = ""
    snap_length: int = 0
    ticks_per_second: int = 1_000_000
    offset_seconds: int = 0

    def nanoseconds(self, ticks: int) -> int:
        """The Unix time in nanoseconds of a time stamp in this interface's resolution."""
        return self.offset_seconds * 1_000_000_000 + ticks * 1_000_000_000 // self.ticks_per_second


@dataclass(slots=True)
class PcapngFile:
    """A capture file.  `interfaces`, `dropped` and `faults` are complete once `frames()` is exhausted."""

    path: Path
    where: str = ""
    interfaces: list[Interface] = field(default_factory=list)
    dropped: int = 0
    """frames that the capturing program or its kernel lost"""
    faults: list[Fault] = field(default_factory=list)

    def frames(self) -> Iterator[RawFrame]:
        """Every captured frame in file order.  Raises `CaptureError` when the file is not pcapng."""
        try:
            with self.path.open("rb") as handle:
                if handle.read(4) != b"\x0a\x0d\x0d\x0a":
                    raise CaptureError(f"{self.path.name} is not a pcapng file")
                mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise CaptureError(f"{self.path.name} cannot be read: {error.strerror}") from error
        yield from self._walk(memoryview(mapped))

    def _walk(self, view: memoryview) -> Iterator[RawFrame]:
        self.interfaces, self.faults, self.dropped = [], [], 0
        order, number, at, size = "<", 0, 0, len(view)
        sections = 0
        while at + 12 <= size:
            kind, length = _BLOCK[order].unpack_from(view, at)
            if kind == pcapng.PCAPNG_BT_SHB:
                order = "<" if bytes(view[at + 8 : at + 12]) == b"\x4d\x3c\x2b\x1a" else ">"
                length = _BLOCK[order].unpack_from(view, at)[1]
                sections = len(self.interfaces)
            if length < 12 or length % 4 or at + length > size:
                self._fault(number, f"the file ends inside a block at byte {at}")
                return
            if kind == pcapng.PCAPNG_BT_EPB:
                number += 1
                frame = self._packet(view, at, length, order, number, sections)
                if frame is not None:
                    yield frame
            elif kind == pcapng.PCAPNG_BT_IDB:
                self._interface(bytes(view[at : at + length]), order, number)
            elif kind == _INTERFACE_STATISTICS:
                self._statistics(bytes(view[at : at + length]), order, number)
            elif kind in (pcapng.PCAPNG_BT_SPB, pcapng.PCAPNG_BT_PB):
                number += 1
                self._fault(number, "a packet block without a usable time stamp")
            at += length
        if at != size:
            self._fault(number, f"{size - at} bytes after the last block")

    def _packet(self, view: memoryview, at: int, length: int, order: str, number: int, section: int) -> RawFrame | None:
        if length < 32:
            self._fault(number, "a packet block shorter than its header")
            return None
        interface, high, low, captured, original = _PACKET[order].unpack_from(view, at + 8)
        interface += section
        if captured > length - 32 or interface >= len(self.interfaces):
            self._fault(number, "a packet block with impossible lengths or an interface never described")
            return None
        when = self.interfaces[interface].nanoseconds(high << 32 | low)
        return RawFrame(number, when, interface, view[at + 28 : at + 28 + captured], original)

    def _interface(self, block: bytes, order: str, number: int) -> None:
        try:
            parsed = (pcapng.InterfaceDescriptionBlockLE if order == "<" else pcapng.InterfaceDescriptionBlock)(block)
            interface = Interface(parsed.linktype, snap_length=parsed.snaplen)
            for option in parsed.opts:
                if option.code == pcapng.PCAPNG_OPT_IF_NAME:
                    interface.name = bytes(option.data).decode(errors="replace")
                elif option.code == pcapng.PCAPNG_OPT_IF_TSRESOL and option.data:
                    power = option.data[0]
                    interface.ticks_per_second = 2 ** (power & 0x7F) if power & 0x80 else 10**power
                elif option.code == pcapng.PCAPNG_OPT_IF_TSOFFSET and len(option.data) == 8:
                    interface.offset_seconds = struct.unpack(order + "q", option.data)[0]
        except Exception as error:  # dpkt lets struct, unicode and index errors through; any of them is one bad block
            self._fault(number, f"an interface block that cannot be read ({type(error).__name__})")
            interface = Interface(-1)
        self.interfaces.append(interface)

    def _statistics(self, block: bytes, order: str, number: int) -> None:
        at = 20
        while at + 4 <= len(block) - 4:
            code, length = struct.unpack_from(order + "HH", block, at)
            if code == 0:
                return
            if length == 8 and at + 12 <= len(block) and code in _STATISTIC_DROPS:
                self.dropped += struct.unpack_from(order + "Q", block, at + 4)[0]
            at += 4 + (length + 3 & ~3)

    def _fault(self, number: int, reason: str) -> None:
        self.faults.append(Fault(self.where, self.path.name, number, reason))


def file_comments(path: Path) -> tuple[str, ...]:
    """The comments on a capture file as a whole (option 1 of its section header).  Raises `CaptureError`."""
    try:
        with path.open("rb") as file:
            head = file.read(65_536)
    except OSError as error:
        raise CaptureError(f"{path.name} cannot be read: {error.strerror}") from error
    if head[:4] != b"\x0a\x0d\x0d\x0a" or len(head) < 28:
        raise CaptureError(f"{path.name} is not a pcapng file")
    order = "<" if head[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
    end, at, found = min(_BLOCK[order].unpack_from(head)[1] - 4, len(head)), 24, []
    while at + 4 <= end:
        code, length = struct.unpack_from(order + "HH", head, at)
        if code == 0:
            break
        if code == pcapng.PCAPNG_OPT_COMMENT:
            found.append(head[at + 4 : at + 4 + length].decode(errors="replace"))
        at += 4 + (length + 3 & ~3)
    return tuple(found)
