"""After an hour of mixed traffic, is everything that was taken given back?

Clients of every port mode open sessions at random, to service addresses and to a legacy server; most end in order, others are
reset, time out against nobody, are abandoned half-way, or never had a listener.  After an hour (of virtual time) and the last
TIME-WAIT the tables of every node must be as empty as they were before: no address in use, no connection, no record, no
armed address, no waiting request.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated

from scenarios.engine import Curves, Impairment, Parameter, Run, Table, echo, exchange, released, scenario
from scenarios.engine.charts import Point
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode
from unimux.aio import open_connection, start_server
from unimux.errors import UnimuxError
from unimux.node import Node
from unimux.poolstate import PoolConfig

ENDINGS = (
    "in order",
    "in order",
    "in order",
    "reset by client",
    "reset by server",
    "abandoned",
    "nobody there",
    "refused",
    "expired",
)


@scenario(
    requirements=("UM-REL-1", "UM-PORT-7", "UM-LIS-5"),
    backends=("sim",),
    shows=("own-pair", "released", "never-again", "speaks-within-life"),
    quick={"duration": 120.0},
    limit=100_000,
)
async def churn(
    run: Run,
    *,
    duration: Annotated[float, Parameter("how long traffic lasts", unit="s", least=10)] = 3600.0,
    rate: Annotated[float, Parameter("sessions per second", unit="1/s", least=0.01, most=50)] = 1.0,
    loss: Annotated[float, Parameter("loss rate of the path", least=0, most=0.2)] = 0.005,
) -> None:
    run.leave_out("complete", "most sessions are broken on purpose")
    run.leave_out("second-opinion", "losses and resets look like what they are")
    run.leave_out("dissectors-agree", "tshark reads the segments that ICMPv6 errors quote as if they were whole")
    path = Impairment(loss=loss, delay=0.005)
    client_lan, server_lan = run.lan("client", to_router=path, from_router=path), run.lan("server")
    run.router(client_lan, server_lan)
    pool = PoolConfig(low=16, high=32, limit=256)
    clients = [await run.node(f"client{i}", client_lan, pool=pool, ready=8) for i in range(2)]
    bob = await run.node("bob", server_lan, pool=pool, ready=8)
    legacy = await run.host("www", server_lan)
    await legacy.serve(80, echo)
    endings: Counter[str] = Counter()
    levels: dict[str, list[Point]] = {"addresses in use": [], "reserved": [], "connections": []}
    start = run.now()
    sampling = asyncio.create_task(_sample(run, levels, [*clients, bob], duration / 200))
    async with asyncio.TaskGroup() as group:
        while run.now() - start < duration:
            run.progress(run.now() - start, duration, "s")
            await asyncio.sleep(run.random.expovariate(rate))
            ending = run.random.choice(ENDINGS)
            endings[ending] += 1
            group.create_task(_session(run, run.random.choice(clients), bob, legacy.address, ending))
    for node in (*clients, bob):
        await released(node, 400)
    sampling.cancel()
    await asyncio.sleep(5)
    alive = _alive([*clients, bob])
    run.measure("connection objects left in memory", alive)
    run.require("No connection is left in memory", not alive, "UM-REL-1", because=f"{alive} objects")
    for name, node in (("client0", clients[0]), ("client1", clients[1]), ("bob", bob)):
        _nothing_left(run, name, node)
    for ending, count in sorted(endings.items()):
        run.measure("sessions", count, of=ending)
    run.answer(
        f"After {duration / 60:g} minutes, {sum(endings.values()):,} sessions and every way to end one, nothing is left: no "
        "address in use, no connection, no record, no armed address, no waiting request."
    )
    run.show(Curves(title="What the nodes held", x="seconds", y="count", series=levels, steps=True))
    rows = [(ending, str(count)) for ending, count in sorted(endings.items())]
    run.show(Table(title="How sessions ended", columns=("ending", "sessions"), rows=rows))


async def _sample(run: Run, levels: Mapping[str, list[Point]], nodes: Sequence[Node], interval: float) -> None:
    """Write down every so many seconds what the nodes hold, until cancelled."""
    start = run.now()
    while True:
        found = {
            "addresses in use": sum(len(node.stack.host.addresses.held()) for node in nodes),
            "reserved": sum(node.pool.ready for node in nodes),
            "connections": sum(len(node.stack.tcp.demux) for node in nodes),
        }
        for name, value in found.items():
            levels[name].append((run.now() - start, float(value)))
        await asyncio.sleep(interval)


def _alive(nodes: Sequence[Node]) -> int:
    """Connections of these nodes that are still objects in memory, in whatever state."""
    gc.collect()
    layers = {id(node.stack.tcp) for node in nodes}
    return sum(isinstance(each, Connection) and id(each.tcp) in layers for each in gc.get_objects())


def _nothing_left(run: Run, name: str, node: Node) -> None:
    """Every table of a node is as empty as before."""
    stack = node.stack
    stack.check()
    found = {
        "addresses in use": len(stack.host.addresses.held()),
        "connections": len(stack.tcp.demux),
        "TIME-WAIT records": len(stack.tcp.time_waits),
        "listeners": len(stack.tcp.listeners),
        "requests for addresses": node.pool.waiting,
    }
    left = {what: count for what, count in found.items() if count}
    run.require(
        f"{name} holds nothing",
        not left,
        "UM-REL-1",
        because=", ".join(f"{n} {what}" for what, n in left.items()) or "all tables empty",
    )


async def _session(run: Run, client: Node, bob: Node, legacy: str, ending: str) -> None:
    """One session with the given ending; errors are what endings are made of."""
    mode = run.random.choice(list(PortMode))
    try:
        if ending == "nobody there":
            await open_connection(client, "2001:db8:2::dead", 80, mode=mode, timeout=3)
        elif ending == "refused":
            await open_connection(client, legacy, 81, mode=mode, timeout=3)
        elif ending == "expired":
            server = start_server(bob, echo, mode=mode, port=80 if mode is PortMode.AWARE else None)
            await server.issue(lifetime=run.random.uniform(0.5, 5))
            await asyncio.sleep(6)
            server.close()
        else:
            await _talk(run, client, bob, legacy, mode, ending)
    except (OSError, TimeoutError, UnimuxError):
        return


async def _talk(run: Run, client: Node, bob: Node, legacy: str, mode: PortMode, ending: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if ending == "reset by server":
            writer.transport.abort()
        else:
            try:
                await asyncio.wait_for(echo(reader, writer), 30)
            except TimeoutError:
                writer.transport.abort()

    server, where = None, legacy
    if ending == "reset by server" or run.random.random() < 0.5:
        server = start_server(bob, serve, mode=mode, port=80 if mode is PortMode.AWARE else None)
        where = str((await server.issue(lifetime=20)).address)
    try:
        streams = await open_connection(client, where, 80, mode=mode, timeout=10)
        data = run.random.randbytes(run.random.randrange(1, 20_000))
        if ending == "reset by client":
            streams[1].write(data)
            await asyncio.sleep(run.random.uniform(0, 0.05))
            streams[1].transport.abort()
        elif ending == "abandoned":
            streams[1].write(data)
            await asyncio.sleep(run.random.uniform(1, 10))
            streams[1].close()
        else:
            await exchange(*streams, data)
    finally:
        if server is not None:
            server.close()
