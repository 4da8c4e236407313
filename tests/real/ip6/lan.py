"""One IPv6 host of ours on a LAN with a Linux kernel, for the tests of this folder.

kernel ─ veth ─ bridge ─ TAP ─ the host          prefix 2001:db8:6::/64, the kernel is ::1
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, TypeVar

from pyroute2 import IPRoute
from scapy.layers.inet6 import ICMPv6EchoRequest

from compat import kernel
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.host import Host
from tapstack.ipv6.prefixes import Prefix
from tapstack.stack import Stack
from tapstack.types import address, address_text
from tests.unit.unimux.lan import eventually

from .. import datagrams

PREFIX = "2001:db8:6::"
KERNEL = PREFIX + "1"
MAC = bytes.fromhex("020000000606")
KERNEL_MAC = bytes.fromhex("020000000601")
READY = 30.0
_ECHO_REPLY = bytes([129])

T = TypeVar("T")


class Lan:
    """The network of the picture above, running; what happens between two calls of `run` waits for the next one."""

    def __init__(
        self, runner: asyncio.Runner, legacy: kernel.Namespace, middle: kernel.Namespace, port: kernel.Interface
    ) -> None:
        self._runner = runner
        self.legacy = legacy
        self.middle = middle
        self.port = port
        """the kernel's interface on the LAN"""
        self.driver: Driver
        self.host: Host

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Let the network live until `main` is done."""
        return self._runner.run(main)

    @property
    def now(self) -> float:
        """The host's clock."""
        return self.driver.now()

    @property
    def prefix(self) -> Prefix:
        """The prefix of the LAN."""
        return next(prefix for prefix in self.host.prefixes if prefix.autonomous)

    @property
    def stable(self) -> str:
        """The host's stable address as text."""
        return next(address_text(e.address) for e in self.host.addresses if e.kind is AddressKind.STABLE)

    async def until(self, condition: Callable[[], bool], timeout: float = READY) -> None:
        """Wait for a condition of the host; TimeoutError after `timeout` seconds."""
        await eventually(condition, timeout)

    async def reserved(self, text: str) -> AddressEntry:
        """A reserved address after its DAD: UNCERTAIN, or gone."""
        entry = self.host.reserve(address(text), self.prefix, self.now)
        self.driver.kick()
        await self.until(lambda: entry.state != "TENTATIVE")
        return entry

    async def start(self, stack: AsyncExitStack, link: Any, config: HostConfig) -> None:
        """Bring the host up on its link, with the LAN's prefix configured by hand."""
        made = Stack(link.properties, b"the seed of this host is not secret", config)
        self.driver = Driver(made, link)
        self.host = made.host
        self.driver.start()
        stack.callback(self.driver.close)
        await self.until(lambda: self.host.link_local is not None)

    async def on_prefix(self) -> None:
        """Configure the prefix by hand and wait for the stable address."""
        self.host.prefix_list.add_static(address(PREFIX), 64, autonomous=True, now=self.now)
        self.driver.kick()
        await self.until(
            lambda: any(e.kind is AddressKind.STABLE and e.state == "PREFERRED" for e in self.host.addresses)
        )

    def set_kernel_mac(self, mac: bytes) -> None:
        """Give the kernel's interface another link-layer address."""
        index = self.port.index
        self.legacy.netlink(lambda route: route.link("set", index=index, address=mac.hex(":")), "set the address")

    def kernel_neighbours(self) -> dict[str, tuple[int, str]]:
        """The kernel's neighbour cache: address → (NUD state bits, link-layer address)."""

        def read(route: IPRoute) -> dict[str, tuple[int, str]]:
            rows = route.get_neighbours(socket.AF_INET6, ifindex=self.port.index)
            return {row.get_attr("NDA_DST"): (row["state"], row.get_attr("NDA_LLADDR")) for row in rows}

        return self.legacy.netlink(read, "read the neighbour cache")

    def kernel_addresses(self) -> dict[str, int]:
        """The kernel's addresses on the LAN with their flags."""

        def read(route: IPRoute) -> dict[str, int]:
            rows = route.get_addr(socket.AF_INET6, index=self.port.index)
            return {row.get_attr("IFA_ADDRESS"): row.get_attr("IFA_FLAGS") or row["flags"] for row in rows}

        return self.legacy.netlink(read, "read the addresses")


@contextmanager
def lan(*, offload: bool = False, snooping: bool = False, by_hand: bool = True, **config: Any) -> Iterator[Lan]:
    """Build the network; everything is gone afterwards.  by_hand: configure the prefix at the host without a router."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        legacy = stack.enter_context(kernel.namespace("ip6-legacy"))
        middle = stack.enter_context(kernel.namespace("ip6-lan"))
        if not snooping:  # a switch is no host, whose kernel would learn of each router in a flood of them
            kernel.set_sysctl(middle, "ipv6/conf/default/disable_ipv6", 1)
        bridge = stack.enter_context(kernel.bridge(middle, "br-ip6", multicast_snooping=snooping))
        macs = KERNEL_MAC, KERNEL_MAC[:5] + b"\x02"
        port, uplink = stack.enter_context(kernel.veth(legacy, "eth0", middle, "up", macs=macs))
        for each in (port, uplink):
            each.set_offloads(offload)  # without them a capture shows every checksum as it is sent
        stack.enter_context(kernel.membership(uplink, bridge))
        stack.enter_context(kernel.address(port, f"{KERNEL}/64"))
        link = stack.enter_context(kernel.bridged_tap(bridge, "tap-ip6", mac=MAC, offload=offload))
        made = Lan(runner, legacy, middle, port)

        async def begin() -> None:
            await made.start(stack, link, HostConfig(dad_initial_delay=0.1, **config))
            if by_hand:
                await made.on_prefix()

        try:
            runner.run(begin())
            yield made
        finally:
            runner.run(stack.aclose())


def icmp_socket(net: Lan) -> socket.socket:
    """A raw ICMPv6 socket of the kernel."""
    made = net.legacy.run(
        lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6), "open a socket"
    )
    made.setblocking(False)
    return made


async def echo(net: Lan, dst: str, data: bytes, timeout: float = 30.0) -> bytes | None:
    """Ping from the kernel; the data that came back, None for silence.

    An earlier request may have waited in the kernel for resolution; its answer is not this one's.  The time-out begins when
    the request has left (see `datagrams`).
    """
    loop = asyncio.get_running_loop()
    dst = address_text(address(dst))  # as the kernel writes it
    with icmp_socket(net) as ping:
        await datagrams.send(ping, bytes(ICMPv6EchoRequest(id=9, seq=1, data=data)), (dst, 0))
        try:
            async with asyncio.timeout(timeout):
                while True:
                    answer, sender = await loop.sock_recvfrom(ping, 65536)
                    if answer[:1] == _ECHO_REPLY and sender[0].partition("%")[0] == dst and answer[8:] == data:
                        return bytes(answer[8:])
        except TimeoutError:
            return None


@contextmanager
def one_processor() -> Iterator[None]:
    """Two processors may exchange the frames that they are given one after the other; one does not."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
