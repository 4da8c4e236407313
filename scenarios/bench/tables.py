"""P-8 and P-9: what a look-up costs among many PCBs, and what a connection, a reserved address and a TIME-WAIT record hold."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable
from itertools import cycle, islice
from random import Random
from typing import Any, cast

import numpy as np

from tapstack.clock import run_virtual
from tapstack.garbage import settled
from tapstack.ipv6.addresses import AddressState
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import Link
from tapstack.link.memory import MemoryWire
from tapstack.tcp.connection import Connection
from tapstack.tcp.demux import key_for
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

from .figures import Figure, Goal, figure
from .responder import Lone, data
from .setting import Setting

_SAMPLE = 10_000
"""Look-ups of a pass."""
_BATCH = 1_000
"""Keys that are made anew shortly before they are looked up, as they are when a packet has just been read."""
_REAL = 20_000
"""The most PCBs of a table that are connections; they take packets.  The others are entries of the same keys."""
_PACKETS = 200
"""Packets that are timed together: of so many connections where the caches have forgotten them, at most where they take turns."""
_BATCHES = 50
_PAYLOAD = bytes(100)
_PASSES = 5
"""Of look-ups.  The fastest pass, or batch of packets, counts: whatever disturbs one only makes it slower.  A pass has keys of
its own as far as there are, a batch its own packets."""
_WARM = 20
"""Packets of a connection that is not measured before those of cold ones: the program is in the caches as under load, their
connections are not."""
_others = np.zeros(8 << 20, dtype=np.int64)
"""64 MiB, for which everything else makes room in the processor's caches."""
_FLAT = Goal(at_most=1.5, of_ratio=True)


class _Entry:
    """Stands for a PCB in a table: the four values that make its key, drawn at random."""

    __slots__ = ("local", "local_port", "mode", "remote", "remote_port")

    def __init__(self, random: Random, mode: PortMode) -> None:
        self.local = random.randbytes(16)
        self.remote = random.randbytes(16)
        self.local_port = random.randrange(1, 65536)
        self.remote_port = random.randrange(1, 65536)
        self.mode = mode


def lookups(setting: Setting) -> list[Figure]:
    """P-8: demultiplexing with 1 … 10⁶ PCBs, in each mode.

    A packet's whole way in, for connections that have just had one and for others; and the look-up alone, which is the
    harshest: among a million keys each one waits for main memory a few times, as in any hash table.  What the caches have
    forgotten takes as many connections as packets, or all but the first would be remembered: its baseline is the smallest
    table that has them.
    """
    sizes = (1, 10, 20) if setting.smoke else (1, 1_000, 100_000, 1_000_000)
    figures = []
    for mode in PortMode:
        setting.say(f"P-8: {mode}")
        base: dict[str, tuple[int, list[float]]] = {}
        for size in sizes:
            fill = Fill(
                mode, size, setting.many(_REAL, 5), packets=setting.many(_PACKETS, 4), batches=setting.many(_BATCHES, 2)
            )
            with settled():
                measured = {
                    what: [measure() for _ in range(setting.repeats)] for what, measure in fill.measures().items()
                }
            for what, values in measured.items():
                least, baseline = base.setdefault(what, (size, values))
                row = f"{what}, among {size:,}, {mode}"
                if size > least:
                    row += f"; baseline {'one PCB' if least == 1 else f'{least:,} PCBs'}"
                    figures.append(figure("P-8", row, "ns", values, baseline, _FLAT))
                else:
                    figures.append(figure("P-8", row, "ns", values))
            del fill
            gc.collect()
    return figures


