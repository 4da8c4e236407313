"""What a programmer knows from asyncio's streams works on a node's: servers to be awaited and closed, TLS by `ssl=`, errors."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw

import unimux
from tests.unit.unimux import certificates
from tests.unit.unimux.certificates import NAME, Contexts
from tests.unit.unimux.lan import Lan, echo, handled, in_use, lan, virtual
from unimux.errors import NodeStopped, UnimuxError, UnusablePeer
from unimux.node import Node

PAGE = Path(__file__).parents[3] / "docs" / "programs.md"


@asynccontextmanager
async def two() -> AsyncIterator[tuple[Lan, Node, Node]]:
    async with asyncio.timeout(3600), lan() as net:
        alice, bob = await net.node(names={NAME: ["2001:db8:1::99"], "here": ["::1"]}), await net.node()
        await asyncio.gather(alice.ready(4), bob.ready(4))
        yield net, alice, bob


async def hears_itself(node: Node, where: str | IPv6Address, **options: Any) -> asyncio.StreamWriter:
    reader, writer = await unimux.open_connection(node, where, None, **options)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    return writer


# -- servers -------------------------------------------------------------------------------------


def test_a_server_may_be_awaited_and_need_not_be() -> None:
    async def main() -> None:
        async with two() as (_, alice, bob):
            plain = unimux.start_server(bob, echo)
            assert plain.is_serving() and await plain is plain
            awaited = await unimux.start_server(bob, echo)
            await awaited.start_serving()
            assert awaited.get_loop() is asyncio.get_running_loop()
            async with unimux.start_server(bob, echo) as entered, await unimux.start_server(bob, echo) as both:
                for server in (plain, awaited, entered, both):
                    (await hears_itself(alice, (await server.issue()).address)).close()
            assert [server.is_serving() for server in (plain, awaited, entered, both)] == [True, True, False, False]
            plain.close()
            assert not plain.is_serving()
            with pytest.raises(RuntimeError, match="is closed"):
                await plain.start_serving()

    virtual(main())


def test_wait_closed_waits_for_the_end_of_listening_and_of_every_connection() -> None:
    """As in Python 3.12 and later, whatever the Python."""

    async def main() -> None:
        async with two() as (_, alice, bob):
            server = unimux.start_server(bob, echo)
            waits = [asyncio.create_task(server.wait_closed()) for _ in range(2)]
            writers = [await hears_itself(alice, (await server.issue()).address) for _ in range(2)]
            writers.pop().close()
            await asyncio.sleep(60)
            server.close()
            waits.append(asyncio.create_task(server.wait_closed()))
            waits[0].cancel()
            await asyncio.sleep(60)
            assert [task.done() for task in waits] == [True, False, False], "a connection stands"
            writers.pop().close()
            await asyncio.sleep(1)
            assert all(task.done() for task in waits) and waits[0].cancelled()
            await server.wait_closed()

    virtual(main())


@pytest.mark.parametrize(("call", "heard"), [("close_clients", b""), ("abort_clients", ConnectionResetError)])
def test_the_connections_of_a_server_are_ended_with_it(call: str, heard: bytes | type[Exception]) -> None:
    async def main() -> None:
        async with two() as (_, alice, bob):
            async with unimux.start_server(bob, lambda reader, writer: None) as server:
                reader, writer = await unimux.open_connection(alice, (await server.issue()).address, None)
                await asyncio.sleep(1)
                getattr(server, call)()
            if isinstance(heard, bytes):
                assert await reader.read() == heard
            else:
                with pytest.raises(heard):
                    await reader.read()
            writer.close()

    virtual(main())


def test_a_session_without_a_protocol_does_not_hold_the_server_up() -> None:
    def faulty() -> asyncio.Protocol:
        raise RuntimeError("none today")

    async def main() -> None:
        async with two() as (_, alice, bob):
            told = handled()
            async with bob.listen(faulty) as server:
                reader, writer = await unimux.open_connection(alice, (await server.issue()).address, None)
                with pytest.raises(ConnectionError):
                    await reader.read()
                writer.close()
            assert [str(each["exception"]) for each in told] == ["none today"]

    virtual(main())


@pytest.mark.parametrize("ending", ["cancel", "close", "node"])
def test_serve_forever_ends_with_the_task_the_server_or_the_node(ending: str) -> None:
    async def main() -> None:
        async with two() as (_, alice, bob):
            server = await unimux.start_server(bob, echo)
            serving = asyncio.create_task(server.serve_forever())
            writer = await hears_itself(alice, (await server.issue()).address)
            with pytest.raises(RuntimeError, match="already being awaited"):
                await server.serve_forever()
            if ending == "cancel":
                serving.cancel()
                await asyncio.sleep(1)
                assert not serving.done() and not server.is_serving()
                writer.close()
            elif ending == "close":
                server.close()
                writer.close()
            else:
                waiting = asyncio.create_task(server.wait_closed())
                await bob.close()
                await asyncio.wait_for(waiting, 60)
            with pytest.raises(NodeStopped if ending == "node" else asyncio.CancelledError):
                await serving
            assert not server.is_serving()
            with pytest.raises(NodeStopped if ending == "node" else RuntimeError):
                await server.serve_forever()
            assert not bob.pool.at_end or ending != "node"
            writer.transport.abort()

    virtual(main())


@pytest.mark.proves("UM-LIS-2")
def test_the_server_of_the_page_can_be_run_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    (source,) = (
        block
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
        if "def serve(" in block
    )
    names: dict[str, Any] = {}
    exec(compile(source, str(PAGE), "exec"), names)
    serve: Callable[[Node], Awaitable[None]] = names["serve"]

    async def main() -> None:
        async with two() as (net, alice, bob):
            serving = asyncio.ensure_future(serve(bob))
            await asyncio.sleep(5)
            where = capsys.readouterr().out.strip()
            assert not net.syns(), "the address was told before anybody came"
            writer = await hears_itself(alice, where)
            serving.cancel()
            writer.close()
            with pytest.raises(asyncio.CancelledError):
                await serving
            assert {p["IPv6"].dst for _, p in net.syns()} == {where}

    virtual(main())


# -- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return certificates.made(tmp_path_factory.mktemp("tls"))


def payloads(net: Lan) -> bytes:
    return b"".join(bytes(p[Raw]) for _, p in net.packets(TCP) if Raw in p)


def test_streams_with_tls_by_asyncios_words(contexts: Contexts) -> None:
    """Both ends; the wire has a handshake, and nothing of what is said behind it."""

    async def main() -> None:
        server, client = contexts
        async with two() as (net, alice, bob), unimux.start_server(bob, echo, ssl=server) as listening:
            where = (await listening.issue()).address
            writer = await hears_itself(alice, where, ssl=client, server_hostname=NAME, ssl_handshake_timeout=5)
            assert writer.get_extra_info("ssl_object").version() == "TLSv1.3"
            assert writer.get_extra_info("peername")[0] == str(where)
            writer.close()
            await writer.wait_closed()
            await asyncio.sleep(5)
            assert payloads(net).startswith(b"\x16\x03") and b"hello" not in payloads(net)

    virtual(main())


@pytest.mark.parametrize("trusts", [False, True])
def test_a_certificate_is_asked_for_the_name_that_was_connected_to(trusts: bool, contexts: Contexts) -> None:
    """`ssl=True` trusts whom the system trusts; without `server_hostname` the certificate has to be for the address."""

    async def main() -> None:
        server, client = contexts
        async with two() as (_, alice, bob), unimux.start_server(bob, echo, ssl=server) as listening:
            where = (await listening.issue()).address
            with pytest.raises(ssl.SSLCertVerificationError, match="mismatch" if trusts else "self.signed"):
                await unimux.open_connection(alice, where, 443, ssl=client if trusts else True)
            await asyncio.sleep(300)
            assert not in_use(alice)

    virtual(main())


def test_a_client_that_says_nothing_is_waited_for_as_long_as_was_said(contexts: Contexts) -> None:
    async def main() -> None:
        server, _ = contexts
        came = []
        async with two() as (_, alice, bob):
            listening = unimux.start_server(
                bob, lambda *streams: came.append(streams), ssl=server, ssl_handshake_timeout=7
            )
            begun = alice.now()
            reader, writer = await unimux.open_connection(alice, (await listening.issue()).address, 443)
            with pytest.raises(ConnectionError):
                await reader.read()
            assert 7 <= alice.now() - begun < 8 and not came
            writer.close()
            listening.close()

    virtual(main())


def test_what_no_handshake_can_begin_with_is_refused_before_anything_is_sent(contexts: Contexts) -> None:
    async def main() -> None:
        server, client = contexts
        wrongs: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"server_hostname": NAME}, ValueError, "only meaningful with ssl"),
            ({"ssl_handshake_timeout": 5}, ValueError, "only meaningful with ssl"),
            ({"ssl": "yes"}, TypeError, "SSLContext"),
            ({"ssl": client, "ssl_handshake_timeout": 0}, ValueError, "takes some time"),
        ]
        async with two() as (net, alice, bob):
            for options, kind, said in wrongs:
                with pytest.raises(kind, match=said):
                    await unimux.open_connection(alice, "2001:db8:1::99", 443, **options)
            for options, kind, said in wrongs[1:3]:
                with pytest.raises(kind, match=said):
                    unimux.start_server(bob, echo, **options)
            with pytest.raises(TypeError, match="SSLContext"):
                unimux.start_server(bob, echo, ssl=True)  # type: ignore[arg-type]
            with pytest.raises(ValueError, match="takes some time"):
                unimux.start_server(bob, echo, ssl=server, ssl_handshake_timeout=-1)
            ssa = await bob.listen(asyncio.Protocol).issue()
            with pytest.raises(ssl.SSLError):  # a server's context cannot connect: that is found when it stands
                await unimux.open_connection(alice, ssa.address, 443, ssl=server)
            assert len(net.syns()) == 1
            await asyncio.sleep(300)
            assert not in_use(alice)

    virtual(main())


# -- errors --------------------------------------------------------------------------------------


@pytest.mark.proves("MUST-46", by="api")
@pytest.mark.parametrize("host", ["::1", "::", "ff02::1", "ff0e::101", "here", IPv6Address("::1")])
def test_what_no_peer_can_have_is_an_error_of_ours_and_of_asyncios_kind(host: str | IPv6Address) -> None:
    """No address of the pool is spent on it, and nothing is sent."""

    async def main() -> None:
        async with two() as (net, alice, _):
            before = alice.pool.ready, len(net.frames)
            for kind in (UnusablePeer, UnimuxError, OSError):
                with pytest.raises(kind, match="cannot be the address of a peer"):
                    await unimux.open_connection(alice, host, 80)
            assert (alice.pool.ready, len(net.frames)) == before

    virtual(main())


def test_of_a_names_addresses_those_that_a_peer_can_have_are_tried() -> None:
    async def main() -> None:
        async with two() as (net, _, bob):
            where = (await unimux.start_server(bob, echo).issue()).address
            carol = await net.node(names={"both": ["::1", str(where), "ff02::1"]})
            (await hears_itself(carol, "both")).close()

    virtual(main())
