"""The front end as its clients see it, with loopback in the node's part."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from pathlib import Path

import pytest

from compat.relay import EndReason
from compat.socks.command import _tell_begin, _tell_end
from compat.socks.handshake import Failure
from compat.socks.messages import Command, Dialect, Reply
from compat.socks.replies import Cause
from compat.socks.server import SocksServer
from compat.socks.services import Services
from compat.socks.session import PasswordTable, Session
from compat.socks.settings import SocksLimits
from tapstack.tcp.options import PortMode
from tests.unit.compat.socks_requests import GREETING, associated, asynchronous, connect_request, established, reply
from tests.unit.compat.socks_support import (
    EchoDatagrams,
    EchoServer,
    LoopbackDialler,
    front_end,
)
from unimux import errors


@asynchronous
async def test_connect_names_the_local_address_and_carries_everything_both_ways() -> None:
    async with EchoServer() as echo:
        dialler = LoopbackDialler({"echo": ("::1", echo.port)})
        services = Services(dialler=dialler, mode=PortMode.L0)
        async with front_end(services) as end:
            client = await end.connect()
            await client.send(GREETING)
            await client.expect(b"\x05\x00")
            await client.send(connect_request("echo", 7) + b"early ")
            answer = await client.read(22)
            assert answer[:20] == b"\x05\x00\x00\x04" + socket.inet_pton(socket.AF_INET6, "::1")
            assert answer[20:] != b"\0\0", "the port of our side"
            await client.send(b"late")
            client.writer.write_eof()
            assert await client.rest() == b"early late"
            await end.until(lambda: not end.server.counters.active, "ended")
        (call,) = dialler.calls
        assert (call.host, call.port, call.mode, call.session) == ("echo", 7, PortMode.L0, None)
        assert call.timeout == services.limits.connect_timeout
        counters = services.counters
        assert counters.requests == {(Dialect.SOCKS5, Command.CONNECT): 1}
        assert (counters.ended[EndReason.COMPLETE], counters.bytes_up, counters.bytes_down) == (1, 10, 10)
        assert (counters.accepted, counters.handshaking, counters.active) == (1, 0, 0)


@asynchronous
async def test_socks4a_and_http_on_the_same_port() -> None:
    async with EchoServer() as echo:
        services = Services(dialler=LoopbackDialler({"echo": ("::1", echo.port)}))
        async with front_end(services) as end:
            old = await end.connect()
            await old.send(b"\x04\x01\x00\x07\x00\x00\x00\x01\x00echo\x00")
            await old.expect(b"\x00\x5a" + bytes(6))
            web = await end.connect()
            await web.send(b"CONNECT echo:7 HTTP/1.1\r\nHost: echo:7\r\n\r\n")
            await web.expect(b"HTTP/1.1 200 Connection established\r\n\r\n")
            for client in (old, web):
                await client.send(b"hello")
                await client.expect(b"hello")


@asynchronous
async def test_failures_are_told_and_the_connection_ends() -> None:
    dialler = LoopbackDialler(
        failures={
            "refused": errors.ConnectRefused("refused", 7),
            "pool": errors.PoolExhausted(1.0),
            "nowhere": errors.NameNotResolved("nowhere", "no such name"),
            "bug": KeyError("bug"),
            "192.0.2.1": errors.NoIpv6Address("192.0.2.1"),
        }
    )
    services = Services(dialler=dialler, limits=SocksLimits(linger=0.1))
    async with front_end(services) as end:
        for host, code in (("refused", 5), ("pool", 1), ("nowhere", 4), ("192.0.2.1", 4)):
            client = await end.connect()
            await client.send(GREETING + connect_request(host, 7))
            assert await client.rest() == b"\x05\x00" + reply(code)
        client = await end.connect()
        await client.send(GREETING + b"\x05\x01\x00\x01\xc0\x00\x02\x01\x00\x50")
        assert await client.rest() == b"\x05\x00" + reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED)
        client = await end.connect()
        await client.send(b"CONNECT refused:7 HTTP/1.1\r\n\r\n")
        assert b"\r\n\r\nrefused:7 refused the connection: check" in await client.rest()
        assert services.counters.failed[Cause.REFUSED] == 2
        await end.until(lambda: services.counters.active == services.counters.handshaking == 0, "all gone")


def test_a_fault_of_the_dialler_is_a_failure_for_the_client_and_a_traceback_for_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def body() -> None:
        async with front_end(Services(dialler=LoopbackDialler(failures={"bug": KeyError("bug")}))) as end:
            client = await end.connect()
            await client.send(GREETING + connect_request("bug", 7))
            assert await client.rest() == b"\x05\x00" + reply(1)

    with caplog.at_level(logging.ERROR):
        asyncio.run(body())
    assert [record.exc_info is not None for record in caplog.records] == [True]


@asynchronous
async def test_a_dialler_that_does_not_keep_its_time_out_is_cancelled() -> None:
    dialler = LoopbackDialler(hold={"slow"})
    async with front_end(Services(dialler=dialler, limits=SocksLimits(connect_timeout=0.05))) as end:
        client = await end.connect()
        await client.send(GREETING + connect_request("slow", 7))
        assert await client.rest() == b"\x05\x00" + reply(Reply.TTL_EXPIRED)
        assert dialler.cancelled == 1


@asynchronous
async def test_a_client_that_leaves_while_we_dial_takes_the_attempt_along() -> None:
    dialler = LoopbackDialler(hold={"slow"})
    services = Services(dialler=dialler)
    async with front_end(services) as end:
        client = await end.connect()
        await client.send(GREETING + connect_request("slow", 7))
        await end.until(lambda: services.counters.active == 1, "dialling")
        client.reset()
        await end.until(lambda: dialler.cancelled == 1 and services.counters.active == 0, "given up")
        assert services.counters.gone_early == 1


@asynchronous
async def test_early_data_is_bounded() -> None:
    async with EchoServer() as echo:
        gate = asyncio.Event()
        dialler = LoopbackDialler({"echo": ("::1", echo.port)}, gate=gate)
        async with front_end(Services(dialler=dialler, limits=SocksLimits(early_data=1000))) as end:
            client = await end.connect()
            await client.send(GREETING + connect_request("echo", 7))
            await client.expect(b"\x05\x00")
            payload = bytes(range(256)) * 40_000
            client.writer.write(payload)
            client.writer.write_eof()
            for _ in range(50):
                await asyncio.sleep(0)
            held = [transport for transport in end.transports() if not transport.is_reading()]
            while not held:
                await asyncio.sleep(0.005)
                held = [transport for transport in end.transports() if not transport.is_reading()]
            gate.set()
            assert (await client.rest())[22:] == payload, "and what was held back arrives"


@asynchronous
async def test_credentials_and_sessions_reach_the_dialler() -> None:
    async with EchoServer() as echo:
        dialler = LoopbackDialler({"echo": ("::1", echo.port)})
        services = Services(dialler=dialler, authenticator=PasswordTable({"alice": "wonder"}))
        async with front_end(services) as end:
            client = await end.connect()
            user = b"alice-session-42-ttl-5m"
            await client.send(b"\x05\x02\x00\x02")
            await client.expect(b"\x05\x02")
            await client.send(b"\x01" + bytes([len(user)]) + user + b"\x06wonder")
            await client.expect(b"\x01\x00")
            await client.send(connect_request("echo", 7))
            await client.read(22)
            client = await end.connect()
            await client.send(GREETING)
            assert await client.rest() == b"\x05\xff"
            assert services.counters.rejected[Failure.NO_METHOD] == 1
        session = dialler.calls[0].session
        assert session == Session("alice", "42") and session.ttl == 300


@asynchronous
async def test_commands_without_a_service_are_not_supported() -> None:
    services = Services(dialler=LoopbackDialler())
    async with front_end(services) as end:
        for command in (2, 3):
            client = await end.connect()
            await client.send(GREETING + connect_request("x", 1, command))
            assert await client.rest() == b"\x05\x00" + reply(Reply.COMMAND_NOT_SUPPORTED)
        old = await end.connect()
        await old.send(b"\x04\x02\x00\x07\x00\x00\x00\x01\x00echo\x00")
        assert await old.rest() == b"\x00\x5b" + bytes(6)
        assert services.counters.failed[Cause.COMMAND] == 3


@asynchronous
async def test_a_destination_that_resets_at_once() -> None:
    async def slam(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await asyncio.start_server(slam, "::1", 0)
    services = Services(dialler=LoopbackDialler({"slam": ("::1", server.sockets[0].getsockname()[1])}))
    async with server, front_end(services) as end:
        for _ in range(20):
            client = await end.connect()
            await client.send(GREETING + connect_request("slam", 7))
            try:
                await client.rest()
            except ConnectionResetError:
                pass
        await end.until(lambda: services.counters.active == services.counters.handshaking == 0, "nothing is left")


@asynchronous
async def test_a_connection_that_is_lost_before_it_could_be_answered_is_a_failure() -> None:
    async with EchoServer() as echo:
        dialler = LoopbackDialler({"echo": ("::1", echo.port)})
        direct = dialler.create_connection

        async def lost(*args: object, **options: object) -> object:
            transport, protocol = await direct(*args, **options)  # type: ignore[arg-type]
            transport.abort()
            for _ in range(3):
                await asyncio.sleep(0)
            return transport, protocol

        dialler.create_connection = lost  # type: ignore[method-assign, assignment]
        services = Services(dialler=dialler, limits=SocksLimits(linger=0.1))
        async with front_end(services) as end:
            client = await end.connect()
            await client.send(GREETING + connect_request("echo", 7))
            assert await client.rest() == b"\x05\x00" + reply(5)
            assert services.counters.ended.total() == 0
            await end.until(lambda: services.counters.active == services.counters.handshaking == 0, "nothing is left")


# -- limits ---------------------------------------------------------------------------------------


@asynchronous
async def test_handshake_time_out() -> None:
    services = Services(dialler=LoopbackDialler(), limits=SocksLimits(handshake_timeout=0.2))
    async with front_end(services) as end:
        silent, slow = await end.connect(), await end.connect()
        await slow.send(b"\x05")
        for client in (silent, slow):
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await client.read(1)
        assert services.counters.handshake_timeouts == 2


@asynchronous
async def test_one_connection_too_many_is_told_so() -> None:
    async with EchoServer() as echo:
        dialler = LoopbackDialler({"echo": ("::1", echo.port)})
        services = Services(dialler=dialler, limits=SocksLimits(max_connections=2))
        async with front_end(services) as end:
            first, _ = await established(end), await established(end)
            client = await end.connect()
            await client.send(GREETING + connect_request("echo", 7))
            assert await client.rest() == b"\x05\x00" + reply(1)
            assert services.counters.failed[Cause.FULL] == 1
            first.close()
            await end.until(lambda: services.counters.active == 1, "one has ended")
            await established(end)


@asynchronous
async def test_slow_loris_displaces_only_itself() -> None:
    async with EchoServer() as echo:
        services = Services(
            dialler=LoopbackDialler({"echo": ("::1", echo.port)}), limits=SocksLimits(max_handshakes=50)
        )
        async with front_end(services) as end:
            old = await established(end)
            crowd = []
            for n in range(500):
                loris = await end.connect()
                loris.writer.write((b"\x05", b"CONN", b"\x04\x01\x00")[n % 3])
                crowd.append(loris)
                if n % 50 == 49:
                    await established(end)
            await old.send(b"still here")
            await old.expect(b"still here")
            counters = services.counters
            assert counters.evicted >= 450 and counters.handshaking <= 50
            assert counters.gone_early == 0, "it was us who ended them"
            assert counters.active == 11
            for loris in crowd[:450]:
                with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                    await loris.read(1)


@asynchronous
async def test_garbage_closes_cleanly_and_others_are_served() -> None:
    async with EchoServer() as echo:
        services = Services(dialler=LoopbackDialler({"echo": ("::1", echo.port)}), limits=SocksLimits(linger=0.1))
        async with front_end(services) as end:
            for garbage in (b"\x16\x03\x01\x02\x00" + bytes(500), b"\n", b"\xff" * 5000, b"\x05\x01\x7f"):
                client = await end.connect()
                await client.send(garbage)
                assert await client.rest() in (b"", b"\x05\xff")
            await established(end)
            await end.until(lambda: services.counters.handshaking == 0, "nobody lingers")
            assert services.counters.rejected == {Failure.UNKNOWN_PROTOCOL: 3, Failure.NO_METHOD: 1}


@asynchronous
async def test_closing_ends_everybody() -> None:
    async with EchoServer() as echo:
        dialler = LoopbackDialler({"echo": ("::1", echo.port)}, hold={"slow"})
        services = Services(dialler=dialler, datagrams=EchoDatagrams())
        async with front_end(services) as end:
            await end.connect()
            relayed = await established(end)
            dialling = await end.connect()
            await dialling.send(GREETING + connect_request("slow", 7))
            _, udp, _ = await associated(end)
            await end.until(lambda: services.counters.active == 3, "all under way")
            await end.server.close()
            assert (services.counters.active, services.counters.handshaking, dialler.cancelled) == (0, 0, 1)
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await relayed.read(1)
            await end.server.close()
            udp.close()


# -- where it listens -----------------------------------------------------------------------------


@asynchronous
async def test_only_loopback_without_authentication() -> None:
    for host in ("0.0.0.0", "::", ""):
        with pytest.raises(errors.WrongUsage, match="anybody on the network"):
            await SocksServer(Services(dialler=LoopbackDialler())).start(host, 0)
    for host in ("127.0.0.1", "::1", "localhost"):
        async with SocksServer(Services(dialler=LoopbackDialler())) as server:
            await server.start(host, 0)
            assert server.addresses
    async with SocksServer(Services(dialler=LoopbackDialler(), authenticator=PasswordTable({"a": "b"}))) as server:
        await server.start("0.0.0.0", 0)
        assert server.addresses


@asynchronous
async def test_a_name_that_no_host_can_have_is_a_sentence() -> None:
    for users in (None, PasswordTable({"a": "b"})):
        for host in ("a..b", "x" * 64):
            with pytest.raises(errors.WrongUsage, match="No host can have a name such as"):
                await SocksServer(Services(dialler=LoopbackDialler(), authenticator=users)).start(host, 0)


def test_what_the_command_says_is_for_people_and_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> str:
        async with SocksServer(Services(dialler=LoopbackDialler())) as server:
            await server.start("127.0.0.1", 0)
            server.counters.accepted = 1
            _tell_begin(server, json=False)
            _tell_end(server, json=False)
            return f"127.0.0.1:{server.addresses[0][1]}"

    where = asyncio.run(main())
    begin = f"SOCKS5, SOCKS4a and HTTP CONNECT on {where}; try: curl --socks5-hostname {where} URL"
    end = "1 client, 0 requests, 0 failed, 0 bytes up, 0 down."
    assert capsys.readouterr() == ("", f"unimux: {begin}\nunimux: {end}\n")


@asynchronous
async def test_what_keeps_it_from_listening_is_one_sentence() -> None:
    async with SocksServer(Services(dialler=LoopbackDialler())) as first:
        await first.start("127.0.0.1", 0)
        taken = first.addresses[0][1]
        for host, port, words in (
            ("127.0.0.1", taken, "is taken by another program"),
            ("127.0.0.1", 70000, "cannot listen"),
            ("no-such-host.invalid", 1080, "cannot listen"),
        ):
            with pytest.raises(errors.SetupError, match=words):
                await SocksServer(Services(dialler=LoopbackDialler())).start(host, port)


@pytest.mark.parametrize(
    "limits",
    [{"max_connections": 0}, {"handshake_timeout": 0.0}, {"idle_timeout": -1.0}, {"early_data": 0}],
    ids=lambda limits: next(iter(limits)),
)
def test_limits_that_are_none_are_refused(limits: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        SocksLimits(**limits)  # type: ignore[arg-type]


def test_nobody_imports_a_node_here() -> None:
    """The front end is joined to a node in one place, so that it can be tested and used without one."""
    room = Path(__file__).parents[3] / "compat" / "socks"
    importing = {p.name for p in room.glob("*.py") if "unimux.node" in p.read_text(encoding="utf-8")}
    assert importing <= {"command.py", "node.py"}
