"""By which router a packet goes: prefixes, preferences, reachability (RFC 4191, RFC 4861 §6.3.6)."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import ICMPv6NDOptRouteInfo

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
    settled,
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
