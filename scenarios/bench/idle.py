"""P-10 and P-12: what connections and nodes cost that do nothing."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import AsyncExitStack

from compat import kernel
from compat.programs.errors import ProgramFailed
from compat.programs.radvd import Advertisement, router_advertiser
from tapstack.tcp.connection import Connection
from unimux.node import Node
from unimux.poolstate import PoolConfig

from .bulk import out
from .figures import Figure, Goal, figure
from .rig import ADDRESS, ON_LINK, PORT, WAIT, rig, rss
from .setting import MIB, Setting, take_turns

_IDLE_PORT = PORT + 1
_PER_PROCESS = 5_000
"""Connections that one process of the peer's is meant to hold, well below the usual limits of open files."""


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
            memory = (rss() - before) / MIB
            [among] = await take_turns(setting.repeats, transfer)
            established = sum(connection.state.value == "ESTABLISHED" for connection in held)
            if established != count:
                raise ProgramFailed(f"Only {established:,} of {count:,} connections are still established.")
            for connection in held:
                connection.abort(node.now())
            node.driver.kick()
    option = f"TIME-WAIT {setting.time_wait}"
    return [
        figure(
            "P-10",
            f"bulk out while {count:,} connections are held, {option}; baseline without them",
            "Gbit/s",
            among,
            alone,
            Goal(at_least=0.9, of_ratio=True),
        ),
        figure("P-10", f"memory of {count:,} idle connections, {option}", "MiB", [memory], goal=Goal(at_most=1024)),
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
    """P-12: the processor time of a node that has nothing to do, alone and with a pool on a link with a router."""
    return [setting.run(_idle_alone(setting)), setting.run(_idle_pool(setting))]


async def _idle_alone(setting: Setting) -> Figure:
    with rig() as net:
        async with net.node(time_wait=setting.time_wait):
            return await _idle(setting, "idle node")


async def _idle_pool(setting: Setting) -> Figure:
    """A node of ordinary use: an on-link pool, filled, and a router that advertises as often as RFC 4861 §6.2.1 allows."""
    pool = PoolConfig()
    with rig() as net:
        kernel.set_sysctl(net.peer, "ipv6/conf/all/forwarding", 1)
        async with net.node(pool=pool, time_wait=setting.time_wait) as node:
            end = kernel.Interface(net.peer, "node")
            told = Advertisement(end, f"{ON_LINK}/64", min_interval=3, max_interval=4, rdnss=(ADDRESS,))
            async with router_advertiser(net.peer, told):
                await node.until(lambda: node.pool.ready >= pool.high and bool(node.stack.host.routers.rdnss), WAIT)
                every = f"a router that advertises every {told.min_interval:g} to {told.max_interval:g} s"
                before = node.stack.counters.frames_in
                row = await _idle(setting, f"idle node with {pool.high} addresses in an on-link pool and {every}")
                if node.stack.counters.frames_in == before and not setting.smoke:
                    raise ProgramFailed("the router did not advertise; the figure would mean nothing.")
                return row


async def _idle(setting: Setting, what: str) -> Figure:
    """The share of a core that the process takes while the node does nothing for anybody."""
    seconds = 0.2 if setting.smoke else 20.0
    await asyncio.sleep(0.1 if setting.smoke else 5.0)  # its groups have been reported by then
    values = []
    for _ in range(setting.repeats):
        cpu, began = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        values.append((time.process_time() - cpu) / (time.perf_counter() - began) * 100)
    return figure("P-12", f"{what}, over {seconds:g} s", "% of a core", values, goal=Goal(at_most=0.5))
