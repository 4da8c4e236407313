"""The resolver against name servers that are right, old, slow, forged, or out of their mind; in virtual time."""

from __future__ import annotations

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapstack.clock import run_virtual
from tapstack.randomness import KeyedRandom
from tests.unit.unimux.lan import virtual_test
from tests.unit.unimux.nameservers import S1, S2, WWW, make, packed, respond, zone
from unimux.dnsstream import UDP_PAYLOAD
from unimux.errors import NameNotResolved, NoIpv6Address
from unimux.lookup import MAX_HOPS, MAX_TTL, Ask, Lookup, NotAName, Outcome, host_name
from unimux.resolver import Cache, literal

pytestmark = pytest.mark.proves("RFC8504-7/1", by="api")


@virtual_test
async def test_addresses_in_the_order_of_the_answer() -> None:
    resolver, servers = make(zone({key: value[:1] for key, value in WWW.items()}))
    assert await resolver.resolve("WWW.Example") == [packed("2001:db8::1")]
    ((server, query, way),) = servers.asked
    assert (server, way) == (S1, "udp")
    assert query.edns == 0 and query.payload == UDP_PAYLOAD
    assert str(query.question[0]) == "www.example. IN AAAA"


@virtual_test
async def test_several_addresses_each_once() -> None:
    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message:
        response = respond(query)
        response.answer = [dns.rrset.from_text("www.example.", 60, "IN", "AAAA", "2001:db8::2", "2001:db8::1")]
        return response

    resolver, _ = make(reply)
    assert set(await resolver.resolve("www.example.")) == {packed("2001:db8::1"), packed("2001:db8::2")}


@virtual_test
async def test_aliases_inside_the_answer_and_their_least_ttl() -> None:
    resolver, servers = make(zone({key: value[:1] for key, value in WWW.items()}))
    loop = asyncio.get_running_loop()
    assert await resolver.resolve("alias.example") == [packed("2001:db8::1")]
    assert len(servers.asked) == 1
    await asyncio.sleep(29)
    await resolver.resolve("alias.example")
    assert len(servers.asked) == 1, "30 s, the least of the chain"
    await asyncio.sleep(2)
    await resolver.resolve("alias.example")
    assert len(servers.asked) == 2
    assert loop.time() < 60


@virtual_test
async def test_an_alias_that_leaves_the_answer_is_asked_on() -> None:
    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message:
        if str(query.question[0].name) == "a.example.":
            return respond(query, ["a.example. 20 CNAME b.other."])
        return respond(query, ["b.other. 50 AAAA 2001:db8::5"])

    resolver, servers = make(reply)
    assert await resolver.resolve("a.example") == [packed("2001:db8::5")]
    assert [str(query.question[0].name) for _, query, _ in servers.asked] == ["a.example.", "b.other."]


@virtual_test
async def test_aliases_without_end_end() -> None:
    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message:
        name = str(query.question[0].name)
        return respond(query, [f"{name} 20 CNAME x{name}"])

    resolver, servers = make(reply)
    with pytest.raises(NameNotResolved, match="does not end"):
        await resolver.resolve("a.example")
    assert len(servers.asked) == MAX_HOPS + 1
    resolver, servers = make(
        lambda q, s: respond(q, ["a.example. 9 CNAME b.example.", "b.example. 9 CNAME a.example."])
    )
    with pytest.raises(NameNotResolved, match="malformed"):
        await resolver.resolve("a.example")


@virtual_test
async def test_ipv4_only_no_address_and_no_such_name_are_told_apart() -> None:
    resolver, servers = make(zone(WWW))
    with pytest.raises(NoIpv6Address, match=r"old\.example has no IPv6 address \(IPv4 only\)"):
        await resolver.resolve("old.example")
    assert [query.question[0].rdtype.name for _, query, _ in servers.asked] == ["AAAA", "A"]
    with pytest.raises(NameNotResolved, match="it has no address") as caught:
        await resolver.resolve("mail.example")
    assert type(caught.value) is NameNotResolved
    before = len(servers.asked)
    with pytest.raises(NameNotResolved, match="no such name"):
        await resolver.resolve("nowhere.example")
    assert len(servers.asked) == before + 1, "a name that does not exist is not asked for A"


