"""The Ethernet header (RFC 2464)."""

from __future__ import annotations

import pytest

from tapstack.types import ALL_NODES, address, solicited_node
from tapstack.wire import ethernet
from tapstack.wire.error import WireError
from tests.unit.wire import frames


def test_the_header_of_a_captured_frame() -> None:
    header = ethernet.EthernetHeader.parse(frames.ROUTER_SOLICITATION)
    assert header.dst == bytes.fromhex("333300000002")
    assert header.src == bytes.fromhex("02000000000b")
    assert header.ethertype == ethernet.IPV6
    assert ethernet.header(header.dst, header.src) == frames.ROUTER_SOLICITATION[: ethernet.HEADER_LENGTH]


def test_another_ethertype_is_written_as_asked() -> None:
    assert ethernet.header(bytes(6), bytes(6), 0x0806)[12:] == b"\x08\x06"


@pytest.mark.parametrize(
    ("group", "mac"),
    [
        (ALL_NODES, "333300000001"),
        (solicited_node(address("2001:db8::5:6:7")), "3333ff060007"),
        (address("ff05::1:2:3:ab01:cd02"), "3333ab01cd02"),
    ],
)
def test_the_address_of_a_group(group: bytes, mac: str) -> None:
    assert ethernet.multicast_mac(group).hex() == mac


def test_which_addresses_are_groups() -> None:
    assert ethernet.is_group(bytes.fromhex("333300000001"))
    assert ethernet.is_group(b"\xff" * 6)
    assert not ethernet.is_group(bytes.fromhex("020000000001"))


def test_an_address_that_is_not_six_bytes_is_refused() -> None:
    with pytest.raises(WireError, match="6 bytes"):
        ethernet.header(bytes(5), bytes(6))
