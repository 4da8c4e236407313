"""An unmodified kernel-stack server behind one-time addresses: each session of an SSA is relayed to it.

Model.  By default an SSA is a lease: its first client, and nobody else from then on, may open as many sessions as it wants
until the lease is over, as browsers do (UM-LIS-8).  An SSA can also be for a number of sessions, of anybody.  `Publisher` has
a listener per port-ignore mode: L1 for SSAs of one session, L2 for leases and SSAs of several (UM-PORT-5).

A session that comes in dials the backend over the kernel and is joined to it by `compat.relay`, which carries back-pressure,
half-close and resets both ways.  Nothing is read from the client before the backend is connected.

Bounds: sessions at a time (one more is reset at once), as many as there can be files for;
time to connect to the backend, idle time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv6Network
from typing import Any

from compat.openfiles import files_clause, lack_of_files, room_for_files
from compat.proxyprotocol import proxy_header
from compat.relay import IDLE_TIMEOUT, EndReason, Relay, RelayResult
from tapstack.tcp.listener import ArmedAddress
from tapstack.tcp.options import PortMode
from unimux.control import Offer, check_name
from unimux.das import AddressNotSet
from unimux.endpoint import endpoint_text, parse_endpoint
from unimux.errors import PoolExhausted, SetupError, WrongUsage
from unimux.node import Node
from unimux.poolstate import NoPrefix
from unimux.purpose import Purpose
from unimux.server import AUTO_ARM_PAUSE, Server
from unimux.ssa.issue import DEFAULT_LIFETIME, Client, ServiceAddress, client_network
from unimux.ssa.token import Token

SCHEMES = {21: "ftp", 22: "ssh", 80: "http", 443: "https", 8000: "http", 8080: "http", 8443: "https"}
"""What a backend's port suggests for the URL of its SSAs."""

_NEXT_ADDRESS = 0.25
"""Seconds after which a server's next address is tried beside the one that has not answered (RFC 8305 §5)."""
_SPARE_FILES = 128
"""File descriptors left for everything else than sessions."""

_PUBLISH = Purpose(front_end="publish")

