"""A simulated legacy host for the story in memory: an ordinary address, four-value connections, no one-time anything.

It is a tapstack in Aware mode, so it proves nothing about other kernels; whoever shows its results says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from scenarios.engine.simulated import Pinger
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState
from tapstack.ipv6.host import HostConfig
from tapstack.link.base import Link
from tapstack.stack import Stack
from tapstack.tcp.connection import Signal
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.types import address
from unimux.transport import SessionTransport

from .web import FileProtocol

OPTIONS = SocketOptions(mode=PortMode.AWARE)
_POLL = 0.05


class SimulatedPeer:
    """One legacy host on a link; `start` waits for its stable address."""

    def __init__(self, link: Link, seed: bytes) -> None:
        self.stack = Stack(link.properties, seed, HostConfig(stable_addresses=True))
        self.driver = Driver(self.stack, link)
        self._pinger = Pinger(self.driver)

    async def start(self) -> None:
        """Begin, and wait until SLAAC has given a global address."""
        self.driver.start()
        while self._stable() is None:
            await asyncio.sleep(_POLL)

    def close(self) -> None:
        """Stop the host."""
        self.driver.close()

    def _stable(self) -> AddressEntry | None:
        return next(
            (
                e
                for e in self.stack.host.addresses
                if e.kind is AddressKind.STABLE and e.state is AddressState.PREFERRED
            ),
            None,
        )

    @property
    def entry(self) -> AddressEntry:
        """The stable address."""
        entry = self._stable()
        assert entry is not None
        return entry

    def serve(self, files: Mapping[str, bytes], port: int = 80) -> None:
        """A web server on the stable address."""
        listener = self.stack.tcp.listen(OPTIONS, self.driver.now(), port)
        listener.arm(self.entry, self.driver.now(), sessions=None)

        def accept(bits: int) -> None:
            while bits & Signal.ACCEPTABLE and (connection := listener.accept()) is not None:
                SessionTransport(self.driver, connection).start(FileProtocol(files))

        listener.owner = accept

    async def fetch(self, host: str, path: str, timeout: float, port: int = 80) -> bytes:
        """GET a file; empty when no connection comes about within `timeout` seconds."""
        connection = self.stack.tcp.connect(self.entry, address(host), port, self.driver.now(), OPTIONS)
        news: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        connection.owner = lambda bits: None if news.done() else news.set_result(bits)
        self.driver.kick()
        try:
            bits = await asyncio.wait_for(news, timeout)
        except TimeoutError:
            bits = 0
        if not bits & Signal.ESTABLISHED:
            connection.owner = None
            connection.abort(self.driver.now(), "no answer")
            self.driver.kick()
            return b""
        reader = asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport = SessionTransport(self.driver, connection)
        transport.start(protocol)
        transport.write(f"GET /{path} HTTP/1.0\r\n\r\n".encode())
        answer = b""
        with contextlib.suppress(TimeoutError, ConnectionError):
            answer = await asyncio.wait_for(reader.read(), timeout)
        transport.close()
        return answer.partition(b"\r\n\r\n")[2]

    async def ping(self, host: str, wait: float) -> bool:
        """Whether `host` answers an echo request within `wait` seconds."""
        return await self._pinger.ping(self.entry.address, address(host), wait)
