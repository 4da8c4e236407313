"""The link goes away and comes back, perhaps as another one: what is used is tested again (RFC 4862 §5.4)."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6MLQuery,
    ICMPv6MLReport,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.packet import Raw

from tapstack.events import LinkNotice
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.types import address, address_text
from tapstack.wire.nd import INFINITY, Pref64
from tests.unit.ipv6.bench import (
    OFF_LINK,
    PREFIX,
    ROUTER,
    ROUTER_MAC,
    Bench,
    advertisement,
    neighbor_advertisement,
    only,
    probe,
    settled,
    solicitation,
    to_group,
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


def prefix_information(prefix: str, valid: int = 86400, preferred: int = 14400) -> ICMPv6NDOptPrefixInfo:
    return ICMPv6NDOptPrefixInfo(
        prefix=prefix, prefixlen=64, L=1, A=1, validlifetime=valid, preferredlifetime=preferred
    )


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


@pytest.mark.proves("ST-IP6-6", by="api")
@pytest.mark.parametrize("lifetimes", [(2_592_000, 604_800), (INFINITY, INFINITY)])
def test_a_node_that_visits_many_links_has_an_address_on_each(lifetimes: tuple[int, int]) -> None:
    """What the links before had fills the list, and gives way; for ever is until another link."""
    bench = Bench()
    bench.settle(prefix=None)
    for number in range(1, 3 * bench.host.config.prefixes):
        here = f"2001:db8:{number:x}::"
        bench.feed(advertisement(prefix=here, valid=lifetimes[0], preferred=lifetimes[1]))
        bench.run(5.0)
        assert preferred(bench) == [here]
        source = bench.host.source_for(address("2001:4860::1"))
        assert source is not None
        assert source[:8] == address(here)[:8]
        assert len(bench.host.prefixes) <= bench.host.config.prefixes
        flap(bench)


@pytest.mark.proves("ST-IP6-6", by="api")
def test_a_list_that_was_filled_on_another_link_makes_room_for_all_that_this_one_has() -> None:
    """Where the first advertisement itself does not fit; connections on what it brings again go on."""
    bench = Bench()
    bench.settle()
    entry = bench.ephemeral(USED)
    full = bench.host.config.prefixes
    many = (f"2001:db8:bad:{number:x}::" for number in range(1, full + 9))
    bench.feed(advertisement(*(prefix_information(each, INFINITY, INFINITY) for each in many)))
    assert len(bench.host.prefixes) == full
    flap(bench)
    bench.feed(advertisement(prefix_information(OTHER)))
    bench.run(5.0)
    assert preferred(bench) == [PREFIX, OTHER]
    assert entry.state == "PREFERRED"
    assert not bench.host.prefix_list.on_link(address("2001:db8:bad:1::1"))


def test_what_a_router_set_holds_on_its_own_link_only(bench: Bench) -> None:
    """RFC 4861 §6.3.2, RFC 8201 §4: the next router may leave it all unspecified, and it never healed."""
    interface, path = bench.host.interface, bench.host.path(address(OFF_LINK), bench.now)
    bench.feed(advertisement(chlim=33, mtu=1400, retranstimer=5000, reachabletime=1000))
    bench.host.routes.mtus.learn(address(OFF_LINK), 1300, bench.now)
    assert (path.mtu, path.hop_limit, interface.retrans_timer, interface.base_reachable_time) == (1300, 33, 5.0, 1.0)
    flap(bench)
    assert (path.mtu, path.hop_limit, interface.retrans_timer, interface.base_reachable_time) == (1500, 64, 1.0, 30.0)
    assert 15.0 <= interface.reachable_time <= 45.0
    bench.feed(advertisement(chlim=0))
    assert (path.mtu, path.hop_limit, interface.link_mtu) == (1500, 64, 1500)
    bench.run(3600)  # nor does a timer of what was learnt come


def test_the_queriers_of_a_link_are_not_those_of_the_next(bench: Bench) -> None:
    """RFC 3810 §8.2.1: the older version is that of the attached link; UM-ADDR-12: its querier does not work on this one."""
    alert = to_group(ROUTER, "ff02::1", ROUTER_MAC, hlim=1) / IPv6ExtHdrHopByHop(options=[RouterAlert()])
    bench.feed(alert / ICMPv6MLQuery(mrd=10_000))
    assert not bench.host.multicast.report_unasked(bench.now)
    flap(bench)
    bench.run(20.0)
    assert only(bench.sent, ICMPv6MLReport2)
    assert not only(bench.sent, ICMPv6MLReport)
    assert bench.host.multicast.report_unasked(bench.now)
