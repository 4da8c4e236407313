"""ICMPv6 errors in: whose they are, and path MTUs (RFC 4443 §2.4, RFC 8201)."""

from __future__ import annotations

from itertools import product

import pytest
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NS,
    ICMPv6NDOptMTU,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    defragment6,
)
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tapstack.events import DropReason
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.packet import IcmpError
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import (
    OFF_LINK,
    PREFIX,
    ROUTER_MAC,
    STRANGER,
    Bench,
    advertisement,
    one,
    only,
    to_group,
    to_us,
)

EXPERIMENT = 253
ROUTER_AWAY = "2001:db8:cccc::1"


class World(Bench):
    def __init__(self, config: HostConfig | None = None, **options: bool) -> None:
        super().__init__(config or HostConfig(dad_initial_delay=0.0), **options)  # type: ignore[arg-type]
        self.settle()
        self.us = address_text(self.stable.address)
        self.heard: list[IcmpError] = []
        self.believe = False
        self.host.errors[EXPERIMENT] = self.hear

    def hear(self, error: IcmpError, now: float) -> None:
        """A protocol that finds quoted packets genuine when `believe` is set."""
        self.heard.append(error)
        if self.believe:
            self.host.accept_path_mtu(error, now)

    def quoted(self, src: str | None = None, dst: str = OFF_LINK, nh: int = EXPERIMENT) -> ScapyPacket:
        return IPv6(src=src or self.us, dst=dst, nh=nh) / Raw(b"12345678 quoted")

    def too_big(self, mtu: int, dst: str = OFF_LINK) -> None:
        self.feed(to_us(ROUTER_AWAY, self.us) / ICMPv6PacketTooBig(mtu=mtu) / self.quoted(dst=dst))


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.proves("ST-IP6-3", "RFC8504-5.8/1", by="api")
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (ICMPv6DestUnreach(code=1), (1, 1, 0)),
        (ICMPv6PacketTooBig(mtu=1400), (2, 0, 1400)),
        (ICMPv6TimeExceeded(code=0), (3, 0, 0)),
        (ICMPv6ParamProblem(code=0, ptr=7), (4, 0, 7)),
        (ICMPv6Unknown(type=100, code=5, msgbody=bytes(4)), (100, 5, 0)),  # RFC 4443 §2.4 (a): handed up too
    ],
)
@pytest.mark.parametrize("chain", [False, True])
def test_errors_are_handed_to_the_protocol_that_they_quote(
    world: World, message: ScapyPacket, expected: tuple[int, int, int], chain: bool
) -> None:
    quoted = world.quoted()
    if chain:
        quoted = IPv6(src=world.us, dst=OFF_LINK) / IPv6ExtHdrDestOpt(nh=EXPERIMENT) / Raw(b"12345678 quoted")
    if isinstance(message, ICMPv6Unknown):
        message = ICMPv6Unknown(type=100, code=5, msgbody=bytes(4) + bytes(quoted))
        world.feed(to_us(ROUTER_AWAY, world.us) / message)
    else:
        world.feed(to_us(ROUTER_AWAY, world.us) / message / quoted)
    (error,) = world.heard
    assert (error.type, error.code, error.info) == expected
    assert (error.src, error.dst, error.reporter) == (world.stable.address, address(OFF_LINK), address(ROUTER_AWAY))
    assert error.next_header == EXPERIMENT
    assert bytes(error.payload) == b"12345678 quoted"


@pytest.mark.proves("ST-IP6-3", by="api")
def test_errors_that_are_nobodys_are_counted(world: World) -> None:
    head = to_us(ROUTER_AWAY, world.us)
    world.feed(head / ICMPv6DestUnreach() / world.quoted(src=STRANGER))
    world.feed(head / ICMPv6DestUnreach() / world.quoted(nh=132))
    later = IPv6(src=world.us, dst=OFF_LINK) / IPv6ExtHdrFragment(nh=EXPERIMENT, offset=9) / Raw(bytes(16))
    world.feed(head / ICMPv6DestUnreach() / later)
    reserved = world.reserve(PREFIX + "abcd:1234:5678")
    world.feed(head / ICMPv6DestUnreach() / world.quoted(src=address_text(reserved.address)))
    assert world.drops(DropReason.ICMP_UNMATCHED) == 4
    world.feed(head / ICMPv6DestUnreach() / IPv6(src=world.us, dst=OFF_LINK, nh=EXPERIMENT) / Raw(bytes(7)))
    world.feed(head / ICMPv6DestUnreach() / Raw(bytes(39)))
    world.feed(head / ICMPv6DestUnreach())
    world.feed(head / ICMPv6Unknown(type=1, msgbody=b""))
    assert world.drops(DropReason.ICMP_MALFORMED) == 4
    world.feed(head / ICMPv6Unknown(type=201, msgbody=bytes(8)))
    assert world.drops(DropReason.ICMP_UNKNOWN) == 1
    world.feed(head / ICMPv6DestUnreach(cksum=77) / world.quoted())
    assert world.drops(DropReason.CHECKSUM) == 1
    assert world.heard == []
    assert world.out == []


