"""A server on the kernel's stack, published by one node of a LAN in memory, and a client on another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from typing import Any

from compat.publisher import Backend, Publisher, published
from tests.unit.unimux.lan import lan
from unimux.aio import open_connection
from unimux.node import Node

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def backend(handler: Handler) -> AsyncIterator[Backend]:
    """A server on the kernel's stack."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0)
    async with server:
        yield Backend("127.0.0.1", server.sockets[0].getsockname()[1])


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back everything after the client's end of stream."""
    data = await reader.read()
    writer.write(data)
    writer.close()


async def ask(node: Node, where: IPv6Address, data: bytes, **options: Any) -> bytes:
    reader, writer = await open_connection(node, where, None, **options)
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


@asynccontextmanager
async def stage(
    handler: Handler = echo, *, sessions: int | None = 1, **options: Any
) -> AsyncIterator[tuple[Node, Publisher]]:
    """A client's node and a publisher on another, real time."""
    async with lan(latency=0.0001) as net, backend(handler) as where:
        alice, bob = await net.node(), await net.node()
        async with published(bob, "echo", where, sessions=sessions, **options) as publisher:
            yield alice, publisher
