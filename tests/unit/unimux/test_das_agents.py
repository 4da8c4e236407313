"""Delayed address setting from asyncio: agents that supply addresses, or do not do their job."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest

from tapstack.clock import run_virtual
from tapstack.ipv6.addresses import AddressEntry, AddressState
from tapstack.types import address, address_text
from tests.unit.unimux.needs import GOOD, T, want
from tests.unit.unimux.poolbench import EA, PEER, PoolBench, filled
from unimux.das import (
    AgentCaller,
    AutoSet,
    DasRequired,
    Policy,
    Want,
    obtain,
)
from unimux.errors import UnimuxError
from unimux.pool import PoolConfig


class Clockwork:
    """Runs a bench's timers in the running loop, as the driver does for a stack."""

    def __init__(self, bench: PoolBench) -> None:
        self.bench = bench
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time() - bench.now
        self._handle: asyncio.TimerHandle | None = None

    def now(self) -> float:
        return self._loop.time() - self._start

    def kick(self) -> None:
        self._loop.call_soon(self._run)

    def _run(self) -> None:
        self.bench.run_until(self.now())
        if self._handle is not None:
            self._handle.cancel()
        due = self.bench.timers.deadline()
        if due is not None:
            self._handle = self._loop.call_at(due + self._start, self._run)

    def obtain(self, policy: Policy, wait: float = 10.0) -> Coroutine[Any, Any, AddressEntry]:
        self.bench.run_until(self.now())
        return obtain(policy, want(self.bench, wait), self.bench.host.addresses, self.now, self.kick)


def virtual(story: Callable[[Clockwork], Awaitable[T]], bench: PoolBench) -> T:
    """Run a story on the bench in virtual time."""

    async def main() -> T:
        clockwork = Clockwork(bench)
        clockwork.kick()
        return await story(clockwork)

    return run_virtual(main(), start=bench.now)


def agent_of(bench: PoolBench, clockwork: Clockwork, agent: Any) -> DasRequired:
    das = DasRequired(bench.pool, bench.stream)
    das.on_need = AgentCaller(das, agent, clockwork.now, clockwork.kick)
    return das


@pytest.mark.proves("UM-DAS-2", by="api")
def test_obtain_from_the_pool_at_once_and_after_waiting() -> None:
    bench = filled(PoolConfig(low=2, high=2, limit=20))

    async def story(clockwork: Clockwork) -> list[AddressEntry]:
        policy = AutoSet(bench.pool)
        return await asyncio.gather(*(clockwork.obtain(policy) for _ in range(5)))

    entries = virtual(story, bench)
    assert len({entry.address for entry in entries}) == 5
    assert {entry.state for entry in entries} == {AddressState.PREFERRED}


@pytest.mark.proves("UM-DAS-3", by="api")
def test_an_agent_supplies_the_address() -> None:
    bench = filled()
    seen: list[Want] = []

    async def agent(asked: Want) -> str:
        seen.append(asked)
        await asyncio.sleep(2.0)
        return GOOD

    async def story(clockwork: Clockwork) -> tuple[AddressEntry, float]:
        begin = clockwork.now()
        entry = await clockwork.obtain(agent_of(bench, clockwork, agent))
        return entry, clockwork.now() - begin

    entry, took = virtual(story, bench)
    assert address_text(entry.address) == GOOD
    assert 3.0 <= took < 3.2
    assert [(asked.purpose.who, asked.destination) for asked in seen] == [("curl", PEER)]


@pytest.mark.proves("UM-DAS-3", by="api")
def test_an_agent_is_asked_again_after_a_duplicate() -> None:
    bench = filled(claims=lambda target: target == GOOD)
    offers = iter([GOOD, "2001:db8:1::2"])

    async def agent(asked: Want) -> str:
        return next(offers)

    async def story(clockwork: Clockwork) -> AddressEntry:
        return await clockwork.obtain(agent_of(bench, clockwork, agent))

    assert address_text(virtual(story, bench).address) == "2001:db8:1::2"


async def nonsense(asked: Want) -> str:
    return "not an address"


async def short(asked: Want) -> bytes:
    return b"short"


async def foreign(asked: Want) -> str:
    return "2001:db8:7::1"


async def failing(asked: Want) -> str:
    raise RuntimeError("database down")


async def slow(asked: Want) -> str:
    raise TimeoutError("database slow")


