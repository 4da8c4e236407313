"""The conversation of a matrix cell: both sides talk at once, and every session says something of its own.

The client sends its request in two halves and the server answers each byte with its complement, so the data of both
directions are known from the request alone; nobody closes before all sessions of a cell are under way.
"""

from __future__ import annotations

import asyncio

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PATIENCE = 20.0

_COMPLEMENT = bytes(255 - value for value in range(256))


def answer_to(request: bytes) -> bytes:
    """What the server says to a request."""
    return request.translate(_COMPLEMENT)


async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """The server's side of a session."""
    try:
        while data := await reader.read(65536):
            writer.write(answer_to(data))
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def ask(streams: Streams, request: bytes) -> bytes:
    """The client's side, up to but without its end; returns the answer."""
    reader, writer = streams
    half = len(request) // 2
    writer.write(request[:half])
    first = await asyncio.wait_for(reader.readexactly(half), PATIENCE)
    writer.write(request[half:])
    return first + await asyncio.wait_for(reader.readexactly(len(request) - half), PATIENCE)


async def end(streams: Streams) -> None:
    """The client closes first and waits for the server's end."""
    reader, writer = streams
    writer.write_eof()
    rest = await asyncio.wait_for(reader.read(), PATIENCE)
    assert rest == b""
    writer.close()
    try:
        await writer.wait_closed()
    except ConnectionError:
        pass
