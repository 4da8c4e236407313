"""What do spoofed SYNs do to honest clients of a legacy server, and of a service on one-time addresses?

An attacker sends SYNs from addresses that are not its own, at a steady rate; honest clients connect meanwhile.  A legacy
server has one address that everybody knows: without SYN cookies it loses its clients, with them it lives.  Against one-time
addresses the attacker has nothing to aim at and floods the prefix at random: on a shared link every guess makes the router look
for a neighbour, which can fill its cache and hurt everybody behind it (RFC 6583); on a prefix that is routed to the node it does
nothing.  Last, the address has leaked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from scenarios.engine import Addressing, Bars, Ecdf, Lan, Parameter, Raw, Run, Table, echo, exchange, scenario
from scenarios.engine.raw import segment
from tapstack.types import address_text
from tapstack.wire import tcp
from unimux.aio import open_connection, start_server
from unimux.node import Node
from unimux.server import Server

TARGETS = ("legacy", "legacy, SYN cookies", "one-time, shared link", "one-time, own prefix", "one-time, leaked")


@scenario(
    requirements=("UM-LIS-3", "UM-POOL-4", "UM-NODE-5"),
    shows=("speaks-within-life", "released"),
    quick={"clients": 8, "rate": 300.0},
)
async def syn_flood(
    run: Run,
    *,
    rate: Annotated[float, Parameter("spoofed SYNs per second", unit="1/s", least=1, most=20_000)] = 1000.0,
    clients: Annotated[int, Parameter("honest connections to each target", least=1, most=2000)] = 20,
    gap: Annotated[float, Parameter("time between two honest connections", unit="s", least=0.01)] = 0.25,
) -> None:
    run.leave_out("complete", "handshakes of the flood are never completed")
    run.leave_out("second-opinion", "a flood looks like one")
    client_lan, server_lan, outside = run.lan("client"), run.lan("server"), run.lan("outside")
    run.router(client_lan, server_lan, outside)
    bare, legacy = await run.host("bare", server_lan), await run.host("www", server_lan)
    await bare.serve(80, echo, cookies=False)
    await legacy.serve(80, echo)
    shared = await run.node("shared", server_lan, ready=8)
    owned = await run.node("owned", server_lan, addressing=Addressing.DEDICATED)
    honest = await run.node("honest", client_lan, ready=8)
    mallory = await run.raw("mallory", outside)
    router = await run.routing()
    fared: dict[str, _Fared] = {}
    for target in TARGETS:
        node = owned if target == "one-time, own prefix" else shared
        server = None if target.startswith("legacy") else start_server(node, echo)
        known = bare.address if target == "legacy" else legacy.address if server is None else None
        leaked = None
        if server is not None and target == "one-time, leaked":
            leaked = known = str((await server.issue(lifetime=600, sessions=clients + 1)).address)
        aim = _Aim(run, server_lan, known, node)
        flood = asyncio.create_task(_flood(run, mallory, aim, rate))
        await asyncio.sleep(3)
        overflows = router.neighbors().overflows
        took = await _honest_work(run, honest, server, known, clients, gap)
        entries, refused = router.neighbors().entries, router.neighbors().overflows - overflows
        flood.cancel()
        if server is not None:
            server.close()
        fared[target] = _Fared(len(took) / clients, f"{len(took)} of {clients}", entries, refused)
        run.measure("served", fared[target].share, of=target)
        for sample in took:
            run.measure("latency", sample, "s", of=target)
        run.witness(aborted=tuple(aim.aborted), sessions={leaked: clients + 1} if leaked else {})
        # On a shared link the router has to forget what it could not find.
        await asyncio.sleep(20 if target == "one-time, shared link" else 1)
    _judge(run, {target: each.share for target, each in fared.items()}, rate)
    _show(run, fared)


@dataclass(frozen=True)
class _Fared:
    """How honest clients of one target fared: the share that was served, and the router's neighbour cache meanwhile."""

    share: float
    served: str
    entries: int
    refused: int


