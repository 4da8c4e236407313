"""A service whose connections wait for a thread that accepts them, and which arms its SSAs by itself (UM-LIS-2)."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from tapstack.tcp.options import SocketOptions

from .das import Policy
from .exchange import Exchange
from .node import Node
from .server import Server
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
    """A socket's server in the node's loop, and the connections that wait for `accept`."""

    def __init__(self, node: Node, options: SocketOptions, port: int | None, das: Policy | None) -> None:
        self.node = node
        self.accepted: deque[Exchange] = deque()
        self.changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def factory() -> Exchange:
            exchange = Exchange(loop)
            self.accepted.append(exchange)
            self.changed.set()
            return exchange

        self.server: Server = node.listen(factory, options=options, port=port, das=das)
        self._unwatch = node.watch(lambda event: self.changed.set())

    async def issue(self, policy: SsaPolicy) -> ServiceAddress:
        return await self.server.issue(sessions=policy.sessions, client=policy.client, lifetime=policy.lifetime)

    async def keep(self, policy: SsaPolicy) -> None:
        """Have `policy.auto_arm` SSAs armed now and always; returns when the first lot is."""
        server = self.server
        server.auto_arm(policy.auto_arm, sessions=policy.sessions, client=policy.client, lifetime=policy.lifetime)
        await self.node.until(lambda: len(server.armed) >= policy.auto_arm)

    async def accept(self, policy: SsaPolicy, bound: bool, timeout: float | None) -> Exchange:
        """The next connection, arming an SSA when there is none to come to."""
        async with asyncio.timeout(timeout):
            while not self.accepted:
                self.changed.clear()
                if not bound and not self.server.armed:
                    await self.issue(policy)
                if not self.accepted:
                    await self.changed.wait()
        return self.accepted.popleft()

    def close(self) -> None:
        self._unwatch()
        self.server.close()
        for exchange in self.accepted:
            if exchange.transport is not None:
                exchange.transport.abort()
        self.accepted.clear()
