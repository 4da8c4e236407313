"""IPv4 destinations through a NAT64 gateway (RFC 6052, 7050, 8781)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from typing import Any

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compat.attachment import NodeSettings
from tapstack.types import address_text
from tests.unit.unimux.lan import lan, virtual
from unimux import errors, nat64
from unimux.node import Node


@given(st.ip_addresses(v=4), st.ip_addresses(v=6), st.sampled_from(nat64.LENGTHS))
def test_what_is_embedded_is_found_again(ipv4: IPv4Address, place: IPv6Address, length: int) -> None:
    cleared = int(place) & ~(0xFF << 56)  # bits 64 to 71 of a prefix are zero
    prefix = IPv6Network((cleared, length), strict=False)
    made = nat64.embed(prefix, ipv4)
    assert made in prefix
    assert nat64.extract(made, length) == ipv4
    assert made.packed[8] == 0


def test_prefixes_that_carry_no_ipv4_are_sentences() -> None:
    for wrong in ("64:ff9b::/95", "x", "64:ff9b::1/96", "2001:db8:0:1:ff00::/96"):
        with pytest.raises(errors.SetupError):
            nat64.nat64_prefix(wrong)
        with pytest.raises(errors.SetupError):
            NodeSettings(prefix="2001:db8::/64", nat64=wrong).check()
    assert NodeSettings(prefix="2001:db8::/64", nat64="64:ff9b::/96").node_config().nat64 == "64:ff9b::/96"


@pytest.mark.parametrize(
    ("config", "announced", "expected"),
    [
        ({"nat64": "2001:db8:64::/96"}, True, "2001:db8:64::808:808"),
        ({}, True, "2001:db8:a::808:808"),
        ({"names": {"ipv4only.arpa": ["64:ff9b::192.0.0.171"]}}, False, "64:ff9b::808:808"),
    ],
    ids=["configured", "announced", "discovered"],
)
def test_where_the_prefix_comes_from(config: dict[str, Any], announced: bool, expected: str) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node(**config)
            if announced:
                prefix = IPv6Address("2001:db8:a::").packed
                node.stack.host.routers.pref64[prefix, 96] = node.now() + 600
            assert [address_text(each) for each in await node.resolve("8.8.8.8", timeout=5)] == [expected]

    virtual(main())


def test_without_a_gateway_and_behind_the_well_known_prefix() -> None:
    async def main() -> None:
        async with lan() as net:
            plain = await net.node()
            with pytest.raises(errors.NoIpv6Address, match="NAT64"):
                await plain.resolve("8.8.8.8", timeout=5)
            node = await net.node(nat64="64:ff9b::/96")
            with pytest.raises(errors.NoIpv6Address):
                await node.resolve("10.0.0.1", timeout=5)

    virtual(main())


def test_looking_for_a_gateway_takes_no_time_of_its_own() -> None:
    class Exchange:
        async def exchange(
            self, server: bytes, payload: bytes, timeout: float, *, asked: Callable[[], None], **_: object
        ) -> bytes:
            asked()
            query = dns.message.from_wire(payload)
            (question,) = query.question
            if question.name.to_text() == "ipv4only.arpa.":
                await asyncio.sleep(timeout)
                raise TimeoutError
            await asyncio.sleep(1.5)
            response = dns.message.make_response(query)
            if question.rdtype.name == "A":
                response.answer = [dns.rrset.from_text(question.name, 60, "IN", "A", "198.51.100.7")]
            return response.to_wire()

    async def main() -> None:
        async with lan() as net:
            node = await net.node(name_servers=["2001:db8:1::53"])
            node.resolver._exchange = Exchange()
            began = node.now()
            with pytest.raises(errors.NoIpv6Address):
                await node.resolve("old.example", timeout=4)
            assert node.now() - began == pytest.approx(4)

    virtual(main())


def test_a_name_with_ipv4_only_is_reached_behind_the_gateway() -> None:
    """No DNS64 is needed: the name server knows an A record, the prefix is configured or found (RFC 7050)."""

    class Exchange:
        async def exchange(
            self, server: bytes, payload: bytes, timeout: float, *, asked: Callable[[], None], **_: object
        ) -> bytes:
            asked()
            query = dns.message.from_wire(payload)
            response = dns.message.make_response(query)
            (question,) = query.question
            known = records.get((str(question.name), question.rdtype.name))
            if known is not None:
                response.answer = [dns.rrset.from_text(question.name, 60, "IN", question.rdtype, *known)]
            return response.to_wire()

    records = {
        ("old.example.", "A"): ["198.51.100.7", "203.0.113.9"],
        ("new.example.", "A"): ["198.51.100.7"],
        ("new.example.", "AAAA"): ["2001:db8::7"],
    }

    async def main() -> None:
        async with lan() as net:
            configured = await net.node(name_servers=["2001:db8:1::53"], nat64="2001:db8:64::/96")
            found = await net.node(name_servers=["2001:db8:1::53"])
            for node in (configured, found):
                node.resolver._exchange = Exchange()
            assert await resolved(configured, "old.example") == ["2001:db8:64::c633:6407", "2001:db8:64::cb00:7109"]
            assert await resolved(configured, "new.example") == ["2001:db8::7"], "its own address where it has one"
            with pytest.raises(errors.NoIpv6Address, match=r"old\.example"):
                await resolved(found, "old.example")
            records["ipv4only.arpa.", "AAAA"] = ["2001:db8:a:b::192.0.0.170"]
            found.resolver.cache.clear()
            assert await resolved(found, "old.example") == ["2001:db8:a:b::c633:6407", "2001:db8:a:b::cb00:7109"]

    async def resolved(node: Node, name: str) -> list[str]:
        return sorted(address_text(each) for each in await node.resolve(name, timeout=5))

    virtual(main())