async def _honest_work(
    run: Run, honest: Node, server: Server | None, known: str | None, clients: int, gap: float
) -> list[float]:
    """Connect so many times, to the address that is known or to a fresh one each; seconds to an answer, of those served."""
    took = []
    for _ in range(clients):
        await asyncio.sleep(gap)
        where = known
        if where is None:
            assert server is not None
            where = await _fresh(server)
        began = run.now()
        if await _ask(honest, where):
            took.append(run.now() - began)
    return took


def _judge(run: Run, share: Mapping[str, float], rate: float) -> None:
    run.require(
        "SYNs at random do not reach a service on its own prefix", share["one-time, own prefix"] == 1, "UM-POOL-4"
    )
    run.require("A leaked address serves its clients nevertheless", share["one-time, leaked"] >= 0.9, "UM-LIS-3")
    run.require("SYN cookies keep a legacy server going", share["legacy, SYN cookies"] >= 0.9)
    lost = share["legacy"] < share["legacy, SYN cookies"]
    run.require("Without them it loses clients", lost, because=f"{share['legacy']:.0%} served")
    run.answer(
        f"{rate:g} spoofed SYNs a second leave a legacy server {share['legacy']:.0%} of its clients, with SYN cookies "
        f"{share['legacy, SYN cookies']:.0%}; a leaked one-time address {share['one-time, leaked']:.0%}, one on a prefix "
        f"of its own {share['one-time, own prefix']:.0%}; a flood of the whole shared prefix hits the router and leaves "
        f"{share['one-time, shared link']:.0%}."
    )


def _show(run: Run, fared: Mapping[str, _Fared]) -> None:
    run.show(
        Table(
            title="Honest clients under the flood",
            columns=("target", "served", "router's neighbour entries", "entries it refused"),
            rows=[(target, of.served, f"{of.entries:,}", f"{of.refused:,}") for target, of in fared.items()],
            caption="A shared link under a flood of its prefix is the weak place: the router has to ask for every address. "
            "Filtering at the router, or a prefix of the node's own, is the remedy.",
        )
    )
    run.show(
        Bars(
            title="Share of honest clients served",
            categories=list(TARGETS),
            series={"": [of.share for of in fared.values()]},
            y="share",
        )
    )
    latency = {target: run.metrics.samples("latency", target) for target in TARGETS}
    run.show(
        Ecdf(
            title="Time to an answer, of those served",
            x="seconds",
            series={k: v for k, v in latency.items() if v},
            log=True,
        )
    )


class _Aim:
    """Where the next spoofed SYN goes: a known address, or one at random in the node's prefix."""

    def __init__(self, run: Run, lan: Lan, known: str | None, node: Node) -> None:
        self._random = run.random
        self._known = known
        dedicated = next((p.prefix for p in node.stack.host.prefixes if p.dedicated), None)
        self._prefix = (dedicated or lan.network[0].packed)[:8]
        self.aborted = [known] if known else []

    def next(self) -> str:
        """An address."""
        return self._known or address_text(self._prefix + self._random.randbytes(8))


async def _flood(run: Run, mallory: Raw, aim: _Aim, rate: float) -> None:
    """Spoofed SYNs in batches of ten milliseconds."""
    due = 0.0
    while True:
        due += rate * 0.01
        while due >= 1:
            due -= 1
            source = address_text(bytes.fromhex("20010db8ffff0000") + run.random.randbytes(8))
            ports = (run.random.randrange(1024, 65536), 80)
            mallory.send(segment(source, aim.next(), ports, tcp.SYN, seq=run.random.randrange(2**32)))
        await asyncio.sleep(0.01)


async def _fresh(server: Server) -> str:
    return str((await server.issue(timeout=30)).address)


async def _ask(client: Node, where: str) -> bool:
    try:
        streams = await open_connection(client, where, 80, timeout=3.0)
    except OSError:
        return False
    return await exchange(*streams, b"GET /", timeout=3.0)
