"""Delayed address setting: from the pool, by an agent, by the application; always an answer by the deadline."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import pytest

from tapstack.clock import run_virtual
from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState
from tapstack.ipv6.config import HostConfig
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import User, advertisement
from tests.unit.unimux.poolbench import EA, PEER, Answer, PoolBench
from unimux.das import (
    AddressNotSet,
    AddressRefused,
    AddressUnavailable,
    AddressWanted,
    AgentCaller,
    AutoSet,
    ChosenAddress,
    DasRequired,
    Need,
    Policy,
    Want,
    obtain,
)
from unimux.errors import PoolExhausted, UnimuxError
from unimux.pool import PoolConfig
from unimux.purpose import Purpose

T = TypeVar("T")
SMALL = PoolConfig(low=4, high=4, limit=20)
GOOD = "2001:db8:1::aaaa:bbbb:cccc"


def want(bench: PoolBench, wait: float = 10.0, kind: AddressKind = EA) -> Want:
    return Want(kind, PEER, bench.now + wait, "test", Purpose(who="curl"))


def filled(config: PoolConfig = SMALL, **options: Any) -> PoolBench:
    bench = PoolBench(config, **options)
    bench.settle()
    bench.run(3.0)
    return bench


class Verdict:
    """Waits for the verdict on a supplied address."""

    def __init__(self) -> None:
        self.told: list[AddressRefused | None] = []

    def __call__(self, refusal: AddressRefused | None, now: float) -> None:
        self.told.append(refusal)


def required(bench: PoolBench, wait: float = 10.0) -> tuple[DasRequired, Need, Answer]:
    das = DasRequired(bench.pool, bench.stream)
    answer = Answer()
    need = das.ask(want(bench, wait), bench.now, answer)
    assert isinstance(need, Need)
    return das, need, answer


# -- auto set ----------------------------------------------------------------------------------------


@pytest.mark.proves("UM-DAS-1", "UM-DAS-2")
def test_auto_set_gives_an_address_in_the_same_call() -> None:
    bench = filled()
    entry = AutoSet(bench.pool).ask(want(bench), bench.now, Answer())
    assert isinstance(entry, AddressEntry)
    assert (entry.state, entry.kind) == (AddressState.PREFERRED, EA)


@pytest.mark.proves("UM-DAS-2", "UM-POOL-3")
def test_auto_set_waits_for_the_pool_until_the_deadline() -> None:
    bench = filled(PoolConfig(low=1, high=1, limit=2))
    policy = AutoSet(bench.pool)
    answers = []
    for _ in range(4):
        answer = Answer()
        if not isinstance(policy.ask(want(bench), bench.now, answer), AddressEntry):
            answers.append(answer)
    bench.run(11.0)
    outcomes = [type(answer.outcome) for answer in answers]
    assert outcomes == [AddressEntry, PoolExhausted, PoolExhausted]


# -- DAS required ------------------------------------------------------------------------------------


@pytest.mark.proves("UM-DAS-3")
def test_a_supplied_address_is_set_after_dad() -> None:
    bench = filled()
    das, need, answer = required(bench)
    bench.run(3.0)
    assert answer.outcome is None, "the socket waits"
    verdict = Verdict()
    das.supply(need.number, address(GOOD), bench.now, verdict)
    bench.run(0.5)
    assert answer.outcome is None, "DAD still runs"
    bench.run(1.0)
    assert verdict.told == [None]
    assert (address_text(answer.entry.address), answer.entry.state, answer.entry.kind) == (
        GOOD,
        AddressState.PREFERRED,
        EA,
    )
    assert [target for _, target in bench.probes].count(GOOD) == 1
    assert das.needs == {}
    assert bench.pool.held == 1
    bench.host.addresses.release(answer.entry, bench.now, "done")
    assert bench.pool.held == 0


@pytest.mark.proves("UM-DAS-3")
def test_an_address_that_is_never_supplied_is_a_timeout_error() -> None:
    bench = filled()
    das, need, answer = required(bench, wait=7.0)
    bench.run(6.9)
    assert answer.outcome is None
    bench.run(0.2)
    assert isinstance(answer.error, AddressNotSet)
    assert isinstance(answer.error, TimeoutError)
    assert answer.error.errno == errno.ETIMEDOUT
    assert str(answer.error) == "No address was set within 7 s: check that the agent that sets addresses is running."
    with pytest.raises(AddressRefused, match="nobody waits for it"):
        das.supply(need.number, address(GOOD), bench.now, Verdict())


@pytest.mark.proves("UM-DAS-3")
@pytest.mark.parametrize(
    ("supplied", "reason"),
    [
        ("2001:db8:2::1", "lies in no prefix of this node"),
        ("ff02::1", "not a unicast address"),
        ("fe80::1", "not a unicast address"),
        ("2001:db8:1::", "reserved"),
        ("2001:db8:1:0:fdff:ffff:ffff:ff80", "reserved"),
    ],
)
def test_an_address_that_cannot_be_ours_is_refused_at_once(supplied: str, reason: str) -> None:
    bench = filled()
    das, need, answer = required(bench)
    with pytest.raises(AddressRefused, match=reason):
        das.supply(need.number, address(supplied), bench.now, Verdict())
    assert answer.outcome is None
    das.supply(need.number, address(GOOD), bench.now, Verdict())
    bench.run(2.0)
    assert address_text(answer.entry.address) == GOOD


@pytest.mark.proves("UM-DAS-3", "UM-ADDR-9")
def test_an_address_that_is_or_was_in_use_is_refused() -> None:
    bench = filled()
    taken = bench.take()
    assert taken is not None
    reserved = next(entry for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN)
    das, need, _ = required(bench, wait=100.0)
    for entry in (taken, reserved):
        with pytest.raises(AddressRefused, match="in use on this node"):
            das.supply(need.number, entry.address, bench.now, Verdict())
    bench.host.addresses.release(taken, bench.now, "done")
    with pytest.raises(AddressRefused, match="was used on this node before"):
        das.supply(need.number, taken.address, bench.now, Verdict())


@pytest.mark.proves("UM-DAS-3")
def test_a_duplicate_is_refused_and_the_socket_goes_on_waiting() -> None:
    bench = filled(claims=lambda target: target == GOOD)
    das, need, answer = required(bench, wait=5.0)
    verdict = Verdict()
    das.supply(need.number, address(GOOD), bench.now, verdict)
    bench.run(2.0)
    assert [str(refusal) for refusal in verdict.told] == [
        f"The address {GOOD} cannot be set: another node on the link has it."
    ]
    assert answer.outcome is None
    with pytest.raises(AddressRefused, match="before"):
        das.supply(need.number, address(GOOD), bench.now, Verdict())
    bench.run(5.0)
    assert f"{GOOD} was refused (it was used on this node before)" in str(answer.error)


@pytest.mark.proves("UM-DAS-3")
def test_a_prefix_withdrawn_during_dad_refuses_the_address() -> None:
    bench = filled()
    das, need, _ = required(bench)
    verdict = Verdict()
    das.supply(need.number, address(GOOD), bench.now, verdict)
    bench.run(0.1)
    bench.feed(advertisement(preferred=0, valid=7200))
    bench.run(0.1)
    assert verdict.told
    assert "prefix was withdrawn" in str(verdict.told[0])
    with pytest.raises(AddressRefused, match="nothing new starts"):
        das.supply(need.number, address("2001:db8:1::5"), bench.now, Verdict())


def test_two_addresses_for_one_socket_are_one_too_many() -> None:
    bench = filled()
    das, need, answer = required(bench)
    das.supply(need.number, address(GOOD), bench.now, Verdict())
    with pytest.raises(AddressRefused, match=f"{GOOD} is being tested"):
        das.supply(need.number, address("2001:db8:1::2"), bench.now, Verdict())
    bench.run(2.0)
    assert address_text(answer.entry.address) == GOOD


@pytest.mark.proves("UM-DAS-3")
@pytest.mark.parametrize("dedicated", [False, True])
def test_a_socket_that_gives_up_leaves_nothing_behind(dedicated: bool) -> None:
    bench = filled()
    if dedicated:
        bench.host.prefix_list.add_dedicated(address("2001:db8:dd::"), 64)
    das, need, answer = required(bench)
    das.supply(need.number, address("2001:db8:dd::5" if dedicated else GOOD), bench.now, Verdict())
    bench.run(0.0 if dedicated else 0.3)
    if dedicated:
        assert answer.entry.state is AddressState.PREFERRED
        return
    need.cancel(bench.now)
    need.cancel(bench.now)
    bench.run(20.0)
    assert answer.outcome is None
    assert address(GOOD) not in bench.host.addresses
    assert bench.pool_figures() == (4, 0, 0)


def test_a_dedicated_address_cancelled_before_it_was_told_is_released() -> None:
    bench = filled()
    bench.host.prefix_list.add_dedicated(address("2001:db8:dd::"), 64)
    das, need, answer = required(bench)
    das.supply(need.number, address("2001:db8:dd::5"), bench.now, Verdict())
    need.cancel(bench.now)
    bench.run(1.0)
    assert answer.outcome is None
    assert address("2001:db8:dd::5") not in bench.host.addresses
    assert bench.pool.held == 0


def test_the_limit_of_the_link_holds_for_agents_too() -> None:
    bench = filled(PoolConfig(low=4, high=4, limit=4))
    das, need, _ = required(bench)
    with pytest.raises(AddressRefused, match="4 addresses on the link already"):
        das.supply(need.number, address(GOOD), bench.now, Verdict())


def test_too_many_sockets_that_wait_are_refused() -> None:
    bench = filled()
    das = DasRequired(bench.pool, bench.stream)
    for _ in range(1024):
        das.ask(want(bench), bench.now, Answer())
    with pytest.raises(AddressNotSet, match="1024 sockets wait"):
        das.ask(want(bench), bench.now, Answer())


@pytest.mark.proves("UM-NODE-4")
def test_needs_are_told_as_events() -> None:
    bench = filled()
    das, need, _ = required(bench, wait=5.0)
    das.ask(Want(AddressKind.SERVICE, None, bench.now + 1.0), bench.now, Answer())
    das.supply(need.number, address(GOOD), bench.now, Verdict())
    bench.run(3.0)
    texts = [event.text() for event in bench.events if isinstance(event, AddressWanted)]
    assert texts == [
        "need 1: ephemeral address towards 2001:db8:99::1: wanted",
        "need 2: service address: wanted",
        "need 2: service address: not set in time",
        "need 1: ephemeral address towards 2001:db8:99::1: set",
    ]


# -- chosen by the application -----------------------------------------------------------------------


@pytest.mark.proves("UM-DAS-5")
def test_an_application_that_chose_an_address_gets_it() -> None:
    bench = filled(host=HostConfig(dad_initial_delay=0.0))
    stable = next(entry for entry in bench.host.addresses if entry.kind is AddressKind.STABLE)
    policy = ChosenAddress(bench.host.addresses, stable.address)
    assert policy.ask(want(bench), bench.now, Answer()) is stable
    assert policy.ask(want(bench), bench.now, Answer()) is stable


@pytest.mark.proves("UM-DAS-4", "UM-DAS-5")
def test_a_one_time_address_cannot_be_chosen() -> None:
    bench = filled()
    taken = bench.take()
    assert taken is not None
    bench.host.addresses.acquire(taken, User(None))
    reserved = next(entry for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN)
    for entry in (taken, reserved):
        with pytest.raises(AddressUnavailable, match="serves one connection only") as caught:
            ChosenAddress(bench.host.addresses, entry.address).ask(want(bench), bench.now, Answer())
        assert caught.value.errno == errno.EADDRNOTAVAIL


@pytest.mark.proves("UM-DAS-5")
def test_an_address_the_node_does_not_have_cannot_be_chosen() -> None:
    bench = filled()
    with pytest.raises(AddressUnavailable, match="not an address of this node"):
        ChosenAddress(bench.host.addresses, address("2001:db8:1::5")).ask(want(bench), bench.now, Answer())
    bench.host.addresses.add(address("2001:db8:1::6"), AddressKind.STABLE, bench.now)
    with pytest.raises(AddressUnavailable, match="TENTATIVE still"):
        ChosenAddress(bench.host.addresses, address("2001:db8:1::6")).ask(want(bench), bench.now, Answer())


# -- asyncio -----------------------------------------------------------------------------------------


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


@pytest.mark.proves("UM-DAS-2")
def test_obtain_from_the_pool_at_once_and_after_waiting() -> None:
    bench = filled(PoolConfig(low=2, high=2, limit=20))

    async def story(clockwork: Clockwork) -> list[AddressEntry]:
        policy = AutoSet(bench.pool)
        return await asyncio.gather(*(clockwork.obtain(policy) for _ in range(5)))

    entries = virtual(story, bench)
    assert len({entry.address for entry in entries}) == 5
    assert {entry.state for entry in entries} == {AddressState.PREFERRED}


@pytest.mark.proves("UM-DAS-3")
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


@pytest.mark.proves("UM-DAS-3")
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


async def silent(asked: Want) -> str:
    await asyncio.sleep(1e6)
    return GOOD


@pytest.mark.proves("UM-DAS-3")
@pytest.mark.parametrize(
    ("agent", "message", "latest"),
    [
        (nonsense, "gave no IPv6 address", 0.1),
        (short, "gave no IPv6 address", 0.1),
        (foreign, "in no prefix of this node", 0.1),
        (failing, r"the agent failed \(database down\)", 0.1),
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


@pytest.mark.proves("UM-DAS-3")
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
