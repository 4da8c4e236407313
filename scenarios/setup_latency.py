"""How long does connect() take, with an address from the pool, a fresh one, an optimistic one, or a fixed one?

The same server, the same path; only the source address differs.  A pool hit must cost nothing beside a fixed address except
that the router has to find the address, which a fixed one needs once and a one-time one each time.  A fresh address waits for
duplicate address detection, one second (RFC 4862), unless it is used optimistically (RFC 4429).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated

from scenarios.engine import (
    Addressing,
    Bars,
    Ecdf,
    Impairment,
    Lan,
    Parameter,
    Run,
    Summary,
    echo,
    exchange,
    scenario,
    seconds,
)
from unimux.aio import open_connection
from unimux.node import Node
from unimux.poolstate import PoolConfig, WhenEmpty

RETRANS_TIMER = 1.0


@scenario(
    requirements=("UM-POOL-3", "UM-POOL-4", "UM-ADDR-1"),
    shows=("complete", "own-pair", "released"),
    quick={"connections": 5},
)
async def setup_latency(
    run: Run,
    *,
    connections: Annotated[int, Parameter("connections of each client", least=2, most=5000)] = 50,
    delay: Annotated[float, Parameter("one-way delay of the path to the server", unit="s", least=0, most=2)] = 0.01,
    jitter: Annotated[float, Parameter("up to so much more at random", unit="s", least=0, most=1)] = 0.002,
    learns: Annotated[
        bool, Parameter("the router learns from announcements (RFC 9131), unlike Linux by default")
    ] = False,
) -> None:
    run.witness(connections=3 * connections)
    path = Impairment(delay=delay, jitter=jitter)
    client_lan, server_lan = run.lan("client"), run.lan("server", to_router=path, from_router=path)
    run.router(client_lan, server_lan, learns=learns)
    server = await run.host("www", server_lan)
    await server.serve(80, echo)
    clients = await _clients(run, client_lan)
    for client in clients.values():  # the first connection of each finds the router and the server; it does not count
        await exchange(*await open_connection(client, server.address, 80), b"hello")
    for _ in range(connections):
        for name, client in clients.items():
            began = run.now()
            streams = await open_connection(client, server.address, 80)
            run.measure("setup", run.now() - began, "s", of=name)
            run.require_quietly(await exchange(*streams, b"GET /"), "Every connection is served")
            await asyncio.sleep(run.random.uniform(0.2, 0.4))
    took = {name: run.metrics.samples("setup", name) for name in clients}
    _judge(run, took)
    _show(run, took)


async def _clients(run: Run, lan: Lan) -> dict[str, Node]:
    """A client for each way of having an address, by its name in tables."""
    empty = PoolConfig(low=0, high=0)
    optimistic = PoolConfig(low=0, high=0, when_empty=WhenEmpty.OPTIMISTIC)
    run.remark(
        "The optimistic node uses addresses before their DAD is over (RFC 4429), so the witness does not judge it."
    )
    return {
        "fixed": await run.node("fixed", lan, addressing=Addressing.FIXED),
        "dedicated prefix": await run.node("dedicated", lan, addressing=Addressing.DEDICATED),
        "pool hit": await run.node("pooled", lan, ready=4),
        "optimistic DAD": await run.node("optimistic", lan, pool=optimistic, ready=0, judged=False),
        "fresh DAD": await run.node("fresh", lan, pool=empty, ready=0),
    }


def _judge(run: Run, took: Mapping[str, Sequence[float]]) -> None:
    run.require(
        "A pool hit waits for no duplicate address detection",
        max(took["pool hit"]) < min(took["fresh DAD"]) and max(took["pool hit"]) < RETRANS_TIMER,
        "UM-ADDR-1",
        because=f"at most {max(took['pool hit']) * 1000:.1f} ms",
    )
    within = 0.1 if run.backend == "sim" else 0.5
    extra = Summary.of(took["fresh DAD"]).mean - Summary.of(took["pool hit"]).mean
    run.expect("what a fresh address waits beyond a pool hit, in seconds", extra, RETRANS_TIMER, within=within)


def _show(run: Run, took: Mapping[str, Sequence[float]]) -> None:
    summaries = {name: Summary.of(samples) for name, samples in took.items()}
    mean = {name: seconds(summary.mean) for name, summary in summaries.items()}
    run.answer(
        f"connect() takes {mean['pool hit']} with an address from the pool, {mean['fixed']} with a fixed one, "
        f"{mean['dedicated prefix']} on a prefix of the node's own, {mean['optimistic DAD']} with optimistic "
        f"and {mean['fresh DAD']} with ordinary duplicate detection."
    )
    run.show(Ecdf(title="Time from connect() to established", x="seconds", series=took, log=True))
    run.show(
        Bars(
            title="Mean time from connect() to established",
            categories=list(summaries),
            series={"": [(s.mean * 1000, s.low * 1000, s.high * 1000) for s in summaries.values()]},
            y="milliseconds",
            log=True,
            caption="What a pool hit costs beyond a fixed address is the router's address resolution: one round trip on the LAN "
            "for each new address, unless the router learns from announcements (RFC 9131; --set learns=yes).",
        )
    )
