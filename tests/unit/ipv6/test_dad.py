"""Duplicate Address Detection: probes, nonces, pace, conflicts, back-off (RFC 4862 §5.4, RFC 7527, RFC 4429, UM-ADDR-10)."""

from __future__ import annotations

import itertools

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tapstack.events import DropReason, LinkNotice
from tapstack.ipv6.addresses import AddressEntry, AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.types import address, address_text, solicited_node
from tapstack.wire import icmpv6
from tests.unit.ipv6.bench import (
    OUR_MAC,
    PREFIX,
    ROUTER,
    STRANGER,
    Bench,
    User,
    advertisement,
    group_of,
    neighbor_advertisement,
    one,
    only,
    probe,
    settled,
    solicitation,
    to_group,
    to_us,
)

TEXT = PREFIX + "abcd:1234:5678"


def nonce_option(value: bytes) -> Raw:
    """A Nonce option (type 14) as bytes."""
    assert (len(value) + 2) % 8 == 0
    return Raw(bytes((14, (len(value) + 2) // 8)) + value)


def nonce_of(packet: ScapyPacket) -> bytes:
    """The nonce of a probe: scapy leaves the option as it came."""
    options = bytes(packet[ICMPv6ND_NS])[24:]
    assert options[:2] == b"\x0e\x01", options
    return options[2:8]


def probes(bench: Bench, target: str | None = None) -> list[tuple[float, ScapyPacket]]:
    """The DAD probes sent, with their times."""
    return [
        (when, packet)
        for when, packet in bench.out
        if ICMPv6ND_NS in packet and packet[IPv6].src == "::" and target in (None, packet[ICMPv6ND_NS].tgt)
    ]


@pytest.fixture
def bench() -> Bench:
    return settled()


@pytest.mark.proves("ST-IP6-6", "UM-ADDR-10")
def test_a_probe_is_as_the_rfc_has_it(bench: Bench) -> None:
    bench.reserve(TEXT, settle=False)
    bench.run(0)
    ((_, sent),) = probes(bench)
    assert sent[Ether].dst == "33:33:ff:34:56:78"
    assert (sent[IPv6].src, sent[IPv6].dst, sent[IPv6].hlim) == ("::", group_of(TEXT), 255)
    assert sent[ICMPv6ND_NS].tgt == TEXT
    assert ICMPv6NDOptSrcLLAddr not in sent
    assert len(nonce_of(sent)) == 6


@pytest.mark.proves("UM-ADDR-10")
@pytest.mark.parametrize("kind", [AddressKind.RESERVED, AddressKind.STABLE])
@pytest.mark.parametrize(
    "packet",
    [
        probe(TEXT),
        probe(TEXT, nonce_option(b"others")),
        neighbor_advertisement(TEXT),
        neighbor_advertisement(TEXT, mac=OUR_MAC),
        neighbor_advertisement(TEXT, mac=None),
    ],
)
def test_somebody_elses_probe_or_advertisement_is_a_conflict(
    bench: Bench, kind: AddressKind, packet: ScapyPacket
) -> None:
    entry = bench.host.addresses.add(address(TEXT), kind, bench.now)
    bench.run(0.5)
    bench.feed(packet)
    assert entry.state == "DUPLICATED"
    assert entry.address not in bench.host.addresses
    assert bench.moves(TEXT)[-1] == ("TENTATIVE", "DUPLICATED")
    # It is not defended then, unlike the link-local address, nor tested again.
    assert only(bench.feed(probe(TEXT)), ICMPv6ND_NA) == []
    assert one(bench.feed(probe(bench.link_local)), ICMPv6ND_NA)
    bench.run(10)
    assert len(probes(bench, TEXT)) == 1


def test_a_conflict_before_the_own_probe_counts(bench: Bench) -> None:
    for number in range(100):
        bench.host.reserve(address(f"2001:db8:1::{number + 1:x}"), bench.prefix, bench.now)
    entry = bench.host.addresses.get(address("2001:db8:1::64"))
    assert entry is not None
    bench.feed(probe("2001:db8:1::64"))
    assert entry.state == "DUPLICATED"
    assert probes(bench, "2001:db8:1::64") == []


def test_a_solicitation_from_a_unicast_source_is_no_conflict(bench: Bench) -> None:
    entry = bench.reserve(TEXT, settle=False)
    bench.run(0.1)
    assert only(bench.feed(solicitation(TEXT)), ICMPv6ND_NA) == []
    bench.run(2)
    assert entry.state == "UNCERTAIN"


@pytest.mark.proves("UM-ADDR-10", "RFC8504-6.3/3")
def test_our_own_probe_brought_back_is_no_conflict_and_prolongs_the_test(bench: Bench) -> None:
    start = bench.now
    entry = bench.reserve(TEXT, settle=False)
    bench.run(0.1)
    bench.feed(probes(bench)[0][1])
    assert entry.state == "TENTATIVE"
    assert bench.drops(DropReason.ND_LOOPED_BACK) == 1
    bench.run(10)
    # RFC 7527 §4.1: three more probes, RetransTimer apart, each with a nonce of its own; then the address is assigned.
    assert [round(when - start, 3) for when, _ in probes(bench)] == [0.0, 1.0, 2.0, 3.0]
    assert len({nonce_of(sent) for _, sent in probes(bench)}) == 4
    assert entry.state == "UNCERTAIN"


@pytest.mark.proves("UM-ADDR-10")
def test_a_link_that_always_loops_does_not_keep_an_address_tentative_for_ever(bench: Bench) -> None:
    entry = bench.reserve(TEXT, settle=False)
    for _ in range(100):
        bench.run(0.1)
        for when, sent in probes(bench):
            if when == bench.now - 0.1 or bench.now - when < 0.11:
                bench.feed(sent)
    assert entry.state == "UNCERTAIN"
    assert len(probes(bench)) == 1 + 2 * 3


def test_a_looped_back_probe_after_the_test_is_not_answered(bench: Bench) -> None:
    bench.reserve(TEXT, settle=False)
    bench.run(0)
    sent = probes(bench)[0][1]
    bench.run(3)
    bench.out.clear()
    assert bench.feed(sent) == []
    assert one(bench.feed(probe(TEXT, nonce_option(b"others"))), ICMPv6ND_NA)


def test_probes_of_many_addresses_are_paced(bench: Bench) -> None:
    start = bench.now
    for number in range(20):
        bench.host.reserve(address(f"2001:db8:1::{number + 1:x}"), bench.prefix, bench.now)
    bench.run(5)
    times = [when - start for when, _ in probes(bench)]
    assert len(times) == 20
    assert times == pytest.approx([0.02 * number for number in range(20)])


def test_more_probes_when_configured_and_none_without_dad() -> None:
    bench = Bench(HostConfig(dad_initial_delay=0.0, dad_transmits=3))
    bench.run(2.9)
    assert [entry.state for entry in bench.host.addresses] == ["TENTATIVE"]
    bench.run(0.2)
    assert [entry.state for entry in bench.host.addresses] == ["PREFERRED"]
    assert [round(when - 1000, 3) for when, _ in probes(bench)] == [0.0, 1.0, 2.0]
    bench = Bench(HostConfig(dad_initial_delay=0.0, dad_transmits=0))
    bench.run(0)
    assert bench.host.link_local is not None
    assert probes(bench) == []


def test_the_first_probe_waits_a_random_time() -> None:
    starts = set()
    for seed in range(20):
        bench = Bench(HostConfig(), seed=seed)
        bench.run(2)
        ((when, _),) = probes(bench)
        assert 1000 <= when <= 1001
        starts.add(when)
    assert len(starts) == 20


def claim_everything(bench: Bench, seconds: float) -> int:
    """A hostile neighbour claims each address that is probed, for a time; returns how many probes it saw."""
    seen = 0
    end = bench.now + seconds
    while bench.now < end:
        due = bench.timers.deadline()
        bench.run_until(min(end, due if due is not None else end))
        fresh = probes(bench)
        seen += len(fresh)
        bench.out.clear()
        for _, sent in fresh:
            bench.feed(neighbor_advertisement(sent[ICMPv6ND_NS].tgt))
    return seen


@pytest.mark.proves("UM-ADDR-10")
def test_three_failures_in_a_row_are_reported_and_testing_backs_off() -> None:
    bench = Bench()
    bench.settle(valid=10**6, preferred=10**6)
    starts: list[float] = []
    for serial in range(12):
        bench.reserve(f"2001:db8:1::9:{serial:x}", settle=False)
        while not probes(bench):
            due = bench.timers.deadline()
            assert due is not None
            bench.run_until(due)
        ((when, sent),) = probes(bench)
        starts.append(when)
        bench.out.clear()
        bench.feed(neighbor_advertisement(sent[ICMPv6ND_NS].tgt))
    pauses = [round(later - earlier) for earlier, later in itertools.pairwise(starts)]
    assert pauses == [0, 0, 60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]
    reports = [e.cause for e in bench.events if isinstance(e, LinkNotice) and e.subject.startswith("duplicate")]
    assert reports[0] == "3 addresses in a row were claimed by another node; next attempt in 60 s"
    # The neighbour goes away: the next address passes, and the pace is the usual one again.
    entry = bench.reserve(settle=False)
    bench.run(3602)
    assert entry.state == "UNCERTAIN"
    start = bench.now
    bench.out.clear()
    for number in range(4):
        bench.reserve(f"2001:db8:1::a:{number}", settle=False)
    bench.run(1)
    assert [when - start for when, _ in probes(bench)] == pytest.approx([0.0, 0.02, 0.04, 0.06])


def test_failures_count_in_a_row_only(bench: Bench) -> None:
    for serial in range(8):
        bench.reserve(f"2001:db8:1::9:{serial}", settle=False)
        bench.run(0.1)
        if serial % 3 == 2:
            bench.run(2)  # this one passes
        else:
            bench.feed(neighbor_advertisement(f"2001:db8:1::9:{serial}"))
    assert [entry.address[-1] for entry in bench.host.addresses if entry.state == "UNCERTAIN"] == [2, 5]
    assert bench.host.dad.held_until is None


@pytest.mark.proves("UM-ADDR-10")
def test_link_up_ends_the_back_off(bench: Bench) -> None:
    for number in range(3):
        bench.reserve(f"2001:db8:1::9:{number}", settle=False)
        bench.run(0.1)
        bench.feed(neighbor_advertisement(f"2001:db8:1::9:{number}"))
    assert (bench.host.dad.held_until or 0) > bench.now + 50
    bench.host.link_up(bench.now)
    entry = bench.reserve(TEXT, settle=False)
    up = bench.now
    bench.run(2)
    ((when, _),) = probes(bench, TEXT)
    assert when - up < 0.1
    assert entry.state == "UNCERTAIN"


def test_a_neighbour_that_claims_everything_costs_little(bench: Bench) -> None:
    for number in range(200):
        bench.host.reserve(address(f"2001:db8:1::9:{number:x}"), bench.prefix, bench.now)
    assert claim_everything(bench, 50) <= 64
    assert len(bench.host.dad._nonces) <= 512


def test_a_duplicate_stable_address_is_formed_anew_with_the_next_counter() -> None:
    bench = Bench()
    bench.run(0.5)
    first = probes(bench)[0][1][ICMPv6ND_NS].tgt
    bench.feed(neighbor_advertisement(first))
    bench.run(2)
    assert bench.link_local != first
    # The same secret forms the same first address again: stable (RFC 7217).
    again = Bench(seed=99)
    again.run(0.5)
    assert probes(again)[0][1][ICMPv6ND_NS].tgt == first


@pytest.mark.proves("ST-IP6-9", "RFC8504-6.1/1", "RFC8504-6.3/1")
def test_the_link_local_address_depends_on_the_secret_and_each_prefix_has_another_identifier() -> None:
    def addresses(secret: bytes) -> list[bytes]:
        """Those that a host of this secret tests."""
        bench = Bench(secret=secret)
        bench.run(1.5)
        for prefix in (PREFIX, "2001:db8:2::"):
            bench.feed(advertisement(prefix=prefix))
        bench.run(3)
        return [address(packet[ICMPv6ND_NS].tgt) for _, packet in probes(bench)]

    one_node, same_node, other_node = addresses(b"one"), addresses(b"one"), addresses(b"other")
    assert one_node == same_node
    assert len({formed[8:] for formed in one_node + other_node}) == 6


@pytest.mark.proves("ST-IP6-6")
class TestOptimistic:
    """RFC 4429."""

    def add(self, bench: Bench) -> AddressEntry:
        entry = bench.host.addresses.add(
            address(TEXT), AddressKind.EPHEMERAL, bench.now, trigger=Trigger.ADD_OPTIMISTIC
        )
        bench.host.addresses.acquire(entry, User(STRANGER))
        bench.teach(STRANGER)
        return entry

    def test_it_is_usable_at_once_and_announced_without_override(self, bench: Bench) -> None:
        entry = self.add(bench)
        announced = one(bench.sent, ICMPv6ND_NA)
        assert (announced[IPv6].dst, announced[ICMPv6ND_NA].O) == ("ff02::2", 0)
        assert one(bench.feed(to_us(STRANGER, TEXT) / ICMPv6EchoRequest()), ICMPv6EchoReply)
        bench.run(2)
        assert entry.state == "PREFERRED"
        assert len(probes(bench, TEXT)) == 1

    def test_resolution_is_answered_without_override(self, bench: Bench) -> None:
        self.add(bench)
        answer = one(bench.feed(solicitation(TEXT)), ICMPv6ND_NA)
        assert (answer[ICMPv6ND_NA].S, answer[ICMPv6ND_NA].O) == (1, 0)

    def test_a_probe_is_not_answered_but_a_conflict(self, bench: Bench) -> None:
        entry = self.add(bench)
        bench.run(0)
        assert only(bench.feed(probe(TEXT)), ICMPv6ND_NA) == []
        assert entry.state == "DUPLICATED"

    def test_an_advertisement_is_a_conflict(self, bench: Bench) -> None:
        entry = self.add(bench)
        ping = to_us(STRANGER, TEXT) / ICMPv6EchoRequest()
        assert one(bench.feed(ping), ICMPv6EchoReply)
        bench.feed(neighbor_advertisement(TEXT))
        assert entry.state == "DUPLICATED"
        assert bench.feed(ping) == []

    def test_it_never_solicits_and_goes_by_the_router(self, bench: Bench) -> None:
        """RFC 4429 §3.2: no address resolution from an optimistic address; the packet goes to a default router."""
        entry = self.add(bench)
        bench.out.clear()
        unknown = PREFIX + "77"
        echo = icmpv6.pack(entry.address, address(unknown), icmpv6.Type.ECHO_REQUEST, 0, b"data")
        bench.host.send(entry.address, address(unknown), 58, [echo], bench.now)
        (sent,) = bench.sent
        assert sent[Ether].dst == "02:00:00:00:00:fe"
        assert sent[IPv6].dst == unknown

    def test_without_a_resolved_router_its_packets_wait_for_dad(self) -> None:
        bench = Bench()
        bench.settle(router=False)
        bench.host.prefix_list.add_static(address(PREFIX), 64, autonomous=True, now=bench.now)
        bench.run(3)
        bench.out.clear()
        entry = self.add(bench)
        bench.run(0)
        echo = icmpv6.pack(entry.address, address(PREFIX + "77"), icmpv6.Type.ECHO_REQUEST, 0, b"data")
        bench.host.send(entry.address, address(PREFIX + "77"), 58, [echo], bench.now)
        bench.run(0.9)
        assert [sent for sent in only(bench.sent, ICMPv6ND_NS) if sent[IPv6].src != "::"] == []
        bench.run(0.3)
        solicited = [sent for sent in only(bench.sent, ICMPv6ND_NS) if sent[IPv6].src != "::"]
        assert [sent[IPv6].src for sent in solicited] == [TEXT]


@pytest.mark.proves("ST-IP6-4", "ST-IP6-6")
@pytest.mark.parametrize(
    "broken",
    [
        to_group("::", "ff02::1", hlim=255) / ICMPv6ND_NS(tgt=TEXT),
        to_group("::", group_of(TEXT), hlim=254) / ICMPv6ND_NS(tgt=TEXT),
        to_group("::", group_of(TEXT), hlim=255) / ICMPv6ND_NS(tgt=TEXT, code=1),
        to_group("::", group_of(TEXT), hlim=255)
        / ICMPv6ND_NS(tgt=TEXT)
        / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:66"),
        to_group("::", group_of(TEXT), hlim=255) / ICMPv6ND_NS(tgt=TEXT) / Raw(b"\x0e\x00abcdef"),
        to_group("::", group_of(TEXT), hlim=255) / ICMPv6ND_NS(tgt=TEXT, cksum=1),
        to_us("::", address_text(solicited_node(address(TEXT))), hlim=64) / ICMPv6ND_NS(tgt=TEXT),
    ],
)
def test_an_invalid_probe_is_neither_answered_nor_a_conflict(bench: Bench, broken: ScapyPacket) -> None:
    """RFC 4861 §7.1.1."""
    uncertain = bench.reserve(TEXT)
    assert bench.feed(broken) == []
    assert uncertain.state == "UNCERTAIN"
    bench.host.addresses.discard(uncertain, bench.now, "test")
    tentative = bench.reserve(TEXT, settle=False)
    bench.run(0.1)
    bench.feed(broken)
    assert tentative.state == "TENTATIVE"
    bench.feed(probe(TEXT))
    assert tentative.state == "DUPLICATED"


def test_the_router_is_asked_only_after_dad() -> None:
    bench = Bench()
    before = [packet.summary() for packet in bench.run(0.9)]
    assert not any("RS" in line for line in before)
    bench.run(2)
    solicitations = [(when, packet) for when, packet in bench.out if "ICMPv6ND_RS" in packet.summary()]
    assert len(solicitations) == 1
    when, sent = solicitations[0]
    assert 1001 <= when <= 1002
    assert (sent[IPv6].src, sent[IPv6].dst, sent[IPv6].hlim) == (bench.link_local, "ff02::2", 255)
    assert sent[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
    assert ROUTER not in sent.summary()
