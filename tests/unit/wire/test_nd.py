"""Neighbor Discovery messages and options (RFC 4861, 4191, 7527, 8106, 8781)."""

from __future__ import annotations

import pytest

from tapstack.types import address
from tapstack.wire import icmpv6, nd
from tapstack.wire.error import WireError
from tests.unit.wire import frames

HOST_MAC = bytes.fromhex("02000000000b")
ROUTER_MAC = bytes.fromhex("02000000000a")
PREFIX = address("2001:db8:1:2::")


def captured(frame: bytes) -> nd.Message:
    """The message of a captured frame; packing it again must give the same bytes."""
    whole = icmpv6.parse(memoryview(frame)[54:])
    message = nd.parse(whole.type, whole.body)
    assert whole.type == message.TYPE
    assert icmpv6.pack(frame[22:38], frame[38:54], message.TYPE, 0, message.pack()) == frame[54:]
    return message


def one_option(text: str) -> nd.NdOption:
    """The only option in bytes written in hexadecimal."""
    (option,) = nd.parse_options(bytes.fromhex(text))
    return option


# -- captured messages ---------------------------------------------------------------------------


def test_router_solicitation() -> None:
    assert captured(frames.ROUTER_SOLICITATION) == nd.RouterSolicitation((nd.SourceLinkLayer(HOST_MAC),))


def test_router_advertisement() -> None:
    body = frames.ROUTER_ADVERTISEMENT[58:]
    message = nd.parse(134, body)
    assert message == nd.RouterAdvertisement(
        hop_limit=61,
        other=True,
        preference=nd.Preference.HIGH,
        router_lifetime=12,
        reachable_time=30_000,
        retrans_timer=1_000,
        options=(
            nd.PrefixInformation(PREFIX, 64, True, True, 86_400, 14_400),
            nd.RouteInformation(address("2001:db8:5::"), 48, nd.Preference.LOW, 1_200),
            nd.Rdnss(600, (address("2001:db8::53"), address("2001:db8::54"))),
            nd.Dnssl(700, ("lan.example.com", "example.org")),
            nd.Mtu(1480),
            nd.SourceLinkLayer(ROUTER_MAC),
        ),
    )
    # radvd spends 16 bytes on the prefix of a /48 route, where 8 are enough
    long = bytes.fromhex("18033018000004b020010db8000500000000000000000000")
    short = bytes.fromhex("18023018000004b020010db800050000")
    assert message.pack() == body.replace(long, short)


def test_duplicate_address_detection_with_a_nonce() -> None:
    message = captured(frames.DAD_SOLICITATION)
    assert message == nd.NeighborSolicitation(
        address("2001:db8:1:2:0:ff:fe00:b"), (nd.Nonce(bytes.fromhex("f04ff6631a77")),)
    )


def test_neighbor_solicitation() -> None:
    assert captured(frames.NEIGHBOR_SOLICITATION) == nd.NeighborSolicitation(
        address("2001:db8:1:2::1"), (nd.SourceLinkLayer(HOST_MAC),)
    )


def test_neighbor_advertisement() -> None:
    assert captured(frames.NEIGHBOR_ADVERTISEMENT) == nd.NeighborAdvertisement(
        address("2001:db8:1:2::1"),
        router=True,
        solicited=True,
        override=True,
        options=(nd.TargetLinkLayer(ROUTER_MAC),),
    )


# -- fields, one bit at a time -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("router", "solicited", "override", "bits"),
    [(True, False, False, "80"), (False, True, False, "40"), (False, False, True, "20")],
)
def test_flags_of_a_neighbor_advertisement(router: bool, solicited: bool, override: bool, bits: str) -> None:
    message = nd.NeighborAdvertisement(PREFIX, router, solicited, override)
    assert message.pack().hex() == bits + "000000" + PREFIX.hex()
    assert nd.NeighborAdvertisement.parse(message.pack()) == message


@pytest.mark.parametrize(
    ("flags", "managed", "other", "preference"),
    [
        (0x80, True, False, nd.Preference.MEDIUM),
        (0x40, False, True, nd.Preference.MEDIUM),
        (0x08, False, False, nd.Preference.HIGH),
        (0x18, False, False, nd.Preference.LOW),
        (0x10, False, False, nd.Preference.MEDIUM),  # reserved: to be read as medium (RFC 4191 §2.2)
        (0x27, False, False, nd.Preference.MEDIUM),  # home agent, proxy and reserved bits
    ],
)
def test_flags_of_a_router_advertisement(flags: int, managed: bool, other: bool, preference: nd.Preference) -> None:
    message = nd.RouterAdvertisement.parse(bytes((64, flags)) + bytes(10))
    assert (message.managed, message.other, message.preference) == (managed, other, preference)


