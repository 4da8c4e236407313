"""How long does TIME-WAIT keep an address, how many does a node hold because of it, and in how much memory?

A client makes connections at random moments and closes each first, so that TIME-WAIT is on its side, with each option: full
(2 MSL), short (a few retransmission time-outs; a one-time pair has no old incarnation to protect) and sharp (none).  By
Little's law the number of addresses held is the rate times the holding time, which the measurement has to show.  Memory is what
the records, their addresses and their entries in the tables take, by the interpreter's account; an open connection beside them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from scenarios.engine import OPTIONS, Bars, Curves, Parameter, Run, Summary, Table, echo, scenario, seconds
from scenarios.engine.footprint import footprint
from tapstack.events import AddressChanged, ConnectionChanged, Event
from tapstack.tcp.options import TimeWait
from unimux.aio import open_connection
from unimux.node import Node
from unimux.poolstate import PoolConfig

OWN = (
    *(
        f"tapstack.tcp.{module}"
        for module in ("connection", "timewait", "emitter", "sender", "receiver", "buffers", "timers")
    ),
    *(f"tapstack.tcp.{module}" for module in ("acknowledged", "ecn", "recovery", "congestion")),
    "tapstack.ipv6.addresses",
)
"""Where the classes are of what one connection has for itself."""


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
    run.witness(connections=3 * arrivals + 1)
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    server = await run.host("www", server_lan)
    await server.serve(80, echo)
    opened, record = await _sizes(await run.node("scales", client_lan), server.address)
    run.measure("memory of an open connection with its address", opened, "B")
    run.measure("memory of a TIME-WAIT record with its address", record, "B")
    held: dict[str, _Held] = {}
    for number, option in enumerate(TimeWait):
        options = replace(OPTIONS, time_wait=option, msl=msl)
        pool = PoolConfig(low=16, high=32, limit=int(rate * 3 * msl) + 300)
        client = await run.node(f"client{option.value}", client_lan, pool=pool, options=options, ready=16)
        start = run.now()
        lives = _Lives(start)
        client.watch(lives.see)
        async with asyncio.TaskGroup() as group:
            for arrival in range(arrivals):
                run.progress(number * arrivals + arrival, len(TimeWait) * arrivals, "connections")
                await asyncio.sleep(run.random.expovariate(rate))
                group.create_task(_session(client, server.address))
        sent_for = run.now() - start
        await client.until(lambda lives=lives: not lives.taken, 3 * msl)  # type: ignore[misc]
        held[option.value] = _little(run, option.value, rate, lives, sent_for, record)
    run.expect("how long full TIME-WAIT holds an address, in seconds", held["full"].life.mean, 2 * msl, within=0.05)
    run.require(
        "A TIME-WAIT record takes less than half of an open connection",
        record < opened / 2,
        "UM-REL-2",
        because=f"{record:,} of {opened:,} bytes",
    )
    _show(run, rate, held)
    run.answer(
        f"At a connection rate of {rate:g}/s full TIME-WAIT holds {held['full'].level:.0f} addresses in "
        f"{held['full'].memory:.1f} kB, short {held['short'].level:.1f} in {held['short'].memory:.1f} kB, "
        f"sharp {held['sharp'].level:.1f} and none; the addresses are dear, the {record:,}-byte records are not."
    )


@dataclass(frozen=True)
class _Held:
    """What the load held with one option.

    life: seconds that an address was in use.  level, memory: addresses in use and kilobytes in TIME-WAIT, means over the load.
    in_use, waiting: both over time.
    """

    life: Summary
    level: float
    memory: float
    in_use: list[tuple[float, float]]
    waiting: list[tuple[float, float]]


def _little(run: Run, option: str, rate: float, lives: _Lives, sent_for: float, record: int) -> _Held:
    """Measure what one option held, beside Little's law; record: bytes in TIME-WAIT of each connection."""
    life = Summary.of(lives.lasted)
    # Over the steady part of the load only: from when the first addresses were given back, to its end.
    begin = min(life.most, sent_for / 2)
    level = _mean_level(lives.steps, begin, sent_for)
    memory = _mean_level(lives.waiting, begin, sent_for) * record / 1000
    run.measure("address held", life.mean, "s", of=option)
    run.measure("addresses held at a time", level, of=option)
    run.measure("memory in TIME-WAIT, mean", memory * 1000, "B", of=option)
    # The level of such a queue is Poisson with mean rate × life; a mean over a window scatters by this much.
    scatter = 3 * rate * life.mean * math.sqrt(2 / (rate * (sent_for - begin)))
    what = f"addresses held at a time, {option} (Little's law)"
    run.expect(what, level, rate * life.mean, interval=(level - scatter, level + scatter))
    return _Held(life, level, memory, lives.steps, [(at, count * record / 1000) for at, count in lives.waiting])


