"""The life of a reserved address on the wire (unified-multiplex §1, UM-ADDR-1 … 12)."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6ParamProblem,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tapstack.events import DropReason, LinkNotice
from tapstack.ipv6.addresses import AddressError, AddressKind
from tapstack.ipv6.config import HostConfig
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import (
    OUR_MAC,
    PREFIX,
    STRANGER,
    Bench,
    User,
    advertisement,
    group_of,
    neighbor_advertisement,
    one,
    only,
    probe,
    records,
    settled,
    solicitation,
    to_group,
    to_us,
)

TEXT = PREFIX + "abcd:1234:5678"


@pytest.fixture
def bench() -> Bench:
    return settled()


def beside_unreachability_detection(bench: Bench) -> list[ScapyPacket]:
    """What was sent, without the node's own probes for a neighbour that it had sent to."""
    return [packet for packet in bench.sent if not (ICMPv6ND_NS in packet and packet[IPv6].src == bench.link_local)]


@pytest.mark.proves("UM-ADDR-1", "ST-IP6-6")
def test_a_reserved_address_is_uncertain_after_dad_and_preferred_in_the_call_that_takes_it(bench: Bench) -> None:
    entry = bench.host.reserve(address(TEXT), bench.prefix, bench.now)
    start = bench.now
    assert entry.state == "TENTATIVE"
    bench.run(2.0)
    assert entry.state == "UNCERTAIN"
    solicited = [(when, packet) for when, packet in bench.out if ICMPv6ND_NS in packet]
    assert [(when, packet[ICMPv6ND_NS].tgt) for when, packet in solicited] == [(start, TEXT)]
    bench.out.clear()
    bench.host.addresses.take(entry, AddressKind.EPHEMERAL, bench.now, "connect")
    assert entry.state == "PREFERRED"
    user = User(STRANGER)
    bench.host.addresses.acquire(entry, user)  # usable at once
    bench.run(30.0)
    assert only(bench.sent, ICMPv6ND_NS) == []  # no second DAD
    assert bench.moves(TEXT) == [("INVALID", "TENTATIVE"), ("TENTATIVE", "UNCERTAIN"), ("UNCERTAIN", "PREFERRED")]


@pytest.mark.proves("UM-ADDR-2", "UM-ADDR-5")
def test_the_defence_is_multicast_overriding_and_from_the_link_local_address(bench: Bench) -> None:
    bench.reserve(TEXT)
    answer = one(bench.feed(probe(TEXT)), ICMPv6ND_NA)
    assert answer[Ether].dst == "33:33:00:00:00:01"
    assert answer[Ether].src == OUR_MAC
    assert (answer[IPv6].src, answer[IPv6].dst, answer[IPv6].hlim) == (bench.link_local, "ff02::1", 255)
    advertised = answer[ICMPv6ND_NA]
    assert (advertised.R, advertised.S, advertised.O, advertised.tgt) == (0, 0, 1, TEXT)
    assert answer[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC
    assert len(bench.out) == 1


@pytest.mark.proves("UM-ADDR-3", "RFC8504-5.4/3")
@pytest.mark.parametrize("unicast", [False, True])
def test_resolution_and_unreachability_probes_are_not_answered(bench: Bench, unicast: bool) -> None:
    entry = bench.reserve(TEXT)
    assert bench.feed(solicitation(TEXT, unicast=unicast)) == []
    bench.run(10)
    assert bench.out == []
    # Beside life: the same probe for the same address is answered once it is in use, and a DAD probe already now.
    assert one(bench.feed(probe(TEXT)), ICMPv6ND_NA)
    bench.host.addresses.take(entry, AddressKind.EPHEMERAL, bench.now, "connect")
    bench.out.clear()
    answer = one(bench.feed(solicitation(TEXT, unicast=unicast)), ICMPv6ND_NA)
    assert (answer[IPv6].src, answer[IPv6].dst) == (TEXT, STRANGER)
    assert (answer[ICMPv6ND_NA].S, answer[ICMPv6ND_NA].O) == (1, 1)


def test_an_unanswered_solicitation_teaches_nothing(bench: Bench) -> None:
    bench.reserve(TEXT)
    before = len(bench.host.neighbors)
    bench.feed(solicitation(TEXT, src=PREFIX + "77"))
    assert len(bench.host.neighbors) == before
    assert bench.drops(DropReason.ND_UNCERTAIN_SILENT) == 1


def probes_to(dst: str) -> list[ScapyPacket]:
    """One of everything that usually draws an answer."""
    head = to_us(STRANGER, dst)
    return [
        head / ICMPv6EchoRequest(id=1, seq=1),
        head / TCP(sport=1000, dport=80, flags="S"),
        head / TCP(sport=1000, dport=80, flags="A"),
        head / UDP(sport=1000, dport=53) / Raw(b"?"),
        to_us(STRANGER, dst, nh=200) / Raw(b"unknown next header"),
        head / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x9E)]) / ICMPv6EchoRequest(),
        head / IPv6ExtHdrFragment(m=1, offset=0, id=7) / Raw(bytes(7)),
        head / IPv6ExtHdrFragment(m=1, offset=0, id=7, nh=58) / Raw(bytes(16)),
        neighbor_advertisement(STRANGER, dst=dst, src=STRANGER, S=1),
    ]


