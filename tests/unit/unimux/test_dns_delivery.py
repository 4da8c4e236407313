"""Delivery by DNS: dnspython asks a node's responder over UDP and TCP, in virtual time (UM-SSA-3)."""

from __future__ import annotations

import asyncio
import hmac
import struct
import time
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.tsig
import dns.tsigkeyring
import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6

from tapstack.types import address
from tests.unit.unimux.dnsstage import KEY, NS, Stage, aaaa, only, run
from unimux.aio import open_connection
from unimux.ssa.dnsresponder import NameFor, networks
from unimux.ssa.dnsserver import hold_address


@pytest.mark.proves("UM-SSA-3")
def test_each_query_mints_an_ssa_that_serves_and_is_not_to_be_kept() -> None:
    async def scene(s: Stage) -> None:
        first = await s.udp(aaaa())
        assert first is not None
        assert first.flags & dns.flags.AA
        assert not first.flags & dns.flags.RA
        await asyncio.sleep(2.5)
        second = only(await s.udp(aaaa()))
        assert only(first) != second
        assert sorted(map(str, s.service.armed)) == sorted([only(first), second])
        assert await s.fetch(second) == b"hello"
        assert [str(a) for a in s.service.armed] == [only(first)]
        await asyncio.sleep(31)
        assert s.service.armed == [], "an SSA that nobody uses expires"

    run(scene)


@pytest.mark.proves("UM-SSA-3")
def test_a_retry_within_two_seconds_gets_the_same_address() -> None:
    """Other ports, other ids, while the first is still being made and after it is done."""

    async def scene(s: Stage) -> None:
        early = await asyncio.gather(*(s.udp(aaaa()) for _ in range(3)))
        late = await s.udp(aaaa("SHOP.example"))
        assert late is not None
        assert str(late.answer[0].name) == "SHOP.example.", "the name comes back as it was written"
        assert len({only(each) for each in (*early, late)}) == 1
        assert len(s.asked) == 1
        await asyncio.sleep(2.1)
        assert only(await s.udp(aaaa())) != only(late)
        assert len(s.asked) == 2

    run(scene, delay=0.3)


@pytest.mark.proves("UM-SSA-3")
def test_what_a_client_has_taken_is_not_told_to_the_next_client_of_its_resolver() -> None:
    """Within the two seconds too: a used-up address would be no retry's answer, but a time-out for somebody else."""

    async def scene(s: Stage) -> None:
        first = only(await s.udp(aaaa()))
        assert only(await s.udp(aaaa())) == first
        assert await s.fetch(first) == b"hello"
        second = only(await s.udp(aaaa()))
        assert second != first
        assert await s.fetch(second) == b"hello"
        assert len(s.asked) == 2
        assert s.server.responder.counters["taken-meanwhile"] == 1

    run(scene)


@pytest.mark.proves("UM-SSA-3", by="api")
def test_over_tcp_several_queries_on_one_connection() -> None:
    async def scene(s: Stage) -> None:
        found = await s.tcp(aaaa(), dns.message.make_query("shop.example", "SOA"), aaaa("ns.shop.example"))
        assert sorted(len(each.answer) for each in found) == [1, 1, 1]
        assert {int(each.answer[0].rdtype) for each in found} == {dns.rdatatype.AAAA, dns.rdatatype.SOA}

    run(scene)


@pytest.mark.proves("UM-SSA-3")
@pytest.mark.parametrize(
    ("name", "kind", "rcode"),
    [
        ("shop.example", "A", dns.rcode.NOERROR),
        ("shop.example", "MX", dns.rcode.NOERROR),
        ("shop.example", "HTTPS", dns.rcode.NOERROR),
        ("shop.example", "ANY", dns.rcode.NOERROR),
        ("other.shop.example", "AAAA", dns.rcode.NXDOMAIN),
        ("deep.www.shop.example", "AAAA", dns.rcode.NXDOMAIN),
        ("ns.shop.example", "A", dns.rcode.NOERROR),
    ],
)
def test_what_there_is_not_is_denied_with_the_zones_soa(name: str, kind: str, rcode: int) -> None:
    async def scene(s: Stage) -> None:
        response = await s.udp(dns.message.make_query(name, kind))
        assert response is not None
        assert (response.rcode(), response.answer) == (rcode, [])
        (soa,) = response.authority
        assert (str(soa.name), soa.rdtype, soa.ttl) == ("shop.example.", dns.rdatatype.SOA, 60)
        assert soa[0].minimum == 60
        assert s.asked == []

    run(scene)


def test_the_zone_says_who_serves_it() -> None:
    async def scene(s: Stage) -> None:
        ns = await s.udp(dns.message.make_query("shop.example", "NS"))
        assert ns is not None
        assert [str(record.target) for record in ns.answer[0]] == ["ns.shop.example."]
        glue = await s.udp(aaaa("ns.shop.example"))
        assert glue is not None
        assert glue.answer[0][0].address == str(NS)
        assert s.asked == []

    run(scene)


