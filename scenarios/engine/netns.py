"""The backend `netns`: real namespaces, bridges, TAPs, an unmodified Linux router and radvd, kernels as ordinary hosts.

Every LAN is a namespace of its own with a bridge in it and nothing else; dumpcap listens on the bridge, so a capture holds
each frame once, as at a switch.  Not every kernel has netem: an impaired cable is two TAPs with the frames carried between them
in this process, through the same `ImpairedLink` that simulation uses.  Offloads are off, so checksums are those of the wire.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from ipaddress import IPv6Address
from pathlib import Path
from random import Random
from typing import Any

from compat import kernel
from compat.programs.dumpcap import dumpcap
from compat.programs.radvd import Advertisement, router_advertiser
from scenarios.witness.setup import CaptureFile
from tapstack.link.base import Link
from tapstack.link.impairment import NONE, ImpairedLink

from .backend import Backend, Handler, Host, Impairments, NeighborCount, Observer, RouterControl, Streams
from .errors import ScenarioError
from .network import Kind, Lan, Network
from .probes import ping

_ALL_PROTOCOLS = 3
_SOL_PACKET, _ADD_MEMBERSHIP, _PROMISCUOUS = 263, 1, 1


class NetnsBackend(Backend):
    """See the module's docstring; raises `SetupError` where the machine lacks something."""

    name = "netns"
    simulated = False
    ordinary = "a Linux kernel"

    def __init__(self, seed: int | str) -> None:
        super().__init__()
        kernel.capabilities().require()
        kernel.clean_leftovers()
        self._seed = seed
        self._random = Random(f"netns {seed}")
        self._spaces: dict[str, kernel.Namespace] = {}
        self._bridges: dict[str, kernel.Interface] = {}
        self._ports = 0

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        """In real time."""

        async def body() -> None:
            await main()

        asyncio.run(body())

    def wall(self) -> float:
        """The system's clock."""
        return time.time()

    @asynccontextmanager
    async def running(self, network: Network, folder: Path | None) -> AsyncIterator[None]:
        """Bridges, router with radvd, captures."""
        async with AsyncExitStack() as stack:
            for lan in network.lans.values():
                self._build_lan(stack, lan)
            if network.router is not None:
                await self._build_router(stack, network)
            if folder is not None:
                for lan in network.lans.values():
                    await stack.enter_async_context(self._captured(lan, folder))
            yield

    def _build_lan(self, stack: AsyncExitStack, lan: Lan) -> None:
        space = self._spaces[lan.name] = stack.enter_context(kernel.namespace(f"lan-{lan.name}"))
        kernel.set_sysctl(space, "ipv6/conf/default/disable_ipv6", 1)  # a switch is no host
        made = stack.enter_context(kernel.bridge(space, "lan", mtu=lan.mtu, mac=lan.mac(Kind.ROUTER, 0xFFFF)))
        made.set_offloads(False)
        self._bridges[lan.name] = made

    async def _build_router(self, stack: AsyncExitStack, network: Network) -> None:
        plan = network.router
        assert plan is not None
        space = stack.enter_context(kernel.namespace("router"))
        kernel.be_quiet(space)
        kernel.set_sysctl(space, "ipv6/conf/all/forwarding", 1)
        advertisements = []
        for lan in plan.lans:
            impair = (lan.uplink[1], lan.uplink[0])  # seen from the router, what it sends goes "from" it
            port = await self._plug(stack, lan, space, lan.name, lan.router_mac, impair)
            stack.enter_context(kernel.address(port, f"{lan.router}/64"))
            if plan.learns:
                kernel.set_sysctl(space, f"ipv6/conf/{lan.name}/accept_untracked_na", 1)
            advertisements.append(Advertisement(port, lan.prefix))
        await stack.enter_async_context(router_advertiser(space, *advertisements))
        self.router = KernelRouter(space, stack)

    async def _plug(
        self, stack: AsyncExitStack, lan: Lan, space: kernel.Namespace, name: str, mac: bytes, impair: Impairments
    ) -> kernel.Interface:
        """An interface of a namespace on a LAN: a veth, or where the cable is impaired two TAPs."""
        self._ports += 1
        bridge = self._bridges[lan.name]
        if impair == (NONE, NONE):
            far = lan.mac(Kind.ROUTER, 0xF000 + self._ports)
            own, other = stack.enter_context(
                kernel.veth(space, name, bridge.namespace, f"p{self._ports}", mtu=lan.mtu, macs=(mac, far))
            )
            own.set_offloads(False)
            other.set_offloads(False)
            stack.enter_context(kernel.membership(other, bridge))
        else:
            inside = stack.enter_context(kernel.tap(space, name, mac=self._random, mtu=lan.mtu, kernel_mac=mac))
            outside = stack.enter_context(kernel.bridged_tap(bridge, f"p{self._ports}", mac=self._random, mtu=lan.mtu))
            seed = f"{self._seed}/{lan.name}/{name}/{self._ports}"  # hosts of a LAN all name their interface alike
            stack.enter_context(_carried(inside, outside, impair, seed))
            own = kernel.Interface(space, name)
        bridge.until_operational()
        return own

    @asynccontextmanager
    async def _captured(self, lan: Lan, folder: Path) -> AsyncIterator[None]:
        path = folder / "wire" / f"{lan.name}.pcapng"
        async with dumpcap(self._bridges[lan.name], path) as capture:
            yield
            await capture.stop()
        if capture.dropped:
            raise ScenarioError(
                f"The capture of {lan.name} lost {capture.dropped} frames: give the machine less to do."
            )
        self.captures.append(CaptureFile(path, lan.name, offload_free=True, mtu=lan.mtu))

    @contextmanager
    def link(self, lan: Lan, mac: bytes) -> Iterator[Link]:
        """A TAP that is a port of the bridge."""
        self._ports += 1
        with kernel.bridged_tap(self._bridges[lan.name], f"p{self._ports}", mac=mac, mtu=lan.mtu) as link:
            yield link

    @contextmanager
    def observe(self, lan: Lan, observer: Observer) -> Iterator[None]:
        """At the bridge, through a packet socket."""
        bridge = self._bridges[lan.name]
        loop = asyncio.get_running_loop()
        with kernel.in_namespace(bridge.namespace):
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
        with made:
            made.bind((bridge.name, _ALL_PROTOCOLS))
            member = struct.pack("iHH8s", bridge.index, _PROMISCUOUS, 0, b"")
            made.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, member)
            made.setblocking(False)

            def read() -> None:
                with suppress(BlockingIOError):
                    while True:
                        observer(loop.time(), made.recv(1 << 16))

            loop.add_reader(made, read)
            try:
                yield
            finally:
                read()
                loop.remove_reader(made)

    @asynccontextmanager
    async def host(self, name: str, lan: Lan, address: str, impair: Impairments) -> AsyncIterator[Host]:
        """A kernel in a namespace of its own."""
        async with AsyncExitStack() as stack:
            space = stack.enter_context(kernel.namespace(name))
            kernel.be_quiet(space)
            port = await self._plug(stack, lan, space, "eth0", lan.next_mac(Kind.HOST), impair)
            stack.enter_context(kernel.address(port, f"{address}/64"))
            if self.router is not None:
                stack.enter_context(kernel.route(space, "::/0", via=lan.router))
            host = KernelHost(name, lan, address, space, port)
            try:
                yield host
            finally:
                await host.close()


