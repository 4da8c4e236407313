"""BIND and UDP ASSOCIATE as their clients see them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import pytest

from compat.socks.messages import Reply, pack_datagram, parse_datagram
from compat.socks.replies import Cause
from compat.socks.server import _SPARE_FILES
from compat.socks.services import Services
from compat.socks.settings import SocksLimits
from tests.unit.compat.socks_requests import GREETING, UdpClient, associated, asynchronous, connect_request, reply
from tests.unit.compat.socks_support import (
    EchoDatagrams,
    LoopbackBinder,
    LoopbackDialler,
    front_end,
)
from unimux import errors


def dropped(services: Services, number: int) -> Callable[[], bool]:
    """Whether so many datagrams have been dropped, for `until`."""
    return lambda: services.counters.datagrams_dropped == number


@asynchronous
async def test_bind_names_the_address_then_the_peer_then_relays() -> None:
    binder = LoopbackBinder()
    async with front_end(Services(dialler=LoopbackDialler(), binder=binder)) as end:
        client = await end.connect()
        peer_host = bytes([5, 2, 0, 4]) + socket.inet_pton(socket.AF_INET6, "2001:db8::9") + b"\x00\x15"
        await client.send(GREETING + peer_host)
        first = (await client.read(24))[2:]
        assert first[:20] == b"\x05\x00\x00\x04" + socket.inet_pton(socket.AF_INET6, "::1")
        reader, writer = await asyncio.open_connection("::1", int.from_bytes(first[20:]))
        second = await client.read(22)
        assert int.from_bytes(second[20:]) == writer.get_extra_info("sockname")[1]
        writer.write(b"file")
        await client.expect(b"file")
        await client.send(b"thanks")
        assert await reader.readexactly(6) == b"thanks"
        writer.close()
        await writer.wait_closed()
        assert binder.clients == ["2001:db8::9"], "only the named peer may come"
        assert binder.bounds[0].closed


@asynchronous
async def test_bind_for_a_peer_that_cannot_come_is_refused() -> None:
    """An address for anybody, which an IPv4 peer was to call, waited until its time-out."""
    binder = LoopbackBinder()
    async with front_end(Services(dialler=LoopbackDialler(), binder=binder, limits=SocksLimits(linger=0.1))) as end:
        client = await end.connect()
        await client.send(GREETING + b"\x05\x02\x00\x01\xc0\x00\x02\x07\x00\x15")
        assert await client.rest() == b"\x05\x00" + reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        assert not binder.bounds
        for anybody in (b"\x01" + bytes(4), b"\x03\x0bftp.example"):
            client = await end.connect()
            await client.send(GREETING + b"\x05\x02\x00" + anybody + b"\x00\x15")
            assert (await client.read(24))[2:4] == b"\x05\x00"
        assert binder.clients == [None, None]
    assert all(bound.closed for bound in binder.bounds)


@asynchronous
async def test_bind_that_nobody_answers_ends_and_gives_the_address_back() -> None:
    binder = LoopbackBinder()
    limits = SocksLimits(bind_timeout=0.05)
    async with front_end(Services(dialler=LoopbackDialler(), binder=binder, limits=limits)) as end:
        client = await end.connect()
        await client.send(GREETING + connect_request("::", 0, 2))
        await client.read(24)
        assert await client.rest() == reply(Reply.TTL_EXPIRED)
        assert binder.clients == [None] and binder.bounds[0].closed


def test_associations_have_two_files_each_and_leave_enough_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection and a socket: as many of them as of connections would take the files of whoever comes next."""
    limits = SocksLimits(max_handshakes=8)
    monkeypatch.setattr("resource.getrlimit", lambda which: (_SPARE_FILES + limits.max_handshakes + 5, 1 << 20))

    @asynchronous
    async def main() -> None:
        services = Services(dialler=LoopbackDialler(), datagrams=EchoDatagrams(), limits=limits)
        async with front_end(services) as end:
            made = [await associated(end) for _ in range(2)]
            client = await end.connect()
            await client.send(GREETING + b"\x05\x03\x00\x01" + bytes(6))
            await client.expect(b"\x05\x00" + reply(Reply.GENERAL_FAILURE))
            assert services.counters.failed[Cause.FULL] == 1
            made[0][0].close()
            await end.until(lambda: services.counters.active == 1, "one is over")
            made.append(await associated(end))
            for _, udp, _ in made:
                udp.close()

    main()


@asynchronous
async def test_udp_association_one_flow_per_destination_until_the_connection_ends() -> None:
    datagrams = EchoDatagrams()
    services = Services(dialler=LoopbackDialler(), datagrams=datagrams)
    async with front_end(services) as end:
        client, udp, inbox = await associated(end)
        for host, port in (("name.example", 53), ("2001:db8::2", 99), ("name.example", 53)):
            udp.sendto(pack_datagram(host, port, f"to {host}".encode()))
            datagram = parse_datagram(await asyncio.wait_for(inbox.received.get(), 5))
            assert bytes(datagram.data) == f"re: to {host}".encode()
            assert (datagram.host, datagram.port) == ("2001:db8::53" if port == 53 else host, port)
        assert [flow.peer[1] for flow in datagrams.flows] == [53, 99]
        udp.sendto(b"\0\0\x01" + pack_datagram("2001:db8::2", 99, b"fragment")[3:])
        udp.sendto(b"rubbish")
        await end.until(dropped(services, 2), "dropped")
        stranger, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            UdpClient, remote_addr=udp.get_extra_info("peername")
        )
        stranger.sendto(pack_datagram("2001:db8::2", 99, b"mine too"))
        await end.until(dropped(services, 3), "not the client")
        client.close()
        await end.until(lambda: all(flow.closed for flow in datagrams.flows), "flows end with the connection")
        await end.until(lambda: services.counters.active == 0, "gone")
        assert (services.counters.datagrams_up, services.counters.datagrams_down) == (3, 3)
        udp.close()
        stranger.close()