async def silent(asked: Want) -> str:
    await asyncio.sleep(1e6)
    return GOOD


@pytest.mark.proves("UM-DAS-3", by="api")
@pytest.mark.parametrize(
    ("agent", "message", "latest"),
    [
        (nonsense, "gave no IPv6 address", 0.1),
        (short, "gave no IPv6 address", 0.1),
        (foreign, "in no prefix of this node", 0.1),
        (failing, r"the agent failed \(database down\)", 0.1),
        (slow, r"the agent failed \(database slow\)", 0.1),
        (silent, "No address was set within 10 s", 10.1),
    ],
)
def test_an_agent_that_does_not_do_its_job_is_an_error_never_a_hang(agent: Any, message: str, latest: float) -> None:
    bench = filled()

    async def story(clockwork: Clockwork) -> float:
        begin = clockwork.now()
        with pytest.raises(UnimuxError, match=message):
            await clockwork.obtain(agent_of(bench, clockwork, agent))
        return clockwork.now() - begin

    assert virtual(story, bench) <= latest
    assert bench.pool.held == 0


@pytest.mark.proves("UM-DAS-3", by="api")
def test_the_address_of_a_late_agent_is_not_offered_to_who_has_left() -> None:
    """The first socket gave up; what the agent has at last is for the one that waits now."""
    bench = filled()

    async def story(clockwork: Clockwork) -> AddressEntry:
        offers: asyncio.Queue[str] = asyncio.Queue()

        async def agent(asked: Want) -> str:
            return await offers.get()

        policy = agent_of(bench, clockwork, agent)
        left = asyncio.ensure_future(clockwork.obtain(policy))
        await asyncio.sleep(1.0)
        left.cancel()
        await asyncio.wait([left])
        waiting = asyncio.ensure_future(clockwork.obtain(policy))
        offers.put_nowait(GOOD)
        return await waiting

    assert address_text(virtual(story, bench).address) == GOOD


@pytest.mark.proves("UM-DAS-3", by="api")
def test_cancelling_gives_back_what_was_on_its_way() -> None:
    bench = filled(PoolConfig(low=0, high=0, limit=20))
    offers = iter(["2001:db8:1::1", "2001:db8:1::2"])

    async def agent(asked: Want) -> str:
        return next(offers)

    async def story(clockwork: Clockwork) -> None:
        for policy in (AutoSet(bench.pool), agent_of(bench, clockwork, agent)):
            for patience in (0.0, 0.5):
                task = asyncio.ensure_future(clockwork.obtain(policy))
                await asyncio.sleep(patience)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        await asyncio.sleep(10.0)

    virtual(story, bench)
    bench.run(5.0)
    assert next(offers, None) is None, "both were asked for"
    assert bench.pool.held == bench.pool.waiting == 0
    assert address("2001:db8:1::1") not in bench.host.addresses
    assert address("2001:db8:1::2") not in bench.host.addresses


@pytest.mark.parametrize("cancel_first", [False, True])
def test_cancelled_in_the_very_moment_of_the_answer_the_address_is_released(cancel_first: bool) -> None:
    """The answer comes before the task has seen its cancellation, or the cancellation before it has seen the answer."""
    bench = filled(PoolConfig(low=0, high=0, limit=20))

    async def story(clockwork: Clockwork) -> None:
        task = asyncio.ensure_future(clockwork.obtain(AutoSet(bench.pool)))
        await asyncio.sleep(0.0)
        if cancel_first:
            task.cancel()
        held = []
        stop = bench.stream.subscribe(lambda event: held.append(bench.pool.held))
        bench.run(5.0)
        stop()
        assert max(held) == 1, "it was answered"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    virtual(story, bench)
    assert bench.pool.held == 0
    assert not [entry for entry in bench.host.addresses if entry.kind is EA]


def test_an_agent_that_cannot_be_cancelled_is_not_asked_for_what_is_closed() -> None:
    bench = filled()
    asked: list[Want] = []

    async def stubborn(want: Want) -> str:
        asked.append(want)
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(100)
        return GOOD

    async def story(clockwork: Clockwork) -> None:
        with pytest.raises(UnimuxError):
            await clockwork.obtain(agent_of(bench, clockwork, stubborn), wait=2.0)
        await asyncio.sleep(500)

    virtual(story, bench)
    assert len(asked) == 1
