"""Streams over one-time addresses: the same calls as asyncio's own, with the node as first argument."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address
from typing import Any

from .node import Node
from .server import Server

STREAM_LIMIT = 64 * 1024
"""As asyncio's: bytes that a StreamReader buffers before it pauses the transport."""


async def open_connection(
    node: Node, host: str | IPv6Address, port: int | None, *, limit: int = STREAM_LIMIT, **options: Any
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As `asyncio.open_connection`, from an EA of its own.  `options` are those of `Node.create_connection`."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport, _ = await node.create_connection(lambda: protocol, host, port, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def start_server(
    node: Node,
    client_connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
    *,
    limit: int = STREAM_LIMIT,
    **options: Any,
) -> Server:
    """As `asyncio.start_server`, in LISTEN_o until `Server.issue` arms an SSA.  `options` are those of `Node.listen`."""
    loop = asyncio.get_running_loop()

    def factory() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected, loop=loop)

    return node.listen(factory, **options)
