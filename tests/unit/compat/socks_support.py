"""A node's part played by the kernel's loopback, and a client that speaks raw SOCKS."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from typing import Any

from compat.socks.messages import AddressType, address_type
from compat.socks.server import SocksServer
from compat.socks.services import Services
from compat.socks.session import Session
from tapstack.tcp.options import PortMode
from tapstack.types import Buffer
from unimux import errors
from unimux.purpose import UNNAMED, Purpose

PATIENCE = 60.0


@dataclass
class Call:
    """One connection that was asked for."""

    host: str
    port: int
    timeout: float
    mode: PortMode | None
    session: Session | None
    purpose: Purpose


@dataclass
class LoopbackDialler:
    """Connects names of a table, and literal addresses, over loopback; `failures` by host come first.

    hold: hosts whose connection never comes about; `cancelled` counts those that were given up.
    gate: what every attempt waits for first, whatever becomes of it.
    """

    names: dict[str, tuple[str, int]] = field(default_factory=dict)
    failures: dict[str, Exception] = field(default_factory=dict)
    hold: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    cancelled: int = 0
    gate: asyncio.Event | None = None

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        mode: PortMode | None,
        timeout: float,
        session: Session | None,
        purpose: Purpose,
    ) -> tuple[asyncio.Transport, Any]:
        self.calls.append(Call(host, port, timeout, mode, session, purpose))
        if self.gate is not None:
            await self.gate.wait()
        if host in self.failures:
            raise self.failures[host]
        if host in self.hold:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
        target = self.names.get(host, (host, port))
        try:
            return await asyncio.get_running_loop().create_connection(protocol_factory, *target)
        except ConnectionRefusedError:
            raise errors.ConnectRefused(host, port) from None


class EchoServer:
    """A TCP server on ::1 that answers with what it gets, and ends when its client does."""

    def __init__(self) -> None:
        self.connections = 0
        self.port = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        writer.close()

    async def __aenter__(self) -> EchoServer:
        self._server = await asyncio.start_server(self._serve, "::1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


@dataclass
class RawClient:
    """A connection to the front end."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def expect(self, data: bytes) -> None:
        got = await asyncio.wait_for(self.reader.readexactly(len(data)), PATIENCE)
        assert got == data, (got, data)

    async def read(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), PATIENCE)

    async def rest(self) -> bytes:
        """Everything until the front end closes."""
        return await asyncio.wait_for(self.reader.read(), PATIENCE)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Leave with a RST, after whatever was sent."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()


class FrontEnd:
    """A running front end on loopback, and clients for it."""

    def __init__(self, server: SocksServer) -> None:
        self.server = server
        self._clients: list[RawClient] = []

    @property
    def port(self) -> int:
        return self.server.addresses[0][1]

    @property
    def connected(self) -> int:
        """Clients that have connected."""
        return len(self._clients)

    async def connect(self) -> RawClient:
        client = RawClient(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(client)
        return client

    def transports(self) -> list[asyncio.Transport]:
        """The front end's transports of clients, as the loop knows them."""
        known = asyncio.get_running_loop()._transports.values()  # type: ignore[attr-defined]
        return [each for each in known if each.get_extra_info("sockname")[1] == self.port]

    async def until(self, condition: Callable[[], bool], what: str, timeout: float = PATIENCE) -> None:
        """Wait for a condition of the server."""
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(0.005)
        assert condition(), what

    async def close(self) -> None:
        for client in self._clients:
            client.close()
            with contextlib.suppress(ConnectionError):
                await client.writer.wait_closed()
        await self.server.close()


@contextlib.asynccontextmanager
async def front_end(services: Services) -> AsyncIterator[FrontEnd]:
    """A front end on a free port."""
    server = SocksServer(services)
    await server.start("127.0.0.1", 0)
    end = FrontEnd(server)
    try:
        yield end
    finally:
        await end.close()


class EchoFlow:
    """A UDP flow whose peer answers with what it gets."""

    def __init__(self, host: str, port: int, receive: Callable[[Buffer], None]) -> None:
        self.peer = (host, port)
        self.closed = False
        self.sent: list[bytes] = []
        self._receive = receive

    def send(self, data: Buffer) -> None:
        assert not self.closed
        self.sent.append(bytes(data))
        self._receive(b"re: " + bytes(data))

    def close(self) -> None:
        self.closed = True


@dataclass
class EchoDatagrams:
    """Opens `EchoFlow`s; names resolve to 2001:db8::53, IPv4 addresses are behind 2001:db8:64::/96."""

    flows: list[EchoFlow] = field(default_factory=list)
    failures: dict[str, Exception] = field(default_factory=dict)
    gate: asyncio.Event | None = None
    sessions: list[Session | None] = field(default_factory=list)

    async def open_flow(
        self,
        host: str,
        port: int,
        receive: Callable[[Buffer], None],
        *,
        session: Session | None,
        purpose: Purpose = UNNAMED,
    ) -> EchoFlow:
        if self.gate is not None:
            await self.gate.wait()
        if host in self.failures:
            raise self.failures[host]
        self.sessions.append(session)
        kind = address_type(host)
        if kind is AddressType.IPV4:
            host = f"2001:db8:64::{host}"
        peer = "2001:db8::53" if kind is AddressType.NAME else str(IPv6Address(host))
        flow = EchoFlow(peer, port, receive)
        self.flows.append(flow)
        return flow


class LoopbackBound:
    """What BIND waits on, over loopback."""

    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        self.closed = False
        self.address, self.port = server.sockets[0].getsockname()[:2]

    def close(self) -> None:
        self.closed = True
        self._server.close()


@dataclass
class LoopbackBinder:
    """Listens on ::1 for BIND.  gate: what the address waits for."""

    bounds: list[LoopbackBound] = field(default_factory=list)
    clients: list[str | None] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def bind(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        client: str | None,
        lifetime: float,
        purpose: Purpose,
    ) -> LoopbackBound:
        self.clients.append(client)
        if self.gate is not None:
            await self.gate.wait()
        server = await asyncio.get_running_loop().create_server(
            protocol_factory,
            "::1",
            0,
        )
        self.bounds.append(LoopbackBound(server))
        return self.bounds[-1]
