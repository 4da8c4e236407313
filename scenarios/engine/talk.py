"""What the two ends of a scenario's connections say: echoes, and an exchange that is compared."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from unimux.node import Node

from .backend import Handler

CHUNK = 65536


async def released(node: Node, timeout: float = 200.0) -> None:
    """Wait until a node uses no one-time address; `TimeoutError` after so many seconds."""
    await node.until(lambda: not node.stack.host.addresses.held(), timeout)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back, and close when the other side has ended."""
    with suppress(ConnectionError, TimeoutError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
    with suppress(ConnectionError, TimeoutError):
        writer.close()


def logging_echo(log: list[str]) -> Handler:
    """An echo that writes down each client's address, as the log of a web server does."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        log.append(writer.get_extra_info("peername")[0])
        await echo(reader, writer)

    return serve


async def exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, *, timeout: float = 30.0
) -> bool:
    """Send `data` to an echo, end, and say whether it came back equal; a connection that breaks is a no."""
    try:
        async with asyncio.timeout(timeout):
            writer.write(data)
            writer.write_eof()
            received = await reader.read(-1)
    except (OSError, TimeoutError):
        writer.transport.abort()
        return False
    writer.close()
    return received == data
