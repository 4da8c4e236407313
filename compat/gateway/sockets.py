"""The listening sockets of a namespace, as the kernel lists them (sock_diag(7)), looked at ten times a second.

The kernel tells nobody when a socket begins to listen, so it is asked; one look costs a third of a millisecond.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from pyroute2.netlink.diag import DiagSocket

from compat.kernel import Namespace

INTERVAL = 0.1
"""Seconds between two looks."""
PATIENCE = 20
"""Looks in a row that may fail before that is worth a word."""
_LISTEN = 1 << 10
"""The bit of TCP_LISTEN in a set of states (inet_diag)."""


@dataclass(frozen=True, slots=True)
class Listening:
    """One listening TCP socket; `inode` tells it from a later one at the same place."""

    address: IPv4Address | IPv6Address
    port: int
    inode: int

    @property
    def reachable(self) -> bool:
        """Whether it listens for others than its own machine, over IPv6."""
        return self.address.version == 6 and not self.address.is_loopback

    @property
    def ipv4_only(self) -> bool:
        """Whether it listens for others, but over IPv4 alone."""
        return self.address.version == 4 and not self.address.is_loopback


Changed = Callable[[frozenset[Listening]], None]


@asynccontextmanager
async def watched_listeners(where: Namespace, changed: Changed, complain: Callable[[str], None]) -> AsyncIterator[None]:
    """Call `changed` with the listening sockets of a namespace whenever they are others.

    A look that fails is repeated with another netlink socket; `complain` is told once where that is of no use for a while.
    Raises `KernelError` where the namespace cannot be entered.
    """
    loop, stop = asyncio.get_running_loop(), threading.Event()
    entered: asyncio.Future[None] = loop.create_future()

    def look() -> None:
        loop.call_soon_threadsafe(entered.set_result, None)
        known: frozenset[Listening] = frozenset()
        failures = 0
        while not stop.is_set():
            try:
                with DiagSocket() as diag:
                    diag.bind()
                    while not stop.is_set():
                        found = _listening(diag)
                        failures = 0
                        if found != known:
                            known = found
                            loop.call_soon_threadsafe(changed, found)
                        stop.wait(INTERVAL)
            except Exception as error:  # the kernel's answer may be anything, and the next one may be right
                failures += 1
                if failures == PATIENCE:
                    loop.call_soon_threadsafe(complain, _unseen(error))
                stop.wait(INTERVAL)

    watching = loop.create_task(asyncio.to_thread(where.run, look, "list the program's sockets"))
    try:
        await asyncio.wait([watching, entered], return_when=asyncio.FIRST_COMPLETED)
        if entered.done():
            yield
    finally:
        stop.set()
        await watching


def _unseen(error: Exception) -> str:
    why = error.strerror if isinstance(error, OSError) else None
    return f"What the program listens at cannot be seen ({why or error}): new sockets are served when it can."


def _listening(diag: DiagSocket) -> frozenset[Listening]:
    return frozenset(
        Listening(ip_address(row["idiag_src"]), row["idiag_sport"], row["idiag_inode"])
        for family in (socket.AF_INET, socket.AF_INET6)
        for row in diag.get_sock_stats(family=family, states=_LISTEN)
    )