Connect = Callable[[Callable[[], asyncio.BaseProtocol], tuple[str, int]], Awaitable[object]]
"""`connect(protocol_factory, client)`: reach the server on behalf of a client (address and port); raises OSError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishLimits:
    """Bounds; times in seconds.  idle_timeout None: for ever."""

    max_sessions: int = 4096
    connect_timeout: float = 10.0
    idle_timeout: float | None = IDLE_TIMEOUT

    def __post_init__(self) -> None:
        if (
            self.max_sessions < 1
            or self.connect_timeout <= 0
            or (self.idle_timeout is not None and self.idle_timeout <= 0)
        ):
            raise SetupError("The limits of a published service are all more than 0.")


@dataclass(slots=True)
class PublishCounters:
    """What has happened since the start; `active` is what there is now."""

    issued: int = 0
    sessions: int = 0
    active: int = 0
    turned_away: int = 0
    backend_failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    ended: Counter[EndReason] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """All counts by name."""
        counts = {each.name: n for each in fields(self) if isinstance(n := getattr(self, each.name), int)}
        return counts | {f"ended.{k}": n for k, n in sorted(self.ended.items())}


@dataclass(frozen=True, slots=True)
class Backend:
    """Where the unmodified server listens, over the kernel's stack.

    >>> str(Backend.parse("[::1]:8080")), str(Backend.parse("localhost:22"))
    ('[::1]:8080', 'localhost:22')
    """

    host: str
    port: int

    def __str__(self) -> str:
        return endpoint_text(self.host, self.port)

    @classmethod
    def parse(cls, text: str) -> Backend:
        """Read HOST:PORT; raises `WrongUsage`."""
        found = parse_endpoint(text)
        if found is None:
            raise WrongUsage(f"{text!r} is not HOST:PORT: write for instance 127.0.0.1:8080 or [::1]:8080.")
        return cls(*found)


class Publisher:
    """A service behind SSAs; `issue` makes one, `close` ends everything.

    backend: the server.  sessions: of one SSA, None for leases.
    scheme: of the URLs, None where they are tokens.  proxy_protocol: tell the backend who the client
    is.  complain: told, once per cause, what went wrong with the backend.
    connect: how the backend is reached, over the kernel's stack by default.  purpose: what its SSAs are for, in the journal.
    Raises `SetupError` where this process may not open a file for even one session.
    """

    def __init__(
        self,
        node: Node,
        name: str,
        backend: Backend,
        *,
        limits: PublishLimits | None = None,
        scheme: str | None = None,
        proxy_protocol: bool = False,
        sessions: int | None = None,
        client: Client | None = None,
        lifetime: float | None = DEFAULT_LIFETIME,
        complain: Callable[[str], None] = lambda text: None,
        connect: Connect | None = None,
        purpose: Purpose = _PUBLISH,
    ) -> None:
        self.name = check_name(name)
        self.node = node
        self.backend = backend
        self.limits = limits or PublishLimits()
        self.counters = PublishCounters()
        self.scheme = scheme
        self._proxy_protocol = proxy_protocol
        self._sessions = sessions
        self._client = client_network(client)
        self._lifetime = lifetime
        self._complain = complain
        self._purpose = purpose
        self._connect = connect or self._over_the_kernel
        files = room_for_files(_SPARE_FILES) if connect is None else None
        self._most_sessions = self.limits.max_sessions if files is None else min(self.limits.max_sessions, files)
        self._complained: set[str] = set()
        self._servers: dict[PortMode, Server] = {}
        self._relays: dict[Relay, None] = {}
        self._dials: dict[Relay, asyncio.Task[None]] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._retired = False

    # -- SSAs --------------------------------------------------------------------------------------

    def server(self, mode: PortMode) -> Server:
        """The listener of a mode, made when it is first asked for."""
        found = self._servers.get(mode)
        if found is None:
            options = replace(self.node.config.socket, mode=mode)
            found = self._servers[mode] = Server(
                self.node, lambda: _Visitor(self), options, self.name, purpose=self._purpose
            )
        return found

    async def issue(
        self,
        *,
        sessions: int | None = None,
        client: Client | None = None,
        lifetime: float | None = None,
        front_end: str | None = None,
        who: str | None = None,
    ) -> ServiceAddress:
        """An SSA, armed; what is None is the service's default.  Parameters and errors are those of `Server.issue`."""
        count = self._sessions if sessions is None else sessions
        server = self.server(PortMode.L1 if count == 1 else PortMode.L2)
        ssa = await server.issue(
            sessions=1 if count is None else count,
            lease=count is None,
            client=self._client if client is None else client,
            lifetime=self._lifetime if lifetime is None else lifetime,
            front_end=front_end,
            who=who,
        )
        self.counters.issued += 1
        return ssa

    async def issue_for(self, offer: Offer) -> Mapping[str, Any]:
        """For the control socket; see `unimux.control.Issuing`."""
        ssa = await self.issue(
            sessions=offer.sessions, client=offer.client, lifetime=offer.lifetime, front_end="ssa new"
        )
        return self.describe(ssa)

    def armed(self) -> list[Mapping[str, Any]]:
        """The SSAs that can be connected to now, described."""
        found: list[Mapping[str, Any]] = []
        for server in self._servers.values():
            now_armed = set(server.armed)
            found += [self.describe(ssa) for ssa in server.outstanding if ssa.address in now_armed]
        return found

    def is_armed(self, ssa: ServiceAddress) -> bool:
        """Whether it can be connected to now, or when its prefix is preferred again."""
        return self._armed(ssa) is not None

    def rests(self, ssa: ServiceAddress) -> bool:
        """Whether it cannot be connected to until its prefix is preferred again (UM-ADDR-11)."""
        armed = self._armed(ssa)
        return armed is not None and armed.resting

    def is_free(self, ssa: ServiceAddress) -> bool:
        """Whether a new client can connect to it now: armed, not resting, and if it is a lease, not taken."""
        armed = self._armed(ssa)
        return armed is not None and not armed.resting and (ssa.sessions is not None or armed.lease)

    def _armed(self, ssa: ServiceAddress) -> ArmedAddress | None:
        found = (server.listener.armed.get(ssa.address.packed) for server in self._servers.values())
        return next((armed for armed in found if armed is not None), None)

    def describe(self, ssa: ServiceAddress) -> dict[str, Any]:
        """What a client, or whoever carries it there, needs to know of an SSA; sessions None for a lease."""
        armed = self._armed(ssa)
        bound = None if armed is None or armed.client is None else IPv6Network(armed.client)
        seconds = None if ssa.expires is None else max(0.0, ssa.expires - self.node.now())
        until = None if seconds is None else datetime.now(UTC) + timedelta(seconds=seconds)
        token = str(Token(ssa.address, self.backend.port, self.name, until, ssa.sessions))
        return {
            "address": str(ssa.address),
            "url": token if self.scheme is None else f"{self.scheme}://[{ssa.address}]/",
            "token": token,
            "sessions": ssa.sessions,
            "client": str(bound or ssa.client) if bound or ssa.client else None,
            "taken": armed is not None and not self.is_free(ssa),
            "seconds": None if seconds is None else round(seconds, 3),
        }

    async def keep(self, count: int, announce: Callable[[ServiceAddress], None], *, patient: bool = False) -> None:
        """Keep `count` SSAs ready for new clients, each announced when it is; runs until it is cancelled.

        A lack of addresses that comes later than the first one is complained of and outlived; one at the start only if `patient`.
        Raises what `issue` raises otherwise.
        """
        kept: list[ServiceAddress] = []
        complained = False

        def missing() -> bool:
            return sum(map(self.is_free, kept)) < count

        while True:
            kept[:] = [ssa for ssa in kept if self.is_free(ssa) or self.rests(ssa)]
            while missing():
                try:
                    ssa = await self.issue()
                except (PoolExhausted, NoPrefix, AddressNotSet) as error:
                    if not patient:
                        raise
                    if not complained:
                        self._complain(f"New clients of {self.name} have to wait: {error}")
                    complained = True
                    await asyncio.sleep(AUTO_ARM_PAUSE)
                    continue
                patient, complained = True, False
                announce(ssa)
                kept.append(ssa)
            await self.node.until(missing)

    # -- sessions ----------------------------------------------------------------------------------

    def came(self, transport: asyncio.Transport) -> None:
        """A session was established on an SSA: dial the backend and join the two."""
        if self.counters.active >= self._most_sessions:
            self.counters.turned_away += 1
            if self._most_sessions < self.limits.max_sessions:
                self._lacks_files(files_clause())
            transport.abort()
            return
        self.counters.sessions += 1
        self.counters.active += 1
        self._empty.clear()
        relay = Relay(idle_timeout=self.limits.idle_timeout, on_end=lambda result: self._ended(relay, result))
        self._relays[relay] = None
        if self._proxy_protocol:
            here, there = transport.get_extra_info("sockname"), transport.get_extra_info("peername")
            relay.far.preface = proxy_header((there[0], there[1]), (here[0], here[1]))
        relay.near.adopt(transport)
        client = transport.get_extra_info("peername")[:2]
        task = self._dials[relay] = asyncio.get_running_loop().create_task(self._dial(relay, client))
        task.add_done_callback(lambda done: self._dials.pop(relay, None))

    async def _over_the_kernel(self, factory: Callable[[], asyncio.BaseProtocol], client: tuple[str, int]) -> object:
        return await asyncio.get_running_loop().create_connection(
            factory, self.backend.host, self.backend.port, happy_eyeballs_delay=_NEXT_ADDRESS
        )

    async def _dial(self, relay: Relay, client: tuple[str, int]) -> None:
        try:
            async with asyncio.timeout(self.limits.connect_timeout):
                await self._connect(lambda: relay.far, client)
        except (
            OSError,
            UnicodeError,
        ) as error:  # TimeoutError is the one, a host that no name server could be asked about the other
            if lack := lack_of_files(error):
                self.counters.turned_away += 1
                self._lacks_files(lack)
            else:
                self.counters.backend_failed += 1
                self._complain_once(
                    f"The server at {self.backend} cannot be reached ({_reason(error)}): clients are reset until it is."
                )
            relay.abort()
        except BaseException:
            relay.abort()
            raise

    def _lacks_files(self, why: str) -> None:
        self._complain_once(f"Clients of {self.name} are reset for want of a file: {why}.")

    def _complain_once(self, text: str) -> None:
        if text not in self._complained:
            self._complained.add(text)
            self._complain(text)

    def _ended(self, relay: Relay, result: RelayResult) -> None:
        del self._relays[relay]
        if (dial := self._dials.get(relay)) is not None:  # for whom, now that the visitor has gone?
            dial.cancel()
        self.counters.active -= 1
        self.counters.ended[result.reason] += 1
        self.counters.bytes_in += result.bytes_to_far
        self.counters.bytes_out += result.bytes_to_near
        if not self._relays:
            self._empty.set()

    @property
    def over(self) -> bool:
        """Whether it listens no more and its last session has ended."""
        return self._retired and not self._relays

    def retire(self) -> None:
        """Stop listening; sessions go on.  Harmless when called again."""
        self._retired = True
        for server in self._servers.values():
            server.close()

    async def close(self, grace: float = 0.0) -> None:
        """Stop listening, give sessions `grace` seconds to end, reset the others."""
        self.retire()
        if grace > 0 and self._relays:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._empty.wait()
        dials = list(self._dials.values())
        for task in dials:
            task.cancel()
        await asyncio.gather(*dials, return_exceptions=True)
        for relay in list(self._relays):
            relay.abort()
        self.node.driver.kick()


def _reason(error: OSError | UnicodeError) -> str:
    """Why the backend cannot be reached, as a clause."""
    if isinstance(error, UnicodeError):
        return "no host can have that name"
    if isinstance(error, TimeoutError):
        return "no answer"
    if isinstance(error, socket.gaierror):  # whose numbers are of its own
        return (error.strerror or str(error)).lower()
    return os.strerror(error.errno).lower() if error.errno else str(error)


class _Visitor(asyncio.Protocol):
    """The protocol of a session until its relay takes it over, which is at once."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._publisher.came(transport)


@asynccontextmanager
async def published(node: Node, name: str, backend: Backend, **options: Any) -> AsyncIterator[Publisher]:
    """A `Publisher`, closed at the end of the block."""
    publisher = Publisher(node, name, backend, **options)
    try:
        yield publisher
    finally:
        await publisher.close()
