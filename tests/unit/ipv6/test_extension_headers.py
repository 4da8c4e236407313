"""Headers, chains, options: for each fault the action and the ICMPv6 code that the RFC names
(RFC 8200 §4, RFC 5095, RFC 7045, RFC 2675, RFC 8504 §5.3)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import (
    HBHOptUnknown,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ParamProblem,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Jumbo,
    Pad1,
    PadN,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet as ScapyPacket
from scapy.packet import Raw

from tapstack.events import DropReason
from tapstack.ipv6.config import HostConfig
from tests.unit.ipv6.bench import STRANGER, Receiver, checksum_is_right, one, only, to_group, to_us


class World(Receiver):
    def head(self, **fields: Any) -> ScapyPacket:
        return to_us(STRANGER, self.us, **fields)

    def problem(self, packet: ScapyPacket) -> tuple[int, int]:
        """Code and pointer of the Parameter Problem that a packet draws; also checks its form."""
        error = one(self.feed(packet), ICMPv6ParamProblem)
        assert (error[IPv6].src, error[IPv6].dst) == (self.us, STRANGER)
        assert checksum_is_right(error)
        quoted = bytes(error[ICMPv6ParamProblem].payload)
        assert bytes(packet[IPv6]).startswith(quoted)
        assert len(bytes(error[IPv6])) <= 1280
        return error[ICMPv6ParamProblem].code, error[ICMPv6ParamProblem].ptr

    def answered(self, headers: ScapyPacket) -> bool:
        """Whether an echo request behind these headers is answered; nothing else leaves."""
        replies = self.feed(headers / ICMPv6EchoRequest(data=b"payload"))
        assert only(replies, ICMPv6EchoReply) == replies
        assert [reply[ICMPv6EchoReply].data for reply in replies] in ([], [b"payload"])
        return bool(replies)


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.proves("ST-IP6-1", "RFC8504-5.2/1")
def test_headers_in_any_order_and_number_lead_to_the_upper_layer(world: World) -> None:
    """RFC 8200 §4.1: a node must accept extension headers in any order, hop-by-hop options only first."""
    kinds = {
        "destination": IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E, optdata=b"abc")]),
        "routing": IPv6ExtHdrRouting(type=0, segleft=0, addresses=[STRANGER]),
        "unknown routing": IPv6ExtHdrRouting(type=200, segleft=0),
        "atomic": IPv6ExtHdrFragment(offset=0, m=0, id=5),
    }
    for length in range(5):
        for chain in itertools.permutations(kinds, length):
            for hop_by_hop in (False, True):
                packet = world.head()
                if hop_by_hop:
                    packet = packet / IPv6ExtHdrHopByHop(options=[PadN(optdata=b"\0\0"), RouterAlert()])
                for name in chain:
                    packet = packet / kinds[name].copy()
                assert world.answered(packet.copy()), chain
                world.feed(packet / UDP(sport=1, dport=2) / Raw(b"payload"))
                received = world.delivered.pop()
                assert bytes(received.payload[8:]) == b"payload", chain
                assert received.next_header == 17
                assert received.fragmented == ("atomic" in chain)
                assert received.router_alert == hop_by_hop
    assert world.delivered == []


def chain_of(world: World, length: int, last: int = 58) -> bytes:
    """An echo request behind `length` Destination Options headers of eight bytes."""
    headers = b"".join(bytes((60 if left else last, 0, 1, 4, 0, 0, 0, 0)) for left in reversed(range(length)))
    request = IPv6(bytes(IPv6(src=STRANGER, dst=world.us) / ICMPv6EchoRequest()))
    return bytes(world.head(nh=60) / Raw(headers + bytes(request.payload)))


@pytest.mark.proves("ST-IP6-1")
def test_chains_of_any_length_are_walked(world: World) -> None:
    for length in (1, 128, 2000, 8190):
        assert one(world.feed(chain_of(world, length)), ICMPv6EchoReply)
    error = one(world.feed(chain_of(world, 8190, last=200)), ICMPv6ParamProblem)
    assert (error[ICMPv6ParamProblem].code, error[ICMPv6ParamProblem].ptr) == (1, 40 + 8189 * 8)


@pytest.mark.proves("RFC8504-5.3/2")
def test_the_length_of_chains_can_be_bounded() -> None:
    world = World(HostConfig(dad_initial_delay=0.0, extension_headers=8))
    assert one(world.feed(chain_of(world, 7)), ICMPv6EchoReply)
    assert world.feed(chain_of(world, 8)) == []
    assert world.drops(DropReason.IP_EXTENSION) == 1
    assert one(world.feed(chain_of(world, 7)), ICMPv6EchoReply)


@pytest.mark.proves("RFC8504-5.3/2")
def test_options_are_bounded_in_a_header_and_over_all_headers() -> None:
    world = World(HostConfig(dad_initial_delay=0.0, options=64))

    def chain(headers: int) -> ScapyPacket:
        packet = world.head()
        for _ in range(headers):
            packet = packet / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E) for _ in range(8)])
        return packet

    assert world.answered(chain(8))
    assert not world.answered(chain(9))
    nine = IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x1E) for _ in range(9)])
    assert not world.answered(world.head() / nine)
    assert world.drops(DropReason.IP_OPTION) == 2
    assert world.answered(chain(8))


@pytest.mark.proves("ST-IP6-1", "RFC8504-5.2/1")
@pytest.mark.parametrize("header", [IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt])
@pytest.mark.parametrize(
    ("kind", "to_node", "to_group_"),
    [
        (0x1E, "answered", "answered"),
        (0x3E, "answered", "answered"),
        (0x5E, "silent", "silent"),
        (0x9E, "problem", "problem"),
        (0xDE, "problem", "silent"),
        (0xFE, "problem", "silent"),
    ],
)
def test_unknown_options_have_the_action_of_their_two_high_bits(
    world: World, header: type[ScapyPacket], kind: int, to_node: str, to_group_: str
) -> None:
    """RFC 8200 §4.2; the pointer names the option's type byte."""
    options = header(options=[PadN(optdata=b"\0\0"), HBHOptUnknown(otype=kind, optdata=b"xyz")])
    for packet, expected in [
        (world.head() / options / ICMPv6EchoRequest(), to_node),
        (to_group(STRANGER, "ff02::1") / options.copy() / ICMPv6EchoRequest(), to_group_),
    ]:
        out = world.feed(packet)
        problems = only(out, ICMPv6ParamProblem)
        assert len(only(out, ICMPv6EchoReply)) == (expected == "answered")
        assert len(problems) == (expected == "problem")
        assert len(out) == (expected != "silent")
        if problems:
            at = problems[0][ICMPv6ParamProblem].ptr
            assert problems[0][ICMPv6ParamProblem].code == 2
            assert bytes(packet[IPv6])[at] == kind
    known = header(options=[PadN(optdata=b"\0\0")])
    assert world.answered(world.head() / known) and world.answered(to_group(STRANGER, "ff02::1") / known.copy())


