"""The link goes away and comes back, perhaps as another one: what is used is tested again (RFC 4862 §5.4)."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptPrefixInfo, ICMPv6NDOptSrcLLAddr, IPv6
from scapy.packet import Raw

from tapstack.events import LinkNotice
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.types import address, address_text
from tapstack.wire.nd import Pref64
from tests.unit.ipv6.bench import (
    PREFIX,
    ROUTER,
    Bench,
    advertisement,
    neighbor_advertisement,
    only,
    probe,
    settled,
    solicitation,
)

USED = PREFIX + "1:2:3:4"
OTHER = "2001:db8:2::"
NEIGHBOR = PREFIX + "77"


@pytest.fixture
def bench() -> Bench:
    return settled()


def flap(bench: Bench) -> None:
    bench.host.link_down(bench.now)
    bench.run(5.0)
    bench.out.clear()
    bench.host.link_up(bench.now)


def probed(bench: Bench) -> set[str]:
    packets = only(bench.sent, ICMPv6ND_NS)
    return {packet[ICMPv6ND_NS].tgt for packet in packets if packet[IPv6].src == "::"}


def notices(bench: Bench, subject: str) -> list[str]:
    return [e.cause for e in bench.events if isinstance(e, LinkNotice) and e.subject == address_text(address(subject))]


@pytest.mark.proves("ST-IP6-6", "UM-ADDR-11")
def test_every_address_in_use_is_tested_again_and_answers_meanwhile(bench: Bench) -> None:
    entry = bench.ephemeral(USED)
    flap(bench)
    bench.run(0.5)
    answer = only(bench.feed(solicitation(USED)), ICMPv6ND_NA)
    assert len(answer) == 1
    defence = only(bench.feed(probe(USED)), ICMPv6ND_NA)
    assert defence[0][IPv6].dst == "ff02::1"
    bench.run(5.0)
    assert probed(bench) == {bench.link_local, address_text(bench.stable.address), address_text(address(USED))}
    assert all(
        ICMPv6NDOptSrcLLAddr not in packet for packet in only(bench.sent, ICMPv6ND_NS) if packet[IPv6].src == "::"
    )
    assert bench.moves(USED)[-1] == ("UNCERTAIN", "PREFERRED")
    assert entry.state == "PREFERRED"
    assert not notices(bench, USED)


@pytest.mark.proves("UM-ADDR-11")
def test_a_connection_keeps_an_address_that_somebody_took_meanwhile_and_an_event_says_so(bench: Bench) -> None:
    entry = bench.ephemeral(USED)
    flap(bench)
    bench.run(0.5)
    bench.feed(neighbor_advertisement(USED, src="fe80::66"))
    bench.run(5.0)
    assert entry.state == "PREFERRED"
    assert entry.users
    assert only(bench.feed(solicitation(USED)), ICMPv6ND_NA), "it still answers for it"
    assert notices(bench, USED) == ["02:00:00:00:00:66 has it; it is kept"]


@pytest.mark.proves("ST-IP6-6", "ST-IP6-9")
def test_an_address_that_stays_is_replaced_when_somebody_took_it_meanwhile(bench: Bench) -> None:
    before = bench.stable, bench.link_local
    flap(bench)
    bench.run(0.5)
    for text in (address_text(before[0].address), before[1]):
        bench.feed(neighbor_advertisement(text, src="fe80::66"))
    with pytest.raises(AssertionError):
        _ = bench.link_local
    bench.run(5.0)
    gone = {address_text(before[0].address), before[1]}
    tested = probed(bench)
    assert len(tested - gone) == 2, "others are tested in their place"
    assert {text for text in tested if only(bench.feed(solicitation(text)), ICMPv6ND_NA)} == tested - gone
    assert bench.link_local != before[1]
    assert bench.stable.address != before[0].address
    assert bench.stable.state == "PREFERRED"
    assert before[0].state == "INVALID"


@pytest.mark.proves("ST-IP6-6")
def test_a_probe_that_was_lost_with_the_carrier_is_sent_again() -> None:
    bench = Bench(start=False)
    bench.host.link_down(bench.now)
    bench.host.start(bench.now)
    bench.run(0.4)
    assert [entry.state for entry in bench.host.addresses] == ["TENTATIVE"]
    (lost,) = probed(bench)
    bench.out.clear()
    bench.host.link_up(bench.now)
    bench.run(0.8)
    assert probed(bench) == {lost}
    assert [entry.state for entry in bench.host.addresses] == ["TENTATIVE"]
    bench.run(5.0)
    assert bench.link_local == lost


@pytest.mark.proves("ST-IP6-6")
def test_an_optimistic_address_is_tested_on_the_link_that_came_back(bench: Bench) -> None:
    """RFC 4429 §3.3: it must not become PREFERRED without."""
    entry = bench.host.addresses.add(address(USED), AddressKind.EPHEMERAL, bench.now, trigger=Trigger.ADD_OPTIMISTIC)
    bench.run(0.4)
    bench.host.link_down(bench.now)
    bench.host.link_up(bench.now)
    bench.out.clear()
    bench.run(0.5)
    assert address_text(entry.address) in probed(bench)
    bench.feed(neighbor_advertisement(USED, src="fe80::66"))
    assert entry.state == "DUPLICATED"


@pytest.mark.proves("ST-IP6-6", by="api")
def test_a_probe_that_the_link_brings_back_is_no_conflict_here_either(bench: Bench) -> None:
    entry = bench.ephemeral(USED)
    flap(bench)
    bench.run(0.5)
    for packet in only(bench.sent, ICMPv6ND_NS):
        bench.feed(packet)
    bench.run(20.0)
    assert entry.state == "PREFERRED"
    assert notices(bench, USED) == ["a probe for it was looped back by the link"]


# -- what routers said ---------------------------------------------------------------------------------


def prefix_information(prefix: str) -> ICMPv6NDOptPrefixInfo:
    return ICMPv6NDOptPrefixInfo(prefix=prefix, prefixlen=64, L=1, A=1, validlifetime=86400, preferredlifetime=14400)


def preferred(bench: Bench) -> list[str]:
    return [address_text(prefix.prefix) for prefix in bench.host.prefixes if prefix.preferred]


@pytest.mark.proves("ST-IP6-6", by="api")
def test_the_servers_of_a_link_that_went_away_are_forgotten(bench: Bench) -> None:
    """RFC 8106 §5.1: none is used after its lifetime, which nobody on the next link would renew."""
    nat64 = Raw(Pref64(address("2001:db8:64::"), 96, 600).pack())
    bench.feed(advertisement(nat64, rdnss=("2001:db8::53",)))
    assert len(bench.host.rdnss) == len(bench.host.routers.pref64) == 1
    flap(bench)
    assert len(bench.host.rdnss) == len(bench.host.routers.pref64) == 0
    bench.feed(advertisement(prefix=OTHER, rdnss=("2001:db8:2::53",)))
    assert bench.host.rdnss == [address("2001:db8:2::53")]


@pytest.mark.proves("ST-IP6-6", "UM-ADDR-11", by="api")
def test_the_prefixes_of_another_link_take_the_place_of_the_old_ones(bench: Bench) -> None:
    entry, kept = bench.ephemeral(USED), bench.stable
    flap(bench)
    bench.feed(advertisement(prefix=OTHER))
    bench.run(5.0)
    assert preferred(bench) == [OTHER]
    assert entry.state == kept.state == "DEPRECATED"
    assert entry.users
    assert bench.host.routes.next_hop(address(NEIGHBOR), bench.now) == address(ROUTER)
    source = bench.host.source_for(address(NEIGHBOR))
    assert source is not None
    assert source.startswith(address(OTHER)[:8])
    # Its router was late, no more.
    bench.feed(advertisement())
    assert preferred(bench) == [PREFIX, OTHER]
    assert entry.state == kept.state == "PREFERRED"
    assert bench.host.routes.next_hop(address(NEIGHBOR), bench.now) == address(NEIGHBOR)


@pytest.mark.proves("ST-IP6-6", "UM-ADDR-11", by="api")
@pytest.mark.parametrize("answered", [True, False])
def test_the_prefixes_of_a_link_that_is_the_same_go_on(bench: Bench, answered: bool) -> None:
    """Whether its router says so, of both in one advertisement, or has not been heard yet."""
    both = advertisement(prefix_information(OTHER))
    bench.feed(both)
    entry = bench.ephemeral(USED)
    flap(bench)
    if answered:
        bench.feed(both)
    bench.run(5.0)
    assert preferred(bench) == [PREFIX, OTHER]
    assert bench.moves(USED)[-1] == ("UNCERTAIN", "PREFERRED")
    assert bench.host.prefix_list.on_link(address(NEIGHBOR))
    assert entry.users


def test_a_prefix_set_by_hand_needs_no_router_to_go_on(bench: Bench) -> None:
    bench.host.prefix_list.add_static(address("2001:db8:3::"), 64, autonomous=True, now=bench.now)
    bench.host.prefix_list.add_dedicated(address("2001:db8:4::"), 64)
    flap(bench)
    bench.feed(advertisement(prefix=OTHER))
    assert preferred(bench) == ["2001:db8:3::", "2001:db8:4::", OTHER]
    assert bench.host.prefix_list.on_link(address("2001:db8:3::1"))
