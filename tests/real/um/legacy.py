"""The legacy host: the Linux kernel's sockets in a namespace, driven by asyncio.  It knows nothing of one-time addresses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from compat.kernel import Namespace, in_namespace

from .. import datagrams

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def kernel_socket(where: Namespace, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """A non-blocking socket of a namespace."""
    with in_namespace(where):
        made = socket.socket(socket.AF_INET6, kind)
    made.setblocking(False)
    return made


async def connect(
    where: Namespace, host: str, port: int, *, source: int | None = None, timeout: float = 60.0
) -> Streams:
    """Connect as any program would.

    source: the port to bind first.  With None `connect` draws an ephemeral one, and Linux may then give the same port to two
    connections that differ in the port they name; with 0 `bind` draws it, and no other socket has it.
    """
    made = kernel_socket(where)
    try:
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if source is not None:
            if source:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(("::", source))
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(made, (host, port)), timeout)
    except BaseException:
        made.close()
        raise
    return await asyncio.open_connection(sock=made)


@asynccontextmanager
async def serve(
    where: Namespace,
    port: int,
    client_connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[None]:
    """Listen on a port of every address of the namespace."""
    made = kernel_socket(where)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("::", port))
    server = await asyncio.start_server(client_connected, sock=made, backlog=256)
    async with server:
        yield


@asynccontextmanager
async def answering(where: Namespace, port: int, answer: Callable[[bytes], bytes]) -> AsyncIterator[None]:
    """Answer each UDP datagram to a port of the namespace, in the order in which they come."""
    loop = asyncio.get_running_loop()

    async def work() -> None:
        while True:
            data, sender = await loop.sock_recvfrom(made, 4096)
            await datagrams.send(made, answer(data), sender)

    with kernel_socket(where, socket.SOCK_DGRAM) as made:
        made.bind(("::", port))
        working = asyncio.create_task(work())
        try:
            yield
        finally:
            working.cancel()
            with suppress(asyncio.CancelledError):
                await working
