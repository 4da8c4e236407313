"""Router discovery, prefixes, lifetimes, servers (RFC 4861 §6, RFC 4862 §5.5, RFC 4191, RFC 7559, RFC 8106)."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptRouteInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tapstack.events import DropReason, LinkNotice
from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.packet import NoRouteError
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import (
    OFF_LINK,
    PREFIX,
    ROUTER,
    ROUTER_MAC,
    SECOND,
    SECOND_MAC,
    STRANGER,
    Bench,
    advertisement,
    leaves_for,
    neighbor_advertisement,
    one,
    only,
    settled,
    to_group,
    to_us,
)


@pytest.fixture
def bench() -> Bench:
    return settled()


def next_hop(bench: Bench, dst: str) -> str:
    return address_text(bench.host.routes.next_hop(address(dst), bench.now))


def solicitations(bench: Bench) -> list[float]:
    return [when for when, packet in bench.out if ICMPv6ND_RS in packet]


@pytest.mark.proves("ST-IP6-5", "RFC8504-5.4/4")
def test_routers_are_asked_with_back_off_until_one_answers() -> None:
    """RFC 7559 §2.1: 4 s, then doubled each time, jitter a tenth, at most an hour."""
    bench = Bench()
    bench.run(8 * 3600)
    times = solicitations(bench)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    for gap, nominal in zip(gaps, [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 3600, 3600], strict=False):
        assert 0.9 * nominal <= gap <= 1.1 * nominal
    assert len(gaps) > 12
    bench.feed(advertisement())
    bench.out.clear()
    bench.run(1700)
    assert solicitations(bench) == []
    assert leaves_for(bench, OFF_LINK) == ROUTER


@pytest.mark.proves("ST-IP6-5", "RFC8504-8.2")
def test_an_advertisement_makes_a_default_router_for_its_lifetime(bench: Bench) -> None:
    assert leaves_for(bench, OFF_LINK) == ROUTER
    bench.run(1790)
    assert solicitations(bench) == []
    assert leaves_for(bench, OFF_LINK) == ROUTER
    bench.run(10)
    assert leaves_for(bench, OFF_LINK) == ""
    bench.run(5)
    assert solicitations(bench)  # a new one is looked for
    bench.feed(advertisement(source=SECOND, mac=SECOND_MAC))
    assert leaves_for(bench, OFF_LINK) == SECOND
    causes = [event.cause for event in bench.events if isinstance(event, LinkNotice) and ROUTER in event.subject]
    assert causes == ["found", "its lifetime is over"]


def test_a_router_takes_itself_back(bench: Bench) -> None:
    bench.feed(advertisement(lifetime=0))
    with pytest.raises(NoRouteError):
        bench.host.path(address(OFF_LINK), bench.now)


def test_a_kept_path_without_a_router_sends_nothing_and_tells_its_protocol(bench: Bench) -> None:
    heard: list[Any] = []
    bench.host.errors[253] = lambda error, now: heard.append((error.type, error.code))
    path = bench.host.path(address(OFF_LINK), bench.now)
    bench.feed(advertisement(lifetime=0))
    bench.out.clear()
    assert path.ready(bench.now) is None
    packet = IPv6(src=address_text(bench.stable.address), dst=OFF_LINK, nh=253) / Raw(bytes(8))
    bench.host.transmit_queued(path, [bytes(packet)], bench.now)
    assert heard == []  # not within the call
    bench.run(0)
    assert heard == [(1, 0)]
    assert only(bench.sent, lambda p: p[IPv6].nh == 253) == []
    bench.feed(advertisement())
    assert path.ready(bench.now) is not None  # and finds the router again


@pytest.mark.proves("ST-IP6-5", "RFC8504-5.4/1", "RFC8504-8.2", by="api")
@pytest.mark.parametrize(
    "packet",
    [
        advertisement(source=PREFIX + "fe"),
        to_group(ROUTER, "ff02::1", hlim=254) / ICMPv6ND_RA(routerlifetime=1800),
        to_group(ROUTER, "ff02::1", hlim=255) / ICMPv6ND_RA(routerlifetime=1800, code=1),
        advertisement() / Raw(b"\x63\x00aaaaaa"),
        advertisement() / Raw(b"\x63\x05aaaaaa"),
        advertisement() / Raw(b"\x63"),
    ],
)
def test_invalid_advertisements_are_ignored_whole(packet: ScapyPacket) -> None:
    """RFC 4861 §6.1.2."""
    bench = Bench()
    bench.settle(router=False)
    bench.feed(packet)
    assert bench.host.routes.default_routers == {}
    assert bench.host.prefixes == []


@pytest.mark.proves("RFC8504-5.6")
def test_unknown_and_misshapen_options_are_ignored_alone() -> None:
    """Option 26 holds the further flags of RFC 5175; the prefix beside them is on link, and an address is formed of it."""
    bench = Bench()
    bench.settle(router=False)
    assert leaves_for(bench, OFF_LINK) == leaves_for(bench, PREFIX + "5") == ""
    options = b"\x63\x01aaaaaa" + b"\x03\x01aaaaaa" + b"\x19\x01aaaaaa" + b"\x1a\x01" + b"\xff" * 6
    sent = bench.feed(advertisement(Raw(options))) + bench.run(5)
    (formed,) = (packet[ICMPv6ND_NS].tgt for packet in only(sent, ICMPv6ND_NS))
    assert formed.startswith(PREFIX[:-1])
    assert leaves_for(bench, OFF_LINK) == ROUTER
    assert leaves_for(bench, PREFIX + "5") == PREFIX + "5"


@pytest.mark.proves("ST-IP6-5", by="api")
def test_variables_of_an_advertisement_are_taken_and_clamped(bench: Bench) -> None:
    path = bench.host.path(address(OFF_LINK), bench.now)
    bench.feed(advertisement(chlim=33, reachabletime=20_000, retranstimer=2000, mtu=1400, rdnss=("2001:db8::53",)))
    interface = bench.host.interface
    assert (path.hop_limit, path.mtu, bench.host.link_mtu) == (33, 1400, 1400)
    assert bench.host.path(address(PREFIX + "5"), bench.now).mtu == 1400
    assert 10 <= interface.reachable_time <= 30
    assert interface.retrans_timer == 2.0
    assert bench.host.rdnss == [address("2001:db8::53")]
    # Values that would cripple the host.
    bench.feed(advertisement(chlim=31))
    bench.feed(advertisement(chlim=0, reachabletime=3_600_001, retranstimer=2**32 - 1, mtu=1279))
    assert (path.hop_limit, path.mtu, interface.retrans_timer) == (33, 1400, 10.0)
    bench.feed(advertisement(retranstimer=1, mtu=1501))
    assert (path.mtu, interface.retrans_timer) == (1400, 0.1)
    bench.run(601)
    assert bench.host.rdnss == []


@pytest.mark.proves("RFC8504-8.3", by="api")
def test_servers_are_withdrawn_and_bounded(bench: Bench) -> None:
    bench.feed(advertisement(rdnss=tuple(f"2001:db8::{number}" for number in range(20))))
    assert len(bench.host.rdnss) == bench.host.config.rdnss
    bench.feed(advertisement(ICMPv6NDOptRDNSS(dns=["2001:db8::1"], lifetime=0)))
    assert address("2001:db8::1") not in bench.host.rdnss


@pytest.mark.proves("ST-IP6-5", "RFC8504-6.3/1")
def test_slaac_forms_one_stable_address_per_prefix_after_a_random_delay() -> None:
    bench = Bench(HostConfig())
    bench.run(4)
    bench.feed(advertisement())
    received = bench.now
    bench.run(4)

    def tested() -> list[tuple[float, str]]:
        probes = [(when, p[ICMPv6ND_NS].tgt) for when, p in bench.out if ICMPv6ND_NS in p and p[IPv6].src == "::"]
        return [(when, target) for when, target in probes if target.startswith(PREFIX[:-1])]

    ((when, formed),) = tested()
    assert received <= when <= received + 1
    (stable,) = [entry for entry in bench.host.addresses if entry.kind is AddressKind.STABLE]
    assert stable.state == "PREFERRED"
    assert stable.address in bench.prefix
    for _ in range(3):
        bench.feed(advertisement())
        bench.run(2)
    assert len(bench.host.addresses) == 2
    assert len(tested()) == 1
    bench.teach(STRANGER)
    assert one(bench.feed(to_us(STRANGER, formed) / ICMPv6EchoRequest()), ICMPv6EchoReply)


def test_without_stable_addresses_a_node_has_only_its_link_local_one() -> None:
    bench = Bench(HostConfig(dad_initial_delay=0.0, stable_addresses=False))
    bench.settle()
    assert [entry.kind for entry in bench.host.addresses] == [AddressKind.LINK_LOCAL]
    assert bench.prefix.preferred


@pytest.mark.parametrize(
    ("valid_before", "advertised", "valid_after"),
    [
        (86400, 100_000, 100_000),  # longer than what remains
        (86400, 7201, 7201),  # more than two hours
        (86400, 7200, 7200),  # two hours are the least
        (86400, 1, 7200),
        (86400, 0, 7200),
        (3600, 1, 3600),  # what remains is below two hours already: no change
        (3600, 3601, 3601),
        (math.inf, 10, 7200),
        (86400, 0xFFFFFFFF, math.inf),
    ],
)
@pytest.mark.proves("ST-IP6-5", "RFC8504-6.3/1")
def test_the_two_hour_rule(valid_before: float, advertised: int, valid_after: float) -> None:
    """RFC 4862 §5.5.3 (e): so long the address answers, and then only the link-local one beside it."""
    bench = Bench()
    bench.settle(valid=60, preferred=60)
    ours = address_text(bench.stable.address)
    first = 0xFFFFFFFF if valid_before == math.inf else int(valid_before)
    bench.feed(advertisement(valid=first, preferred=0))
    bench.feed(advertisement(valid=advertised, preferred=0))
    assert bench.prefix.valid_until - bench.now == valid_after

    def answers(dst: str) -> bool:
        bench.teach("fe80::66")
        return bool(only(bench.feed(to_us("fe80::66", dst) / ICMPv6EchoRequest()), ICMPv6EchoReply))

    bench.run(min(valid_after, 1_000_000) - 1)
    assert answers(ours)
    bench.run(2)
    assert answers(ours) == (valid_after == math.inf)
    assert answers(bench.link_local)


def test_on_link_ends_at_once_when_withdrawn(bench: Bench) -> None:
    """RFC 4861 §6.3.4: the two-hour rule is for addresses only."""
    assert next_hop(bench, PREFIX + "5") == PREFIX + "5"
    path = bench.host.path(address(PREFIX + "5"), bench.now)
    bench.feed(advertisement(valid=0, preferred=0))
    assert next_hop(bench, PREFIX + "5") == ROUTER
    assert path.ready(bench.now) is not None
    assert path.next_hop == address(ROUTER)
    assert bench.prefix.autonomous


@pytest.mark.proves("ST-IP6-5", "RFC8504-6.3/1", by="api")
@pytest.mark.parametrize(
    "fields",
    [
        {"prefix": "fe80::"},
        {"prefix": "ff00::"},
        {"prefix": "::"},
        {"valid": 10, "preferred": 20},
        {"valid": 0, "preferred": 0},
        {"on_link": 0, "autonomous": 0},
    ],
)
def test_prefixes_that_make_no_sense_are_ignored(fields: dict[str, Any]) -> None:
    bench = Bench()
    bench.settle(router=False)
    bench.feed(advertisement(**fields))
    assert bench.host.prefixes == []


@pytest.mark.proves("ST-IP6-5", "RFC8504-6.3/1", by="api")
def test_only_a_64_bit_prefix_is_autonomous(bench: Bench) -> None:
    option = ICMPv6NDOptPrefixInfo(
        prefix="2001:db8:5::", prefixlen=56, L=1, A=1, validlifetime=1000, preferredlifetime=1000
    )
    bench.feed(advertisement(option, prefix=None))
    found = next(prefix for prefix in bench.host.prefixes if prefix.length == 56)
    assert (found.on_link, found.autonomous) == (True, False)


def test_an_advertisement_without_l_makes_nothing_on_link() -> None:
    bench = Bench()
    bench.settle(on_link=0)
    assert next_hop(bench, PREFIX + "5") == ROUTER
    assert bench.prefix.preferred


@pytest.mark.proves("ST-IP6-5", by="api")
def test_lists_are_bounded_under_a_flood_of_advertisements(bench: Bench) -> None:
    config = bench.host.config
    for number in range(300):
        bench.feed(
            advertisement(
                ICMPv6NDOptRouteInfo(prefix=f"2001:db8:{number + 9:x}::", plen=48, rtlifetime=1800),
                ICMPv6NDOptRDNSS(dns=[f"2001:db8::{number:x}"], lifetime=1800),
                prefix=f"2001:db8:{number + 9:x}:1::",
                source=f"fe80::{number + 1000:x}",
                mac=f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}",
            )
        )
    assert len(bench.host.prefixes) == config.prefixes
    assert len(bench.host.routes.default_routers) == config.default_routers
    assert len(bench.host.routes.more_specific) == config.routes
    assert len(bench.host.rdnss) == config.rdnss
    assert len(bench.host.addresses) <= 2 + config.prefixes
    assert len(bench.events) < 300
    assert bench.prefix.preferred  # what was there first is still there


def test_an_advertisement_without_link_layer_address_leads_to_resolution() -> None:
    bench = Bench()
    bench.settle(router=False)
    packet = to_group(ROUTER, "ff02::1", ROUTER_MAC, hlim=255) / ICMPv6ND_RA(routerlifetime=1800)
    bench.feed(packet)
    assert ICMPv6NDOptSrcLLAddr not in packet
    assert bench.host.link_local is not None
    bench.host.send(bench.host.link_local, address(OFF_LINK), 253, [bytes(8)], bench.now)
    asked = only(bench.sent, ICMPv6ND_NS)
    assert [p[ICMPv6ND_NS].tgt for p in asked] == [ROUTER]
    assert asked[0][IPv6].src == bench.link_local


@pytest.mark.proves("UM-ADDR-11", by="api")
def test_renumbering(bench: Bench) -> None:
    """The old prefix is deprecated, the new one used for what starts now; connections on the old one go on."""
    used = bench.ephemeral(PREFIX + "abcd:1234:5678")
    new = "2001:db8:2::"
    bench.feed(advertisement(preferred=0))
    bench.feed(advertisement(prefix=new))
    bench.run(3)
    assert used.state == "DEPRECATED"
    (chosen,) = [prefix for prefix in bench.host.prefixes if prefix.preferred]
    assert str(chosen) == "2001:db8:2::/64"
    source = bench.host.source_for(address(OFF_LINK))
    assert source is not None
    assert address_text(source).startswith("2001:db8:2:")
    entry = bench.host.reserve(address(new + "1:2:3"), chosen, bench.now)
    bench.run(2)
    assert entry.state == "UNCERTAIN"


def test_manual_lifetimes_end_by_themselves(bench: Bench) -> None:
    entry = bench.host.addresses.add(
        address("2001:db8:7::1"),
        AddressKind.STABLE,
        bench.now,
        preferred_until=bench.now + 100,
        valid_until=bench.now + 200,
    )
    bench.run(99)
    assert entry.state == "PREFERRED"
    bench.run(2)
    assert entry.state == "DEPRECATED"
    bench.run(100)
    assert entry.state == "INVALID"


def test_no_router_is_solicited_on_a_point_to_point_link() -> None:
    bench = Bench(tun=True)
    bench.run(60)
    assert bench.out == []
    dedicated = bench.host.prefix_list.add_dedicated(address("2001:db8:d::"), 64)
    entry = bench.host.reserve(address("2001:db8:d::1"), dedicated, bench.now, AddressKind.EPHEMERAL)
    path = bench.host.path(address(OFF_LINK), bench.now)
    assert path.ready(bench.now) == b""
    bench.host.send(entry.address, address(OFF_LINK), 253, [b"12345678"], bench.now)
    (sent,) = bench.sent
    assert (sent[IPv6].src, sent[IPv6].dst, bytes(sent[IPv6].payload)) == ("2001:db8:d::1", OFF_LINK, b"12345678")
    assert Ether not in sent


def test_what_a_router_says_does_not_come_from_ourselves(bench: Bench) -> None:
    packet = advertisement(source=bench.link_local, lifetime=9000, prefix="2001:db8:66::")
    bench.feed(packet)
    assert bench.drops(DropReason.ND_UNEXPECTED) >= 1
    assert not any(str(prefix).startswith("2001:db8:66") for prefix in bench.host.prefixes)


def test_a_router_set_by_hand_stays() -> None:
    bench = Bench()
    bench.settle(router=False)
    bench.host.routers.add_static(address(ROUTER), bench.now)
    assert next_hop(bench, OFF_LINK) == ROUTER
    bench.feed(advertisement(lifetime=0, prefix=None))
    bench.run(100_000)
    assert next_hop(bench, OFF_LINK) == ROUTER
    bench.host.link_down(bench.now)
    with pytest.raises(NoRouteError):
        next_hop(bench, OFF_LINK)
    bench.host.link_up(bench.now)
    assert next_hop(bench, OFF_LINK) == ROUTER


@pytest.mark.proves("ST-IP6-5", by="api")
def test_nobody_on_the_link_withdraws_a_router_set_by_hand() -> None:
    """Neither an advertisement without the R flag nor a route of length zero."""
    bench = Bench()
    bench.settle(router=False)
    bench.host.routers.add_static(address(ROUTER), bench.now)
    bench.host.send(address(bench.link_local), address(OFF_LINK), 253, [b"12345678"], bench.now)
    for router in (1, 0):
        bench.feed(neighbor_advertisement(ROUTER, ROUTER_MAC, R=router))
        assert next_hop(bench, OFF_LINK) == ROUTER
    for lifetime in (0, 1):
        bench.feed(
            advertisement(ICMPv6NDOptRouteInfo(prefix="::", plen=0, rtlifetime=lifetime), lifetime=0, prefix=None)
        )
        bench.run(10)
        assert next_hop(bench, OFF_LINK) == ROUTER


@pytest.mark.parametrize("autonomous", [True, False])
def test_nobody_on_the_link_withdraws_a_prefix_set_by_hand(autonomous: bool) -> None:
    bench = Bench()
    bench.settle(router=False)
    bench.host.prefix_list.add_static(address(PREFIX), 64, autonomous=autonomous, now=bench.now)
    bench.feed(advertisement(valid=0, preferred=0, lifetime=0))
    assert next_hop(bench, PREFIX + "5") == PREFIX + "5"
    bench.run(8000)
    assert next_hop(bench, PREFIX + "5") == PREFIX + "5"
    (prefix,) = bench.host.prefixes
    assert (prefix.autonomous, prefix.preferred) == (autonomous, autonomous)


def test_an_address_that_goes_may_take_others_of_its_prefix_with_it(bench: Bench) -> None:
    """Whoever hears of the end of one may give up another in the same call."""
    table = bench.host.addresses
    entries = [bench.host.reserve(address(f"{PREFIX}{n}"), bench.prefix, bench.now) for n in range(1, 5)]
    bench.run(5)

    def give_up(entry: AddressEntry, old: AddressState, trigger: Trigger, now: float) -> None:
        for other in entries:
            if entry.state is AddressState.INVALID and other.state is AddressState.UNCERTAIN:
                table.discard(other, now, "so does this one")
                return

    table.observe(give_up)
    bench.host.prefix_list.remove(bench.prefix, bench.now)
    bench.check()
    assert [entry.state for entry in entries] == [AddressState.INVALID] * 4


@pytest.mark.proves("ST-IP6-4", by="api")
def test_the_reachable_time_changes_every_few_hours(bench: Bench) -> None:
    """RFC 4861 §6.3.4."""
    drawn = set()
    for _ in range(5):
        bench.host.neighbors.confirm(bench.host.neighbors.get(address(ROUTER)), bench.now)  # type: ignore[arg-type]
        drawn.add(bench.host.interface.reachable_time)
        bench.run(7200)
    assert len(drawn) == 5
    assert all(15 <= each <= 45 for each in drawn)


def test_a_router_solicitation_is_not_for_us(bench: Bench) -> None:
    assert bench.feed(to_us("fe80::9", bench.link_local, hlim=255) / ICMPv6ND_RS()) == []
    assert bench.drops(DropReason.ND_UNEXPECTED) == 1
