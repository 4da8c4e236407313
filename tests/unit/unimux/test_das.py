"""Delayed address setting: from the pool, by an agent, by the application; always an answer by the deadline."""

from __future__ import annotations

import asyncio
import errno

import pytest

from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState
from tapstack.ipv6.config import HostConfig
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import User, advertisement
from tests.unit.unimux.lan import lan, virtual
from tests.unit.unimux.needs import GOOD, Verdict, required, want
from tests.unit.unimux.poolbench import EA, SMALL, Answer, filled
from unimux.das import (
    AddressNotSet,
    AddressRefused,
    AddressUnavailable,
    AddressWanted,
    AutoSet,
    ChosenAddress,
    DasRequired,
    Want,
)
from unimux.errors import PoolExhausted
from unimux.pool import PoolConfig

# -- auto set ----------------------------------------------------------------------------------------


@pytest.mark.proves("UM-DAS-1", "UM-DAS-2", by="api")
def test_auto_set_gives_an_address_in_the_same_call() -> None:
    bench = filled()
    entry = AutoSet(bench.pool).ask(want(bench), bench.now, Answer())
    assert isinstance(entry, AddressEntry)
    assert (entry.state, entry.kind) == (AddressState.PREFERRED, EA)


@pytest.mark.proves("UM-DAS-2", "UM-POOL-3", by="api")
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
    (tested,) = (when for when, target in bench.probes if target == GOOD)
    ((taken, target),) = bench.announced()
    assert target == GOOD
    assert taken - tested >= 1.0
    assert das.needs == {}
    assert bench.pool.held == 1
    bench.host.addresses.release(answer.entry, bench.now, "done")
    assert bench.pool.held == 0


@pytest.mark.proves("UM-DAS-3", by="api")
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


@pytest.mark.proves("UM-DAS-3", by="api")
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


@pytest.mark.proves("UM-DAS-3", "UM-ADDR-9", by="api")
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


@pytest.mark.proves("UM-DAS-3", by="api")
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


@pytest.mark.proves("UM-DAS-3", by="api")
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


@pytest.mark.proves("UM-DAS-3", by="api")
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
    assert bench.pool_figures() == (SMALL.high, 0, 0)


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
    taken = [bench.pool.take(EA, None, bench.now) for _ in range(4)]
    das, need, _ = required(bench)
    with pytest.raises(AddressRefused, match="4 addresses on the link already"):
        das.supply(need.number, address(GOOD), bench.now, Verdict())
    assert taken[0] is not None
    bench.host.addresses.release(taken[0], bench.now, "test")
    das.supply(need.number, address(GOOD), bench.now, Verdict())


@pytest.mark.proves("UM-DAS-3", "UM-ADDR-12", by="api")
def test_what_the_pool_holds_in_reserve_gives_way_to_an_agents_address() -> None:
    """Else a pool that may fill the link would leave no place for anything that somebody asks for."""
    bench = filled(PoolConfig(low=2, high=4, limit=4))
    assert bench.pool.ready == 4
    das, need, answer = required(bench)
    das.supply(need.number, address(GOOD), bench.now, Verdict())
    assert (bench.pool.ready, bench.pool.stock.on_link) == (3, 4)
    bench.run(3.0)
    assert address_text(answer.entry.address) == GOOD
    assert (bench.pool.ready, bench.pool.stock.on_link) == (3, 4), "the reserve is filled again only when it is low"


def test_too_many_sockets_that_wait_are_refused() -> None:
    bench = filled()
    das = DasRequired(bench.pool, bench.stream)
    for _ in range(1024):
        das.ask(want(bench), bench.now, Answer())
    with pytest.raises(AddressNotSet, match="1024 sockets wait"):
        das.ask(want(bench), bench.now, Answer())


@pytest.mark.proves("UM-NODE-4", by="api")
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


@pytest.mark.proves("UM-DAS-5", by="api")
def test_an_application_that_chose_an_address_gets_it() -> None:
    bench = filled(host=HostConfig(dad_initial_delay=0.0))
    policy = ChosenAddress(bench.host.addresses, bench.stable.address)
    assert policy.ask(want(bench), bench.now, Answer()) is bench.stable
    assert policy.ask(want(bench), bench.now, Answer()) is bench.stable


@pytest.mark.proves("UM-DAS-4", "UM-DAS-5", by="api")
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


@pytest.mark.proves("UM-DAS-5", by="api")
def test_an_address_the_node_does_not_have_cannot_be_chosen() -> None:
    bench = filled()
    with pytest.raises(AddressUnavailable, match="not an address of this node"):
        ChosenAddress(bench.host.addresses, address("2001:db8:1::5")).ask(want(bench), bench.now, Answer())
    bench.host.addresses.add(address("2001:db8:1::6"), AddressKind.STABLE, bench.now)
    with pytest.raises(AddressUnavailable, match="TENTATIVE still"):
        ChosenAddress(bench.host.addresses, address("2001:db8:1::6")).ask(want(bench), bench.now, Answer())


@pytest.mark.proves("UM-DAS-3", by="api")
def test_an_agent_that_gives_up_within_the_asking_is_the_sockets_error() -> None:
    async def main() -> None:
        async with lan() as net:
            one = await net.node()
            await one.ready()
            das = DasRequired(one.pool, one.events)
            das.on_need = lambda need: das.give_up(need.number, AddressNotSet(0.0, "the agent is off duty"), one.now())
            with pytest.raises(AddressNotSet, match="off duty"):
                await one.connect("2001:db8:1::1", 80, das=das, timeout=5)
            with pytest.raises(AddressNotSet, match="off duty"):
                await one.listen(asyncio.Protocol, das=das).issue(timeout=5)

    virtual(main())
