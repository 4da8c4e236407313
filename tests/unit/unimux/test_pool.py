"""The pool on a real host: filling, taking, waiting and figures."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import pytest

from tapstack.ipv6.addresses import AddressKind, AddressState
from tapstack.ipv6.config import HostConfig
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import User, advertisement, group_of, records
from tests.unit.unimux.poolbench import EA, PEER, SMALL, PoolBench, filled
from unimux.errors import NodeStopped, PoolExhausted, SetupError
from unimux.pool import PoolConfig, WhenEmpty

# -- filling -----------------------------------------------------------------------------------------


@pytest.mark.proves("UM-POOL-1")
def test_it_fills_to_the_high_mark_and_then_rests() -> None:
    bench = filled()
    assert bench.pool_figures() == (8, 0, 0)
    assert len({target for _, target in bench.probes if not target.startswith("fe80")}) == 8
    probes = len(bench.probes)
    bench.run(100.0)
    assert bench.pool_figures() == (8, 0, 0)
    assert len(bench.probes) == probes


@pytest.mark.proves("UM-POOL-1", by="api")
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


@pytest.mark.proves("UM-POOL-1", by="api")
def test_the_default_is_well_under_hundreds_of_addresses() -> None:
    bench = filled(PoolConfig())
    assert bench.pool.ready == 32


@pytest.mark.proves("UM-POOL-1", by="api")
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


@pytest.mark.proves("UM-POOL-1", by="api")
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
    assert bench.announced() == [(bench.now, address_text(entry.address))]
    assert address_text(entry.address) in [target for _, target in bench.probes]
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
    announced = [target for _, target in bench.announced()]
    assert len(set(announced)) == len(announced) == len(seen)


@pytest.mark.proves("UM-POOL-2")
def test_reservations_are_replaced_at_their_maximum_age() -> None:
    bench = filled(PoolConfig(low=4, high=8, max_age=100.0))
    first = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    probes = len(bench.probes)
    bench.run(65.0)  # the first were ready up to 7 s ago, and live for 75 s at least
    assert (len(bench.probes), bench.left()) == (probes, set())
    still = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    assert still == first
    bench.run(45.0)
    later = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    assert first.isdisjoint(later)
    assert len(later) >= 4
    assert first.isdisjoint(address(target) for _, target in bench.probes[probes:])
    assert bench.left() == {group_of(address_text(each)) for each in first}
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
    assert bench.left() == {group_of(target) for _, target in bench.probes if not target.startswith("fe80")}


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
    (tested,) = (when for when, target in bench.probes if target == address_text(answer.entry.address))
    (taken,) = (when for when, target in bench.announced() if target == address_text(answer.entry.address))
    assert asked <= tested <= taken - 1.0


@pytest.mark.proves("UM-POOL-3", by="api")
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


@pytest.mark.proves("UM-POOL-3", by="api")
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


@pytest.mark.parametrize("end", ["answered", "cancelled"])
def test_nothing_keeps_a_request_that_is_over_until_its_deadline(end: str) -> None:
    bench = filled()
    while bench.take():
        pass
    answer = bench.ask(wait=3600.0)
    gone = weakref.ref(answer)
    if end == "answered":
        bench.run(10.0)
        assert answer.entry.state is AddressState.PREFERRED
    else:
        assert answer.ticket is not None
        answer.ticket.cancel(bench.now)
    del answer
    gc.collect()
    assert gone() is None


@pytest.mark.proves("UM-POOL-3", by="api")
def test_the_policy_fail_answers_at_once() -> None:
    bench = filled(PoolConfig(low=2, high=4, when_empty=WhenEmpty.FAIL))
    while bench.take():
        pass
    answer = bench.ask(wait=100.0)
    bench.run(0.0)
    assert isinstance(answer.error, PoolExhausted)
    assert answer.error.waited == 0.0


@pytest.mark.proves("UM-POOL-3", "UM-POOL-1", by="api")
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


@pytest.mark.proves("UM-POOL-3", by="api")
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


@pytest.mark.proves("UM-POOL-3", "UM-DAS-7", by="api")
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


# -- figures -----------------------------------------------------------------------------------------


@pytest.mark.proves("UM-POOL-5", by="api")
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


@pytest.mark.proves("UM-POOL-5", by="api")
def test_with_short_sessions_the_pace_is_the_ceiling() -> None:
    bench = filled(PoolConfig(low=8, high=8, limit=20, pace=0.5))
    for _ in range(20):
        bench.session(0.1)
        bench.run(1.0)
    assert bench.pool.ceiling() == pytest.approx(2.0)


@pytest.mark.proves("UM-POOL-5", by="api")
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
