"""The bytes of one connection between a node's loop and threads that block: two bounded buffers and one condition.

Model.  The loop's thread runs the protocol, any other thread calls `read` and `write`.  What has arrived waits in `_chunks`;
above `HIGH_WATER` bytes the transport is paused, so the peer's window closes.  What is to be sent is handed to the loop in
pieces, of which at most `HIGH_WATER` bytes are on their way to it, and none while the transport has asked to pause.
"""

from __future__ import annotations

import asyncio
import errno
import threading
from collections import deque
from collections.abc import Callable

from tapstack.tcp.options import SocketOptions

from .transport import SessionTransport

HIGH_WATER = 256 * 1024
"""Bytes that wait in each direction, beyond the stack's own buffers."""


class Exchange(asyncio.Protocol):
    """One established connection.  Methods without a note run in the loop's thread; those of threads say so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._changed = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._waiting = 0
        self._on_their_way = 0
        self._paused = False
        self._writable = True
        self._sent_end = False
        self._ended = False
        self._lost = False
        self._error: Exception | None = None
        self.transport: SessionTransport | None = None
        self.local: tuple[str, int, int, int] = ("::", 0, 0, 0)
        self.remote: tuple[str, int, int, int] = ("::", 0, 0, 0)

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SessionTransport)
        self.transport = transport
        self.local = transport.get_extra_info("sockname")
        self.remote = transport.get_extra_info("peername")

    def data_received(self, data: bytes) -> None:
        with self._changed:
            self._chunks.append(data)
            self._waiting += len(data)
            if self._waiting > HIGH_WATER and not self._paused and self.transport is not None:
                self._paused = True
                self.transport.pause_reading()
            self._changed.notify_all()

    def eof_received(self) -> bool:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        return True  # our own direction stays open until shutdown or close

    def connection_lost(self, exc: Exception | None) -> None:
        with self._changed:
            self._lost = True
            self._error = exc
            self._changed.notify_all()

    def pause_writing(self) -> None:
        with self._changed:
            self._writable = False

    def resume_writing(self) -> None:
        with self._changed:
            self._writable = True
            self._changed.notify_all()

    def _send(self, data: bytes) -> None:
        try:
            if self.transport is not None:
                self.transport.write(data)
        finally:
            with self._changed:
                self._on_their_way -= len(data)
                self._changed.notify_all()

    def _resume(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def set_options(self, options: SocketOptions) -> None:
        """Options that were changed since it was established."""
        if self.transport is not None:
            self.transport.set_options(options)

    # -- for threads -----------------------------------------------------------------------------

    def read(self, size: int, timeout: float | None, *, peek: bool = False) -> bytes:
        """At most `size` bytes, as soon as there are any; empty at the end of the stream.  From any thread.

        timeout: seconds, None for no end, 0 for not at all.  Raises TimeoutError, BlockingIOError, ConnectionError.
        """
        with self._changed:
            self._until(lambda: bool(self._chunks) or self._ended or self._lost, timeout, "nothing has arrived")
            if not self._chunks:
                if self._error is not None and not self._ended:
                    raise self._error
                return b""
            data = self._chunks[0]
            if peek:
                return data[:size]
            if len(data) > size:
                self._chunks[0] = data[size:]
                data = data[:size]
            else:
                self._chunks.popleft()
            self._waiting -= len(data)
            resume = self._paused and self._waiting <= HIGH_WATER // 2
            if resume:
                self._paused = False
        if resume:
            self._call(self._resume)
        return data

    def write(self, data: bytes, timeout: float | None) -> int:
        """Hand over as much of `data` as there is room for, at least one byte of it; how much.  From any thread.

        Raises as `read` does, and BrokenPipeError after `end`.
        """
        with self._changed:
            self._until(lambda: self._lost or self._room() > 0, timeout, "the peer does not read")
            if self._sent_end:
                raise BrokenPipeError(errno.EPIPE, "this direction was shut down")
            if self._lost:
                raise self._error or BrokenPipeError(errno.EPIPE, "the connection has ended")
            piece = data[: self._room()]
            self._on_their_way += len(piece)
            self._call(self._send, piece)  # within the lock: an end that is asked for next comes next
        return len(piece)

    def end(self) -> None:
        """Send FIN after what was written.  From any thread."""
        with self._changed:
            if self._sent_end:
                return
            self._sent_end = True
            if self.transport is not None:
                self._call(self.transport.write_eof)

    def close(self) -> None:
        """Close in order: the stack sends what was written, then FIN.  From any thread."""
        if self.transport is not None:
            self._call(self.transport.close)

    @property
    def connected(self) -> bool:
        """Whether both ends still stand."""
        return self.transport is not None and not self._lost

    def _room(self) -> int:
        return HIGH_WATER - self._on_their_way if self._writable else 0

    def _until(self, ready: Callable[[], bool], timeout: float | None, why: str) -> None:
        if ready():
            return
        if timeout == 0:
            raise BlockingIOError(errno.EAGAIN, why)
        if not self._changed.wait_for(ready, timeout):
            raise TimeoutError(errno.ETIMEDOUT, f"timed out: {why}")

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop has ended, and every connection with it
            with self._changed:
                self._lost = True
