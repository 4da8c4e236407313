"""A node behind the front end's service interfaces.

CONNECT takes the node as it is, and UDP ASSOCIATE its `datagrams`.  BIND is a service with one SSA, armed for one
session, named for the expected peer where the client says who that is; the port told to the peer is RP, which an SSA does
not look at.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from compat.socks.services import Bound
from unimux.node import Node
from unimux.purpose import Purpose
from unimux.server import Server
from unimux.ssa.issue import ServiceAddress


class _NodeBound:
    def __init__(self, server: Server, ssa: ServiceAddress, port: int) -> None:
        self._server = server
        self.address = str(ssa.address)
        self.port = port

    def close(self) -> None:
        self._server.close()


class NodeBinder:
    """BIND over a node's SSAs."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def bind(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        client: str | None,
        lifetime: float,
        purpose: Purpose,
    ) -> Bound:
        """Issue an SSA for one session; see `Binder.bind`."""
        server = self._node.listen(protocol_factory, purpose=purpose)
        try:
            ssa = await server.issue(client=client, lifetime=lifetime)
        except BaseException:
            server.close()
            raise
        return _NodeBound(server, ssa, self._node.config.socket.reduced_port)