@contextmanager
def _carried(inside: Link, outside: Link, impair: Impairments, seed: str) -> Iterator[None]:
    """Carry frames between two TAPs; `impair` is what happens to those that leave `inside`'s kernel, and to those it gets."""
    loop = asyncio.get_running_loop()
    path = ImpairedLink(outside, seed=seed, outgoing=impair[0], incoming=impair[1])

    def carry(source: Link, target: Link) -> Callable[[], None]:
        def pump() -> None:
            while (frame := source.receive()) is not None:
                target.send([frame])

        return pump

    inside.attach(loop, carry(inside, path))
    path.attach(loop, carry(path, inside))
    yield


class KernelRouter(RouterControl):
    """The router's namespace.  Its table of neighbours is the machine's, so refusals cannot be told apart and are not counted."""

    def __init__(self, space: kernel.Namespace, stack: AsyncExitStack) -> None:
        self.space = space
        self._stack = stack

    def neighbors(self) -> NeighborCount:
        """What its kernel holds."""

        def read(route: Any) -> list[str]:
            entries = route.get_neighbours(family=socket.AF_INET6)
            return [entry.get_attr("NDA_DST") for entry in entries if not entry["state"] & 0x40]  # NUD_NOARP: groups

        found = self.space.netlink(read, "read the neighbour cache")
        return NeighborCount(sum(not IPv6Address(each).is_link_local for each in found if each), 0)

    def route(self, prefix: str, via: str, lan: Lan) -> None:
        """A static route."""
        self._stack.enter_context(kernel.route(self.space, prefix, via=via, dev=kernel.Interface(self.space, lan.name)))


class KernelHost(Host):
    """A Linux kernel in a namespace; `space` is for programs that a script runs there."""

    def __init__(self, name: str, lan: Lan, address: str, space: kernel.Namespace, interface: kernel.Interface) -> None:
        super().__init__(name, lan, address)
        self.space = space
        self.interface = interface
        self._servers: list[asyncio.Server] = []

    def _socket(self) -> socket.socket:
        made = kernel.tcp_socket(self.space)
        made.setblocking(False)
        return made

    async def open(self, host: str, port: int, *, timeout: float = 10.0, source: int = 0) -> Streams:
        """Connect with the kernel's socket."""
        made = self._socket()
        try:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind(("::", source))
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(made, (host, port)), timeout)
        except BaseException:
            made.close()
            raise
        return await asyncio.open_connection(sock=made)

    async def serve(self, port: int, handler: Handler, *, cookies: bool = True) -> None:
        """Listen with the kernel's socket."""
        kernel.set_sysctl(self.space, "ipv4/tcp_syncookies", int(cookies))  # for IPv6 as well
        made = self._socket()
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("::", port))
        self._servers.append(await asyncio.start_server(handler, sock=made, backlog=256))

    async def ping(self, target: str, *, wait: float = 1.0) -> bool:
        """One echo request of the kernel."""
        return await ping(self.interface, target, wait=wait)

    async def close(self) -> None:
        """Stop listening."""
        for server in self._servers:
            server.close()
