"""How much goodput is left on a bad path, and which congestion controller does best on it?

A client fetches a file over a path with a bottleneck, a delay and random loss, with each congestion controller at each loss
rate.  One-time addresses change nothing here, and that is the point: the transfer is the same TCP.  The square-root law
(Mathis et al., 1997) gives what a controller like Reno can expect: 1.22 segments per round trip over the root of the loss rate.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from dataclasses import replace
from typing import Annotated

from scenarios.engine import OPTIONS, Curves, Ecdf, Impairment, Parameter, Run, scenario
from scenarios.engine.charts import Point
from tapstack.events import Event
from tapstack.tcp.congestion.base import known
from unimux.aio import open_connection, start_server

MSS = 1428.0
"""Bytes of a segment with timestamps at an MTU of 1,500."""


@scenario(
    requirements=("ST-TCP-6",),
    shows=("complete", "own-pair", "released"),
    quick={"size": 300_000, "losses": "0,0.01"},
)
async def impaired(
    run: Run,
    *,
    size: Annotated[int, Parameter("bytes of the file", unit="B", least=1000, most=1_000_000_000)] = 5_000_000,
    delay: Annotated[float, Parameter("one-way delay", unit="s", least=0, most=2)] = 0.02,
    rate: Annotated[float, Parameter("bottleneck", unit="bit/s", least=10_000)] = 50e6,
    queue: Annotated[int, Parameter("bytes that may wait at the bottleneck", unit="B", least=1500)] = 250_000,
    losses: Annotated[str, Parameter("loss rates, separated by commas")] = "0,0.0003,0.001,0.003,0.01,0.03",
    reorder: Annotated[float, Parameter("share of frames that are overtaken", least=0, most=1)] = 0.0,
) -> None:
    controllers = known()
    rates = [float(loss) for loss in losses.split(",")]
    client_lan = run.lan("client")
    data = run.random.randbytes(size)
    digest = hashlib.sha256(data).digest()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        writer.close()

    goodput: dict[str, list[Point]] = {name: [] for name in controllers}
    windows: dict[str, list[Point]] = {}
    links = []
    for number, loss in enumerate(rates):
        down = Impairment(loss=loss, delay=delay, rate=rate, queue_limit=queue, reorder=reorder)
        links.append(run.lan(f"server{number}", to_router=down, from_router=Impairment(delay=delay)))
    run.router(client_lan, *links)
    alice = await run.node("alice", client_lan, ready=8)
    for number, loss in enumerate(rates):
        for controller in controllers:
            options = replace(OPTIONS, congestion=controller, trace=loss == rates[min(len(rates) - 1, 4)])
            bob = await run.node(f"bob{number}{controller}", links[number], options=options, ready=1)
            trace = windows.setdefault(controller, []) if options.trace else None
            if trace is not None:
                start = run.now()
                bob.watch(lambda event, trace=trace, start=start: _trace(event, trace, start))  # type: ignore[misc]
            server = start_server(bob, serve)
            ssa = await server.issue()
            began = run.now()
            reader, writer = await open_connection(alice, ssa.address, None, options=options)
            received = await reader.read(-1)
            took = run.now() - began
            writer.close()
            run.require_quietly(hashlib.sha256(received).digest() == digest, "Every file arrived equal", "UM-NODE-2")
            run.measure("completion", took, "s", of=f"{controller}, loss {loss:g}")
            run.measure("goodput", size * 8 / took, "bit/s", of=f"{controller}, loss {loss:g}")
            goodput[controller].append((max(loss, 1e-5), size * 8 / took / 1e6))
    run.witness(connections=len(rates) * len(controllers))
    run.leave_out("second-opinion", "losses look like losses")
    rtt = 2 * delay + 0.002
    law = [
        (loss, min(1.22 * MSS * 8 / rtt / math.sqrt(loss), rate) / 1e6)
        for loss in sorted({*rates, 1e-4, 1e-3, 1e-2})
        if loss > 0
    ]
    run.show(
        Curves(
            title=f"Goodput over loss: {rate / 1e6:g} Mbit/s, {rtt * 1000:.0f} ms round trip",
            x="loss rate (no loss is drawn at 0.00001)",
            y="Mbit/s",
            log_x=True,
            log_y=True,
            series=goodput,
            theory={"square-root law": law},
        )
    )
    if windows:
        thinned: dict[str, list[Point]] = {name: _thinned(points) for name, points in windows.items()}
        run.show(
            Curves(
                title=f"Congestion windows at a loss of {rates[min(len(rates) - 1, 4)]:g}",
                x="seconds",
                y="bytes",
                series=thinned,
            )
        )
    run.show(
        Ecdf(
            title="Completion times over all loss rates",
            x="seconds",
            series={name: [size * 8 / (point[1] * 1e6) for point in points] for name, points in goodput.items()},
            log=True,
        )
    )


def _trace(event: Event, into: list[Point], start: float) -> None:
    """Keep the congestion window of a trace event."""
    window = getattr(event, "cwnd", None)
    if window is not None:
        into.append((event.time - start, float(window)))


def _thinned(points: list[Point], most: int = 600) -> list[Point]:
    """At most so many of the points, evenly."""
    step = max(1, len(points) // most)
    return points[::step]
