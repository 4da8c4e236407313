"""P-13: how fast the simulation is: packets that nodes take in per second of the wall clock.

Nodes stand on LANs of fifty, all in one virtual clock.  Every second node connects to its neighbour, from a one-time address of
its own, and what it sends is echoed: chunk after chunk, each of which both programs handle before the next one leaves, or as a
stream that fills the window.  Setting up is not measured.

A packet counts where a node takes it in: that is the stricter reading of "node-packets", by which what a node sends counts for
nothing until another one has processed it.  The switches' ports have offload, as those of virtual machines have, so TCP's
checksums are neither computed nor checked; segments are of ordinary size all the same, one packet each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import TypeAlias

from tapstack.clock import run_virtual
from tapstack.garbage import settled
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.link.memory import MemorySwitch
from tapstack.tcp.options import SocketOptions, TimeWait
from tapstack.types import address, address_text
from unimux.aio import open_connection, start_server
from unimux.node import Node, NodeConfig

from .figures import Figure, Goal, figure
from .setting import Setting

LAN = 50
_CHUNK = bytes(1000)
_CONFIG = NodeConfig(
    host=HostConfig(stable_addresses=False, solicit_routers=False, dad_transmits=0, dad_initial_delay=0.0),
    socket=SocketOptions(time_wait=TimeWait.SHARP),
)
OPTION = f"TIME-WAIT {_CONFIG.socket.time_wait}"
"""What rows say of the nodes' connections."""


Program: TypeAlias = Callable[[Node, bytes, int], Coroutine[None, None, None]]
"""What the calling node of a pair runs: (node, address of the other, chunks)."""


def simulate(nodes: int, chunks: int, *, stream: bool = False) -> tuple[int, float]:
    """Packets that nodes took in, and seconds of the wall clock, for so many chunks of 1,000 bytes per pair."""
    return run_virtual(_simulate(nodes, chunks, _stream if stream else _talk))


async def _simulate(count: int, chunks: int, speak: Program) -> tuple[int, float]:
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        while len(nodes) < count:
            switch = MemorySwitch(latency=0.0005)
            stack.callback(switch.close)
            for _ in range(min(LAN, count - len(nodes))):
                number = len(nodes) + 1
                link = switch.connect(b"\2\0" + number.to_bytes(4, "big"), offload=True)
                node = Node(link, _CONFIG, seed=number.to_bytes(32, "big"))
                nodes.append(await stack.enter_async_context(node))
        await asyncio.sleep(10)  # groups have been reported
        for index in range(0, len(nodes) - 1, 2):
            _configure(nodes[index], nodes[index + 1], index)
        await asyncio.sleep(10)  # pools are filled
        before = sum(node.stack.counters.frames_in for node in nodes)
        with settled():
            began = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for index in range(0, len(nodes) - 1, 2):
                    group.create_task(speak(nodes[index], _address(index), chunks))
            took = time.perf_counter() - began
        packets = sum(node.stack.counters.frames_in for node in nodes) - before
    return packets, took


def _address(index: int) -> bytes:
    """Where the callee of a pair is found."""
    return address("2001:db8:f::")[:8] + (index + 1).to_bytes(8, "big")


def _configure(caller: Node, callee: Node, index: int) -> None:
    """Addresses for a pair; the callee echoes."""
    target = _address(index)
    for node in (caller, callee):
        prefixes = node.stack.host.prefix_list
        prefixes.add_static(target[:8] + bytes(8), 64, autonomous=node is caller, now=node.now())
        node.pool.start(node.now())
        node.driver.kick()
    addresses = callee.stack.host.addresses
    addresses.add(target, AddressKind.STABLE, callee.now(), trigger=Trigger.ADD_WITHOUT_DAD)
    start_server(callee, _echo).bind(target)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):  # the run ends when the callers have what they want
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


async def _talk(caller: Node, target: bytes, chunks: int) -> None:
    reader, writer = await open_connection(caller, address_text(target), 80)
    for _ in range(chunks):
        writer.write(_CHUNK)
        await reader.readexactly(len(_CHUNK))
    writer.close()


async def _stream(caller: Node, target: bytes, chunks: int) -> None:
    reader, writer = await open_connection(caller, address_text(target), 80)

    async def send() -> None:
        for _ in range(chunks):
            writer.write(_CHUNK)
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        await reader.readexactly(chunks * len(_CHUNK))
    writer.close()


def rate_of(setting: Setting) -> list[Figure]:
    """P-13: with a thousand nodes."""
    nodes, chunks = setting.many(1000, 10), setting.many(100, 5)
    rates: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(setting.repeats):
        for stream, values in rates.items():
            packets, took = simulate(nodes, chunks, stream=stream)
            values.append(packets / took)
    what = f"simulated packets per second of the wall clock, {nodes:,} nodes, pairs that "
    goal = Goal(at_least=100_000)
    return [
        figure("P-13", f"{what}stream, {OPTION}", "1/s", rates[True], goal=goal),
        figure("P-13", f"{what}answer each other, {OPTION}", "1/s", rates[False], goal=goal),
    ]
