"""What RFC 8504 asks beyond the numbered requirements, and what its table says of what is left undone."""

from __future__ import annotations

import random
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import LinkProperties
from tapstack.stack import Stack
from tapstack.tcp.options import SocketOptions
from tapstack.types import address, address_text
from tapstack.udp.layer import Udp
from tests.plugins import taps
from tests.plugins.requirements import load_table, load_tables
from tests.unit.ipv6.bench import STRANGER, Bench, group_of, one, only, records, settled, to_group
from tests.unit.tcp.pair import Pair

ROOT = Path(__file__).parents[2]


@pytest.mark.proves("RFC8504-5.1/6")
def test_every_connection_writes_one_flow_label_of_its_own() -> None:
    """RFC 6437: every packet of a flow carries the same label, and labels of flows are spread over 20 bits."""
    labels = set()
    for number in range(8):
        pair = Pair(start=100.0 + number)
        pair.a.address = pair.a.address[:15] + bytes([number])
        client, _ = pair.connect(SocketOptions())
        client.write(bytes(5000))
        pair.run(1)
        sent = [IPv6(packet).fl for _, who, packet in pair.packets if who == "a"]
        assert len(sent) >= 5
        assert len(set(sent)) == 1
        labels.add(sent[0])
    assert 0 not in labels
    assert len(labels) == 8


@pytest.mark.proves("RFC8504-11.1", by="api")
def test_addresses_are_written_in_the_recommended_form(rng: random.Random) -> None:
    """RFC 5952, with Python's ipaddress as the oracle; zero groups are made as frequent as they are on paper."""
    for _ in range(500):
        packed = b"".join(rng.choice((b"\0\0", b"\0\1", rng.randbytes(2))) for _ in range(8))
        assert address_text(packed) == str(IPv6Address(packed))


@pytest.fixture
def bench() -> Bench:
    return settled()


@pytest.mark.proves("RFC8504-6.1/2")
@pytest.mark.parametrize(
    "group",
    [
        "ff7e:140:2001:db8:ffff:ffff:1:2",  # with an embedded RP: the flags R, P and T
        "ff3e:f040:2001:db8:ffff:ffff:1:2",  # from a prefix, and with the four flags that were the first reserved bits
        "fffe:ff40:2001:db8:ffff:ffff:1:2",  # with the one that has no meaning yet
    ],
)
def test_the_flags_of_a_group_are_bits_of_its_address_and_no_reason_to_refuse_it(bench: Bench, group: str) -> None:
    """RFC 7371: none must be zero, and none changes the scope; groups that differ in one are two."""
    bench.host.multicast.join(address(group), bench.now, ordinary=True)
    bench.run(2)
    assert group in {joined for _, joined in records([packet for _, packet in bench.out])}
    one(bench.feed(to_group(STRANGER, group) / ICMPv6EchoRequest()), ICMPv6EchoReply)
    text = bytearray(address(group))
    for byte, bit in ((1, 0x10), (1, 0x20), (1, 0x40), (1, 0x80), (2, 0x10), (2, 0x80)):
        other = text.copy()
        other[byte] ^= bit
        assert bench.feed(to_group(STRANGER, address_text(bytes(other))) / ICMPv6EchoRequest()) == []
    one(bench.feed(to_group(STRANGER, group) / ICMPv6EchoRequest()), ICMPv6EchoReply)


@pytest.mark.proves("RFC8504-6.1/1")
def test_a_node_hears_the_groups_that_every_node_joins_within_their_scope(bench: Bench) -> None:
    """RFC 4291 §2.7.1, §2.8: all nodes of the link, and its own solicited-node groups, but for the first one reported."""
    ours = [bench.link_local, address_text(bench.stable.address)]
    own = [group_of(each) for each in ours]
    bench.host.link_down(bench.now)
    bench.host.link_up(bench.now)
    bench.run(10)
    assert set(own) <= {group for _, group in records(bench.sent)}
    assert "ff02::1" not in {group for _, group in records(bench.sent)}

    def answered(source: str, group: str) -> list[str]:
        bench.teach(source)
        replies = bench.feed(to_group(source, group) / ICMPv6EchoRequest())
        return [reply[IPv6].src for reply in only(replies, ICMPv6EchoReply)]

    # Of interface scope, reserved, of routers, of a wider scope, and of another address.
    for group in ("ff01::1", "ff00::1", "ff02::2", "ff05::1", group_of("2001:db8:1::bad")):
        assert answered(STRANGER, group) == []
        assert answered("fe80::66", group) == []
    for group in ("ff02::1", *own):
        assert [answered("fe80::66", group), answered(STRANGER, group)] == [[each] for each in ours]