def test_options_are_judged_in_their_order(world: World) -> None:
    packet = world.head() / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x5E), HBHOptUnknown(otype=0x9E)]) / UDP()
    assert world.feed(packet) == []
    packet = world.head() / IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x9E), HBHOptUnknown(otype=0x5E)]) / UDP()
    assert world.problem(packet) == (2, 42)


@pytest.mark.parametrize(
    "area",
    [
        b"\x1e\xff\0\0\0\0",  # runs over the end
        b"\x01\x04\0\0\0\1",  # padding with data
        b"\x1e\x03\0\0\0\x1e",  # cut off
    ],
)
def test_malformed_options_are_dropped_in_silence(world: World, area: bytes) -> None:
    raw = bytes(world.head(nh=60)) + b"\x11\x00" + area + bytes(UDP())
    packet = Ether(raw)
    packet[IPv6].plen = len(raw) - 54
    assert world.feed(bytes(packet)) == []
    assert world.delivered == []


@pytest.mark.proves("RFC8504-5.3/1")
@pytest.mark.parametrize("header", [IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt])
@pytest.mark.parametrize("last", [False, True])
def test_the_longest_padding_is_seven_bytes(world: World, header: type[ScapyPacket], last: bool) -> None:
    """Bytes of padding in a row count, whatever they are made of, before another option as behind it."""

    def answered(*padding: ScapyPacket) -> bool:
        length = sum(len(bytes(each)) for each in padding)
        other = HBHOptUnknown(otype=0x1E, optdata=bytes(12 - length))
        options = [other, *padding] if last else [*padding, other]
        return world.answered(world.head() / header(options=options, autopad=0))

    for seven in ([Pad1()] * 7, [PadN(optdata=bytes(5))], [PadN(optdata=bytes(3)), Pad1(), Pad1()]):
        assert answered(*seven)
        assert not answered(*seven, Pad1())
    assert not answered(PadN(optdata=bytes(6)))
    assert answered(PadN(optdata=bytes(5)))


