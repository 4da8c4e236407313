"""The kernel's TCP as peer, over a bad path: what both agree on, that every byte arrives, and how connections end.

What was agreed is read from the kernel's TCP_INFO and counters, not from the stack.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest

from compat.kernel import Interface, Namespace, address, in_namespace, namespace, set_sysctl
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.link.impairment import ImpairedLink, Impairment
from tapstack.link.tun import open_tun
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.options import Ecn, PortMode, SocketOptions, TimeWait
from tapstack.types import address as packed

pytestmark = pytest.mark.real()

KERNEL, OWN, PORT = "2001:db8:7c5::1", "2001:db8:7c5::2", 5080
PATIENCE = 40.0
BAD = Impairment(loss=0.02, reorder=0.05, duplicate=0.01, corrupt=0.01, delay=0.003, reorder_delay=0.004)
TIMESTAMPS, SACK, WINDOW_SCALE, ECN = 1, 2, 4, 8
"""Bits of tcpi_options."""
DATA = Random(11).randbytes(250_000)


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
        loop, tcp, now = asyncio.get_running_loop(), self.driver.stack.tcp, self.driver.now()
        with self.kernel_socket() as first:
            if opener == "node":
                first.bind((KERNEL, PORT))
                first.listen()
                connection = tcp.connect(self.entry, packed(KERNEL), PORT, now, options)
                program = Program(self.driver, connection, data)
                self.driver.kick()
                accepted, _ = await asyncio.wait_for(loop.sock_accept(first), PATIENCE)
                await program.until(Signal.ESTABLISHED)
                return program, accepted
            listener = tcp.listen(options, now, PORT)
            listener.arm(self.entry, now, sessions=None)
            await asyncio.wait_for(loop.sock_connect(first, (OWN, PORT)), PATIENCE)
            async with asyncio.timeout(PATIENCE):
                while (taken := listener.accept()) is None:
                    await asyncio.sleep(0.005)
            return Program(self.driver, taken, data), socket.socket(fileno=first.detach())

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
async def site(path: Impairment | None = None, seed: int = 1, **settings: int) -> AsyncIterator[Site]:
    """A kernel with the given settings of its TCP, and a node behind `path`, both ways."""
    with namespace("tcp") as space:
        for name, value in settings.items():
            set_sysctl(space, f"ipv4/{name}", value)
        with in_namespace(space):
            tun = open_tun("peer")
        link = tun if path is None else ImpairedLink(tun, seed=seed, outgoing=path, incoming=path)
        stack = Stack(link.properties, os.urandom(32), HostConfig(solicit_routers=False, stable_addresses=False))
        driver = Driver(stack, link)
        try:
            with address(Interface(space, "peer"), f"{KERNEL}/64"):
                driver.start()
                stack.host.prefix_list.add_static(packed(OWN)[:8] + bytes(8), 64, autonomous=False, now=driver.now())
                yield Site(space, driver)
        finally:
            driver.close()


def options(**more: object) -> SocketOptions:
    return SocketOptions(mode=PortMode.AWARE, time_wait=TimeWait.SHARP, **more)  # type: ignore[arg-type]


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


def agreed(kernel: socket.socket) -> int:
    """tcpi_options of the kernel's socket."""
    return kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[5]


ALL = TIMESTAMPS | SACK | WINDOW_SCALE
CASES = [
    ("node", {}, {}, ALL),
    ("kernel", {}, {}, ALL),
    ("node", {"tcp_sack": 0}, {}, TIMESTAMPS | WINDOW_SCALE),
    ("kernel", {"tcp_timestamps": 0}, {}, SACK | WINDOW_SCALE),
    ("node", {"tcp_window_scaling": 0}, {"congestion": "newreno"}, TIMESTAMPS | SACK),
    ("kernel", {"tcp_ecn": 1}, {"ecn": Ecn.REQUEST, "congestion": "bbr"}, ALL | ECN),
    ("node", {"tcp_syncookies": 2}, {"ecn": Ecn.REQUEST}, ALL | ECN),
    ("kernel", {}, {"sack": False, "timestamps": False}, WINDOW_SCALE),
]


@pytest.mark.proves("ST-TCP-1", "ST-TCP-2", "ST-TCP-3", "ST-TCP-7")
@pytest.mark.parametrize(("opener", "settings", "own", "expected"), CASES)
def test_both_streams_arrive_equal_whatever_is_agreed(
    opener: str, settings: dict[str, int], own: dict[str, object], expected: int
) -> None:
    async def main() -> None:
        async with site(BAD, **settings) as made:
            program, kernel = await made.opened(opener, options(**own), DATA)
            with kernel:
                assert agreed(kernel) & ALL == expected & ALL
                asked = ECN if program.connection.ecn.usable else 0
                assert agreed(kernel) & ECN == asked
                # A SYN that the path lost is repeated without asking (RFC 3168 §6.1.1.1); which of them is answered is chance.
                assert (
                    asked == expected & ECN or program.connection.syn_retransmitted or made.counters()["TCPSynRetrans"]
                )
                arrived = await asyncio.wait_for(exchange(kernel, DATA[::-1]), PATIENCE)
                await asyncio.wait_for(program.ended.wait(), PATIENCE)
            assert arrived == DATA
            assert program.received == DATA[::-1]
            assert program.connection.error is None
            counters = made.counters()
            assert counters["OutRsts"] == 0
            assert counters["TCPSACKReneging"] == 0
            assert counters["EmbryonicRsts"] == 0

    asyncio.run(main())


