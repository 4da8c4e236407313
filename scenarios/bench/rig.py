"""The network of the benchmarks: a kernel that is the peer, the node on a TAP of it, a twin kernel for the baseline.

        ┌───────────── peer ─────────────┐
    TAP ┤ node   ADDRESS   VETH_ADDRESS  ├─────────── twin
        └────────────────────────────────┘  a veth pair, for kernel ↔ kernel

Two prefixes lead to the node: DEDICATED is routed to it, ON_LINK is shared with the peer by neighbour discovery.  Both kernels
run reno: other controllers pace, and hide the limit.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from random import SystemRandom
from typing import Any

from compat import kernel, routed
from compat.buffers import BUDGET, frugal
from compat.programs.errors import ProgramFailed
from compat.programs.process import complete_in, is_bound, run_in
from compat.socks.command import serve_socks
from compat.socks.settings import SocksLimits
from tapstack.garbage import settled
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address, address_text
from unimux.das import ChosenAddress
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

ADDRESS = "2001:db8:b0::1"
ON_LINK = "2001:db8:b0::"
DEDICATED = "2001:db8:b1::"
FIXED = "2001:db8:b1::f"
VETH_ADDRESS = "2001:db8:b2::1"
TWIN_ADDRESS = "2001:db8:b2::2"
KERNEL_END = routed.KERNEL_END
PORT = 5001
WAIT = 20.0
_PEER = Path(__file__).with_name("peer.py")


class Helper:
    """A running peer program."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self._said = bytearray()

    async def line(self, timeout: float = 120.0) -> dict[str, Any]:
        """The next thing it says."""
        try:
            async with asyncio.timeout(timeout):
                text = await self._read_line()
        except TimeoutError:
            raise ProgramFailed(f"a benchmark's peer said nothing for {timeout:g} s.") from None
        facts = json.loads(text)
        assert isinstance(facts, dict)
        return facts

    async def _read_line(self) -> bytes:
        # A line may hold the times of many connections, more than a StreamReader takes for one.
        stdout, stderr = self.process.stdout, self.process.stderr
        assert stdout is not None and stderr is not None
        while (end := self._said.find(b"\n")) < 0:
            more = await stdout.read(1 << 16)
            if not more:
                words = (await stderr.read()).decode(errors="replace").strip()
                raise ProgramFailed(f"a benchmark's peer ended early: {words[-300:] or 'it said nothing'}")
            self._said += more
        line = bytes(self._said[:end])
        del self._said[: end + 1]
        return line

    async def cpu(self) -> float:
        """The processor time of a server until now, in seconds."""
        self.tell(b"?")
        return float((await self.line())["cpu"])

    def tell(self, data: bytes) -> None:
        """Write to its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def finish(self) -> None:
        """End its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.close()