@asynchronous
async def test_a_client_that_has_vanished_is_asked_for() -> None:
    """Its association lives as long as the connection: nothing but the kernel's probes tells that there is nobody any more."""
    async with front_end(Services(dialler=LoopbackDialler(), datagrams=EchoDatagrams())) as end:
        client, udp, _ = await associated(end)
        (served,) = end.transports()
        control = served.get_extra_info("socket")
        assert control.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert control.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        udp.close()
        client.close()


@asynchronous
async def test_an_answer_comes_from_the_address_that_was_asked() -> None:
    """RFC 1928 §7.  IPv4 programs drop what comes from a gateway's IPv6 address, which they have never heard of."""
    datagrams = EchoDatagrams()
    async with front_end(Services(dialler=LoopbackDialler(), datagrams=datagrams)) as end:
        client, udp, inbox = await associated(end)
        for asked in (
            b"\x01" + socket.inet_aton("192.0.2.10"),
            b"\x04" + socket.inet_pton(socket.AF_INET6, "2001:db8::7"),
            b"\x04" + socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.10"),
        ):
            udp.sendto(b"\0\0\0" + asked + b"\x14\xe9query")
            answer = await asyncio.wait_for(inbox.received.get(), 30)
            assert answer == b"\0\0\0" + asked + b"\x14\xe9re: query"
        assert datagrams.flows[0].peer == ("2001:db8:64::c000:20a", 5353), "the IPv4 one is asked through the gateway"
        named = b"\x03\x0a192.0.2.10"
        udp.sendto(b"\0\0\0" + named + b"\x14\xe9query")
        answer = await asyncio.wait_for(inbox.received.get(), 30)
        assert parse_datagram(answer).host == "192.0.2.10", "an address that was written where a name could be"
        client.close()
        udp.close()


@asynchronous
async def test_udp_association_takes_a_port_only_with_the_clients_own_address() -> None:
    for named, served in (
        (b"\x01\xc0\x00\x02\x01\x00\x35", True),  # the destination's, as v2ray sends
        (b"\x04" + bytes(15) + b"\x53\x00\x35", True),
        (b"\x01\x7f\x00\x00\x01\x00\x35", False),
    ):
        services = Services(dialler=LoopbackDialler(), datagrams=EchoDatagrams())
        async with front_end(services) as end:
            client, udp, inbox = await associated(end, named)
            udp.sendto(pack_datagram("2001:db8::2", 53, b"query"))
            if served:
                assert bytes(parse_datagram(await asyncio.wait_for(inbox.received.get(), 5)).data) == b"re: query"
            else:
                await end.until(dropped(services, 1), "another port than named")
            client.close()
            udp.close()


@asynchronous
async def test_udp_association_is_bounded() -> None:
    datagrams = EchoDatagrams(
        gate=asyncio.Event(),
        failures={
            "bad.example": errors.NameNotResolved("bad.example", "x"),
            "ff02::fb": ValueError("a peer is a unicast address"),
        },
    )
    services = Services(dialler=LoopbackDialler(), datagrams=datagrams, limits=SocksLimits(udp_flows=3))
    assert datagrams.gate is not None
    async with front_end(services) as end:
        _, udp, inbox = await associated(end)
        for n in range(40):
            udp.sendto(pack_datagram("2001:db8::2", 1, b"%d" % n))
        await end.until(dropped(services, 24), "sixteen wait for their flow")
        datagrams.gate.set()
        for n in range(16):
            datagram = parse_datagram(await asyncio.wait_for(inbox.received.get(), 5))
            assert bytes(datagram.data) == b"re: %d" % n
        for port in range(2, 6):
            udp.sendto(pack_datagram("2001:db8::2", port, b"x"))
            await asyncio.wait_for(inbox.received.get(), 5)
        assert [flow.closed for flow in datagrams.flows] == [True, True, False, False, False]
        udp.sendto(pack_datagram("bad.example", 1, b"x"))
        await end.until(dropped(services, 25), "no such name")
        for n in range(20):
            udp.sendto(pack_datagram("ff02::fb", 5353, b"who is there?"))
            await end.until(dropped(services, 26 + n), "to a group")
        udp.close()


@asynchronous
async def test_udp_flows_that_are_idle_are_forgotten() -> None:
    datagrams = EchoDatagrams()
    services = Services(dialler=LoopbackDialler(), datagrams=datagrams, limits=SocksLimits(udp_idle=0.1))
    async with front_end(services) as end:
        _, udp, inbox = await associated(end)
        udp.sendto(pack_datagram("2001:db8::2", 1, b"x"))
        await asyncio.wait_for(inbox.received.get(), 5)
        await end.until(lambda: datagrams.flows[0].closed, "idle")
        udp.sendto(pack_datagram("2001:db8::2", 1, b"y"))
        await asyncio.wait_for(inbox.received.get(), 5)
        assert len(datagrams.flows) == 2
        udp.close()
