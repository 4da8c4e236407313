"""A service whose connections wait for a thread that accepts them, and which arms its SSAs by itself (UM-LIS-2)."""

from __future__ import annotations

import asyncio
import errno
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, replace

from tapstack.tcp.options import SocketOptions

from .das import Policy
from .errors import NodeStopped
from .exchange import Exchange
from .node import Node
from .server import ISSUE_TIMEOUT, Server
from .ssa.issue import DEFAULT_LIFETIME, Client, ServiceAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class SsaPolicy:
    """How a listening socket issues SSAs by itself; see `Server.issue`.

    auto_arm: how many are kept armed; 0 arms one only while `accept` waits.
    """

    sessions: int = 1
    client: Client | None = None
    lifetime: float | None = DEFAULT_LIFETIME
    auto_arm: int = 0


class AcceptQueue:
    """A socket's server in the node's loop, and the connections that wait for `accept`.

    accepted: the one that is next, if any; those behind it stay with the stack's listener, whose backlog bounds them.
    """

    def __init__(self, node: Node, options: SocketOptions, port: int | None, das: Policy | None) -> None:
        self.node = node
        self.accepted: deque[Exchange] = deque()
        self.changed = asyncio.Event()
        self._arming: asyncio.Task[ServiceAddress] | None = None
        self._closed = False
        loop = asyncio.get_running_loop()

        def factory() -> Exchange:
            exchange = Exchange(loop)
            self.accepted.append(exchange)
            self.changed.set()
            return exchange

        self.server: Server = node.listen(factory, options=options, port=port, das=das)
        self.server.room = lambda: not self.accepted
        self._unwatch = node.watch(lambda event: self.changed.set())

    def set_options(self, options: SocketOptions) -> None:
        """Options of the connections that begin from now on."""
        listener = self.server.listener
        listener.options = replace(options, backlog=listener.options.backlog)

    async def issue(self, policy: SsaPolicy) -> ServiceAddress:
        return await self.server.issue(sessions=policy.sessions, client=policy.client, lifetime=policy.lifetime)

    async def keep(self, policy: SsaPolicy, timeout: float | None) -> None:
        """Have `policy.auto_arm` SSAs armed now and always; waits for the first lot, and no longer than `timeout` seconds.

        timeout: None for as long as `Server.issue` waits.  What is not armed by then follows when there are addresses.
        """
        server = self.server
        server.auto_arm(policy.auto_arm, sessions=policy.sessions, client=policy.client, lifetime=policy.lifetime)
        with suppress(TimeoutError):
            limit = ISSUE_TIMEOUT if timeout is None else timeout
            await self.node.until(lambda: len(server.armed) >= policy.auto_arm, limit)
        self._check_open()

    async def accept(self, policy: SsaPolicy, bound: bool, timeout: float | None) -> Exchange:
        """The next connection, arming an SSA when there is none to come to.

        timeout: seconds, None for no end, 0 for not at all.  Raises TimeoutError, BlockingIOError, `NodeStopped`, and OSError
        when the socket is closed meanwhile.
        """
        async with asyncio.timeout(timeout or None):
            while not self.accepted:
                self._check_open()
                if timeout == 0:
                    raise BlockingIOError(errno.EAGAIN, "nobody has come")
                self.changed.clear()
                if not bound and not policy.auto_arm and not self.server.armed:
                    await self._arm_one(policy)
                if not self.accepted:
                    await self.changed.wait()
        exchange = self.accepted.popleft()
        self.server.take_accepted()
        return exchange

    async def _arm_one(self, policy: SsaPolicy) -> None:
        """Arm an SSA; where the caller's time is over it goes on, for the next one: an address under test is not lost."""
        if self._arming is None or self._arming.done():
            self._arming = asyncio.get_running_loop().create_task(self.issue(policy))
            self._arming.add_done_callback(lambda task: task.cancelled() or task.exception())  # perhaps nobody waits
        arming = self._arming
        await asyncio.wait([arming])
        self._check_open()
        arming.result()

    def _check_open(self) -> None:
        if self.node.pool.closed:
            raise NodeStopped
        if self._closed:
            raise OSError(errno.EBADF, "the socket was closed")

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._unwatch()
        if self._arming is not None:
            self._arming.cancel()
        self.server.close()
        for exchange in self.accepted:
            if exchange.transport is not None:
                exchange.transport.abort()
        self.accepted.clear()
        self.changed.set()