@pytest.mark.proves("UM-SSA-3")
def test_a_source_over_its_rate_is_told_to_come_over_tcp_and_refused_there() -> None:
    """The TCP connection comes from an EA of the same /64, which shares the bucket."""

    async def scene(s: Stage) -> None:
        only(await s.udp(aaaa()))
        await asyncio.sleep(2.01)
        over = await s.udp(aaaa())
        assert over is not None
        assert over.flags & dns.flags.TC
        assert over.answer == []
        assert len(over.to_wire()) <= len(aaaa().to_wire())
        (refused,) = await s.tcp(aaaa())
        assert refused.rcode() == dns.rcode.REFUSED
        assert len(s.asked) == 1
        await asyncio.sleep(1000)
        only(await s.udp(aaaa()))

    run(scene, rate=0.001, burst=1)


@pytest.mark.proves("UM-SSA-3")
def test_a_source_over_its_rate_leaves_others_theirs() -> None:
    """One /64 is one source, since a host has as many addresses in its own as it wants."""

    async def scene(s: Stage) -> None:
        async def ask(source: str) -> dns.message.Message:
            for node in (s.alice, s.bob):  # whose networks are all on one link
                network = address(source)[:8] + bytes(8)
                node.stack.host.prefix_list.add_static(network, 64, autonomous=node is s.alice, now=node.now())
            s.entry = await hold_address(s.alice, IPv6Address(source))
            response = await s.udp(aaaa())
            assert response is not None
            return response

        only(await ask("2001:db8:1::a1"))
        for source in ("2001:db8:1::a2", "2001:db8:1::a3"):
            assert (await ask(source)).flags & dns.flags.TC
        given = {only(await ask(f"2001:db8:{n:x}::a1")) for n in range(2, 12)}
        assert len(given) == 10, "each of other networks is given one"
        assert (await ask("2001:db8:2::a2")).flags & dns.flags.TC, "and no second one"
        answers = [p for _, p in s.net.packets(UDP) if p[UDP].sport == 53]
        assert [p[IPv6].dst for p in answers if dns.message.from_wire(bytes(p[UDP].payload)).answer] == [
            "2001:db8:1::a1",
            *(f"2001:db8:{n:x}::a1" for n in range(2, 12)),
        ]

    run(scene, rate=0.001, burst=1)


def test_minting_over_tcp_only_sends_udp_there() -> None:
    async def scene(s: Stage) -> None:
        over = await s.udp(aaaa())
        assert over is not None
        assert over.flags & dns.flags.TC
        assert s.asked == []
        (response,) = await s.tcp(aaaa())
        only(response)

    run(scene, stream_only=True)


# -- who asks ----------------------------------------------------------------------------------------------


@pytest.mark.proves("UM-SSA-3")
@pytest.mark.proves("UM-LIS-4", by="api")
def test_a_believed_client_subnet_names_the_client_and_splits_the_answers() -> None:
    async def scene(s: Stage) -> None:
        near = dns.edns.ECSOption("2001:db8:1::", 64)
        far = dns.edns.ECSOption("2001:db8:77::", 48)
        answers = [await s.udp(aaaa(use_edns=0, options=[each])) for each in (near, far, near)]
        addresses = [only(each) for each in answers]
        assert addresses[0] == addresses[2] != addresses[1]
        assert [each.client for each in s.asked] == [IPv6Network("2001:db8:1::/64"), IPv6Network("2001:db8:77::/48")]
        assert answers[1] is not None
        (option,) = answers[1].options
        assert isinstance(option, dns.edns.ECSOption)
        assert (option.address, option.srclen, option.scopelen) == ("2001:db8:77::", 48, 48)
        assert await s.fetch(addresses[0]) == b"hello"
        with pytest.raises(OSError, match="did not answer"):
            await open_connection(s.alice, addresses[1], None, timeout=2)

    run(scene, believe=networks(["2001:db8:1::/64"]), name_for=NameFor.SUBNET)


@pytest.mark.proves("UM-SSA-3")
def test_a_client_subnet_from_anybody_else_is_ignored() -> None:
    async def scene(s: Stage) -> None:
        response = await s.udp(aaaa(use_edns=0, options=[dns.edns.ECSOption("2001:db8:77::", 48)]))
        assert response is not None
        assert s.asked[0].subnet is None
        (option,) = response.options
        assert isinstance(option, dns.edns.ECSOption)
        assert option.scopelen == 0

    run(scene, name_for=NameFor.SUBNET)


