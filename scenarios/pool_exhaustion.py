"""At which connection rate does a pool of addresses run dry, and what do users see then?

Connections begin at random (Poisson) at several rates; the pool may hold so many addresses and refuses when it has none.  An
address is busy from being taken until its successor has passed duplicate address detection.  That is a queue with as many
servers as the pool has addresses and no waiting room, so theory knows the share that is refused: Erlang's loss formula.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from scenarios.engine import Curves, Parameter, Run, Summary, echo, scenario, seconds, wilson
from tapstack.events import AddressChanged, Event
from unimux.aio import open_connection
from unimux.errors import PoolExhausted
from unimux.node import Node
from unimux.poolstate import PoolConfig, WhenEmpty


@scenario(
    requirements=("UM-POOL-1", "UM-POOL-3", "UM-POOL-5"),
    backends=("sim",),
    shows=("own-pair", "released", "never-again"),
    quick={"arrivals": 300, "rates": 3},
    limit=100_000,
)
async def pool_exhaustion(
    run: Run,
    *,
    size: Annotated[int, Parameter("addresses in the pool", least=1, most=200)] = 8,
    hold: Annotated[float, Parameter("mean time that a session lasts", unit="s", least=0.1)] = 2.0,
    arrivals: Annotated[int, Parameter("connections tried at each rate", least=50, most=100_000)] = 1000,
    rates: Annotated[int, Parameter("how many rates, up to twice the ceiling", least=2, most=20)] = 5,
) -> None:
    run.witness(connections=0)
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    server = await run.host("www", server_lan)
    await server.serve(80, echo)
    pool = PoolConfig(low=size, high=size, limit=size, pace=0.001, when_empty=WhenEmpty.FAIL)
    client = await run.node("client", client_lan, pool=pool, ready=size)
    busy = _BusyTimes()
    client.watch(busy.see)
    load = _Load(run, client, server.address, hold, rates * arrivals)
    measured, theory = [], []
    ceiling = size / (hold + 1.0)
    try:
        for step in range(1, rates + 1):
            rate = 2 * ceiling * step / rates
            busy.samples.clear()
            refused = await load.offer(rate, arrivals)
            await client.until(lambda: client.pool.ready == size, 120)
            mean = Summary.of(busy.samples).mean
            expected = erlang_loss(size, rate * mean)
            measured.append((rate, *_beside_theory(run, rate, refused, arrivals, mean, expected)))
            theory.append((rate, expected))
    finally:  # the judge of an interrupted run has to know, too
        run.witness(aborted=tuple(busy.taken))
    _told_why(run, load.complaints)
    run.say(
        f"An address is busy for {seconds(mean)} per session: {size} carry {size / mean:.2f} sessions per second at most."
    )
    run.answer(
        f"{size} addresses, busy for {seconds(mean)} per session, carry {size / mean:.2f} sessions a second at most; at that "
        f"rate {erlang_loss(size, size):.0%} are refused by Erlang's formula, which the measurement follows, and are told why."
    )
    run.show(
        Curves(
            title="Share of connections refused",
            x="connections per second",
            y="share refused",
            series={"measured": measured},
            theory={"Erlang's loss formula": theory},
            joined=False,
            caption=f"{size} addresses, sessions of {seconds(hold)} on average, exponential. "
            f"The ceiling is {size / mean:.2f} per second.",
        )
    )


class _Load:
    """Connections that begin at random and last at random; `complaints` is what those were told that found the pool empty."""

    def __init__(self, run: Run, client: Node, where: str, hold: float, total: int) -> None:
        self.complaints: list[str] = []
        self._run, self._client, self._where, self._hold = run, client, where, hold
        self._begun, self._total = 0, total

    async def offer(self, rate: float, arrivals: int) -> int:
        """So many connections at so many per second; how many of them were refused."""
        random, refused = self._run.random, 0
        async with asyncio.TaskGroup() as group:
            for _ in range(arrivals):
                self._run.progress(self._begun, self._total, "connections")
                self._begun += 1
                await asyncio.sleep(random.expovariate(rate))
                # What is asked of the pool is asked here, so that the task below cannot fail for another reason.
                if self._client.pool.ready == 0:
                    refused += 1
                    self.complaints.append(await self._complaint())
                else:
                    group.create_task(self._session(random.expovariate(1 / self._hold)))
        return refused

    async def _session(self, lasts: float) -> None:
        _, writer = await open_connection(self._client, self._where, 80)
        await asyncio.sleep(lasts)
        writer.transport.abort()

    async def _complaint(self) -> str:
        try:
            await open_connection(self._client, self._where, 80, timeout=0.5)
        except PoolExhausted as error:
            return str(error)
        return "it connected after all"


def _beside_theory(
    run: Run, rate: float, refused: int, arrivals: int, busy: float, expected: float
) -> tuple[float, float, float]:
    """Compare the share that was refused at a rate with theory; that share and its 95 % interval."""
    share, (low, high) = refused / arrivals, wilson(refused, arrivals)
    run.measure("refused", share, of=f"{rate:.2f}/s")
    run.measure("address busy", busy, "s", of=f"{rate:.2f}/s")
    # Samples of a queue depend on each other, so the interval is widened threefold.
    interval = (max(share - 3 * (share - low), 0.0), share + 3 * (high - share))
    run.expect(f"refused at {rate:.2f}/s", share, expected, interval=interval)
    return share, low, high


def _told_why(run: Run, words: Sequence[str]) -> None:
    complaints = sorted(set(words))
    told = all("address" in text for text in complaints)
    because = complaints[0] if complaints else "nobody was refused"
    run.require("Whoever is refused is told why", told, "UM-POOL-5", because=because)


class _BusyTimes:
    """How long each place in the pool was busy: from being taken until its successor is reserved, first come first served."""

    def __init__(self) -> None:
        self.samples: list[float] = []
        self.taken: list[str] = []
        self._since: list[float] = []

    def see(self, event: Event) -> None:
        """An address was taken, or one became ready."""
        if isinstance(event, AddressChanged):
            if event.old == "UNCERTAIN" and event.new == "PREFERRED":
                self._since.append(event.time)
                self.taken.append(event.address)
            elif event.new == "UNCERTAIN" and self._since:
                self.samples.append(event.time - self._since.pop(0))


def erlang_loss(servers: int, offered: float) -> float:
    """The share of calls that a group of servers without waiting room loses; `offered` is rate times mean busy time.

    >>> round(erlang_loss(1, 1.0), 3), round(erlang_loss(10, 5.0), 4)
    (0.5, 0.0184)
    """
    loss = 1.0
    for number in range(1, servers + 1):
        loss = offered * loss / (number + offered * loss)
    return loss
