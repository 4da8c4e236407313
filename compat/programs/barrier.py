"""A frame that marks a point in a capture, so that one can know when everything before it is in the file.

A capture program has no way to say "all that was on the wire until now is written": frames wait in the kernel's ring until a
block of it is full or a quarter of a second old.  So we send a frame of our own on the captured interface; when it is in
the file, so is everything that was on that interface before it.  Afterwards it is taken out of the file.

On Ethernet it has the experimental type 0x88B5 (IEEE 802) and goes to the nearest-bridge group, which bridges do not
forward; on a link without Ethernet it is an IPv6 packet without a next header to the interface-local all-nodes group.
A node on the other end sees one frame of an unknown kind and drops it.
"""

from __future__ import annotations

import mmap
import os
import socket
import struct
from ipaddress import IPv6Address
from pathlib import Path

from ..kernel import Interface

_MAGIC = b"unimux capture barrier "
_TOKEN_LENGTH = 8
_ETHERTYPE = 0x88B5
_ETH_P_IPV6 = 0x86DD
_NEAREST_BRIDGE = bytes.fromhex("0180c200000e")
_NO_NEXT_HEADER = 59

SHORTEST_SNAPLEN = 128
"""A capture must keep this many bytes of a frame for the barrier to be recognised."""

FILTERS = {True: f"ether proto {_ETHERTYPE:#x}", False: f"ip6 proto {_NO_NEXT_HEADER}"}
"""Capture filter that lets the barrier through, on Ethernet and on a link without."""


class Barrier:
    """One barrier for one interface, not yet sent.

    token: the bytes that tell it from every other frame of the capture.
    """

    def __init__(self, interface: Interface, *, ethernet: bool) -> None:
        self.interface = interface
        self.token = _MAGIC + os.urandom(_TOKEN_LENGTH)
        if ethernet:
            self._frame = (_NEAREST_BRIDGE + interface.mac + struct.pack(">H", _ETHERTYPE) + self.token).ljust(
                60, b"\0"
            )
        else:
            header = struct.pack(">IHBB", 0x60000000, len(self.token), _NO_NEXT_HEADER, 1)
            self._frame = header + bytes(16) + IPv6Address("ff01::1").packed + self.token

    def send(self) -> None:
        """Put it on the interface; `KernelError` when that is down or gone."""

        def work() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
                raw.bind((self.interface.name, _ETH_P_IPV6))
                raw.send(self._frame)

        self.interface.namespace.run(work, f"mark the end of the capture on {self.interface}")


def _is_barrier(frame: bytes) -> bool:
    after_ethernet = struct.pack(">H", _ETHERTYPE) + _MAGIC
    if frame[12 : 12 + len(after_ethernet)] == after_ethernet:
        return True
    return frame[6:7] == bytes([_NO_NEXT_HEADER]) and frame[40 : 40 + len(_MAGIC)] == _MAGIC


_BLOCK = struct.Struct("=II")
_ENHANCED_PACKET = 6
_PACKET_DATA = 28  # offset of the frame in an enhanced packet block


def strip(path: Path) -> int:
    """Take every barrier, our own and those from the far end of the link, out of a pcapng file; returns how many.

    Only the part of the file from the first barrier on is written anew, which is its last few blocks as a rule.
    """
    with path.open("r+b") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return 0
        with mmap.mmap(file.fileno(), 0) as data:
            if data.find(_MAGIC) < 0:
                return 0
            found, source, target = 0, 0, 0
            while source + _BLOCK.size <= len(data):
                kind, length = _BLOCK.unpack_from(data, source)
                if length < 12 or source + length > len(data):
                    break  # cut off, or not pcapng; leave the rest as it is
                head = data[source + _PACKET_DATA : source + min(length, _PACKET_DATA + SHORTEST_SNAPLEN)]
                if kind == _ENHANCED_PACKET and _is_barrier(head):
                    found += 1
                else:
                    if found:
                        data.move(target, source, length)
                    target += length
                source += length
            rest = len(data) - source
            if found and rest:
                data.move(target, source, rest)
            size = target + rest
        file.truncate(size)
        return found