@pytest.mark.proves("UM-ADDR-4")
@pytest.mark.parametrize("number", range(9))
def test_any_other_packet_to_an_uncertain_address_is_dropped_in_silence(bench: Bench, number: int) -> None:
    bench.host.upper[6] = bench.host.upper[17] = lambda packet, now: pytest.fail(f"{packet} was delivered")
    bench.reserve(TEXT)
    assert bench.feed(probes_to(TEXT)[number]) == []
    bench.run(120)
    assert [packet for packet in bench.sent if packet[IPv6].dst not in ("ff02::1", "ff02::2", "ff02::16")] == []
    assert bench.drops(DropReason.ADDRESS_UNCERTAIN) == 1
    # Beside life: the stable address of the same node answers the echo request.
    assert one(bench.feed(probes_to(address_text(bench.stable.address))[0]), ICMPv6EchoReply)


@pytest.mark.proves("UM-ADDR-4")
def test_nothing_to_the_group_of_an_uncertain_address_is_answered(bench: Bench) -> None:
    bench.reserve(TEXT)
    group = group_of(TEXT)
    assert bench.feed(to_group(STRANGER, group) / ICMPv6EchoRequest()) == []
    option = IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x9E)])
    assert bench.feed(to_group(STRANGER, group) / option / ICMPv6EchoRequest()) == []
    # The control: all-nodes, and the group of an ordinary address.
    assert one(bench.feed(to_group(STRANGER, "ff02::1") / ICMPv6EchoRequest()), ICMPv6EchoReply)[IPv6].src != TEXT
    group = group_of(address_text(bench.stable.address))
    assert one(bench.feed(to_group(STRANGER, group) / ICMPv6EchoRequest()), ICMPv6EchoReply)
    assert one(bench.feed(to_group(STRANGER, group) / option / ICMPv6EchoRequest()), ICMPv6ParamProblem)


@pytest.mark.proves("UM-ADDR-6")
def test_a_foreign_advertisement_discards_a_reserved_address(bench: Bench) -> None:
    entry = bench.reserve(TEXT)
    bench.feed(neighbor_advertisement(TEXT))
    assert entry.state == "INVALID"
    assert entry.address not in bench.host.addresses
    assert bench.moves(TEXT)[-1] == ("UNCERTAIN", "INVALID")
    assert records(bench.sent)[0] == (3, group_of(TEXT))


@pytest.mark.proves("UM-ADDR-6")
def test_our_own_defence_brought_back_by_the_link_discards_nothing(bench: Bench) -> None:
    entry = bench.reserve(TEXT)
    answer = one(bench.feed(probe(TEXT)), ICMPv6ND_NA)
    bench.feed(answer)
    assert entry.state == "UNCERTAIN"
    assert bench.drops(DropReason.ND_LOOPED_BACK) == 1
    bench.run(10)
    assert one(bench.feed(probe(TEXT)), ICMPv6ND_NA), "it is defended as before"
    assert records(bench.sent) == []


@pytest.mark.proves("UM-ADDR-6", "UM-ADDR-11")
def test_a_withdrawn_prefix_discards_what_is_reserved_and_deprecates_what_is_used(bench: Bench) -> None:
    used = bench.ephemeral(PREFIX + "1:2:3:4")
    reserved = bench.reserve(TEXT)
    waiting = bench.reserve(PREFIX + "5:6:7:8", settle=False)
    bench.feed(advertisement(preferred=0))
    assert (used.state, reserved.state, waiting.state) == ("DEPRECATED", "INVALID", "INVALID")
    assert len(used.users) == 1
    with pytest.raises(AddressError):
        bench.host.reserve(address(TEXT), bench.prefix, bench.now)  # nothing new starts
    # Traffic of the connection goes on.
    assert one(bench.feed(solicitation(PREFIX + "1:2:3:4")), ICMPv6ND_NA)
    # The valid lifetime ends two hours later: RFC 4862 §5.5.3 (e) does not let an advertisement end it now.
    bench.feed(advertisement(preferred=0, valid=0))
    bench.run(7199)
    assert used.state == "DEPRECATED"
    bench.run(2)
    assert used.state == "INVALID"
    assert bench.moves(PREFIX + "1:2:3:4")[-1] == ("DEPRECATED", "INVALID")


