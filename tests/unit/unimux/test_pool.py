"""The pool on a real host: filling, taking, waiting, prefixes that come and go, hostile neighbours."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from scapy.layers.inet6 import IPv6

from tapstack.clock import run_virtual
from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressKind, AddressState
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.prefixes import Prefix
from tapstack.link.memory import MemorySwitch
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import PREFIX, ICMPv6ND_RS, User, advertisement, probe, records, solicitation
from tests.unit.unimux.poolbench import EA, PEER, PoolBench
from unimux.errors import NodeStopped, PoolExhausted, SetupError
from unimux.node import Node, NodeConfig
from unimux.pool import NoPrefix, PoolConfig, WhenEmpty
from unimux.prefix import choose_prefix
from unimux.state import MemoryState

SMALL = PoolConfig(low=4, high=8, limit=20)
SECOND = "2001:db8:2::"


def filled(config: PoolConfig = SMALL, **options: Any) -> PoolBench:
    """A pool that has had time to fill."""
    bench = PoolBench(config, **options)
    bench.settle()
    bench.run(5.0)
    return bench


# -- filling -----------------------------------------------------------------------------------------


@pytest.mark.proves("UM-POOL-1")
def test_it_fills_to_the_high_mark_and_then_rests() -> None:
    bench = filled()
    assert bench.pool_figures() == (8, 0, 0)
    probes = len(bench.probes)
    bench.run(100.0)
    assert bench.pool_figures() == (8, 0, 0)
    assert len(bench.probes) == probes


@pytest.mark.proves("UM-POOL-1")
def test_it_refills_below_the_low_mark_only() -> None:
    bench = filled()
    for _ in range(4):
        bench.take()
    bench.run(5.0)
    assert bench.pool_figures() == (4, 0, 4)
    bench.take()
    bench.run(5.0)
    assert bench.pool_figures() == (8, 0, 5)


@pytest.mark.proves("UM-POOL-1")
def test_probes_and_group_reports_are_paced() -> None:
    """32 addresses at 20 per second: no two probes within half a pace, and MLD reports travel together."""
    bench = PoolBench()
    bench.settle(router=False)
    bench.feed(advertisement())
    bench.run(10.0)
    times = [when for when, target in bench.probes if not target.startswith("fe80")]
    assert len(times) == 32
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert min(gaps) >= 0.024
    assert 1.0 < times[-1] - times[0] < 2.5
    reports = [packet for _, packet in bench.out if records([packet])]
    assert len(reports) <= 2 * 32 + 10


@pytest.mark.proves("UM-POOL-1")
def test_the_default_is_well_under_hundreds_of_addresses() -> None:
    bench = filled(PoolConfig())
    assert bench.pool.ready == 32


@pytest.mark.proves("UM-POOL-1")
def test_no_more_are_under_dad_than_allowed() -> None:
    bench = PoolBench(PoolConfig(low=8, high=16, concurrent=3))
    bench.settle(router=False)
    bench.feed(advertisement())
    most = 0
    for _ in range(400):
        bench.run(0.05)
        most = max(most, bench.pool.pending)
    assert most == 3
    assert bench.pool.ready == 16


@pytest.mark.proves("UM-POOL-1")
def test_the_limit_counts_addresses_in_use() -> None:
    bench = filled(PoolConfig(low=4, high=8, limit=10))
    for _ in range(3):
        bench.session(50.0)
    bench.run(10.0)
    for _ in range(5):
        bench.session(50.0)
    bench.run(10.0)
    assert bench.pool_figures() == (2, 0, 8)
    bench.run(60.0)
    assert bench.pool_figures() == (8, 0, 0)


def test_without_marks_nothing_is_reserved_but_requests_are_served() -> None:
    bench = filled(PoolConfig(low=0, high=0))
    assert bench.pool_figures() == (0, 0, 0)
    answer = bench.ask()
    bench.run(2.0)
    assert answer.entry.state is AddressState.PREFERRED
    assert bench.pool_figures() == (0, 0, 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"low": 9, "high": 8},
        {"low": -1},
        {"high": 300},
        {"pace": 0},
        {"max_age": -1},
        {"low": 0, "high": 0, "limit": 0},
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(settings: dict[str, Any]) -> None:
    with pytest.raises(SetupError, match=r"pool"):
        PoolConfig(**settings)


# -- taking ------------------------------------------------------------------------------------------


@pytest.mark.proves("UM-ADDR-1", "UM-DAS-2")
def test_taking_is_synchronous_and_takes_no_second_dad() -> None:
    bench = filled()
    probes = len(bench.probes)
    entry = bench.take()
    assert entry is not None
    assert entry.state is AddressState.PREFERRED
    assert entry.kind is EA
    bench.host.addresses.acquire(entry, User(None))
    bench.run(5.0)
    assert len(bench.probes) == probes


def test_the_oldest_is_taken_first() -> None:
    bench = filled()
    in_order = [target for _, target in bench.probes if not target.startswith("fe80")]
    taken = [bench.take() for _ in range(4)]
    assert [address_text(entry.address) for entry in taken if entry] == in_order[:4]


@pytest.mark.proves("UM-ADDR-9", "UM-GEN-1")
def test_no_address_is_ever_issued_twice() -> None:
    bench = filled(PoolConfig(low=4, high=8, limit=20, pace=0.01))
    seen = set()
    for _ in range(300):
        entry = bench.take()
        if entry is not None:
            assert entry.address not in seen
            seen.add(entry.address)
            bench.hold(entry, 1.0)
        bench.run(0.2)
    assert len(seen) > 250


@pytest.mark.proves("UM-POOL-2")
def test_reservations_are_replaced_at_their_maximum_age() -> None:
    bench = filled(PoolConfig(low=4, high=8, max_age=100.0))
    first = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    bench.run(70.0)
    still = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    assert still == first
    bench.run(40.0)
    later = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    assert first.isdisjoint(later)
    assert len(later) >= 4
    # Their ends are spread: reservations that go together would tell that they belong together.
    ends = [event.time for event in bench.events if getattr(event, "cause", "") == "its maximum age is over"]
    assert max(ends[:8]) - min(ends[:8]) > 5.0


@pytest.mark.proves("UM-POOL-2", "UM-ADDR-6")
def test_reservations_end_with_the_preferred_lifetime() -> None:
    bench = PoolBench(SMALL)
    bench.settle(preferred=60, valid=3600)
    bench.run(10.0)
    assert bench.pool.ready == 8
    bench.run(60.0)
    assert bench.pool_figures() == (0, 0, 0)
    assert bench.take() is None
    assert not [entry for entry in bench.host.addresses if entry.kind is AddressKind.RESERVED]


def test_a_preferred_lifetime_that_is_renewed_costs_no_reservation() -> None:
    bench = PoolBench(SMALL)
    bench.settle(preferred=60, valid=3600)
    bench.run(5.0)
    first = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    for _ in range(10):
        bench.feed(advertisement(preferred=60, valid=3600))
        bench.run(30.0)
    assert {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN} == first


# -- an empty pool -----------------------------------------------------------------------------------


@pytest.mark.proves("UM-POOL-3")
def test_who_finds_it_empty_waits_for_a_fresh_dad() -> None:
    bench = filled()
    while bench.take():
        pass
    asked = bench.now
    answer = bench.ask(wait=10.0)
    bench.run(0.9)
    assert answer.outcome is None
    bench.run(9.0)
    assert answer.entry.state is AddressState.PREFERRED
    assert answer.when is not None
    assert 1.0 <= answer.when - asked < 1.2


@pytest.mark.proves("UM-POOL-3")
def test_waiting_is_bounded_and_the_error_says_the_rate() -> None:
    bench = filled(PoolConfig(low=2, high=4, limit=4))
    while entry := bench.take():
        bench.hold(entry, 1000.0)
    answer = bench.ask(wait=7.0)
    bench.run(6.9)
    assert answer.outcome is None
    bench.run(0.2)
    assert isinstance(answer.error, PoolExhausted)
    assert answer.error.waited == pytest.approx(7.0)
    assert answer.error.ceiling == pytest.approx(4 / 60.0)
    assert "sustains 0.0667 connections/s" in str(answer.error)
    assert bench.pool.waiting == 0


@pytest.mark.proves("UM-POOL-3")
def test_requests_are_served_in_order() -> None:
    bench = filled(PoolConfig(low=2, high=4, limit=30))
    while bench.take():
        pass
    answers = [bench.ask(wait=60.0) for _ in range(10)]
    bench.run(20.0)
    whens = [answer.when for answer in answers]
    assert None not in whens
    assert whens == sorted(whens, key=lambda when: when or 0.0)
    assert len({answer.entry.address for answer in answers}) == 10


def test_who_comes_later_does_not_overtake() -> None:
    bench = filled(PoolConfig(low=1, high=1, limit=2))
    held = [entry for entry in (bench.take(),) if entry]
    bench.run(3.0)
    held += [entry for entry in (bench.take(),) if entry]
    assert len(held) == 2
    first = bench.ask()
    bench.host.addresses.release(held[0], bench.now, "done")
    bench.run(0.5)
    assert bench.take() is None
    bench.run(3.0)
    assert first.entry.state is AddressState.PREFERRED


def test_nobody_overtakes_between_the_verdict_and_the_next_turn() -> None:
    """A callback that runs after DAD has passed, but before the queue is served, must not take what others wait for."""
    bench = filled(PoolConfig(low=0, high=0))
    answer = bench.ask()
    bench.run(0.1)
    passes = bench.probes[-1][0] + bench.host.interface.retrans_timer
    seen: list[tuple[int, object]] = []
    bench.timers.timer(lambda now: seen.append((bench.pool.ready, bench.pool.take(EA, PEER, now)))).set(passes)
    bench.run(2.0)
    assert seen == [(1, None)]
    assert answer.entry.state is AddressState.PREFERRED


def test_a_cancelled_request_is_not_answered() -> None:
    bench = filled()
    while bench.take():
        pass
    first, second = bench.ask(wait=10.0), bench.ask(wait=10.0)
    assert first.ticket is not None
    first.ticket.cancel(bench.now)
    first.ticket.cancel(bench.now)
    bench.run(20.0)
    assert first.outcome is None
    assert second.entry.state is AddressState.PREFERRED


@pytest.mark.proves("UM-POOL-3")
def test_the_policy_fail_answers_at_once() -> None:
    bench = filled(PoolConfig(low=2, high=4, when_empty=WhenEmpty.FAIL))
    while bench.take():
        pass
    answer = bench.ask(wait=100.0)
    bench.run(0.0)
    assert isinstance(answer.error, PoolExhausted)
    assert answer.error.waited == 0.0


@pytest.mark.proves("UM-POOL-3", "UM-POOL-1")
@pytest.mark.parametrize("high", [1, 4])
def test_a_pool_that_fails_at_once_is_filled_again_whatever_its_low_mark(high: int) -> None:
    """Nobody waits in line whose request would ask for the next address: emptied, the pool fills itself."""
    bench = filled(PoolConfig(low=0, high=high, limit=32, when_empty=WhenEmpty.FAIL))
    for _ in range(5):
        assert bench.pool.ready == high
        while entry := bench.take():
            bench.hold(entry, 5.0)
        assert isinstance(failed(bench), PoolExhausted)
        bench.run(10.0)


def failed(bench: PoolBench) -> Exception | None:
    """Why a request fails at once."""
    answer = bench.ask(wait=100.0)
    bench.run(0.0)
    return answer.error


def test_a_pool_that_fails_and_keeps_nothing_is_refused() -> None:
    with pytest.raises(SetupError, match="always be empty"):
        PoolConfig(low=0, high=0, when_empty=WhenEmpty.FAIL)


@pytest.mark.proves("UM-POOL-3")
def test_the_policy_optimistic_gives_an_address_whose_dad_still_runs() -> None:
    bench = filled(PoolConfig(low=2, high=4, when_empty=WhenEmpty.OPTIMISTIC))
    entries = [bench.take() for _ in range(6)]
    states = [entry.state for entry in entries if entry]
    assert states == [AddressState.PREFERRED] * 4 + [AddressState.OPTIMISTIC] * 2
    for entry in entries:
        assert entry is not None
        bench.hold(entry, 30.0)
    bench.run(5.0)
    assert {entry.state for entry in entries if entry} == {AddressState.PREFERRED}
    bench.run(60.0)
    assert bench.pool.held == 0


def test_optimism_ends_at_the_limit() -> None:
    bench = filled(PoolConfig(low=2, high=4, limit=6, when_empty=WhenEmpty.OPTIMISTIC))
    assert [bench.take() is not None for _ in range(8)] == [True] * 6 + [False] * 2


def test_too_many_requests_are_refused_at_once() -> None:
    bench = filled(PoolConfig(low=0, high=0, limit=1, waiters=3))
    answers = [bench.ask(wait=100.0) for _ in range(5)]
    bench.run(0.0)
    assert [answer.outcome is not None for answer in answers] == [False] * 3 + [True] * 2
    assert isinstance(answers[4].error, PoolExhausted)


@pytest.mark.proves("UM-POOL-3", "UM-DAS-7")
def test_never_a_stable_address() -> None:
    """With stable addresses on the node, an empty pool still gives none of them."""
    bench = filled(SMALL, host=HostConfig(dad_initial_delay=0.0))
    stable = {entry.address for entry in bench.host.addresses if entry.kind is AddressKind.STABLE}
    assert stable
    taken = set()
    while entry := bench.take():
        taken.add(entry.address)
    answers = [bench.ask(wait=5.0) for _ in range(15)]
    bench.run(60.0)
    taken |= {answer.entry.address for answer in answers if not isinstance(answer.outcome, PoolExhausted)}
    assert taken.isdisjoint(stable)


# -- prefixes ----------------------------------------------------------------------------------------


@pytest.mark.proves("UM-POOL-3")
def test_without_a_prefix_requests_wait_for_one() -> None:
    bench = PoolBench(SMALL)
    bench.settle(router=False)
    assert bench.take() is None
    patient, hasty = bench.ask(wait=20.0), bench.ask(wait=1.0)
    bench.run(5.0)
    assert isinstance(hasty.error, NoPrefix)
    assert "check that a router announces one" in str(hasty.error)
    bench.feed(advertisement())
    bench.run(3.0)
    assert address_text(patient.entry.address).startswith("2001:db8:1:")


@pytest.mark.proves("UM-ADDR-6", "UM-POOL-1")
def test_a_withdrawn_prefix_is_replaced_by_the_new_one_and_nobody_notices() -> None:
    bench = filled()
    kept = bench.take()
    assert kept is not None
    bench.hold(kept, 1e6)
    bench.feed(advertisement(prefix=SECOND))
    bench.feed(advertisement(preferred=0, valid=7200))
    bench.run(5.0)
    assert kept.state is AddressState.DEPRECATED
    reserved = [entry for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN]
    assert len(reserved) == 8
    assert all(address_text(entry.address).startswith("2001:db8:2:") for entry in reserved)
    entry = bench.take()
    assert entry is not None
    assert address_text(entry.address).startswith("2001:db8:2:")
    assert "2001:db8:1::/64 can no longer be used" in bench.causes()
    assert not any("claimed" in cause for cause in bench.causes())


def test_requests_move_with_the_prefix() -> None:
    bench = filled(PoolConfig(low=0, high=0))
    answer = bench.ask(wait=20.0)
    bench.run(0.2)
    bench.feed(advertisement(preferred=0, valid=7200))
    bench.run(5.0)
    assert answer.outcome is None
    bench.feed(advertisement(prefix=SECOND))
    bench.run(5.0)
    assert address_text(answer.entry.address).startswith("2001:db8:2:")


@pytest.mark.proves("UM-ADDR-6")
def test_the_pool_survives_a_flapping_prefix() -> None:
    bench = filled()
    for _ in range(20):
        bench.feed(advertisement(preferred=0, valid=7200))
        bench.run(0.3)
        bench.feed(advertisement())
        bench.run(0.3)
    bench.run(10.0)
    assert bench.pool_figures() == (8, 0, 0)


@pytest.mark.proves("UM-POOL-1", "ST-IP6-5")
def test_another_router_takes_over_and_no_reservation_is_lost() -> None:
    """The prefix belongs to the link: whoever announces it, what is reserved in it stays."""
    bench = filled()
    before = {entry.address for entry in bench.host.addresses}
    probes = len(bench.probes)
    bench.feed(advertisement(source="fe80::fd", mac="02:00:00:00:00:fd"))
    bench.feed(advertisement(lifetime=0, prefix=None))
    bench.run(100.0)
    assert {entry.address for entry in bench.host.addresses} == before
    assert len(bench.probes) == probes
    path = bench.host.path(PEER, bench.now)
    assert address_text(path.next_hop) == "fe80::fd"
    assert bench.take() is not None


@pytest.mark.proves("UM-POOL-1", "UM-ADDR-6")
def test_another_router_with_another_prefix_fills_another_shelf_before_the_old_one_ends() -> None:
    bench = filled()
    bench.feed(advertisement(source="fe80::fd", mac="02:00:00:00:00:fd", prefix="2001:db8:2::"))
    bench.feed(advertisement(lifetime=0, preferred=60, valid=7200))
    bench.run(50.0)
    assert bench.pool.ready == 16
    bench.run(20.0)
    assert bench.pool_figures() == (8, 0, 0)
    entry = bench.take()
    assert entry is not None
    assert address_text(entry.address).startswith("2001:db8:2:")


@pytest.mark.proves("UM-DAS-7")
def test_rfc_6724_chooses_the_prefix() -> None:
    bench = PoolBench(SMALL)
    bench.settle()
    bench.feed(advertisement(prefix="fd00:1::"))
    bench.run(10.0)
    assert bench.pool.ready == 16
    for destination, expected in [
        ("2001:db8:99::1", "2001:db8:1:"),
        ("fd00:2::1", "fd00:1:"),
        ("2001:db8:1::7", "2001:"),
    ]:
        entry = bench.take(address(destination))
        assert entry is not None
        assert address_text(entry.address).startswith(expected)
    service = bench.take(None, AddressKind.SERVICE)
    assert service is not None
    assert address_text(service.address).startswith("2001:db8:1:")


def test_a_prefix_that_is_asked_for_gets_the_place_of_an_idle_one() -> None:
    bench = PoolBench(PoolConfig(low=4, high=8, limit=8))
    bench.settle()
    bench.run(5.0)
    assert bench.pool.ready == 8
    bench.feed(advertisement(prefix="fd00:1::"))
    bench.run(5.0)
    answer = bench.ask(wait=10.0, destination=address("fd00:2::1"))
    bench.run(10.0)
    assert address_text(answer.entry.address).startswith("fd00:1:")


def make(text: str, *, dedicated: bool = False) -> Prefix:
    network, _, length = text.partition("/")
    prefix = Prefix(address(network), int(length))
    prefix.preferred = True
    prefix.dedicated = dedicated
    prefix.autonomous = not dedicated
    return prefix


@pytest.mark.proves("UM-DAS-7")
@pytest.mark.parametrize(
    ("prefixes", "destination", "expected"),
    [
        ([], "2001:db8::1", None),
        (["2001:db8:1::/64", "2001:db8:2::/64"], "2001:db8:2::5", 1),  # rule 8
        (["fd00:1::/64", "2001:db8:2::/64"], "2001:db8:9::5", 1),  # rule 6, label
        (["fd00:1::/64", "2001:db8:2::/64"], "fd00:9::5", 0),
        (["fd00:1::/64", "2001:db8:2::/64"], None, 1),
        (["2001:db8:1::/64", "2001:db8:2::/48 dedicated"], "2001:db8:1::5", 1),  # dedicated before rule 8
        (["fd00:1::/64", "2001:db8:2::/48 dedicated"], "fd00:9::5", 0),  # but not before rule 6
        (["2001:db8:1::/64", "fd00:2::/48 dedicated"], None, 1),
    ],
)
def test_which_prefix(prefixes: list[str], destination: str | None, expected: int | None) -> None:
    made = [make(text.split()[0], dedicated="dedicated" in text) for text in prefixes]
    chosen = choose_prefix(made, address(destination) if destination else None)
    assert chosen is (None if expected is None else made[expected])


# -- dedicated ---------------------------------------------------------------------------------------


@pytest.mark.proves("UM-POOL-4")
def test_a_dedicated_prefix_needs_neither_dad_nor_groups_nor_waiting() -> None:
    bench = PoolBench(SMALL)
    bench.settle(router=False)
    bench.host.prefix_list.add_dedicated(address("2001:db8:dd00::"), 56)
    bench.pool.start(bench.now)
    bench.run(5.0)
    assert bench.pool.ready == 0
    bench.out.clear()
    entries = [bench.take() for _ in range(1000)]
    assert {entry.state for entry in entries if entry} == {AddressState.PREFERRED}
    assert {entry.kind for entry in entries if entry} == {EA}
    assert len({entry.address for entry in entries if entry}) == 1000
    assert all(entry and entry.address[:7] == address("2001:db8:dd00::")[:7] for entry in entries)
    bench.run(5.0)
    assert [packet for _, packet in bench.out if ICMPv6ND_RS not in packet] == []
    assert bench.pool.ceiling() is None


@pytest.mark.proves("UM-POOL-4")
def test_any_address_of_a_dedicated_prefix_that_is_not_in_use_is_silent() -> None:
    bench = PoolBench(SMALL)
    bench.settle(router=False)
    bench.host.prefix_list.add_dedicated(address("2001:db8:dd00::"), 64)
    entry = bench.take()
    assert entry is not None
    text = address_text(entry.address)
    user = User("2001:db8:99::1")
    bench.host.addresses.acquire(entry, user)
    for target in ("2001:db8:dd00::1234", text):
        assert bench.feed(probe(target)) == []
    bench.host.addresses.drop(entry, user, bench.now, "closed")
    assert bench.feed(solicitation(text)) == []
    assert bench.pool.held == 0


def test_requests_that_wait_for_any_prefix_are_served_from_a_dedicated_one_at_once() -> None:
    bench = PoolBench(SMALL)
    bench.settle(router=False)
    answers = [bench.ask(wait=100.0) for _ in range(5)]
    bench.run(1.0)
    bench.host.prefix_list.add_dedicated(address("2001:db8:dd00::"), 64)
    bench.pool.start(bench.now)
    bench.run(0.0)
    assert all(answer.entry.state is AddressState.PREFERRED for answer in answers)


def test_a_withdrawn_dedicated_prefix_gives_nothing_any_more() -> None:
    bench = PoolBench(SMALL)
    bench.settle(router=False)
    prefix = bench.host.prefix_list.add_dedicated(address("2001:db8:dd00::"), 64)
    entry = bench.take()
    assert entry is not None
    bench.host.prefix_list.remove(prefix, bench.now)
    assert bench.take() is None
    assert bench.pool.held == 0


def test_on_a_link_without_ethernet_addresses_need_no_neighbours() -> None:
    bench = PoolBench(SMALL, tun=True)
    bench.host.prefix_list.add_static(address(PREFIX), 64, autonomous=True, now=bench.now)
    bench.run(5.0)
    assert bench.pool.ready == 8
    assert bench.out == []


# -- neighbours --------------------------------------------------------------------------------------


@pytest.mark.proves("UM-ADDR-10")
def test_a_duplicate_is_replaced_by_a_fresh_address() -> None:
    claimed: list[str] = []

    def claims(target: str) -> bool:
        if len(claimed) == 2:
            return False
        claimed.append(target)
        return True

    bench = filled(claims=claims)
    assert len(claimed) == 2
    assert bench.pool_figures() == (8, 0, 0)
    assert all(address(target) not in bench.host.addresses for target in claimed)


@pytest.mark.proves("UM-POOL-3")
def test_an_optimistic_address_that_turns_out_a_duplicate_is_no_longer_held() -> None:
    hostile = [False]
    config = PoolConfig(low=2, high=2, when_empty=WhenEmpty.OPTIMISTIC)
    bench = filled(config, claims=lambda target: hostile[0])
    hostile[0] = True
    entries = [entry for entry in (bench.take() for _ in range(3)) if entry]
    assert [entry.state for entry in entries] == [AddressState.PREFERRED] * 2 + [AddressState.OPTIMISTIC]
    bench.run(2.0)
    assert entries[2].state is AddressState.DUPLICATED
    assert bench.pool.held == 2


@pytest.mark.proves("UM-ADDR-10")
def test_two_nodes_with_the_same_key_never_have_the_same_address() -> None:
    """A clone that nothing gave away: the addresses come in the same order on both, and DAD keeps them apart."""

    async def main() -> None:
        switch = MemorySwitch(latency=0.001)
        async with AsyncExitStack() as stack:
            nodes = []
            for number in (1, 2):
                link = switch.connect(bytes([2, 0, 0, 0, 0, number]))
                state = MemoryState(Random(9).randbytes)
                node = Node(link, NodeConfig(pool=SMALL), state=state, seed=bytes([number]) * 32)
                await stack.enter_async_context(node)
                node.stack.host.prefix_list.add_static(address(PREFIX), 64, autonomous=True, now=node.now())
                node.pool.start(node.now())
                node.driver.kick()
                nodes.append(node)
                await asyncio.sleep(5.0)
            first, second = ({entry.address for entry in node.stack.host.addresses} for node in nodes)
            assert len(first & second) == 0
            assert nodes[0].pool.ready == 8
            held_back = nodes[1].pool.status(nodes[1].now()).held_back_for
            assert held_back > 0, "the clone's attempts met the other's defence"
            nodes[1].source.state.rekey("it was a clone")
            nodes[1].pool.link_up(nodes[1].now())
            nodes[1].driver.kick()
            await asyncio.sleep(5.0)
            assert nodes[1].pool.ready == 8

    run_virtual(main())


@pytest.mark.proves("UM-ADDR-6")
def test_a_foreign_advertisement_discards_a_reservation_and_the_pool_refills() -> None:
    bench = filled(PoolConfig(low=8, high=8))
    victim = next(entry for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN)
    bench.claim(victim.address)
    assert victim.state is AddressState.INVALID
    assert bench.pool.ready == 7
    bench.run(3.0)
    assert bench.pool.ready == 8


@pytest.mark.proves("UM-ADDR-10")
def test_a_neighbour_that_claims_every_address_is_reported_and_backed_off_from() -> None:
    """Pauses of 1, 2, 4 … 60 minutes with one attempt after each; then the neighbour tires, and all is well."""
    hostile = [True]
    bench = PoolBench(SMALL, claims=lambda target: hostile[0])
    bench.settle(valid=86400, preferred=86400)
    bench.run(6 * 3600.0)
    times = [when for when, target in bench.probes if not target.startswith("fe80")]
    assert len(times) <= 30, "a few at first, then one per pause"
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    pauses = [gap for gap in gaps if gap > 30]
    expected = [60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 3600.0, 3600.0]
    assert pauses[: len(expected)] == pytest.approx(expected, rel=0.05)
    assert any("3 addresses in a row were claimed by another node: no new ones for 60 s" in c for c in bench.causes())
    assert bench.pool_figures()[0] == 0
    hostile[0] = False
    bench.run(3700.0)
    assert bench.pool.ready >= 4
    assert "addresses are no longer claimed by another node" in bench.causes()
    assert bench.pool.status(bench.now).held_back_for == 0.0


@pytest.mark.proves("UM-ADDR-10")
def test_a_neighbour_that_claims_after_dad_is_backed_off_from_too() -> None:
    bench = filled()
    bench.out.clear()
    before = len(bench.probes)
    for _ in range(3600):
        for entry in list(bench.host.addresses):
            if entry.state is AddressState.UNCERTAIN:
                bench.claim(entry.address)
        bench.run(1.0)
    assert len(bench.probes) - before < 20
    assert any("claimed by another node" in cause for cause in bench.causes())
    answer = bench.ask(wait=5.0)
    bench.run(6.0)
    assert isinstance(answer.error, PoolExhausted)


@pytest.mark.proves("UM-ADDR-10")
def test_old_reservations_do_not_excuse_a_neighbour_that_claims_new_ones() -> None:
    bench = filled(PoolConfig(low=8, high=8, limit=20))
    bench.run(60.0)
    bench.take()
    old = {entry.address for entry in bench.host.addresses}
    before = len(bench.probes)
    for _ in range(600):
        for entry in bench.host.addresses:
            if entry.state is AddressState.UNCERTAIN and entry.address not in old:
                bench.claim(entry.address)
        bench.run(1.0)
    assert len(bench.probes) - before <= 10
    assert bench.pool.ready == 7


@pytest.mark.proves("UM-ADDR-10")
def test_the_link_coming_up_starts_afresh() -> None:
    hostile = [True]
    bench = PoolBench(SMALL, claims=lambda target: hostile[0])
    bench.settle()
    bench.run(3600.0)
    assert bench.pool.status(bench.now).held_back_for > 60
    hostile[0] = False
    bench.pool.link_up(bench.now)
    bench.run(5.0)
    assert bench.pool.ready == 8


@pytest.mark.proves("UM-ADDR-10")
def test_on_another_link_reservations_are_made_anew_and_no_claims_counted() -> None:
    bench = filled()
    before = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    bench.pool.link_up(bench.now)
    bench.run(5.0)
    after = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    assert len(after) == 8
    assert after.isdisjoint(before)
    assert not any("claimed" in cause for cause in bench.causes())


# -- figures -----------------------------------------------------------------------------------------


@pytest.mark.proves("UM-POOL-5")
def test_the_ceiling_is_pool_size_over_holding_time() -> None:
    """Sessions of 10 s on at most 20 addresses: 2 per second by the formula; offered 4, about 2 get through."""
    bench = filled(PoolConfig(low=8, high=8, limit=20, pace=0.02))
    started = 0
    begin = bench.now
    while bench.now < begin + 300.0:
        started += bench.session(10.0)
        bench.run(0.25)
    ceiling = bench.pool.ceiling()
    assert ceiling is not None
    assert bench.pool.holding == pytest.approx(10.0, rel=0.01)
    assert ceiling == pytest.approx(2.0, rel=0.02)
    rate = started / 300.0
    # Below the ceiling, since replacing an address takes a DAD of one second: 20 / 11 = 1.82.
    assert 0.8 * ceiling < rate <= ceiling


@pytest.mark.proves("UM-POOL-5")
def test_with_short_sessions_the_pace_is_the_ceiling() -> None:
    bench = filled(PoolConfig(low=8, high=8, limit=20, pace=0.5))
    for _ in range(20):
        bench.session(0.1)
        bench.run(1.0)
    assert bench.pool.ceiling() == pytest.approx(2.0)


@pytest.mark.proves("UM-POOL-5")
def test_the_status_shows_everything() -> None:
    bench = filled()
    bench.take()
    status = bench.pool.status(bench.now)
    assert (status.prefixes, status.ready, status.held, status.waiting) == (("2001:db8:1::/64",), 7, 1, 0)
    assert (status.low, status.high, status.limit) == (4, 8, 20)
    assert status.ceiling == pytest.approx(20 / 60.0)


def test_events_are_sentences() -> None:
    bench = filled()
    texts = [event.text() for event in bench.events if event.__class__.__name__ == "PoolChanged"]
    assert texts == [
        "pool 0 ready, 0 in DAD, 0 in use, 0 waiting: 2001:db8:1::/64 can be used: reserving addresses",
        "pool 8 ready, 0 in DAD, 0 in use, 0 waiting: 2001:db8:1::/64 is filled",
    ]


# -- trouble at the source ---------------------------------------------------------------------------


class BrokenState(MemoryState):
    """State whose disk is full for a while."""

    broken = False

    def lease(self, sequence: str, count: int) -> range:
        from unimux.state import StateError

        if self.broken:
            raise StateError("the state cannot be written: No space left on device")
        return super().lease(sequence, 1)


def test_addresses_that_cannot_be_generated_are_said_so_and_tried_again() -> None:
    state = BrokenState(Random(2).randbytes)
    bench = filled(state=state)
    bench.pool.source._ready.clear()
    bench.pool.source._leased.clear()
    state.broken = True
    while bench.take():
        pass
    answer = bench.ask(wait=100.0)
    bench.run(1.0)
    assert "No space left" in str(answer.error)
    assert any("No space left" in cause for cause in bench.causes())
    state.broken = False
    bench.run(70.0)
    assert bench.pool.ready == 8


def test_closing_gives_everything_back_and_answers_everybody() -> None:
    bench = filled()
    while bench.take():
        pass
    kept = bench.pool.held
    answer = bench.ask()
    bench.run(0.5)
    bench.pool.close(bench.now)
    assert isinstance(answer.error, NodeStopped)
    with pytest.raises(NodeStopped):
        bench.ask()
    assert bench.pool_figures() == (0, 0, kept)
    bench.run(10.0)
    assert bench.pool_figures() == (0, 0, kept)
    assert bench.take() is None


# -- silence -----------------------------------------------------------------------------------------


@pytest.mark.proves("UM-ADDR-2", "UM-ADDR-3")
def test_reserved_addresses_are_defended_and_otherwise_silent() -> None:
    bench = filled()
    entry = next(entry for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN)
    text = address_text(entry.address)
    answers = bench.feed(probe(text))
    assert [packet[IPv6].dst for packet in answers] == ["ff02::1"]
    assert bench.feed(solicitation(text)) == []
    assert bench.drops(DropReason.ND_UNCERTAIN_SILENT) == 1
    assert bench.pool.ready == 8


# -- anything may happen -----------------------------------------------------------------------------


class PoolMachine(RuleBasedStateMachine):
    """Any order of uses, claims, prefixes and time: the invariants hold, nothing leaks, and peace brings a full pool."""

    bench: PoolBench

    @initialize(optimistic=st.booleans(), limit=st.sampled_from([6, 12]))
    def begin(self, optimistic: bool, limit: int) -> None:
        policy = WhenEmpty.OPTIMISTIC if optimistic else WhenEmpty.WAIT
        self.hostile = 0
        self.answers: list[Any] = []
        self.seen: set[bytes] = set()
        self.bench = PoolBench(
            PoolConfig(low=2, high=4, limit=limit, max_age=300.0, when_empty=policy), claims=self.claims
        )
        self.bench.settle()

    def claims(self, target: str) -> bool:
        self.hostile = max(0, self.hostile - 1)
        return self.hostile > 0

    @rule(seconds=st.sampled_from([0.0, 0.1, 0.5, 3.0, 100.0]))
    def wait(self, seconds: float) -> None:
        self.bench.run(seconds)

    @rule(seconds=st.sampled_from([0.5, 5.0, 50.0]))
    def connect(self, seconds: float) -> None:
        entry = self.bench.take()
        if entry is not None:
            assert entry.address not in self.seen
            self.seen.add(entry.address)
            self.bench.hold(entry, seconds)
        else:
            answer = self.bench.ask(wait=seconds)
            self.answers.append((answer, self.bench.now + seconds))

    @rule(count=st.integers(1, 5))
    def neighbour_claims_the_next(self, count: int) -> None:
        self.hostile = count + 1

    @rule()
    def neighbour_claims_a_reservation(self) -> None:
        for entry in self.bench.host.addresses:
            if entry.state is AddressState.UNCERTAIN:
                self.bench.claim(entry.address)
                return

    @rule(prefix=st.sampled_from([PREFIX, SECOND]), preferred=st.sampled_from([0, 30, 14400]))
    def router_speaks(self, prefix: str, preferred: int) -> None:
        self.bench.feed(advertisement(prefix=prefix, preferred=preferred, valid=86400))

    @rule()
    def link_comes_up(self) -> None:
        self.bench.pool.link_up(self.bench.now)

    @rule()
    def cancel_a_request(self) -> None:
        if self.answers:
            answer, _ = self.answers.pop()
            answer.ticket.cancel(self.bench.now)

    @invariant()
    def everything_fits(self) -> None:
        if hasattr(self, "bench"):
            self.bench.check()
            for answer, deadline in self.answers:
                assert answer.outcome is not None or self.bench.now <= deadline
            self._use_answers()

    def _use_answers(self) -> None:
        for answer, _ in list(self.answers):
            if answer.outcome is not None:
                if not isinstance(answer.outcome, Exception):
                    assert answer.entry.address not in self.seen
                    self.seen.add(answer.entry.address)
                    if answer.entry.state in (AddressState.PREFERRED, AddressState.DEPRECATED):
                        self.bench.hold(answer.entry, 1.0)
                self.answers = [pair for pair in self.answers if pair[0] is not answer]

    def teardown(self) -> None:
        if not hasattr(self, "bench"):
            return
        self.hostile = 0
        self.bench.feed(advertisement(prefix=PREFIX, valid=86400, preferred=14400))
        self.bench.run(200.0)
        self._use_answers()
        self.bench.run(4000.0)
        self.bench.check()
        assert self.bench.pool.held == 0
        for _ in range(10):  # this may be the moment at which several have reached their age: their heirs need a DAD
            if self.bench.pool.ready < 2:
                self.bench.run(1.0)
        assert self.bench.pool.ready >= 2


PoolMachine.TestCase.settings = settings(
    max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestPoolMachine = pytest.mark.proves("UM-POOL-1", "UM-ADDR-6", "UM-ADDR-10")(PoolMachine.TestCase)


@given(count=st.integers(1, 40))
@settings(max_examples=10, deadline=None)
def test_parallel_requests_all_get_different_addresses(count: int) -> None:
    bench = filled(PoolConfig(low=2, high=4, limit=64))
    answers = [bench.ask(wait=30.0) for _ in range(count)]
    bench.run(30.0)
    assert len({answer.entry.address for answer in answers}) == count
    assert all(answer.entry.address[:8] == address(PREFIX)[:8] and PEER for answer in answers)
