"""Whether a network device is up and has a carrier, as the kernel tells it by route netlink (RFC 3549).

An interface that is set down, or whose carrier is taken away, still has a descriptor from which nothing is read; only its
namespace's netlink says so.  One socket is subscribed to changes of links; it belongs, as the device does, to the network
namespace of the thread that opens it.

What finds no room in the socket's buffer the kernel drops, and says that it did (ENOBUFS, netlink(7)).  The change that was
dropped may have been the last, so the kernel is asked then how things are; its answer is a message like the others.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if.h>
_RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_RTM_GETLINK = 18
_NLM_F_REQUEST = 1
_IFF_UP = 0x1
_IFF_LOWER_UP = 0x10000
_message = struct.Struct("=IHHII")
_interface = struct.Struct("=BxHiII")
_READ = 32 * 1024
_AT_ONCE = 256
"""Messages read in one go, so that others get their turn."""


class CarrierWatch:
    """Tells of one device, from when it is opened."""

    def __init__(self, name: str) -> None:
        """`name` of a device of the calling thread's namespace, of which is told only as long as it stays there.

        Raises `OSError`.
        """
        self._index = socket.if_nametoindex(name)
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, _RTMGRP_LINK))
        except BaseException:
            self._socket.close()
            raise
        self._up = True
        self._loop: asyncio.AbstractEventLoop | None = None

    def attach(self, loop: asyncio.AbstractEventLoop, changed: Callable[[bool], None]) -> None:
        """Call `changed(up)` from `loop` with each change, until `close`."""
        self._loop = loop
        loop.add_reader(self._socket, self._read, changed)

    def _read(self, changed: Callable[[bool], None]) -> None:
        missed = False
        for _ in range(_AT_ONCE):
            try:
                told = self._socket.recv(_READ)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    break  # nothing more waits
                missed = True
                continue
            for up in self._states(told):
                if up != self._up:
                    self._up = up
                    changed(up)
            if self._loop is None:  # closed by whoever was told
                return
        if missed:
            self._ask()

    def _ask(self) -> None:
        """Have the kernel say how things are; what still waits in the buffer comes before its answer."""
        question = _message.pack(_message.size + _interface.size, _RTM_GETLINK, _NLM_F_REQUEST, 0, 0)
        with suppress(OSError):
            self._socket.send(question + _interface.pack(socket.AF_UNSPEC, 0, self._index, 0, 0))

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
