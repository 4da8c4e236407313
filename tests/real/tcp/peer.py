"""A kernel and a node on a TUN of it: what the tests with a kernel as TCP's peer have in common.

    async with site(artefacts) as made:
        program, kernel = await made.opened("node", options(), data)

`said` reads what dumpcap saw at the kernel's interface meanwhile, with dpkt.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import dpkt

from compat.kernel import Interface, Namespace, address, in_namespace, namespace, set_sysctl
from scenarios.witness.frames import Checksum
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import Link
from tapstack.link.tun import open_tun
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address as packed
from tests.plugins import taps

from ..um import judge
from ..wire import capturing, frames

KERNEL, OWN, PORT = "2001:db8:7c5::1", "2001:db8:7c5::2", 5080
PATIENCE = 40.0
CAPTURE = "peer.pcapng"
WHOLE, HEADERS = 262_144, 128
"""Bytes kept of each packet."""
FIN, SYN, RST, ACK, URG, ECE, CWR = 1, 2, 4, 16, 32, 64, 128
_OPTIONS = SocketOptions(mode=PortMode.AWARE, time_wait=TimeWait.SHARP)


@dataclass
class Program:
    """What runs on the node's connection: writes `data` and ends the stream, keeps what comes."""

    driver: Driver
    connection: Connection
    data: bytes
    received: bytearray = field(default_factory=bytearray)
    news: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.connection.owner = self.signalled
        if self.connection.state.value == "ESTABLISHED":
            self.signalled(Signal.ESTABLISHED | Signal.READABLE)

    def signalled(self, bits: int) -> None:
        self.news |= bits
        if bits & Signal.ESTABLISHED and self.data:
            self.connection.write(self.data)
            self.connection.shutdown(self.driver.now())
        if bits & Signal.READABLE:
            self.received += b"".join(map(bytes, self.connection.read()))
        if bits & (Signal.END_OF_STREAM | Signal.CLOSED):
            self.ended.set()
        self.driver.kick()

    async def until(self, bits: int) -> None:
        """Wait until it has been told one of these."""
        async with asyncio.timeout(PATIENCE):
            while not self.news & bits:
                await asyncio.sleep(0.005)


class Site:
    """A node on a TUN of a kernel."""

    def __init__(self, space: Namespace, driver: Driver) -> None:
        self.space = space
        self.driver = driver
        self.entry = driver.stack.host.addresses.add(
            packed(OWN), AddressKind.STABLE, driver.now(), trigger=Trigger.ADD_WITHOUT_DAD
        )

    @contextmanager
    def kernel_socket(self) -> Iterator[socket.socket]:
        """A socket of the kernel."""
        with in_namespace(self.space):
            made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.setblocking(False)
        with made:
            yield made

    async def opened(self, opener: str, options: SocketOptions, data: bytes = b"") -> tuple[Program, socket.socket]:
        """A connection, begun by `opener`: the node's program and the kernel's socket."""
        if opener == "kernel":
            taken, kernel = await self.called(self.listening(options))
            return Program(self.driver, taken, data), kernel
        with self.kernel_socket() as first:
            first.bind((KERNEL, PORT))
            first.listen()
            connection = self.driver.stack.tcp.connect(self.entry, packed(KERNEL), PORT, self.driver.now(), options)
            program = Program(self.driver, connection, data)
            self.driver.kick()
            accepted, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(first), PATIENCE)
            await program.until(Signal.ESTABLISHED)
            return program, accepted

    def listening(self, options: SocketOptions) -> Listener:
        """A listener of the node at its address."""
        now = self.driver.now()
        listener = self.driver.stack.tcp.listen(options, now, PORT)
        listener.arm(self.entry, now, sessions=None)
        return listener

    async def called(self, listener: Listener, port: int = 0) -> tuple[Connection, socket.socket]:
        """The node's connection and the kernel's socket after a call of the kernel; port: the kernel's, 0 for any."""
        with self.kernel_socket() as made:
            if port:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                made.bind((KERNEL, port))
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(made, (OWN, PORT)), PATIENCE)
            async with asyncio.timeout(PATIENCE):
                while (taken := listener.accept()) is None:
                    await asyncio.sleep(0.005)
            return taken, socket.socket(fileno=made.detach())

    def counters(self) -> dict[str, int]:
        """The kernel's TcpExt counters and those of its TCP."""
        text = self.space.run(lambda: Path("/proc/thread-self/net/netstat").read_text(), "read TCP's counters")
        text += self.space.run(lambda: Path("/proc/thread-self/net/snmp").read_text(), "read TCP's counters")
        found: dict[str, int] = {}
        lines = [line.split() for line in text.splitlines() if line.startswith(("TcpExt:", "Tcp:"))]
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            found |= {name: int(value) for name, value in zip(names[1:], values[1:], strict=True)}
        return found


