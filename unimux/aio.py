"""Streams over one-time addresses: the same calls as asyncio's own, with the node as first argument."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address
from ssl import SSLContext, create_default_context
from typing import Any

from .node import Node
from .server import Server
from .tls import HANDSHAKE_TIMEOUT, connect_tls, tls_factory

STREAM_LIMIT = 64 * 1024
"""As asyncio's: bytes that a StreamReader buffers before it pauses the transport."""


async def open_connection(
    node: Node,
    host: str | IPv6Address,
    port: int | None,
    *,
    limit: int = STREAM_LIMIT,
    ssl: SSLContext | bool | None = None,
    server_hostname: str | None = None,
    ssl_handshake_timeout: float | None = None,
    **options: Any,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As `asyncio.open_connection`, from an EA of its own.  `options` are those of `Node.create_connection`.

    Raises a `UnimuxError`; with TLS an `ssl.SSLError`, too.
    ssl: the context of TLS, True for `ssl.create_default_context()`; see `unimux.tls.connect_tls`.
    server_hostname, ssl_handshake_timeout: of TLS; ValueError without `ssl`.
    """
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport: asyncio.Transport
    if ssl:
        context = create_default_context() if isinstance(ssl, bool) else ssl
        patience = _patience(ssl_handshake_timeout)
        transport, _ = await connect_tls(
            node,
            lambda: protocol,
            host,
            port,
            context,
            server_hostname=server_hostname,
            handshake_timeout=patience,
            **options,
        )
    else:
        if server_hostname is not None:
            raise ValueError("server_hostname is only meaningful with ssl")
        if ssl_handshake_timeout is not None:
            raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
        transport, _ = await node.create_connection(lambda: protocol, host, port, **options)
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


def start_server(
    node: Node,
    client_connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None],
    *,
    limit: int = STREAM_LIMIT,
    ssl: SSLContext | None = None,
    ssl_handshake_timeout: float | None = None,
    **options: Any,
) -> Server:
    """As `asyncio.start_server`, in LISTEN_o until `Server.issue` arms an SSA.  `options` are those of `Node.listen`.

    It may be awaited, as asyncio's, and need not be.
    ssl: the context of TLS: the callback has streams whose handshake is done; see `unimux.tls.tls_factory`.
    ssl_handshake_timeout: seconds that a client may take for it; ValueError without `ssl`.
    """
    loop = asyncio.get_running_loop()

    def factory() -> asyncio.StreamReaderProtocol:
        reader = asyncio.StreamReader(limit=limit, loop=loop)
        return asyncio.StreamReaderProtocol(reader, client_connected, loop=loop)

    if ssl is not None:
        return node.listen(tls_factory(factory, ssl, handshake_timeout=_patience(ssl_handshake_timeout)), **options)
    if ssl_handshake_timeout is not None:
        raise ValueError("ssl_handshake_timeout is only meaningful with ssl")
    return node.listen(factory, **options)


def _patience(timeout: float | None) -> float:
    return HANDSHAKE_TIMEOUT if timeout is None else timeout