@pytest.mark.proves("UM-ADDR-11", by="api")
def test_a_prefix_that_comes_back_refreshes_its_addresses(bench: Bench) -> None:
    used = bench.ephemeral(TEXT)
    bench.feed(advertisement(preferred=0))
    assert used.state == "DEPRECATED"
    bench.feed(advertisement())
    assert used.state == "PREFERRED"


@pytest.mark.proves("UM-ADDR-11")
def test_a_foreign_advertisement_for_a_used_address_is_an_event_and_changes_nothing(bench: Bench) -> None:
    used = bench.ephemeral(TEXT)
    bench.feed(neighbor_advertisement(TEXT))
    assert used.state == "PREFERRED"
    notices = [event for event in bench.events if isinstance(event, LinkNotice) and event.subject == TEXT]
    assert len(notices) == 1
    assert "02:00:00:00:00:66" in notices[0].cause
    assert one(bench.feed(solicitation(TEXT)), ICMPv6ND_NA), "it still answers for it"
    frame = bytes(neighbor_advertisement(TEXT))  # a flood of them is a bounded number of events
    for _ in range(5000):
        bench.host.input(frame, bench.now)
    assert len(bench.events) < 100


@pytest.mark.proves("UM-ADDR-7", "ST-IP6-7")
def test_the_group_is_joined_from_tentative_to_release(bench: Bench) -> None:
    entry = bench.host.reserve(address(TEXT), bench.prefix, bench.now)
    assert records(bench.sent) == [(4, group_of(TEXT))]  # before the probe
    bench.run(0)
    assert ICMPv6ND_NS in bench.out[1][1]
    bench.run(2)
    bench.host.addresses.take(entry, AddressKind.EPHEMERAL, bench.now, "connect")
    bench.run(100)
    assert [kind for kind, group in records(bench.sent) if group == group_of(TEXT)] == [4, 4]
    bench.out.clear()
    bench.host.addresses.release(entry, bench.now, "closed")
    bench.run(5)
    reports = [(when, packet) for when, packet in bench.out if ICMPv6MLReport2 in packet]
    assert [records([packet]) for _, packet in reports] == [[(3, group_of(TEXT))]] * 2
    assert all(packet[IPv6].src == bench.link_local and packet[IPv6].dst == "ff02::16" for _, packet in reports)


@pytest.mark.proves("UM-ADDR-7")
def test_two_addresses_in_one_group_join_once_and_leave_once(bench: Bench) -> None:
    one_entry = bench.reserve(PREFIX + "aaaa:1:ab:cdef")
    other = bench.host.reserve(address(PREFIX + "bbbb:2:ab:cdef"), bench.prefix, bench.now)
    bench.run(3)
    assert records(bench.sent) == []
    bench.host.addresses.discard(one_entry, bench.now, "test")
    bench.run(3)
    assert records(bench.sent) == []
    bench.host.addresses.discard(other, bench.now, "test")
    assert records(bench.sent) == [(3, "ff02::1:ffab:cdef")]