@asynccontextmanager
async def site(
    artefacts: Path, path: Callable[[Link], Link] | None = None, snaplen: int = WHOLE, **settings: int
) -> AsyncIterator[Site]:
    """A kernel with the given settings of its TCP, captured, and a node behind what `path` makes of the link."""
    with namespace("tcp") as space:
        for name, value in settings.items():
            set_sysctl(space, f"ipv4/{name}", value)
        with in_namespace(space):
            tun = open_tun("peer")
        if path is not None:
            taps.disturbs()
        link = tun if path is None else path(tun)
        stack = Stack(link.properties, os.urandom(32), HostConfig(solicit_routers=False, stable_addresses=False))
        driver = Driver(stack, link)
        try:
            with address(Interface(space, "peer"), f"{KERNEL}/64"):
                driver.start()
                stack.host.prefix_list.add_static(packed(OWN)[:8] + bytes(8), 64, autonomous=False, now=driver.now())
                async with capturing(Interface(space, "peer"), artefacts / CAPTURE, snaplen=snaplen):
                    yield Site(space, driver)
        finally:
            driver.close()


def options(**more: Any) -> SocketOptions:
    return replace(_OPTIONS, **more)


async def exchange(kernel: socket.socket, data: bytes) -> bytes:
    """The kernel's program: sends `data` and ends its stream, reads until the other's end."""
    loop = asyncio.get_running_loop()

    async def send() -> None:
        await loop.sock_sendall(kernel, data)
        kernel.shutdown(socket.SHUT_WR)

    sending = asyncio.ensure_future(send())
    arrived = bytearray()
    while piece := await loop.sock_recv(kernel, 1 << 16):
        arrived += piece
    await sending
    return bytes(arrived)


class Packet(NamedTuple):
    """One TCP segment as dpkt reads it; `node`: whether the node sent it; `time`: when the interface had it, in unix seconds."""

    node: bool
    tcp: Any
    options: dict[int, bytes]
    length: int
    """of its data, also where the capture cut it"""
    time: float
    sound: bool
    """Whether its checksum is right, or cannot be told of a packet that the capture cut: the kernel takes no other."""


def captured_segments(artefacts: Path) -> list[Packet]:
    """The segments at the kernel's interface in order."""
    path = artefacts / CAPTURE
    sound = {frame.number for frame in frames(path) if frame.checksum in (Checksum.GOOD, Checksum.CUT)}
    return [
        Packet(
            packet.src == packed(OWN),
            packet.data,
            dict(dpkt.tcp.parse_opts(packet.data.opts)),
            packet.plen - packet.data.off * 4,
            when,
            number in sound,
        )
        for number, when, packet in judge.frames(path)
        if isinstance(packet.data, dpkt.tcp.TCP)
    ]


def said(artefacts: Path) -> list[Packet]:
    """The same without those that the path spoilt."""
    return [each for each in captured_segments(artefacts) if each.sound]
