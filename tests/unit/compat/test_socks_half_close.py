"""Clients of the front end that end their stream before they are answered, and those that leave at that point."""

from __future__ import annotations

import asyncio
import socket

import pytest

from compat.relay import EndReason
from compat.socks.messages import Reply
from compat.socks.replies import Cause
from compat.socks.services import Services
from compat.socks.settings import SocksLimits
from tests.unit.compat.socks_requests import GREETING, asynchronous, connect_request, reply
from tests.unit.compat.socks_support import (
    EchoDatagrams,
    EchoServer,
    FrontEnd,
    LoopbackBinder,
    LoopbackDialler,
    RawClient,
    front_end,
)
from unimux import errors

GRANTED = {
    "socks5": b"\x05\x00\x05\x00\x00\x04" + socket.inet_pton(socket.AF_INET6, "::1"),
    "socks4": b"\x00\x5a" + bytes(6),
    "http": b"HTTP/1.1 200 Connection established\r\n\r\n",
}
REFUSED = {"socks5": b"\x05\x00" + reply(5), "socks4": b"\x00\x5b" + bytes(6), "http": b"HTTP/1.1 502 Bad Gateway\r\n"}


def request(dialect: str, host: str) -> bytes:
    """A whole request for port 7 of `host`."""
    return {
        "socks5": GREETING + connect_request(host, 7),
        "socks4": b"\x04\x01\x00\x07\x00\x00\x00\x01\x00" + host.encode() + b"\x00",
        "http": f"CONNECT {host}:7 HTTP/1.1\r\n\r\n".encode(),
    }[dialect]


async def half_closed(end: FrontEnd, said: bytes) -> RawClient:
    """A client that says this and ends its stream, which the front end has noticed."""
    client = await end.connect()
    await end.until(lambda: end.server.counters.accepted == end.connected, "it has come")
    client.writer.write(said)
    client.writer.write_eof()
    port = client.writer.get_extra_info("sockname")[1]
    await end.until(lambda: not is_read(end, port), "the end was read")
    return client


def is_read(end: FrontEnd, port: int) -> bool:
    """Whether the loop waits for what comes from this port of a client: not behind the end of its stream."""
    polled = set(asyncio.get_running_loop()._selector.get_map())  # type: ignore[attr-defined]
    mine = [each for each in end.transports() if each.get_extra_info("peername")[1] == port]
    return any(each.get_extra_info("socket").fileno() in polled for each in mine)


@pytest.mark.parametrize("dialect", GRANTED)
def test_a_half_close_before_the_answer_is_carried_through(dialect: str) -> None:
    async def main() -> None:
        async with EchoServer() as echo:
            gate = asyncio.Event()
            services = Services(dialler=LoopbackDialler({"echo": ("::1", echo.port)}, gate=gate))
            async with front_end(services) as end:
                client = await half_closed(end, request(dialect, "echo") + b"early")
                assert services.counters.active == 1, "it is waited for"
                gate.set()
                answer = await client.rest()
                assert answer.startswith(GRANTED[dialect]) and answer.endswith(b"early")
                await end.until(lambda: services.counters.active == 0, "it is over")
                assert services.counters.ended == {EndReason.COMPLETE: 1}
                assert services.counters.gone_early == 0

    asynchronous(main)()


@pytest.mark.parametrize("dialect", REFUSED)
def test_a_failure_is_told_to_a_client_that_has_ended_its_stream(dialect: str) -> None:
    async def main() -> None:
        gate = asyncio.Event()
        dialler = LoopbackDialler(failures={"refused": errors.ConnectRefused("refused", 7)}, gate=gate)
        services = Services(dialler=dialler, limits=SocksLimits(linger=3600))
        async with front_end(services) as end:
            client = await half_closed(end, request(dialect, "refused"))
            gate.set()
            assert (await client.rest()).startswith(REFUSED[dialect])
            await end.until(lambda: services.counters.handshaking == services.counters.active == 0, "nobody lingers")
            assert services.counters.failed == {Cause.REFUSED: 1}

    asynchronous(main)()


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        (b"", b""),
        (b"\x05", b""),
        (GREETING, b"\x05\x00"),
        (b"\x05\x01\x02\x01\x05al", b"\x05\x02"),
        (GREETING + connect_request("echo", 7)[:-1], b"\x05\x00"),
        (b"\x04\x01\x00\x07\x00\x00\x00\x01\x00echo", b""),
        (b"CONNECT echo:7 HTTP/1.1\r\n", b""),
    ],
    ids=["nothing", "version", "greeting", "password", "request", "socks4a", "http"],
)
def test_a_stream_that_ends_within_the_request_ends_the_connection(said: bytes, heard: bytes) -> None:
    async def main() -> None:
        dialler = LoopbackDialler()
        services = Services(dialler=dialler, limits=SocksLimits(handshake_timeout=3600, linger=3600))
        async with front_end(services) as end:
            client = await end.connect()
            client.writer.write(said)
            client.writer.write_eof()
            assert await client.rest() == heard
            await end.until(lambda: services.counters.handshaking == 0, "it is gone")
            assert services.counters.gone_early == 1 and not dialler.calls

    asynchronous(main)()


