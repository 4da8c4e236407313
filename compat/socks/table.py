"""Who is connected to the front end, in which phase, and the bounds of each phase.

A client *waits* until it has made its request, and again while it reads a last answer; each wait has a deadline, and where one
more wait would be too many the oldest is dropped.  It is *active* while its request is served; *in doubt* while that is not
answered yet although its stream is over: it may have left, and goes where room is needed.  Whoever has been told of by
`arrived` counts as present until `gone`.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from compat.socks.settings import SocksCounters, SocksLimits

_SWEEP = 0.5
"""Seconds between two looks at the deadlines: one timer for all instead of one for each."""


class TableEntry(Protocol):
    """A client, as far as the table cares."""

    @property
    def leaving(self) -> bool:
        """Whether it has been refused and only reads the answer."""

    def drop(self) -> None:
        """End its connection now; `gone` follows."""


class ClientTable:
    """All clients of one front end.  max_files: what the process can open for requests that are served, None for any number."""

    def __init__(self, limits: SocksLimits, counters: SocksCounters) -> None:
        self.max_files: int | None = None
        self._limits = limits
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._present: set[TableEntry] = set()
        self._waiting: dict[TableEntry, float] = {}
        self._active: dict[TableEntry, int] = {}
        self._in_doubt: dict[TableEntry, None] = {}
        self._files = 0
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._closed = False

    def make_room(self, files: int) -> bool:
        """Whether one more request, for which so many files are open, is not too many; those in doubt are dropped for it."""
        while not (room := self._has_room(files)) and self._in_doubt:
            oldest = next(iter(self._in_doubt))
            self._counters.evicted += 1
            self._inactive(oldest)
            oldest.drop()
        return room

    def _has_room(self, files: int) -> bool:
        if len(self._active) >= self._limits.max_connections:
            return False
        return self.max_files is None or self._files + files <= self.max_files

    def arrived(self, client: TableEntry) -> None:
        """A new connection: it may take the handshake time-out to say what it wants."""
        self._present.add(client)
        self._counters.accepted += 1
        if self._closed:
            client.drop()
            return
        if len(self._waiting) >= self._limits.max_handshakes:
            oldest = next(iter(self._waiting))
            self._counters.evicted += 1
            self.decided(oldest)
            oldest.drop()
        self._wait(client, self._limits.handshake_timeout)

    def decided(self, client: TableEntry) -> None:
        """It is not waited for any more."""
        self._waiting.pop(client, None)
        self._counters.handshaking = len(self._waiting)

    def serving(self, client: TableEntry, files: int) -> None:
        """Its request is being served, and takes so many files."""
        self._active[client] = files
        self._files += files
        self._counters.active = len(self._active)

    def in_doubt(self, client: TableEntry) -> None:
        """Its stream is over and its request not answered: it waits, or it has left."""
        self._in_doubt[client] = None

    def answered(self, client: TableEntry) -> None:
        """Its request is granted: where it has left, its connection fails by itself."""
        self._in_doubt.pop(client, None)

    def lingers(self, client: TableEntry) -> None:
        """It has been refused, and may take the linger time to read why."""
        self._inactive(client)
        self._waiting.pop(client, None)
        self._wait(client, self._limits.linger)

    def gone(self, client: TableEntry) -> None:
        """Nothing of it is left; harmless when told again."""
        self.decided(client)
        self._inactive(client)
        self._present.discard(client)
        if not self._present:
            self._empty.set()

    async def close(self) -> None:
        """Drop everybody, and whoever still comes; returns when all are gone."""
        self._closed = True
        for client in list(self._present):
            client.drop()
        if self._present:
            self._empty.clear()
            await self._empty.wait()
        if self._timer is not None:
            self._timer.cancel()

    def _inactive(self, client: TableEntry) -> None:
        self._in_doubt.pop(client, None)
        self._files -= self._active.pop(client, 0)
        self._counters.active = len(self._active)

    def _wait(self, client: TableEntry, seconds: float) -> None:
        self._waiting[client] = self._loop.time() + seconds
        self._counters.handshaking = len(self._waiting)
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP, self._drop_late)

    def _drop_late(self) -> None:
        now = self._loop.time()
        for client in [client for client, deadline in self._waiting.items() if deadline <= now]:
            if not client.leaving:
                self._counters.handshake_timeouts += 1
            self.decided(client)
            client.drop()
        self._timer = self._loop.call_later(_SWEEP, self._drop_late) if self._waiting else None