@virtual_test
async def test_negative_answers_are_remembered_as_long_as_the_soa_says() -> None:
    resolver, servers = make(zone(WWW))
    for host in ("nowhere.example", "old.example"):
        asked = len(servers.asked)
        with pytest.raises(NameNotResolved):
            await resolver.resolve(host)
        per_lookup = len(servers.asked) - asked
        await asyncio.sleep(58)
        with pytest.raises(NameNotResolved, match=host.upper()):
            await resolver.resolve(host.upper())
        assert len(servers.asked) == asked + per_lookup, "60 s: the SOA's minimum"
        await asyncio.sleep(3)
        with pytest.raises(NameNotResolved):
            await resolver.resolve(host)
        assert len(servers.asked) == asked + 2 * per_lookup


@virtual_test
async def test_a_denial_without_soa_is_not_remembered() -> None:
    resolver, servers = make(zone(WWW, soa=False))
    for _ in range(2):
        with pytest.raises(NameNotResolved, match="no such name"):
            await resolver.resolve("nowhere.example")
    assert len(servers.asked) == 2


@virtual_test
async def test_ttl_zero_is_for_one_asker_only() -> None:
    count = 0

    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message:
        nonlocal count
        count += 1
        return respond(query, [f"once.example. 0 AAAA 2001:db8::{count}"])

    resolver, _ = make(reply)
    got = await asyncio.gather(*(resolver.resolve("once.example") for _ in range(5)))
    assert {addresses[0] for addresses in got} == {packed(f"2001:db8::{n}") for n in range(1, 6)}
    assert len(resolver.cache) == 0
    await resolver.resolve("once.example")
    assert count == 6


@virtual_test
async def test_equal_questions_at_one_time_are_one() -> None:
    resolver, servers = make(zone({key: value[:1] for key, value in WWW.items()}))
    got = await asyncio.gather(
        *(resolver.resolve(host) for host in ("www.example", "WWW.EXAMPLE", "www.example.") * 10)
    )
    assert got == [[packed("2001:db8::1")]] * 30
    assert len(servers.asked) == 1


@virtual_test
async def test_who_gives_up_does_not_spoil_it_for_others_and_the_last_one_ends_it() -> None:
    resolver, servers = make(zone({key: value[:1] for key, value in WWW.items()}))
    servers.delay = 1.0
    first, second = (asyncio.ensure_future(resolver.resolve("www.example")) for _ in range(2))
    await asyncio.sleep(0.5)
    first.cancel()
    assert await second == [packed("2001:db8::1")]
    resolver.cache.clear()
    third = asyncio.ensure_future(resolver.resolve("www.example"))
    await asyncio.sleep(0.5)
    third.cancel()
    await asyncio.sleep(5)
    assert len(resolver.cache) == 0, "nobody waited for it any more"
    assert third.cancelled()


@virtual_test
async def test_closing_tells_those_who_wait() -> None:
    resolver, _ = make(lambda query, server: None)
    waiting = asyncio.ensure_future(resolver.resolve("www.example"))
    await asyncio.sleep(0.1)
    await resolver.close()
    with pytest.raises(NameNotResolved, match="stopped"):
        await waiting


@virtual_test
async def test_who_has_more_time_than_the_lookup_does_not_ask_again_after_the_end() -> None:
    resolver, servers = make(lambda query, server: None)
    waiting = [asyncio.ensure_future(resolver.resolve("www.example", timeout=timeout)) for timeout in (5, 20)]
    await asyncio.sleep(0.1)
    asked = len(servers.asked)
    await resolver.close()
    for each in waiting:
        with pytest.raises(NameNotResolved, match="stopped"):
            await each
    assert len(servers.asked) == asked


# -- names that are not asked for -------------------------------------------------------------------


