"""The simulated router against frames that scapy builds and reads: what a host on its links sees."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptRedirectedHdr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    in6_chksum,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from scenarios.engine.router import (
    AdvertisedPrefix,
    InterfaceConfig,
    NudState,
    Router,
    RouterConfig,
    RouterDrop,
    RouterNode,
    StaticRoute,
)
from tapstack.clock import run_virtual
from tapstack.link.base import LinkProperties
from tapstack.link.memory import MemoryLink, MemorySwitch
from tapstack.types import address
from tests.unit.scenarios.routerbench import (
    B2,
    LL_0,
    LL_A,
    MAC_0,
    MAC_1,
    MAC_A,
    MAC_B,
    ROUTER_A,
    ROUTER_B,
    A,
    B,
    Bench,
    bytes_text,
    group_mac,
    ns,
    ping,
    raw,
)

# -- advertisements -----------------------------------------------------------------------------


def test_an_advertisement_says_what_was_configured() -> None:
    (_, frame), _ = Bench(advertise=True).sent()
    assert (frame.dst, frame.src, frame[IPv6].src, frame[IPv6].dst, frame[IPv6].hlim) == (
        "33:33:00:00:00:01",
        MAC_0,
        LL_0,
        "ff02::1",
        255,
    )
    message = frame[ICMPv6ND_RA]
    assert (message.routerlifetime, message.chlim, message.M, message.O) == (1800, 64, 0, 0)
    assert frame[ICMPv6NDOptSrcLLAddr].lladdr == MAC_0
    assert frame[ICMPv6NDOptMTU].mtu == 1500
    prefix = frame[ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.L, prefix.A) == ("2001:db8:a::", 64, 1, 1)
    assert (prefix.validlifetime, prefix.preferredlifetime) == (86_400, 14_400)
    assert (frame[ICMPv6NDOptRDNSS].dns, frame[ICMPv6NDOptRDNSS].lifetime) == ([ROUTER_A], 1800)


def test_three_quick_advertisements_then_the_interval() -> None:
    bench = Bench(advertise=True)
    bench.sent()
    times = [when for when, port, frame in bench.run(5000) if port == 0 and ICMPv6ND_RA in frame]
    gaps = [b - a for a, b in zip([0.0, *times], times, strict=False)]
    assert all(gap <= 16 for gap in gaps[:2])
    assert len(gaps) > 10
    assert all(198 <= gap <= 600 for gap in gaps[2:])


def test_a_solicitation_is_answered_soon_but_not_too_often() -> None:
    bench = Bench(advertise=True)
    bench.run(100)
    rs = IPv6(src=LL_A, dst="ff02::2", hlim=255) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=MAC_A)
    bench.put(rs, 100.0, dst="33:33:00:00:00:02")
    when, port, frame = bench.run(101)[0]
    assert (port, ICMPv6ND_RA in frame) == (0, True)
    assert 100 <= when <= 100.5
    entry = bench.router.neighbors.get(0, address(LL_A))
    assert entry is not None
    assert (entry.state, entry.mac) == (NudState.STALE, raw(MAC_A))
    bench.put(rs, when + 0.1, dst="33:33:00:00:00:02")
    again = bench.run(when + 10)[0][0]
    assert again >= when + 3


def test_a_solicitation_without_address_must_not_name_a_mac() -> None:
    bench = Bench(advertise=True)
    wrong = IPv6(src="::", dst="ff02::2", hlim=255) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=MAC_A)
    bench.put(wrong, dst="33:33:00:00:00:02")
    assert bench.drops == {RouterDrop.BAD_ND: 1}
    assert len(bench.router.neighbors) == 0


def test_a_stopped_router_is_no_default_router_and_a_silent_one_says_nothing() -> None:
    bench = Bench(advertise=True)
    bench.sent()
    bench.router.stop(10.0)
    assert [frame[ICMPv6ND_RA].routerlifetime for _, frame in bench.sent()] == [0, 0]
    assert bench.run(1000) == []
    quiet = Bench()
    quiet.router.stop(10.0)
    assert quiet.sent() == []


def test_renumbering_is_advertised_at_once() -> None:
    bench = Bench(advertise=True)
    bench.run(1000)
    old = AdvertisedPrefix(prefix="2001:db8:a::/64", valid=7200, preferred=0)
    new = AdvertisedPrefix(prefix="2001:db8:aa::/64")
    bench.router.change(0, InterfaceConfig(prefixes=(new, old)), 1000.0)
    ((_, frame),) = bench.sent()
    first = frame[ICMPv6NDOptPrefixInfo]
    second = first.payload[ICMPv6NDOptPrefixInfo]
    assert (first.prefix, second.prefix, second.preferredlifetime) == ("2001:db8:aa::", "2001:db8:a::", 0)
    answer = bench.put(ns(LL_A, "2001:db8:aa::1"), 1001.0, dst="33:33:ff:00:00:01")
    assert ICMPv6ND_NA in answer[0][1]


# -- the router's own addresses ------------------------------------------------------------------


@pytest.mark.parametrize("target", [ROUTER_A, LL_0])
def test_it_answers_for_its_own_addresses(target: str) -> None:
    bench = Bench()
    question = ns(A, target)
    ((port, frame),) = bench.put(question, dst=group_mac(question))
    na = frame[ICMPv6ND_NA]
    assert (port, frame.dst, frame[IPv6].src, frame[IPv6].dst) == (0, MAC_A, target, A)
    assert (na.tgt, na.R, na.S, na.O, frame[ICMPv6NDOptDstLLAddr].lladdr) == (target, 1, 1, 1, MAC_0)
    assert bench.router.counters.received["neighbor_solicitation"] == 1
    assert bench.router.counters.sent["neighbor_advertisement"] == 1


def test_it_defends_its_address_against_a_dad_probe() -> None:
    bench = Bench()
    probe = ns("::", ROUTER_A, lladdr=None)
    ((_, frame),) = bench.put(probe, dst=group_mac(probe))
    assert (frame[IPv6].dst, frame[ICMPv6ND_NA].S, frame[ICMPv6ND_NA].O) == ("ff02::1", 0, 1)
    assert len(bench.router.neighbors) == 0


def test_it_does_not_answer_for_others_or_to_bad_discovery() -> None:
    bench = Bench()
    others = ns(A, "2001:db8:a::1:0:1")  # in the router's solicited-node group
    assert bench.put(others, dst=group_mac(others)) == []
    assert len(bench.router.neighbors) == 0
    elsewhere = ns(A, ROUTER_B, dst=ROUTER_A)  # its address, but on the other link
    assert bench.put(elsewhere) == []
    for wrong in (ns(A, ROUTER_A, hlim=254), ns("::", ROUTER_A), ns("::", ROUTER_A, dst=ROUTER_A, lladdr=None)):
        assert bench.put(wrong, dst=group_mac(ns(A, ROUTER_A))) == []
    assert bench.drops == {RouterDrop.BAD_ND: 3}
    broken = ns(A, ROUTER_A)
    broken[ICMPv6ND_NS].cksum = 0x1234
    assert bench.put(broken, dst=group_mac(broken)) == []
    assert bench.drops == {RouterDrop.BAD_ND: 3, RouterDrop.CHECKSUM: 1}


def test_it_answers_echo_and_refuses_udp() -> None:
    bench = Bench()
    bench.put(ns(A, ROUTER_A), dst=group_mac(ns(A, ROUTER_A)))
    ((_, frame),) = bench.put(ping(A, ROUTER_A))
    assert frame[ICMPv6EchoReply].data == bytes(10)
    assert Ether(bytes(frame)).payload[IPv6].src == ROUTER_A
    ((_, frame),) = bench.put(ping(A, ROUTER_B))  # weak host model: the other link's address, too
    assert frame[IPv6].src == ROUTER_B
    ((_, frame),) = bench.put(IPv6(src=A, dst=ROUTER_A) / UDP(sport=1, dport=53))
    assert (frame[ICMPv6DestUnreach].code, bench.drops) == (4, {RouterDrop.NO_SERVICE: 1})


# -- forwarding ----------------------------------------------------------------------------------


def test_a_packet_waits_for_resolution_and_goes_on_with_one_hop_less() -> None:
    bench = Bench()
    ((port, question),) = bench.put(ping())
    assert (port, question.dst, question[IPv6].src) == (1, "33:33:ff:00:00:0b", "fe80::ff:fe00:f1")
    assert (question[ICMPv6ND_NS].tgt, question[ICMPv6NDOptSrcLLAddr].lladdr) == (B, MAC_1)
    answer = IPv6(src=B, dst="fe80::ff:fe00:f1") / ICMPv6ND_NA(tgt=B, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=MAC_B)
    ((port, frame),) = bench.put(answer, 0.1, port=1, src=MAC_B)
    assert (port, frame.src, frame.dst, frame[IPv6].hlim) == (1, MAC_1, MAC_B, 63)
    expected = ping(hlim=63)
    assert bytes(frame.payload) == bytes(expected)
    ((_, second),) = bench.put(ping(), 0.2)
    assert second.dst == MAC_B
    assert bench.router.counters.forwarded == 2


def test_an_unanswered_neighbour_is_reported_after_three_solicitations() -> None:
    bench = Bench()
    bench.put(ns(A, ROUTER_A), dst=group_mac(ns(A, ROUTER_A)))
    bench.put(ping(dst=B2))
    bench.put(ping(dst=B2), 0.5)
    seen = bench.run(4)
    assert [(when, ICMPv6ND_NS in frame) for when, _, frame in seen] == [
        (1.0, True),
        (2.0, True),
        (3.0, False),
        (3.0, False),
    ]
    error = seen[-1][2]
    assert (error[ICMPv6DestUnreach].code, error[IPv6].src, error[IPv6].dst, error.dst) == (3, ROUTER_A, A, MAC_A)
    assert bytes(error[ICMPv6DestUnreach].payload)[:40] == bytes(ping(dst=B2, hlim=63))[:40]
    assert bench.drops == {RouterDrop.UNREACHABLE: 2}
    assert len(bench.put(ping(dst=B2), 4.0)) == 1  # it asks again


@pytest.mark.parametrize(
    ("packet", "reason", "what", "code"),
    [
        (ping(hlim=1), RouterDrop.HOP_LIMIT, ICMPv6TimeExceeded, 0),
        (ping(dst="2001:db8:ffff::1"), RouterDrop.NO_ROUTE, ICMPv6DestUnreach, 0),
        (ping(src=LL_A), RouterDrop.SCOPE, ICMPv6DestUnreach, 2),
        (ping(size=1400), RouterDrop.TOO_BIG, ICMPv6PacketTooBig, 0),
    ],
)
def test_what_cannot_go_on_is_reported(packet: Packet, reason: RouterDrop, what: type[Packet], code: int) -> None:
    bench = Bench(mtu_b=1280)
    for known in (A, LL_A):
        bench.put(ns(known, ROUTER_A), dst=group_mac(ns(A, ROUTER_A)))
    ((port, frame),) = bench.put(packet)
    assert (port, frame.dst, frame[what].code, bench.drops) == (0, MAC_A, code, {reason: 1})
    assert len(bytes(frame.payload)) <= 1280
    if what is ICMPv6PacketTooBig:
        assert frame[what].mtu == 1280


@pytest.mark.parametrize(
    "packet",
    [
        IPv6(src=A, dst=B, hlim=1) / ICMPv6TimeExceeded() / ping(),
        IPv6(src=A, dst=B, hlim=1) / ICMPv6ND_Redirect(),
        IPv6(src=A, dst=B, hlim=1, nh=0) / Raw(b"\x3a"),  # cut off in its extension headers
        IPv6(src="::", dst=B, hlim=1) / UDP(),
        IPv6(src="ff02::1", dst=B, hlim=1) / UDP(),
        IPv6(src=A, dst="::", hlim=1) / UDP(),
        IPv6(src=A, dst="fe80::1234") / UDP(),
        IPv6(src=A, dst="::1") / UDP(),
        IPv6(src=A, dst="ff05::1:3") / UDP(),
    ],
)
def test_no_error_is_sent_about_errors_and_nobody(packet: Packet) -> None:
    bench = Bench()
    bench.put(ns(A, ROUTER_A), dst=group_mac(ns(A, ROUTER_A)))
    assert bench.put(packet) == []
    assert sum(bench.drops.values()) == 1


def test_errors_are_limited_per_destination() -> None:
    bench = Bench(RouterConfig(icmp_interval=1.0, icmp_burst=6))
    for known in (A, "2001:db8:a::a2"):
        bench.put(ns(known, ROUTER_A), dst=group_mac(ns(A, ROUTER_A)))
    assert sum(len(bench.put(ping(hlim=1))) for _ in range(20)) == 6
    assert bench.router.counters.errors_limited == 14
    assert len(bench.put(ping(src="2001:db8:a::a2", hlim=1))) == 1
    assert sum(len(bench.put(ping(hlim=1), 3.5)) for _ in range(20)) == 3
    big = Bench(mtu_b=1280)
    big.put(ns(A, ROUTER_A), dst=group_mac(ns(A, ROUTER_A)))
    assert sum(len(big.put(ping(size=1400))) for _ in range(20)) == 20  # Packet Too Big is not


def test_frames_for_others_and_multicast_are_not_forwarded() -> None:
    bench = Bench()
    assert bench.put(ping(), dst="02:00:00:00:00:77") == []
    assert bench.put(ping(), dst="33:33:00:00:00:01") == []
    assert bench.drops == {RouterDrop.NOT_OURS: 2}
    report = IPv6(src=LL_A, dst="ff02::16", hlim=1) / Raw(bytes.fromhex("8f00000000000000"))
    report[IPv6].nh = 58
    bench.put(report, dst="33:33:00:00:00:16")
    assert bench.router.counters.overheard == {"mld_report_v2": 1}


def test_static_routes_and_longest_prefix() -> None:
    config = RouterConfig(
        routes=(
            StaticRoute(prefix="2001:db8:d::/48", interface=1, via=B),
            StaticRoute(prefix="2001:db8:d:1::/64", interface=0, via=A),
            StaticRoute(prefix="::/0", interface=1),
        )
    )
    bench = Bench(config)
    asked = [
        (port, frame[ICMPv6ND_NS].tgt)
        for dst in ("2001:db8:d::5", "2001:db8:d:1::5", "2001:db8:e::5")
        for port, frame in bench.put(ping(src="2001:db8:b::99", dst=dst), port=1, src=MAC_B)
        if ICMPv6ND_NS in frame and frame[ICMPv6ND_NS].tgt != "2001:db8:b::99"
    ]
    assert asked == [(1, B), (0, A), (1, "2001:db8:e::5")]


def test_a_detour_is_redirected() -> None:
    bench = Bench()
    bench.put(ns(A, ROUTER_A), dst=group_mac(ns(A, ROUTER_A)))
    other = "2001:db8:a::a2"
    bench.put(ns(other, ROUTER_A, lladdr=MAC_B), dst=group_mac(ns(A, ROUTER_A)), src=MAC_B)
    (_, redirect), (_, onward) = bench.put(ping(A, other))
    message = redirect[ICMPv6ND_Redirect]
    assert (redirect[IPv6].src, redirect[IPv6].dst, message.tgt, message.dst) == (LL_0, A, other, other)
    assert redirect[ICMPv6NDOptDstLLAddr].lladdr == MAC_B
    assert bytes(redirect[ICMPv6NDOptRedirectedHdr].pkt)[8:40] == bytes(ping(A, other))[8:40]
    assert onward[ICMPv6EchoRequest].data == bytes(10)
    assert len(bytes(bench.put(ping(A, other, size=1400), 10.0)[0][1].payload)) <= 1280


# -- whatever comes ------------------------------------------------------------------------------

_SEEDS = [
    bytes(Ether(src=MAC_A, dst=MAC_0) / packet)
    for packet in (
        ping(),
        ping(A, ROUTER_A),
        ns(A, ROUTER_A, dst=ROUTER_A),
        IPv6(src=A, dst=LL_0, hlim=255) / ICMPv6ND_NA(tgt=A, S=1) / ICMPv6NDOptDstLLAddr(lladdr=MAC_A),
        IPv6(src=LL_A, dst=LL_0, hlim=255) / ICMPv6ND_RS() / ICMPv6NDOptSrcLLAddr(lladdr=MAC_A),
        IPv6(src=A, dst=ROUTER_A) / UDP(),
    )
]


@given(
    st.sampled_from(_SEEDS),
    st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    st.integers(0, 200),
    st.booleans(),
)
@settings(max_examples=400)
def test_no_frame_makes_it_raise(seed: bytes, changes: list[tuple[int, int]], keep: int, repair: bool) -> None:
    frame = bytearray(seed[:keep])
    for at, value in changes:
        if at < len(frame):
            frame[at] = value
    if repair and len(frame) >= 58:  # a good length and checksum, so that the change gets deeper
        frame[18:20] = (len(frame) - 54).to_bytes(2, "big")
        frame[56:58] = bytes(2)
        header = IPv6(src=bytes_text(frame[22:38]), dst=bytes_text(frame[38:54]))
        frame[56:58] = in6_chksum(58, header, bytes(frame[54:])).to_bytes(2, "big")
    bench = Bench()
    bench.router.input(0, bytes(frame), 0.0)
    bench.router.advance(100.0)
    bench.router.output()


# -- running on links ----------------------------------------------------------------------------


class Host:
    """A host by hand: it answers for its one address, and notes everything else."""

    def __init__(self, link: MemoryLink, own: str, mac: str) -> None:
        self.link, self.own, self.mac = link, own, mac
        self.seen: list[tuple[float, Packet]] = []
        self.loop = asyncio.get_running_loop()
        link.attach(self.loop, self.wake)

    def wake(self) -> None:
        while (data := self.link.receive()) is not None:
            frame = Ether(bytes(data))
            if ICMPv6ND_NS in frame and frame[ICMPv6ND_NS].tgt == self.own:
                answer = Ether(src=self.mac, dst=frame.src) / IPv6(src=self.own, dst=frame[IPv6].src)
                self.link.send([bytes(answer / ICMPv6ND_NA(tgt=self.own, R=0) / ICMPv6NDOptDstLLAddr(lladdr=self.mac))])
            elif frame.dst == self.mac:
                self.seen.append((self.loop.time(), frame))
            if ICMPv6EchoRequest in frame and frame[IPv6].dst == self.own:
                reply = Ether(src=self.mac, dst=frame.src) / IPv6(src=self.own, dst=frame[IPv6].src)
                self.link.send([bytes(reply / ICMPv6EchoReply(data=frame[ICMPv6EchoRequest].data))])


async def two_links(seed: int, watch: Callable[[float, int, bytes], None]) -> Host:
    """A pings B through the router; returns A when the answer is there."""
    lans = [MemorySwitch(latency=0.001), MemorySwitch(latency=0.001)]
    node = RouterNode(Router(RouterConfig(), Random(seed)))
    for lan, mac, name in zip(lans, (MAC_0, MAC_1), "ab", strict=True):
        lan.observe(watch)
        config = InterfaceConfig(name=name, prefixes=(AdvertisedPrefix(prefix=f"2001:db8:{name}::/64"),))
        node.connect(lan.connect(raw(mac)), config)
    host_a = Host(lans[0].connect(raw(MAC_A)), A, MAC_A)
    Host(lans[1].connect(raw(MAC_B)), B, MAC_B)
    node.start()
    host_a.link.send([bytes(Ether(src=MAC_A, dst=MAC_0) / ping())])
    await asyncio.sleep(700)
    node.close()
    node.close()
    await asyncio.sleep(1)
    assert [port.counters.drops for port in (host_a.link,)] == [{}]
    return host_a


def test_two_hosts_talk_through_it_on_memory_links() -> None:
    seen: list[tuple[float, int, bytes]] = []
    host = run_virtual(two_links(7, lambda *what: seen.append(what)))
    ((when, answer),) = host.seen
    assert (answer[ICMPv6EchoReply].data, answer[IPv6].hlim) == (bytes(10), 63)
    assert when == pytest.approx(0.008)  # eight crossings of a switch: the ping, ND for B, on, back, ND for A, on
    finals = [Ether(data)[ICMPv6ND_RA].routerlifetime for _, _, data in seen if ICMPv6ND_RA in Ether(data)][-2:]
    assert finals == [0, 0]


def test_equal_seeds_give_equal_frames_at_equal_times() -> None:
    def run(seed: int) -> list[tuple[float, int, bytes]]:
        seen: list[tuple[float, int, bytes]] = []
        run_virtual(two_links(seed, lambda *what: seen.append(what)))
        return seen

    assert run(7) == run(7)
    assert run(7) != run(8)


def test_links_it_cannot_use_are_refused() -> None:
    router = Router(RouterConfig(), Random(1))
    for properties in (LinkProperties(mtu=1500, mac=None), LinkProperties(mtu=1500, mac=raw(MAC_0), vnet_header=True)):
        with pytest.raises(ValueError, match="Ethernet and without offload"):
            router.add_interface(properties, InterfaceConfig())
