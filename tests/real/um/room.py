"""Four unified nodes and a legacy kernel on two LANs with an unmodified router between them, for the tests of this folder.

    client LAN 2001:db8:1::/64            server LAN 2001:db8:2::/64
      alice   on-link prefix                bob     on-link prefix
      dora    2001:db8:d1::/64, routed      boris   2001:db8:d2::/64, routed
                                            the legacy kernel, 2001:db8:2::80

Everything is without offload, so captures show true checksums.  One loop runs for the whole life of a room; the nodes
live between two calls of `run`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from compat import kernel
from compat.kernel import topology
from compat.kernel.topology import Topology, demo_topology
from compat.programs.radvd import Advertisement, router_advertiser
from tapstack.events import Event
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.prefixes import Prefix
from tapstack.tcp.options import SocketOptions, TimeWait
from tapstack.types import address, address_text
from unimux.events import EventFile
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

PROGRAMS = ("dumpcap", "radvd")
READY = 15.0
OPTIONS = SocketOptions(time_wait=TimeWait.SHORT)
DEDICATED = {"dora": "2001:db8:d1::/64", "boris": "2001:db8:d2::/64"}
BOUND = "2001:db8:d1::b0"
"""An ordinary address of dora's, for sockets that an application bound itself."""

T = TypeVar("T")


@dataclass(slots=True)
class Peer:
    """A unified node and the kernel's end of its TAP, where its own link can be captured."""

    node: Node
    interface: kernel.Interface
    events: list[Event]


class Room:
    """The network of the picture above, running."""

    def __init__(self, runner: asyncio.Runner, top: Topology) -> None:
        self._runner = runner
        self.top = top
        self.peers: dict[str, Peer] = {}

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Let the network live until `main` is done."""
        return self._runner.run(main)

    def node(self, name: str) -> Node:
        """One of the four."""
        return self.peers[name].node

    @property
    def legacy(self) -> kernel.Namespace:
        """The legacy host's namespace."""
        return self.top.server

    async def attach(
        self, name: str, stack: AsyncExitStack, random: Random, *, told: Path | None = None, **config: Any
    ) -> Node:
        """Start a node on its LAN and give it its routed prefix, if it has one; `told`: a file for all its events."""
        at_client = name in ("alice", "dora")
        bridge = self.top.client_bridge if at_client else self.top.server_bridge
        dedicated = DEDICATED.get(name)
        pool = PoolConfig(low=0, high=0) if dedicated else PoolConfig(low=8, high=16)
        link = stack.enter_context(kernel.bridged_tap(bridge, f"tap-{name}", mac=random))
        settings = NodeConfig(host=HostConfig(stable_addresses=False), pool=pool, socket=OPTIONS, **config)
        node = Node(link, settings)
        events: list[Event] = []
        node.watch(events.append)
        if told is not None:
            stack.enter_context(EventFile(told, node.events, node=name))
        await stack.enter_async_context(node)
        self.peers[name] = Peer(node, kernel.Interface(bridge.namespace, f"tap-{name}"), events)
        host = node.stack.host
        await node.until(lambda: bool(host.routes.default_routers) and host.link_local is not None, READY)
        if dedicated is not None:
            assert host.link_local is not None
            port = self.top.router_client if at_client else self.top.router_server
            stack.enter_context(kernel.route(self.top.router, dedicated, via=address_text(host.link_local), dev=port))
            prefix, _, length = dedicated.partition("/")
            host.prefix_list.add_dedicated(address(prefix), int(length))
            node.pool.start(node.now())
            node.driver.kick()
        return node

    def prefix(self, name: str) -> Prefix:
        """The routed prefix of a node."""
        return next(prefix for prefix in self.node(name).stack.host.prefixes if prefix.dedicated)


@contextmanager
def room(*names: str) -> Iterator[Room]:
    """Build the network with the named nodes; everything is gone afterwards."""
    random = Random(20)
    with demo_topology() as top, asyncio.Runner() as runner:
        top.set_offloads(False)
        made = Room(runner, top)
        stack = AsyncExitStack()

        async def begin() -> None:
            await stack.enter_async_context(
                router_advertiser(
                    top.router,
                    Advertisement(top.router_client, topology.CLIENT_PREFIX),
                    Advertisement(top.router_server, topology.SERVER_PREFIX),
                )
            )
            await asyncio.gather(*(made.attach(name, stack, random) for name in names))

        try:
            runner.run(begin())
            yield made
        finally:
            runner.run(stack.aclose())