@pytest.mark.proves("ST-IP6-8", by="api")
def test_a_packet_too_big_changes_nothing_until_its_protocol_believes_it(world: World) -> None:
    path = world.host.path(address(OFF_LINK), world.now)
    world.too_big(1300)
    assert len(world.heard) == 1
    assert path.mtu == 1500
    world.believe = True
    world.too_big(1300)
    assert path.mtu == 1300
    assert world.host.path(address("2001:db8:ffff::2"), world.now).mtu == 1500  # per destination
    world.too_big(1400)
    assert path.mtu == 1300  # never larger
    for mtu in (1279, 68, 0):
        world.too_big(mtu)  # below the IPv6 minimum: not believed (RFC 8201 §4)
    assert path.mtu == 1300
    world.too_big(1280)
    assert path.mtu == 1280


@pytest.mark.proves("ST-IP6-8", by="api")
def test_a_path_mtu_is_forgotten_after_ten_minutes(world: World) -> None:
    world.believe = True
    path = world.host.path(address(OFF_LINK), world.now)
    other = world.host.path(address("2001:db8:ffff::2"), world.now)
    world.too_big(1300)
    world.run(300)
    world.too_big(1400, "2001:db8:ffff::2")
    world.run(299)
    assert (path.mtu, other.mtu) == (1300, 1400)
    world.run(2)
    assert (path.mtu, other.mtu) == (1500, 1400)
    world.run(300)
    assert other.mtu == 1500
    assert len(world.host.routes.mtus) == 0


@pytest.mark.proves("ST-IP6-8", by="api")
def test_path_mtus_are_bounded() -> None:
    world = World(HostConfig(dad_initial_delay=0.0, path_mtus=100))
    world.believe = True
    kept = world.host.path(address("2001:db8:ffff::0"), world.now)
    for number in range(500):
        world.too_big(1300, f"2001:db8:ffff::{number:x}")
    assert len(world.host.routes.mtus) == 100
    assert kept.mtu == 1500  # the oldest was forgotten
    assert world.host.path(address("2001:db8:ffff::1f3"), world.now).mtu == 1300


def test_a_smaller_link_mtu_bounds_all_paths(world: World) -> None:
    world.believe = True
    path = world.host.path(address(OFF_LINK), world.now)
    world.too_big(1450)
    world.feed(advertisement(ICMPv6NDOptMTU(mtu=1400)))
    assert path.mtu == 1400
    world.feed(advertisement(ICMPv6NDOptMTU(mtu=1500)))
    assert path.mtu == 1450


@pytest.mark.proves("ST-IP6-3", "RFC8504-5.8/1", "RFC8504-6.1/1")
def test_echo(world: World) -> None:
    world.teach(STRANGER)
    request = ICMPv6EchoRequest(id=77, seq=3, data=b"hello")
    reply = one(world.feed(to_us(STRANGER, world.us) / request), ICMPv6EchoReply)
    assert (reply[IPv6].src, reply[IPv6].dst) == (world.us, STRANGER)
    assert (reply[ICMPv6EchoReply].id, reply[ICMPv6EchoReply].seq, reply[ICMPv6EchoReply].data) == (77, 3, b"hello")
    world.teach("fe80::66", "02:00:00:00:00:66")
    reply = one(world.feed(to_group("fe80::66", "ff02::1") / request), ICMPv6EchoReply)
    assert reply[IPv6].src == world.link_local
    assert only(world.feed(to_us("::", world.us) / request), ICMPv6EchoReply) == []
    assert only(world.feed(to_us(world.us, world.us) / request), ICMPv6EchoReply) == []


