"""Two unmodified HTTP libraries over one-time addresses, plain and with TLS: httpcore asks, aiohttp.web answers.

Each connection is made to a fresh SSA and comes from a fresh EA; the address is asked of the service as from a directory.
"""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpcore
import pytest
from aiohttp import web

from tests.unit.unimux import certificates
from tests.unit.unimux.certificates import NAME, Contexts
from tests.unit.unimux.lan import handled, lan, virtual
from tests.unit.unimux.test_failing_applications import Quiet
from unimux.aio import open_connection
from unimux.node import Node
from unimux.server import Server
from unimux.tls import _start_tls, connect_tls, tls_factory

BODY = random.Random(3).randbytes(400_000)


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return certificates.made(tmp_path_factory.mktemp("tls"))


class Stream(httpcore.AsyncNetworkStream):
    """A connection of a node as httpcore wants it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return await asyncio.wait_for(self.reader.read(max_bytes), timeout)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self.writer.write(buffer)
        await asyncio.wait_for(self.writer.drain(), timeout)

    async def aclose(self) -> None:
        self.writer.close()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        await self.writer.start_tls(ssl_context, server_hostname=server_hostname, ssl_handshake_timeout=timeout)
        return self

    def get_extra_info(self, info: str) -> Any:
        return self.writer.get_extra_info({"ssl_object": "ssl_object", "client_addr": "sockname"}.get(info, info))


class Backend(httpcore.AsyncNetworkBackend):
    """httpcore's network: a node, and somebody who knows where NAME is for the next connection."""

    def __init__(self, node: Node, where: Callable[[], Awaitable[str]]) -> None:
        self.node = node
        self.where = where
        self.sources: list[str] = []

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        assert host == NAME
        reader, writer = await open_connection(self.node, await self.where(), port, timeout=timeout or 30)
        self.sources.append(writer.get_extra_info("sockname")[0])
        return Stream(reader, writer)


class Web:
    """An aiohttp server on one node and an httpcore client on another."""

    def __init__(self, client: Node, listening: Server) -> None:
        self.listening = listening
        self.backend = Backend(client, self._next)
        self.addresses: list[str] = []

    async def _next(self) -> str:
        self.addresses.append(str(await self.listening.issue()))
        return self.addresses[-1]

    def pool(self, context: ssl.SSLContext | None = None) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(ssl_context=context, network_backend=self.backend)


@asynccontextmanager
async def served(context: ssl.SSLContext | None = None) -> AsyncIterator[Web]:
    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        if request.method == "PUT":
            return web.Response(text=str(len(await request.read())))
        return web.Response(body=BODY, headers={"X-Peer": str(request.remote)})

    server = web.Server(handler)
    async with lan() as net:
        alice, bob = await net.node(), await net.node()
        factory: Callable[[], asyncio.BaseProtocol] = server if context is None else tls_factory(server, context)
        listening = bob.listen(factory)
        yield Web(alice, listening)
        listening.close()
        await server.shutdown(1)


