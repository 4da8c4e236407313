"""Resets of kernel connections that nobody reads.

asyncio asks the kernel about a socket while it reads from it or waits to write.  Behind the end of a stream, and while reading
is paused, it does neither: a reset is met at the next write, and where nothing is to be written, never.  An epoll of our
own in which sockets stand with no event wanted hears of just that; one for each event loop, while there is anything to watch.

Connections of the userspace stack tell by themselves.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Callable
from weakref import WeakKeyDictionary

Told = Callable[[OSError], None]


def is_kernel_socket(transport: asyncio.Transport) -> bool:
    """Whether a transport is one of the kernel's, and not of the userspace stack or in memory."""
    return isinstance(transport.get_extra_info("socket"), (socket.socket, TransportSocket))


class ResetWatch:
    """One watched connection; made by `watch_for_reset`."""

    __slots__ = ("_hearing", "_number", "_sock", "_told")

    def __init__(self, hearing: _Hearing, sock: TransportSocket, told: Told) -> None:
        self._hearing = hearing
        self._sock = sock
        self._number = sock.fileno()
        self._told = told
        hearing.add(self._number, self)

    def end(self) -> None:
        """Watch no more; has to come before the socket is closed, in `connection_lost` at the latest.  Harmless again."""
        self._hearing.remove(self._number, self)

    def look(self) -> None:
        """Tell if the socket has failed."""
        if number := self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.end()
            self._told(OSError(number, os.strerror(number)))


class _Hearing:
    """The epoll of one event loop."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, ResetWatch] = {}
        asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._hear)

    def add(self, number: int, watch: ResetWatch) -> None:
        self._watched[number] = watch
        # errors are told always; at an edge, for the end of both streams, which stays, is told as well
        self._epoll.register(number, select.EPOLLET)

    def remove(self, number: int, watch: ResetWatch) -> None:
        if self._watched.get(number) is not watch:
            return
        del self._watched[number]
        self._epoll.unregister(number)
        if not self._watched:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            del _hearings[loop]

    def _hear(self) -> None:
        for number, _ in self._epoll.poll(0):
            if (watch := self._watched.get(number)) is not None:
                watch.look()


_hearings: WeakKeyDictionary[asyncio.AbstractEventLoop, _Hearing] = WeakKeyDictionary()


def watch_for_reset(transport: asyncio.Transport, told: Told) -> ResetWatch | None:
    """Call `told` with the error once the kernel's connection under `transport` has failed; None where it has no such.

    A transport that reads or waits to write tells by itself as well: `told` may come first, with data unread.
    """
    if not is_kernel_socket(transport) or transport.is_closing():
        return None
    loop = asyncio.get_running_loop()
    hearing = _hearings.get(loop)
    if hearing is None:
        hearing = _hearings[loop] = _Hearing()
    return ResetWatch(hearing, transport.get_extra_info("socket"), told)
