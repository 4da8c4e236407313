"""A web server in a few lines, for a service that is published on an SSA: one GET, one file, then the end."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

LONGEST_REQUEST = 16 * 1024


class FileProtocol(asyncio.Protocol):
    """Answers one HTTP/1.0 or 1.1 GET from `files` (path without slash → bytes) and closes."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._files = files
        self._request = bytearray()
        self._answered = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        if self._answered:
            return
        self._request += data
        if b"\r\n\r\n" not in self._request and len(self._request) < LONGEST_REQUEST:
            return
        self._answered = True
        method, _, rest = self._request.partition(b" ")
        path = rest.split(b" ", 1)[0].decode("ascii", "replace").lstrip("/")
        body = self._files.get(path) if method == b"GET" else None
        status = "200 OK" if body is not None else "404 Not Found"
        body = body or b""
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        self._transport.write(head.encode() + body)
        self._transport.write_eof()

    def eof_received(self) -> bool:
        return False
