"""Standard input and output in an asyncio loop, which can poll neither a file nor a terminal."""

from __future__ import annotations

import asyncio
import os
import queue
import select
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

CHUNK = 64 * 1024
T = TypeVar("T")


class Standard:
    """Standard input and output as coroutines, whatever they are: terminal, pipe, file; left to block or not.

    Threads read and write, since a file cannot be polled, and a terminal's read or a full pipe's write cannot be cancelled.  The
    reader never runs ahead by more than a chunk, and neither keeps the process alive.
    """

    def __init__(self, source: int = 0, sink: int = 1) -> None:
        self._source = source
        self._sink = sink
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()
        self._room = threading.Semaphore(1)
        self._written: queue.SimpleQueue[tuple[bytes, asyncio.Future[None]]] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._reading = self._writing = self._ended = False

    @property
    def at_terminal(self) -> bool:
        """Whether a person types the input."""
        return os.isatty(self._source)

    async def read(self) -> bytes:
        """The next bytes of standard input; empty at its end, when no thread looks at it any more."""
        if self._ended:
            return b""
        if not self._reading:
            self._reading = True
            threading.Thread(target=self._feed, name="standard input", daemon=True).start()
        data = await self._chunks.get()
        self._room.release()
        self._ended = not data
        return data

    def _feed(self) -> None:
        data = b"x"
        while data:
            self._room.acquire()
            try:
                data = _patiently(self._source, select.POLLIN, lambda: os.read(self._source, CHUNK))
            except OSError:
                data = b""  # a terminal that is gone
            if not self._tell(self._chunks.put_nowait, data):
                return

    async def write(self, data: bytes) -> None:
        """Write all of it; raises BrokenPipeError when nobody reads any more."""
        if not self._writing:
            self._writing = True
            threading.Thread(target=self._drain, name="standard output", daemon=True).start()
        done: asyncio.Future[None] = self._loop.create_future()
        self._written.put((data, done))
        await done

    def _drain(self) -> None:
        while True:
            data, done = self._written.get()
            failure: OSError | None = None
            try:
                self._write_all(data)
            except OSError as error:
                failure = error
            if not self._tell(_settle, done, failure):
                return

    def _write_all(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[_patiently(self._sink, select.POLLOUT, partial(os.write, self._sink, view)) :]

    def _tell(self, call: Callable[..., None], *arguments: object) -> bool:
        """Have the loop call something; False when it has ended."""
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            return False
        return True


def _settle(done: asyncio.Future[None], failure: OSError | None) -> None:
    if done.done():
        return  # nobody waits any more
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


def _patiently(descriptor: int, event: int, call: Callable[[], T]) -> T:
    """What a call on a descriptor gives that may have been left not to block."""
    while True:
        try:
            return call()
        except BlockingIOError:
            ready = select.poll()
            ready.register(descriptor, event)
            ready.poll()
