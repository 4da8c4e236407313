"""By which router a packet goes: prefixes, preferences, reachability (RFC 4191, RFC 4861 §6.3.6)."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6ND_RA, ICMPv6ND_RS, ICMPv6NDOptRouteInfo, IPv6
from scapy.layers.l2 import Ether

from tapstack.types import address, address_text
from tests.unit.ipv6.bench import (
    OFF_LINK,
    ROUTER,
    ROUTER_MAC,
    SECOND,
    SECOND_MAC,
    Bench,
    advertisement,
    leaves_for,
    neighbor_advertisement,
    settled,
    to_group,
)


@pytest.fixture
def bench() -> Bench:
    return settled()


@pytest.mark.proves("ST-IP6-5", "RFC8504-5.9")
def test_routes_by_prefix_preference_and_reachability(bench: Bench) -> None:
    """RFC 4191: the longest prefix, then the preference, and unreachable routers last."""
    specific = "2001:db8:ffff::"
    bench.feed(
        advertisement(
            ICMPv6NDOptRouteInfo(prefix=specific, plen=48, prf=0, rtlifetime=600),
            prefix=None,
            source=SECOND,
            mac=SECOND_MAC,
            prf=3,
        )
    )
    assert leaves_for(bench, OFF_LINK) == SECOND
    assert leaves_for(bench, "2001:db8:eeee::1") == ROUTER
    bench.feed(advertisement(prefix=None, source=SECOND, mac=SECOND_MAC, prf=1))
    assert leaves_for(bench, "2001:db8:eeee::1") == SECOND
    bench.run(601)
    assert leaves_for(bench, OFF_LINK) == SECOND  # by default now
    bench.feed(advertisement(prefix=None, source=SECOND, mac=SECOND_MAC, lifetime=0))
    assert leaves_for(bench, OFF_LINK) == ROUTER


@pytest.mark.proves("ST-IP6-5", "RFC8504-5.9")
def test_a_longer_route_by_a_dead_router_is_avoided(bench: Bench) -> None:
    """RFC 4191 §3.2: reachability comes before the length of the prefix."""
    option = ICMPv6NDOptRouteInfo(prefix="2001:db8:ffff::", plen=48, rtlifetime=6000)
    bench.feed(advertisement(option, prefix=None, source=SECOND, mac=SECOND_MAC, lifetime=0))
    assert leaves_for(bench, OFF_LINK, confirmed=False) == SECOND
    bench.run(8.5)
    assert leaves_for(bench, OFF_LINK) == ROUTER
    assert {leaves_for(bench, f"2001:db8:ffff::{number}") for number in range(1, 10)} == {ROUTER}


def test_routers_that_are_all_dead_are_tried_in_turn(bench: Bench) -> None:
    """RFC 4861 §6.3.6."""
    bench.feed(advertisement(prefix=None, source=SECOND, mac=SECOND_MAC))
    for router in (ROUTER, SECOND):
        bench.host.neighbors.remove(address(router))
    tried = [address_text(bench.host.routes.next_hop(address(OFF_LINK), bench.now)) for _ in range(4)]
    assert tried in ([ROUTER, SECOND] * 2, [SECOND, ROUTER] * 2)


@pytest.mark.proves("RFC8504-5.9")
def test_a_route_information_of_length_zero_is_the_default_route(bench: Bench) -> None:
    """RFC 4191 §3.1: its preference and its lifetime take the place of those in the header."""

    def advertise(preference: int) -> None:
        bench.feed(advertisement(ICMPv6NDOptRouteInfo(prefix="::", plen=0, prf=preference, rtlifetime=60)))

    bench.feed(advertisement(prefix=None, source=SECOND, mac=SECOND_MAC, lifetime=30))
    low, high = 3, 1
    for preference, router in ((low, SECOND), (high, ROUTER), (low, SECOND)):
        advertise(preference)
        assert leaves_for(bench, OFF_LINK) == router
    bench.run(31)
    assert leaves_for(bench, OFF_LINK) == ROUTER
    bench.run(30)
    assert leaves_for(bench, OFF_LINK) == ""
    advertise(low)
    assert leaves_for(bench, OFF_LINK) == ROUTER


@pytest.mark.proves("ST-IP6-5", "RFC8504-5.9")
def test_a_default_route_overrides_a_header_that_offers_none() -> None:
    """RFC 4191 §3.1: also where the header's lifetime is 0, so that hosts without routes do not choose the router."""
    bench = Bench()
    bench.settle(router=False)
    low, high = 3, 1

    def advertise(lifetime: int, preference: int, header: int) -> None:
        option = ICMPv6NDOptRouteInfo(prefix="::", plen=0, prf=preference, rtlifetime=lifetime)
        bench.feed(advertisement(option, lifetime=header, prf=high))

    advertise(60, low, 0)
    assert leaves_for(bench, OFF_LINK) == ROUTER
    bench.out.clear()
    bench.run(30)
    assert not [p for p in bench.sent if ICMPv6ND_RS in p], "a router has been found"
    bench.feed(advertisement(prefix=None, source=SECOND, mac=SECOND_MAC))
    assert leaves_for(bench, OFF_LINK) == SECOND
    bench.feed(advertisement(prefix=None, source=SECOND, mac=SECOND_MAC, lifetime=0))
    assert leaves_for(bench, OFF_LINK) == ROUTER, "its preference is the option's, low"
    advertise(0, low, 1800)
    assert leaves_for(bench, OFF_LINK) == "", "and the other way round"
    bench.run(10)
    assert [p for p in bench.sent if ICMPv6ND_RS in p]