@pytest.mark.proves("ST-TCP-10")
@pytest.mark.parametrize("stamps", [0, 1])
def test_a_kernel_takes_our_cookie(stamps: int) -> None:
    async def main() -> None:
        async with site(tcp_timestamps=stamps) as made:
            made.driver.stack.tcp.passive.limit = 0
            program, kernel = await made.opened("kernel", options(), DATA)
            with kernel:
                assert agreed(kernel) & ALL == (ALL if stamps else 0)
                assert await asyncio.wait_for(exchange(kernel, DATA), PATIENCE) == DATA
                await asyncio.wait_for(program.ended.wait(), PATIENCE)
            assert program.received == DATA
            assert made.driver.stack.counters.drops["tcp-cookie-sent"] >= 1  # type: ignore[index]

    asyncio.run(main())


@pytest.mark.proves("ST-TCP-11", "MUST-30", "MUST-62")
def test_urgent_data_both_ways() -> None:
    """The kernel takes the last byte of urgent data for the mark, as Berkeley's sockets always did."""

    async def main() -> None:
        async with site() as made:
            loop = asyncio.get_running_loop()
            program, kernel = await made.opened("node", options())
            with kernel:
                program.connection.write_urgent(b"now!")
                made.driver.kick()
                assert await asyncio.wait_for(loop.sock_recv(kernel, 100), PATIENCE) == b"now"
                assert kernel.recv(1, socket.MSG_OOB) == b"!"
                kernel.send(b"before")
                kernel.send(b"X", socket.MSG_OOB)
                await program.until(Signal.URGENT)
                async with asyncio.timeout(PATIENCE):
                    while program.received != b"beforeX":
                        await asyncio.sleep(0.005)

    asyncio.run(main())


@pytest.mark.proves("ST-TCP-11", "ST-TCP-8")
@pytest.mark.parametrize("who", ["node", "kernel"])
def test_an_abort_reaches_the_other(who: str) -> None:
    async def main() -> None:
        async with site() as made:
            loop = asyncio.get_running_loop()
            program, kernel = await made.opened("node", options())
            with kernel:
                if who == "kernel":
                    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    kernel.close()
                    await program.until(Signal.CLOSED)
                    assert isinstance(program.connection.error, ConnectionResetError)
                else:
                    program.connection.abort(made.driver.now())
                    made.driver.kick()
                    with pytest.raises(ConnectionResetError):
                        await asyncio.wait_for(loop.sock_recv(kernel, 1), PATIENCE)
            assert not len(made.driver.stack.tcp.demux)

    asyncio.run(main())


@pytest.mark.proves("ST-TCP-11")
def test_a_half_closed_connection_and_a_window_that_was_closed() -> None:
    async def main() -> None:
        async with site() as made:
            program, kernel = await made.opened("node", options(), b"request")
            with kernel:
                loop = asyncio.get_running_loop()
                assert await asyncio.wait_for(loop.sock_recv(kernel, 100), PATIENCE) == b"request"
                assert await asyncio.wait_for(loop.sock_recv(kernel, 100), PATIENCE) == b""
                assert program.connection.state.value in ("FIN-WAIT-1", "FIN-WAIT-2")
                connection, much = program.connection, DATA * 20
                connection.owner = None  # the program looks away
                sending = asyncio.ensure_future(loop.sock_sendall(kernel, much))
                async with asyncio.timeout(PATIENCE):
                    while connection.receiver.window() > 1428:
                        await asyncio.sleep(0.005)
                connection.owner = program.signalled
                program.signalled(Signal.READABLE)
                await asyncio.wait_for(sending, PATIENCE)
                kernel.shutdown(socket.SHUT_WR)
                await asyncio.wait_for(program.ended.wait(), PATIENCE)
            assert program.received == much

    asyncio.run(main())


@pytest.mark.proves("ST-TCP-11")
def test_a_kernel_whose_program_does_not_read_is_acknowledged_all_the_while() -> None:
    async def main() -> None:
        async with site() as made:
            program, kernel = await made.opened("node", options())
            with kernel:
                connection = program.connection
                connection.write(DATA * 40)
                made.driver.kick()
                async with asyncio.timeout(PATIENCE):
                    while not (connection.timers.persisting and connection.timers.persist_backoff):
                        await asyncio.sleep(0.005)
                before = made.counters()["TCPTimeouts"]
                loop = asyncio.get_running_loop()
                await asyncio.wait_for(loop.sock_sendall(kernel, DATA * 4), PATIENCE)
                async with asyncio.timeout(PATIENCE):
                    while len(program.received) < len(DATA) * 4:
                        await asyncio.sleep(0.005)
                assert connection.timers.persisting, "the window stayed closed"
                assert made.counters()["TCPTimeouts"] == before
            assert program.received == DATA * 4

    asyncio.run(main())
