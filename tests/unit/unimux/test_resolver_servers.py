"""Name servers that fail, each in its way, and the next one that is asked."""

from __future__ import annotations

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest

from tapstack.clock import run_virtual
from tapstack.ipv6.addresses import AddressKind
from tests.unit.unimux.lan import lan, virtual_test
from tests.unit.unimux.nameservers import S1, S2, WWW, make, packed, respond, zone
from unimux.das import AddressNotSet
from unimux.errors import ConnectRefused, NameNotResolved, NodeStopped, PoolExhausted
from unimux.poolstate import NoPrefix, PoolConfig
from unimux.sticky import Hold, NamedSession

pytestmark = pytest.mark.proves("RFC8504-7/1", by="api")


@virtual_test
async def test_rounds_of_servers_with_new_ids_and_longer_waits() -> None:
    resolver, servers = make(lambda query, server: None)
    loop = asyncio.get_running_loop()
    with pytest.raises(NameNotResolved, match="no name server answered"):
        await resolver.resolve("www.example", timeout=60)
    assert [server for server, _, _ in servers.asked] == [S1, S2, S1, S2]
    assert len({query.id for _, query, _ in servers.asked}) == 4
    assert loop.time() == pytest.approx(2 + 2 + 4 + 4)
    assert len(resolver.cache) == 0


@virtual_test
async def test_the_callers_time_out_comes_first() -> None:
    resolver, _ = make(lambda query, server: None)
    with pytest.raises(NameNotResolved, match="no answer within 3 s"):
        await resolver.resolve("www.example", timeout=3)
    assert asyncio.get_running_loop().time() == 3


@pytest.mark.parametrize(
    "bad",
    [
        ConnectRefused("2001:db8::53", 53),
        OSError("unreachable"),
        b"",
        b"rubbish",
        dns.rcode.SERVFAIL,
        dns.rcode.REFUSED,
        "other id",
        "other question",
        "query",
        "two questions",
    ],
    ids=str,
)
def test_the_second_server_where_the_first_is_of_no_use(bad: object) -> None:
    good = zone({key: value[:1] for key, value in WWW.items()})

    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message | bytes | Exception | None:
        if server != S1:
            return good(query, server)
        if isinstance(bad, (bytes, Exception)):
            return bad
        if isinstance(bad, int):
            return respond(query, rcode=bad)
        response = respond(query, ["www.example. 60 AAAA 2001:db8::bad"])
        if bad == "other id":
            response.id ^= 1
        elif bad == "other question":
            other = dns.message.make_query("evil.example.", "AAAA", id=query.id)
            response = respond(other, ["www.example. 60 AAAA 2001:db8::bad"])
        elif bad == "query":
            response.flags &= ~dns.flags.QR
        else:
            response.question *= 2
            response.question[1] = dns.rrset.from_text("evil.example.", 0, "IN", "AAAA")
        return response

    async def body() -> None:
        resolver, servers = make(reply)
        assert await resolver.resolve("www.example") == [packed("2001:db8::1")]
        assert [server for server, _, _ in servers.asked] == [S1, S2]

    run_virtual(body())


@virtual_test
async def test_every_server_fails_in_its_way() -> None:
    resolver, _ = make(lambda query, server: respond(query, rcode=dns.rcode.SERVFAIL))
    with pytest.raises(NameNotResolved, match="SERVFAIL"):
        await resolver.resolve("www.example")


@virtual_test
async def test_an_old_server_is_asked_again_without_edns() -> None:
    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message:
        if query.edns >= 0:
            return respond(query, rcode=dns.rcode.FORMERR)
        return respond(query, ["www.example. 60 AAAA 2001:db8::1"])

    resolver, servers = make(reply)
    assert await resolver.resolve("www.example") == [packed("2001:db8::1")]
    assert [(server, query.edns) for server, query, _ in servers.asked] == [(S1, 0), (S1, -1)]


@virtual_test
async def test_truncated_means_tcp() -> None:
    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message:
        if len(servers.asked) == 1:
            response = respond(query)
            response.flags |= dns.flags.TC
            return response
        return respond(query, ["www.example. 60 AAAA 2001:db8::1"])

    resolver, servers = make(reply)
    assert await resolver.resolve("www.example") == [packed("2001:db8::1")]
    assert [(server, way) for server, _, way in servers.asked] == [(S1, "udp"), (S1, "tcp")]
    assert resolver.counters.streams == 1


