"""P-15: loss recovery: completion times of the node's TCP and of a kernel's, as senders on equal bad paths at the same time.

        node (in this process) ────────┐
                                       impairment ── TUN ┤ kernel that receives
        kernel that sends ├ TUN ───────┘

Only the sender differs: both send the same bytes with CUBIC to the same kernel, over paths of equal rate, queue, delay, loss
and seed, in whole frames of 1500 bytes.  A time runs from the end of the sender's handshake to the end of the stream at the
receiver's program.

How often something is lost is chance, so a cell of the matrix needs many transfers: where they mostly wait, several run side
by side, as many of the one sender as of the other.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from itertools import count, product
from pathlib import Path

from compat import kernel
from compat.programs.errors import ProgramFailed
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import Link
from tapstack.link.impairment import ImpairedLink, Impairment
from tapstack.link.tun import TunLink, open_tun
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address
from tapstack.wire.tcp import PROTOCOL

from .figures import Figure, Goal, figure
from .setting import Setting

LOSSES = (0.0, 0.01, 0.02, 0.05)
DELAYS = (0.0, 0.01, 0.05, 0.1)
"""Seconds each way."""
REORDERINGS = (0.0, 0.05)
RATE = 40e6
QUEUE = 250_000
BYTES = 1_000_000
SIDE_BY_SIDE = 4
BUDGET = 1.5e6
"""Bytes per second that all transfers of one turn may be expected to move: more, and they take the processor from each other."""
PATIENCE = 300.0
WITHIN = Goal(at_most=1.1, of_ratio=True)
_PORT = 5001
_COUNTERS = ("TCPTimeouts", "TCPLossProbes", "TCPLostRetransmit")


@dataclass(frozen=True, slots=True)
class Cell:
    """One place of the matrix: probabilities per frame, seconds each way."""

    loss: float
    delay: float
    reorder: float

    def __str__(self) -> str:
        return f"loss {self.loss:.0%}, {self.delay * 1000:g} ms each way, reordering {self.reorder:.0%}"

    @property
    def at_once(self) -> int:
        """How many pairs of transfers run side by side."""
        if not self.loss or not self.delay:
            return 1
        expected = 2 * 1428 / (2 * self.delay) * (1.5 / self.loss) ** 0.5  # of a pair: RFC 5348's formula, simplified
        return max(1, min(SIDE_BY_SIDE, int(BUDGET / expected)))

    @property
    def there(self) -> Impairment:
        """The path of the data; a held-back frame is overtaken by those of 10 ms."""
        return Impairment(loss=self.loss, delay=self.delay, reorder=self.reorder, rate=RATE, queue_limit=QUEUE)

    @property
    def back(self) -> Impairment:
        """The path of the acknowledgements."""
        return Impairment(delay=self.delay)


@dataclass(slots=True)
class Repairs:
    """What the two senders did in one cell, to explain the times."""

    node_again: int = 0
    node_timeouts: int = 0
    node_probes: int = 0
    kernel_again: int = 0
    kernel_timeouts: int = 0
    kernel_probes: int = 0

    def __str__(self) -> str:
        return (
            f"sent again {self.node_again} (kernel {self.kernel_again}), time-outs {self.node_timeouts} "
            f"({self.kernel_timeouts}), probes {self.node_probes} ({self.kernel_probes})"
        )


@dataclass(frozen=True, slots=True)
class Kernels:
    """The kernel that sends and the one that receives."""

    sender: kernel.Namespace
    receiver: kernel.Namespace
    lanes: Iterator[int]
    """numbers that were not used yet: a kernel keeps the sockets of a lane that has gone for a while"""

    def counters(self) -> dict[str, int]:
        """The sending kernel's counts of what its TCPs did to repair losses."""
        lines = self.sender.run(lambda: Path("/proc/thread-self/net/netstat").read_text(), "read TCP's counters")
        names, values = (line.split()[1:] for line in lines.splitlines() if line.startswith("TcpExt:"))
        found = dict(zip(names, map(int, values), strict=True))
        return {name: found.get(name, 0) for name in _COUNTERS}


