"""Single datagrams of a kernel's sockets that a test cannot do without.

A kernel whose neighbour table is full sends nothing (EINVAL).  The table is the whole machine's, and anything on it may have
filled it.  A refusal that an earlier datagram drew (ECONNREFUSED) is told instead of sending.  In both cases the datagram has
not left, so repeating it sends it once.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
import time
from typing import Any

TABLE_PATIENCE = 60.0
"""Seconds to wait for room in the neighbour table."""
_NOT_SENT = {errno.EINVAL: 0.1, errno.EAGAIN: 0.1, errno.ECONNREFUSED: 0.0}
"""What an attempt fails with that may be repeated, and after how many seconds."""


async def send(out: socket.socket, data: bytes, to: tuple[Any, ...] | None = None) -> None:
    """Send a datagram inside a running loop; to: None for a socket that is connected."""
    async with asyncio.timeout(TABLE_PATIENCE):
        while (pause := _attempt(out, data, to)) is not None:
            await asyncio.sleep(pause)


def send_blocking(out: socket.socket, data: bytes, to: tuple[Any, ...] | None = None) -> None:
    """The same around code that runs no loop, or none that others wait for."""
    between, deadline = threading.Event(), time.monotonic() + TABLE_PATIENCE
    while (pause := _attempt(out, data, to)) is not None:
        assert time.monotonic() < deadline, "the kernel does not let the datagram leave"
        between.wait(pause)


def _attempt(out: socket.socket, data: bytes, to: tuple[Any, ...] | None) -> float | None:
    """Try once; None where the datagram has left, otherwise the seconds to the next attempt."""
    try:
        if to is None:
            out.send(data)
        else:
            out.sendto(data, to)
    except OSError as error:
        if error.errno not in _NOT_SENT:
            raise
        return _NOT_SENT[error.errno]
    return None
