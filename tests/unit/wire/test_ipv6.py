"""The IPv6 header and extension headers (RFC 8200)."""

from __future__ import annotations

import pytest

from tapstack.types import address
from tapstack.wire import ipv6
from tapstack.wire.error import WireError
from tests.unit.wire import frames

SRC = address("2001:db8:1:2:0:ff:fe00:b")
DST = address("2001:db8:1:2::1")


def test_the_header_of_a_captured_packet() -> None:
    packet = frames.ECHO_REQUEST[14:]
    header = ipv6.Ipv6Header.parse(packet)
    assert header == ipv6.Ipv6Header(0, 0x0AD15, 28, ipv6.ICMPV6, 61, SRC, DST)
    assert header.pack() == packet[:40]


def test_each_field_has_its_place() -> None:
    packed = ipv6.pack_header(SRC, DST, 6, 0x1234, 0x56, 0xAB, 0xCDEF0)
    assert packed[:8].hex() == "6abcdef012340656"
    assert packed[8:] == SRC + DST


def test_defaults_are_those_of_a_plain_packet() -> None:
    assert ipv6.pack_header(SRC, DST, ipv6.UDP, 8)[:8].hex() == "6000000000081140"


@pytest.mark.parametrize("version", [0, 4, 5, 7, 15])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(WireError, match="version"):
        ipv6.Ipv6Header.parse(bytes((version << 4,)) + bytes(39))


# -- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "action"),
    [
        (0x05, ipv6.UnknownAction.SKIP),
        (0x3E, ipv6.UnknownAction.SKIP),
        (0x40, ipv6.UnknownAction.DISCARD),
        (0x9E, ipv6.UnknownAction.DISCARD_AND_REPORT),
        (0xC2, ipv6.UnknownAction.DISCARD_AND_REPORT_UNICAST),
        (0xFF, ipv6.UnknownAction.DISCARD_AND_REPORT_UNICAST),
    ],
)
def test_the_high_bits_of_an_option_type(kind: int, action: ipv6.UnknownAction) -> None:
    assert ipv6.Option(kind).unknown_action is action


@pytest.mark.parametrize(
    ("options", "area"),
    [
        ([], "010400000000"),
        ([ipv6.Option(0x3E, bytes(4))], "3e0400000000"),
        ([ipv6.Option(0x3E, bytes(3))], "3e0300000000"),  # Pad1
        ([ipv6.Option(0x3E, bytes(2))], "3e0200000100"),  # PadN without data
        ([ipv6.Option(0x3E, bytes(5))], "3e050000000000" + "01050000000000"),
        ([ipv6.Option(0xC2, b"\x00\x01\x00\x00")], "c20400010000"),  # jumbo payload: 4n + 2
        ([ipv6.Option(0x3E, b"\xff"), ipv6.Option(0x05, bytes(2))], "3e01ff00050200000104" + "00000000"),  # 2n + 0
    ],
)
def test_alignment_and_padding(options: list[ipv6.Option], area: str) -> None:
    packed = ipv6.pack_options(options)
    assert packed.hex() == area
    assert ipv6.parse_options(packed) == tuple(options)


def test_an_option_knows_where_it_stood() -> None:
    header = ipv6.DestinationOptions.parse(bytes.fromhex("3a01" + "00" + "3e01ff" + "0100" + "9e02aabb" + "01020000"))
    assert [option.offset for option in header.options] == [3, 8]
    assert header.options[1] == ipv6.Option(0x9E, b"\xaa\xbb")


@pytest.mark.parametrize("area", ["3e", "3e05000000", "01", "0105000000", "00" * 5 + "01"])
def test_an_option_that_runs_over_the_end_is_refused(area: str) -> None:
    with pytest.raises(WireError, match="over the end"):
        ipv6.parse_options(bytes.fromhex(area))


@pytest.mark.parametrize("area", ["00" * 8, "0106" + "00" * 6, "010200000102000000000000"])
def test_more_padding_than_alignment_needs_is_refused(area: str) -> None:
    with pytest.raises(WireError, match="padding"):
        ipv6.parse_options(bytes.fromhex(area))


@pytest.mark.parametrize("area", ["00" * 7, "0105" + "00" * 5, "000104" + "00" * 4 + "3e00" + "00" * 7])
def test_seven_bytes_of_padding_are_accepted(area: str) -> None:
    assert all(option.type == 0x3E for option in ipv6.parse_options(bytes.fromhex(area)))


def test_no_more_options_than_a_host_need_take() -> None:
    area = bytes.fromhex("3e00") * 8
    assert len(ipv6.parse_options(area)) == 8
    with pytest.raises(WireError, match="more than 8 options"):
        ipv6.parse_options(area + b"\x3e\x00")
    assert len(ipv6.parse_options(area * 4, limit=32)) == 32


def test_padding_that_carries_data_is_refused() -> None:
    with pytest.raises(WireError, match="PadN"):
        ipv6.parse_options(bytes.fromhex("010400000001"))


# -- extension headers ---------------------------------------------------------------------------


def test_the_hop_by_hop_header_of_a_captured_report() -> None:
    header = ipv6.HopByHop.parse(frames.MLD_REPORT[54:])
    assert header == ipv6.HopByHop(ipv6.ICMPV6, (ipv6.Option(ipv6.OptionType.ROUTER_ALERT, b"\x00\x00"),))
    assert header.length == 8
    assert header.pack() == frames.MLD_REPORT[54:62]