@pytest.mark.proves("RFC8504-5.7.2")
def test_a_datagram_is_cut_only_where_it_does_not_fit_the_link(bench: Bench) -> None:
    """RFC 8504 §5.7.2: not to 1280 bytes, though every path takes them."""
    flow = Udp(bench.host).open(bench.stable, bench.now, address("2001:db8:ffff::53"), 53)
    fits = 1500 - 40 - 8
    bench.out.clear()
    flow.send(bytes(fits), bench.now)
    whole = one([packet for _, packet in bench.out], UDP)
    assert IPv6ExtHdrFragment not in whole and len(bytes(whole[IPv6])) == 1500
    bench.out.clear()
    flow.send(bytes(fits + 1), bench.now)
    pieces = only([packet for _, packet in bench.out], IPv6ExtHdrFragment)
    assert len(pieces) == 2 and len(bytes(pieces[0][IPv6])) > 1500 - 8


@pytest.mark.proves("RFC8504-5.8/1", "RFC8504-5.8/2")
@pytest.mark.parametrize("told", [False, True], ids=["no error", "an error"])
def test_an_error_with_an_extension_structure_is_heard_as_any_other(told: bool) -> None:
    """RFC 4884 §4.4: its length field is no part of the code, nor what lies behind the quoted packet; the SYN is not repeated."""
    tap = taps.world("tun", taps.RAW_IP)
    stack = Stack(LinkProperties(mtu=1500, mac=None), bytes(32), HostConfig(solicit_routers=False))
    now, sent = 10.0, list[bytes]()

    def until(when: float) -> None:
        nonlocal now
        while True:
            stack.advance(now)
            for frame in stack.output(now):
                sent.append(b"".join(frame))
                tap.sent(now, "host", sent[-1])
            due = stack.deadline()
            if due is None or due > when:
                now = when
                return
            now = max(now, due)

    stack.start(now)
    prefix = stack.host.prefix_list.add_dedicated(address("2001:db8:d::"), 64)
    entry = stack.host.reserve(address("2001:db8:d::1"), prefix, now, AddressKind.EPHEMERAL)
    stack.tcp.connect(entry, address("2001:db8:e::2"), 80, now, SocketOptions())
    until(10.5)
    [syn] = [packet for packet in sent if packet[6] == 6]
    if told:
        extension = bytes((0x20, 0, 0, 0, 0, 8, 1, 1)) + bytes(4)  # version 2, and one object
        error = ICMPv6DestUnreach(code=4, length=128 // 8) / Raw(syn.ljust(128, b"\0") + extension)
        packet = bytes(IPv6(src="2001:db8:f::1", dst="2001:db8:d::1") / error)
        tap.arrived(now, packet)
        stack.input(packet, now)
    until(20.0)
    assert (len([packet for packet in sent if packet[6] == 6]) > 1) is not told


def test_no_rule_names_its_tests() -> None:
    """They name the rule, with a marker that says how they judge (docs/conformance.md)."""
    known = {"id", "spec", "section", "text", "not_applicable", "deviation", "reason", "source", "through"}
    for row in load_tables():
        assert row.keys() <= known, row["id"]


def test_what_is_recommended_and_not_taken_up_says_so() -> None:
    """A SHOULD is "not applicable" only in words of ours: what concerns a host is not taken up, and the reason says why."""
    recommended = {
        "RFC8504-5.4/7", "RFC8504-5.5", "RFC8504-5.10", "RFC8504-6.5", "RFC8504-6.6/2", "RFC8504-7/2", "RFC8504-7/3",
        "RFC8504-8.1", "RFC8504-9", "RFC8504-11.2", "RFC8504-12", "RFC8504-13",
    }  # fmt: skip
    rows = {row["id"]: row.get("not_applicable", "") for row in load_table(ROOT / "tests/rfc8504.toml")}
    assert {name for name, why in rows.items() if why.startswith("not taken up: ")} == recommended
    assert {name for name, why in rows.items() if why} - recommended == {
        "RFC8504-10", "RFC8504-14", "RFC8504-15", "RFC8504-16"
    }  # fmt: skip
