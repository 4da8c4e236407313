"""ICMPv6 messages (RFC 4443)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapstack.types import address
from tapstack.wire import checksum, icmpv6, ipv6
from tapstack.wire.error import WireError
from tests.unit.wire import frames
from tests.unit.wire import strategies as some

HOST = address("2001:db8:1:2:0:ff:fe00:b")
ROUTER = address("2001:db8:1:2::1")
PACKET = ipv6.pack_header(HOST, ROUTER, ipv6.UDP, 1400) + bytes(1400)


def test_a_captured_echo_request() -> None:
    message = icmpv6.parse(memoryview(frames.ECHO_REQUEST)[54:])
    assert (message.type, message.code, message.is_error) == (icmpv6.Type.ECHO_REQUEST, 0, False)
    echo = icmpv6.Echo.parse(message.body)
    assert echo == icmpv6.Echo(0x1234, 7, bytes(range(20)))
    assert icmpv6.pack(HOST, ROUTER, icmpv6.Type.ECHO_REQUEST, 0, echo.pack()) == frames.ECHO_REQUEST[54:]


def test_a_captured_port_unreachable() -> None:
    message = icmpv6.parse(frames.PORT_UNREACHABLE[54:])
    error = icmpv6.parse_error(message)
    assert (error.type, error.code, error.info) == (1, icmpv6.UnreachableCode.PORT, 0)
    assert ipv6.Ipv6Header.parse(error.quoted).src == HOST
    upper = ipv6.find_upper_layer(error.quoted)
    assert (upper.next_header, bytes(error.quoted[upper.offset + 8 :])) == (ipv6.UDP, b"hello")
    again = icmpv6.destination_unreachable(ROUTER, HOST, icmpv6.UnreachableCode.PORT, error.quoted)
    assert again == frames.PORT_UNREACHABLE[54:]


@given(some.address, some.address, some.byte, some.byte, st.binary(max_size=60))
def test_every_message_is_packed_with_a_valid_checksum(
    src: bytes, dst: bytes, kind: int, code: int, body: bytes
) -> None:
    packed = icmpv6.pack(src, dst, kind, code, memoryview(body))
    assert checksum.valid(src, dst, ipv6.ICMPV6, packed)
    assert icmpv6.parse(packed) == icmpv6.Icmpv6(kind, code, memoryview(body))


def test_the_body_is_a_view_not_a_copy() -> None:
    frame = bytearray(frames.ECHO_REQUEST)
    body = icmpv6.parse(memoryview(frame)[54:]).body
    frame[58] = 0xEE
    assert body[0] == 0xEE


ERRORS = {
    "destination unreachable": (
        icmpv6.destination_unreachable(ROUTER, HOST, icmpv6.UnreachableCode.ADDRESS, PACKET),
        "010300000000",
        0,
    ),
    "packet too big": (
        icmpv6.pack_error(ROUTER, HOST, icmpv6.Type.PACKET_TOO_BIG, 0, 1400, PACKET),
        "020000000578",
        1400,
    ),
    "time exceeded": (
        icmpv6.pack_error(ROUTER, HOST, icmpv6.Type.TIME_EXCEEDED, icmpv6.TimeExceededCode.REASSEMBLY, 0, PACKET),
        "030100000000",
        0,
    ),
    "parameter problem": (
        icmpv6.pack_error(ROUTER, HOST, icmpv6.Type.PARAMETER_PROBLEM, icmpv6.ParameterProblemCode.OPTION, 42, PACKET),
        "04020000002a",
        42,
    ),
}


@pytest.mark.parametrize(("packed", "fields", "info"), ERRORS.values(), ids=ERRORS.keys())
def test_an_error_quotes_as_much_as_fits_the_minimum_mtu(packed: bytes, fields: str, info: int) -> None:
    assert (packed[:2] + packed[4:8]).hex() == fields
    assert ipv6.HEADER_LENGTH + len(packed) == ipv6.MINIMUM_MTU
    assert checksum.valid(ROUTER, HOST, ipv6.ICMPV6, packed)
    error = icmpv6.parse_error(icmpv6.parse(packed))
    assert error.info == info
    assert error.quoted == PACKET[: icmpv6.MAXIMUM_QUOTE]


def test_a_short_packet_is_quoted_whole() -> None:
    packet = PACKET[:48]
    error = icmpv6.parse_error(
        icmpv6.parse(icmpv6.pack_error(ROUTER, HOST, icmpv6.Type.PACKET_TOO_BIG, 0, 1280, packet))
    )
    assert error.quoted == packet


@pytest.mark.parametrize("kind", [icmpv6.Type.DESTINATION_UNREACHABLE, icmpv6.Type.TIME_EXCEEDED])
def test_an_extension_structure_is_not_part_of_the_quoted_packet(kind: icmpv6.Type) -> None:
    body = bytes((16, 0, 0, 0)) + PACKET[:128] + bytes.fromhex("2000000000080101aabbccdd")
    error = icmpv6.parse_error(icmpv6.Icmpv6(kind, 0, memoryview(body)))
    assert error.quoted == PACKET[:128]
    assert error.info == 0


def test_a_large_mtu_is_not_mistaken_for_an_extension_length() -> None:
    error = icmpv6.parse_error(
        icmpv6.parse(icmpv6.pack_error(ROUTER, HOST, icmpv6.Type.PACKET_TOO_BIG, 0, 0x01000000, PACKET[:100]))
    )
    assert (error.info, len(error.quoted)) == (0x01000000, 100)


def test_an_informational_message_is_not_an_error() -> None:
    with pytest.raises(WireError, match="not an error"):
        icmpv6.parse_error(icmpv6.parse(frames.ECHO_REQUEST[54:]))
