"""The UDP header (RFC 768, RFC 8200 §8.1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tapstack.types import address
from tapstack.wire import checksum, ipv6, udp
from tapstack.wire.error import WireError
from tests.unit.wire import frames
from tests.unit.wire import strategies as some

SRC = address("2001:db8::1")
DST = address("2001:db8::2")


def test_a_captured_header() -> None:
    assert udp.parse(memoryview(frames.PORT_UNREACHABLE)[102:]) == udp.UdpHeader(39_442, 9, 13, 0x5AA2)


@given(some.address, some.address, some.word, some.word, st.binary(max_size=80))
def test_a_datagram_has_a_valid_checksum_that_is_never_zero(
    src: bytes, dst: bytes, sport: int, dport: int, payload: bytes
) -> None:
    packed = udp.pack(src, dst, sport, dport, memoryview(payload))
    header = udp.parse(packed + payload)
    assert (header.src_port, header.dst_port, header.length) == (sport, dport, 8 + len(payload))
    assert header.checksum != 0
    assert checksum.valid(src, dst, ipv6.UDP, packed + payload)


def test_a_checksum_that_computes_to_zero_is_sent_as_ones() -> None:
    plain = udp.parse(udp.pack(SRC, DST, 1, 2, bytes(2)) + bytes(2))
    payload = plain.checksum.to_bytes(2, "big")  # the word that makes the sum all ones
    assert udp.parse(udp.pack(SRC, DST, 1, 2, payload) + payload).checksum == 0xFFFF


def test_what_follows_the_datagram_is_not_its_own() -> None:
    assert udp.parse(udp.pack(SRC, DST, 1, 2, b"abc") + b"abc" + b"trailer").length == 11


@pytest.mark.parametrize("length", [0, 7, 12])
def test_a_length_that_is_not_there_is_refused(length: int) -> None:
    with pytest.raises(WireError, match="datagram"):
        udp.parse(udp.UdpHeader(1, 2, length, 3).pack() + b"abc")


def test_a_datagram_that_no_packet_can_carry_is_refused() -> None:
    udp.pack(SRC, DST, 1, 2, bytes(65_527))
    with pytest.raises(WireError):
        udp.pack(SRC, DST, 1, 2, bytes(65_528))