@pytest.mark.parametrize("early", [b"", bytes(200_000)], ids=["at the end of its stream", "with more than is taken"])
def test_a_reset_ends_the_attempt_although_nobody_reads(early: bytes) -> None:
    async def main() -> None:
        dialler = LoopbackDialler(hold={"slow"})
        services = Services(dialler=dialler, limits=SocksLimits(connect_timeout=3600))
        async with front_end(services) as end:
            said = request("http", "slow") + early
            if early:
                client = await end.connect()
                client.writer.write(said)
                await end.until(lambda: not any(each.is_reading() for each in end.transports()), "enough has come")
            else:
                client = await half_closed(end, said)
            assert services.counters.active == 1
            client.reset()
            await end.until(lambda: dialler.cancelled == 1 and services.counters.active == 0, "given up")
            assert services.counters.gone_early == 1

    asynchronous(main)()


@asynchronous
async def test_who_has_left_altogether_is_waited_for_no_longer_than_the_connect_time_out() -> None:
    dialler = LoopbackDialler(hold={"slow"})
    services = Services(dialler=dialler, limits=SocksLimits(connect_timeout=0.05))
    async with front_end(services) as end:
        client = await half_closed(end, request("socks5", "slow"))
        client.close()
        await end.until(lambda: dialler.cancelled == 1 and services.counters.active == 0, "given up")
        await end.until(lambda: services.counters.handshaking == 0, "nothing is left")
        assert services.counters.failed == {Cause.TIMED_OUT: 1}


@asynchronous
async def test_who_may_have_left_takes_nobodys_place() -> None:
    """A thousand that ask and leave: each is displaced by the next, and those who wait for their answer stay."""
    async with EchoServer() as echo:
        dialler = LoopbackDialler({"echo": ("::1", echo.port)}, hold={"slow"})
        services = Services(dialler=dialler, limits=SocksLimits(max_connections=3, connect_timeout=3600))
        async with front_end(services) as end:
            waiting = await end.connect()
            await waiting.send(request("http", "slow"))
            await end.until(lambda: services.counters.active == 1, "one waits")
            for number in range(10):
                (await half_closed(end, request("http", "slow"))).close()
                await end.until(lambda n=number: dialler.cancelled == max(n - 1, 0), "the oldest has gone")  # type: ignore[misc]
            assert services.counters.evicted == 8 and services.counters.active == 3
            for _ in range(2):
                client = await end.connect()
                await client.send(request("socks4", "echo"))
                await client.expect(GRANTED["socks4"])
            await end.until(lambda: dialler.cancelled == 10, "who could be displaced was")
            client = await end.connect()
            await client.send(GREETING + connect_request("echo", 7))
            assert await client.rest() == b"\x05\x00" + reply(Reply.GENERAL_FAILURE), "who is sure to be there stays"
            assert services.counters.failed == {Cause.FULL: 1}


@asynchronous
async def test_bind_for_a_client_that_only_wants_to_receive() -> None:
    binder = LoopbackBinder()
    services = Services(dialler=LoopbackDialler(), binder=binder)
    async with front_end(services) as end:
        client = await half_closed(end, GREETING + connect_request("::", 0, 2))
        first = (await client.read(24))[2:]
        reader, writer = await asyncio.open_connection("::1", int.from_bytes(first[20:]))
        second = await client.read(22)
        assert int.from_bytes(second[20:]) == writer.get_extra_info("sockname")[1]
        assert await reader.read() == b"", "the end of the client's stream is the peer's to see"
        writer.write(b"file")
        writer.close()
        assert await client.rest() == b"file"
        await end.until(lambda: services.counters.active == 0, "it is over")
        assert services.counters.ended == {EndReason.COMPLETE: 1} and binder.bounds[0].closed


@asynchronous
async def test_a_client_of_bind_that_has_gone_gives_the_address_back_at_the_first_reply() -> None:
    gate = asyncio.Event()
    binder = LoopbackBinder(gate=gate)
    services = Services(dialler=LoopbackDialler(), binder=binder, limits=SocksLimits(bind_timeout=3600))
    async with front_end(services) as end:
        client = await half_closed(end, GREETING + connect_request("::", 0, 2))
        await client.expect(b"\x05\x00")
        client.close()
        await client.writer.wait_closed()
        gate.set()
        await end.until(lambda: bool(binder.bounds) and binder.bounds[0].closed, "given back")
        await end.until(lambda: services.counters.active == 0, "it is over")


@pytest.mark.parametrize("at_once", [True, False], ids=["with the request", "later"])
def test_an_association_ends_with_its_stream(at_once: bool) -> None:
    async def main() -> None:
        services = Services(dialler=LoopbackDialler(), datagrams=EchoDatagrams())
        async with front_end(services) as end:
            client = await end.connect()
            client.writer.write(GREETING + b"\x05\x03\x00\x01" + bytes(6))
            if not at_once:
                await client.read(12)
            client.writer.write_eof()
            await client.rest()
            await end.until(lambda: services.counters.active == services.counters.handshaking == 0, "nothing is left")

    asynchronous(main)()