def test_echo_replies_go_to_whoever_asked(world: World) -> None:
    heard = []
    world.feed(to_us(STRANGER, world.us) / ICMPv6EchoReply(id=5, seq=6))
    assert world.drops(DropReason.ICMP_UNMATCHED) == 1
    world.host.icmp.on_echo_reply = lambda packet, message, now: heard.append((packet.src, bytes(message.body)))
    world.feed(to_us(STRANGER, world.us) / ICMPv6EchoReply(id=5, seq=6))
    assert heard == [(address(STRANGER), b"\x00\x05\x00\x06")]


@pytest.mark.parametrize("vnet", [False, True])
def test_frames_carry_a_virtio_header_exactly_where_the_link_has_one(vnet: bool) -> None:
    world = World(vnet=vnet)
    world.teach(STRANGER)
    assert one(world.feed(to_us(STRANGER, world.us) / ICMPv6EchoRequest()), ICMPv6EchoReply)
    trusted = []
    world.host.upper[17] = lambda packet, now: trusted.append((packet.checksum_trusted, packet.gso_size))
    datagram = to_us(STRANGER, world.us, nh=17) / Raw(bytes(8))
    world.feed(datagram, virtio=b"\x01\x00" + bytes(8))
    world.feed(datagram, virtio=b"\x02\x04\x00\x00\xdc\x05" + bytes(4))
    world.feed(datagram)
    assert trusted == ([(True, 0), (True, 1500), (False, 0)] if vnet else [(False, 0)] * 3)


def test_multicast_paths_need_no_neighbour(world: World) -> None:
    path = world.host.path(address("ff02::fb"), world.now)
    assert path.ready(world.now) == bytes.fromhex("3333000000fb02000000000186dd")
    assert path.hop_limit == 1
    path.confirm(world.now)
    world.host.send(world.stable.address, address("ff02::fb"), EXPERIMENT, [bytes(8)], world.now)
    assert world.out[-1][1][IPv6].hlim == 1
    assert path.next_hop == address("ff02::fb")


@pytest.mark.proves("RFC8504-5.7.1/1", "ST-IP6-3")
def test_an_echo_reply_fits_the_path_once_that_is_known(world: World) -> None:
    """RFC 8201 §4; what anybody can claim, as nothing is kept of a reply, changes no other packet."""

    def replies() -> list[ScapyPacket]:
        asked = to_us(OFF_LINK, world.us, ROUTER_MAC) / ICMPv6EchoRequest(id=77, seq=3, data=bytes(1400))
        frames = [packet[IPv6] for packet in world.feed(asked) if packet[IPv6].dst == OFF_LINK]
        whole = defragment6(frames) if len(frames) > 1 else frames[0]
        assert bytes(whole.payload)[4:] == bytes((0, 77, 0, 3)) + bytes(1400)
        return frames

    def too_big(mtu: int, quoted: bytes) -> None:
        world.feed(to_us(ROUTER_AWAY, world.us) / ICMPv6PacketTooBig(mtu=mtu) / quoted[:1232])

    (whole,) = replies()
    too_big(1279, bytes(whole))
    assert len(replies()) == 1
    too_big(1300, bytes(whole))
    first, _ = replies()
    assert len(first) <= 1300
    too_big(1280, bytes(first))
    assert max(len(each) for each in replies()) <= 1280
    assert world.host.path(address(OFF_LINK), world.now).mtu == 1500
    assert world.drops(DropReason.ICMP_UNMATCHED) == 1
    world.run(601)
    assert len(replies()) == 1  # the link's is tried again


def test_what_quotes_other_icmpv6_messages_of_ours_is_nobodys(world: World) -> None:
    for number, (error, quoted) in enumerate(
        product(
            (ICMPv6PacketTooBig(mtu=1280), ICMPv6DestUnreach()),
            (ICMPv6EchoRequest(), ICMPv6ND_NS(tgt=STRANGER), ICMPv6EchoReply()),
        ),
    ):
        if (type(error), type(quoted)) != (ICMPv6PacketTooBig, ICMPv6EchoReply):
            before = world.drops(DropReason.ICMP_UNMATCHED)
            world.feed(to_us(ROUTER_AWAY, world.us) / error / IPv6(src=world.us, dst=STRANGER) / quoted)
            assert world.drops(DropReason.ICMP_UNMATCHED) == before + 1, number
