"""Unmodified programs of Debian through `unimux socks`, between kernels; the witness judges what the wire carried.

Every connection of every program must come from a one-time address of its own.
"""

from __future__ import annotations

import hashlib
import json
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6

from compat.kernel import topology
from compat.programs import curl
from scenarios.witness.frames import Kind
from tests.interop.site import (
    MIRRORS,
    NAME,
    PORT,
    SERVER,
    SERVERS,
    Site,
    site,
    through_netcat,
    udp_forwarder,
)
from tests.real.daemons import sshd
from tests.real.wire import frames, packets, sources

URL = f"http://{NAME}"
BODY = random.Random(6).randbytes(1_000_000)
RESOURCES = 50


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One network for all tests of this module."""
    with site(tmp_path_factory.mktemp("site")) as made:
        (made.www / "file").write_bytes(BODY)
        (made.www / "small").write_bytes(BODY[:100_000])
        (made.www / "tiny").write_bytes(BODY[:5_000])
        yield made


def repository(where: Path) -> str:
    """A bare repository of a few commits at `where`, fit for plain HTTP too; the id of its head."""
    work = where.with_suffix(".work")
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example", "-c", "init.defaultBranch=main")

    def git(*argv: str, within: Path = work) -> str:
        done = subprocess.run(["git", *who, *argv], cwd=within, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    work.mkdir()
    git("init", "-q")
    for number in range(5):
        (work / f"file-{number}").write_bytes(random.Random(number).randbytes(20_000))
        git("add", ".")
        git("commit", "-q", "-m", f"file {number}")
    git("clone", "-q", "--bare", str(work), str(where))
    git("update-server-info", within=where)
    return git("rev-parse", "HEAD")


def head(clone: Path) -> str:
    """The id of a clone's head, after a check of every object."""
    subprocess.run(["git", "fsck", "--strict"], cwd=clone, check=True, capture_output=True)
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=clone, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.real(*SERVERS, "curl")
@pytest.mark.proves("UM-DAS-4", "UM-NODE-3")
def test_curl_twenty_at_once(place: Site, artefacts: Path) -> None:
    async def body() -> None:
        many = [f"-o/dev/null {URL}/small?{n}".split(" ") for n in range(20)]
        arguments = [word for pair in many for word in pair]
        async with place.captured(artefacts) as path:
            done = await place.program("curl", "-q", "-sS", "-f", "-Z", "-x", f"socks5h://127.0.0.1:{PORT}", *arguments)
            assert done.code == 0, done.stderr
            one = await curl(place.top.client, f"{URL}/file", "--socks5-hostname", f"127.0.0.1:{PORT}")
            assert one.sha256 == hashlib.sha256(BODY).hexdigest()
        assert len(place.sources(path)) >= 2, "twenty transfers share connections, one more has its own"

    place.run(body())


@pytest.mark.real(*SERVERS, "proxychains4", "wget")
def test_wget(place: Site, artefacts: Path) -> None:
    """wget itself knows HTTP proxies only, and CONNECT for https alone: proxychains4 gives it a SOCKS5 one."""

    async def body() -> None:
        async with place.captured(artefacts) as path:
            done = await place.program(
                *("proxychains4", "-q", "-f", str(chains(place)), "wget", "-q", "-O", "wget.out", f"{URL}/file"),
            )
            assert done.code == 0, done.stderr
        assert (place.folder / "wget.out").read_bytes() == BODY
        assert len(place.sources(path)) == 1

    place.run(body())


def chains(place: Site) -> Path:
    """proxychains4's configuration: the front end, names resolved there."""
    path = place.folder / "proxychains.conf"
    path.write_text(
        f"strict_chain\nproxy_dns\ntcp_read_time_out 15000\ntcp_connect_time_out 8000\n"
        f"[ProxyList]\nsocks5 127.0.0.1 {PORT}\n"
    )
    return path


@pytest.mark.real(*SERVERS, "proxychains4", "curl")
def test_proxychains(place: Site, artefacts: Path) -> None:
    async def body() -> None:
        async with place.captured(artefacts) as path:
            for _ in range(3):
                done = await place.program(
                    "proxychains4", "-q", "-f", str(chains(place)), "curl", "-q", "-sS", "-f", f"{URL}/file"
                )
                assert (done.code, done.stderr) == (0, b"")
                assert done.stdout == BODY
        assert len(place.sources(path)) == 3

    place.run(body())


@pytest.mark.real(*SERVERS, "nc.openbsd")
def test_netcat_that_ends_its_stream_with_its_request(place: Site, artefacts: Path) -> None:
    """All of it is there before the name is resolved; the page, and why there is none, come all the same."""

    async def ask(port: int) -> bytes:
        said = f"CONNECT {NAME}:{port} HTTP/1.1\\r\\n\\r\\nGET /tiny HTTP/1.0\\r\\n\\r\\n"
        done = await place.program("sh", "-c", f"printf '{said}' | nc.openbsd -N 127.0.0.1 {PORT}")
        assert done.code == 0, done.stderr
        return done.stdout

    async def body() -> None:
        async with place.captured(artefacts) as path:
            for _ in range(3):
                answer = await ask(80)
                assert answer.startswith(b"HTTP/1.1 200 Connection established\r\n")
                assert answer.endswith(BODY[:5_000]), "nginx gives no more than one write to a half-closed client"
            assert (await ask(81)).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
        seen = place.sources(path)
        assert len(seen) == 3
        for source in seen:
            flags = "".join(str(p[TCP].flags) for p in packets(path) if TCP in p and p[IPv6].src == source)
            assert "F" in flags and "R" not in flags, "its end was passed on, and the connection ended in order"

    place.run(body())


