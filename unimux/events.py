"""Events of a node as JSON lines (UM-NODE-4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import msgspec

from tapstack.events import Event, EventStream

from .errors import SetupError


def event_line(event: Event, wall: float, node: str | None = None) -> bytes:
    """One event as a line of JSON: its own fields, `wall` (unix time in seconds), and the node's name where there are several."""
    fields = msgspec.to_builtins(event)
    fields["wall"] = wall
    if node is not None:
        fields["node"] = node
    return msgspec.json.encode(fields) + b"\n"


class EventFile:
    """Writes each event of a stream to a file, from `__enter__` to `__exit__`.

    clock: the wall clock, for tests.  append: several nodes may write to one file, each with its name.
    """

    def __init__(
        self,
        path: Path,
        events: EventStream,
        *,
        node: str | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._events = events
        self._node = node
        self._clock = clock
        self._file: IO[bytes] | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def __enter__(self) -> EventFile:
        try:
            self._file = self._path.open("ab", buffering=0)  # whole lines: several nodes may share the file
        except OSError as error:
            raise SetupError(f"Events cannot be written to {self._path}: {error.strerror}.") from error
        self._unsubscribe = self._events.subscribe(self._write)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unsubscribe()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, event: Event) -> None:
        if self._file is not None:
            self._file.write(event_line(event, self._clock(), self._node))