@virtual_test
async def test_static_names_first_and_literal_addresses() -> None:
    hosts = {"My.Example": [packed("2001:db8::aa")], "other": [packed("2001:db8::aa"), packed("2001:db8::bb")]}
    resolver, servers = make(zone(WWW), hosts=hosts)
    assert await resolver.resolve("my.example.") == [packed("2001:db8::aa")]
    assert await resolver.resolve("OTHER") == [packed("2001:db8::aa"), packed("2001:db8::bb")]
    assert await resolver.resolve("2001:db8::9") == [packed("2001:db8::9")]
    for host in ("192.0.2.1", "::ffff:192.0.2.1"):
        with pytest.raises(NoIpv6Address):
            await resolver.resolve(host)
    assert servers.asked == []


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a b",
        "a..b",
        "x" * 64 + ".example",
        ("x" * 60 + ".") * 5,
        "a\\.b",
        "@",
        "localhost",
        "www.localhost",
        "a.invalid",
        "x.onion",
        "a\x00b",
        "\udcff",
    ],
)
def test_names_that_are_none_or_not_in_the_dns(host: str) -> None:
    async def body() -> None:
        resolver, servers = make(zone(WWW))
        with pytest.raises(NameNotResolved):
            await resolver.resolve(host)
        assert servers.asked == []

    run_virtual(body())


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_none(text: str) -> None:
    try:
        name = host_name(text)
    except NotAName:
        return
    assert name.is_absolute() and name == name.canonicalize()
    assert literal("2001:db8::1") == packed("2001:db8::1")


# -- the cache ---------------------------------------------------------------------------------------


def test_cache_is_bounded_and_forgets_the_least_recently_used() -> None:
    cache = Cache(entries=3)
    outcome = Outcome((S1,), ttl=10)
    for name in "abc":
        cache.put(name, outcome, 0.0)
    assert cache.get("a", 1.0) == outcome
    cache.put("d", outcome, 1.0)
    assert [cache.get(name, 1.0) is not None for name in "abcd"] == [True, False, True, True]
    assert cache.get("a", 10.0) is None
    assert len(cache) == 2
    cache.put("z", Outcome((S1,), ttl=0), 1.0)
    assert cache.get("z", 1.0) is None


@given(st.integers(0, 2**32 - 1))
def test_ttl_is_capped(ttl: int) -> None:
    lookup = Lookup(host_name("www.example"), [S1], KeyedRandom(bytes(32), "test"))
    ask = lookup.step()
    assert isinstance(ask, Ask)
    wire = bytearray(respond(dns.message.from_wire(ask.payload), ["www.example. 60 AAAA 2001:db8::1"]).to_wire())
    at = wire.rindex(b"\x00\x00\x00\x3c\x00\x10")
    wire[at : at + 4] = ttl.to_bytes(4)
    lookup.received(bytes(wire))
    outcome = lookup.step()
    assert isinstance(outcome, Outcome)
    assert outcome.addresses == (packed("2001:db8::1"),)
    assert 0 <= outcome.ttl <= min(ttl, MAX_TTL)


@settings(max_examples=300)
@given(st.data())
def test_whatever_the_servers_say_a_lookup_ends_and_nothing_raises(data: st.DataObject) -> None:
    lookup = Lookup(host_name("www.example"), [S1, S2], KeyedRandom(bytes([data.draw(st.integers(0, 99))]), "test"))
    asks = 0
    while isinstance(step := lookup.step(), Ask):
        asks += 1
        assert asks < 200
        kind = data.draw(st.sampled_from(["fail", "bytes", "mutated", "chain", "denied"]))
        query = dns.message.from_wire(step.payload)
        name = str(query.question[0].name)
        if kind == "fail":
            lookup.failed()
        elif kind == "bytes":
            lookup.received(data.draw(st.binary(max_size=100)))
        elif kind == "chain":
            lookup.received(respond(query, [f"{name} 5 CNAME x{name}"]).to_wire())
        elif kind == "denied":
            lookup.received(respond(query, soa=data.draw(st.booleans())).to_wire())
        else:
            wire = bytearray(respond(query, [f"{name} 5 CNAME b.", "b. 5 AAAA 2001:db8::1"], soa=True).to_wire())
            for place, value in data.draw(
                st.lists(st.tuples(st.integers(2, len(wire) - 1), st.integers(0, 255)), max_size=4)
            ):
                wire[place] = value
            lookup.received(bytes(wire))
    assert step.addresses or step.reason or step.ipv4
    assert all(len(address) == 16 for address in step.addresses)
