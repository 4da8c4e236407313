"""Events of a node as JSON lines (UM-NODE-4)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec

from tapstack.events import Event, EventStream

from .errors import SetupError
from .linefile import LineFile


def event_line(event: Event, wall: float, node: str | None = None) -> bytes:
    """One event as a line of JSON: its own fields, `wall` (unix time in seconds), and the node's name where there are several."""
    fields = msgspec.to_builtins(event)
    fields["wall"] = wall
    if node is not None:
        fields["node"] = node
    return msgspec.json.encode(fields) + b"\n"


class EventFile:
    """Writes each event of a stream to a file, from `__enter__` to `__exit__`; several nodes may share one, each with its name.

    clock: the wall clock, for tests.  Only the owner can read the file: events name peers.  Raises `SetupError` when it
    cannot be opened.  A write that fails later (disk full) stops nothing: it is counted in `lost`, told once through `complain`.
    """

    def __init__(
        self,
        path: Path,
        events: EventStream,
        *,
        node: str | None = None,
        clock: Callable[[], float] = time.time,
        complain: Callable[[str], None] | None = None,
    ) -> None:
        self.lost = 0
        self._path = path
        self._events = events
        self._node = node
        self._clock = clock
        self._complain = complain
        self._file: LineFile | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    def __enter__(self) -> EventFile:
        try:
            self._file = LineFile(self._path)
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
        if self._file is None:
            return
        try:
            self._file.write(event_line(event, self._clock(), self._node))
        except OSError as error:
            self.lost += 1
            if self.lost == 1 and self._complain is not None:
                self._complain(f"events cannot be written to {self._path} ({error.strerror or error}): some are lost")