def test_the_numbers_of_a_router_advertisement() -> None:
    message = nd.RouterAdvertisement(1, True, True, nd.Preference.LOW, 0x0203, 0x04050607, 0x08090A0B)
    assert message.pack().hex() == "01d80203" + "04050607" + "08090a0b"


def test_a_redirect() -> None:
    target, destination = address("fe80::1"), address("2001:db8::99")
    quoted = bytes(range(48))
    message = nd.Redirect(target, destination, (nd.TargetLinkLayer(ROUTER_MAC), nd.RedirectedHeader(quoted)))
    packed = bytes(4) + target + destination + b"\x02\x01" + ROUTER_MAC + b"\x04\x07" + bytes(6) + quoted
    assert message.pack() == packed
    assert nd.parse(icmpv6.Type.REDIRECT, packed) == message


@pytest.mark.parametrize(
    ("bits", "on_link", "autonomous", "delegation"),
    [(0x80, True, False, False), (0x40, False, True, False), (0x10, False, False, True), (0x2F, False, False, False)],
)
def test_flags_of_a_prefix(bits: int, on_link: bool, autonomous: bool, delegation: bool) -> None:
    option = one_option(f"030440{bits:02x}" + "00000001" + "ffffffff" + "00000000" + PREFIX.hex())
    assert option == nd.PrefixInformation(PREFIX, 64, on_link, autonomous, 1, nd.INFINITY, delegation)


def test_the_bits_behind_a_prefix_are_ignored() -> None:
    option = one_option("03043fc0" + "00" * 12 + "ff" * 16)
    assert isinstance(option, nd.PrefixInformation)
    assert option.prefix.hex() == "fffffffffffffffe" + "00" * 8


@pytest.mark.parametrize(
    ("text", "length", "prefix"),
    [
        ("1801000800000005", 0, "::"),
        ("18020008000000052001" + "00" * 6, 0, "::"),
        ("1802400800000005" + "20010db800010002", 64, "2001:db8:1:2::"),
        ("1802140800000005" + "20010db8ffffffff", 20, "2001::"),
        ("1803600800000005" + "20010db800010002" + "00000003ffffffff", 96, "2001:db8:1:2:0:3::"),
        ("1803800800000005" + "20010db800010002" + "0000000300000004", 128, "2001:db8:1:2:0:3:0:4"),
    ],
)
def test_route_prefixes_of_all_sizes(text: str, length: int, prefix: str) -> None:
    assert one_option(text) == nd.RouteInformation(address(prefix), length, nd.Preference.HIGH, 5)


@pytest.mark.parametrize(("length", "size"), [(0, 8), (1, 16), (64, 16), (65, 24), (128, 24)])
def test_a_route_takes_no_more_room_than_its_prefix_needs(length: int, size: int) -> None:
    option = nd.RouteInformation(bytes(16), length, nd.Preference.MEDIUM, 0)
    assert len(option.pack()) == size
    assert one_option(option.pack().hex()) == option


