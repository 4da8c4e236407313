"""The responder of `dnsresponder` on a node: UDP and TCP at an ordinary address of it (RFC 1035 §4.2, RFC 7766).

A name server has to be found, so its address is an ordinary one that stays; the addresses that it hands out are not.  Where
it goes nevertheless, with its prefix or because a link that came back has another owner of it, it is taken again.

Bounds: `MAX_PENDING` queries that wait for an address, beyond which datagrams are dropped; `MAX_STREAMS` TCP connections, each
with `MAX_PER_STREAM` queries under way, none more while its client does not read the answers, and `STREAM_IDLE` seconds without a
whole query while none is.  One connection more takes the place of the one that was silent for longest, if no answer is owed to it
(RFC 7766 §6.2.3).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import TYPE_CHECKING

from tapstack.ipv6.addresses import AddressEntry, AddressError, AddressKind, AddressState
from tapstack.ipv6.packet import NoRouteError
from tapstack.signals import Signal
from tapstack.tcp.options import PortMode
from tapstack.types import address_text
from tapstack.udp.flow import Datagram, FlowClosed, UdpFlow

from ..dnsstream import DNS_PORT
from ..errors import NodeStopped, SetupError, UnimuxError, WrongUsage
from .dnsresponder import Responder

if TYPE_CHECKING:
    from ..node import Node
    from ..server import Server

MAX_PENDING = 256
MAX_STREAMS = 64
MAX_PER_STREAM = 16
STREAM_IDLE = 10.0
ADDRESS_TIMEOUT = 15.0
AGAIN = 10.0
"""Seconds between two tries to take an address that is gone."""


async def hold_address(node: Node, wanted: IPv6Address, timeout: float = ADDRESS_TIMEOUT) -> AddressEntry:
    """Give a node an ordinary address of one of its prefixes, and wait until it may be used.

    Raises `WrongUsage` where it lies in no prefix of the node, `SetupError` where another node has it.
    """
    host = node.stack.host
    if (found := host.addresses.get(wanted.packed)) is None:
        try:
            await node.until(lambda: host.prefix_list.of(wanted.packed) is not None, timeout)
        except TimeoutError:
            raise WrongUsage(f"{wanted} lies in no prefix of this node: choose an address of one.") from None
        prefix = host.prefix_list.of(wanted.packed)
        assert prefix is not None
        try:
            found = host.reserve(wanted.packed, prefix, node.now(), AddressKind.STABLE)
        except AddressError as error:
            raise SetupError(f"{wanted} cannot be an address of this node: {error}.") from None
        node.driver.kick()
    entry = found
    ended = (AddressState.DUPLICATED, AddressState.INVALID)
    try:
        await node.until(lambda: entry.state is AddressState.PREFERRED or entry.state in ended, timeout)
    except TimeoutError:
        raise SetupError(f"{wanted} was not ready within {timeout:g} s: check that the node's link is up.") from None
    if entry.state in ended:
        raise SetupError(f"{wanted} belongs to another node on the link: choose another address.")
    return entry


class DnsServer:
    """A responder that listens at port 53 of an address, from `__aenter__` to `__aexit__`.

    changed: told why it cannot, once the address is gone, each reason once; and None when it listens again.
    """

    def __init__(
        self,
        node: Node,
        responder: Responder,
        where: IPv6Address,
        port: int = DNS_PORT,
        changed: Callable[[UnimuxError | None], None] = lambda why: None,
    ) -> None:
        self.where = where
        self.port = port
        self.responder = responder
        self._node = node
        self._changed = changed
        self._flow: UdpFlow | None = None
        self._server: Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.streams: dict[_Stream, None] = {}
        """The TCP connections; the one that was silent for longest comes first."""

    async def __aenter__(self) -> DnsServer:
        await self._listen()
        return self

    async def _listen(self) -> None:
        node = self._node
        entry = await hold_address(node, self.where)
        self._flow = node.stack.udp.open(entry, node.now(), local_port=self.port)
        self._flow.owner = self._on_signals
        if self._server is None:
            self._server = node.listen(lambda: _Stream(self), mode=PortMode.AWARE, port=self.port, service="dns")
        self._server.bind(self.where)

    async def _listen_again(self) -> None:
        """The address is gone: take it once more, as soon as that can be done."""
        told = None
        while True:
            try:
                await self._listen()
            except NodeStopped:
                return
            except UnimuxError as error:
                if str(error) != told:
                    told = str(error)
                    self._changed(error)
                await asyncio.sleep(AGAIN)
            else:
                self._changed(None)
                return

    async def __aexit__(self, *_: object) -> None:
        for stream in list(self.streams):
            stream.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        if self._flow is not None:
            self._flow.owner = None
            self._flow.close(self._node.now())
        self._node.driver.kick()

    @property
    def pending(self) -> int:
        """Queries that wait for their answer."""
        return len(self._tasks)

    def answer(self, wire: bytes, source: str, *, stream: bool) -> asyncio.Task[bytes | None] | None:
        """Begin to answer; None when too many queries wait."""
        if len(self._tasks) >= MAX_PENDING:
            self.responder.counters["overload"] += 1
            return None
        return asyncio.get_running_loop().create_task(self.responder.answer(wire, source, stream=stream))

    def admit(self, stream: _Stream) -> bool:
        """Whether one more TCP connection may stay."""
        if len(self.streams) >= MAX_STREAMS:
            silent = next((each for each in self.streams if not each.under_way), None)
            if silent is None:
                self.responder.counters["too-many-streams"] += 1
                return False
            self.responder.counters["stream-gave-way"] += 1
            del self.streams[silent]
            silent.abort()
        self.streams[stream] = None
        return True

    def heard(self, stream: _Stream) -> None:
        """A TCP connection that asked, or was answered, is the last to give way."""
        if stream in self.streams:
            del self.streams[stream]
            self.streams[stream] = None

    def track(self, task: asyncio.Task[None]) -> None:
        """Keep a task until it is done, and end it when the server ends."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_signals(self, bits: int) -> None:
        flow = self._flow
        assert flow is not None
        while (datagram := flow.receive()) is not None:
            answering = self.answer(datagram.data, address_text(datagram.remote), stream=False)
            if answering is not None:
                self.track(asyncio.get_running_loop().create_task(self._reply(flow, datagram, answering)))
        if bits & Signal.CLOSED:
            flow.owner = self._flow = None
            self.track(asyncio.get_running_loop().create_task(self._listen_again()))

    async def _reply(self, flow: UdpFlow, datagram: Datagram, answering: asyncio.Task[bytes | None]) -> None:
        response = await answering
        if response is None:
            return
        try:
            flow.send(response, self._node.now(), datagram.remote, datagram.remote_port)
        except (FlowClosed, NoRouteError):
            self.responder.counters["not-sent"] += 1
        self._node.driver.kick()


