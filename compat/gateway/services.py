"""The program's listening sockets as services of the node: LISTEN_o, and SSAs that are told to the user.

Each socket that listens for others becomes a `Publisher` whose server is the program, reached through the gateway in the
name of the client.  When the socket is gone nothing new is accepted; sessions go on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv6Address
from typing import Any

from compat.gateway.gateway import Gateway
from compat.gateway.sockets import Listening
from compat.publisher import SCHEMES, Backend, Publisher, PublishLimits
from unimux.control import control_server
from unimux.errors import SetupError
from unimux.ssa.issue import ServiceAddress

Tell = Callable[[str, Mapping[str, Any], str], None]
"""`tell(event, facts, text)`: one object for programs, a sentence or address for people."""


class Services:
    """Keeps services and listening sockets in step; `update` is told of the sockets.

    program: a word for the services' names.  count: addresses to keep armed of each.  sessions, lifetime: of each address.
    """

    def __init__(
        self,
        gateway: Gateway,
        program: str,
        tell: Tell,
        complain: Callable[[str], None],
        *,
        count: int,
        sessions: int | None,
        lifetime: float,
        limits: PublishLimits,
    ) -> None:
        self._gateway = gateway
        self._program = program
        self._tell = tell
        self._complain = complain
        self._count = count
        self._sessions = sessions
        self._lifetime = lifetime
        self._limits = limits
        self._running: dict[int, asyncio.Task[None]] = {}
        self._publishers: list[Publisher] = []
        self._complained: set[int] = set()

    def update(self, sockets: frozenset[Listening]) -> None:
        """The sockets that listen now; several at one port are one service."""
        ports = {each.port for each in sockets if each.reachable}
        for port in self._running.keys() - ports:
            self._running.pop(port).cancel()
        for port in sorted(ports - self._running.keys()):
            self._running[port] = asyncio.get_running_loop().create_task(self._serve(port))
            self._running[port].add_done_callback(partial(self._ended, port))
        for port in sorted({each.port for each in sockets if each.ipv4_only} - ports - self._complained):
            self._complained.add(port)
            self._complain(f"The program listens on port {port} over IPv4 only: have it listen on [::]:{port}.")

    def _ended(self, port: int, service: asyncio.Task[None]) -> None:
        """A service that was not cancelled has failed: the user is to know, and the next news of sockets begins it again."""
        if service.cancelled() or (error := service.exception()) is None:
            return
        if self._running.get(port) is service:
            del self._running[port]
        self._complain(f"{self._program}-{port} has no more addresses: {error}")

    async def _serve(self, port: int) -> None:
        """One service, until it is cancelled."""
        self._publishers = [each for each in self._publishers if not each.over]
        publisher = Publisher(
            self._gateway.node,
            f"{self._program}-{port}",
            Backend(str(self._gateway.inside.program), port),
            limits=self._limits,
            scheme=SCHEMES.get(port),
            sessions=self._sessions,
            lifetime=self._lifetime,
            complain=self._complain,
            purpose=self._gateway.purpose,
            connect=lambda factory, client: self._visit(factory, client, port),
        )
        self._publishers.append(publisher)

        def announce(ssa: ServiceAddress) -> None:
            facts = publisher.describe(ssa)
            self._tell("issued", {"service": publisher.name, "port": port, **facts}, facts["url"])

        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(control_server(publisher))
            except SetupError:  # another run of the same program has the name
                publisher.name = f"{publisher.name}-{os.getpid()}"
                await stack.enter_async_context(control_server(publisher))
            self._tell("listening", {"service": publisher.name, "port": port}, f"{publisher.name} listens.")
            try:
                await publisher.keep(self._count, announce, patient=True)
            finally:
                publisher.retire()
                self._tell("closed", {"service": publisher.name, "port": port}, f"{publisher.name} listens no more.")

    async def _visit(
        self, factory: Callable[[], asyncio.BaseProtocol], client: tuple[str, int], port: int
    ) -> asyncio.Transport:
        visitor = IPv6Address(client[0]).packed, client[1]
        return await self._gateway.visits.connect(factory, visitor, port, timeout=self._limits.connect_timeout)

    async def close(self) -> None:
        """End all services and their sessions."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)
        for publisher in self._publishers:
            await publisher.close()