@contextmanager
def kernels() -> Iterator[Kernels]:
    """Two kernels that remember nothing from one connection to the next."""
    kernel.capabilities().require()
    kernel.clean_leftovers()
    with ExitStack() as stack:
        sender, receiver = (stack.enter_context(kernel.namespace(role)) for role in ("sender", "receiver"))
        for space in (sender, receiver):
            kernel.set_sysctl(space, "ipv4/tcp_no_metrics_save", 1)
        yield Kernels(sender, receiver, count(1))


class Lane:
    """The path of one transfer: a TUN of the receiving kernel behind the impairment; addresses of its own."""

    def __init__(self, net: Kernels, cell: Cell, seed: int, stack: ExitStack) -> None:
        number = next(net.lanes)
        self.name = f"lane{number}"
        self.near, self.far = (f"2001:db8:b5:{number:x}::{end}" for end in (2, 1))
        tun = _tun(net.receiver, self.name, f"{self.far}/64", stack)
        self.link: Link = ImpairedLink(tun, seed=seed, outgoing=cell.there, incoming=cell.back)
        stack.callback(self.link.close)
        self.listener = stack.enter_context(kernel.tcp_socket(net.receiver))
        self.listener.bind((self.far, _PORT))
        self.listener.listen()
        self.listener.setblocking(False)

    async def received(self) -> float:
        """When the receiver's program has seen the end of the stream, on the loop's clock."""
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(self.listener)
        buffer, total = bytearray(1 << 16), 0
        with connection:
            while count := await loop.sock_recv_into(connection, buffer):
                total += count
            ended = loop.time()
        if total != BYTES:
            raise ProgramFailed(f"of a transfer of {BYTES} bytes {total} arrived.")
        return ended


def _tun(where: kernel.Namespace, name: str, cidr: str, stack: ExitStack) -> TunLink:
    """A TUN whose kernel's end has an address; closed with `stack`."""
    with kernel.in_namespace(where):
        link = open_tun(name)
    stack.callback(link.close)
    stack.enter_context(kernel.address(kernel.Interface(where, name), cidr))
    return link


# -- the two senders -------------------------------------------------------------------------------------


class KernelSender:
    """A kernel's socket; what it says goes through a second TUN and this process to the lane's path."""

    def __init__(self, net: Kernels, lane: Lane, stack: ExitStack) -> None:
        self._lane = lane
        self._tun = _tun(net.sender, lane.name, f"{lane.near}/64", stack)
        self._socket = stack.enter_context(kernel.tcp_socket(net.sender))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
        self._socket.setblocking(False)

    async def transfer(self, repairs: Repairs) -> float:
        """Seconds from established to the end of the stream."""
        loop = asyncio.get_running_loop()
        path = self._lane.link
        self._tun.attach(loop, lambda: _pass_on(self._tun, path))
        path.attach(loop, lambda: _pass_on(path, self._tun))
        received = asyncio.ensure_future(self._lane.received())
        await loop.sock_connect(self._socket, (self._lane.far, _PORT))
        began = loop.time()
        await loop.sock_sendall(self._socket, bytes(BYTES))
        self._socket.shutdown(socket.SHUT_WR)
        ended = await asyncio.wait_for(received, PATIENCE)
        await loop.sock_recv(
            self._socket, 1
        )  # the receiver's end: a socket without a path would time out again and again
        repairs.kernel_again += _total_retransmissions(self._socket)
        return ended - began


def _pass_on(source: Link, target: Link) -> None:
    """Carry waiting frames from one link to another; TCP only, since a kernel says more than we want to measure."""
    while (frame := source.receive()) is not None:
        if frame[6] == PROTOCOL:
            target.send([frame])


