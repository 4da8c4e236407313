"""The backend `sim`: in-memory switches, a simulated router and simulated ordinary hosts under a virtual clock.

Deterministic to the byte: the clock begins at EPOCH whenever it is run, nothing asks the system for the time or for
randomness, and captures are taken where frames enter a switch.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import replace
from ipaddress import IPv6Network
from pathlib import Path
from random import Random

from scenarios.engine.router import (
    AdvertisedPrefix,
    InterfaceConfig,
    Router,
    RouterConfig,
    RouterNode,
    StaticRoute,
    UntrackedNa,
)
from scenarios.witness.setup import CaptureFile
from tapstack.clock import VirtualDeadlockError, run_virtual, wall_clock
from tapstack.link.base import Link
from tapstack.link.impairment import NONE, ImpairedLink
from tapstack.link.memory import MemorySwitch
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.types import address, is_link_local
from unimux.aio import open_connection, start_server
from unimux.node import Node, NodeConfig
from unimux.state import MemoryState

from .addressing import HOST, NO_POOL, fix
from .backend import Backend, Handler, Host, Impairments, NeighborCount, Observer, RouterControl, Streams
from .errors import BackendCannot, ScenarioError
from .network import Kind, Lan, Network
from .simulated import Pinger, captured

EPOCH_NS = 1_735_689_600_000_000_000
"""The beginning of every simulation: 1 January 2025, 00:00 UTC."""

_HOST_OPTIONS = SocketOptions(mode=PortMode.AWARE, msl=30.0)


class SimBackend(Backend):
    """See the module's docstring.  seed: of the router and the ordinary hosts."""

    name = "sim"
    simulated = True
    ordinary = "ordinary, simulated"

    def __init__(self, seed: int | str) -> None:
        super().__init__()
        self._seed = seed
        self._switches: dict[str, MemorySwitch] = {}
        self._clock: Callable[[], int] = lambda: EPOCH_NS

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """In virtual time; a wait that can never end is an error of the scenario."""

        async def body() -> None:
            await main()

        try:
            run_virtual(body())
        except VirtualDeadlockError as error:
            raise ScenarioError(f"The scenario waits for what cannot come any more: {error}.") from error

    def wall(self) -> float:
        """The virtual clock as Unix time."""
        return self._clock() / 1e9

    @asynccontextmanager
    async def running(self, network: Network, folder: Path | None) -> AsyncIterator[None]:
        """Switches, captures, router."""
        self._clock = wall_clock(asyncio.get_running_loop(), EPOCH_NS)
        async with AsyncExitStack() as stack:
            for lan in network.lans.values():
                switch = self._switches[lan.name] = MemorySwitch(mtu=lan.mtu, latency=lan.latency)
                if folder is not None:
                    stack.enter_context(self._captured(lan, switch, folder))
            if network.router is not None:
                stack.enter_context(self._routed(network))
            yield

    @contextmanager
    def _captured(self, lan: Lan, switch: MemorySwitch, folder: Path) -> Iterator[None]:
        path = folder / "wire" / f"{lan.name}.pcapng"
        with captured(switch, path, self._clock, "unimux scenario, simulated"):
            yield
        self.captures.append(CaptureFile(path, lan.name, offload_free=True, mtu=lan.mtu))

    @contextmanager
    def _routed(self, network: Network) -> Iterator[None]:
        plan = network.router
        assert plan is not None
        router = RouterNode(Router(RouterConfig(neighbors=plan.limits), Random(f"router {self._seed}")))
        for lan in plan.lans:
            link: Link = self._switches[lan.name].connect(lan.router_mac)
            if lan.uplink != (NONE, NONE):
                # Seen from the router, what it sends goes "from" it.
                link = ImpairedLink(
                    link, seed=f"{self._seed}/{lan.name}", outgoing=lan.uplink[1], incoming=lan.uplink[0]
                )
            router.connect(
                link,
                InterfaceConfig(
                    name=lan.name,
                    prefixes=(AdvertisedPrefix(prefix=lan.prefix),),
                    accept_untracked_na=UntrackedNa.ANY if plan.learns else UntrackedNa.NO,
                ),
            )
        router.start()
        self.router = SimRouter(router, {lan.name: number for number, lan in enumerate(plan.lans)})
        try:
            yield
        finally:
            router.close()

    @contextmanager
    def link(self, lan: Lan, mac: bytes) -> Iterator[Link]:
        """A port of a switch."""
        link = self._switches[lan.name].connect(mac)
        try:
            yield link
        finally:
            link.close()

    @contextmanager
    def observe(self, lan: Lan, observer: Observer) -> Iterator[None]:
        """At the switch."""
        end = self._switches[lan.name].observe(lambda when, port, frame: observer(when, frame))
        try:
            yield
        finally:
            end()

    @asynccontextmanager
    async def host(self, name: str, lan: Lan, address: str, impair: Impairments) -> AsyncIterator[Host]:
        """A stack with one fixed address."""
        seed = hashlib.sha256(f"{self._seed}/host {name}".encode()).digest()
        with self.link(lan, lan.next_mac(Kind.HOST)) as link:
            path: Link = link
            if impair != (NONE, NONE):
                path = ImpairedLink(link, seed=f"{self._seed}/host {name}", outgoing=impair[0], incoming=impair[1])
            config = NodeConfig(host=HOST, pool=NO_POOL, socket=_HOST_OPTIONS)
            async with Node(path, config, state=MemoryState(Random(seed).randbytes), seed=seed) as node:
                host = SimHost(name, lan, address, node)
                await host.start(routed=self.router is not None)
                yield host


