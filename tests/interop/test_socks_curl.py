"""Unmodified curl through the front end, each protocol it knows; the node's part is played by loopback.

No name in here exists: that curl reaches `site.test` at all shows that the front end, not curl, resolved it.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from compat.relay import EndReason
from compat.socks.handshake import Failure
from compat.socks.messages import Command, Dialect
from compat.socks.services import Services
from compat.socks.session import PasswordTable, Session
from compat.socks.settings import SocksLimits
from tests.unit.compat.socks_support import FrontEnd, LoopbackDialler, front_end
from unimux import errors

PAGE = random.Random(5).randbytes(3_000_000)
DIGEST = hashlib.sha256(PAGE).hexdigest()

# curl's exit statuses
RECEIVE_ERROR = 56
PROXY_ERROR = 97


class PageServer:
    """An HTTP server of one page, on the kernel's loopback; a PUT is answered with the digest of what was put.

    listening: a socket to serve on instead.  peers: who came.
    """

    def __init__(self, listening: socket.socket | None = None) -> None:
        self.requests: list[str] = []
        self.peers: list[str] = []
        self.port = 0
        self._listening = listening

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peers.append(writer.get_extra_info("peername")[0])
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.requests.append(head.splitlines()[0])
            body = PAGE
            if head.startswith("PUT"):
                if "100-continue" in head:
                    writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                length = next(int(line[15:]) for line in head.splitlines() if line.lower().startswith("content-length"))
                body = hashlib.sha256(await reader.readexactly(length)).hexdigest().encode()
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode())
            writer.write(body)
            await writer.drain()
        finally:
            writer.close()

    async def __aenter__(self) -> PageServer:
        if self._listening is None:
            self._server = await asyncio.start_server(self._serve, "::1", 0)
        else:
            self._server = await asyncio.start_server(self._serve, sock=self._listening)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()


@dataclass
class Fetched:
    status: int
    out: bytes
    said: str


async def curl(*arguments: str, data: bytes = b"") -> Fetched:
    """Run curl, with nothing from the environment or a configuration file."""
    process = await asyncio.create_subprocess_exec(
        *("curl", "-q", "-sS", "--max-time", "20", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    out, said = await process.communicate(data)
    assert process.returncode is not None
    return Fetched(process.returncode, out, said.decode())


@dataclass
class Site:
    end: FrontEnd
    page: PageServer
    dialler: LoopbackDialler
    services: Services

    @property
    def proxy(self) -> str:
        return f"127.0.0.1:{self.end.port}"


@asynccontextmanager
async def site(users: dict[str, str] | None = None, **limits: float) -> AsyncIterator[Site]:
    async with PageServer() as page:
        dialler = LoopbackDialler({"site.test": ("::1", page.port)})
        authenticator = PasswordTable(users) if users is not None else None
        services = Services(
            dialler=dialler,
            authenticator=authenticator,
            limits=SocksLimits(**limits),  # type: ignore[arg-type]
        )
        async with front_end(services) as end:
            yield Site(end, page, dialler, services)


@pytest.mark.parametrize(
    ("options", "dialect"),
    [
        (["--socks5-hostname", "{proxy}"], Dialect.SOCKS5),
        (["--proxy", "socks5h://{proxy}"], Dialect.SOCKS5),
        (["--socks4a", "{proxy}"], Dialect.SOCKS4),
        (["--proxytunnel", "--proxy", "http://{proxy}"], Dialect.HTTP),
    ],
    ids=["socks5-hostname", "socks5h", "socks4a", "http"],
)
def test_a_page_and_an_upload_arrive_whole(options: list[str], dialect: Dialect) -> None:
    async def body() -> None:
        async with site() as here:
            through = [option.format(proxy=here.proxy) for option in options]
            fetched = await curl(*through, "http://site.test/page")
            assert (fetched.status, fetched.said) == (0, "")
            assert hashlib.sha256(fetched.out).hexdigest() == DIGEST
            put = await curl(*through, "-X", "PUT", "--data-binary", "@-", "http://site.test/", data=PAGE)
            assert put.out.decode() == DIGEST
            assert here.page.requests == ["GET /page HTTP/1.1", "PUT / HTTP/1.1"]
            await here.end.until(lambda: here.services.counters.active == 0, "ended")
            counters = here.services.counters
            assert counters.requests == {(dialect, Command.CONNECT): 2}
            assert counters.bytes_down > len(PAGE) and counters.bytes_up > len(PAGE)
            assert [(call.host, call.port) for call in here.dialler.calls] == [("site.test", 80)] * 2

    asyncio.run(body())


def test_an_address_that_curl_resolved_itself() -> None:
    async def body() -> None:
        async with site() as here:
            mapping = f"site.test:{here.page.port}:[::1]"
            fetched = await curl(
                "--socks5", here.proxy, "--resolve", mapping, f"http://site.test:{here.page.port}/page"
            )
            assert hashlib.sha256(fetched.out).hexdigest() == DIGEST
            assert here.dialler.calls[0].host == "::1"

    asyncio.run(body())


@pytest.mark.parametrize("scheme", ["socks5h", "http"])
def test_users_passwords_and_sessions(scheme: str) -> None:
    async def body() -> None:
        async with site({"alice": "wonder"}) as here:
            through = ["--proxytunnel", "--proxy", f"{scheme}://{here.proxy}"]
            for user in ("alice", "alice-session-shop-ttl-60"):
                fetched = await curl(*through, "--proxy-user", f"{user}:wonder", "http://site.test/page")
                assert hashlib.sha256(fetched.out).hexdigest() == DIGEST
            assert [call.session for call in here.dialler.calls] == [None, Session("alice", "shop")]
            for wrong in (["--proxy-user", "alice:wander"], []):
                refused = await curl(*through, *wrong, "http://site.test/page")
                assert refused.status in (PROXY_ERROR, RECEIVE_ERROR), refused
                assert refused.out == b"" or scheme == "http"
            assert here.services.counters.rejected.total() == 2
            assert here.services.counters.rejected[Failure.CREDENTIALS] >= 1
            assert len(here.dialler.calls) == 2, "nobody else was connected"

    asyncio.run(body())


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.ConnectRefused("away.test", 80), "(5)"),
        (errors.HostUnreachable("away.test", 80), "(4)"),
        (errors.NetworkUnreachable("away.test", 80), "(3)"),
        (errors.ConnectTimeout("away.test", 80), "(6)"),
        (errors.PoolExhausted(1.0), "(1)"),
        (errors.NameNotResolved("away.test", "no such name"), "(4)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_curl_reports_the_cause(error: Exception, words: str) -> None:
    async def body() -> None:
        async with site() as here:
            here.dialler.failures["away.test"] = error
            failed = await curl("--socks5-hostname", here.proxy, "http://away.test/")
            assert failed.status == PROXY_ERROR
            assert words in failed.said
            web = await curl("-v", "--proxytunnel", "--proxy", f"http://{here.proxy}", "http://away.test/")
            assert web.status == RECEIVE_ERROR
            assert "Proxy-Status: unimux; error=" in web.said

    asyncio.run(body())


def test_an_ipv4_only_destination_is_a_clear_error() -> None:
    async def body() -> None:
        async with site() as here:
            here.dialler.failures["192.0.2.1"] = errors.NoIpv6Address("192.0.2.1")
            failed = await curl("--socks5", here.proxy, "http://192.0.2.1/")
            assert failed.status == PROXY_ERROR
            assert "(8)" in failed.said

    asyncio.run(body())


def test_plain_http_proxying_is_answered_with_what_to_do() -> None:
    async def body() -> None:
        async with site() as here:
            fetched = await curl("-w", "%{http_code}", "--proxy", f"http://{here.proxy}", "http://site.test/page")
            assert fetched.out.endswith(b"405")
            assert b"--proxytunnel" in fetched.out

    asyncio.run(body())


def test_twenty_at_once_each_connection_for_itself() -> None:
    async def body() -> None:
        async with site() as here:
            urls = [f"http://site.test/{n}" for n in range(20)]
            outs = [argument for _ in urls for argument in ("-o", "/dev/null")]
            fetched = await curl("--socks5-hostname", here.proxy, "-Z", *outs, *urls)
            assert fetched.status == 0, fetched.said
            assert len(here.dialler.calls) == 20
            await here.end.until(lambda: here.services.counters.active == 0, "ended")
            assert here.services.counters.ended[EndReason.COMPLETE] == 20

    asyncio.run(body())


def test_curl_is_served_while_500_others_say_nothing_or_garbage() -> None:
    async def body() -> None:
        async with site(max_handshakes=100) as here:
            crowd = []
            for n in range(500):
                client = await here.end.connect()
                client.writer.write((b"", b"\x05", b"CONNECT ", b"\x16\x03\x01")[n % 4])
                crowd.append(client)
            fetched = await curl("--socks5-hostname", here.proxy, "http://site.test/page")
            assert hashlib.sha256(fetched.out).hexdigest() == DIGEST
            counters = here.services.counters
            assert counters.accepted == 501
            assert counters.handshaking <= 100
            assert counters.rejected[Failure.UNKNOWN_PROTOCOL] == 125
            assert counters.evicted >= 250

    asyncio.run(body())
