"""UDP flows: datagrams, ports, errors, silence (RFC 768, RFC 8200 §8.1, UM-DAS-6, UM-EA-1)."""

from __future__ import annotations

import itertools

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6ND_NA, ICMPv6PacketTooBig, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressEntry, AddressError, AddressKind
from tapstack.ipv6.packet import NoRouteError
from tapstack.signals import Signal
from tapstack.types import DYNAMIC_PORTS, address
from tapstack.udp.flow import MAXIMUM_DATA, QUEUE_DATAGRAMS, FlowClosed
from tapstack.udp.layer import PortInUseError, Udp
from tests.unit.ipv6.bench import (
    PREFIX,
    ROUTER,
    STRANGER,
    Bench,
    checksum_is_right,
    group_of,
    one,
    only,
    records,
    solicitation,
    to_us,
)

SERVER = "2001:db8:ffff::53"


class World(Bench):
    """A bench with UDP, a stable address and one ephemeral address."""

    def __init__(self) -> None:
        super().__init__()
        self.udp = Udp(self.host)
        self.settle()
        self.teach(STRANGER)

    def taken(self, text: str = PREFIX + "abcd:1234:5678") -> AddressEntry:
        entry = self.reserve(text)
        self.host.addresses.take(entry, AddressKind.EPHEMERAL, self.now, "flow")
        self.out.clear()
        return entry


@pytest.fixture
def world() -> World:
    return World()


def datagram(src: str, dst: bytes, sport: int, dport: int, data: bytes, **fields: int) -> IPv6:
    from tapstack.types import address_text

    return to_us(src, address_text(dst)) / UDP(sport=sport, dport=dport, **fields) / Raw(data)


@pytest.mark.proves("ST-IP6-11")
def test_a_datagram_leaves_with_a_right_checksum(world: World) -> None:
    flow = world.udp.open(world.stable, world.now, address(SERVER), 53)
    flow.send(b"query", world.now)
    sent = one(world.sent, UDP)
    assert (sent[UDP].sport, sent[UDP].dport, bytes(sent[UDP].payload)) == (flow.local_port, 53, b"query")
    assert flow.local_port in DYNAMIC_PORTS
    assert checksum_is_right(sent)


@pytest.mark.proves("ST-IP6-11", by="api")
@pytest.mark.parametrize("checksum", [0, 0x1234])
def test_a_missing_or_wrong_checksum_is_dropped(world: World, checksum: int) -> None:
    flow = world.udp.open(world.stable, world.now, address(SERVER), 53)
    world.feed(datagram(SERVER, world.stable.address, 53, flow.local_port, b"answer"))
    assert flow.receive() == (b"answer", address(SERVER), 53)
    world.feed(datagram(SERVER, world.stable.address, 53, flow.local_port, b"answer", chksum=checksum))
    assert flow.receive() is None
    assert world.drops(DropReason.CHECKSUM) == 1


@pytest.mark.proves("ST-IP6-11", by="api")
def test_a_zero_checksum_is_refused_even_where_the_sum_is_zero(world: World) -> None:
    """RFC 8200 §8.1: zero means that there is none; the datagram whose sum is zero says 0xFFFF."""
    flow = world.udp.open(world.stable, world.now, address(SERVER), 53)
    for value in range(65536):
        packet = datagram(SERVER, world.stable.address, 53, flow.local_port, value.to_bytes(2, "big"))
        if UDP(bytes(packet[UDP])).chksum == 0xFFFF:
            break
    else:
        pytest.fail("no payload sums up to zero")
    world.feed(packet)
    assert flow.receive() is not None
    packet[UDP].chksum = 0
    world.feed(packet)
    assert flow.receive() is None


def test_an_all_zero_checksum_is_sent_as_ones() -> None:
    world = World()
    flow = world.udp.open(world.stable, world.now, address(SERVER), 53)
    sums = set()
    for value in range(65536):
        flow.send(value.to_bytes(2, "big"), world.now)
        if world.out:
            sums.add(world.out[-1][1][UDP].chksum)
        if 0xFFFF in sums:
            break
        world.out.clear()
    assert 0xFFFF in sums
    assert 0 not in sums


@pytest.mark.proves("UM-DAS-6")
def test_a_flow_ends_its_one_time_address(world: World) -> None:
    entry = world.taken()
    flow = world.udp.open(entry, world.now, address(SERVER), 53)
    flow.send(b"query", world.now)
    text = PREFIX + "abcd:1234:5678"
    assert one(world.sent, UDP)[IPv6].src == text
    assert one(world.feed(solicitation(text)), ICMPv6ND_NA)
    flow.close(world.now)
    assert only(world.feed(solicitation(text)), ICMPv6ND_NA) == []
    assert (3, group_of(text)) in records(world.sent)
    assert entry.state == "INVALID"
    assert entry.address not in world.host.addresses
    with pytest.raises(FlowClosed):
        flow.send(b"again", world.now)
    flow.close(world.now)


