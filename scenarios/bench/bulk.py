"""P-1, P-2, P-3: one bulk transfer between a node and the kernel, beside kernel ↔ kernel.

The node's end is a protocol on the asyncio transport that every program gets.  Out: bytes that are written over and over; each
is copied once from the application's buffer, by the write to the device, as `send` copies it for iperf3.  A bytearray, which
the program may change at once, is copied a second time before: P-1 has a row for it, and the same goal.  What the kernel's
program has read counts.
In: `data_received` counts.  Start-up is left out at both ends: times run from the first byte that arrived to the last one.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from unimux.node import Node

from .figures import Figure, Goal, figure
from .rig import ADDRESS, PORT, Rig, rig
from .setting import Setting, take_turns

PIECE = bytes(1 << 18)
CHANGING = bytearray(PIECE)


class Sender(asyncio.Protocol):
    """Writes for so many seconds, or so many bytes if that is less, then ends the stream."""

    def __init__(self, seconds: float, piece: bytes | bytearray, amount: float = math.inf) -> None:
        self._seconds = seconds
        self._piece = piece
        self._left = amount
        self._blocked = False
        self._transport: asyncio.Transport | None = None
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._until = time.monotonic() + self._seconds
        self._write()

    def _write(self) -> None:
        assert self._transport is not None
        while not self._blocked:
            if self._left <= 0 or time.monotonic() >= self._until:
                self._transport.write_eof()
                return
            self._left -= len(self._piece)
            self._transport.write(self._piece)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._write()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


class Receiver(asyncio.Protocol):
    """Counts what it is given."""

    def __init__(self) -> None:
        self.total = 0
        self.first = self.last = 0.0
        self.lost = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.last = time.monotonic()
        if not self.total:
            self.first = self.last
        self.total += len(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()


def rate(parts: list[dict[str, Any]]) -> float:
    """Gbit/s of transfers that ran at the same time."""
    took = max(part["last"] for part in parts) - min(part["first"] for part in parts)
    return sum(int(part["bytes"]) for part in parts) * 8 / max(float(took), 1e-6) / 1e9


async def out(
    net: Rig,
    node: Node,
    seconds: float,
    connections: int = 1,
    piece: bytes | bytearray = PIECE,
    amount: float = math.inf,
) -> float:
    """Gbit/s from the node to the kernel, `piece` after `piece`; each connection sends no more than `amount` bytes."""
    async with net.helper(net.peer, "sink", ADDRESS, PORT) as sink:
        senders = []
        for _ in range(connections):
            _, protocol = await node.create_connection(lambda: Sender(seconds, piece, amount), ADDRESS, PORT)
            senders.append(protocol)
        parts = [await sink.line() for _ in range(connections)]
        for sender in senders:
            assert isinstance(sender, Sender)
            await sender.lost.wait()
    return rate(parts)


async def into(net: Rig, node: Node, seconds: float) -> float:
    """Gbit/s from the kernel to the node's application."""
    async with net.helper(net.peer, "source", ADDRESS, PORT, "--seconds", seconds):
        _, protocol = await node.create_connection(Receiver, ADDRESS, PORT)
        assert isinstance(protocol, Receiver)
        await asyncio.wait_for(protocol.lost.wait(), seconds + 60)
    return rate([{"bytes": protocol.total, "first": protocol.first, "last": protocol.last}])


@asynccontextmanager
async def network(setting: Setting, *, offload: bool) -> AsyncIterator[tuple[Rig, Node]]:
    """The rig and a node that connects from the dedicated prefix."""
    with rig(offload=offload) as net:
        async with net.node(offload=offload, time_wait=setting.time_wait) as node:
            yield net, node


_OUT, _CHANGING_OUT, _IN = "out", "out of a bytearray", "in"


async def _rows(setting: Setting, id: str, offload: bool, wanted: dict[str, Goal]) -> list[Figure]:
    seconds = setting.seconds
    figures = []
    async with network(setting, offload=offload) as (net, node):
        for row, goal in wanted.items():

            async def ours(row: str = row) -> float:
                if row == _IN:
                    return await into(net, node, seconds)
                return await out(net, node, seconds, piece=CHANGING if row == _CHANGING_OUT else PIECE)

            async def theirs(row: str = row) -> float:
                amount = 50_000_000 if setting.smoke else None
                return await net.iperf(seconds=seconds, amount=amount, reverse=row == _IN)

            values, baselines = await take_turns(setting.repeats, ours, theirs)
            tap = f"TAP {'with' if offload else 'without'} offload, MTU 1500, TIME-WAIT {setting.time_wait}"
            what = f"bulk {row}, {tap}; baseline iperf3 over veth"
            figures.append(figure(id, what, "Gbit/s", values, baselines, goal))
    return figures


def bulk_out(setting: Setting) -> list[Figure]:
    """P-1: bulk out with offload."""
    goal = Goal(at_least=0.75, of_ratio=True)
    return setting.run(_rows(setting, "P-1", True, {_OUT: goal, _CHANGING_OUT: goal}))


def bulk_in(setting: Setting) -> list[Figure]:
    """P-2: bulk in with offload."""
    return setting.run(_rows(setting, "P-2", True, {_IN: Goal(at_least=0.6, of_ratio=True)}))


def bulk_without_offload(setting: Setting) -> list[Figure]:
    """P-3: bulk each way in frames of 1500 bytes; the baseline's cable has no offload either."""
    goal = Goal(at_least=0.5)
    return setting.run(_rows(setting, "P-3", False, {_OUT: goal, _IN: goal}))