@pytest.mark.proves("UM-ADDR-8", "ST-IP6-12")
def test_promotion_sends_exactly_one_advertisement_to_the_routers(bench: Bench) -> None:
    entry = bench.reserve(TEXT, settle=False)
    bench.run(2)
    assert only(bench.sent, ICMPv6ND_NA) == []  # TENTATIVE → UNCERTAIN sends none
    bench.out.clear()
    bench.host.addresses.take(entry, AddressKind.EPHEMERAL, bench.now, "connect")
    assert len(bench.out) == 1  # in the same call, before anything else
    bench.run(60)
    announced = one(bench.sent, ICMPv6ND_NA)
    assert announced[Ether].dst == "33:33:00:00:00:02"
    assert (announced[IPv6].src, announced[IPv6].dst, announced[IPv6].hlim) == (TEXT, "ff02::2", 255)
    flags = announced[ICMPv6ND_NA]
    assert (flags.R, flags.S, flags.O, flags.tgt) == (0, 0, 0, TEXT)
    assert announced[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC


def test_the_announcement_can_be_switched_off() -> None:
    bench = Bench(HostConfig(dad_initial_delay=0.0, advertise_promotion=False))
    bench.settle()
    entry = bench.reserve(TEXT)
    bench.host.addresses.take(entry, AddressKind.EPHEMERAL, bench.now, "connect")
    bench.run(10)
    assert only(bench.sent, ICMPv6ND_NA) == []


@pytest.mark.proves("UM-ADDR-9")
def test_after_release_nothing_is_answered(bench: Bench) -> None:
    entry = bench.ephemeral(TEXT, STRANGER)
    assert one(bench.feed(solicitation(TEXT)), ICMPv6ND_NA)
    assert one(bench.feed(to_us(STRANGER, TEXT) / ICMPv6EchoRequest()), ICMPv6EchoReply)
    user = next(iter(entry.users))
    bench.host.addresses.drop(entry, user, bench.now, "closed")
    bench.run(5)
    bench.out.clear()
    for packet in [probe(TEXT), solicitation(TEXT), solicitation(TEXT, unicast=True), *probes_to(TEXT)]:
        assert bench.feed(packet) == []
    bench.run(120)
    assert beside_unreachability_detection(bench) == []


@pytest.mark.proves("UM-EA-1", "RFC8504-5.8/1")
def test_an_ephemeral_address_answers_its_peer_only(bench: Bench) -> None:
    bench.ephemeral(TEXT, PREFIX + "99")
    bench.teach(PREFIX + "99", "02:00:00:00:00:99")
    for packet in probes_to(TEXT)[:1] + probes_to(TEXT)[4:8]:
        assert bench.feed(packet) == []
    bench.run(120)
    assert only(bench.sent, ICMPv6EchoReply) == []
    assert only(bench.sent, ICMPv6DestUnreach) == []
    assert only(bench.sent, ICMPv6ParamProblem) == []
    assert bench.drops(DropReason.ADDRESS_SILENT) >= 4
    assert one(bench.feed(to_us(PREFIX + "99", TEXT) / ICMPv6EchoRequest()), ICMPv6EchoReply)[IPv6].src == TEXT


@pytest.mark.proves("UM-POOL-4")
def test_a_dedicated_prefix_needs_neither_dad_nor_groups_and_is_silent(bench: Bench) -> None:
    dedicated = bench.host.prefix_list.add_dedicated(address("2001:db8:d::"), 64)
    entry = bench.host.reserve(address("2001:db8:d::1"), dedicated, bench.now, AddressKind.EPHEMERAL)
    assert entry.state == "PREFERRED"
    bench.host.addresses.acquire(entry, User(STRANGER))
    bench.run(10)
    assert bench.out == []
    assert one(bench.feed(to_us(STRANGER, "2001:db8:d::1") / ICMPv6EchoRequest()), ICMPv6EchoReply)
    bench.out.clear()
    for unused in ("2001:db8:d::2", "2001:db8:d::"):
        for packet in probes_to(unused):
            assert bench.feed(packet) == []
    bench.host.addresses.drop(entry, next(iter(entry.users)), bench.now, "closed")
    for packet in probes_to("2001:db8:d::1"):
        assert bench.feed(packet) == []
    bench.run(120)
    assert beside_unreachability_detection(bench) == []


def test_an_uncertain_address_without_a_link_local_one_cannot_be_defended_from_itself() -> None:
    bench = Bench(HostConfig(dad_initial_delay=0.0))
    bench.settle()
    bench.reserve(TEXT)
    bench.host.interface.link_local = None
    assert bench.feed(probe(TEXT)) == []  # rather than reveal the address as a source


@pytest.mark.proves("UM-DAS-7", "ST-IP6-10")
def test_one_time_addresses_are_never_chosen_as_a_source(bench: Bench) -> None:
    bench.reserve(TEXT)
    bench.ephemeral(PREFIX + "7:7:7:7")
    assert bench.host.source_for(address("2001:db8:9::1")) == bench.stable.address
    bench.teach("fe80::66", "02:00:00:00:00:66")
    for asker, source in ((STRANGER, address_text(bench.stable.address)), ("fe80::66", bench.link_local)):
        reply = one(bench.feed(to_group(asker, "ff02::1") / ICMPv6EchoRequest()), ICMPv6EchoReply)
        assert reply[IPv6].src == source


def test_link_up_gives_up_what_is_reserved_and_keeps_what_is_used(bench: Bench) -> None:
    used = bench.ephemeral(PREFIX + "1:2:3:4")
    reserved = bench.reserve(TEXT)
    bench.host.link_down(bench.now)
    bench.run(5)
    bench.out.clear()
    bench.host.link_up(bench.now)
    assert (used.state, reserved.state) == ("PREFERRED", "INVALID")
    bench.run(3)
    assert (4, group_of(PREFIX + "1:2:3:4")) in records(bench.sent)


def test_host_stop_leaves_every_group(bench: Bench) -> None:
    bench.reserve(TEXT)
    groups = {group_of(TEXT), group_of(bench.link_local)}
    bench.host.stop(bench.now)
    assert groups <= {group for kind, group in records(bench.sent) if kind == 3}
