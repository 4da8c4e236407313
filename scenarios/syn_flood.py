"""What do spoofed SYNs do to honest clients of a legacy server, and of a service on one-time addresses?

An attacker sends SYNs from addresses that are not its own, at a steady rate; honest clients connect meanwhile.  A legacy
server has one address that everybody knows: without SYN cookies it loses its clients, with them it lives.  Against one-time
addresses the attacker has nothing to aim at and floods the prefix at random: on a shared link every guess makes the router look
for a neighbour, which can fill its cache and hurt everybody behind it (RFC 6583); on a prefix that is routed to the node it does
nothing.  Last, the address has leaked.
"""

from __future__ import annotations

import asyncio
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
    rows, success = [], {}
    for target in TARGETS:
        node = owned if target == "one-time, own prefix" else shared
        server = None if target.startswith("legacy") else start_server(node, echo)
        known = bare.address if target == "legacy" else legacy.address
        leaked = (
            await server.issue(lifetime=600, sessions=clients + 1) if server and target == "one-time, leaked" else None
        )
        aim = _Aim(run, server_lan, known if server is None else str(leaked.address) if leaked else None, node)
        flood = asyncio.create_task(_flood(run, mallory, aim, rate))
        await asyncio.sleep(3)
        overflows = router.neighbors().overflows
        served, took = 0, []
        for _ in range(clients):
            await asyncio.sleep(gap)
            where = known if server is None else str(leaked.address) if leaked else await _fresh(server)
            began = run.now()
            if await _ask(honest, where):
                served += 1
                took.append(run.now() - began)
        entries, refused = router.neighbors().entries, router.neighbors().overflows - overflows
        flood.cancel()
        if server is not None:
            server.close()
        share = success[target] = served / clients
        run.measure("served", share, of=target)
        for sample in took:
            run.measure("latency", sample, "s", of=target)
        rows.append((target, f"{served} of {clients}", f"{entries:,}", f"{refused:,}"))
        run.witness(aborted=tuple(aim.aborted), sessions={str(leaked.address): clients + 1} if leaked else {})
        # On a shared link the router has to forget what it could not find.
        await asyncio.sleep(20 if target == "one-time, shared link" else 1)
    run.require(
        "SYNs at random do not reach a service on its own prefix", success["one-time, own prefix"] == 1, "UM-POOL-4"
    )
    run.require("A leaked address serves its clients nevertheless", success["one-time, leaked"] >= 0.9, "UM-LIS-3")
    run.require("SYN cookies keep a legacy server going", success["legacy, SYN cookies"] >= 0.9)
    lost = success["legacy"] < success["legacy, SYN cookies"]
    run.require("Without them it loses clients", lost, because=f"{success['legacy']:.0%} served")
    run.answer(
        f"{rate:g} spoofed SYNs a second leave a legacy server {success['legacy']:.0%} of its clients, with SYN cookies "
        f"{success['legacy, SYN cookies']:.0%}; a leaked one-time address {success['one-time, leaked']:.0%}, one on a prefix "
        f"of its own {success['one-time, own prefix']:.0%}; a flood of the whole shared prefix hits the router and leaves "
        f"{success['one-time, shared link']:.0%}."
    )
    run.leave_out("complete", "handshakes of the flood are never completed")
    run.leave_out("second-opinion", "a flood looks like one")
    run.show(
        Table(
            title="Honest clients under the flood",
            columns=("target", "served", "router's neighbour entries", "entries it refused"),
            rows=rows,
            caption="A shared link under a flood of its prefix is the weak place: the router has to ask for every address. "
            "Filtering at the router, or a prefix of the node's own, is the remedy.",
        )
    )
    run.show(
        Bars(
            title="Share of honest clients served",
            categories=list(TARGETS),
            series={"": list(success.values())},
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