@pytest.mark.proves("UM-EA-1")
def test_a_one_time_address_is_silent_to_strangers(world: World) -> None:
    entry = world.taken()
    flow = world.udp.open(entry, world.now, address(SERVER), 53)
    assert world.feed(datagram(STRANGER, entry.address, 1, flow.local_port, b"?")) == []
    assert world.feed(datagram(STRANGER, entry.address, 1, 9, b"?")) == []
    # The control: an ordinary address answers the same stranger.
    error = one(world.feed(datagram(STRANGER, world.stable.address, 1, 9, b"?")), ICMPv6DestUnreach)
    assert (error[ICMPv6DestUnreach].code, error[IPv6].dst) == (4, STRANGER)
    assert flow.receive() is None
    # Not even its peer gets a Port Unreachable from a one-time address.
    world.teach(SERVER, "02:00:00:00:00:53")
    assert world.feed(datagram(SERVER, entry.address, 53, 9, b"?")) == []


@pytest.mark.proves("UM-GEN-7")
def test_ports_and_labels_of_flows_are_drawn_independently(world: World) -> None:
    flows = [world.udp.open(world.stable, world.now, address(SERVER), 53) for _ in range(200)]
    for flow in flows:
        flow.send(b"x", world.now)
    sent = only(world.sent, UDP)
    assert len({packet[UDP].sport for packet in sent}) == 200
    assert len({packet[IPv6].fl for packet in sent}) > 190
    ports = [packet[UDP].sport for packet in sent]
    steps = [abs(one - other) for one, other in itertools.pairwise(ports)]
    assert sum(step < 64 for step in steps) < 10


def test_an_unconnected_flow_talks_to_anybody_and_serves_whom_it_asked(world: World) -> None:
    flow = world.udp.open(world.stable, world.now, local_port=5353)
    world.feed(datagram(STRANGER, world.stable.address, 777, 5353, b"hello"))
    received = flow.receive()
    assert received == (b"hello", address(STRANGER), 777)
    assert not flow.serves(address(STRANGER))
    flow.send(b"hi", world.now, received.remote, received.remote_port)
    assert flow.serves(address(STRANGER))
    with pytest.raises(ValueError, match="destination"):
        flow.send(b"hi", world.now)


def test_the_flow_with_four_values_comes_before_the_one_with_two(world: World) -> None:
    anybody = world.udp.open(world.stable, world.now, local_port=5353)
    peer = world.udp.open(world.stable, world.now, address(STRANGER), 777, local_port=5353)
    world.feed(datagram(STRANGER, world.stable.address, 777, 5353, b"to the peer"))
    world.feed(datagram(STRANGER, world.stable.address, 778, 5353, b"to anybody"))
    first, second = peer.receive(), anybody.receive()
    assert first is not None and first.data == b"to the peer"
    assert second is not None and second.data == b"to anybody"
    with pytest.raises(PortInUseError):
        world.udp.open(world.stable, world.now, address(STRANGER), 777, local_port=5353)


def test_the_receive_queue_is_bounded(world: World) -> None:
    flow = world.udp.open(world.stable, world.now, local_port=5353)
    packet = bytes(datagram(STRANGER, world.stable.address, 777, 5353, b"x"))
    for _ in range(QUEUE_DATAGRAMS + 10):
        world.feed(packet)
    assert world.drops(DropReason.UDP_QUEUE) == 10
    assert sum(flow.receive() is not None for _ in range(QUEUE_DATAGRAMS + 10)) == QUEUE_DATAGRAMS


def test_signals_reach_whoever_drives_the_stack(world: World) -> None:
    flow = world.udp.open(world.stable, world.now, local_port=5353)
    world.feed(datagram(STRANGER, world.stable.address, 777, 5353, b"x"))
    world.feed(datagram(STRANGER, world.stable.address, 777, 5353, b"y"))
    assert list(world.udp.signalled) == [flow]
    assert flow.signals == Signal.READABLE