@dataclass(frozen=True, slots=True)
class Rig:
    """The two kernels, with a cable between them."""

    peer: kernel.Namespace
    twin: kernel.Namespace
    ports: Iterator[int] = field(default_factory=lambda: count(PORT + 1))
    """A port for each series of connections between the kernels: TIME-WAIT keeps the client's 28,000 ports towards one for a
    minute, and where most are taken looking for a free one takes longer than connecting."""

    @asynccontextmanager
    async def helper(self, where: kernel.Namespace, role: str, host: str, *more: object) -> AsyncIterator[Helper]:
        """A peer program (peer.py) inside a namespace; servers are ready when the block begins."""
        argv = [sys.executable, "-I", "-S", str(_PEER), role, host, *map(str, more)]
        async with run_in(where, argv, stdin=PIPE, stdout=PIPE, stderr=PIPE, grace=0.2) as process:
            helper = Helper(process)
            if role in ("sink", "source", "echo", "web", "visit"):
                await helper.line()
            yield helper

    async def ask(self, where: kernel.Namespace, role: str, host: str, *more: object) -> dict[str, Any]:
        """What a peer program that is a client found out."""
        async with self.helper(where, role, host, *more) as helper:
            return await helper.line()

    async def ask_all(self, where: kernel.Namespace, role: str, host: str, *more: object) -> dict[str, Any]:
        """As `ask`; raises `ProgramFailed` where the client did not come to the end of all that it was to do."""
        facts = await self.ask(where, role, host, *more)
        if facts["failed"]:
            of = facts["done"] + facts["failed"]
            raise ProgramFailed(
                f"{facts['failed']} of {of} {role} failed: {facts['why']}; the figure would mean nothing."
            )
        return facts

    @contextmanager
    def node_end(self) -> Iterator[kernel.Interface]:
        """The peer's end of a TAP that stands, with its addresses while the block runs."""
        end = kernel.Interface(self.peer, "node")
        with ExitStack() as stack:
            for text in (KERNEL_END, ADDRESS):
                stack.enter_context(kernel.address(end, f"{text}/64"))
            yield end

    @asynccontextmanager
    async def proxy(self, node: Node, limits: SocksLimits | None = None) -> AsyncIterator[int]:
        """The port of a SOCKS front end of the node, on the twin's loopback."""
        sock = kernel.tcp_socket(self.twin)
        sock.bind(("::1", 0))
        port: int = sock.getsockname()[1]
        async with await serve_socks(node, sock=sock, limits=limits):
            yield port

    @asynccontextmanager
    async def node(
        self,
        *,
        offload: bool = True,
        fixed: bool = False,
        pool: PoolConfig | None = None,
        time_wait: TimeWait = TimeWait.SHORT,
        front_end: bool = False,
    ) -> AsyncIterator[Node]:
        """A node on a TAP of the peer, ready to connect.

        fixed: every connection from one ordinary address, by four-value keys.  pool: addresses of the on-link prefix;
        without, they come from the dedicated one.
        front_end: with the small buffers that front ends begin with.
        """
        config = node_config(fixed=fixed, pool=pool, time_wait=time_wait)
        if front_end:
            config = replace(config, socket=frugal(config.socket), buffer_budget=BUDGET)
        with ExitStack() as stack:
            link = stack.enter_context(kernel.tap(self.peer, "node", mac=SystemRandom(), offload=offload))
            end = stack.enter_context(self.node_end())
            async with Node(link, config) as node:
                await node.until(lambda: node.stack.host.link_local is not None, WAIT)
                local = node.stack.host.link_local
                assert local is not None
                stack.enter_context(kernel.route(self.peer, f"{DEDICATED}/64", via=address_text(local), dev=end))
                configure(node, DEDICATED if pool is None else None, fixed=fixed)
                with settled():  # as the commands do
                    yield node

    async def iperf(
        self, *, seconds: float, amount: int | None = None, reverse: bool = False, parallel: int = 1
    ) -> float:
        """iperf3 from the twin to the peer over the cable, Gbit/s at the receiver.

        seconds: how long it sends, or, with an `amount` of bytes for all connections together, the longest that this may take.
        """
        server = ["iperf3", "--server", "--one-off", "--bind", VETH_ADDRESS]
        until = ["--time", str(max(1, round(seconds)))] if amount is None else ["--bytes", str(amount)]
        client = ["iperf3", "--client", VETH_ADDRESS, "--json", "--parallel", str(parallel), *until]
        async with run_in(self.peer, server) as process:
            for _ in range(500):
                if is_bound(process, "tcp6", 5201):
                    break
                await asyncio.sleep(0.01)
            done = await complete_in(self.twin, [*client, "--reverse"] if reverse else client, timeout=seconds + 30)
        if done.code:
            raise ProgramFailed(f"iperf3 ended with status {done.code}: {done.stdout.decode()[-200:]}")
        return float(json.loads(done.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e9


def node_config(
    *, fixed: bool = False, pool: PoolConfig | None = None, time_wait: TimeWait = TimeWait.SHORT
) -> NodeConfig:
    """Settings of a node of the benchmarks; the parameters are those of `Rig.node`."""
    mode = PortMode.AWARE if fixed else PortMode.L1
    return NodeConfig(
        host=HostConfig(
            stable_addresses=False,
            solicit_routers=False,
            dad_initial_delay=0.0,
            dad_transmits=1 if pool else 0,
            dad_pace=0.0005,
            dad_concurrent=256,
        ),
        pool=pool or PoolConfig(),
        socket=SocketOptions(mode=mode, time_wait=time_wait),
    )


def configure(node: Node, dedicated: str | None, *, fixed: bool = False) -> None:
    """Tell a node what there is on the peer's TAP, and begin its pool.

    dedicated: the prefix of one-time addresses that is routed to it; None where they come from the on-link one.  fixed: as of
    `Rig.node`.
    """
    host, now = node.stack.host, node.now()
    host.prefix_list.add_static(address(ON_LINK), 64, autonomous=dedicated is None, now=now)
    host.routers.add_static(address(KERNEL_END), now)
    if dedicated is not None:
        host.prefix_list.add_dedicated(address(dedicated), 64)
    if fixed:
        host.addresses.add(
            address(FIXED), AddressKind.STABLE, now, trigger=Trigger.ADD_WITHOUT_DAD, per_address_nd=False
        )
        node.das = ChosenAddress(host.addresses, address(FIXED))
    node.pool.start(now)
    node.driver.kick()


@contextmanager
def rig(*, offload: bool = True) -> Iterator[Rig]:
    """Build the kernels; raises what the machine lacks.  offload: of the cable between them."""
    kernel.capabilities().require()
    kernel.clean_leftovers()
    with ExitStack() as stack:
        peer, twin = (stack.enter_context(kernel.namespace(role)) for role in ("peer", "twin"))
        for space in (peer, twin):
            kernel.be_quiet(space)
            kernel.set_sysctl(space, "ipv4/tcp_congestion_control", "reno")
        cable = stack.enter_context(kernel.veth(peer, "twin", twin, "peer"))
        if not offload:
            for end in cable:
                end.set_offloads(False)
        stack.enter_context(kernel.address(cable[0], f"{VETH_ADDRESS}/64"))
        stack.enter_context(kernel.address(cable[1], f"{TWIN_ADDRESS}/64"))
        yield Rig(peer, twin)


def rss() -> int:
    """The memory of this process that is in RAM, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
