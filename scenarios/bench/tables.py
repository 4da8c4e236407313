"""P-8 and P-9: what a look-up costs among many PCBs, and what a connection, a reserved address and a TIME-WAIT record hold."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable
from random import Random
from typing import Any, cast

from tapstack.clock import run_virtual
from tapstack.ipv6.addresses import AddressState
from tapstack.ipv6.config import HostConfig
from tapstack.link.memory import MemoryWire
from tapstack.tcp.demux import Demux, key_for
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

from .figures import Figure, Goal, figure
from .responder import Lone
from .setting import Setting

_SAMPLE = 10_000


class _Entry:
    """Stands for a PCB in a table: the four values that make its key."""

    __slots__ = ("local", "local_port", "mode", "remote", "remote_port")

    def __init__(self, random: Random, mode: PortMode) -> None:
        self.local = random.randbytes(16)
        self.remote = random.randbytes(16)
        self.local_port = random.randrange(1, 65536)
        self.remote_port = random.randrange(1, 65536)
        self.mode = mode


def lookups(setting: Setting) -> list[Figure]:
    """P-8: demultiplexing with 1 … 10⁶ PCBs, in each mode."""
    sizes = (1, 10) if setting.smoke else (1, 1_000, 100_000, 1_000_000)
    figures = []
    for mode in PortMode:
        setting.say(f"P-8: {mode}")
        base: list[float] = []
        for size in sizes:
            find = _table(mode, size)
            values = [find() for _ in range(setting.repeats)]
            base = base or values
            goal = Goal(at_most=1.5, of_ratio=True) if size > 1 else None
            baselines = base if size > 1 else ()
            figures.append(figure("P-8", _what(mode, size), "ns", values, baselines, goal))
            del find
            gc.collect()
    return figures


def _what(mode: PortMode, size: int) -> str:
    return f"look-up of a packet's PCB among {size:,}, {mode}" + ("; baseline one PCB" if size > 1 else "")


def _table(mode: PortMode, size: int) -> Callable[[], float]:
    """A function that measures nanoseconds per look-up in a table of so many PCBs, over a sample of them in random order."""
    random = Random(size)
    demux = Demux()
    packets: list[tuple[bytes, bytes, bytes]] = []
    gc.disable()  # a million entries that all stay: nothing to collect
    try:
        for number in range(size):
            entry = _Entry(random, mode)
            demux.add(key_for(mode, entry, calling=False), cast(Any, entry))
            if number < _SAMPLE or random.random() < _SAMPLE / size:
                packets.append(
                    (
                        entry.remote + entry.local,
                        entry.remote_port.to_bytes(2, "big"),
                        entry.local_port.to_bytes(2, "big"),
                    )
                )
    finally:
        gc.enable()
    sample = [random.choice(packets) for _ in range(_SAMPLE)]

    def measure() -> float:
        find = demux.find
        began = time.perf_counter()
        for pair, source, destination in sample:
            find(pair, source, destination)
        return (time.perf_counter() - began) / _SAMPLE * 1e9

    assert all(demux.find(*packet) is not None for packet in sample)
    return measure


# -- P-9 -------------------------------------------------------------------------------------------


def memory(setting: Setting) -> list[Figure]:
    """P-9: bytes per idle connection, per UNCERTAIN address, per TIME-WAIT record."""
    count = setting.many(2000, 50)
    connection, used, record = [
        list(values) for values in zip(*(_connections(count) for _ in range(setting.repeats)), strict=True)
    ]
    reserved = [_reserved(count) for _ in range(setting.repeats)]
    return [
        figure("P-9", "memory per idle connection, its address included", "B", connection, goal=Goal(at_most=3072)),
        figure("P-9", "memory per address in use, alone", "B", used),
        figure("P-9", "memory per UNCERTAIN address in the pool", "B", reserved, goal=Goal(at_most=512)),
        figure("P-9", "memory per TIME-WAIT record, its address apart", "B", record, goal=Goal(at_most=256)),
    ]


def _held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _connections(count: int) -> tuple[float, float, float]:
    """Bytes per idle connection with its address, per address alone, per record without its address."""
    lone = Lone(SocketOptions(time_wait=TimeWait.FULL))
    lone.close(lone.connect(8))  # what is made once only is made now
    tracemalloc.start()
    try:
        empty = _held()
        entries = [lone.address() for _ in range(count)]
        alone = _held() - empty
        for entry in entries:
            lone.stack.host.addresses.release(entry, lone.now, "measured")
        del entries, entry
        empty = _held()
        connections = lone.connect(count)
        lone.rest()
        connected = _held() - empty
        assert all(connection.state.value == "ESTABLISHED" for connection in connections)
        lone.close(connections)
        del connections
        lone.rest()
        assert len(lone.stack.tcp.time_waits) == count + 8
        waiting = _held() - empty
    finally:
        tracemalloc.stop()
    return connected / count, alone / count, (waiting - alone) / count


def _reserved(count: int) -> float:
    async def fill() -> float:
        wire = MemoryWire(bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
        config = NodeConfig(
            host=HostConfig(stable_addresses=False, solicit_routers=False, dad_pace=0.001, dad_concurrent=64),
            pool=PoolConfig(low=0, high=count + 8, limit=count + 8, pace=0.001, max_age=1e6),
        )
        node = Node(wire.a, config, seed=bytes(32))
        async with node:
            await asyncio.sleep(5)
            prefixes = node.stack.host.prefix_list
            prefixes.add_static(address("2001:db8:e::"), 64, autonomous=True, now=node.now())
            tracemalloc.start()
            before = _held()
            node.pool.start(node.now())
            node.driver.kick()
            await node.until(lambda: node.pool.ready >= count + 8, 600 + count)
            await asyncio.sleep(30)  # reports of groups have been sent
            after = _held()
            reserved = sum(entry.state is AddressState.UNCERTAIN for entry in node.stack.host.addresses)
        return (after - before) / reserved

    try:
        return run_virtual(fill())
    finally:
        tracemalloc.stop()
