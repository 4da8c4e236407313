"""What do one-time addresses cost the link and the router, in messages and neighbour-cache entries?

Each kind of client makes the same connections to a web server, one after another.  Every neighbour-discovery and MLD message
on the client's LAN is counted while it does so, and the router's neighbour cache is read.  On an on-link prefix every
one-time address costs a probe, group reports, an announcement and an entry; on a prefix of the client's own it costs nothing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Annotated

from scenarios.engine import Addressing, Bars, Parameter, Run, Table, echo, exchange, released, scenario
from tapstack.wire import ethernet, icmpv6, ipv6
from unimux.aio import open_connection

MLD_REPORT = 143
CACHE = "router's cache entries"
MANY, LONG = 128, 60.0
"""Entries and seconds from which on a router forgets neighbours that are not in use (Linux's gc_thresh1, gc_stale_time)."""
NAMES = {
    icmpv6.Type.NEIGHBOR_SOLICITATION: "neighbor solicitations",
    icmpv6.Type.NEIGHBOR_ADVERTISEMENT: "neighbor advertisements",
    MLD_REPORT: "MLD reports",
}


@scenario(
    requirements=("UM-NODE-5", "UM-POOL-4", "UM-ADDR-7", "UM-ADDR-8"),
    shows=("own-pair", "complete", "group-held", "promotion-once", "released"),
    quick={"connections": 10},
)
async def neighbor_cost(
    run: Run,
    *,
    connections: Annotated[int, Parameter("connections of each client", least=1, most=5000)] = 100,
    pause: Annotated[float, Parameter("pause between two connections", unit="s", least=0.0)] = 0.2,
    learns: Annotated[
        bool, Parameter("the router learns from announcements (RFC 9131), unlike Linux by default")
    ] = False,
) -> None:
    run.witness(connections=2 * connections)
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan, learns=learns)
    server = await run.host("www", server_lan)
    await server.serve(80, echo)
    router = await run.routing()
    seen: Counter[int] = Counter()
    forgot = False
    await run.observe(client_lan, lambda when, frame: seen.update(_kind(frame)))
    costs: dict[Addressing, dict[str, float]] = {}
    for kind in Addressing:
        ready = 4 if kind is Addressing.ONE_TIME else 0
        client = await run.node(kind.value.replace("-", ""), client_lan, addressing=kind, ready=ready)
        await asyncio.sleep(5)  # what starting costs is not what a connection costs
        seen.clear()
        before, since = router.neighbors().entries, run.now()
        setup: list[float] = []
        for _ in range(connections):
            began = run.now()
            streams = await open_connection(client, server.address, 80)
            setup.append(run.now() - began)
            run.require_quietly(await exchange(*streams, b"GET /"), "Every connection is served")
            await asyncio.sleep(pause)
        await released(client)
        await asyncio.sleep(3)
        per = {name: seen[type_] / connections for type_, name in NAMES.items()}
        forgot = forgot or (run.now() - since > LONG and router.neighbors().entries >= MANY)
        per[CACHE] = max(router.neighbors().entries - before, 0) / connections
        for name, value in per.items():
            run.measure(name, value, of=kind.value)
        run.measure("setup", sum(setup) / len(setup), "s", of=kind.value)
        costs[kind] = per
    if forgot:
        run.remark(
            "The router forgets neighbours meanwhile, which takes from its entries per connection: let the runs be shorter."
        )
    _judge(run, costs)
    _show(run, costs)


def _judge(run: Run, costs: Mapping[Addressing, Mapping[str, float]]) -> None:
    """A prefix of the node's own costs nothing; an on-link address its probe, its promotion and its reports."""
    one_time, dedicated, fixed = (costs[kind] for kind in (Addressing.ONE_TIME, Addressing.DEDICATED, Addressing.FIXED))
    run.require(
        "A dedicated prefix costs the link no more than a fixed address",
        sum(dedicated.values()) <= sum(fixed.values()) + 0.5,
        "UM-POOL-4",
        because=f"{sum(dedicated.values()):.2f} against {sum(fixed.values()):.2f} messages and entries per connection",
    )
    run.require(
        "An on-link one-time address costs at least its probe, its promotion and two reports",
        one_time["neighbor solicitations"] >= 1
        and one_time["neighbor advertisements"] >= 1
        and one_time["MLD reports"] >= 2,
        "UM-ADDR-7",
        "UM-ADDR-8",
        because=", ".join(f"{value:.2f} {name}" for name, value in one_time.items()),
    )


def _show(run: Run, costs: Mapping[Addressing, Mapping[str, float]]) -> None:
    messages = {kind: sum(per.values()) - per[CACHE] for kind, per in costs.items()}
    run.answer(
        f"On a shared link a one-time address costs {messages[Addressing.ONE_TIME]:.1f} ND and MLD messages and "
        f"{costs[Addressing.ONE_TIME][CACHE]:.1f} entries in the router's cache per connection; a fixed one "
        f"{messages[Addressing.FIXED]:.2f}, one on a prefix of the node's own {messages[Addressing.DEDICATED]:.2f}."
    )
    columns = ("client's addresses", *NAMES.values(), CACHE)
    rows = [(kind.value, *(f"{value:.2f}" for value in per.values())) for kind, per in costs.items()]
    run.show(Table(title="Per connection, on the client's LAN", columns=columns, rows=rows, caption=_CAPTION))
    run.show(
        Bars(
            title="Messages and entries per connection",
            categories=list(columns[1:]),
            series={kind.value: list(per.values()) for kind, per in costs.items()},
            y="per connection",
            caption=_CAPTION,
        )
    )


_CAPTION = (
    "This is the price: a pool refills itself, so every address used costs a probe and two sets of group reports, and "
    "the router resolves it. A Linux router keeps 1,024 neighbours by default, for the whole machine."
)


def _kind(frame: bytes) -> tuple[int, ...]:
    """The ICMPv6 type of a frame, or nothing."""
    packet = frame[ethernet.HEADER_LENGTH :]
    if len(packet) < 48:
        return ()
    if packet[6] == ipv6.ICMPV6:
        return (packet[40],)
    if packet[6] == ipv6.HOP_BY_HOP and packet[40] == ipv6.ICMPV6:
        return (packet[48],)
    return ()
