"""The listening side of the front end.

Under attack three bounds keep others served.  Clients that have not made their request share a table of their own, in
which one more displaces the oldest: slow-loris costs its author the slot and honest clients, who ask at once, nothing.
Requests that are served are counted against another bound, and one more gets an answer that says so.  What a client can
make us hold before its connection stands is a few kilobytes.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Sequence

from compat.openfiles import room_for_files
from compat.socks.client import SocksClient
from compat.socks.services import Services
from compat.socks.settings import DEFAULT_HOST, DEFAULT_PORT, SocksCounters
from compat.socks.table import ClientTable
from unimux.endpoint import endpoint_text
from unimux.errors import SetupError, WrongUsage

_ACCEPTS = 128
"""Connections accepted in one go, so that those which stand get their turn."""

_QUEUE = 4096
"""Connections that may wait in the kernel: with a short queue a burst costs honest clients a SYN retransmission of 1 s."""

_DRAIN_POLL = 0.02
_LOOPBACK = ("127.0.0.1", "::1")
"""What `localhost` is, also where no hosts file says so (RFC 6761 §6.3)."""
_SPARE_FILES = 64 + _ACCEPTS
"""File descriptors left for everything else: what the loop accepts in one go, and the rest of the process.  An `accept` that has
none left serves nobody."""


class SocksServer:
    """SOCKS5, SOCKS4a and HTTP CONNECT on one port.

    async with SocksServer(Services(dialler=node)) as server:
        await server.start("127.0.0.1", 1080)
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self._server: asyncio.Server | None = None
        self._table: ClientTable | None = None

    @property
    def counters(self) -> SocksCounters:
        """What has happened since the start."""
        return self.services.counters

    @property
    def addresses(self) -> list[tuple[str, int]]:
        """Where it listens."""
        sockets = self._server.sockets if self._server is not None else ()
        return [listening.getsockname()[:2] for listening in sockets]

    async def start(
        self,
        host: str | Sequence[str] = DEFAULT_HOST,
        port: int = DEFAULT_PORT,
        *,
        sock: socket.socket | None = None,
    ) -> None:
        """Listen; port 0 lets the kernel choose.

        sock: a bound socket to listen on in place of a new one, for instance of another network namespace.  Raises `SetupError`
        where it cannot listen, `WrongUsage` where strangers could use it.
        """
        if self._server is not None:
            raise RuntimeError("this front end has been started already")
        if sock is not None:
            host, port = sock.getsockname()[:2]
        named = [host] if isinstance(host, str) else list(host)
        hosts = [each for name in named for each in (_LOOPBACK if name == "localhost" else (name,))]
        loop = asyncio.get_running_loop()
        table = self._table = ClientTable(self.services.limits, self.services.counters)
        table.max_files = room_for_files(_SPARE_FILES + self.services.limits.max_handshakes)
        try:
            if self.services.authenticator is None:
                await _refuse_strangers(hosts, port)
            where = {"sock": sock} if sock is not None else {"host": hosts, "port": port}
            self._server = await loop.create_server(
                lambda: SocksClient(self.services, table), **where, backlog=_ACCEPTS
            )
        except (OSError, OverflowError, UnicodeError) as error:
            raise _cannot_listen(hosts, port, error) from error
        for listening in self._server.sockets:  # asyncio takes one number for both
            with socket.socket(fileno=os.dup(listening.fileno())) as same:
                same.listen(_QUEUE)

    async def drain(self, timeout: float) -> bool:
        """Stop listening, and let what is being served end by itself for at most `timeout` seconds; whether all of it did."""
        if self._server is None or self._table is None:
            return True
        self._server.close()
        deadline = asyncio.get_running_loop().time() + timeout
        while self.counters.active and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_DRAIN_POLL)
        return not self.counters.active

    async def close(self) -> None:
        """Stop listening and end every connection; returns when all are gone."""
        if self._server is None or self._table is None:
            return
        self._server.close()
        await self._table.close()
        await self._server.wait_closed()

    async def __aenter__(self) -> SocksServer:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _refuse_strangers(hosts: Sequence[str], port: int) -> None:
    """Off loopback everybody on the network could use the node: not without authentication."""
    loop = asyncio.get_running_loop()
    for host in hosts:
        found = await loop.getaddrinfo(host or "::", port, type=socket.SOCK_STREAM)
        for *_, address in found:
            if not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
                raise WrongUsage(
                    f"On {address[0]} anybody on the network could use this front end: "
                    "name who may with --user NAME:PASSWORD, or listen on 127.0.0.1."
                )


def _cannot_listen(hosts: Sequence[str], port: int, error: Exception) -> SetupError:
    if isinstance(error, UnicodeError):
        return WrongUsage(
            f"No host can have a name such as {' or '.join(map(repr, hosts))}: write another after --host."
        )
    where = ", ".join(endpoint_text(host, port) for host in hosts)
    number = getattr(error, "errno", None)
    if number == errno.EADDRINUSE:
        return SetupError(f"{where} is taken by another program: stop it, or choose another port with --port.")
    if number == errno.EACCES:
        return SetupError(f"{where} needs a privilege: choose a port above 1023 with --port.")
    reason = getattr(error, "strerror", None) or str(error)
    return SetupError(f"The front end cannot listen on {where} ({reason}): choose another address with --host.")
