"""The neighbour cache: resolution, NUD, hostile neighbours, bounds (RFC 4861 §7 and Appendix C, RFC 7048, RFC 6583)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tapstack.events import DropReason
from tapstack.ipv6.config import NUD_MAX_RETRANS, HostConfig
from tapstack.ipv6.neighbors import NeighborState
from tapstack.ipv6.packet import NoRouteError
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import (
    OFF_LINK,
    OUR_MAC,
    PREFIX,
    ROUTER,
    ROUTER_MAC,
    User,
    advertisement,
    group_of,
    neighbor_advertisement,
    one,
    only,
    solicitation,
    to_us,
)
from tests.unit.ipv6.neighborcache import (
    EXPERIMENT,
    OTHER_MAC,
    PAYLOAD,
    PEER,
    PEER_MAC,
    Cache,
    peer_says,
    to_stable,
)


@pytest.fixture
def cache() -> Cache:
    return Cache()


@pytest.mark.proves("ST-IP6-4", "RFC8504-5.4/2", "RFC8504-4")
def test_resolution_and_the_queue(cache: Cache) -> None:
    sent = cache.send(data=b"first---")
    cache.send(data=b"second--")
    (solicited,) = sent
    assert solicited[Ether].dst == "33:33:ff:00:00:77"
    assert (solicited[IPv6].src, solicited[IPv6].dst) == (address_text(cache.stable.address), group_of(PEER))
    assert solicited[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
    released = cache.feed(neighbor_advertisement(PEER, PEER_MAC, S=1, dst=address_text(cache.stable.address)))
    assert [bytes(packet[IPv6].payload) for packet in released] == [b"first---", b"second--"]
    assert {packet[Ether].dst for packet in released} == {PEER_MAC}
    assert cache.state() is NeighborState.REACHABLE


@pytest.mark.proves("ST-IP6-4", "ST-IP6-3")
def test_resolution_fails_after_three_solicitations_and_the_sender_hears_of_it(cache: Cache) -> None:
    start = cache.now
    cache.send()
    cache.run(10)
    assert cache.solicited() == [(start, group_of(PEER)), (start + 1, group_of(PEER)), (start + 2, group_of(PEER))]
    assert [(error.type, error.code, error.dst) for error in cache.failed] == [(1, 3, address(PEER))]
    assert bytes(cache.failed[0].payload) == PAYLOAD
    assert cache.state() is None
    assert cache.drops(DropReason.NEIGHBOR_UNREACHABLE) == 1


@pytest.mark.proves("ST-IP6-4")
def test_the_queue_is_bounded_and_the_newest_stay(cache: Cache) -> None:
    for number in range(100):
        cache.send(data=number.to_bytes(8, "big"))
    released = cache.feed(to_stable(cache))
    assert [int.from_bytes(bytes(packet[IPv6].payload), "big") for packet in released] == list(range(68, 100))
    assert cache.drops(DropReason.NEIGHBOR_QUEUE) == 68
    assert len(cache.solicited()) == 1


def test_the_queue_is_bounded_in_bytes() -> None:
    cache = Cache(HostConfig(dad_initial_delay=0.0, neighbor_queue_bytes=5000))
    for _ in range(10):
        cache.send(data=bytes(1000))
    assert len(cache.feed(to_stable(cache))) == 4


def test_a_packet_in_many_fragments_waits_as_one() -> None:
    cache = Cache(HostConfig(dad_initial_delay=0.0, neighbor_queue=2))
    for number in range(3):
        cache.send(data=bytes([number]) * 60_000)
    released = [packet[IPv6] for packet in cache.feed(to_stable(cache))]
    assert [packet[IPv6ExtHdrFragment].offset for packet in released].count(0) == 2
    ids = [packet[IPv6ExtHdrFragment].id for packet in released]
    whole = [
        b"".join(bytes(p[IPv6ExtHdrFragment].payload) for p in released if p[IPv6ExtHdrFragment].id == each)
        for each in dict.fromkeys(ids)
    ]
    assert whole == [bytes([number]) * 60_000 for number in (1, 2)]
    assert cache.drops(DropReason.NEIGHBOR_QUEUE) == len(released) // 2


@pytest.mark.proves("ST-IP6-4", "RFC8504-5.4/2")
def test_nud_walks_through_all_its_states(cache: Cache) -> None:
    cache.enter(NeighborState.STALE)
    start = cache.now
    cache.out.clear()
    assert cache.send()[0][Ether].dst == PEER_MAC
    assert cache.state() is NeighborState.DELAY
    cache.run(4.9)
    assert cache.solicited() == []
    cache.run(0.1)
    assert cache.state() is NeighborState.PROBE
    assert cache.solicited() == [(start + 5, PEER)]
    probe = only(cache.sent, ICMPv6ND_NS)[0]
    assert probe[Ether].dst == PEER_MAC
    assert probe[IPv6].src == cache.link_local
    cache.feed(to_stable(cache))
    assert cache.state() is NeighborState.REACHABLE


@pytest.mark.proves("ST-IP6-4")
def test_confirmation_from_above_needs_no_probe(cache: Cache) -> None:
    cache.enter(NeighborState.STALE)
    path = cache.path()
    cache.out.clear()
    for _ in range(600):
        assert path.ready(cache.now) is not None
        cache.run(1)
        path.confirm(cache.now)
    assert cache.solicited() == []
    assert cache.state() is NeighborState.REACHABLE
    cache.run(60)
    assert path.ready(cache.now)
    assert cache.state() is NeighborState.DELAY  # it aged while nobody looked
    cache.run(6)
    assert [dst for _, dst in cache.solicited()][:1] == [PEER]  # and without confirmation it is probed


@pytest.mark.proves("ST-IP6-4", "RFC8504-5.4/2")
def test_an_unreachable_neighbour_is_still_used_and_probed_ever_more_rarely(cache: Cache) -> None:
    """RFC 7048 §3: the address is kept, solicitations are multicast and back off, and only while the entry is used."""
    cache.enter(NeighborState.STALE)
    cache.out.clear()
    start = cache.now
    cache.send()
    for _ in range(400):
        cache.run(1)
        assert cache.send()[-1][Ether].dst == PEER_MAC
    times = [(round(when - start), dst == PEER) for when, dst in cache.solicited()]
    assert times[:3] == [(5, True), (6, True), (7, True)]
    multicast = [when for when, unicast in times if not unicast]
    assert multicast[0] == 8
    gaps = [later - earlier for earlier, later in itertools.pairwise(multicast)]
    assert gaps[:3] == [3, 9, 27]
    assert set(gaps[3:]) == {60}
    # Unused it is left alone.
    cache.run(120)
    cache.out.clear()
    cache.run(600)
    assert cache.solicited() == []
    # An answer with a new link-layer address heals it.
    cache.feed(to_stable(cache, OTHER_MAC, 1))
    assert cache.state() is NeighborState.REACHABLE
    assert cache.send()[0][Ether].dst == OTHER_MAC


ANY = (0, 1)
S = NeighborState


def appendix_c(
    state: NeighborState, solicited: int, override: int, mac: str | None
) -> tuple[NeighborState, str | None]:
    """RFC 4861 §7.2.5 and Appendix C, RFC 7048 §3, written down a second time: the new state and link-layer address."""
    cached = None if state is S.INCOMPLETE else PEER_MAC
    if state is S.INCOMPLETE:
        if mac is None:
            return state, cached
        return (S.REACHABLE if solicited else S.STALE), mac
    if mac is None or mac == cached:
        return (S.REACHABLE if solicited else state), cached
    if not override:
        return (S.STALE if state is S.REACHABLE else state), cached
    return (S.REACHABLE if solicited else S.STALE), mac


@pytest.mark.proves("ST-IP6-4", by="api")
@pytest.mark.parametrize("mac", [None, PEER_MAC, OTHER_MAC])
@pytest.mark.parametrize("override", ANY)
@pytest.mark.parametrize("solicited", ANY)
@pytest.mark.parametrize("state", list(S))
def test_every_advertisement_in_every_state(
    cache: Cache, state: NeighborState, solicited: int, override: int, mac: str | None
) -> None:
    cache.enter(state)
    assert cache.state() is state
    cache.feed(peer_says(mac, S=solicited, O=override) if not solicited else to_stable(cache, mac, override))
    new_state, new_mac = appendix_c(state, solicited, override, mac)
    if state is S.INCOMPLETE and new_state is S.STALE:
        new_state = S.DELAY  # the queued packet was sent at once
    assert (cache.state(), cache.mac()) == (new_state, new_mac)


@pytest.mark.proves("RFC8504-5.4/3")
@pytest.mark.parametrize("mac", [PEER_MAC, OTHER_MAC])
@pytest.mark.parametrize("state", list(S))
def test_every_solicitation_in_every_state(cache: Cache, state: NeighborState, mac: str) -> None:
    """RFC 4861 Appendix C, the second table."""
    cache.enter(state)
    answer = cache.feed(solicitation(address_text(cache.stable.address), src=PEER, mac=mac))
    assert one(answer, ICMPv6ND_NA)[Ether].dst == mac
    if state is S.INCOMPLETE:
        assert cache.state() is S.DELAY
    else:
        assert cache.state() is (state if mac == PEER_MAC else S.STALE)
    assert cache.mac() == mac


def test_a_solicitation_without_link_layer_address_is_answered_by_resolution(cache: Cache) -> None:
    ours = address_text(cache.stable.address)
    asked = to_us(PEER, ours, hlim=255) / ICMPv6ND_NS(tgt=ours)
    assert one(cache.feed(asked), ICMPv6ND_NS)[ICMPv6ND_NS].tgt == PEER
    answers = cache.feed(to_stable(cache))
    assert one(answers, ICMPv6ND_NA)[ICMPv6ND_NA].tgt == ours


@pytest.mark.proves("ST-IP6-4", by="api")
@pytest.mark.parametrize(
    "packet",
    [
        neighbor_advertisement(PEER, PEER_MAC, S=1),  # solicited, to a group
        neighbor_advertisement("ff02::5", PEER_MAC, src=PEER),
        peer_says("33:33:00:00:00:01"),
        peer_says("00:00:00:00:00:00"),
        peer_says("ff:ff:ff:ff:ff:ff"),
    ],
)
def test_invalid_advertisements_teach_nothing(cache: Cache, packet: ScapyPacket) -> None:
    cache.send()
    assert cache.feed(packet) == []
    assert cache.state() is S.INCOMPLETE


@pytest.mark.proves("ST-IP6-4", by="api")
@pytest.mark.parametrize(("hop_limit", "code", "tail"), [(254, 0, b""), (255, 1, b""), (255, 0, b"\x02\x00aaaaaa")])
def test_the_gate_of_neighbour_discovery(cache: Cache, hop_limit: int, code: int, tail: bytes) -> None:
    cache.send()
    packet = peer_says()
    packet[IPv6].hlim, packet[ICMPv6ND_NA].code = hop_limit, code
    if tail:
        packet = packet / Raw(tail)
    assert cache.feed(packet) == []
    assert cache.state() is S.INCOMPLETE


@pytest.mark.proves("ST-IP6-4")
def test_a_scan_of_the_prefix_from_on_link_replaces_nothing_that_is_used(cache: Cache) -> None:
    """RFC 6583: spoofed sources fill the cache; the router and the peer in use stay, and traffic goes on."""
    cache.enter(S.REACHABLE)
    ours = address_text(cache.stable.address)
    frame = bytearray(bytes(solicitation(ours, src="2001:db8:1::ffff:0", mac="02:00:00:00:99:99")))
    for number in range(5000):
        # The last two words of the source change so that their sum, and the checksum, stay.
        frame[34:38] = (0xFFFF - number).to_bytes(2, "big") + number.to_bytes(2, "big")
        cache.host.input(bytes(frame), cache.now)
    cache.check()
    assert len(cache.host.neighbors) == cache.host.config.neighbors
    assert cache.state() is S.REACHABLE
    assert cache.state(ROUTER) is not None
    assert cache.send()[0][Ether].dst == PEER_MAC
    assert cache.send(OFF_LINK)[0][Ether].dst == ROUTER_MAC


@pytest.mark.proves("ST-IP6-4")
@pytest.mark.parametrize("lifetime", [0, 9000])
def test_a_flood_of_routers_leaves_room_for_neighbours(cache: Cache, lifetime: int) -> None:
    """Whoever calls itself a router is only kept when it is used as one."""
    frame = bytearray(
        bytes(advertisement(prefix=None, lifetime=lifetime, source="fe80::ffff:0", mac="02:00:00:00:99:99"))
    )
    for number in range(2000):
        frame[34:38] = (0xFFFF - number).to_bytes(2, "big") + number.to_bytes(2, "big")
        cache.host.input(bytes(frame), cache.now)
    cache.check()
    assert len(cache.host.neighbors) == cache.host.config.neighbors
    cache.out.clear()
    cache.send()
    cache.feed(to_stable(cache))
    assert cache.send()[0][Ether].dst == PEER_MAC
    assert cache.state(ROUTER) is not None, "the router in use is still known"


@pytest.mark.proves("ST-IP6-4")
def test_sending_to_thousands_of_absent_neighbours_is_bounded_and_leaves_room_for_the_living(cache: Cache) -> None:
    for number in range(2000):
        cache.send(f"2001:db8:1::7:{number:x}")
    cache.check()
    assert len(cache.host.neighbors) <= cache.host.config.neighbors_incomplete + 2
    cache.out.clear()
    cache.send()
    cache.feed(to_stable(cache))
    assert cache.send()[0][Ether].dst == PEER_MAC
    cache.run(10)
    assert len(cache.host.neighbors) <= 2
    assert len(cache.failed) <= 2000


def test_a_full_table_of_what_is_in_use_refuses_and_counts() -> None:
    cache = Cache(HostConfig(dad_initial_delay=0.0, neighbors=4, neighbors_incomplete=2))
    for number in range(3):
        text = f"2001:db8:1::8:{number}"
        cache.teach(text, f"02:00:00:00:08:0{number}")
        cache.send(text)  # DELAY: under test, not to be given up
    assert len(cache.host.neighbors) == 4
    cache.out.clear()
    cache.send()
    assert cache.out == []
    assert cache.drops(DropReason.NEIGHBOR_TABLE) >= 1
    ours = address_text(cache.stable.address)
    answered = cache.feed(solicitation(ours, src=PEER, mac=PEER_MAC))
    assert one(answered, ICMPv6ND_NA)[Ether].dst == PEER_MAC  # an answer needs no entry


@pytest.mark.proves("ST-IP6-4")
def test_a_silent_router_is_replaced_by_another(cache: Cache) -> None:
    """RFC 4861 §6.3.6, RFC 7048 §3."""
    second, second_mac = "fe80::fd", "02:00:00:00:00:fd"
    cache.feed(advertisement(source=second, mac=second_mac, prefix=None))
    path = cache.path(OFF_LINK)
    first_hop = address_text(path.next_hop)
    cache.send(OFF_LINK)
    cache.run(8.5)
    assert cache.state(first_hop) is S.UNREACHABLE
    cache.out.clear()
    cache.send(OFF_LINK)
    (moved,) = only(cache.sent, lambda p: p[IPv6].nh == EXPERIMENT)
    assert moved[Ether].dst == (second_mac if first_hop == ROUTER else ROUTER_MAC)
    assert path.ready(cache.now) is not None


@pytest.mark.proves("ST-IP6-4")
def test_of_routers_that_are_all_silent_the_one_that_comes_back_is_found(cache: Cache) -> None:
    """RFC 4861 §6.3.6: all of them are probed, by a path in use as well."""
    macs = {ROUTER: ROUTER_MAC, "fe80::fd": "02:00:00:00:00:fd"}
    cache.feed(advertisement(source="fe80::fd", mac=macs["fe80::fd"], prefix=None))
    path = cache.path(OFF_LINK)
    ours = address_text(cache.stable.address)

    def use(seconds: int, answering: str = "") -> None:
        for _ in range(seconds):
            sent = cache.send(OFF_LINK) + cache.run(1.0)
            if only(sent, lambda p: ICMPv6ND_NS in p and p[ICMPv6ND_NS].tgt == answering):
                cache.feed(neighbor_advertisement(answering, macs[answering], dst=ours, src=answering, R=1, S=1))

    use(60)
    assert {cache.state(router) for router in macs} == {S.UNREACHABLE}
    (other,) = macs.keys() - {address_text(path.next_hop)}
    use(2 * int(NUD_MAX_RETRANS), answering=other)
    assert address_text(path.next_hop) == other
    assert cache.send(OFF_LINK)[0][Ether].dst == macs[other]


def test_a_router_that_becomes_a_host_is_no_default_router(cache: Cache) -> None:
    cache.send(OFF_LINK)
    cache.feed(neighbor_advertisement(ROUTER, ROUTER_MAC, R=0, O=1))
    assert cache.host.routes.default_routers == {}
    with pytest.raises(NoRouteError):
        cache.path(OFF_LINK)


def test_a_path_costs_no_table_look_up_while_its_neighbour_is_fresh(cache: Cache, monkeypatch: Any) -> None:
    cache.enter(S.REACHABLE)
    path = cache.path()
    assert path.ready(cache.now)
    monkeypatch.setattr(cache.host.routes, "refresh", lambda path, now: pytest.fail("the slow path was taken"))
    monkeypatch.setattr(cache.host.neighbors, "confirm", lambda neighbor, now: pytest.fail("the slow path was taken"))
    for _ in range(5):
        cache.run(0.5)
        assert path.ready(cache.now)
        path.confirm(cache.now)


def test_a_neighbour_that_was_given_up_is_found_again_by_its_path(cache: Cache) -> None:
    cache.enter(S.REACHABLE)
    path = cache.path()
    assert path.ready(cache.now)
    cache.host.neighbors.remove(address(PEER))
    assert path.ready(cache.now) is None
    cache.out.clear()
    cache.host.transmit_queued(path, [bytes(one(cache_ping(cache), IPv6))], cache.now)
    assert len(cache.solicited()) == 1
    assert len(only(cache.feed(to_stable(cache)), ICMPv6EchoReply)) == 1


def cache_ping(cache: Cache) -> list[ScapyPacket]:
    return [IPv6(src=address_text(cache.stable.address), dst=PEER) / ICMPv6EchoReply()]


def test_link_down_forgets_neighbours(cache: Cache) -> None:
    cache.enter(S.REACHABLE)
    path = cache.path()
    cache.host.link_down(cache.now)
    assert len(cache.host.neighbors) == 0
    assert path.ready(cache.now) is None


def test_our_own_address_is_no_neighbour(cache: Cache) -> None:
    before = len(cache.host.neighbors)
    path = cache.host.path(cache.stable.address, cache.now)
    assert path.ready(cache.now) is None, "no frame goes there"
    assert len(cache.host.neighbors) == before
    with pytest.raises(NoRouteError, match="address of this node"):
        cache.host.routes.next_hop(cache.stable.address, cache.now)


def test_a_frame_for_another_station_is_not_ours(cache: Cache) -> None:
    packet = to_us(PEER, address_text(cache.stable.address)) / ICMPv6EchoRequest()
    packet[Ether].dst = "02:00:00:00:00:02"
    assert cache.feed(packet) == []
    assert cache.drops(DropReason.LINK_NOT_OURS) == 1


@pytest.mark.parametrize("ours", [1, 100])
def test_strangers_who_do_not_exist_take_no_place_from_those_to_whom_we_speak(cache: Cache, ours: int) -> None:
    """RFC 6583 §7.2: what answers spoofed sources on the link gives way, whoever came first."""
    us = cache.stable
    peers = [f"{PREFIX}7:{number:x}" for number in range(ours)]
    for peer in peers:
        cache.host.addresses.acquire(us, User(peer))
        cache.send(peer)
    for number in range(1000):
        cache.feed(to_us(f"{PREFIX}bad:{number:x}", address_text(us.address), ROUTER_MAC) / ICMPv6EchoRequest())
    cache.run(0.5)
    assert cache.failed == []
    assert len(cache.host.neighbors) <= cache.host.config.neighbors
    assert {cache.state(peer) for peer in peers} == {NeighborState.INCOMPLETE}
    released = cache.feed(neighbor_advertisement(peers[0], PEER_MAC, S=1, dst=address_text(us.address)))
    assert [bytes(packet[IPv6].payload) for packet in released] == [PAYLOAD]


@pytest.mark.proves("UM-ADDR-9")
@pytest.mark.parametrize("state", [NeighborState.INCOMPLETE, NeighborState.STALE, NeighborState.PROBE])
def test_a_host_that_has_stopped_asks_for_no_neighbour(cache: Cache, state: NeighborState) -> None:
    cache.enter(state)
    cache.send()
    cache.run(0.5)
    cache.host.stop(cache.now)
    assert cache.run(300) == []


def test_a_probe_of_a_router_takes_no_place_from_what_is_being_resolved(cache: Cache) -> None:
    limit = cache.host.config.neighbors_incomplete
    peers = [f"{PREFIX}7:{number:x}" for number in range(limit)]
    for peer in peers:
        cache.send(peer)
    cache.out.clear()
    cache.host.neighbors.probe(address("fe80::fd"), cache.now)
    assert cache.out == []
    assert {cache.state(peer) for peer in peers} == {NeighborState.INCOMPLETE}
    cache.host.neighbors.remove(address(peers[0]))
    cache.host.neighbors.probe(address("fe80::fd"), cache.now)
    assert [dst for _, dst in cache.solicited()] == [group_of("fe80::fd")]
    cache.run(0.9)
    cache.host.neighbors.probe(address("fe80::fd"), cache.now)
    cache.run(10.0)
    assert [dst for _, dst in cache.solicited()].count(group_of("fe80::fd")) == 1
