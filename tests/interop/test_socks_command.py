"""`unimux socks` as a user runs it: a process of its own, a TAP, an unmodified curl, a server on the kernel's stack."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import pytest

from compat.kernel import Interface, Namespace, address, in_namespace, namespace
from compat.socks.settings import SocksSettings
from tests.interop.test_socks_curl import DIGEST, PageServer, curl
from tests.real.um.judge import RST, segments, sessions
from tests.real.wire import capturing
from unimux.cli.settings import SettingsError

SERVER = "2001:db8:5::1"
PREFIX = "2001:db8:77::/64"


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[tuple[Process, str]]:
    """`unimux socks` until the block ends; yields the process and host:port of the front end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "unimux", "socks", "--port", "0", "--json", *arguments),
        stdout=PIPE,
        stderr=PIPE,
    )
    assert process.stdout is not None and process.stderr is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 20)
        assert line, (await process.stderr.read()).decode()
        (where,) = json.loads(line)["listening"]
        yield process, f"{where['host']}:{where['port']}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def stopped(process: Process) -> dict[str, int]:
    """End the command as a keyboard would; what it counted."""
    assert process.stdout is not None and process.stderr is not None
    process.send_signal(signal.SIGINT)
    out, said = await asyncio.wait_for(asyncio.gather(process.stdout.read(), process.stderr.read()), 20)
    assert await process.wait() == 0, said.decode()
    assert said == b""
    counts = json.loads(out)
    assert isinstance(counts, dict)
    return counts


def links(space: Namespace) -> set[str]:
    """The names of the links in a namespace."""
    return set(space.run(lambda: {name for _, name in socket.if_nameindex()}, "list the links"))


@pytest.mark.real("curl", "dumpcap")
@pytest.mark.proves("UM-NODE-2")
def test_an_unmodified_curl_reaches_an_unmodified_server(tmp_path: Path, artefacts: Path) -> None:
    events, path = tmp_path / "events.jsonl", artefacts / "kernel.pcapng"

    async def body(space: Namespace) -> list[str]:
        before = links(space)
        with in_namespace(space):
            listening = socket.create_server((SERVER, 0), family=socket.AF_INET6)
        async with (
            PageServer(listening) as page,
            command("--netns", space.name, "--prefix", PREFIX, "--events", str(events)) as (process, proxy),
        ):
            url = f"http://[{SERVER}]:{page.port}/"
            (device,) = links(space) - before
            async with capturing(Interface(space, device), path, snaplen=128):
                for _ in range(3):
                    fetched = await curl("--socks5-hostname", proxy, url)
                    assert (fetched.status, fetched.said) == (0, "")
                    assert sha256(fetched.out).hexdigest() == DIGEST
                refused = await curl("--socks5-hostname", proxy, f"http://[{SERVER}]:9/")
            assert "(5)" in refused.said
            literal = await curl("--socks5-hostname", proxy, "http://192.0.2.1/")
            assert literal.status == 97
            assert len(set(page.peers)) == 3, "each connection from an address of its own"
            assert all(peer.startswith("2001:db8:77:") for peer in page.peers)
            counts = await stopped(process)
            assert counts["requests.socks5.connect"] == 5
            assert counts["failed.refused"] == 1
            assert counts["ended.complete"] == 3
            assert counts["active"] == 0
        assert links(space) == before
        told = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
        assert {line["address"] for line in told if line["event"] == "address"} >= set(page.peers)
        return page.peers

    with namespace("test") as space, address(Interface(space, "lo"), f"{SERVER}/128"):
        peers = asyncio.run(body(space))
    *served, refused = sessions(segments(path), by_ports=True)
    assert [each.client for each in served] == peers
    assert all(each.syn.dst == SERVER and each.ended is not None for each in served)
    assert refused.syn.dport == 9 and refused.client not in peers
    assert refused.answered[0].flags & RST


@pytest.mark.real
def test_a_port_that_is_taken_is_one_sentence() -> None:
    async def body(space: Namespace) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "unimux", "socks"),
                *("--netns", space.name, "--prefix", PREFIX, "--port", str(taken.getsockname()[1])),
                stdout=PIPE,
                stderr=PIPE,
            )
            out, said = await asyncio.wait_for(process.communicate(), 20)
        assert (process.returncode, out) == (3, b""), said
        assert said.decode().endswith("is taken by another program: stop it, or choose another port with --port.\n")
        assert said.count(b"\n") == 1

    with namespace("test") as space:
        asyncio.run(body(space))


def test_users_are_names_with_passwords() -> None:
    assert SocksSettings().passwords() is None
    assert SocksSettings(users=["a:b:c", "d:"]).passwords() == {"a": "b:c", "d": ""}
    for wrong in ("a", ":b", ""):
        with pytest.raises(SettingsError, match="NAME:PASSWORD"):
            SocksSettings(users=[wrong]).passwords()


def test_a_user_who_could_not_log_in_is_refused() -> None:
    """Who logs in with such a name is taken for a session of the user before it."""
    for name in ("x-session-y", "x-session-", "x-session", "-session-y", "x-session-y-ttl-10m"):
        with pytest.raises(SettingsError, match="Nobody can log in as") as caught:
            SocksSettings(users=["alice:a", f"{name}:hidden"]).passwords()
        assert "hidden" not in str(caught.value)
    with pytest.raises(SettingsError, match="'alice' of the front end is named twice"):
        SocksSettings(users=["alice:a", "alice:b"]).passwords()
    assert SocksSettings(users=["x-session1:q", "session:p"]).passwords() == {"x-session1": "q", "session": "p"}


def test_limits_follow_the_settings() -> None:
    limits = SocksSettings(max_connections=7, connect_timeout=3.0, idle_timeout=9.0).limits()
    assert (limits.max_connections, limits.connect_timeout, limits.idle_timeout) == (7, 3.0, 9.0)
