"""A LAN in memory under virtual time: unified nodes on one switch, with an on-link prefix set by hand or routed ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tapstack.clock import run_virtual
from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.link.memory import MemoryLink, MemorySwitch
from tapstack.tcp.options import SocketOptions, TimeWait
from tapstack.types import address
from tests.plugins import taps
from unimux.aio import start_server
from unimux.das import Agent, AgentCaller, DasRequired, Want
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig
from unimux.server import Server

PREFIX = "2001:db8:1::"
OPTIONS = SocketOptions(time_wait=TimeWait.SHORT)


class Switch(MemorySwitch):
    """Loses the frames of which `unlucky(frame)` is true; captures tell of it."""

    def __init__(self, latency: float) -> None:
        super().__init__(latency=latency)
        self.unlucky: Callable[[bytes], bool] = lambda frame: False

    def enter(self, source: MemoryLink, frame: bytes) -> bool:
        if not self.unlucky(frame):
            return super().enter(source, frame)
        taps.lost(self, self.loop.time(), source.port, frame)
        return True


class Lan:
    """A switch and what went over it, as (time, frame)."""

    def __init__(self, latency: float = 0.001) -> None:
        self.switch = Switch(latency)
        self.frames: list[tuple[float, bytes]] = []
        self.switch.observe(lambda when, port, frame: self.frames.append((when, bytes(frame))))
        self._stack = AsyncExitStack()
        self._ports: list[MemoryLink] = []

    async def node(
        self, *, dedicated: str | None = None, advertised: bool = False, pool: PoolConfig | None = None, **config: Any
    ) -> Node:
        """One more node, running; where its prefix is advertised, that is for a `tests.unit.unimux.router.Router` to do."""
        number = len(self._ports) + 1
        link = self.switch.connect(bytes([2, 0, 0, 0, 0, number]))
        self._ports.append(link)
        settings = NodeConfig(pool=pool or PoolConfig(low=4, high=8), socket=OPTIONS, **config)
        node = Node(link, settings, seed=bytes([number]) * 32)
        await self._stack.enter_async_context(node)
        prefixes = node.stack.host.prefix_list
        if advertised:
            return node
        if dedicated is None:
            prefixes.add_static(address(PREFIX), 64, autonomous=True, now=node.now())
        else:
            prefixes.add_static(address(PREFIX), 64, autonomous=False, now=node.now())
            prefixes.add_dedicated(address(dedicated), 64)
        node.pool.start(node.now())
        node.driver.kick()
        return node

    def packets(self, layer: type[Packet]) -> list[tuple[float, Packet]]:
        """What went over the switch and contains a layer, as scapy reads it, with its times."""
        read = ((when, Ether(frame)) for when, frame in self.frames)
        return [(when, packet) for when, packet in read if layer in packet]

    def syns(self) -> list[tuple[float, Packet]]:
        """The first segments of all connections, each once."""
        first = {
            (p[IPv6].src, p[IPv6].dst, p[TCP].seq): (at, p)
            for at, p in reversed(self.packets(TCP))
            if p[TCP].flags == "S"
        }
        return list(first.values())[::-1]

    def unplug(self, node: Node) -> None:
        """From now on nobody hears it, and it hears nobody; it is not told."""
        self.switch.leave(next(port for port in self._ports if port is node.link))

    async def close(self) -> None:
        """Stop all nodes."""
        await self._stack.aclose()


@asynccontextmanager
async def lan(latency: float = 0.001) -> AsyncIterator[Lan]:
    """A LAN; its nodes are stopped at the end, and must leave nothing."""
    made = Lan(latency)
    try:
        yield made
    finally:
        await made.close()


def virtual_test(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """A test that is a coroutine, under the virtual clock."""

    def run() -> None:
        run_virtual(test())

    run.__name__ = test.__name__
    return run


def virtual(main: Coroutine[Any, Any, None]) -> None:
    """Run to the end in virtual time."""
    run_virtual(main)


async def eventually(condition: Callable[[], bool], timeout: float = 30.0) -> None:
    """Wait until a condition holds that no event of a stack may announce."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


def in_use(node: Node) -> list[AddressEntry]:
    """One-time addresses that were taken and not released."""
    return [e for e in node.stack.host.addresses if e.kind in (AddressKind.EPHEMERAL, AddressKind.SERVICE)]


async def settle(node: Node) -> None:
    """Wait until no one-time address is in use."""
    await node.until(lambda: not in_use(node), 30)


def handled() -> list[dict[str, Any]]:
    """What the loop's exception handler is told from now on."""
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    return told


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends back what comes, until the client's end of stream or an error."""
    with suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


def echo_server(node: Node, **options: Any) -> Server:
    """A server that sends back what comes."""
    return start_server(node, echo, **options)


class Hello(asyncio.Protocol):
    """Says hello and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


def asks(node: Node, agent: Agent) -> DasRequired:
    """The policy of sockets of a node whose addresses `agent` sets."""
    policy = DasRequired(node.pool, node.events)
    policy.on_need = AgentCaller(policy, agent, node.now, node.driver.kick)
    return policy


class Supplies:
    """An agent that names one address, and keeps what it was asked for."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.wanted: list[Want] = []

    async def __call__(self, want: Want) -> str:
        self.wanted.append(want)
        return self.address