@pytest.mark.real(*SERVERS, "ssh", "scp", "sshd", "ssh-keygen", "nc.openbsd", "git")
def test_ssh_scp_and_git_over_ssh(place: Site, artefacts: Path) -> None:
    async def body() -> None:
        wanted = repository(place.folder / "over-ssh.git")
        async with sshd(place.top.server, place.folder / "ssh", "::", 22) as known, place.captured(artefacts) as path:
            options = through_netcat(known)
            target = f"root@{NAME}"
            said = await place.program("ssh", *options, target, "echo $SSH_CONNECTION; cat; exit 7")
            assert said.code == 7, said.stderr
            peer = said.stdout.decode().split()[0]
            payload = place.folder / "payload"
            payload.write_bytes(BODY)
            there = place.folder / "there"
            sent = await place.program("scp", *options, str(payload), f"{target}:{there}")
            assert sent.code == 0, sent.stderr
            assert there.read_bytes() == BODY
            back = await place.program("scp", *options, f"{target}:{there}", "back")
            assert back.code == 0, back.stderr
            assert (place.folder / "back").read_bytes() == BODY
            url = f"ssh://{target}{place.folder}/over-ssh.git"
            cloned = await place.program(
                "git", "clone", "-q", url, "ssh-clone", env={"GIT_SSH_COMMAND": " ".join(quoted(options))}
            )
            assert cloned.code == 0, cloned.stderr
        assert head(place.folder / "ssh-clone") == wanted
        addresses = place.sources(path)
        assert len(addresses) == 4
        assert peer in addresses, "the server sees the one-time address"

    place.run(body())


def png(width: int) -> bytes:
    """A black picture, one pixel high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(1 + width)))
        + chunk(b"IEND", b"")
    )


def quoted(options: list[str]) -> list[str]:
    """The ssh command line as git's shell takes it."""
    return ["ssh", *(f"'{word}'" for word in options)]


@pytest.mark.real(*SERVERS, "git")
def test_git_over_http(place: Site, artefacts: Path) -> None:
    async def body() -> None:
        wanted = repository(place.www / "project.git")
        async with place.captured(artefacts) as path:
            done = await place.program(
                *("git", "-c", f"http.proxy=socks5h://127.0.0.1:{PORT}"),
                *("clone", "-q", f"{URL}/project.git", "clone"),
            )
            assert done.code == 0, done.stderr
        assert head(place.folder / "clone") == wanted
        assert len(place.sources(path)) >= 1

    place.run(body())


@pytest.mark.real(*SERVERS, "drill", "v2ray")
def test_a_dns_tool_over_udp_associate(place: Site, artefacts: Path) -> None:
    """drill knows no SOCKS; v2ray takes its query and speaks UDP ASSOCIATE."""

    async def body() -> None:
        async with udp_forwarder(place, 5300, SERVER, 53), place.captured(artefacts) as path:
            done = await place.program("drill", "-Q", "-p", "5300", "@::1", "six.example", "AAAA")
        assert done.stdout.decode().split() == ["2001:db8:6::6"], done
        ((mac, source),) = sources(frames(path), Kind.UDP, 53)
        assert source != topology.CLIENT_ADDRESS
        assert IPv6Address(source) in IPv6Network(topology.CLIENT_PREFIX)
        assert mac != place.top.client_bridge.mac.hex(":"), "the query left by the client's own kernel"

    place.run(body())


@pytest.mark.real(*SERVERS, "chromium")
@pytest.mark.proves("UM-DAS-4", "UM-NODE-3")
@pytest.mark.timeout(1000)
def test_a_browser_and_fifty_resources(place: Site, artefacts: Path) -> None:
    """The resources lie on ten hosts, so that the browser opens many connections at once."""
    pictures = [f"http://{MIRRORS[n % len(MIRRORS)]}/picture-{n}.png" for n in range(RESOURCES)]
    for number in range(RESOURCES):
        (place.www / f"picture-{number}.png").write_bytes(png(number + 1))
    images = "".join(f'<img src="{url}">' for url in pictures)
    (place.www / "page.html").write_text(
        f"<!doctype html><title>page</title><body>{images}<script>onload = () => "
        "document.body.dataset.widths = [...document.images].map(i => i.naturalWidth)</script>"
    )

    async def body() -> None:
        async with place.captured(artefacts) as path:
            done = await place.program(
                *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
                *("--disable-background-networking", "--disable-component-update", "--no-first-run"),
                *("--disable-sync", "--disable-extensions", f"--user-data-dir={place.folder}/browser"),
                *(f"--proxy-server=socks5://127.0.0.1:{PORT}", "--dump-dom", f"{URL}/page.html"),
                timeout=900,
            )
        widths = ",".join(str(number + 1) for number in range(RESOURCES))
        assert f'data-widths="{widths}"' in done.stdout.decode(), done
        assert len(place.sources(path)) > len(MIRRORS)

    place.run(body())


@pytest.mark.real(*SERVERS)
def test_top_sees_the_running_node(place: Site) -> None:
    async def body() -> None:
        assert place.socks is not None
        top = (sys.executable, "-m", "unimux", "top", str(place.socks.pid))
        for _ in range(20):  # the program before may have emptied the pool; it is filled again within a second or two
            told = await place.program(*top, "--json")
            assert told.code == 0, told.stderr
            seen = json.loads(told.stdout)
            if seen["pool"]["ready"]:
                break
        assert (seen["process"], seen["what"]) == (place.socks.pid, f"bridge {place.top.client_bridge.name}")
        assert seen["addresses"]["UNCERTAIN"]["reserved"] == seen["pool"]["ready"] > 0
        text = await place.program(*top)
        assert b"PREFERRED" in text.stdout and text.stderr == b""

    place.run(body())