class Fill:
    """A stack whose tables hold `size` PCBs, `real` of them connections, or all if they are fewer.

    packets: in each of so many `batches`.
    """

    def __init__(self, mode: PortMode, size: int, real: int, *, packets: int, batches: int) -> None:
        self._random = random = Random(size)
        self._packets = packets
        self._batches = batches
        self._lone = Lone(SocketOptions(mode=mode))
        self._find = self._lone.stack.tcp.demux.find
        real = min(real, size)
        # As many keys as all passes together look up, of PCBs drawn at random.
        chosen = set(random.sample(range(size), min(size, _SAMPLE * _PASSES)))
        self._keys: list[tuple[bytes, bytes, bytes]] = []
        gc.disable()  # a million entries that all stay: nothing to collect
        try:
            for number in range(size - real):
                entry = _Entry(random, mode)
                self._lone.stack.tcp.demux.add(key_for(mode, entry, calling=True), cast(Any, entry))
                if number in chosen:
                    self._keys.append(_on_the_wire(entry))
            self._connections = self._lone.connect(real)
        finally:
            gc.enable()
        self._keys += [_on_the_wire(each) for n, each in enumerate(self._connections, size - real) if n in chosen]
        self._sent = dict.fromkeys(self._connections, 0)
        self._unread: set[Connection] = set()
        self._pending = 0
        assert len(self._lone.stack.tcp.demux) == size

    def measures(self) -> dict[str, Callable[[], float]]:
        """What is measured, in nanoseconds for each; a table that is too small for cold packets has no measure of them."""
        way, packets = "a packet's way in, look-up included, of", self._packets
        hot, others = self._connections[:packets], self._connections[1:]
        measures: dict[str, Callable[[], float]] = {
            f"{way} connections that had one just before, up to {packets} in turn": (
                lambda: self._ways_in(lambda: list(islice(cycle(hot), packets)), cold=False)
            ),
        }
        if len(others) >= packets:
            measures[f"{way} {packets} different connections that the caches have forgotten"] = lambda: self._ways_in(
                lambda: self._random.sample(others, packets), cold=True
            )
        measures["look-up of a random packet's PCB alone, from a table that the caches have forgotten"] = self._lookup
        return measures

    def _lookup(self) -> float:
        """Look-ups in random order, each pass of other keys as far as there are, and from a forgotten table."""
        find = self._find
        keys = self._random.sample(self._keys, len(self._keys))
        keys = list(islice(cycle(keys), _SAMPLE * _PASSES))
        fastest = float("inf")
        for start in range(0, len(keys), _SAMPLE):
            _forget()
            took = 0.0
            for at in range(start, start + _SAMPLE, _BATCH):
                batch = [(_anew(pair), _anew(source), _anew(to)) for pair, source, to in keys[at : at + _BATCH]]
                began = time.perf_counter()
                for pair, source, to in batch:
                    find(pair, source, to)
                took += time.perf_counter() - began
                assert all(find(*key) is not None for key in batch)
            fastest = min(fastest, took)
        return fastest / _SAMPLE * 1e9

    def _ways_in(self, choose: Callable[[], list[Connection]], *, cold: bool) -> float:
        """Segments in order, in each batch for the connections chosen; cold: the caches hold nothing of them."""
        fastest = float("inf")
        for _ in range(self._batches):
            # First: where the packets are not to be cold they may be of the same connection.
            warm = [self._next(self._connections[0]) for _ in range(_WARM)]
            packets = [self._next(connection) for connection in choose()]
            if cold:
                _forget()
                packets = [_anew(packet) for packet in packets]  # the device has just written them
            self._take_in(warm)
            fastest = min(fastest, self._take_in(packets))
            self._read()
        return fastest / self._packets * 1e9

    def _read(self) -> None:
        """Read what has come, and let the peer have its acknowledgements."""
        read = sum(len(part) for connection in self._unread for part in connection.read())
        assert read == self._pending
        self._pending = 0
        self._unread.clear()
        self._lone.exchange()

    def _next(self, connection: Connection) -> bytes:
        """The connection's next segment."""
        sent = self._sent[connection]
        self._sent[connection] = sent + len(_PAYLOAD)
        self._unread.add(connection)
        self._pending += len(_PAYLOAD)
        return data(connection, sent, _PAYLOAD)

    def _take_in(self, packets: list[bytes]) -> float:
        """Seconds that the stack takes for them."""
        lone = self._lone
        began = time.perf_counter()
        for packet in packets:
            lone.stack.input(packet, lone.now)
        return time.perf_counter() - began


def _on_the_wire(pcb: _Entry | Connection) -> tuple[bytes, bytes, bytes]:
    """Both addresses and the two ports, as a packet from the peer carries them."""
    return pcb.remote + pcb.local, pcb.remote_port.to_bytes(2, "big"), pcb.local_port.to_bytes(2, "big")


def _forget() -> None:
    """Let the processor's caches hold other things."""
    np.add(_others, 1, out=_others)


def _anew(octets: bytes) -> bytes:
    """The same in other memory, with a hash that nobody has computed yet."""
    return bytes(memoryview(octets))


# -- P-9 -------------------------------------------------------------------------------------------


def memory(setting: Setting) -> list[Figure]:
    """P-9: bytes per idle connection, per UNCERTAIN address, per TIME-WAIT record."""
    count = setting.many(2000, 50)
    connection, later, used, record = [
        list(values) for values in zip(*(_connections(count) for _ in range(setting.repeats)), strict=True)
    ]
    reserved = [_reserved(count) for _ in range(setting.repeats)]
    idle, option = "memory per idle connection", f"its address included, TIME-WAIT {TimeWait.FULL}"
    bound = Goal(at_most=3072)
    return [
        figure("P-9", f"{idle}, {option}", "B", connection, goal=bound),
        figure("P-9", f"{idle} after a byte each way, {option}", "B", later, goal=bound),
        figure("P-9", "memory per address in use, alone", "B", used),
        figure("P-9", "memory per UNCERTAIN address in the pool", "B", reserved, goal=Goal(at_most=512)),
        figure(
            "P-9",
            f"memory per record of TIME-WAIT {TimeWait.FULL}, its address apart",
            "B",
            record,
            goal=Goal(at_most=256),
        ),
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
