"""Whether a network device is up and has a carrier, as the kernel tells it by route netlink (RFC 3549).

An interface that is set down, or whose carrier is taken away, still has a descriptor from which nothing is read; only its
namespace's netlink says so.  One socket is subscribed to changes of links; it belongs, as the device does, to the network
namespace of the thread that opens it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if.h>
_RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_message = struct.Struct("=IHHII")
_interface = struct.Struct("=BxHiII")
_READ = 32 * 1024


class CarrierWatch:
    """Tells of one device, from when it is opened."""

    def __init__(self, name: str) -> None:
        """`name` of a device of the calling thread's namespace.  Raises `OSError`."""
        self._index = socket.if_nametoindex(name)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK))
        self._up = True
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop, changed: Callable[[bool], None]) -> None:
        """Call `changed(up)` from `loop` with each change, until `close`."""
        self._loop = loop
        loop.add_reader(self._socket, self._read, changed)

    def _read(self, changed: Callable[[bool], None]) -> None:
        try:
            told = self._socket.recv(_READ)
        except (
            OSError
        ):  # nothing after all, or more than the socket's buffer held: the next message says how things are
            return
        for up in self._states(told):
            if up != self._up:
                self._up = up
                changed(up)

    def _states(self, told: bytes) -> list[bool]:
        """What the messages say of the device, oldest first."""
        states, at = [], 0
        while at + _message.size + _interface.size <= len(told):
            length, kind, _, _, _ = _message.unpack_from(told, at)
            if length < _message.size:
                break
            _, _, index, flags, _ = _interface.unpack_from(told, at + _message.size)
            if kind == _RTM_NEWLINK and index == self._index:
                states.append(flags & _IFF_UP != 0 and flags & _IFF_LOWER_UP != 0)
            at += (length + 3) & ~3
        return states

    def close(self) -> None:
        """Stop; harmless when called again."""
        if self._loop is not None:
            self._loop.remove_reader(self._socket)
            self._loop = None
        self._socket.close()