@pytest.mark.proves("UM-SSA-3")
def test_only_allowed_clients_get_addresses() -> None:
    async def scene(s: Stage) -> None:
        refused = await s.udp(aaaa())
        assert refused is not None
        assert refused.rcode() == dns.rcode.REFUSED
        option = dns.edns.ECSOption("2001:db8:77:1::", 64)
        only(await s.udp(aaaa(use_edns=0, options=[option])))
        assert len(s.asked) == 1

    run(scene, allow=networks(["2001:db8:77::/48"]), believe=networks(["2001:db8:1::/64"]))


def test_an_ssa_can_be_named_for_the_network_that_asks() -> None:
    async def scene(s: Stage) -> None:
        only(await s.udp(aaaa()))
        assert s.asked[0].client == IPv6Network("2001:db8:1::/64")

    run(scene, name_for=NameFor.SOURCE)


@pytest.mark.proves("UM-SSA-3")
def test_tsig_keys_are_told_apart_and_wrong_ones_are_refused() -> None:
    def signed(name: str, secret: bytes) -> dns.message.Message:
        query = aaaa()
        key = dns.tsig.Key(name, secret, dns.tsig.HMAC_SHA256)
        query.use_tsig({key.name: key}, key.name)
        return query

    async def scene(s: Stage) -> None:
        unsigned = await s.udp(aaaa())
        assert unsigned is not None
        assert unsigned.rcode() == dns.rcode.REFUSED
        ours = await s.udp(signed("alice", KEY))
        only(ours)
        assert ours is not None
        assert ours.had_tsig, "the response is signed, and dnspython has verified it"
        carol = only(await s.udp(signed("carol", KEY[::-1])))
        assert carol != only(ours)
        assert [each.key for each in s.asked] == ["alice.", "carol."]
        for wrong in (signed("alice", KEY[::-1]), signed("mallory", KEY)):
            response = await s.udp(wrong.to_wire())
            assert response is not None
            assert response.rcode() == dns.rcode.NOTAUTH
        assert len(s.asked) == 2

    run(scene, keys={"alice": KEY, "carol": KEY[::-1]}, require_key=True)


def told(response: dns.message.Message) -> tuple[bytes, Any]:
    """The owner of a response's TSIG record, as on the wire, and what it says."""
    assert response.tsig is not None
    (record,) = response.tsig
    return response.tsig.name.to_wire() or b"", record


def digest(secret: bytes, request_mac: bytes | None, response: dns.message.Message, wire: bytes) -> bytes:
    """The MAC of a response as RFC 8945 §4.3 computes it, without dnspython's part in it."""
    owner, record = told(response)
    tail = len(owner) + 10 + len(record.to_wire() or b"")
    message = struct.pack("!H", record.original_id) + wire[2:10] + bytes(2) + wire[12:-tail]
    times = struct.pack("!HIH", record.time_signed >> 32, record.time_signed & 0xFFFFFFFF, record.fudge)
    variables = owner.lower() + struct.pack("!HI", 255, 0) + record.algorithm.to_wire()
    other = struct.pack("!HH", record.error, len(record.other)) + record.other
    asked = b"" if request_mac is None else struct.pack("!H", len(request_mac)) + request_mac
    return hmac.digest(secret, asked + message + variables + times + other, "sha256")


@pytest.mark.proves("UM-SSA-3", by="api")
def test_a_wrong_signature_is_answered_with_the_reason_why() -> None:
    """RFC 8945 §5.2: BADKEY and BADSIG unsigned, BADTIME signed for the client's time and with ours in it."""

    def signed(name: str, secret: bytes, when: float) -> tuple[dns.message.Message, bytes]:
        query = aaaa()
        key = dns.tsig.Key(name, secret, dns.tsig.HMAC_SHA256)
        query.use_tsig({key.name: key}, key.name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", lambda: when)
            return query, query.to_wire()

    async def scene(s: Stage) -> None:
        now = time.time()
        for (query, asked), error in (
            (signed("mallory", KEY, now), dns.rcode.BADKEY),
            (signed("alice", KEY[::-1], now), dns.rcode.BADSIG),
            (signed("alice", KEY, now - 4000), dns.rcode.BADTIME),
        ):
            wire = await s.server.responder.answer(asked, "2001:db8::1", stream=False)
            assert wire is not None
            response = dns.message.from_wire(wire, keyring=False)
            assert response.rcode() == dns.rcode.NOTAUTH and response.id == query.id
            _, record = told(response)
            assert (record.error, record.original_id) == (error, query.id)
            if error != dns.rcode.BADTIME:
                assert (record.mac, record.other) == (b"", b"")
                continue
            assert record.time_signed == int(now - 4000)
            assert abs(int.from_bytes(record.other, "big") - now) < 60
            assert record.mac == digest(KEY, query.mac, response, wire)
        assert not s.asked

    run(scene, keys={"alice": KEY}, require_key=True)
