"""The pool among neighbours: duplicates, claims, another link, and silence."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import AsyncExitStack
from random import Random

import pytest
from scapy.layers.inet6 import IPv6

from tapstack.clock import run_virtual
from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressState
from tapstack.link.memory import MemorySwitch
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import PREFIX, probe, solicitation
from tests.unit.unimux.poolbench import SMALL, PoolBench, filled
from unimux.errors import PoolExhausted
from unimux.node import Node, NodeConfig
from unimux.pool import PoolConfig, WhenEmpty
from unimux.state import MemoryState

# -- neighbours --------------------------------------------------------------------------------------


@pytest.mark.proves("UM-ADDR-10", by="api")
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


@pytest.mark.proves("UM-POOL-3", by="api")
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


@pytest.mark.proves("UM-ADDR-10", by="api")
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


@pytest.mark.proves("UM-ADDR-6", by="api")
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


@pytest.mark.proves("UM-ADDR-10", by="api")
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


@pytest.mark.proves("UM-ADDR-10", by="api")
def test_on_another_link_reservations_are_made_anew_and_no_claims_counted() -> None:
    bench = filled()
    before = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    bench.pool.link_up(bench.now)
    bench.run(5.0)
    after = {entry.address for entry in bench.host.addresses if entry.state is AddressState.UNCERTAIN}
    assert len(after) == 8
    assert after.isdisjoint(before)
    assert not any("claimed" in cause for cause in bench.causes())


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
