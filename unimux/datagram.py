"""UDP flows of a node, each from an EA of its own (UM-DAS-6).

Model.  A flow is (local socket, remote endpoint).  Making one fixes no address: the EA is drawn at the first datagram,
by the node's policy, and datagrams that are sent meanwhile wait, a few of them.  The address is released when the flow is
closed, or when nothing was sent or received for `idle` seconds; the next datagram of a flow that fell asleep draws another
one, so no address outlives what it was for.  A UDP connect() that sends nothing burns none.

`DatagramSocket` is the asyncio side of it: one socket, and behind it a flow per remote endpoint.

Invariants: an address that was drawn is a flow's, or released in the same turn; a closed flow never draws one; everything that
waits is bounded.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any

from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.ipv6.packet import NoRouteError
from tapstack.signals import Signal
from tapstack.tcp.errors import from_icmp
from tapstack.types import Buffer, address_text, check_port, valid_peer
from tapstack.udp.flow import FlowClosed, UdpFlow
from tapstack.udp.idle import IdleTimer

from .dnsstream import DNS_PORT
from .errors import NodeStopped, UnimuxError
from .purpose import UNNAMED, Purpose
from .sticky import check_session

if TYPE_CHECKING:
    from .node import Node
    from .sticky import StickySession

IDLE = 120.0
"""Seconds without a datagram after which a flow's address is given back (as RFC 4787 REQ-5 has it for bindings)."""
DRAW_TIMEOUT = 10.0
"""Seconds that the first datagram waits for an address."""
WAITING = 16
"""Datagrams that wait for an address."""
FLOWS = 256
"""Remote endpoints of one `DatagramSocket` at a time; one more ends the one used least recently."""

Receive = Callable[[bytes], None]
Failed = Callable[[Exception], None]