@virtual_test
async def test_truncated_in_the_middle_of_a_record_means_tcp_too() -> None:
    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message | bytes:
        response = respond(query, ["www.example. 60 AAAA 2001:db8::1"])
        if len(servers.asked) > 1:
            return response
        response.flags |= dns.flags.TC
        return response.to_wire()[:-20]

    resolver, servers = make(reply)
    assert await resolver.resolve("www.example") == [packed("2001:db8::1")]
    assert servers.asked[1][2] == "tcp"


@virtual_test
async def test_a_stream_that_closes_is_a_server_that_failed() -> None:
    def reply(query: dns.message.Message, server: bytes) -> dns.message.Message | None:
        response = respond(query, ["www.example. 60 AAAA 2001:db8::1"])
        if server == S1:
            response.flags |= dns.flags.TC
            return None if servers.asked[-1][2] == "tcp" else response
        return response

    resolver, servers = make(reply)
    assert await resolver.resolve("www.example") == [packed("2001:db8::1")]
    assert [(server, way) for server, _, way in servers.asked] == [(S1, "udp"), (S1, "tcp"), (S2, "udp")]


@pytest.mark.parametrize(
    "error", [PoolExhausted(1.0), AddressNotSet(1.0), NodeStopped()], ids=lambda e: type(e).__name__
)
def test_a_lack_of_addresses_to_ask_from_is_reported_as_that(error: Exception) -> None:
    async def main() -> None:
        resolver, servers = make(lambda query, server: error)
        with pytest.raises(type(error)):
            await resolver.resolve("www.example")
        assert len(servers.asked) == 1

    run_virtual(main())


@pytest.mark.proves("UM-POOL-3", "UM-POOL-5", by="api")
@pytest.mark.parametrize("missing", [PoolExhausted, NoPrefix])
@pytest.mark.parametrize("host", ["2001:db8:1::80", "www.example"])
def test_an_empty_pool_is_waited_for_and_told_by_name_as_by_address(host: str, missing: type[Exception]) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node(name_servers=["2001:db8:1::53"], pool=PoolConfig(low=0, high=1, limit=1))
            if missing is PoolExhausted:
                entry = await node.take_address(AddressKind.EPHEMERAL, None, timeout=10)
                node.stack.host.addresses.acquire(entry, Hold(NamedSession("other"), entry))
            else:
                prefixes = node.stack.host.prefix_list
                prefixes.remove(next(iter(prefixes)), node.now())
            began = node.now()
            with pytest.raises(missing, match="30 s"):
                await node.connect(host, 80, timeout=30)
            assert node.now() - began == pytest.approx(30)
            assert node.pool.waiting == 0

    run_virtual(main())


@virtual_test
async def test_each_waits_for_an_address_to_ask_from_as_long_as_it_has_time() -> None:
    async def ask(after: float, timeout: float) -> float:
        await asyncio.sleep(after)
        with pytest.raises(PoolExhausted):
            await resolver.resolve("www.example", timeout=timeout)
        return asyncio.get_running_loop().time()

    resolver, servers = make(zone(WWW))
    servers.empty = True
    ends = await asyncio.gather(ask(0, 10), ask(1, 3), ask(2, 8), ask(3, 27), ask(4, 8))
    assert list(ends) == [10, 4, 10, 30, 12]
    assert servers.asked == []
    late = asyncio.ensure_future(resolver.resolve("www.example", timeout=5))
    await asyncio.sleep(4)
    servers.empty = False
    assert packed("2001:db8::1") in await late, "an address that comes is used"


@virtual_test
async def test_without_a_name_server() -> None:
    resolver, servers = make(zone(WWW), servers=())
    with pytest.raises(NameNotResolved, match="no name server is known"):
        await resolver.resolve("www.example")
    assert servers.asked == []


@pytest.mark.parametrize("useless", ["::", "::1", "ff02::1", "fe80::1", "::ffff:192.0.2.1"])
def test_addresses_that_no_connection_can_go_to_are_left_out(useless: str) -> None:
    async def body() -> None:
        resolver, _ = make(lambda query, server: respond(query, [f"www.example. 60 AAAA {useless}"]))
        with pytest.raises(NameNotResolved, match="not ones to connect to"):
            await resolver.resolve("www.example")

    run_virtual(body())