def _show(run: Run, rate: float, held: Mapping[str, _Held]) -> None:
    columns = ("option", "address held, median", "longest", "held at a time, mean", "peak", "memory in TIME-WAIT, mean")
    rows = []
    for option, of in held.items():
        peak = max(count for _, count in of.in_use)
        spent = (f"{of.level:.1f}", f"{peak:.0f}", f"{of.memory:.1f} kB")
        rows.append((option, seconds(of.life.median), seconds(of.life.most), *spent))
    run.show(Table(title="What each option holds", columns=columns, rows=rows))
    in_use = {option: of.in_use for option, of in held.items()}
    waiting = {option: of.waiting for option, of in held.items()}
    run.show(Curves(title="Addresses in use", x="seconds", y="addresses", series=in_use, steps=True))
    run.show(Curves(title="Memory in TIME-WAIT", x="seconds", y="kilobytes", series=waiting, steps=True))
    run.show(
        Bars(
            title="Addresses in use, mean over the load",
            categories=list(held),
            series={"": [of.level for of in held.values()]},
            theory={"rate × time held": [rate * of.life.mean for of in held.values()]},
            y="addresses",
            caption="Each is an entry in the neighbour caches of routers and a group on the link. Sharp does not conform to "
            "RFC 9293: it can leave a legacy peer in LAST-ACK.",
        )
    )


async def _sizes(client: Node, where: str) -> tuple[int, int]:
    """Bytes of an open connection, and of the TIME-WAIT record that is left of it; each with its address."""
    _, writer = await open_connection(client, where, 80)
    sizes = []
    for step in ("open", "TIME-WAIT"):
        if step == "TIME-WAIT":
            writer.close()
            await client.until(lambda: len(client.stack.tcp.time_waits) == 1, 10)
        [pcb] = client.stack.tcp.demux
        sizes.append(footprint(pcb, OWN))
    return sizes[0], sizes[1]


class _Lives:
    """How long addresses were in use; how many were, and how many records waited, at each moment in seconds since `start`."""

    def __init__(self, start: float) -> None:
        self.taken: dict[str, float] = {}
        self.lasted: list[float] = []
        self.steps = [(0.0, 0.0)]
        self.waiting = [(0.0, 0.0)]
        self._start = start

    def see(self, event: Event) -> None:
        """An address was taken or given back, a connection came to TIME-WAIT or ended there."""
        at = event.time - self._start
        if isinstance(event, ConnectionChanged) and "TIME-WAIT" in (event.old, event.new):
            self.waiting.append((at, self.waiting[-1][1] + (1 if event.new == "TIME-WAIT" else -1)))
        if not isinstance(event, AddressChanged):
            return
        if event.old == "UNCERTAIN" and event.new == "PREFERRED":
            self.taken[event.address] = event.time
            self.steps.append((at, self.steps[-1][1] + 1))
        elif event.new == "INVALID" and event.address in self.taken:
            self.lasted.append(event.time - self.taken.pop(event.address))
            self.steps.append((at, self.steps[-1][1] - 1))


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


async def _session(client: Node, where: str) -> None:
    reader, writer = await open_connection(client, where, 80)
    writer.write(b"GET /")
    await reader.readexactly(5)
    writer.close()
