"""Listening on one-time addresses: LISTEN_o until an SSA is issued, a connection per session, LISTEN_o again.

    server = node.listen(ProtocolFactory)
    ssa = await server.issue(client="2001:db8::/32", lifetime=60)
    print(ssa.address)               # tell the client, by whatever means

Issuing arms the address before it is disclosed (UM-LIS-2); see `ssa.issue`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from dataclasses import replace
from ipaddress import IPv6Address
from types import TracebackType
from typing import TYPE_CHECKING, Any

from tapstack.tcp.connection import Signal
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.tcp.states import TcpState
from tapstack.types import address

from .das import Policy, chosen_address
from .errors import NodeStopped, UnimuxError
from .purpose import UNNAMED, Purpose
from .ssa.issue import (
    DEFAULT_LIFETIME,
    Client,
    IssueError,
    Issuer,
    ServiceAddress,
    check_terms,
    client_network,
)
from .transport import SessionTransport

if TYPE_CHECKING:
    from .node import Node

ISSUE_TIMEOUT = 30.0
AUTO_ARM_PAUSE = 1.0
"""Seconds until `Server.auto_arm` tries again when there was no address."""


class Server:
    """A service of a node.  Made by `Node.listen`; it listens from then on, whether it is awaited, as asyncio's, or not.

    What that one has for beginning and ending is here as well, with the meaning of Python 3.12 and later; `sockets` is not.

    room: whether one more session may be given to a protocol now; while not, they wait with the stack, within the socket's
    backlog, until `take_accepted`.
    """

    def __init__(
        self,
        node: Node,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        options: SocketOptions,
        service: str | None = None,
        port: int | None = None,
        das: Policy | None = None,
        purpose: Purpose = UNNAMED,
    ) -> None:
        self._node = node
        self._factory = protocol_factory
        self._sessions: set[SessionTransport] = set()
        self._closed = False
        self._waiters: list[asyncio.Future[None]] = []
        self._forever: asyncio.Future[None] | None = None
        self.room: Callable[[], bool] = lambda: True
        if options.mode is PortMode.AWARE and port is None:
            port = options.reduced_port  # unified-multiplex §6: RP where the application names no port
        self._listener: Listener = node.stack.tcp.listen(options, node.now(), port, service)
        self._listener.owner = self._on_signals
        self._keeper: asyncio.Task[None] | None = None
        purpose = replace(purpose, service=service or purpose.service)
        self._issuer = Issuer(self._listener, das or node.das, node.stack.host.addresses, purpose, node.events)

    @property
    def state(self) -> TcpState:
        """LISTEN_o, or LISTEN while an SSA is armed."""
        return self._listener.state

    @property
    def listener(self) -> Listener:
        """The stack's listener, for deliveries that arm addresses of their own (`ssa.secret`)."""
        return self._listener

    @property
    def armed(self) -> list[IPv6Address]:
        """The SSAs that can be connected to now."""
        return [IPv6Address(address) for address in self._listener.accepting]

    @property
    def outstanding(self) -> list[ServiceAddress]:
        """The SSAs that live: armed, or in use by their last session."""
        return self._issuer.outstanding

    async def issue(
        self,
        *,
        sessions: int = 1,
        client: Client | None = None,
        lifetime: float | None = DEFAULT_LIFETIME,
        timeout: float = ISSUE_TIMEOUT,
        lease: bool = False,
        front_end: str | None = None,
        who: str | None = None,
    ) -> ServiceAddress:
        """A fresh SSA, armed for `sessions` sessions of `client` (an address or prefix; None for anybody) for `lifetime` seconds.

        lease: for as many sessions as its first client wants, whoever that is, for `lifetime` seconds; in the modes L2 and
        Aware, which tell sessions of one host apart (UM-LIS-8).
        front_end, who: by which way and on whose behalf it was asked for, for journals; None: as the server was made for.
        Waits at most `timeout` seconds for an address; raises `IssueError`, and what the node's policy raises.
        """
        if lease and self._listener.options.mode not in (PortMode.L2, PortMode.AWARE):
            raise IssueError(
                f"A lease needs mode L2: {self._listener.options.mode} cannot tell a client's sessions apart."
            )
        node = self._node
        answer: asyncio.Future[ServiceAddress] = asyncio.get_running_loop().create_future()

        def issued(outcome: ServiceAddress | UnimuxError, at: float) -> None:
            if isinstance(outcome, ServiceAddress):
                if answer.done():
                    self._issuer.withdraw(outcome, at)  # cancelled meanwhile: nobody will ever be told of it
                else:
                    answer.set_result(outcome)
            elif not answer.done():
                answer.set_exception(outcome)

        now = node.now()
        begun = self._issuer.issue(
            now,
            issued,
            deadline=now + timeout,
            sessions=sessions,
            client=client,
            lifetime=lifetime,
            lease=lease,
            front_end=front_end,
            who=who,
        )
        node.driver.kick()
        if isinstance(begun, ServiceAddress):
            return begun
        try:
            return await answer
        except asyncio.CancelledError:
            begun.cancel(node.now())
            if answer.done() and not answer.cancelled() and answer.exception() is None:
                self.withdraw(answer.result())
            raise

    def withdraw(self, ssa: ServiceAddress) -> None:
        """Disarm an SSA that is no longer wanted; harmless when it was used up."""
        self._issuer.withdraw(ssa, self._node.now())
        self._node.driver.kick()

    def bind(self, where: str | IPv6Address | bytes) -> None:
        """Accept at an ordinary address of this node, for any number of sessions, until `close` (UM-DAS-5, UM-PORT-5).

        Raises `AddressUnavailable` for an address that is not to be had, `ConflictingSocket` where another listener has it.
        """
        node = self._node
        entry = chosen_address(node.stack.host.addresses, address(where))
        self._listener.arm(entry, node.now(), sessions=None)
        node.driver.kick()

    def auto_arm(
        self,
        count: int,
        armed: Callable[[ServiceAddress], None] = lambda ssa: None,
        *,
        sessions: int = 1,
        client: Client | None = None,
        lifetime: float | None = DEFAULT_LIFETIME,
    ) -> None:
        """Keep `count` SSAs armed from now on, for a server that polls (UM-LIS-2); `armed` is told of each, before any client is.

        Whatever is used up, expires, is withdrawn or deprecated (UM-ADDR-11) is replaced; where no address is to be had, again
        and again.  A count of 0 ends it, and so does `close`.  Raises `IssueError` for terms that make no sense.
        """
        check_terms(sessions, lifetime)
        client = client_network(client)
        if self._keeper is not None:
            self._keeper.cancel()
            self._keeper = None
        if count:
            work = self._keep_armed(count, armed, sessions, client, lifetime)
            self._keeper = asyncio.get_running_loop().create_task(work)

    async def _keep_armed(
        self,
        count: int,
        armed: Callable[[ServiceAddress], None],
        sessions: int,
        client: Client | None,
        lifetime: float | None,
    ) -> None:
        listener = self._listener
        while True:
            while len(listener.accepting) < count:
                try:
                    ssa = await self.issue(sessions=sessions, client=client, lifetime=lifetime)
                except NodeStopped:
                    return
                except Exception as error:
                    if not isinstance(error, UnimuxError):  # a policy's or an agent's of the application
                        message = f"No address could be armed for {listener!r}."
                        asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
                    await asyncio.sleep(AUTO_ARM_PAUSE)
                    continue
                try:
                    armed(ssa)
                except Exception as error:  # the application's: the address stands all the same
                    message = f"The callback for addresses of {listener!r} failed."
                    asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
            try:
                await self._node.until(lambda: len(listener.accepting) < count)
            except NodeStopped:
                return

    def close(self) -> None:
        """Stop listening; established connections go on."""
        self._closed = True
        self.auto_arm(0)
        self._listener.close(self._node.now())
        self._node.driver.kick()
        if self._forever is not None:
            self._forever.cancel()
        self._look_for_the_end()

    # -- as `asyncio.Server` ---------------------------------------------------------------------

    def __await__(self) -> Generator[Any, None, Server]:
        return self._itself().__await__()

    async def _itself(self) -> Server:
        return self

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        await self.wait_closed()

    def is_serving(self) -> bool:
        """Whether it listens: until `close`, or until the node stops."""
        return not self._closed and not self._node.pool.closed

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that its node runs in."""
        return self._node.driver.loop

    async def start_serving(self) -> None:
        """It does so already.  Raises RuntimeError after `close`, and `NodeStopped`."""
        self._check_serving()

    async def serve_forever(self) -> None:
        """Wait until somebody closes this server, or cancels the call, which closes it; it ends in asyncio.CancelledError.

        Raises `NodeStopped` when the node stops, and RuntimeError after `close`, or where another call waits.
        """
        if self._forever is not None:
            raise RuntimeError(f"{self!r} is already being awaited on serve_forever()")
        self._check_serving()
        self._forever = forever = self.get_loop().create_future()

        def stopped(now: float) -> None:
            if not forever.done():
                forever.set_exception(NodeStopped())

        self._node.pool.at_end.append(stopped)
        try:
            await forever
        except asyncio.CancelledError:
            self.close()
            await self.wait_closed()
            raise
        finally:
            self._forever = None
            self._node.pool.at_end.remove(stopped)

    async def wait_closed(self) -> None:
        """Wait until it is closed, or its node, and the protocol of its last connection has been told of the end."""
        if not self._over():
            waiter = self.get_loop().create_future()
            at_end = self._node.pool.at_end
            self._waiters.append(waiter)
            at_end.append(self._look_for_the_end)
            try:
                await waiter
            finally:
                at_end.remove(self._look_for_the_end)
                self._waiters.remove(waiter)

    def close_clients(self) -> None:
        """Close the connections that stand."""
        for transport in list(self._sessions):
            transport.close()

    def abort_clients(self) -> None:
        """Reset the connections that stand."""
        for transport in list(self._sessions):
            transport.abort()

    def _check_serving(self) -> None:
        if self._closed:
            raise RuntimeError(f"{self!r} is closed")
        if self._node.pool.closed:
            raise NodeStopped

    def _over(self) -> bool:
        return not self.is_serving() and not self._sessions

    def _session_over(self, transport: SessionTransport) -> None:
        self._sessions.discard(transport)
        self._look_for_the_end()

    def _look_for_the_end(self, now: float = 0.0) -> None:
        if self._over():
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)

    # -- sessions --------------------------------------------------------------------------------

    def _on_signals(self, bits: int) -> None:
        if bits & Signal.ACCEPTABLE:
            self.take_accepted()

    def take_accepted(self) -> None:
        """Give sessions that stand to protocols, as far as there is room."""
        while self.room() and (connection := self._listener.accept()) is not None:
            transport = SessionTransport(self._node.driver, connection, self._session_over)
            self._sessions.add(transport)
            try:
                transport.start(self._factory())
            except Exception as error:  # the application's: the next session gets its protocol all the same
                message = f"The protocol of a session of {self._listener!r} could not be made."
                asyncio.get_running_loop().call_exception_handler({"message": message, "exception": error})
                connection.owner = None
                connection.abort(self._node.now(), "no protocol")
                self._session_over(transport)

    def __repr__(self) -> str:
        return f"<Server {self.state} {[str(address) for address in self.armed]}>"