@pytest.mark.proves("ST-IP6-1")
def test_hop_by_hop_options_elsewhere_than_first_are_an_unknown_next_header(world: World) -> None:
    packet = world.head() / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / UDP()
    assert world.problem(packet) == (1, 40)
    assert world.problem(world.head() / IPv6ExtHdrHopByHop() / IPv6ExtHdrHopByHop() / UDP()) == (1, 40)


@pytest.mark.proves("ST-IP6-1", "RFC8504-5.2/2")
@pytest.mark.parametrize("kind", [0, 2, 3, 4, 77])
def test_a_routing_header_with_segments_left_is_a_problem(world: World, kind: int) -> None:
    """RFC 8200 §4.4; type 0 is deprecated (RFC 5095) and like an unknown one."""
    routing = IPv6ExtHdrRouting(type=kind, segleft=1, addresses=[STRANGER])
    assert world.problem(world.head() / routing / UDP()) == (0, 42)
    assert world.problem(world.head() / IPv6ExtHdrDestOpt() / routing.copy() / UDP()) == (0, 50)


@pytest.mark.proves("ST-IP6-1", "RFC8504-5.2/1")
@pytest.mark.parametrize("next_header", [4, 41, 50, 51, 132, 135, 139, 140, 200, 253, 254, 255])
def test_an_unknown_next_header_is_a_problem(world: World, next_header: int) -> None:
    assert world.problem(world.head(nh=next_header) / Raw(bytes(16))) == (1, 6)
    assert world.problem(world.head() / IPv6ExtHdrDestOpt(nh=next_header) / Raw(bytes(16))) == (1, 40)


def test_no_next_header_ends_in_silence(world: World) -> None:
    assert world.feed(world.head(nh=59) / Raw(b"whatever")) == []


@pytest.mark.proves("ST-IP6-1")
def test_jumbograms_are_refused_as_an_unknown_option(world: World) -> None:
    """RFC 2675 §3: a node that does not take them knows neither the option nor a payload length of zero."""
    jumbo = IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=100)])
    packet = world.head(plen=0) / jumbo / UDP() / Raw(bytes(80))
    code, pointer = world.problem(packet)
    assert code == 2
    assert bytes(packet[IPv6])[pointer] == 0xC2
    assert world.problem(world.head() / jumbo.copy() / UDP()) == (code, pointer)
    assert world.problem(world.head(plen=0) / IPv6ExtHdrHopByHop() / UDP()) == (0, 4)
    assert world.feed(world.head(plen=0, nh=0)) == []


@pytest.mark.proves("ST-IP6-1")
def test_a_jumbogram_to_a_group_is_refused_in_silence(world: World) -> None:
    """RFC 8200 §4.2: the option's action (11) reports to the sender only where the packet was for one node."""
    jumbo = IPv6ExtHdrHopByHop(options=[Jumbo(jumboplen=100)])
    packet = to_group(STRANGER, "ff02::1", plen=0) / jumbo / UDP() / Raw(bytes(80))
    assert world.feed(packet) == []
    assert world.counters.drops[DropReason.IP_OPTION] == 1


