"""What a command says while its node runs: in a thread of its own, so that a reader that stands still stops nothing.

A pipe or a terminal that is not read takes some 64 KiB, and then blocks whoever writes; the loop of a node must never be that.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable
from contextlib import suppress

import typer

UNREAD = 4096
"""Lines that wait for their reader; one more is counted, and not said."""
LAST_WORDS = 1.0
"""Seconds that a reader has at the end for what it has not read."""


def counted(number: int, singular: str, plural: str = "") -> str:
    """A number of things, for people.

    >>> counted(1, "session"), counted(0, "address", "addresses")
    ('1 session', '0 addresses')
    """
    return f"{number} {singular if number == 1 else plural or singular + 's'}"


def _echo(text: str, err: bool) -> None:
    typer.echo(text, err=err)


class Speaker:
    """Says lines on standard output or standard error, from `__aenter__` to `__aexit__`.

    write: called in another thread with each line and whether it is for standard error; may block; raises OSError when
    nobody reads any more.
    """

    def __init__(self, write: Callable[[str, bool], None] = _echo) -> None:
        self._write = write
        self._lines: queue.Queue[tuple[str, bool] | None] = queue.Queue(UNREAD)
        self._missed = 0
        self._loop = asyncio.get_running_loop()
        self._failed: asyncio.Future[None] = self._loop.create_future()
        self._failed.add_done_callback(lambda done: done.cancelled() or done.exception())  # which nobody need await
        self._thread = threading.Thread(target=self._speak, name="speaker", daemon=True)

    async def __aenter__(self) -> Speaker:
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        with suppress(queue.Full):
            self._lines.put_nowait(None)
        await asyncio.to_thread(self._thread.join, LAST_WORDS)

    def say(self, text: str, *, err: bool = False) -> None:
        """Say a line, soon; raises the OSError with which an earlier one failed."""
        if self._failed.done():
            self._failed.result()
        try:
            if self._missed:
                self._lines.put_nowait((f"unimux: {self._missed} lines were left out: nobody read them.", True))
                self._missed = 0
            self._lines.put_nowait((text, err))
        except queue.Full:
            self._missed += 1

    def complain(self, text: str) -> None:
        """Tell the user something that stops nothing, on standard error; never raises."""
        with suppress(OSError):
            self.say(f"unimux: {text}", err=True)

    async def failed(self) -> None:
        """Wait until nobody reads any more, if that ever is; raises the OSError."""
        await asyncio.shield(self._failed)

    def _speak(self) -> None:
        try:
            while (line := self._lines.get()) is not None:
                self._write(*line)
        except OSError as error:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._fail, error)

    def _fail(self, error: OSError) -> None:
        if not self._failed.done():
            self._failed.set_exception(error)