class EphemeralFlow:
    """A flow to one remote endpoint; made by `Datagrams.flow`.

    receive: called with each datagram that comes back.  failed: told why datagrams could not be sent or did not arrive: a
    `UnimuxError` where there was no address, an OSError for an ICMPv6 error; the flow goes on.
    session: flows and connections of equal sessions share one address (UM-DAS-4).  idle: seconds, see the module.
    patience: seconds that an address is waited for.  purpose: what it is for, for the journal and for agents.
    dropped: datagrams that could not be sent.
    Raises ValueError where `remote` is no unicast address, OverflowError where `port` is no port, and what `check_session` does.
    """

    def __init__(
        self,
        node: Node,
        remote: bytes,
        port: int,
        receive: Receive,
        *,
        session: StickySession | None = None,
        idle: float = IDLE,
        patience: float = DRAW_TIMEOUT,
        failed: Failed = lambda error: None,
        purpose: Purpose = UNNAMED,
    ) -> None:
        if not valid_peer(remote):
            raise ValueError(f"{address_text(remote)} cannot be a peer: that is a unicast address of another host")
        check_port(port)
        if session is not None:
            check_session(session)
        self.remote = remote
        self.port = port
        self.dropped = 0
        self.closed = False
        self._node = node
        self._receive = receive
        self._failed = failed
        self._session = session
        self._idle = idle
        self._patience = patience
        self._purpose = purpose
        self._flow: UdpFlow | None = None
        self._waiting: deque[bytes] = deque()
        self._drawing: asyncio.Task[None] | None = None
        self._timer: IdleTimer | None = None

    @property
    def peer(self) -> tuple[str, int]:
        """Address and port of the remote endpoint."""
        return address_text(self.remote), self.port

    @property
    def local(self) -> tuple[str, int] | None:
        """The EA and port that are in use now; None before the first datagram and after an idle time."""
        return None if self._flow is None else (address_text(self._flow.entry.address), self._flow.local_port)

    def send(self, data: Buffer) -> None:
        """Send one datagram, as soon as there is an address; what cannot be sent is counted and told to `failed`."""
        if self.closed:
            self.dropped += 1
        elif self._flow is not None:
            self._send(self._flow, data)
        elif len(self._waiting) >= WAITING:
            self.dropped += 1
        else:
            self._waiting.append(bytes(data))
            if self._drawing is None:
                self._drawing = asyncio.get_running_loop().create_task(self._draw())

    async def drawn(self) -> None:
        """Wait until what was sent has an address, or `failed` was told why there is none."""
        if self._drawing is not None:
            await asyncio.wait({self._drawing})

    def close(self) -> None:
        """End the flow and give its address back; harmless when called again.

        What has not left yet, since an address or a neighbour's resolution is waited for, never does (UM-ADDR-9).
        """
        if self.closed:
            return
        self.closed = True
        if self._drawing is not None:
            self._drawing.cancel()
        self._waiting.clear()
        self._end("closed")

    # -- inside ----------------------------------------------------------------------------------

    async def _draw(self) -> None:
        """Get an address, then send what has waited for it."""
        try:
            flow = self._open(await self._address())
        except Exception as error:
            if not isinstance(error, UnimuxError | OSError):  # a policy of the application's
                message = f"No address could be taken for {self!r}."
                asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
            self._drawing = None  # who is told may send again
            self.dropped += len(self._waiting)
            self._waiting.clear()
            self._failed(error)
            return
        self._drawing = None
        self._flow = flow
        flow.owner = self._on_signals
        self._timer = IdleTimer(self._node.stack.timers, flow, self._idle, lambda now: self._end("idle"))
        while self._waiting and self._flow is flow:
            self._send(flow, self._waiting.popleft())

    async def _address(self) -> AddressEntry:
        node, timeout = self._node, self._patience
        if self._session is not None:
            return await node.sticky.address(self._session, self.remote, timeout=timeout, purpose=self._purpose)
        cause = f"UDP flow to {address_text(self.remote)}"
        return await node.take_address(
            AddressKind.EPHEMERAL, self.remote, timeout=timeout, cause=cause, purpose=self._purpose
        )

    def _open(self, entry: AddressEntry) -> UdpFlow:
        node = self._node
        try:
            return node.stack.udp.open(entry, node.now(), self.remote, self.port)
        except BaseException:
            node.stack.host.addresses.give_back(entry, node.now(), "UDP flow failed")
            node.driver.kick()
            raise

    def _send(self, flow: UdpFlow, data: Buffer) -> None:
        try:
            flow.send(data, self._node.now())
        except (NoRouteError, FlowClosed, ValueError) as error:
            self.dropped += 1
            self._failed(error)
        self._node.driver.kick()

    def _on_signals(self, bits: int) -> None:
        flow = self._flow
        if flow is None:
            return
        while self._flow is flow and (datagram := flow.receive()) is not None:
            try:
                self._receive(datagram.data)
            except Exception as error:  # the application's: the datagrams behind this one are given to it all the same
                message = f"The receiver of {self!r} failed."
                asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
        for failure in flow.take_errors():
            self._failed(from_icmp(failure.type, failure.code))
        if bits & Signal.CLOSED and self._flow is flow:
            self._end("its address is gone")  # the next datagram draws another one

    def _end(self, cause: str) -> None:
        if self._timer is not None:
            self._timer.retire()
            self._timer = None
        flow, self._flow = self._flow, None
        if flow is not None:
            flow.owner = None
            flow.close(self._node.now(), cause)
            self._node.driver.kick()

    def __repr__(self) -> str:
        return f"<EphemeralFlow {self.local} → {self.peer}>"