@pytest.mark.parametrize(("code", "length"), [(0, 96), (1, 64), (2, 56), (3, 48), (4, 40), (5, 32)])
def test_nat64_prefix_lengths(code: int, length: int) -> None:
    option = one_option(f"2602{1800 | code:04x}" + "ff" * 12)
    assert isinstance(option, nd.Pref64)
    assert (option.prefix_length, option.lifetime) == (length, 1800)
    assert option.prefix.hex() == ("ff" * (length // 8)).ljust(32, "0")


def test_the_well_known_nat64_prefix() -> None:
    option = nd.Pref64(address("64:ff9b::"), 96, 600)
    assert option.pack().hex() == "2602" + "0258" + "0064ff9b0000000000000000"


@pytest.mark.parametrize(("lifetime", "written"), [(0, 0), (1, 8), (8, 8), (65_528, 65_528), (65_529, 65_528)])
def test_the_lifetime_of_a_nat64_prefix_has_steps_of_eight_seconds(lifetime: int, written: int) -> None:
    option = one_option(nd.Pref64(bytes(16), 96, lifetime).pack().hex())
    assert isinstance(option, nd.Pref64)
    assert option.lifetime == written


# -- what costs the option, and what the message -------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "0102" + "00" * 14,  # a link-layer address that is not Ethernet's
        "0301" + "00" * 6,  # a prefix too short
        "0304" + "81" + "00" * 29,  # 129 bits of prefix
        "0502" + "00" * 14,  # an MTU too long
        "1801" + "40" + "00" * 5,  # a route whose prefix is missing
        "1802" + "41" + "00" * 13,  # … is half there
        "1803" + "81" + "00" * 21,  # … is longer than an address
        "1801" + "0010" + "00" * 4,  # … has the reserved preference
        "1804" + "00" * 30,  # … has a length of its own
        "1901" + "00" * 6,  # RDNSS without a server
        "1902" + "00" * 14,  # … with half of one
        "1904" + "00" * 30,  # … with one and a half
        "1f01" + "00" * 6,  # DNSSL without a name
        "1f02" + "00" * 14,  # … with only padding
        "1f02" + "00" * 6 + "08" + "61" * 7,  # … with a label that runs over the end
        "1f02" + "00" * 6 + "07" + "61" * 7,  # … with a name that does not end
        "1f02" + "00" * 6 + "c0" + "61" * 7,  # … with a compressed name
        "1f0a" + "00" * 6 + "40" + "61" * 64 + "00" * 7,  # … with a label of 64 bytes
        "1f02" + "00" * 6 + "01ff" + "00" * 6,  # … with a byte that is not ASCII
        "1f02" + "00" * 6 + "03612e62" + "00" * 4,  # … with a dot in a label
        "1f21" + "00" * 6 + ("3f" + "61" * 63) * 3 + "3e" + "61" * 62 + "00",  # … with a name of 256 bytes
        "2602" + "0006" + "00" * 12,  # PREF64 with a reserved length code
        "2601" + "00" * 6,  # … too short
        "fd01" + "00" * 6,  # no known type
    ],
)
def test_an_odd_option_is_kept_raw_and_its_neighbours_live(text: str) -> None:
    odd = bytes.fromhex(text)
    assert len(odd) == odd[1] * 8
    neighbour = nd.Mtu(1500)
    message = nd.RouterSolicitation.parse(bytes(4) + neighbour.pack() + odd + neighbour.pack())
    assert message.options == (neighbour, nd.RawOption(odd[0], odd[2:]), neighbour)
    assert message.pack()[12:-8] == odd


def test_the_zeros_at_the_end_of_a_search_list_are_padding() -> None:
    assert one_option("1f03" + "0000" + "00000009" + "0161" + "00" * 14) == nd.Dnssl(9, ("a",))


@pytest.mark.parametrize(
    "options", ["0100" + "00" * 6, "0501" + "0000000005dc" + "fd00" + "00" * 6, "0102" + "00" * 6, "01", "0101" + "00"]
)
@pytest.mark.parametrize("kind", nd.MESSAGES)
def test_an_option_of_length_zero_or_over_the_end_costs_the_message(kind: int, options: str) -> None:
    with pytest.raises(WireError, match="option"):
        nd.parse(kind, bytes({133: 4, 134: 12, 135: 20, 136: 20, 137: 36}[kind]) + bytes.fromhex(options))


def test_other_types_are_not_neighbor_discovery() -> None:
    with pytest.raises(WireError, match="128"):
        nd.parse(128, bytes(40))


# -- making options ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "option",
    [
        nd.SourceLinkLayer(bytes(5)),
        nd.Nonce(bytes(7)),
        nd.RawOption(200, b""),
        nd.RawOption(200, bytes(2046)),
        nd.RedirectedHeader(bytes(41)),
        nd.Pref64(bytes(16), 95, 0),
        nd.Dnssl(0, ("a..b",)),
        nd.Dnssl(0, ("a" * 64,)),
        nd.Dnssl(0, (".".join(["a" * 63] * 3 + ["a" * 62]),)),
        nd.Dnssl(0, ("bücher.example",)),
    ],
    ids=repr,
)
def test_an_option_that_cannot_be_written_is_refused(option: nd.NdOption) -> None:
    with pytest.raises(WireError):
        option.pack()


def test_a_name_of_255_bytes_is_the_longest() -> None:
    name = ".".join(["a" * 63] * 3 + ["a" * 61])
    option = nd.Dnssl(1, (name,))
    assert one_option(option.pack().hex()) == option


def test_options_are_found_by_class() -> None:
    options = (nd.Mtu(1), nd.SourceLinkLayer(HOST_MAC), nd.Mtu(2))
    assert nd.find(options, nd.Mtu) == nd.Mtu(1)
    assert nd.find(options, nd.TargetLinkLayer) is None
    assert nd.find_all(options, nd.Mtu) == [nd.Mtu(1), nd.Mtu(2)]
