"""How long does TIME-WAIT keep an address, and how many does a node hold because of it?

A client makes connections at random moments and closes each first, so that TIME-WAIT is on its side, with each option: full
(2 MSL), short (a few retransmission time-outs; a one-time pair has no old incarnation to protect) and sharp (none).  By
Little's law the number of addresses held is the rate times the holding time, which the measurement has to show.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Annotated

from scenarios.engine import OPTIONS, Bars, Curves, Parameter, Run, Summary, Table, echo, scenario, seconds
from tapstack.events import AddressChanged, Event
from tapstack.tcp.options import TimeWait
from unimux.aio import open_connection
from unimux.poolstate import PoolConfig


@scenario(
    requirements=("UM-REL-1", "UM-REL-2"),
    backends=("sim",),
    shows=("own-pair", "complete", "released", "never-again"),
    quick={"arrivals": 100, "msl": 5.0},
)
async def time_wait(
    run: Run,
    *,
    rate: Annotated[float, Parameter("connections per second", unit="1/s", least=0.01, most=20)] = 1.0,
    arrivals: Annotated[int, Parameter("connections with each option", least=20, most=20_000)] = 600,
    msl: Annotated[float, Parameter("maximum segment lifetime", unit="s", least=1, most=120)] = 30.0,
) -> None:
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    server = await run.host("www", server_lan)
    await server.serve(80, echo)
    curves, rows, held_means = {}, [], {}
    for option in TimeWait:
        options = replace(OPTIONS, time_wait=option, msl=msl)
        pool = PoolConfig(low=16, high=32, limit=int(rate * 3 * msl) + 300)
        client = await run.node(f"client{option.value}", client_lan, pool=pool, options=options, ready=16)
        start = run.now()
        lives = _Lives(start)
        client.watch(lives.see)
        async with asyncio.TaskGroup() as group:
            for _ in range(arrivals):
                await asyncio.sleep(run.random.expovariate(rate))
                group.create_task(_session(client, server.address))
        sent_for = run.now() - start
        records = len(client.stack.tcp.time_waits)
        await client.until(lambda lives=lives: not lives.taken, 3 * msl)  # type: ignore[misc]
        about = Summary.of(lives.lasted)
        # Over the steady part of the load only: from when the first addresses were given back, to its end.
        begin = min(about.most, sent_for / 2)
        held = _mean_level(lives.steps, begin, sent_for)
        held_means[option] = held
        run.measure("address held", about.mean, "s", of=option.value)
        run.measure("addresses held at a time", held, of=option.value)
        run.measure("TIME-WAIT records at the end of the load", records, of=option.value)
        # The level of such a queue is Poisson with mean rate × life; a mean over a window scatters by this much.
        scatter = 3 * rate * about.mean * math.sqrt(2 / (rate * (sent_for - begin)))
        theory = rate * about.mean
        run.expect(
            f"addresses held at a time, {option.value} (Little's law)",
            held,
            theory,
            interval=(held - scatter, held + scatter),
        )
        curves[option.value] = lives.steps
        rows.append(
            (
                option.value,
                seconds(about.median),
                seconds(about.most),
                f"{held:.1f}",
                str(int(max(n for _, n in lives.steps))),
            )
        )
    full = run.metrics.samples("address held", "full")[0]
    run.expect("how long full TIME-WAIT holds an address, in seconds", full, 2 * msl, within=0.05)
    run.witness(connections=3 * arrivals)
    columns = ("option", "address held, median", "longest", "held at a time, mean", "peak")
    run.show(Table(title="What each option holds", columns=columns, rows=rows))
    run.show(Curves(title="Addresses in use", x="seconds", y="addresses", series=curves, steps=True))
    run.show(
        Bars(
            title="Addresses in use, mean over the load",
            categories=[option.value for option in TimeWait],
            series={"": list(held_means.values())},
            y="addresses",
            caption="Each is an entry in the neighbour caches of routers and a group on the link. Sharp does not conform to "
            "RFC 9293: it can leave a legacy peer in LAST-ACK.",
        )
    )


class _Lives:
    """How long addresses were in use, and how many at each moment, in seconds since `start`."""

    def __init__(self, start: float) -> None:
        self.taken: dict[str, float] = {}
        self.lasted: list[float] = []
        self.steps = [(0.0, 0.0)]
        self._start = start

    def see(self, event: Event) -> None:
        """An address was taken or given back."""
        if not isinstance(event, AddressChanged):
            return
        if event.old == "UNCERTAIN" and event.new == "PREFERRED":
            self.taken[event.address] = event.time
            self.steps.append((event.time - self._start, self.steps[-1][1] + 1))
        elif event.new == "INVALID" and event.address in self.taken:
            self.lasted.append(event.time - self.taken.pop(event.address))
            self.steps.append((event.time - self._start, self.steps[-1][1] - 1))


def _mean_level(steps: list[tuple[float, float]], begin: float, end: float) -> float:
    """The mean of a step function between two times.

    >>> _mean_level([(0.0, 0.0), (1.0, 2.0), (3.0, 0.0)], 0.0, 4.0)
    1.0
    """
    later = [*(at for at, _ in steps[1:]), math.inf]
    area = sum(
        level * max(min(until, end) - max(at, begin), 0.0) for (at, level), until in zip(steps, later, strict=True)
    )
    return area / (end - begin)


async def _session(client: object, where: str) -> None:
    reader, writer = await open_connection(client, where, 80)  # type: ignore[arg-type]
    writer.write(b"GET /")
    await reader.readexactly(5)
    writer.close()