@pytest.mark.proves("ST-IP6-3", by="api")
def test_errors_reach_their_flow_and_no_other(world: World) -> None:
    flow = world.udp.open(world.stable, world.now, address(SERVER), 53)
    flow.send(b"query", world.now)
    quoted = Raw(bytes(one(world.sent, UDP)[IPv6]))
    from tapstack.types import address_text

    ours = address_text(world.stable.address)
    world.feed(to_us(ROUTER, ours) / ICMPv6DestUnreach(code=0) / quoted)
    errors = flow.take_errors()
    assert [(error.type, error.code, error.dst) for error in errors] == [(1, 0, address(SERVER))]
    assert flow.signals & Signal.TROUBLE
    forged = bytearray(bytes(quoted))
    forged[40:42] = (flow.local_port ^ 1).to_bytes(2, "big")
    world.feed(to_us(ROUTER, ours) / ICMPv6DestUnreach(code=0) / Raw(bytes(forged)))
    assert flow.take_errors() == []
    assert world.drops(DropReason.ICMP_UNMATCHED) == 1


@pytest.mark.proves("ST-IP6-8", "ST-IP6-2")
def test_packet_too_big_for_a_flow_makes_fragments_of_the_right_size(world: World) -> None:
    from tapstack.types import address_text

    flow = world.udp.open(world.stable, world.now, address(SERVER), 53)
    flow.send(bytes(1400), world.now)
    quoted = Raw(bytes(one(world.sent, UDP)[IPv6])[:1232])
    ours = address_text(world.stable.address)
    world.feed(to_us(ROUTER, ours) / ICMPv6PacketTooBig(mtu=1300) / quoted)
    assert world.host.path(address(SERVER), world.now).mtu == 1300
    world.out.clear()
    flow.send(bytes(range(256)) * 6, world.now)
    pieces = only(world.sent, IPv6ExtHdrFragment)
    assert [len(bytes(piece[IPv6])) <= 1300 for piece in pieces] == [True] * len(pieces)
    whole = b"".join(bytes(piece[IPv6ExtHdrFragment].payload) for piece in pieces)
    assert whole[8:] == bytes(range(256)) * 6
    assert len({piece[IPv6ExtHdrFragment].id for piece in pieces}) == 1


@pytest.mark.parametrize("nobodys", ["::", "::1"])
def test_a_flow_to_anybody_reaches_groups_but_not_the_loopback(world: World, nobodys: str) -> None:
    anybody = world.udp.open(world.stable, world.now)
    world.out.clear()
    with pytest.raises(ValueError, match=f"no datagram goes to {nobodys}$"):
        anybody.send(b"", world.now, address(nobodys), 53)
    assert not world.out
    anybody.send(b"", world.now, address("ff02::fb"), 5353)
    assert one([packet for _, packet in world.out], UDP)[IPv6].dst == "ff02::fb"


def test_bad_calls_have_their_errors(world: World) -> None:
    with pytest.raises(ValueError, match="address and a port"):
        world.udp.open(world.stable, world.now, address(SERVER))
    for nobodys in ("ff02::1", "::", "::1"):
        with pytest.raises(ValueError, match="unicast"):
            world.udp.open(world.stable, world.now, address(nobodys), 5)
    tentative = world.reserve(PREFIX + "1:2:3:4", settle=False)
    with pytest.raises(AddressError, match="TENTATIVE"):
        world.udp.open(tentative, world.now, address(SERVER), 53)
    flow = world.udp.open(world.stable, world.now, address(SERVER), 53)
    with pytest.raises(ValueError, match="carries up to"):
        flow.send(bytes(MAXIMUM_DATA + 1), world.now)
    with pytest.raises(ValueError, match="another peer"):
        flow.send(b"", world.now, address(STRANGER), 53)
    anybody = world.udp.open(world.stable, world.now)
    with pytest.raises(ValueError, match="65536 is no port"):
        anybody.send(b"", world.now, address(STRANGER), 65536)
    assert not anybody.serves(address(STRANGER)), "who cannot be sent to is no peer"
    world.run(1801)
    with pytest.raises(NoRouteError):
        flow.send(b"", world.now)


def test_an_expired_address_ends_its_flows(world: World) -> None:
    entry = world.taken()
    flow = world.udp.open(entry, world.now, address(SERVER), 53)
    world.host.addresses.expire(entry, world.now, "test")
    assert flow.closed
    assert flow.signals & Signal.CLOSED
    assert len(world.udp) == 0


def test_closing_the_layer_ends_all_flows(world: World) -> None:
    flows = [world.udp.open(world.stable, world.now, address(SERVER), port) for port in range(1, 20)]
    world.udp.close(world.now)
    assert all(flow.closed for flow in flows)
    assert not world.stable.users
    assert world.stable.state == "PREFERRED"