class Datagrams:
    """The UDP flows of a node, and the sockets that are open."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self.sockets: set[DatagramSocket] = set()

    def close(self, error: Exception | None) -> None:
        """End every socket, and let its protocol know why; None where the node was closed."""
        for socket in list(self.sockets):
            socket.close(error)

    def flow(
        self,
        remote: bytes,
        port: int,
        receive: Receive,
        *,
        session: StickySession | None = None,
        idle: float = IDLE,
        patience: float = DRAW_TIMEOUT,
        failed: Failed = lambda error: None,
        purpose: Purpose = UNNAMED,
    ) -> EphemeralFlow:
        """A flow to an address (16 bytes) and port; see `EphemeralFlow`.  It costs nothing until it sends."""
        return EphemeralFlow(
            self._node,
            remote,
            port,
            receive,
            session=session,
            idle=idle,
            patience=patience,
            failed=failed,
            purpose=purpose,
        )

    async def open_flow(
        self,
        host: str | IPv6Address,
        port: int,
        receive: Receive,
        *,
        session: StickySession | None = None,
        timeout: float = DRAW_TIMEOUT,
        purpose: Purpose = UNNAMED,
    ) -> EphemeralFlow:
        """A flow to a name or address, resolved within `timeout` seconds; raises what `Node.resolve` raises."""
        remote = (await self._node.resolve(host, timeout=timeout))[0]
        return self.flow(remote, port, receive, session=session, purpose=purpose)

    async def exchange(
        self,
        server: bytes,
        payload: bytes,
        timeout: float,
        *,
        port: int = DNS_PORT,
        patience: float | None = None,
        asked: Callable[[], None] = lambda: None,
        purpose: Purpose = UNNAMED,
    ) -> bytes:
        """Ask `server` (16 bytes) from an address and port of this question's own; the first datagram that comes back.

        patience: seconds that the address is waited for, by default as many as the answer.  asked: called when the question
        has its address and leaves.
        Raises TimeoutError `timeout` seconds after that, an OSError where an ICMPv6 error says that nobody listens or nobody is
        there, and what the node's policy raises where there is no address.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        answer.add_done_callback(
            lambda done: done.cancelled() or done.exception()
        )  # also where nobody awaits it any more

        def received(data: bytes) -> None:
            if not answer.done():
                answer.set_result(data)

        def failed(error: Exception) -> None:
            if not answer.done():
                answer.set_exception(error)

        patience = timeout if patience is None else patience
        flow = self.flow(server, port, received, patience=patience, failed=failed, purpose=purpose)
        try:
            flow.send(payload)
            await flow.drawn()
            if not answer.done():  # else there is no address
                asked()
            async with asyncio.timeout(timeout):
                return await answer
        finally:
            flow.close()


class DatagramSocket(asyncio.DatagramTransport):
    """An asyncio datagram transport; behind it every remote endpoint has a flow, with an EA, of its own.

    Made by `Node.create_datagram_endpoint`.  remote: the only endpoint that is talked to, None for any.
    Raises `NodeStopped` on a node that has, and what `check_session` does.
    """

    def __init__(
        self,
        node: Node,
        protocol: asyncio.DatagramProtocol,
        remote: tuple[bytes, int] | None,
        *,
        session: StickySession | None = None,
        idle: float = IDLE,
        purpose: Purpose = UNNAMED,
    ) -> None:
        if node.pool.closed:
            raise NodeStopped
        if session is not None:
            check_session(session)
        super().__init__({"peername": None if remote is None else (address_text(remote[0]), remote[1], 0, 0)})
        self._node = node
        self._protocol = protocol
        self._remote = remote
        self._session = session
        self._idle = idle
        self._purpose = purpose
        self._flows: OrderedDict[tuple[bytes, int], EphemeralFlow] = OrderedDict()
        self._closing = False
        node.datagrams.sockets.add(self)

    @property
    def flows(self) -> list[EphemeralFlow]:
        """The flows, the one used last at the end."""
        return list(self._flows.values())

    def sendto(self, data: Buffer, addr: tuple[Any, ...] | None = None) -> None:  # type: ignore[override]
        """Send one datagram; `addr` is (IPv6 address as text, port, …) and needed where the socket has no remote of its own.

        Raises ValueError where that does not fit.
        """
        if self._closing:
            return
        if addr is None:
            if self._remote is None:
                raise ValueError("this socket has no remote endpoint: name one")
            key = self._remote
        else:
            key = IPv6Address(addr[0]).packed, int(addr[1])
            if self._remote is not None and key != self._remote:
                raise ValueError("this socket has another remote endpoint")
        flow = self._flows.get(key)
        if flow is None:
            flow = self._flows[key] = self._make(key)
            if len(self._flows) > FLOWS:
                self._flows.popitem(last=False)[1].close()
        self._flows.move_to_end(key)
        flow.send(data)

    def _make(self, key: tuple[bytes, int]) -> EphemeralFlow:
        remote, port = key
        source = address_text(remote), port, 0, 0
        return self._node.datagrams.flow(
            remote,
            port,
            lambda data: self._protocol.datagram_received(data, source),
            session=self._session,
            idle=self._idle,
            failed=self._protocol.error_received,
            purpose=self._purpose,
        )

    def close(self, error: Exception | None = None) -> None:
        """End all flows; harmless when called again.  error: what the protocol is told."""
        if self._closing:
            return
        self._closing = True
        self._node.datagrams.sockets.discard(self)
        while self._flows:
            self._flows.popitem()[1].close()
        asyncio.get_running_loop().call_soon(self._protocol.connection_lost, error)

    def abort(self) -> None:
        """As `close`: there is nothing to wait for."""
        self.close()

    def is_closing(self) -> bool:
        return self._closing