def test_a_header_keeps_the_length_it_had_on_the_wire() -> None:
    spread = bytes.fromhex("3a01" + "0103000000" + "3e00" + "0105" + "00" * 5)
    header = ipv6.HopByHop.parse(spread + b"more")
    assert header.length == 16
    assert ipv6.HopByHop(header.next_header, header.options).length == 8


def test_hop_by_hop_and_destination_options_are_not_the_same() -> None:
    hop_by_hop: object = ipv6.HopByHop(6)
    assert hop_by_hop != ipv6.DestinationOptions(6)


def test_a_routing_header_of_type_zero_with_two_addresses() -> None:
    header = ipv6.Routing.parse(bytes.fromhex("3a04000200000000") + SRC + DST)
    assert header == ipv6.Routing(ipv6.ICMPV6, 0, 2, bytes(4) + SRC + DST)
    assert header.length == 40


def test_a_routing_header_that_is_no_multiple_of_eight_cannot_be_packed() -> None:
    with pytest.raises(WireError):
        ipv6.Routing(6, 4, 0, bytes(5)).pack()


def test_the_second_fragment_of_a_captured_packet() -> None:
    fragment = ipv6.Fragment.parse(frames.LAST_FRAGMENT_START[54:])
    assert fragment == ipv6.Fragment(ipv6.ICMPV6, 1432, False, 0x6579AE7D)
    assert fragment.pack() == frames.LAST_FRAGMENT_START[54:62]
    assert not fragment.atomic


@pytest.mark.parametrize(
    ("word", "offset", "more", "atomic"),
    [("0000", 0, False, True), ("0001", 0, True, False), ("fff8", 65528, False, False), ("0009", 8, True, False)],
)
def test_fragment_offset_and_flag(word: str, offset: int, more: bool, atomic: bool) -> None:
    fragment = ipv6.Fragment.parse(bytes.fromhex(f"1100{word}00000001"))
    assert (fragment.offset, fragment.more, fragment.atomic) == (offset, more, atomic)


def test_the_reserved_bits_of_a_fragment_header_are_ignored() -> None:
    assert ipv6.Fragment.parse(bytes.fromhex("11ff000600000001")) == ipv6.Fragment(17, 0, False, 1)


@pytest.mark.parametrize("offset", [4, 65536])
def test_a_fragment_offset_that_cannot_be_written(offset: int) -> None:
    with pytest.raises(WireError):
        ipv6.Fragment(17, offset, False, 1).pack()


def test_an_options_header_that_grows_too_long() -> None:
    with pytest.raises(WireError):
        ipv6.HopByHop(6, (ipv6.Option(0x3E, bytes(255)),) * 8).pack()
    with pytest.raises(WireError):
        ipv6.HopByHop(6, (ipv6.Option(0x3E, bytes(256)),)).pack()


# -- the chain -----------------------------------------------------------------------------------


def chain(first: int, *headers: bytes) -> bytes:
    body = b"".join(headers)
    return ipv6.pack_header(SRC, DST, first, len(body)) + body


def test_no_extension_header() -> None:
    assert ipv6.find_upper_layer(chain(ipv6.TCP)) == ipv6.UpperLayer(ipv6.TCP, 40, 6)


def test_every_kind_of_extension_header_is_stepped_over() -> None:
    packet = chain(
        ipv6.HOP_BY_HOP,
        ipv6.HopByHop(ipv6.DESTINATION).pack(),
        ipv6.DestinationOptions(ipv6.ROUTING, (ipv6.Option(0x3E, bytes(9)),)).pack(),
        ipv6.Routing(ipv6.FRAGMENT, 4, 0, bytes(20)).pack(),
        ipv6.Fragment(ipv6.AH, 0, True, 7).pack(),
        bytes((ipv6.UDP, 4)) + bytes(22),  # AH of 24 bytes: its length counts 4 bytes and leaves out two of them
    )
    upper = ipv6.find_upper_layer(packet)
    assert upper == ipv6.UpperLayer(ipv6.UDP, len(packet), len(packet) - 24, ipv6.Fragment(ipv6.AH, 0, True, 7))


def test_a_later_fragment_ends_the_chain() -> None:
    fragment = ipv6.Fragment(ipv6.DESTINATION, 1448, False, 7)
    assert ipv6.find_upper_layer(chain(ipv6.FRAGMENT, fragment.pack(), b"data")) == ipv6.UpperLayer(
        ipv6.DESTINATION, 48, 40, fragment
    )


@pytest.mark.parametrize("protocol", [ipv6.ESP, ipv6.NO_NEXT, ipv6.EXPERIMENT_1, 200])
def test_what_cannot_be_stepped_over_ends_the_chain(protocol: int) -> None:
    assert ipv6.find_upper_layer(chain(protocol, bytes(20))).next_header == protocol


def test_a_chain_that_breaks_off_is_refused() -> None:
    packet = chain(ipv6.DESTINATION, ipv6.DestinationOptions(ipv6.TCP, (ipv6.Option(0x3E, bytes(9)),)).pack())
    assert ipv6.find_upper_layer(packet).offset == len(packet)
    for end in range(len(packet)):
        with pytest.raises(WireError):
            ipv6.find_upper_layer(packet[:end])