@pytest.mark.proves("ST-IP6-1")
def test_the_payload_length_rules(world: World) -> None:
    padded = bytes(world.head() / UDP(sport=1, dport=2) / Raw(b"1234")) + bytes(30)  # Ethernet padding
    world.feed(padded)
    assert bytes(world.delivered.pop().payload[8:]) == b"1234"
    assert world.feed(world.head(plen=200) / UDP() / Raw(b"1234")) == []
    assert world.drops(DropReason.IP_TRUNCATED) == 1
    assert world.problem(world.head(plen=0, nh=200)) == (1, 6)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"version": 4}, DropReason.IP_VERSION),
        ({"src": "ff02::1"}, DropReason.IP_BAD_SOURCE),
        ({"src": "::1"}, DropReason.IP_BAD_SOURCE),
        ({"src": "::"}, DropReason.IP_BAD_SOURCE),
        ({"dst": "::"}, DropReason.IP_NOT_OURS),
        ({"dst": "::1"}, DropReason.IP_NOT_OURS),
        ({"dst": "2001:db8:1::dead"}, DropReason.IP_NOT_OURS),
        ({"dst": "ff01::1"}, DropReason.IP_SCOPE),
        ({"dst": "ff00::1"}, DropReason.IP_SCOPE),
        ({"dst": "ff05::2"}, DropReason.IP_NOT_OURS),
        ({"src": "own"}, DropReason.IP_BAD_SOURCE),
    ],
)
@pytest.mark.proves("ST-LINK-5", by="api")
def test_what_the_fixed_header_rules_out_is_counted(world: World, change: dict[str, Any], reason: DropReason) -> None:
    if change.get("src") == "own":
        change = {"src": world.us}
    packet = world.head() / UDP()
    for name, value in change.items():
        setattr(packet[IPv6], name, value)
    data = bytearray(bytes(packet))
    assert world.feed(bytes(data)) == []
    assert world.delivered == []
    assert dict(world.counters.drops) == {reason: 1}


@pytest.mark.parametrize("length", range(60))
def test_every_truncation_is_survived(world: World, length: int) -> None:
    whole = bytes(world.head() / IPv6ExtHdrDestOpt() / ICMPv6EchoRequest())
    assert world.feed(whole[:length]) == []


@pytest.mark.proves("ST-IP6-3", "RFC8504-5.8/1")
def test_no_error_about_an_error_a_group_or_a_broadcast(world: World) -> None:
    """RFC 4443 §2.4 (e)."""
    bad = IPv6ExtHdrDestOpt(options=[HBHOptUnknown(otype=0x9E)])
    error = ICMPv6ParamProblem() / IPv6(src=world.us, dst=STRANGER) / UDP()
    assert world.feed(world.head() / bad / error) == []
    redirect = Raw(b"\x89\0\0\0" + bytes(36))
    assert world.feed(world.head() / IPv6ExtHdrDestOpt(nh=58, options=[HBHOptUnknown(otype=0x9E)]) / redirect) == []
    assert only(world.feed(world.head() / bad.copy() / ICMPv6EchoRequest()), ICMPv6ParamProblem)
    group = world.head(nh=200) / Raw(bytes(8))
    assert world.problem(group) == (1, 6)
    group[Ether].dst = "33:33:00:00:00:01"
    assert world.feed(group) == []
    group[Ether].dst = "ff:ff:ff:ff:ff:ff"
    assert world.feed(group) == []
    assert world.feed(to_group(STRANGER, "ff02::1", nh=200) / Raw(bytes(8))) == []
    unspecified = world.head(nh=60) / IPv6ExtHdrDestOpt(nh=58, options=[HBHOptUnknown(otype=0x9E)])
    unspecified[IPv6].src = "::"
    assert world.feed(unspecified / ICMPv6EchoRequest()) == []


@pytest.mark.proves("ST-IP6-3")
def test_errors_and_echoes_are_rate_limited(world: World) -> None:
    config = world.host.config
    unknown, ping = bytes(world.head(nh=200) / Raw(bytes(8))), bytes(world.head() / ICMPv6EchoRequest())
    for _ in range(1000):
        world.feed(unknown)
        world.feed(ping)
    sent = world.sent
    assert len(only(sent, ICMPv6ParamProblem)) == config.icmp_error_burst
    assert len(only(sent, ICMPv6EchoReply)) == config.echo_burst
    world.out.clear()
    world.run(10)
    for _ in range(1000):
        world.feed(unknown)
    assert len(only(world.sent, ICMPv6ParamProblem)) == config.icmp_error_burst
    assert world.drops(DropReason.ICMP_RATE_LIMIT) > 1000


@pytest.mark.proves("ST-IP6-3")
def test_a_quote_is_cut_to_the_minimum_mtu(world: World) -> None:
    error = one(world.feed(world.head(nh=200) / Raw(bytes(1400))), ICMPv6ParamProblem)
    assert len(bytes(error[IPv6])) == 1280
