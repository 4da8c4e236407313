"""P-14: cost against work: what one unit costs when there are ten and a hundred times as many."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tapstack.tcp.options import TimeWait

from .bulk import network, out
from .connections import connections
from .figures import Figure, Goal, figure
from .rig import ADDRESS, PORT
from .setting import Setting, take_turns
from .simulation import OPTION, simulate

FACTORS = (1, 10, 100)
_LONGEST = 600.0
"""Seconds that one transfer may take."""
LINEAR = Goal(at_most=1.15, of_ratio=True)
"""Cost per unit must not grow; the rest is noise."""


def growth(setting: Setting) -> list[Figure]:
    """P-14: bulk out, short connections and the simulation, at ×1, ×10 and ×100.

    Each of the bulk connections sends as much as the single one: a hundred of them do a hundred times its work.  The same
    between two kernels says how much of the growth is the machine's.
    """
    factors = FACTORS[:2] if setting.smoke else FACTORS
    return [
        *setting.run(_bulk(setting, factors)),
        *setting.run(_connections(setting, factors)),
        *_simulation(setting, factors),
    ]


def _figures(
    what: str, unit: str, factors: tuple[int, ...], costs: list[list[float]], goal: Goal | None = LINEAR
) -> list[Figure]:
    """One figure per factor; the first is the others' baseline."""
    base = costs[0]
    return [
        figure(
            "P-14",
            f"{what}, ×{factor}" + ("; baseline ×1" if factor > 1 else ""),
            unit,
            values,
            base if factor > 1 else (),
            goal if factor > 1 else None,
        )
        for factor, values in zip(factors, costs, strict=True)
    ]


async def _bulk(setting: Setting, factors: tuple[int, ...]) -> list[Figure]:
    amount = setting.many(1 << 28, 1 << 20)
    async with network(setting, offload=True) as (net, node):

        def run(factor: int) -> Callable[[], Awaitable[float]]:
            async def cost() -> float:
                return 8.0 / await out(net, node, _LONGEST, factor, amount=amount)

            return cost

        def between_kernels(factor: int) -> Callable[[], Awaitable[float]]:
            async def cost() -> float:
                return 8.0 / await net.iperf(seconds=_LONGEST, amount=factor * amount, parallel=factor)

            return cost

        costs = await take_turns(setting.repeats, *map(run, factors), *map(between_kernels, factors))
    each, option = f"{amount >> 20} MiB each", f"TIME-WAIT {setting.time_wait}"
    ours, theirs = costs[: len(factors)], costs[len(factors) :]
    return [
        *_figures(f"time per GB of bulk out, {each} over so many connections at once, {option}", "s/GB", factors, ours),
        *_figures(f"time per GB between two kernels, {each} over so many at once", "s/GB", factors, theirs, None),
    ]


async def _connections(setting: Setting, factors: tuple[int, ...]) -> list[Figure]:
    base = setting.many(200, 4)
    async with network(setting, offload=True) as (net, node), net.helper(net.peer, "echo", ADDRESS, PORT):

        def run(factor: int) -> Callable[[], Awaitable[float]]:
            async def cost() -> float:
                return (await connections(node, base * factor, 1, wait=True)).cost * 1e6

            return cost

        costs = await take_turns(setting.repeats, *map(run, factors))
    release = "none released" if setting.time_wait is TimeWait.FULL else "its release included"
    how = f"{base} × so many one after another, TIME-WAIT {setting.time_wait}"
    what = f"processor time per one-time connection, {release}, {how}"
    return _figures(what, "µs", factors, costs)


def _simulation(setting: Setting, factors: tuple[int, ...]) -> list[Figure]:
    base, chunks = setting.many(10, 2), setting.many(100, 5)
    costs: list[list[float]] = [[] for _ in factors]
    for _ in range(setting.repeats):
        for factor, values in zip(factors, costs, strict=True):
            packets, took = simulate(base * factor, chunks)
            values.append(took / packets * 1e6)
    return _figures(f"time per simulated packet, {base} × so many nodes, {OPTION}", "µs", factors, costs)
