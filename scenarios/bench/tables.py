"""P-8 and P-9: what a look-up costs among many PCBs, and what a connection, a reserved address and a TIME-WAIT record hold."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from random import Random
from typing import Any, cast

from tapstack.clock import run_virtual
from tapstack.ipv6.addresses import AddressState
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import Link
from tapstack.link.memory import MemoryWire
from tapstack.tcp.demux import key_for
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

from .figures import Figure, Goal, figure
from .responder import Lone, data
from .setting import Setting

_SAMPLE = 10_000
_PAYLOAD = bytes(100)
_ROUNDS = 10
_PASSES = 5
"""The fastest of so many passes counts: whatever disturbs one only makes it slower."""


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
    """P-8: demultiplexing with 1 … 10⁶ PCBs, in each mode.

    The goal is that of a packet's whole way in.  The look-up alone is the harsher test: among a million random keys each
    one waits for main memory a few times, as in any hash table.
    """
    sizes = (1, 10) if setting.smoke else (1, 1_000, 100_000, 1_000_000)
    figures = []
    for mode in PortMode:
        setting.say(f"P-8: {mode}")
        base: list[tuple[list[float], list[float]]] = []
        for size in sizes:
            fill = _Fill(mode, size)
            alone = [fill.lookup() for _ in range(setting.repeats)]
            packet = [fill.packet(setting.many(200, 5)) for _ in range(setting.repeats)]
            base.append((alone, packet))
            baselines = base[0] if size > 1 else ((), ())
            of = f"among {size:,}, {mode}" + ("; baseline one PCB" if size > 1 else "")
            goal = Goal(at_most=1.5, of_ratio=True) if size > 1 else None
            figures.append(
                figure("P-8", f"a packet's way in, look-up included, {of}", "ns", packet, baselines[1], goal)
            )
            figures.append(figure("P-8", f"look-up of a packet's PCB alone, {of}", "ns", alone, baselines[0]))
            del fill
            gc.collect()
    return figures


class _Fill:
    """A stack whose tables hold so many PCBs; `sample` are the keys of some, as packets carry them."""

    def __init__(self, mode: PortMode, size: int) -> None:
        random = Random(size)
        self.lone = Lone(SocketOptions(mode=mode))
        packets: list[tuple[bytes, bytes, bytes]] = []
        gc.disable()  # a million entries that all stay: nothing to collect
        try:
            for number in range(size):
                entry = _Entry(random, mode)
                self.lone.stack.tcp.demux.add(key_for(mode, entry, calling=False), cast(Any, entry))
                if number < _SAMPLE or random.random() < _SAMPLE / size:
                    ports = entry.remote_port.to_bytes(2, "big"), entry.local_port.to_bytes(2, "big")
                    packets.append((entry.remote + entry.local, *ports))
        finally:
            gc.enable()
        self.sample = [random.choice(packets) for _ in range(_SAMPLE)]

    def lookup(self) -> float:
        """Nanoseconds per look-up, keys in random order."""
        find = self.lone.stack.tcp.demux.find
        assert all(find(*packet) is not None for packet in self.sample)
        fastest = float("inf")
        for _ in range(_PASSES):
            began = time.perf_counter()
            for pair, source, destination in self.sample:
                find(pair, source, destination)
            fastest = min(fastest, time.perf_counter() - began)
        return fastest / _SAMPLE * 1e9

    def packet(self, connections: int) -> float:
        """Nanoseconds per segment in order, for real connections among the others, each time another one's."""
        lone = self.lone
        made = lone.connect(connections)
        fastest = float("inf")
        size = len(_PAYLOAD)
        for number in range(_PASSES):
            packets = [
                data(connection, (number * _ROUNDS + round_) * size, _PAYLOAD)
                for round_ in range(_ROUNDS)
                for connection in made
            ]
            began = time.perf_counter()
            for packet in packets:
                lone.stack.input(packet, lone.now)
            fastest = min(fastest, time.perf_counter() - began)
            lone.exchange()
        expected = _PASSES * _ROUNDS * size
        assert all(sum(map(len, connection.read())) == expected for connection in made)
        return fastest / (_ROUNDS * connections) * 1e9


# -- P-9 -------------------------------------------------------------------------------------------


def memory(setting: Setting) -> list[Figure]:
    """P-9: bytes per idle connection, per UNCERTAIN address, per TIME-WAIT record."""
    count = setting.many(2000, 50)
    connection, later, used, record = [
        list(values) for values in zip(*(_connections(count) for _ in range(setting.repeats)), strict=True)
    ]
    reserved = [_reserved(count) for _ in range(setting.repeats)]
    return [
        figure("P-9", "memory per idle connection, its address included", "B", connection, goal=Goal(at_most=3072)),
        figure("P-9", "memory per idle connection after a byte each way, its address included", "B", later),
        figure("P-9", "memory per address in use, alone", "B", used),
        figure("P-9", "memory per UNCERTAIN address in the pool", "B", reserved, goal=Goal(at_most=512)),
        figure("P-9", "memory per TIME-WAIT record, its address apart", "B", record, goal=Goal(at_most=256)),
    ]


def _held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _connections(count: int) -> tuple[float, float, float, float]:
    """Bytes per idle connection with its address, the same after some use, per address alone, per record without its address."""
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
        lone.converse(connections)
        lone.rest()
        used = _held() - empty
        lone.close(connections)
        del connections
        lone.rest()
        assert len(lone.stack.tcp.time_waits) == count + 8
        waiting = _held() - empty
    finally:
        tracemalloc.stop()
    return connected / count, used / count, alone / count, (waiting - alone) / count


def _read_all(link: Link) -> None:
    while link.receive() is not None:
        pass


def _reserved(count: int) -> float:
    async def fill() -> float:
        wire = MemoryWire(bytes.fromhex("020000000001"), bytes.fromhex("020000000002"))
        config = NodeConfig(
            host=HostConfig(stable_addresses=False, solicit_routers=False, dad_pace=0.001, dad_concurrent=64),
            pool=PoolConfig(low=0, high=count + 8, limit=count + 8, pace=0.001, max_age=1e6),
        )
        node = Node(wire.a, config, seed=bytes(32))
        wire.b.attach(
            asyncio.get_running_loop(), lambda: _read_all(wire.b)
        )  # else what it was sent is measured as well
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
