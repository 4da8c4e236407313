"""Writing pcapng files with nanosecond times, directions and comments, through dpkt's blocks.

The format is that of draft-ietf-opsawg-pcapng: a section header, a description of each interface, then one block per
frame with its options.  Several comments on one frame are several options; readers show them all.
"""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import BinaryIO

import dpkt
from dpkt import pcapng

from ..types import Buffer

ETHERNET = 1
RAW_IP = 101
"""Link types (the registry of tcpdump.org): Ethernet frames; bare IP packets."""

COMMENT_MAX = 2000
"""Bytes of one comment; longer ones are cut."""

_LITTLE = sys.byteorder == "little"
_Option = pcapng.PcapngOptionLE if _LITTLE else pcapng.PcapngOption
_Section = pcapng.SectionHeaderBlockLE if _LITTLE else pcapng.SectionHeaderBlock
_Interface = pcapng.InterfaceDescriptionBlockLE if _LITTLE else pcapng.InterfaceDescriptionBlock
_Packet = pcapng.EnhancedPacketBlockLE if _LITTLE else pcapng.EnhancedPacketBlock

_NANOSECONDS = 9  # if_tsresol: ten to the minus nine
_EPB_FLAGS = 2  # dpkt names the options of interfaces and sections, not this one of frames
_PACKET_LENGTH = slice(24, 28)  # of a packet block: the length on the wire, which dpkt sets to the captured one


class Direction(IntEnum):
    """Which way a frame went, as the flags option of a packet block has it."""

    UNKNOWN = 0
    INBOUND = 1
    OUTBOUND = 2


class PcapngWriter:
    """Writes one pcapng section into a binary file object, which stays the caller's to close."""

    def __init__(
        self, file: BinaryIO, *, application: str = "tapstack", comment: str = "", snaplen: int = 262_144
    ) -> None:
        """application: the program that made the file; comment: on the file as a whole; snaplen: bytes kept of a frame."""
        self.frames = 0
        self._file = file
        self._interfaces = 0
        self._snaplen = snaplen
        options = [_comment(comment)] if comment else []
        options.append(_Option(code=pcapng.PCAPNG_OPT_SHB_USERAPPL, data=application.encode()))
        file.write(bytes(_Section(opts=_ended(options))))

    def add_interface(self, name: str, link_type: int = ETHERNET, *, description: str = "") -> int:
        """Describe one more interface; returns the number by which `write` knows it."""
        options = [
            _Option(code=pcapng.PCAPNG_OPT_IF_NAME, data=name.encode()),
            _Option(code=pcapng.PCAPNG_OPT_IF_TSRESOL, data=bytes([_NANOSECONDS])),
        ]
        if description:
            options.append(_Option(code=pcapng.PCAPNG_OPT_IF_DESCRIPTION, data=description.encode()))
        self._file.write(bytes(_Interface(linktype=link_type, snaplen=self._snaplen, opts=_ended(options))))
        self._interfaces += 1
        return self._interfaces - 1

    def write(
        self,
        interface: int,
        time_ns: int,
        frame: Buffer,
        direction: Direction = Direction.UNKNOWN,
        comments: list[str] | tuple[str, ...] = (),
    ) -> None:
        """Add a frame.

        interface: from `add_interface`; time_ns: Unix time in nanoseconds; comments: one option each.
        """
        if not 0 <= interface < self._interfaces:
            raise ValueError(f"interface {interface} has not been described")
        options = [_comment(text) for text in comments]
        if direction:
            options.append(_Option(code=_EPB_FLAGS, data=int(direction).to_bytes(4, sys.byteorder)))
        block = _Packet(
            iface_id=interface,
            ts_high=time_ns >> 32,
            ts_low=time_ns & 0xFFFFFFFF,
            pkt_data=bytes(frame[: self._snaplen]),
            opts=_ended(options) if options else [],
        )
        packed = bytearray(bytes(block))
        packed[_PACKET_LENGTH] = len(frame).to_bytes(4, sys.byteorder)
        self._file.write(packed)
        self.frames += 1

    def flush(self) -> None:
        """Hand everything written to the file below."""
        self._file.flush()


def _comment(text: str) -> dpkt.Packet:
    # Cut between characters: a reader may refuse a whole file for half a letter.
    data = text.encode(errors="replace")[:COMMENT_MAX].decode(errors="ignore").encode()
    return _Option(code=pcapng.PCAPNG_OPT_COMMENT, data=data)


def _ended(options: list[dpkt.Packet]) -> list[dpkt.Packet]:
    return [*options, _Option(code=pcapng.PCAPNG_OPT_ENDOFOPT)]
