"""P-10 and P-12: what connections and nodes cost that do nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack

from compat.programs.errors import ProgramFailed
from tapstack.tcp.connection import Connection
from unimux.node import Node

from .bulk import out
from .figures import Figure, Goal, figure
from .rig import ADDRESS, PORT, rig, rss
from .setting import Setting, take_turns

_IDLE_PORT = PORT + 1
_PER_PROCESS = 5_000
"""Connections that one process of the peer's is meant to hold, well below the usual limits of open files."""
_MIB = 1 << 20


def many_idle(setting: Setting) -> list[Figure]:
    """P-10: 100,000 connections held with a kernel, and bulk out on one more; the baseline is the same before."""
    return setting.run(_many_idle(setting))


async def _many_idle(setting: Setting) -> list[Figure]:
    count = setting.many(100_000, 100)
    with rig() as net:
        async with net.node(time_wait=setting.time_wait) as node, AsyncExitStack() as stack:
            for _ in range(count // _PER_PROCESS + 1):
                await stack.enter_async_context(net.helper(net.peer, "echo", ADDRESS, _IDLE_PORT))

            async def transfer() -> float:
                return await out(net, node, setting.seconds)

            [alone] = await take_turns(setting.repeats, transfer)
            gc.collect()
            before = rss()
            held = await _hold(setting, node, count)
            gc.collect()
            memory = (rss() - before) / _MIB
            [among] = await take_turns(setting.repeats, transfer)
            established = sum(connection.state.value == "ESTABLISHED" for connection in held)
            if established != count:
                raise ProgramFailed(f"Only {established:,} of {count:,} connections are still established.")
            for connection in held:
                connection.abort(node.now())
            node.driver.kick()
    return [
        figure(
            "P-10",
            f"bulk out while {count:,} connections are held; baseline without them",
            "Gbit/s",
            among,
            alone,
            Goal(at_least=0.9, of_ratio=True),
        ),
        figure("P-10", f"memory of {count:,} idle connections", "MiB", [memory], goal=Goal(at_most=1024)),
    ]


async def _hold(setting: Setting, node: Node, count: int) -> list[Connection]:
    """So many established connections from one-time addresses."""
    held: list[Connection] = []
    numbers = iter(range(count))

    async def worker() -> None:
        for _ in numbers:
            held.append(await node.connect(ADDRESS, _IDLE_PORT))
            if len(held) % 20_000 == 0:
                setting.say(f"P-10: {len(held):,} connections")

    await asyncio.gather(*(worker() for _ in range(32)))
    return held


def idle_node(setting: Setting) -> list[Figure]:
    """P-12: the processor time of a node that has nothing to do."""
    return setting.run(_idle_node(setting))


async def _idle_node(setting: Setting) -> list[Figure]:
    seconds = 0.2 if setting.smoke else 20.0
    with rig() as net:
        async with net.node(time_wait=setting.time_wait):
            await asyncio.sleep(0.1 if setting.smoke else 5.0)  # its groups have been reported by then
            values = []
            for _ in range(setting.repeats):
                cpu, began = time.process_time(), time.perf_counter()
                await asyncio.sleep(seconds)
                values.append((time.process_time() - cpu) / (time.perf_counter() - began) * 100)
    return [figure("P-12", f"idle node over {seconds:g} s", "% of a core", values, goal=Goal(at_most=0.5))]
