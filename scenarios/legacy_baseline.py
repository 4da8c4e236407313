"""What do one-time addresses cost and gain beside the addresses of today, doing the same work?

The same fetches from the same server by four nodes: with one fixed address and connections told apart by ports; with temporary
addresses (RFC 8981); with one-time addresses on the shared link; and on a prefix of the node's own.  Latency, time for the
work, load of the link, addresses shown to the world, and how long each can be reached.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from scenarios.engine import (
    Addressing,
    Bars,
    Ecdf,
    Impairment,
    Parameter,
    Run,
    Summary,
    Table,
    exchange,
    logging_echo,
    released,
    scenario,
    seconds,
)
from tapstack.wire import ethernet, ipv6
from unimux.aio import open_connection
from unimux.node import Node
from unimux.poolstate import PoolConfig


@scenario(
    requirements=("UM-DAS-4", "UM-NODE-3", "UM-NODE-5"),
    shows=("own-pair", "complete", "released", "never-again"),
    quick={"fetches": 32, "size": 5000},
)
async def legacy_baseline(
    run: Run,
    *,
    fetches: Annotated[int, Parameter("fetches of each node", least=32, most=5000)] = 60,
    together: Annotated[int, Parameter("of them at the same time", least=1, most=32)] = 4,
    size: Annotated[int, Parameter("bytes each way per fetch", unit="B", least=1)] = 50_000,
    think: Annotated[float, Parameter("pause after each fetch; with none a pool runs dry", unit="s", least=0)] = 0.25,
    pool: Annotated[int, Parameter("addresses that the pool keeps ready", least=4, most=250)] = 32,
    delay: Annotated[float, Parameter("one-way delay of the path to the server", unit="s", least=0)] = 0.01,
    jitter: Annotated[float, Parameter("up to so much more at random", unit="s", least=0, most=1)] = 0.002,
) -> None:
    path = Impairment(delay=delay, jitter=jitter)
    client_lan, server_lan = run.lan("client"), run.lan("server", to_router=path, from_router=path)
    run.router(client_lan, server_lan)
    server = await run.host("www", server_lan)
    log: list[str] = []
    await server.serve(80, logging_echo(log))
    frames = {"link": 0, "data": 0}
    fetches -= fetches % together
    run.witness(connections=2 * fetches)
    if run.backend == "netns":
        busy = "the answer of a kernel, or of a busy machine, to a segment that came late"
        run.witness(explanations=run.explain("reset|RST|D-SACK|retransmi", busy))
    await run.observe(client_lan, lambda when, frame: _count(frame, frames))
    did: dict[Addressing, _Did] = {}
    for kind in Addressing:
        own_pool = PoolConfig(low=pool, high=pool) if kind is Addressing.ONE_TIME else None
        client = await run.node(kind.value.replace("-", ""), client_lan, addressing=kind, pool=own_pool, ready=together)
        streams = await open_connection(client, server.address, 80)
        await exchange(*streams, b"first")  # routers and hosts find each other
        await asyncio.sleep(5)
        log.clear()
        frames.update(link=0, data=0)
        began = run.now()
        await asyncio.gather(
            *(_fetch_all(run, client, kind, server.address, fetches // together, size, think) for _ in range(together))
        )
        work = run.now() - began
        await released(client)
        did[kind] = _Did(work, frames["link"] / fetches, len(set(log)))
        _measure(run, kind, did[kind], fetches)
    means = {kind: Summary.of(run.metrics.samples("fetch", kind.value)).mean for kind in Addressing}
    if run.backend == "sim":  # in real time a busy machine slows any of them
        run.require(
            "One-time addresses slow no fetch by more than a quarter",
            max(means[Addressing.ONE_TIME], means[Addressing.DEDICATED]) <= 1.25 * means[Addressing.FIXED],
            because=", ".join(f"{kind.value} {seconds(mean)}" for kind, mean in means.items()),
        )
    _show(run, did, means)


@dataclass(frozen=True)
class _Did:
    """What the work took with one kind of addresses: seconds, ND and MLD messages per fetch, addresses shown to the server."""

    work: float
    messages: float
    shown: int


def _measure(run: Run, kind: Addressing, did: _Did, fetches: int) -> None:
    run.measure("all the work", did.work, "s", of=kind.value)
    run.measure("link messages per fetch", did.messages, of=kind.value)
    run.measure("addresses shown", did.shown, of=kind.value)
    expected, promise = (fetches, "an address for each of") if kind.one_time else (1, "one address for")
    run.require(
        f"{kind.value}: {promise} {fetches} fetches",
        did.shown == expected,
        "UM-DAS-4",
        because=f"{did.shown} seen",
    )


def _show(run: Run, did: Mapping[Addressing, _Did], means: Mapping[Addressing, float]) -> None:
    run.answer(
        f"A fetch takes {seconds(means[Addressing.ONE_TIME])} from one-time addresses and {seconds(means[Addressing.FIXED])} "
        f"from a fixed one; the link carries {did[Addressing.ONE_TIME].messages:.1f} ND and MLD messages for each instead of "
        f"{did[Addressing.FIXED].messages:.2f} ({did[Addressing.DEDICATED].messages:.2f} on a prefix of the node's own), and "
        "what the server saw leads nowhere afterwards."
    )
    rows = []
    for kind, of in did.items():
        setup = Summary.of(run.metrics.samples("setup", kind.value))
        reach = "for its session" if kind.one_time else "always" if kind is Addressing.FIXED else "for a day or a week"
        rows.append((kind.value, seconds(setup.mean), seconds(of.work), f"{of.messages:.1f}", str(of.shown), reach))
    columns = (
        "addresses",
        "connect(), mean",
        "all the work",
        "ND and MLD messages per fetch",
        "addresses the server saw",
        "reachable by them",
    )
    run.show(Table(title="Side by side", columns=columns, rows=rows))
    took = {kind.value: run.metrics.samples("fetch", kind.value) for kind in did}
    run.show(Ecdf(title="Time for one fetch", x="seconds", series=took))
    run.show(
        Bars(
            title="What a fetch costs the link",
            categories=[kind.value for kind in did],
            series={"": [of.messages for of in did.values()]},
            y="ND and MLD messages",
        )
    )


async def _fetch_all(
    run: Run, client: Node, kind: Addressing, where: str, fetches: int, size: int, think: float
) -> None:
    """So many fetches, one after another."""
    for _ in range(fetches):
        start = run.now()
        streams = await open_connection(client, where, 80)
        run.measure("setup", run.now() - start, "s", of=kind.value)
        equal = await exchange(*streams, run.random.randbytes(size))
        run.measure("fetch", run.now() - start, "s", of=kind.value)
        run.require_quietly(equal, "Every fetch came back equal", "UM-NODE-2")
        await asyncio.sleep(run.random.expovariate(1 / think) if think else 0)


def _count(frame: bytes, frames: dict[str, int]) -> None:
    """Neighbour discovery and MLD apart from everything else."""
    kind = frame[ethernet.HEADER_LENGTH + 6]
    frames["link" if kind in (ipv6.ICMPV6, ipv6.HOP_BY_HOP) else "data"] += 1
