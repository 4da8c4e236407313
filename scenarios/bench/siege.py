"""P-19: the SOCKS front end under attack: others are served, and memory is bounded.

Three sieges, each by unmodified kernel sockets: clients that begin a request and stop, or talk garbage; connections that
stand and are still; clients that do not read what a destination never stops to send.  While they last honest clients make
requests as before; one that fails, fails the benchmark.
"""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack

from compat.buffers import BUDGET
from compat.openfiles import allow_files
from compat.programs.errors import ProgramFailed
from compat.socks.settings import SocksLimits

from .figures import Figure, Goal, figure
from .rig import ADDRESS, PORT, Helper, Rig, rig, rss
from .setting import MIB, Setting

_POUR = PORT + 1
_PER_PROCESS = 2500
"""Besiegers of one process: four come at a time, and none needs more files than usual."""
_POUR_SECONDS = 120
_EACH = 0.4
"""MiB that a relay may hold whose client never reads, besides what the node's budget gives: two first buffers, and two chunks."""


def besieged(setting: Setting) -> list[Figure]:
    """P-19: requests per second of honest clients before and during each siege, and the memory that it costs."""
    return setting.run(_besieged(setting))


async def _besieged(setting: Setting) -> list[Figure]:
    count, deaf = setting.many(10_000, 200), setting.many(1000, 4)
    allow_files()
    limits = SocksLimits(max_connections=2 * count)
    figures, option = [], f"TIME-WAIT {setting.time_wait}"
    with rig() as net:
        async with (
            net.node(time_wait=setting.time_wait, front_end=True) as node,
            net.proxy(node, limits) as proxy,
            net.helper(net.peer, "echo", ADDRESS, PORT),
            net.helper(net.peer, "source", ADDRESS, _POUR, "--seconds", _POUR_SECONDS),
        ):
            calm = [await _requests(setting, net, proxy) for _ in range(setting.repeats)]
            for kind, number, port, what in (
                ("half", count, PORT, f"{count:,} clients come that say half a request, nothing, or garbage"),
                ("idle", count, PORT, f"{count:,} connections stand"),
                ("deaf", deaf, _POUR, f"{deaf} clients never read what does not end"),
            ):
                rates, memory = await _siege(setting, net, proxy, kind, number, port)
                figures.append(
                    figure(
                        "P-19",
                        f"requests through SOCKS while {what}, {option}; baseline before",
                        "1/s",
                        rates,
                        calm,
                    )
                )
                if kind != "half":
                    most = BUDGET / MIB + number * _EACH
                    goal = Goal(at_most=most) if kind == "deaf" else None
                    figures.append(figure("P-19", f"memory added while {what}, {option}", "MiB", [memory], goal=goal))
    return figures


async def _siege(setting: Setting, net: Rig, proxy: int, kind: str, count: int, port: int) -> tuple[list[float], float]:
    """Requests per second of honest clients during a siege, and the memory that it adds, in MiB."""
    gc.collect()
    before = rss()
    async with AsyncExitStack() as stack:
        crowd: list[Helper] = []
        for _ in range(-(-count // _PER_PROCESS)):
            share = min(_PER_PROCESS, count - len(crowd) * _PER_PROCESS)
            words = (ADDRESS, port, "--count", share, "--proxy", proxy, "--kind", kind)
            crowd.append(await stack.enter_async_context(net.helper(net.twin, "besiege", *words)))
        rates = []
        if kind == "half":  # it is their coming that disturbs: those who have come are soon gone
            rates = [await _requests(setting, net, proxy) for _ in range(setting.repeats)]
        for each in crowd:
            facts = await each.line()
            if kind != "half" and facts["failed"]:
                raise ProgramFailed(
                    f"{facts['failed']} of {count} connections did not come about through the front end."
                )
        if kind != "half":
            rates = [await _requests(setting, net, proxy) for _ in range(setting.repeats)]
        memory = (rss() - before) / MIB
    return rates, memory


async def _requests(setting: Setting, net: Rig, proxy: int) -> float:
    amount = ("--count", setting.many(1000, 16), "--parallel", 4, "--proxy", proxy)
    facts = await net.ask_all(net.twin, "requests", ADDRESS, PORT, *amount)
    return float(facts["done"]) / float(facts["seconds"])
