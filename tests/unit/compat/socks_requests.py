"""What SOCKS clients say and hear, for the tests of the front end."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable

from tests.unit.compat.socks_support import (
    FrontEnd,
    RawClient,
)

GREETING = b"\x05\x01\x00"


def connect_request(host: str, port: int, command: int = 1) -> bytes:
    return bytes([5, command, 0, 3, len(host)]) + host.encode() + struct.pack("!H", port)


def reply(code: int) -> bytes:
    return bytes([5, code, 0, 4]) + bytes(18)


def asynchronous(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a coroutine test with a bound."""

    def run() -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await test()

        asyncio.run(bounded())

    run.__name__ = test.__name__
    return run


async def established(end: FrontEnd, host: str = "echo", port: int = 7) -> RawClient:
    client = await end.connect()
    await client.send(GREETING + connect_request(host, port))
    assert (await client.read(24))[:6] == b"\x05\x00\x05\x00\x00\x04"
    return client


class UdpClient(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.received: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: object) -> None:
        self.received.put_nowait(data)


async def associated(
    end: FrontEnd, named: bytes = b"\x01" + bytes(6)
) -> tuple[RawClient, asyncio.DatagramTransport, UdpClient]:
    """A client with an association; `named`: the address and port that its request carries."""
    client = await end.connect()
    await client.send(GREETING + b"\x05\x03\x00" + named)
    answer = (await client.read(12))[2:]
    assert answer[:8] == b"\x05\x00\x00\x01\x7f\x00\x00\x01"
    where = ("127.0.0.1", int.from_bytes(answer[8:]))
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(UdpClient, remote_addr=where)
    return client, transport, protocol
