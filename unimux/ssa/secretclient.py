"""The client of a shared secret: it finds the server without a message (UM-SSA-2, UM-GEN-5); see `unimux.ssa.secret`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from ipaddress import IPv6Address, IPv6Network
from typing import Any, ClassVar, Protocol

from tapstack.tcp.options import PortMode

from ..errors import ConnectError, NetworkUnreachable, UnimuxError
from ..purpose import Purpose
from .counters import Counters
from .secret import DEFAULT_ARMED, SharedSecret, purpose_of

DEFAULT_SEARCH = 16
TRY_TIMEOUT = 2.0
"""Seconds the client gives one counter: a SYN and its first retransmission."""


class OutOfStep(UnimuxError, TimeoutError):
    """No counter that was tried led to the server.  `tried`: how many; `first`: where they began."""

    exit_code: ClassVar[int] = 4

    def __init__(self, service: str, first: int, tried: int, last: Exception | None) -> None:
        self.first = first
        self.tried = tried
        self.last = last
        super().__init__(
            f"None of {tried} addresses of {service} from counter {first} on answered: check that the server runs and "
            "shares the secret, the prefix and both names; if one side lost its counters, make a new secret."
        )


class Dialler(Protocol):
    """A node, as far as the client needs it."""

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: IPv6Address,
        port: int | None,
        *,
        mode: PortMode | None,
        timeout: float,
        purpose: Purpose,
    ) -> tuple[asyncio.Transport, Any]:
        """As `Node.create_connection`."""


class SecretClient:
    """Connects to a server with which it shares a secret, in a prefix that it knows.

    look_ahead: k of the server.  search: steps beyond it.  attempts: what happened so far, as (counter, error or None), for
    whoever wants to see.
    """

    def __init__(
        self,
        node: Dialler,
        shared: SharedSecret,
        prefix: IPv6Network,
        counters: Counters,
        *,
        look_ahead: int = DEFAULT_ARMED,
        search: int = DEFAULT_SEARCH,
        try_timeout: float = TRY_TIMEOUT,
    ) -> None:
        self.shared = shared
        self.prefix = prefix
        self.counters = counters
        self.attempts: list[tuple[int, ConnectError | None]] = []
        self._node = node
        self._purpose = purpose_of(shared)
        self._sequence = shared.sequence(prefix.prefixlen)
        self._look_ahead = look_ahead
        self._search = search
        self._try_timeout = try_timeout
        self._flying: set[int] = set()

    def candidates(self) -> Iterator[int]:
        """The counters to try, in order; bounded.  Those that a parallel connection tries now are left to it."""
        counter = self.counters.used
        near = self._look_ahead
        while near:
            counter += 1
            if counter > self.counters.used and counter not in self._flying and self._sequence.usable(counter):
                near -= 1
                yield counter
        step = max(1, self._look_ahead // 2)
        for _ in range(self._search):
            counter += step
            if counter not in self._flying and self._sequence.usable(counter):
                yield counter

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        port: int | None = None,
        *,
        mode: PortMode | None = None,
        timeout: float | None = None,
    ) -> tuple[asyncio.Transport, Any]:
        """Connect; the record is durable when this returns.

        timeout: seconds for all counters together; None for as many as there are candidates.  Raises `OutOfStep`,
        `NetworkUnreachable`, `StateError`, and what the node raises where it has no address.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        first = self.counters.used + 1
        tried = 0
        last: ConnectError | None = None
        for counter in self.candidates():
            left = self._try_timeout if deadline is None else min(self._try_timeout, deadline - loop.time())
            if left <= 0:
                break
            tried += 1
            self._flying.add(counter)
            try:
                made = await self._node.create_connection(
                    protocol_factory,
                    self.shared.address(self.prefix, counter),
                    port,
                    mode=mode,
                    timeout=left,
                    purpose=self._purpose,
                )
            except NetworkUnreachable:
                raise
            except ConnectError as error:
                self.attempts.append((counter, error))
                last = error
            else:
                self.attempts.append((counter, None))
                self.counters.used = max(self.counters.used, counter)
                try:
                    self.counters.save()
                except BaseException:
                    made[0].abort()
                    raise
                return made
            finally:
                self._flying.discard(counter)
        raise OutOfStep(self.shared.service, first, tried, last)