@pytest.mark.proves("UM-NODE-2", "UM-DAS-4", by="api")
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_http_client_and_an_http_server(scheme: str, contexts: Contexts) -> None:
    async def main() -> None:
        server, client = contexts
        async with served(server if scheme == "https" else None) as here, here.pool(client) as pool:
            url = f"{scheme}://{NAME}/"
            answers = await asyncio.gather(*(pool.request("GET", url) for _ in range(5)))
            assert [answer.content for answer in answers] == [BODY] * 5
            again = await pool.request("PUT", url, content=bytes(300_000))
            assert again.content == b"300000", "on a connection that is kept"
            peers = {dict(answer.headers)[b"X-Peer"].decode() for answer in answers}
            assert peers == set(here.backend.sources), "the server sees the EAs"
            assert len(peers) == len(set(here.addresses)) == 5
            if scheme == "https":
                stream = again.extensions["network_stream"]
                assert stream.get_extra_info("ssl_object").version() == "TLSv1.3"

    virtual(main())


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_web_server_gives_files_away(scheme: str, contexts: Contexts, tmp_path: Path) -> None:
    """aiohttp sends them by `loop.sendfile`, whole or the part that was asked for."""
    (tmp_path / "file").write_bytes(BODY)

    async def file(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(tmp_path / "file")

    async def main() -> None:
        server, client = contexts
        app = web.Application()
        app.router.add_static("/static", tmp_path)
        app.router.add_get("/file", file)
        runner = web.AppRunner(app)
        await runner.setup()
        assert runner.server is not None
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            factory = runner.server if scheme == "http" else tls_factory(runner.server, server)
            here = Web(alice, bob.listen(factory))
            told = handled()
            async with here.pool(client) as pool:
                for _ in range(2):  # the second one on the same connection
                    for path in ("file", "static/file"):
                        got = await pool.request("GET", f"{scheme}://{NAME}/{path}")
                        assert (got.status, got.content) == (200, BODY)
                part = [("Range", "bytes=1000-299999")]
                got = await pool.request("GET", f"{scheme}://{NAME}/file", headers=part)
                assert (got.status, got.content) == (206, BODY[1000:300_000])
            assert len(here.addresses) == 1 and not told
            await runner.cleanup()

    virtual(main())


def test_a_certificate_for_another_name_is_refused(contexts: Contexts) -> None:
    async def main() -> None:
        server, client = contexts
        async with served(server) as here:
            with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
                await connect_tls(
                    here.backend.node,
                    asyncio.Protocol,
                    await here._next(),
                    443,
                    client,
                    server_hostname="other.example",
                )

    virtual(main())


def test_a_tls_server_survives_peers_that_speak_something_else(
    contexts: Contexts,
) -> None:
    async def main() -> None:
        server, client = contexts
        async with served(server) as here, here.pool(client) as pool:
            reader, writer = await open_connection(here.backend.node, await here._next(), 443)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with suppress(ConnectionError):  # an alert, and the end
                while await reader.read(100):
                    pass
            _, silent = await open_connection(here.backend.node, await here._next(), 443)
            assert (await pool.request("GET", f"https://{NAME}/")).content == BODY
            silent.close()
            writer.close()

    virtual(main())


def test_an_early_request_reaches_the_protocol_whole(contexts: Contexts) -> None:
    """What a client sends in the flight of its Finished message arrives with the end of the server's handshake."""

    class Eager(asyncio.Protocol):
        def __init__(self) -> None:
            self.received = bytearray()
            self.ended = asyncio.Event()

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            transport.write(f"GET / HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())

        def data_received(self, data: bytes) -> None:
            self.received += data

        def connection_lost(self, exc: Exception | None) -> None:
            self.ended.set()

    async def main() -> None:
        server, client = contexts
        async with served(server) as here:
            where = await here._next()
            _, eager = await connect_tls(here.backend.node, Eager, where, 443, client, server_hostname=NAME)
            assert isinstance(eager, Eager)
            await eager.ended.wait()
            assert bytes(eager.received).endswith(BODY)

    virtual(main())


class Fault(Exception):
    """What an application raises."""


class Faulty(asyncio.Protocol):
    """Raises in the callback that `at` names; in the factory, where it is empty."""

    def __init__(self, at: str) -> None:
        self.at = at
        self._note("")

    def _note(self, callback: str) -> None:
        if callback == self.at:
            raise Fault(callback)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._note("connection_made")

    def data_received(self, data: bytes) -> None:
        self._note("data_received")


@pytest.mark.proves("UM-REL-1", by="api")
@pytest.mark.parametrize("at", ["", "connection_made", "data_received"])
def test_a_protocol_that_fails_behind_the_handshake_leaves_no_connection_behind(at: str, contexts: Contexts) -> None:
    async def main() -> None:
        server, client = contexts
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            told = handled()
            listening = bob.listen(tls_factory(lambda: Faulty(at), server))
            ssa = str(await listening.issue())
            transport, quiet = await connect_tls(alice, Quiet, ssa, 443, client, server_hostname=NAME)
            assert isinstance(quiet, Quiet)
            transport.write(b"hello")
            await asyncio.sleep(5)
            assert quiet.lost, "the client hears of it"
            assert [str(each["exception"]) for each in told] == [at]
            await asyncio.sleep(300)
            assert not list(bob.stack.tcp.demux) and not bob.pool.held
            listening.close()

    virtual(main())


@pytest.mark.proves("UM-REL-1", by="api")
@pytest.mark.parametrize("at", ["", "connection_made"])
def test_a_clients_protocol_that_fails_behind_the_handshake_leaves_no_connection_behind(
    at: str, contexts: Contexts
) -> None:
    async def main() -> None:
        server, client = contexts
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            ssa = str(await bob.listen(tls_factory(Quiet, server)).issue())
            with pytest.raises(Fault):
                await connect_tls(alice, lambda: Faulty(at), ssa, 443, client, server_hostname=NAME)
            await asyncio.sleep(300)
            assert not list(alice.stack.tcp.demux) and not alice.pool.held

    virtual(main())


def test_a_connection_that_ends_as_its_handshake_does_was_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    """asyncio gives None then: the handshake was done, and the connection lost before the task went on."""

    async def ended(*given: object, **more: object) -> None:
        return None

    async def main() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "start_tls", ended)
        monkeypatch.setattr(asyncio.Transport, "is_closing", lambda transport: False)
        with pytest.raises(ConnectionResetError):
            await _start_tls(asyncio.Transport(), asyncio.Protocol(), ssl.create_default_context(), 1.0)

    asyncio.run(main())