class _Stream(asyncio.Protocol):
    """One TCP connection: messages with two bytes of length, answered as they are ready (RFC 7766 §6.2.1.1)."""

    def __init__(self, server: DnsServer) -> None:
        self.under_way = 0
        """Answers that are owed."""
        self._server = server
        self._buffer = bytearray()
        self._blocked = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None
        self._ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._source = str(transport.get_extra_info("peername")[0])
        if self._server.admit(self):
            self._rest()
        else:
            transport.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._server.streams.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
        self._transport = None

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool:
        self._ended = True
        self._maybe_close()
        return True

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._next()
        self._maybe_close()

    def _rest(self) -> None:
        """A whole query came, or an answer left: the next query has its time from now."""
        self._server.heard(self)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(STREAM_IDLE, self._rested)

    def _rested(self) -> None:
        """Silence is the client's only while no answer is owed to it (RFC 7766 §6.2.3)."""
        if not self.under_way:
            self.abort()

    def _next(self) -> None:
        """Take whole messages off the buffer, as many as may be under way; reading stops in between."""
        if self._transport is None:
            return
        while not self._blocked and self.under_way < MAX_PER_STREAM and len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "big")
            if len(self._buffer) < 2 + length:
                break
            wire = bytes(self._buffer[2 : 2 + length])
            del self._buffer[: 2 + length]
            answering = self._server.answer(wire, self._source, stream=True)
            if answering is None:
                self.abort()
                return
            self.under_way += 1
            self._rest()
            self._server.track(asyncio.get_running_loop().create_task(self._reply(answering)))
        if self._blocked or self.under_way >= MAX_PER_STREAM:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    async def _reply(self, answering: asyncio.Task[bytes | None]) -> None:
        try:
            response = await answering
        finally:
            self.under_way -= 1
        if self._transport is None or self._transport.is_closing():
            return
        if response is not None:
            self._transport.write(len(response).to_bytes(2, "big") + response)
        self._rest()
        self._next()
        self._maybe_close()

    def _maybe_close(self) -> None:
        if self._ended and not self.under_way and not self._blocked and self._transport is not None:
            self._transport.close()
