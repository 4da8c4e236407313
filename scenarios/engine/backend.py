"""What a backend has to offer; everything else of a scenario is the same on all of them.

To write one: make links on LANs, ordinary hosts, a router and captures, and tell the time.  `sim.py` and `netns.py` are two.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from scenarios.witness.setup import CaptureFile
from tapstack.link.base import Link
from tapstack.link.impairment import Impairment

from .definition import Backend as Name
from .network import Lan, Network

Streams: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Handler: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
Observer: TypeAlias = Callable[[float, bytes], None]
Impairments: TypeAlias = tuple[Impairment, Impairment]
"""What is done to the frames that a host sends, and to those it gets."""


class Host(ABC):
    """An ordinary host with one fixed address and no notion of one-time addresses: a kernel, or a simulated one."""

    def __init__(self, name: str, lan: Lan, address: str) -> None:
        self.name = name
        self.lan = lan
        self.address = address

    @abstractmethod
    async def open(self, host: str, port: int, *, timeout: float = 10.0, source: int = 0) -> Streams:
        """Connect to an address and port, from the port `source` if it is given (netns only).

        `OSError` (a `TimeoutError`, a `ConnectionRefusedError`) when that fails.
        """

    @abstractmethod
    async def serve(self, port: int, handler: Handler, *, cookies: bool = True) -> None:
        """Run `handler` for every connection to a port of this host, until the scenario ends.

        cookies: whether it answers with SYN cookies (RFC 4987) when too many handshakes stand half-open; for the whole host.
        """

    @abstractmethod
    async def ping(self, target: str, *, wait: float = 1.0) -> bool:
        """Whether the target answers an echo request within `wait` seconds."""


@dataclass(frozen=True, slots=True)
class NeighborCount:
    """The neighbour cache of the router: entries now, and how many new ones were refused since the start."""

    entries: int
    overflows: int


class RouterControl(ABC):
    """The router while it runs."""

    @abstractmethod
    def neighbors(self) -> NeighborCount:
        """Its neighbour cache now, link-local entries and its own left out."""

    @abstractmethod
    def route(self, prefix: str, via: str, lan: Lan) -> None:
        """Send packets to a prefix to a link-local address on a LAN, until the scenario ends."""


class Backend(ABC):
    """Where a scenario runs.  Used in this order: `running` around everything, links and hosts within it."""

    name: Name
    simulated: bool
    """whether routers and ordinary hosts are simulated, which a report has to say"""
    ordinary: str
    """what its ordinary hosts are, in a few words"""
    router: RouterControl | None = None

    def __init__(self) -> None:
        self.captures: list[CaptureFile] = []

    @abstractmethod
    def running(self, network: Network, folder: Path | None) -> AbstractAsyncContextManager[None]:
        """Build the network, and capture every LAN into the folder unless it is None; all is gone afterwards."""

    @abstractmethod
    def link(self, lan: Lan, mac: bytes) -> AbstractContextManager[Link]:
        """A port of a LAN."""

    @abstractmethod
    def observe(self, lan: Lan, observer: Observer) -> AbstractContextManager[None]:
        """Show every frame on a LAN, each once, to an observer: seconds of the loop's clock, frame."""

    @abstractmethod
    def host(self, name: str, lan: Lan, address: str, impair: Impairments) -> AbstractAsyncContextManager[Host]:
        """An ordinary host, answering when the block begins."""

    @abstractmethod
    def wall(self) -> float:
        """Unix time in seconds, as captures have it."""

    @abstractmethod
    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """Run a coroutine function to its end in the backend's loop."""
