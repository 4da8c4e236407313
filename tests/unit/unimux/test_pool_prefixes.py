"""The pool and its prefixes: which one, one that goes, one that is dedicated."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6ND_NA, IPv6

from tapstack.ipv6.addresses import AddressKind, AddressState
from tapstack.ipv6.prefixes import Prefix
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import (
    PREFIX,
    ICMPv6ND_RS,
    User,
    advertisement,
    one,
    probe,
    solicitation,
    to_us,
)
from tests.unit.unimux.poolbench import EA, PEER, SECOND, SMALL, PoolBench, filled
from unimux.generators import GeneratorError
from unimux.pool import NoPrefix, PoolConfig
from unimux.prefix import choose_prefix

# -- prefixes ----------------------------------------------------------------------------------------


@pytest.mark.proves("UM-POOL-3", by="api")
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


@pytest.mark.proves("UM-ADDR-6", "UM-POOL-1", by="api")
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


@pytest.mark.proves("UM-ADDR-6", by="api")
def test_the_pool_survives_a_flapping_prefix() -> None:
    bench = filled()
    for _ in range(20):
        bench.feed(advertisement(preferred=0, valid=7200))
        bench.run(0.3)
        bench.feed(advertisement())
        bench.run(0.3)
    bench.run(10.0)
    assert bench.pool_figures() == (8, 0, 0)


@pytest.mark.proves("UM-POOL-1", "ST-IP6-5", by="api")
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


@pytest.mark.proves("UM-POOL-1", "UM-ADDR-6", by="api")
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
        assert bench.announced()[-1] == (bench.now, address_text(entry.address))
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


@pytest.mark.proves("UM-DAS-7", by="api")
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


NEIGHBOUR = "fe80::66"


def answers_an_echo(bench: PoolBench, target: str) -> bool:
    """Whether NEIGHBOUR, whose link-layer address is known, gets an echo reply from an address."""
    bench.teach(NEIGHBOUR)
    answers = bench.feed(to_us(NEIGHBOUR, target) / ICMPv6EchoRequest())
    assert all(ICMPv6EchoReply in packet and packet[IPv6].src == target for packet in answers)
    return bool(answers)


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
    assert entries[0] is not None
    bench.host.addresses.acquire(entries[0], User(NEIGHBOUR))
    assert answers_an_echo(bench, address_text(entries[0].address)), "the control: one in use answers its peer"


@pytest.mark.proves("UM-POOL-4")
def test_any_address_of_a_dedicated_prefix_that_is_not_in_use_is_silent() -> None:
    bench = PoolBench(SMALL)
    bench.settle(router=False)
    bench.host.prefix_list.add_dedicated(address("2001:db8:dd00::"), 64)
    entry = bench.take()
    assert entry is not None
    text = address_text(entry.address)
    user = User(NEIGHBOUR)
    bench.host.addresses.acquire(entry, user)
    unused = "2001:db8:dd00::1234"
    # The controls: the address in use answers its peer, and the link-local one whoever asks for it.
    assert answers_an_echo(bench, text)
    assert one(bench.feed(probe(bench.link_local)), ICMPv6ND_NA)
    assert one(bench.feed(solicitation(bench.link_local, src=NEIGHBOUR)), ICMPv6ND_NA)
    for target in (unused, text):
        assert bench.feed(probe(target)) == []
    bench.host.addresses.drop(entry, user, bench.now, "closed")
    for target in (unused, text):
        assert bench.feed(solicitation(target, src=NEIGHBOUR)) == []
        assert not answers_an_echo(bench, target)
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


@pytest.mark.parametrize("dedicated", [True, False])
def test_a_prefix_that_is_used_up_does_not_stop_another(dedicated: bool) -> None:
    bench = filled()
    small, inside = address("fd00:1::"), address("fd00:1::1:0:0:1")
    with pytest.raises(GeneratorError):
        bench.pool.source.draw_many(257, bits=8)
    prefixes = bench.host.prefix_list
    if dedicated:
        prefixes.add_dedicated(small, 120)
    else:
        prefixes.add_static(small, 120, autonomous=True, now=bench.now)
    bench.pool.start(bench.now)
    bench.run(1.0)
    asked = bench.ask(destination=inside)
    while bench.take():
        pass
    healthy = bench.ask(wait=5.0)
    bench.run(10.0)
    assert address_text(healthy.entry.address).startswith("2001:db8:1:")
    assert bench.pool.ready == 6, "it is filled again, and two were taken"
    assert address_text(asked.entry.address).startswith("2001:db8:1:")


def test_a_generator_that_has_recovered_is_asked_before_a_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pace holds the next address back: until then nobody knows whether there is one, and the request waits."""
    bench = filled(PoolConfig(low=0, high=0, pace=1.0))
    bench.feed(advertisement(prefix=SECOND))
    bench.run(2.0)
    inside = address("2001:db8:1::99")

    def used_up(prefix: bytes, length: int) -> bytes:
        raise GeneratorError("used up")

    with monkeypatch.context() as trouble:
        trouble.setattr(bench.pool.source, "draw", used_up)
        refused = bench.ask(destination=inside)
        bench.run(3.0)
    assert isinstance(refused.error, GeneratorError)
    bench.run(100.0)
    other = bench.ask(destination=address("2001:db8:2::99"))
    bench.run(0.05)
    answer, hasty = bench.ask(destination=inside), bench.ask(destination=inside, wait=0.1)
    bench.run(10.0)
    assert address_text(other.entry.address).startswith("2001:db8:2:")
    assert address_text(answer.entry.address).startswith("2001:db8:1:")
    assert isinstance(hasty.error, GeneratorError), "what is known last is told"
