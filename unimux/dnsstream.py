"""One question of DNS over TCP: the question and its answer, each after two bytes of length (RFC 7766)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from tapstack.types import address_text

from .purpose import Purpose

DNS_PORT = 53
UDP_PAYLOAD = 1232
"""Bytes of a response in one datagram that a question offers to take: what fits into IPv6's minimum MTU."""


class StreamDialler(Protocol):
    """A node, as far as this needs it."""

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str,
        port: int,
        *,
        timeout: float,
        purpose: Purpose,
    ) -> tuple[asyncio.Transport, Any]:
        """As `Node.create_connection`."""


async def ask_over_stream(
    dialler: StreamDialler, server: bytes, question: bytes, timeout: float, purpose: Purpose
) -> bytes:
    """The answer of a server (16 bytes) to a message; `timeout` seconds to connect, and twice as many in all.

    Raises OSError, also where the server closes the connection or takes too long, and what `create_connection` raises.
    """
    answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())  # also where nobody awaits it any more
    async with asyncio.timeout(2 * timeout):
        transport, _ = await dialler.create_connection(
            lambda: _Answer(answer), address_text(server), DNS_PORT, timeout=timeout, purpose=purpose
        )
        try:
            transport.write(len(question).to_bytes(2) + question)
            return await answer
        finally:
            transport.close()


class _Answer(asyncio.Protocol):
    """Collects one message after its two bytes of length."""

    def __init__(self, answer: asyncio.Future[bytes]) -> None:
        self._answer = answer
        self._buffer = bytearray()

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        if len(buffer) >= 2 and len(buffer) - 2 >= (length := int.from_bytes(buffer[:2])):
            if not self._answer.done():
                self._answer.set_result(bytes(buffer[2 : 2 + length]))
            buffer.clear()

    def connection_lost(self, exc: BaseException | None) -> None:
        if not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the name server closed the connection"))
