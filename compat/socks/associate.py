"""UDP ASSOCIATE: a UDP socket for one client, and behind it one flow, with a one-time address, per destination (RFC 1928 §7).

Bounds: `udp_flows` destinations at once (one more ends the one used least recently), `udp_idle` seconds of silence, and
few datagrams wait for a flow that is being opened.  What cannot be relayed is dropped in silence, as the RFC asks, and counted.

An answer names whom the client has asked: an address as the client wrote it, for clients drop what comes from another one,
and an IPv4 destination has an IPv6 address only between here and its NAT64 gateway.  Who wrote a name learns the address that
was asked; written as a destination it is reached again.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from typing import Any, cast

from compat.socks.messages import AddressType, MalformedError, address_type, pack_datagram, parse_datagram
from compat.socks.services import DatagramService, Flow
from compat.socks.session import Session
from compat.socks.settings import SocksCounters, SocksLimits
from tapstack.types import Buffer
from unimux.errors import UnimuxError
from unimux.purpose import Purpose

_QUEUE = 16
"""Datagrams that wait while their flow is being opened."""


class _Destination:
    """One destination that the client sends to: its flow, or what waits for it; and the `source` of what comes back."""

    __slots__ = ("flow", "last_used", "source", "task", "waiting")

    def __init__(self, source: tuple[str, int], now: float) -> None:
        self.source = source
        self.flow: Flow | None = None
        self.waiting: list[bytes] = []
        self.task: asyncio.Task[None] | None = None
        self.last_used = now

    def close(self) -> None:
        if self.task is not None:
            self.task.cancel()
        if self.flow is not None:
            self.flow.close()


class UdpAssociation(asyncio.DatagramProtocol):
    """Relays datagrams between one client and the network.

    client: the address its datagrams must come from; client_port: the port, 0 to take that of the first one.
    """

    def __init__(
        self,
        service: DatagramService,
        counters: SocksCounters,
        limits: SocksLimits,
        client: str,
        client_port: int,
        *,
        session: Session | None,
        purpose: Purpose,
    ) -> None:
        self._service = service
        self._counters = counters
        self._limits = limits
        self._client = ipaddress.ip_address(client.partition("%")[0])
        self._client_port = client_port
        self._session = session
        self._purpose = purpose
        self._loop = asyncio.get_running_loop()
        self._destinations: OrderedDict[tuple[str, int], _Destination] = OrderedDict()
        self._transport: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._reply_to: tuple[Any, ...] | None = None

    async def start(self, host: str) -> tuple[str, int]:
        """Open the socket on `host`; the address and port that the client is to send to."""
        transport, _ = await self._loop.create_datagram_endpoint(lambda: self, local_addr=(host, 0))
        self._timer = self._loop.call_later(self._limits.udp_idle / 4, self._forget_idle)
        name = transport.get_extra_info("sockname")
        return name[0], name[1]

    def close(self) -> None:
        """End the association and all its flows; harmless when called again."""
        if self._timer is not None:
            self._timer.cancel()
        while self._destinations:
            self._destinations.popitem()[1].close()
        if self._transport is not None:
            self._transport.close()

    # -- from the client -------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        if not self._is_client(addr):
            self._counters.datagrams_dropped += 1
            return
        try:
            datagram = parse_datagram(data)
        except MalformedError:
            self._counters.datagrams_dropped += 1
            return
        if datagram.fragment:
            self._counters.datagrams_dropped += 1  # "an implementation that does not support fragmentation MUST drop"
            return
        self._reply_to = addr
        self._relay((datagram.host, datagram.port), bytes(datagram.data))

    def error_received(self, exc: Exception) -> None:
        """An ICMP error about a datagram to the client: it is not listening, which is its own affair."""
        self._counters.datagrams_dropped += 1

    def _is_client(self, addr: tuple[Any, ...]) -> bool:
        if ipaddress.ip_address(addr[0].partition("%")[0]) != self._client:
            return False
        if not self._client_port:
            self._client_port = addr[1]
        return bool(addr[1] == self._client_port)

    def _relay(self, key: tuple[str, int], data: bytes) -> None:
        destination = self._destinations.get(key)
        if destination is None:
            if len(self._destinations) >= self._limits.udp_flows:
                self._destinations.popitem(last=False)[1].close()
            destination = self._destinations[key] = _Destination(key, self._loop.time())
            destination.task = self._loop.create_task(self._open(key, destination))
        destination.last_used = self._loop.time()
        self._destinations.move_to_end(key)
        if destination.flow is not None:
            self._counters.datagrams_up += 1
            destination.flow.send(data)
        elif len(destination.waiting) < _QUEUE:
            destination.waiting.append(data)
        else:
            self._counters.datagrams_dropped += 1

    async def _open(self, key: tuple[str, int], destination: _Destination) -> None:
        """Open the flow of a new destination and send what has waited for it."""
        try:
            async with asyncio.timeout(self._limits.connect_timeout):
                flow = await self._service.open_flow(
                    *key,
                    lambda data: self._answered(destination, data),
                    session=self._session,
                    purpose=self._purpose,
                )
        except (UnimuxError, OSError, ValueError):  # a time-out included, and a group, which is nobody's address
            self._counters.datagrams_dropped += len(destination.waiting)
            if self._destinations.get(key) is destination:
                del self._destinations[key]
            return
        finally:
            destination.task = None
        destination.flow = flow
        if address_type(key[0]) is AddressType.NAME:
            destination.source = flow.peer
        waiting, destination.waiting = destination.waiting, []
        for data in waiting:
            self._counters.datagrams_up += 1
            flow.send(data)

    # -- to the client -----------------------------------------------------------------------------

    def _answered(self, destination: _Destination, data: Buffer) -> None:
        if (
            self._transport is None
            or self._transport.is_closing()
            or self._reply_to is None
            or destination.flow is None
        ):
            self._counters.datagrams_dropped += 1
            return
        destination.last_used = self._loop.time()
        self._counters.datagrams_down += 1
        self._transport.sendto(pack_datagram(*destination.source, data), self._reply_to)

    def _forget_idle(self) -> None:
        limit = self._loop.time() - self._limits.udp_idle
        for key in [key for key, destination in self._destinations.items() if destination.last_used <= limit]:
            self._destinations.pop(key).close()
        self._timer = self._loop.call_later(self._limits.udp_idle / 4, self._forget_idle)
