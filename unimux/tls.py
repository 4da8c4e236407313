"""TLS over one-time addresses, by asyncio's own `loop.start_tls` on the node's transport.

transport, protocol = await connect_tls(node, Client, "www.example", 443, ssl.create_default_context())
server = node.listen(tls_factory(Server, context))
"""

from __future__ import annotations

import asyncio
import errno
import ssl
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import Any, cast

from .node import Node
from .transport import give, report_failure

HANDSHAKE_TIMEOUT = 30.0
"""Seconds that a peer may take for the handshake; one that takes longer is disconnected."""


async def connect_tls(
    node: Node,
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    host: str | IPv6Address,
    port: int | None,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    **options: Any,
) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
    """As `loop.create_connection(…, ssl=context)`, from an EA of its own.  `options` are those of `Node.create_connection`.

    server_hostname: the name that the certificate is checked for, `host` by default.  Raises `ssl.SSLError` as well.
    """
    _check(context, handshake_timeout)
    name = str(host) if server_hostname is None else server_hostname
    starting = _Starting()
    transport, _ = await node.create_connection(lambda: starting, host, port, **options)
    try:
        tls = await _start_tls(transport, starting, context, handshake_timeout, server_hostname=name)
    except BaseException:
        if not transport.is_closing():  # else asyncio has closed it, and what it has to say is on its way
            transport.abort()
        raise
    try:
        protocol = protocol_factory()
        starting.hand_over(tls, protocol)
    except BaseException:
        tls.abort()
        raise
    return tls, protocol


def tls_factory(
    protocol_factory: Callable[[], asyncio.BaseProtocol],
    context: ssl.SSLContext,
    *,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
) -> Callable[[], asyncio.BaseProtocol]:
    """A factory for `Node.listen`: each connection does its handshake first, and then gets a protocol of `protocol_factory`."""
    _check(context, handshake_timeout)

    def accepted() -> asyncio.BaseProtocol:
        return _Accepting(protocol_factory, context, handshake_timeout)

    return accepted


def _check(context: ssl.SSLContext, handshake_timeout: float) -> None:
    """Raise TypeError or ValueError for what no handshake can begin with: now, and not when somebody is connected."""
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"TLS takes an ssl.SSLContext, not {context!r}")
    if not handshake_timeout > 0:
        raise ValueError(f"a handshake takes some time: {handshake_timeout!r} seconds are none")


async def _start_tls(
    transport: asyncio.Transport,
    protocol: asyncio.BaseProtocol,
    context: ssl.SSLContext,
    timeout: float,
    *,
    server_side: bool = False,
    server_hostname: str | None = None,
) -> asyncio.Transport:
    if transport.is_closing():  # its end came with its beginning: nobody would tell start_tls of it
        reason = transport.get_extra_info("connection").error
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended before its TLS handshake") from reason
    tls = await asyncio.get_running_loop().start_tls(
        transport,
        protocol,
        context,
        server_side=server_side,
        server_hostname=server_hostname,
        ssl_handshake_timeout=timeout,
    )
    if tls is None:  # it ended between the handshake's end and now
        raise ConnectionResetError(errno.ECONNRESET, "the connection ended as its TLS handshake did")
    return tls


class _Starting(asyncio.Protocol):
    """Holds what arrives behind the handshake, which may be in the same flight, until the protocol it is for is there."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._ended = False
        self._lost: list[Exception | None] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).pause_reading()  # as that of `_Accepting`

    def data_received(self, data: bytes) -> None:
        self._held.append(data)

    def eof_received(self) -> bool | None:
        self._ended = True
        return None

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost.append(exc)

    def hand_over(self, transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
        """As `SessionTransport.start`: `connection_made` may raise; what fails after it ends the connection."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        try:
            for data in self._held:
                give(protocol, data)
            if self._ended and not self._lost:
                cast(asyncio.Protocol, protocol).eof_received()
        except Exception as error:  # the protocol's: it is nobody else's affair
            report_failure(transport, protocol, error)
            transport.abort()
        if self._lost:
            protocol.connection_lost(self._lost[0])


class _Accepting(asyncio.Protocol):
    """An accepted connection until its handshake is done."""

    def __init__(
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], context: ssl.SSLContext, timeout: float
    ) -> None:
        self._factory = protocol_factory
        self._context = context
        self._timeout = timeout
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        plain = cast(asyncio.Transport, transport)
        plain.pause_reading()  # start_tls resumes it; nothing may be taken for plain text before
        self._task = asyncio.get_running_loop().create_task(self._handshake(plain))

    async def _handshake(self, transport: asyncio.Transport) -> None:
        starting = _Starting()
        try:
            tls = await _start_tls(transport, starting, self._context, self._timeout, server_side=True)
        except (OSError, ssl.SSLError):  # no TLS, no common version, a time-out, a reset: the peer's affair
            transport.abort()
            return
        try:
            starting.hand_over(tls, self._factory())
        except Exception as error:  # the application's: its connection ends, and nobody else's
            report_failure(tls, None, error)
            tls.abort()
