"""Redirects (RFC 4861 §8): followed, refused, bounded."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_Redirect,
    ICMPv6NDOptDstLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket

from tapstack.ipv6.config import HostConfig
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import (
    OFF_LINK,
    PREFIX,
    ROUTER,
    ROUTER_MAC,
    SECOND,
    SECOND_MAC,
    advertisement,
    neighbor_advertisement,
    only,
    to_us,
)
from tests.unit.ipv6.neighborcache import EXPERIMENT, PEER_MAC, Cache


@pytest.fixture
def cache() -> Cache:
    return Cache()


def redirect(
    cache: Cache, dst: str, target: str, mac: str | None = PEER_MAC, src: str = ROUTER, hop_limit: int = 255
) -> None:
    """Feed one to the host."""
    packet = to_us(src, address_text(cache.stable.address), ROUTER_MAC, hlim=hop_limit)
    packet /= ICMPv6ND_Redirect(tgt=target, dst=dst)
    cache.feed(packet / ICMPv6NDOptDstLLAddr(lladdr=mac) if mac else packet)


@pytest.mark.proves("ST-IP6-4", "RFC8504-5.4/5")
def test_a_redirect_of_the_first_hop_is_followed_and_ends_with_its_target(cache: Cache) -> None:
    path = cache.path(OFF_LINK)
    cache.send(OFF_LINK)
    better = "fe80::77"
    redirect(cache, OFF_LINK, better)
    assert cache.send(OFF_LINK)[0][Ether].dst == PEER_MAC
    assert path.ready(cache.now) == bytes.fromhex("020000000077 020000000001 86dd".replace(" ", ""))
    assert path.next_hop == address(better)
    # The target dies: back to the router.
    cache.run(9)
    cache.out.clear()
    cache.send(OFF_LINK)
    sent = only(cache.sent, lambda p: p[IPv6].nh == EXPERIMENT)
    assert sent[-1][Ether].dst == ROUTER_MAC


@pytest.mark.proves("RFC8504-5.4/5")
def test_a_redirect_can_say_that_a_destination_is_on_link(cache: Cache) -> None:
    cache.send(OFF_LINK)
    redirect(cache, OFF_LINK, OFF_LINK)
    assert cache.send(OFF_LINK)[0][Ether].dst == PEER_MAC


@pytest.mark.proves("ST-IP6-4")
@pytest.mark.parametrize("target", ["fe80::77", OFF_LINK])
def test_a_redirect_to_somebody_who_cannot_be_resolved_ends_with_the_attempt(cache: Cache, target: str) -> None:
    """RFC 4861 §7.3.3: next-hop determination again, which finds the router."""
    cache.send(OFF_LINK)
    redirect(cache, OFF_LINK, target, None)
    assert only(cache.send(OFF_LINK), lambda p: p[IPv6].nh == EXPERIMENT) == []
    cache.run(4.0)
    assert len(cache.failed) == 1
    assert cache.send(OFF_LINK)[0][Ether].dst == ROUTER_MAC


LOW = 3
RESIGNS = advertisement(source=SECOND, mac=SECOND_MAC, prefix=None, lifetime=0)
LEAVES_SOON = advertisement(source=SECOND, mac=SECOND_MAC, prefix=None, prf=LOW, lifetime=5)
IS_A_HOST = neighbor_advertisement(SECOND, SECOND_MAC, R=0)


@pytest.mark.proves("ST-IP6-4", "ST-IP6-5")
@pytest.mark.parametrize("offered", [True, False])
@pytest.mark.parametrize("news", [RESIGNS, LEAVES_SOON, IS_A_HOST], ids=["resigns", "leaves", "host"])
def test_a_redirect_ends_with_the_office_of_the_router_that_it_names(
    cache: Cache, news: ScapyPacket, offered: bool
) -> None:
    """RFC 4861 §6.3.5, §7.2.5: who is no default router any more, or a host, gets nothing to carry on, alive as it may be.

    offered: whether it was a default router.  Where it never was, it takes no office back by not being one.
    """
    if offered:
        cache.feed(advertisement(source=SECOND, mac=SECOND_MAC, prefix=None, prf=LOW))
    assert only(cache.send(OFF_LINK), lambda p: p[IPv6].nh == EXPERIMENT)[0][Ether].dst == ROUTER_MAC
    path = cache.path(OFF_LINK)
    redirect(cache, OFF_LINK, SECOND, SECOND_MAC)
    assert cache.send(OFF_LINK)[0][Ether].dst == SECOND_MAC
    cache.feed(news)
    cache.run(7 if news is LEAVES_SOON else 0)
    stays = not offered and news is RESIGNS
    sent = only(cache.send(OFF_LINK), lambda p: p[IPv6].nh == EXPERIMENT)
    assert sent[-1][Ether].dst == (SECOND_MAC if stays else ROUTER_MAC)
    assert path.next_hop == address(SECOND if stays else ROUTER)


@pytest.mark.proves("ST-IP6-4")
def test_that_a_destination_is_on_link_does_not_depend_on_its_being_a_router(cache: Cache) -> None:
    cache.send(OFF_LINK)
    redirect(cache, OFF_LINK, OFF_LINK)
    for router in (1, 0):
        cache.feed(neighbor_advertisement(OFF_LINK, PEER_MAC, R=router))
        assert cache.send(OFF_LINK)[0][Ether].dst == PEER_MAC


@pytest.mark.proves("ST-IP6-4", "RFC8504-5.4/5")
@pytest.mark.parametrize(
    ("dst", "target", "src", "hop_limit"),
    [
        (OFF_LINK, "fe80::77", "fe80::66", 255),  # not from the first hop
        (OFF_LINK, "fe80::77", PREFIX + "fe", 255),  # not from a link-local address
        (OFF_LINK, PREFIX + "77", ROUTER, 255),  # a target that is neither a router nor the destination
        (OFF_LINK, "fe80::77", ROUTER, 254),
        ("ff0e::1", "fe80::77", ROUTER, 255),
        ("2001:db8:eeee::1", "fe80::77", ROUTER, 255),  # nothing was sent there
    ],
)
def test_other_redirects_change_nothing(cache: Cache, dst: str, target: str, src: str, hop_limit: int) -> None:
    cache.send(OFF_LINK)
    redirect(cache, dst, target, src=src, hop_limit=hop_limit)
    assert cache.send(OFF_LINK)[0][Ether].dst == ROUTER_MAC
    assert cache.state(target) is None


@pytest.mark.proves("ST-IP6-4", by="api")
def test_redirects_are_bounded() -> None:
    cache = Cache(HostConfig(dad_initial_delay=0.0, paths=50))
    for number in range(300):
        dst = f"2001:db8:ffff::{number:x}"
        cache.send(dst)
        redirect(cache, dst, "fe80::77")
    assert len(cache.host.routes._redirects) == 50
    assert len(cache.host.routes) <= 50
