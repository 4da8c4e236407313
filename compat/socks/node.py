"""A node behind the front end's service interfaces.

CONNECT takes the node as it is.  BIND is a service with one SSA, armed for one session, named for the expected peer where the
client says who that is; the port told to the peer is RP, which an SSA does not look at.  A UDP flow is drawn its
address at its first datagram.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from compat.socks.services import Bound, Flow
from compat.socks.session import Session
from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.packet import NoRouteError
from tapstack.types import Buffer, address_text
from tapstack.udp.flow import FlowClosed, UdpFlow
from unimux.node import CONNECT_TIMEOUT, Node
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
        self, protocol_factory: Callable[[], asyncio.BaseProtocol], *, client: str | None, lifetime: float
    ) -> Bound:
        """Issue an SSA for one session; see `Binder.bind`."""
        server = self._node.listen(protocol_factory)
        try:
            ssa = await server.issue(client=client, lifetime=lifetime)
        except BaseException:
            server.close()
            raise
        return _NodeBound(server, ssa, self._node.config.socket.reduced_port)


class _NodeFlow:
    def __init__(self, node: Node, flow: UdpFlow, receive: Callable[[Buffer], None]) -> None:
        self._node = node
        self._flow = flow
        self._receive = receive
        flow.owner = self._on_signals

    @property
    def peer(self) -> tuple[str, int]:
        assert self._flow.remote is not None and self._flow.remote_port is not None
        return address_text(self._flow.remote), self._flow.remote_port

    def send(self, data: Buffer) -> None:
        with suppress(FlowClosed, NoRouteError, ValueError):  # what cannot be sent is dropped (RFC 1928 §7)
            self._flow.send(data, self._node.now())
        self._node.driver.kick()

    def close(self) -> None:
        self._flow.owner = None
        self._flow.close(self._node.now())
        self._node.driver.kick()

    def _on_signals(self, bits: int) -> None:
        while (datagram := self._flow.receive()) is not None:
            self._receive(datagram.data)


class NodeDatagrams:
    """UDP ASSOCIATE over a node's UDP flows."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def open_flow(
        self, host: str, port: int, receive: Callable[[Buffer], None], *, session: Session | None
    ) -> Flow:
        """Open a flow from an address of its own, or from the session's; see `DatagramService.open_flow`."""
        node = self._node
        remote = (await node.resolve(host, timeout=CONNECT_TIMEOUT))[0]
        if session is not None:
            entry = await node.sticky.address(session, remote, timeout=CONNECT_TIMEOUT)
        else:
            entry = await node.take_address(
                AddressKind.EPHEMERAL, remote, timeout=CONNECT_TIMEOUT, cause=f"UDP flow to {address_text(remote)}"
            )
        try:
            flow = node.stack.udp.open(entry, node.now(), remote, port)
        except (OSError, ValueError):
            if session is None:
                node.stack.host.addresses.release(entry, node.now(), "UDP flow failed")
                node.driver.kick()
            raise
        return _NodeFlow(node, flow, receive)
