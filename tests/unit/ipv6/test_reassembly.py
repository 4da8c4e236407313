"""Fragments: order, overlap, tiny, atomic, limits, timers (RFC 8200 §4.5, RFC 5722, RFC 6946, RFC 6980, RFC 7112)."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    defragment6,
)
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.packet import IcmpError
from tapstack.types import address
from tests.unit.ipv6.bench import OFF_LINK, PREFIX, STRANGER, Receiver, advertisement, group_of, one, only, to_us

TEXT = PREFIX + "abcd:1234:5678"


class World(Receiver):
    def __init__(self, **config: Any) -> None:
        super().__init__(HostConfig(dad_initial_delay=0.0, **config))

    def pieces(
        self, data: bytes, size: int, ident: int = 1, src: str = STRANGER, dst: str = "", *, echo: bool = False
    ) -> list[ScapyPacket]:
        """A UDP datagram, or an echo request, in fragments of `size` bytes."""
        dst = dst or self.us
        upper = ICMPv6EchoRequest(data=data) if echo else UDP(sport=1, dport=2) / Raw(data)
        packet = IPv6(bytes(IPv6(src=src, dst=dst) / upper))
        whole = bytes(packet.payload)
        return [
            to_us(src, dst)
            / IPv6ExtHdrFragment(nh=packet.nh, id=ident, offset=at // 8, m=at + size < len(whole))
            / Raw(whole[at : at + size])
            for at in range(0, len(whole), size)
        ]

    def data(self) -> list[bytes]:
        return [bytes(packet.payload[8:]) for packet in self.delivered]

    def nothing_comes_of(self, pieces: list[ScapyPacket], data: bytes) -> None:
        """The pieces of an echo request are lost in silence; after their time they are answered as any others."""
        for piece in pieces:
            assert self.feed(piece) == []
        assert only(self.run(61), ICMPv6TimeExceeded) == []
        assert echoed([answer for piece in pieces for answer in self.feed(piece)]) == data


def echoed(answers: list[ScapyPacket]) -> bytes:
    """The data of the one echo reply that left, whole or in fragments, of which none covers a byte of another."""
    packets = [answer[IPv6] for answer in answers]
    if IPv6ExtHdrFragment not in packets[0]:
        (packet,) = packets
        return bytes(packet[ICMPv6EchoReply].data)
    end = 0
    for packet in packets:
        fragment = packet[IPv6ExtHdrFragment]
        assert fragment.offset * 8 == end
        end += len(bytes(fragment.payload))
        assert len(bytes(packet)) <= 1500
    assert [packet[IPv6ExtHdrFragment].m for packet in packets] == [1] * (len(packets) - 1) + [0]
    return bytes(IPv6(bytes(defragment6(packets)))[ICMPv6EchoReply].data)


@pytest.fixture
def world() -> World:
    return World()


DATA = bytes(range(256)) * 12


@pytest.mark.proves("ST-IP6-2", "RFC8504-5.1/2")
@pytest.mark.parametrize("order", ["forward", "backward", "shuffled", "twice"])
@pytest.mark.parametrize("size", [64, 256, 1232])
def test_fragments_in_any_order_make_the_packet(world: World, order: str, size: int) -> None:
    pieces = world.pieces(DATA, size, echo=True)
    if order == "backward":
        pieces.reverse()
    elif order == "shuffled":
        random.Random(size).shuffle(pieces)
    elif order == "twice":
        pieces = [piece for piece in pieces for _ in range(2)][: 2 * len(pieces) - 1]
    for piece in pieces[:-1]:
        assert world.feed(piece) == []
    assert echoed(world.feed(pieces[-1])) == DATA
    assert len(world.host.reassembler) == 0
    assert world.host.reassembler.bytes_held == 0


@pytest.mark.proves("ST-IP6-2", by="api")
def test_headers_before_and_after_the_fragment_header(world: World) -> None:
    inner = bytes(
        IPv6(bytes(IPv6(src=STRANGER, dst=world.us) / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2) / Raw(DATA))).payload
    )
    for at in range(0, len(inner), 1024):
        world.feed(
            to_us(STRANGER, world.us)
            / IPv6ExtHdrHopByHop()
            / IPv6ExtHdrDestOpt()
            / IPv6ExtHdrFragment(nh=60, id=9, offset=at // 8, m=at + 1024 < len(inner))
            / Raw(inner[at : at + 1024])
        )
    assert world.data() == [DATA]
    assert world.delivered[0].fragmented


@pytest.mark.proves("ST-TCP-7")
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
@pytest.mark.parametrize(
    ("marks", "whole"),
    [
        ((3, 2, 2), 3),
        ((2, 3, 2), 3),
        ((1, 2, 3), 3),
        ((3, 3, 3), 3),
        ((0, 0, 0), 0),
        ((1, 1, 1), 1),
        ((2, 2, 2), 2),
        ((0, 3, 2), None),
        ((3, 2, 0), None),
    ],
)
def test_a_mark_of_congestion_on_any_fragment_is_one_on_the_packet(
    world: World, order: tuple[int, ...], marks: tuple[int, ...], whole: int | None
) -> None:
    """RFC 3168 §5.3; where another fragment says that its sender takes no marks, nothing comes of them.  The rest of the
    traffic class is the first fragment's.
    """
    data = bytes(range(256)) * 4
    pieces = world.pieces(data, 400)
    for piece, mark, service in zip(pieces, marks, (0xB8, 0x20, 0x00), strict=True):
        piece[IPv6].tc = service | mark
    for at in order:
        world.feed(pieces[at])
    if whole is None:
        assert world.data() == []
        assert world.counters.drops[DropReason.IP_FRAGMENT_BAD] == 1
        return
    assert world.data() == [data]
    packet = world.delivered[0]
    assert packet.traffic_class == IPv6(bytes(packet.whole)).tc == 0xB8 | whole


@pytest.mark.proves("ST-IP6-2", by="api")
def test_packets_are_told_apart_by_source_destination_and_identification(world: World) -> None:
    other = PREFIX + "67"
    world.teach(other, "02:00:00:00:00:67")
    sets = [
        world.pieces(b"1" * 900, 512, ident=1),
        world.pieces(b"2" * 900, 512, ident=2),
        world.pieces(b"3" * 900, 512, ident=1, src=other),
    ]
    for group in zip(*sets, strict=True):
        for piece in group:
            world.feed(piece)
    assert sorted(world.data()) == [b"1" * 900, b"2" * 900, b"3" * 900]


@pytest.mark.proves("ST-IP6-2", "RFC8504-5.1/3")
@pytest.mark.parametrize(
    "overlap",
    [
        (8, 16, 1),  # inside the first
        (0, 24, 1),  # a longer first one
        (0, 16, 1),  # a shorter first one
        (56, 16, 1),  # across the boundary
        (120, 16, 1),
    ],
)
def test_an_overlap_ends_the_packet_and_what_still_comes_of_it(world: World, overlap: tuple[int, int, int]) -> None:
    """RFC 5722 §4: the whole datagram is dropped, including the fragments that have not come yet."""
    at, length, more = overlap
    pieces = world.pieces(DATA[:500], 64, echo=True)
    world.feed(pieces[0])
    world.feed(pieces[1])
    evil = to_us(STRANGER, world.us) / IPv6ExtHdrFragment(nh=58, id=1, offset=at // 8, m=more) / Raw(b"\xee" * length)
    assert world.feed(evil) == []
    for piece in pieces:
        assert world.feed(piece) == []
    world.nothing_comes_of(pieces, DATA[:500])
    assert world.drops(DropReason.IP_FRAGMENT_OVERLAP) >= len(pieces)


@pytest.mark.proves("RFC8504-5.1/3")
@pytest.mark.parametrize("second", ["longer", "shorter", "more"])
def test_contradicting_ends_are_an_overlap(world: World, second: str) -> None:
    pieces = world.pieces(DATA[:120], 64, echo=True)
    world.feed(pieces[1])
    offset, more = {"longer": (16, 0), "shorter": (4, 0), "more": (16, 1)}[second]
    evil = IPv6ExtHdrFragment(nh=58, id=1, offset=offset, m=more) / Raw(bytes(32))
    assert world.feed(to_us(STRANGER, world.us) / evil) == []
    world.nothing_comes_of(pieces, DATA[:120])


@pytest.mark.proves("RFC8504-5.1/3")
def test_a_last_fragment_before_one_that_came_is_an_overlap(world: World) -> None:
    pieces = world.pieces(DATA[:248], 64, echo=True)
    world.feed(pieces[2])
    evil = IPv6ExtHdrFragment(nh=58, id=1, offset=4, m=0) / Raw(bytes(32))
    assert world.feed(to_us(STRANGER, world.us) / evil) == []
    world.nothing_comes_of(pieces, DATA[:248])


@pytest.mark.proves("ST-IP6-2", "RFC8504-5.1/4")
def test_atomic_fragments_are_packets_by_themselves(world: World) -> None:
    """RFC 6946 §4: they neither wait for, nor disturb, fragments with the same identification."""
    pieces = world.pieces(DATA[:900], 512, ident=7)
    world.feed(pieces[0])
    world.feed(to_us(STRANGER, world.us) / IPv6ExtHdrFragment(id=7) / UDP(sport=1, dport=2) / Raw(b"atomic"))
    reply = one(world.feed(to_us(STRANGER, world.us) / IPv6ExtHdrFragment(id=7) / ICMPv6EchoRequest()), ICMPv6EchoReply)
    assert IPv6ExtHdrFragment not in reply
    world.feed(pieces[1])
    assert world.data() == [b"atomic", DATA[:900]]


@pytest.mark.proves("RFC8504-5.1/4")
def test_a_path_mtu_below_the_least_draws_no_atomic_fragments(world: World) -> None:
    """RFC 8021; the protocol behind it believes what it is told, and of the least MTU it takes account."""
    ours = world.stable.address

    def believe(error: IcmpError, now: float) -> None:
        world.host.accept_path_mtu(error, now)

    world.host.errors[253] = believe

    def sent(size: int) -> list[ScapyPacket]:
        world.out.clear()
        world.host.send(ours, address(OFF_LINK), 253, [bytes(size)], world.now)
        return world.sent

    for mtu in (68, 1279, 1280):
        quoted = sent(8)[0][IPv6]
        assert IPv6ExtHdrFragment not in quoted
        world.feed(to_us("2001:db8:cccc::1", world.us) / ICMPv6PacketTooBig(mtu=mtu) / quoted)
        assert [IPv6ExtHdrFragment in packet for packet in sent(1240)] == [False]
        assert [IPv6ExtHdrFragment in packet for packet in sent(1241)] == ([True] * 2 if mtu == 1280 else [False])


@pytest.mark.proves("ST-IP6-2")
def test_time_over_is_reported_if_the_first_piece_came(world: World) -> None:
    pieces = world.pieces(DATA, 1024)
    world.feed(pieces[0])
    world.feed(world.pieces(DATA, 1024, ident=2)[1])
    start = world.now
    world.run(100)
    reports = [(when, packet) for when, packet in world.out if ICMPv6TimeExceeded in packet]
    assert [(when - start, packet[ICMPv6TimeExceeded].code) for when, packet in reports] == [(60.0, 1)]
    assert bytes(reports[0][1][ICMPv6TimeExceeded].payload)[:40] == bytes(pieces[0][IPv6])[:40]
    assert world.drops(DropReason.IP_FRAGMENT_TIMEOUT) == 2
    assert len(world.host.reassembler) == 0


@pytest.mark.proves("ST-IP6-2")
def test_bad_lengths_are_a_problem(world: World) -> None:
    head = to_us(STRANGER, world.us)
    odd = head / IPv6ExtHdrFragment(nh=17, id=1, offset=0, m=1) / Raw(bytes(33))
    problem = one(world.feed(odd), ICMPv6ParamProblem)
    assert (problem[ICMPv6ParamProblem].code, problem[ICMPv6ParamProblem].ptr) == (0, 4)
    long = head / IPv6ExtHdrFragment(nh=17, id=1, offset=8191, m=0) / Raw(bytes(16))
    problem = one(world.feed(long), ICMPv6ParamProblem)
    assert (problem[ICMPv6ParamProblem].code, problem[ICMPv6ParamProblem].ptr) == (0, 42)
    assert world.feed(head / IPv6ExtHdrFragment(nh=17, id=1, offset=8, m=0)) == []
    assert len(world.host.reassembler) == 0


@pytest.mark.proves("ST-IP6-2", "ST-IP6-1", "RFC8504-5.2/3")
@pytest.mark.parametrize(
    "content",
    [
        (17, bytes(0)),
        (6, bytes(16)),
        (60, b"\x11\x01" + bytes(6)),
        (60, b"\x11\x00\x01\x04\0\0\0\0"),
        (43, b"\x3c\x00" + bytes(6)),
    ],
)
def test_a_first_fragment_without_all_headers_is_a_problem(world: World, content: tuple[int, bytes]) -> None:
    """RFC 7112 §5."""
    next_header, data = content
    tiny = to_us(STRANGER, world.us) / IPv6ExtHdrFragment(nh=next_header, id=1, offset=0, m=1) / Raw(data)
    problem = one(world.feed(tiny), ICMPv6ParamProblem)
    assert (problem[ICMPv6ParamProblem].code, problem[ICMPv6ParamProblem].ptr) == (3, 0)
    assert len(world.host.reassembler) == 0


def test_a_fragment_in_a_fragment_is_dropped(world: World) -> None:
    head = to_us(STRANGER, world.us)
    world.feed(head / IPv6ExtHdrFragment(id=1) / IPv6ExtHdrFragment(id=2) / UDP())
    assert world.drops(DropReason.IP_FRAGMENT_BAD) == 1


@pytest.mark.proves("ST-IP6-2", "RFC8504-5.4/6")
@pytest.mark.parametrize("atomic", [True, False])
def test_neighbour_discovery_is_never_fragmented(world: World, atomic: bool) -> None:
    """RFC 6980 §5."""
    group = group_of(world.us)
    message = (
        IPv6(src=STRANGER, dst=group, hlim=255)
        / ICMPv6ND_NS(tgt=world.us)
        / ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:66")
    )
    body = bytes(IPv6(bytes(message)).payload)
    head = to_us(STRANGER, group, hlim=255)
    head.dst = "33:33:" + address(group)[12:].hex(":")
    cuts = [(0, len(body))] if atomic else [(0, 24), (24, len(body))]
    for begin, end in cuts:
        fragment = IPv6ExtHdrFragment(nh=58, id=1, offset=begin // 8, m=end < len(body))
        assert only(world.feed(head / fragment / Raw(body[begin:end])), ICMPv6ND_NA) == []
    assert world.drops(DropReason.ND_FRAGMENTED) == 1
    # The control: the same message in one piece is answered.
    assert one(world.feed(head.copy() / ICMPv6ND_NS(body)), ICMPv6ND_NA)
    assert only(world.sent, IPv6ExtHdrFragment) == []


@pytest.mark.proves("RFC8504-5.4/6")
def test_router_advertisements_in_fragments_are_ignored() -> None:
    """No address is formed of the prefix; the control is the same advertisement in one piece."""
    world = World()

    def tested(packet: ScapyPacket) -> list[str]:
        return [sent[ICMPv6ND_NS].tgt for sent in only(world.feed(packet) + world.run(5), ICMPv6ND_NS)]

    packet = advertisement(prefix="2001:db8:66::")
    body = bytes(IPv6(bytes(packet[IPv6])).payload)
    wrapped = packet.copy()
    wrapped[IPv6].remove_payload()
    assert tested(wrapped / IPv6ExtHdrFragment(nh=58, id=3) / Raw(body)) == []
    (formed,) = tested(packet)
    assert formed.startswith("2001:db8:66:")


@pytest.mark.proves("ST-IP6-2", by="api")
def test_memory_is_bounded_under_a_flood_of_fragments_and_honest_packets_get_through() -> None:
    world = World(fragments_bytes=20_000, reassemblies=32, reassemblies_per_source=8)
    worst = 0
    for number in range(3000):
        src = f"2001:db8:1::5:{number % 50:x}"
        piece = to_us(src, world.us) / IPv6ExtHdrFragment(nh=17, id=number, offset=1, m=1) / Raw(bytes(1024))
        world.feed(piece)
        worst = max(worst, world.host.reassembler.bytes_held)
        assert len(world.host.reassembler) <= 32
    assert 15_000 < worst <= 20_000
    for piece in world.pieces(DATA, 1024, ident=99):
        world.feed(piece)
    assert world.data() == [DATA]


@pytest.mark.proves("ST-IP6-2", by="api")
def test_one_source_cannot_take_the_places_of_others(world: World) -> None:
    honest = world.pieces(DATA, 1024, ident=5, src=PREFIX + "67")
    for piece in honest[:-1]:
        world.feed(piece)
    for number in range(500):
        world.feed(to_us(STRANGER, world.us) / IPv6ExtHdrFragment(nh=17, id=number, offset=1, m=1) / Raw(bytes(8)))
    world.feed(honest[-1])
    assert world.data() == [DATA]


def test_pieces_of_one_packet_are_bounded(world: World) -> None:
    limit = world.host.config.fragments_per_packet
    for number in range(limit + 5):
        world.feed(
            to_us(STRANGER, world.us) / IPv6ExtHdrFragment(nh=17, id=1, offset=1 + 2 * number, m=1) / Raw(bytes(8))
        )
    assert world.drops(DropReason.IP_FRAGMENT_LIMIT) == 1
    assert world.host.reassembler.bytes_held == 0


@pytest.mark.proves("UM-EA-1", "UM-ADDR-4")
def test_a_strangers_fragments_to_a_one_time_address_time_out_in_silence(world: World) -> None:
    world.ephemeral(TEXT, PREFIX + "99")
    for dst in (TEXT, world.us):  # an ordinary address as the control
        assert world.feed(world.pieces(DATA, 1024, dst=dst)[0]) == []
    world.run(100)
    assert [p[IPv6].src for p in only(world.sent, ICMPv6TimeExceeded)] == [world.us]


@pytest.mark.proves("UM-ADDR-9", "UM-REL-3")
def test_fragments_to_an_address_that_is_gone_meanwhile_time_out_in_silence(world: World) -> None:
    gone = world.host.addresses.add(address(TEXT), AddressKind.STABLE, world.now, trigger=Trigger.ADD_WITHOUT_DAD)
    for dst in (TEXT, world.us):  # an address that stays as the control
        assert world.feed(world.pieces(DATA, 1024, dst=dst)[0]) == []
    world.host.addresses.expire(gone, world.now, "its valid lifetime is over")
    world.run(100)
    assert [p[IPv6].src for p in only(world.sent, ICMPv6TimeExceeded)] == [world.us]


@pytest.mark.proves("ST-IP6-2", "RFC8504-5.1/2", "RFC8504-5.1/3")
def test_a_large_echo_is_answered_in_fragments(world: World) -> None:
    replies = [reply for piece in world.pieces(DATA, 1400, echo=True) for reply in world.feed(piece)]
    assert len(replies) == 3
    assert echoed(replies) == DATA


@pytest.mark.proves("UM-GEN-7", "RFC8504-5.1/5")
def test_identifications_are_not_a_counter(world: World) -> None:
    seen = []
    for _ in range(50):
        world.out.clear()
        world.host.send(world.stable.address, address(OFF_LINK), 253, [bytes(3000)], world.now)
        idents = {packet[IPv6ExtHdrFragment].id for _, packet in world.out}
        assert len(idents) == 1
        seen.append(idents.pop())
    assert len(set(seen)) == 50
    assert sum(later > earlier for earlier, later in itertools.pairwise(seen)) not in (0, 49)