def _total_retransmissions(connection: socket.socket) -> int:
    """tcpi_total_retrans, the last of 25 words of 32 bits (behind 8 bytes) of the TCP_INFO that every kernel has."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[100:104], "little")


class NodeSender:
    """A stack of ours whose link is the lane's path."""

    def __init__(self, lane: Lane, options: SocketOptions) -> None:
        self._lane = lane
        self._options = options
        self._established = asyncio.Event()
        self._began = 0.0

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        link = self._lane.link
        config = HostConfig(solicit_routers=False, stable_addresses=False)
        driver = Driver(Stack(link.properties, os.urandom(32), config), link)
        driver.start()
        try:
            host, now, own = driver.stack.host, driver.now(), address(self._lane.near)
            host.prefix_list.add_static(own[:8] + bytes(8), 64, autonomous=False, now=now)
            entry = host.addresses.add(own, AddressKind.STABLE, now, trigger=Trigger.ADD_WITHOUT_DAD)
            connection = driver.stack.tcp.connect(entry, address(self._lane.far), _PORT, now, self._options)
            connection.owner = self._signalled
            driver.kick()
            await asyncio.wait_for(self._established.wait(), PATIENCE)
            connection.write(bytes(BYTES))
            connection.shutdown(driver.now())
            driver.kick()
            yield connection
        finally:
            driver.close()

    def _signalled(self, bits: int) -> None:
        if bits & Signal.ESTABLISHED:
            self._began = asyncio.get_running_loop().time()
            self._established.set()

    async def transfer(self, repairs: Repairs) -> float:
        """Seconds from established to the end of the stream."""
        received = asyncio.ensure_future(self._lane.received())
        async with self._connection() as connection:
            ended = await asyncio.wait_for(received, PATIENCE)
            repairs.node_again += connection.sender.retransmissions
            repairs.node_timeouts += connection.timers.timeouts
            repairs.node_probes += connection.sender.recovery.probes
        return ended - self._began


# -- the matrix ------------------------------------------------------------------------------------------


OPTIONS = SocketOptions(mode=PortMode.AWARE, time_wait=TimeWait.SHARP, congestion="cubic")


async def _side_by_side(net: Kernels, cell: Cell, seeds: range, repairs: Repairs) -> tuple[list[float], list[float]]:
    """One transfer of each sender for each seed, all at once: times of the node and of the kernel."""
    with ExitStack() as stack:
        lanes = [Lane(net, cell, seed, stack) for seed in seeds for _ in range(2)]
        senders = [
            NodeSender(lane, OPTIONS) if n % 2 == 0 else KernelSender(net, lane, stack) for n, lane in enumerate(lanes)
        ]
        before = net.counters()
        times = await asyncio.gather(*(sender.transfer(repairs) for sender in senders))
        after = net.counters()
        repairs.kernel_timeouts += after["TCPTimeouts"] - before["TCPTimeouts"]
        repairs.kernel_probes += after["TCPLossProbes"] - before["TCPLossProbes"]
    return times[::2], times[1::2]


async def measure(
    net: Kernels, cell: Cell, repeats: int, repairs: Repairs, at_once: int | None = None
) -> tuple[list[float], list[float]]:
    """Completion times of the node and of the kernel in one cell."""
    node: list[float] = []
    kernels_: list[float] = []
    width = at_once or cell.at_once
    for turn in range(repeats):
        ours, theirs = await _side_by_side(net, cell, range(turn * width, (turn + 1) * width), repairs)
        node += ours
        kernels_ += theirs
    return node, kernels_


def matrix(smoke: bool) -> list[Cell]:
    """The cells, easy ones first."""
    if smoke:
        return [Cell(0.01, 0.0, 0.05), Cell(0.02, 0.01, 0.0)]
    return [Cell(*values) for values in product(LOSSES, DELAYS, REORDERINGS)]


def loss_recovery(setting: Setting) -> list[Figure]:
    """P-15: time to send a megabyte over bad paths, node and kernel side by side."""
    figures, option = [], f"TIME-WAIT {OPTIONS.time_wait}"
    with kernels() as net:
        for cell in matrix(setting.smoke):
            repairs = Repairs()
            times = setting.run(measure(net, cell, setting.repeats, repairs, 1 if setting.smoke else None))
            row = figure("P-15", f"{cell}, {option}; baseline a kernel that sends", "s", *times, WITHIN)
            setting.say(f"  {cell}: {row.value:g} s, kernel {row.baseline:g} s, ratio {row.ratio:.2f}; {repairs}")
            figures.append(row)
    ratios = [row.ratio for row in figures if row.ratio]
    mean = f"geometric mean of the ratios, node to kernel, over the matrix, {option}"
    return [
        *figures,
        figure("P-15", mean, "× the kernel's time", [statistics.geometric_mean(ratios)], (), Goal(at_most=1.1)),
    ]
