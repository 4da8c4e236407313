"""Publishing a kernel-stack server behind SSAs: relayed, bounded, told who its client is; sessions on nodes in memory."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest

from compat.proxyprotocol import SIGNATURE
from compat.publish import Outstanding, _Minter
from compat.publisher import Backend, Publisher, PublishLimits, _reason, published
from compat.publishsettings import PublishSettings
from compat.relay import EndReason
from tapstack.ipv6.addresses import AddressKind
from tests.unit.compat.publishing import ask, backend, echo, stage
from tests.unit.unimux.lan import PREFIX, lan, virtual
from tests.unit.unimux.router import OTHER_PREFIX, Router
from unimux.aio import open_connection
from unimux.control import ask_service, control_server, service_socket
from unimux.errors import ConnectTimeout, PoolExhausted, SetupError
from unimux.poolstate import PoolConfig, WhenEmpty
from unimux.ssa.dnsresponder import Asker
from unimux.ssa.token import Token
from unimux.sticky import Hold, NamedSession


@dataclass(frozen=True)
class OneHost:
    """A client that keeps its address, as legacy hosts do."""

    ttl: float | None = 60.0


def test_half_close_and_every_byte_are_carried() -> None:
    async def main() -> None:
        async with stage() as (alice, publisher):
            data = bytes(range(256)) * 8000
            ssa = await publisher.issue()
            assert hashlib.sha256(await ask(alice, ssa.address, data)).digest() == hashlib.sha256(data).digest()
            await alice.until(lambda: not publisher.counters.active, 5)
            assert publisher.counters.ended == {EndReason.COMPLETE: 1}
            assert publisher.counters.bytes_in == publisher.counters.bytes_out == len(data)

    asyncio.run(main())


@pytest.mark.proves("UM-LIS-6", by="api")
def test_an_ssa_serves_one_session_and_an_ssa_for_three_serves_three() -> None:
    async def main() -> None:
        async with stage() as (alice, publisher):
            one = await publisher.issue()
            assert await ask(alice, one.address, b"a") == b"a"
            assert not publisher.is_armed(one)
            three = await publisher.issue(sessions=3)
            assert await asyncio.gather(*(ask(alice, three.address, b"%d" % n) for n in range(3))) == [b"0", b"1", b"2"]
            assert not publisher.is_armed(three)

    asyncio.run(main())


def test_the_backend_learns_the_clients_address() -> None:
    seen: list[bytes] = []

    async def look(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readexactly(52))
        writer.write(await reader.read())
        writer.close()

    async def main() -> None:
        async with stage(look, proxy_protocol=True) as (alice, publisher):
            ssa = await publisher.issue()
            reader, writer = await open_connection(alice, ssa.address, 4711)
            source = writer.get_extra_info("sockname")
            writer.write(b"after the header")
            writer.write_eof()
            assert await reader.read() == b"after the header"
            writer.close()
            signature, head, peer, own, peer_port, own_port = struct.unpack("!12s4s16s16sHH", seen[0])
            assert (signature, head.hex()) == (SIGNATURE, "21210024")
            assert (str(IPv6Address(peer)), peer_port) == source[:2]
            assert (IPv6Address(own), own_port) == (ssa.address, 4711)

    asyncio.run(main())


def test_a_backend_that_is_down_resets_the_client_and_is_told_once() -> None:
    async def main() -> None:
        said: list[str] = []
        async with lan(latency=0.0001) as net:
            alice, bob = await net.node(), await net.node()
            free = await asyncio.start_server(echo, "127.0.0.1", 0)
            port = free.sockets[0].getsockname()[1]
            free.close()
            await free.wait_closed()
            async with published(bob, "echo", Backend("127.0.0.1", port), complain=said.append) as publisher:
                for _ in range(2):
                    ssa = await publisher.issue()
                    with pytest.raises(ConnectionError):
                        await ask(alice, ssa.address, b"x" * 10)
                assert len(said) == 1
                assert "cannot be reached" in said[0]
                assert publisher.counters.backend_failed == 2

    asyncio.run(main())


def test_a_backend_is_reached_at_its_second_address_where_the_first_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        with ExitStack() as stack:
            silent = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            for _ in range(2):  # its queue is full, so that the kernel drops what comes
                waiting = stack.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex(silent.getsockname())
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            places = [silent.getsockname(), server.sockets[0].getsockname()]

            async def two(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
                assert (host, port) == ("backend.example", 80)
                return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", place) for place in places]

            async with server, lan(latency=0.0001) as net:
                alice, bob = await net.node(), await net.node()
                monkeypatch.setattr(loop, "getaddrinfo", two)
                limits = PublishLimits(connect_timeout=60)
                async with published(bob, "echo", Backend("backend.example", 80), limits=limits) as publisher:
                    assert await ask(alice, (await publisher.issue()).address, b"hello") == b"hello"

    asyncio.run(main())


def test_back_pressure_reaches_the_backend_that_writes() -> None:
    """A client that does not read: what is on the way stays bounded, and everything arrives once it reads."""
    total = 64 << 20
    written = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        piece = bytes(1 << 16)
        while written < total:
            writer.write(piece)
            await writer.drain()
            written += len(piece)
        writer.close()

    async def main() -> None:
        nonlocal written
        async with stage(pour) as (alice, publisher):
            ssa = await publisher.issue()
            reader, writer = await open_connection(alice, ssa.address, None)
            last = -1
            while written == 0 or written != last:
                last = written
                await asyncio.sleep(0.3)
            assert written < total, "nobody reads, and yet everything left the backend"
            received = 0
            while data := await reader.read(1 << 20):
                received += len(data)
            assert received == total
            writer.close()

    asyncio.run(main())


def test_more_sessions_than_the_limit_are_reset_at_once() -> None:
    release = asyncio.Event

    async def main() -> None:
        done = release()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await done.wait()
            writer.close()

        async with stage(wait, limits=PublishLimits(max_sessions=1)) as (alice, publisher):
            first, second = await publisher.issue(), await publisher.issue()
            reader, writer = await open_connection(alice, first.address, None)
            await alice.until(lambda: publisher.counters.active == 1, 5)
            with pytest.raises(ConnectionError):
                await ask(alice, second.address, b"x")
            assert publisher.counters.turned_away == 1
            done.set()
            assert await reader.read() == b""
            writer.close()

    asyncio.run(main())


def test_nobody_goes_on_to_call_a_slow_backend_for_who_has_left() -> None:
    """Else a client that comes and goes would take a file for each visit, beyond the limit of sessions."""

    async def main() -> None:
        under_way = 0

        async def slow(factory: Callable[[], asyncio.BaseProtocol], client: tuple[str, int]) -> object:
            nonlocal under_way
            under_way += 1
            try:
                await asyncio.sleep(3600)
                return None
            finally:
                under_way -= 1

        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            limits = PublishLimits(max_sessions=2, connect_timeout=600)
            async with published(bob, "slow", Backend("::1", 9), sessions=50, limits=limits, connect=slow) as publisher:
                ssa = await publisher.issue()
                for visits in range(1, 11):
                    transport, _ = await alice.create_connection(asyncio.Protocol, ssa.address, None)
                    await asyncio.sleep(1)
                    assert (publisher.counters.sessions, publisher.counters.active, under_way) == (visits, 1, 1)
                    transport.abort()
                    await asyncio.sleep(1)
                    assert (publisher.counters.active, under_way) == (0, 0)
                assert publisher.counters.turned_away == 0 == publisher.counters.backend_failed

    virtual(main())


def test_an_ssa_that_is_used_up_is_replaced_and_announced() -> None:
    async def main() -> None:
        async with stage() as (alice, publisher):
            announced: asyncio.Queue[IPv6Address] = asyncio.Queue()
            keeping = asyncio.create_task(publisher.keep(1, lambda ssa: announced.put_nowait(ssa.address)))
            used = set()
            for n in range(4):
                where = await asyncio.wait_for(announced.get(), 5)
                used.add(where)
                assert await ask(alice, where, b"%d" % n) == b"%d" % n
            assert len(used) == 4
            keeping.cancel()

    asyncio.run(main())


def test_a_publisher_outlives_a_lack_of_addresses_and_complains_once() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node(pool=PoolConfig(low=0, high=1, limit=1))
            complaints: list[str] = []
            publisher = Publisher(bob, "echo", Backend("127.0.0.1", 9), complain=complaints.append)
            announced: list[IPv6Address] = []
            keeping = asyncio.create_task(publisher.keep(2, lambda ssa: announced.append(ssa.address)))
            await asyncio.sleep(200)
            assert not keeping.done() and len(announced) == len(complaints) == 1
            assert "New clients of echo have to wait: No one-time address was ready" in complaints[0]
            keeping.cancel()
            await publisher.close()

    virtual(main())


def test_a_publisher_that_never_had_an_address_says_so() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node(pool=PoolConfig(low=0, high=0, limit=1, when_empty=WhenEmpty.WAIT))
            entry = await bob.take_address(AddressKind.EPHEMERAL, None, timeout=10)
            bob.stack.host.addresses.acquire(entry, Hold(NamedSession("held"), entry))
            publisher = Publisher(bob, "echo", Backend("127.0.0.1", 9))
            with pytest.raises(PoolExhausted):
                await publisher.keep(1, lambda ssa: None)
            await publisher.close()

    virtual(main())


def test_why_a_backend_cannot_be_reached_is_what_the_kernel_says() -> None:
    """And not what asyncio makes of it, which names the place again."""
    refused = ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 8081)")
    assert _reason(refused) == "connection refused"
    assert _reason(socket.gaierror(socket.EAI_NONAME, "Name or service not known")) == "name or service not known"


def test_a_backend_that_nobody_can_be_called_is_a_sentence() -> None:
    async def main() -> None:
        complaints: list[str] = []
        async with lan(latency=0.0001) as net:
            alice, bob = await net.node(), await net.node()
            backend = Backend.parse("a..b:80")
            async with published(bob, "web", backend, sessions=1, complain=complaints.append) as publisher:
                ssa = await publisher.issue()
                reader, writer = await open_connection(alice, ssa.address, None)
                with pytest.raises(ConnectionError):
                    await reader.read()
                writer.close()
                assert publisher.counters.backend_failed == 1
        assert complaints == [
            "The server at a..b:80 cannot be reached (no host can have that name): clients are reset until it is."
        ]

    asyncio.run(main())


@pytest.mark.proves("UM-SSA-3", by="api")
def test_so_many_addresses_asked_for_by_dns_wait_for_their_clients_and_no_more() -> None:
    """Also when they are asked for in one moment, in which none is ready."""

    async def main() -> None:
        async with lan() as net:
            bob = await net.node(pool=PoolConfig(low=0, high=8, limit=8))
            publisher = Publisher(bob, "shop", Backend("127.0.0.1", 9))
            minter = _Minter(publisher, PublishSettings(dns="shop.example", dns_outstanding=2, dns_lifetime=60))
            asker = Asker("2001:db8::53", None, None, "shop.example.", None)
            answers = await asyncio.gather(*(minter.mint(asker) for _ in range(6)), return_exceptions=True)
            assert [type(each) for each in answers] == [IPv6Address] * 2 + [Outstanding] * 4
            assert len(publisher.armed()) == 2
            await asyncio.sleep(61)
            assert isinstance(await minter.mint(asker), IPv6Address), "those have expired"
            await publisher.close()

    virtual(main())


@pytest.mark.proves("UM-ADDR-11", "UM-SSA-3", "UM-LIS-8", by="api")
def test_what_is_published_moves_to_the_preferred_prefix_and_does_not_pile_up_in_the_other() -> None:
    """Neither what is kept armed nor what DNS hands out rests in the old prefix, however often the two change places."""

    async def main() -> None:
        async with lan() as net:
            bob = await net.node(advertised=True)
            await asyncio.sleep(5)
            router = Router(net)
            await bob.ready(4, 60)
            publisher = Publisher(bob, "shop", Backend("127.0.0.1", 9), lifetime=6000)
            minter = _Minter(publisher, PublishSettings(dns="shop.example", dns_outstanding=2, dns_lifetime=6000))
            asker = Asker("2001:db8::53", None, None, "shop.example.", None)
            announced: list[IPv6Address] = []
            keeping = asyncio.create_task(publisher.keep(2, lambda ssa: announced.append(ssa.address)))
            minted: list[IPv6Address] = []
            place = {PREFIX: OTHER_PREFIX, OTHER_PREFIX: PREFIX}
            now_in = PREFIX
            for _ in range(6):
                await asyncio.sleep(30)
                assert len(publisher.armed()) >= 2
                for _ in range(3):
                    with suppress(Outstanding):
                        minted.append(await minter.mint(asker))
                network = IPv6Network(f"{now_in}/64")
                assert all(IPv6Address(told["address"]) in network for told in publisher.armed())
                assert sum(map(minter.free, minted)) == 2
                router.prefer(place[now_in])
                router.deprecate(now_in)
                now_in = place[now_in]
            assert (len(announced), len(minted)) == (4, 4), "two each way in each prefix"
            keeping.cancel()
            await publisher.close()

    virtual(main())


def test_the_url_for_people_and_the_token_for_programs() -> None:
    async def main() -> None:
        async with stage(scheme="http") as (_, publisher):
            told = publisher.describe(await publisher.issue(client="2001:db8::/32", lifetime=60))
            assert told["url"] == f"http://[{told['address']}]/"
            token = Token.parse(told["token"])
            assert (str(token.address), token.service, token.sessions) == (told["address"], "echo", 1)
            assert told["client"] == "2001:db8::/32"
            assert 59 < told["seconds"] <= 60

    asyncio.run(main())


@pytest.mark.proves("UM-LIS-8", by="api")
def test_by_default_the_first_client_leases_an_ssa_and_the_next_client_gets_another() -> None:
    async def main() -> None:
        async with lan(latency=0.0001) as net, backend(echo) as where:
            alice, carol, bob = await net.node(), await net.node(), await net.node()
            async with published(bob, "echo", where) as publisher:
                announced: asyncio.Queue[IPv6Address] = asyncio.Queue()
                keeping = asyncio.create_task(publisher.keep(1, lambda ssa: announced.put_nowait(ssa.address)))
                first = await announced.get()
                words = [b"%d" % n for n in range(6)]
                assert await ask(alice, first, words[0], session=OneHost()) == words[0]
                second = await asyncio.wait_for(announced.get(), 5)
                assert await asyncio.gather(*(ask(alice, first, word, session=OneHost()) for word in words)) == words
                with pytest.raises(ConnectTimeout):
                    await open_connection(carol, first, None, timeout=1.5)
                assert await ask(carol, second, b"mine") == b"mine"
                (lease, _, _) = publisher.armed()
                assert (lease["address"], lease["taken"], lease["sessions"]) == (str(first), True, None)
                assert str(lease["client"]).endswith("/128"), "bound to the host that came first"
                keeping.cancel()

    asyncio.run(main())


@pytest.mark.proves("UM-SSA-1", "UM-LIS-4", by="api")
def test_other_processes_ask_for_addresses_over_the_control_socket(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unimux.control.service_socket", lambda name: tmp_path / f"{name}.sock")

    async def main() -> None:
        async with stage(scheme="http") as (alice, publisher), control_server(publisher):
            with pytest.raises(SetupError, match="'echo' is taken"):
                async with control_server(publisher):
                    pass
            answer = await asyncio.to_thread(ask_service, "echo", {"new": 1, "lifetime": 30})
            assert publisher.counters.issued == 1
            listed = await asyncio.to_thread(ask_service, "echo", {"list": True})
            assert [each["address"] for each in listed["armed"]] == [answer["issued"]["address"]]
            assert await ask(alice, IPv6Address(answer["issued"]["address"]), b"by control") == b"by control"
            for wrong, why in (
                ({"new": 1, "client": "nobody"}, "no client"),
                ({"new": 1, "sessions": 0}, "at least 1 session"),
                ({"new": 1, "colour": 2}, "cannot be read"),
            ):
                with pytest.raises(Exception, match=why):
                    await asyncio.to_thread(ask_service, "echo", wrong)
        with pytest.raises(SetupError, match="No service 'echo' runs"):
            await asyncio.to_thread(ask_service, "echo", {"list": True})
        assert not list(tmp_path.iterdir())

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "host:0", "host:99999", "::1:80", "[::1]", "host:ssh"])
def test_what_is_no_host_and_port_is_a_sentence(text: str) -> None:
    with pytest.raises(SetupError, match="not HOST:PORT"):
        Backend.parse(text)


def test_names_of_services_are_safe_as_file_names() -> None:
    assert service_socket("web").name == "web.sock"
    for bad in ("", "../etc", "a/b", ".hidden", "x" * 64):
        with pytest.raises(SetupError, match="cannot be the name"):
            service_socket(bad)
