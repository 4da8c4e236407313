"""Runs a simulated router on links, in the asyncio loop of whoever starts it."""

from __future__ import annotations

import asyncio
from functools import partial

from tapstack.link.base import Link

from .config import InterfaceConfig
from .core import Router

BATCH = 64
"""Frames read from one link before the router's answers go out."""


class RouterNode:
    """A router and its links; `connect` each link, then `start`."""

    def __init__(self, router: Router) -> None:
        self.router = router
        self._links: list[Link] = []
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._running = False

    def connect(self, link: Link, config: InterfaceConfig) -> int:
        """Make a link an interface of the router, whose number is returned."""
        if self._running:
            raise RuntimeError("links are connected before the router starts")
        port = self.router.add_interface(link.properties, config)
        self._links.append(link)
        return port

    def start(self) -> None:
        """Begin to route."""
        self._running = True
        for port, link in enumerate(self._links):
            link.attach(self._loop, partial(self._wake, port))
        self.router.start(self._loop.time())
        self.flush()

    def close(self) -> None:
        """Take leave of the hosts and close the links; harmless when called again."""
        if not self._running:
            return
        self.router.stop(self._loop.time())
        self.flush()
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        for link in self._links:
            link.close()

    def flush(self) -> None:
        """Send what the router has to say, and come back at its deadline; needed after calls on `router` from outside."""
        for port, frame in self.router.output():
            self._links[port].send([frame])
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self.router.deadline()
        if deadline is not None:
            self._timer = self._loop.call_at(deadline, self._due)

    def _wake(self, port: int) -> None:
        if not self._running:
            return
        now, link = self._loop.time(), self._links[port]
        for _ in range(BATCH):
            frame = link.receive()
            if frame is None:
                break
            self.router.input(port, frame, now)
        self.flush()

    def _due(self) -> None:
        self._timer = None
        self.router.advance(self._loop.time())
        self.flush()