@pytest.mark.proves("ST-IP6-5", "RFC8504-5.9")
@pytest.mark.parametrize("lifetime", [0, 1800])
def test_the_routes_of_who_is_no_router_any_more_go_with_its_office(bench: Bench, lifetime: int) -> None:
    """RFC 4861 §7.2.5: a neighbour that advertises itself without the R flag, a default router before or not."""
    option = ICMPv6NDOptRouteInfo(prefix="2001:db8:ffff::", plen=48, rtlifetime=6000)
    bench.feed(advertisement(option, prefix=None, source=SECOND, mac=SECOND_MAC, lifetime=lifetime))
    assert leaves_for(bench, OFF_LINK) == SECOND
    bench.feed(neighbor_advertisement(SECOND, SECOND_MAC, R=0))
    assert leaves_for(bench, OFF_LINK) == ROUTER
    bench.feed(neighbor_advertisement(ROUTER, ROUTER_MAC, R=0))
    assert leaves_for(bench, OFF_LINK) == ""


@pytest.mark.proves("ST-IP6-4", by="api")
def test_a_neighbour_that_changes_its_mind_moves_nobody_elses_paths(bench: Bench) -> None:
    """It calls itself a router and then a host, again and again; nothing led through it."""
    path = bench.host.path(address(OFF_LINK), bench.now)
    assert leaves_for(bench, OFF_LINK) == ROUTER
    bench.teach(SECOND, SECOND_MAC)
    before = bench.host.routes.generation
    for router in (1, 0) * 10:
        bench.feed(neighbor_advertisement(SECOND, SECOND_MAC, R=router))
        assert path.ready(bench.now) is not None
    assert bench.host.routes.generation == before


def test_changing_routers_moves_kept_paths(bench: Bench) -> None:
    path = bench.host.path(address(OFF_LINK), bench.now)
    assert path.ready(bench.now) is not None
    bench.feed(advertisement(prefix=None, source=SECOND, mac=SECOND_MAC, prf=1))
    header = path.ready(bench.now)
    assert header is not None
    assert header[:6].hex(":") == SECOND_MAC
    bench.feed(advertisement(prefix=None, source=SECOND, mac=SECOND_MAC, lifetime=0))
    header = path.ready(bench.now)
    assert header is not None
    assert header[:6].hex(":") == ROUTER_MAC


def traffic(bench: Bench, seconds: int, alive: Callable[[], set[str]]) -> tuple[list[str], list[tuple[float, str]]]:
    """Send to OFF_LINK once a second; the routers of `alive` answer solicitations.

    Returns the router that each packet left for, and when which router was solicited.
    """
    macs, seen = {ROUTER: ROUTER_MAC, SECOND: SECOND_MAC}, len(bench.out)
    left, asked = [], []
    for _ in range(seconds):
        bench.host.send(address(bench.link_local), address(OFF_LINK), 253, [bytes(8)], bench.now)
        for pause in (0.01, 0.99):
            bench.run(pause)
            for when, packet in bench.out[seen:]:
                if packet[IPv6].nh == 253:
                    left += [router for router, mac in macs.items() if mac == packet[Ether].dst]
                elif ICMPv6ND_NS in packet:
                    router = packet[ICMPv6ND_NS].tgt
                    asked.append((when, router))
                    if router in alive():
                        bench.feed(neighbor_advertisement(router, macs[router], dst=bench.link_local, S=1, R=1))
            seen = len(bench.out)
    return left, asked


@pytest.mark.proves("ST-IP6-5", "RFC8504-5.9")
def test_a_better_router_that_was_silent_is_probed_and_used_again() -> None:
    """RFC 4191 §3.5: once a minute, while there is traffic for it."""
    bench = Bench()
    bench.settle(prf=1, lifetime=9000)
    bench.feed(advertisement(prefix=None, source=SECOND, mac=SECOND_MAC, prf=3, lifetime=9000))
    alive = {SECOND}
    left, _ = traffic(bench, 60, lambda: alive)
    assert left[0] == ROUTER
    assert left[-1] == SECOND
    left, asked = traffic(bench, 600, lambda: alive)
    assert set(left) == {SECOND}
    probes = [when for when, router in asked if router == ROUTER]
    assert 5 <= len(probes) <= 10
    assert min(later - sooner for sooner, later in pairwise(probes)) >= 60.0
    assert not [packet for packet in bench.run(600) if ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == ROUTER]
    alive.add(ROUTER)
    left, _ = traffic(bench, 120, lambda: alive)
    assert left[-1] == ROUTER
    left, _ = traffic(bench, 300, lambda: alive)
    assert set(left) == {ROUTER}


@pytest.mark.parametrize("there", [True, False])
def test_a_better_router_whose_advertisement_names_no_station_is_asked_for(there: bool) -> None:
    bench = Bench()
    bench.settle(prf=3, lifetime=9000)
    nameless = to_group(SECOND, "ff02::1", SECOND_MAC, hlim=255) / ICMPv6ND_RA(routerlifetime=9000, prf=1)
    bench.feed(nameless)
    left, asked = traffic(bench, 200, lambda: {ROUTER, SECOND} if there else {ROUTER})
    assert left[-1] == (SECOND if there else ROUTER)
    probes = [when for when, router in asked if router == SECOND]
    assert there or all(later - sooner >= 60.0 for sooner, later in pairwise(probes))
    assert len(left) == 200  # meanwhile the other one carries everything