class SimRouter(RouterControl):
    """The simulated router."""

    def __init__(self, running: RouterNode, ports: dict[str, int]) -> None:
        self.running = running
        self._ports = ports

    def neighbors(self) -> NeighborCount:
        """Its cache."""
        table = self.running.router.neighbors
        return NeighborCount(sum(not is_link_local(each.address) for each in table), table.overflows)

    def route(self, prefix: str, via: str, lan: Lan) -> None:
        """A static route, as an administrator would add it."""
        router, port = self.running.router, self._ports[lan.name]
        static = StaticRoute(prefix=str(IPv6Network(prefix)), interface=port, via=via)
        router.config = replace(router.config, routes=(*router.config.routes, static))
        router.change(port, router.interfaces[port].config, asyncio.get_running_loop().time())
        self.running.flush()


class SimHost(Host):
    """An ordinary host, simulated: tapstack in Aware mode at one address."""

    def __init__(self, name: str, lan: Lan, address: str, node: Node) -> None:
        super().__init__(name, lan, address)
        self.node = node
        self._pinger = Pinger(node.driver)

    async def start(self, *, routed: bool) -> None:
        """Wait for a router, if there is one, and take the address."""
        stack = self.node.stack
        if routed:
            await self.node.until(lambda: bool(stack.host.routes.default_routers), 20)
        else:
            stack.host.prefix_list.add_static(self.lan.network[0].packed, 64, autonomous=False, now=self.node.now())
        fix(self.node, self.address)

    async def open(self, host: str, port: int, *, timeout: float = 10.0, source: int = 0) -> Streams:
        """Connect from the fixed address."""
        if source:
            raise BackendCannot("A simulated host chooses its own ports: run this on netns.")
        return await open_connection(self.node, host, port, timeout=timeout)

    async def serve(self, port: int, handler: Handler, *, cookies: bool = True) -> None:
        """Listen on the fixed address."""
        server = start_server(self.node, handler, port=port, options=replace(_HOST_OPTIONS, cookies=cookies))
        server.bind(self.address)

    async def ping(self, target: str, *, wait: float = 1.0) -> bool:
        """One echo request."""
        return await self._pinger.ping(address(self.address), address(target), wait)
