"""`unimux run` as a user calls it: unmodified programs of Debian, static ones among them, as clients and as servers.

The network is that of `site`; the node is one more host of the client's LAN.  What the wire carried is judged by the witness.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from hashlib import sha256
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from compat.kernel import NETNS_DIR, Namespace, Owner, topology
from compat.programs import curl, run_in
from scenarios.witness.frames import Kind
from tests.interop.site import NAME, SERVER, SERVERS, Site, site
from tests.real.wire import frames, sources

BODY = random.Random(60).randbytes(500_000)
DIGEST = sha256(BODY).hexdigest()
SETTINGS = {
    "UNIMUX_NODE_OFFLOAD": "false",
    "UNIMUX_NODE_TIME_WAIT": "short",
    "UNIMUX_NODE_NAME_SERVERS": SERVER,
    "UNIMUX_NODE_POOL_PACE": "0.01",
}
NO_ROUTE, PROHIBITED, SILENT = "2001:db8:99::1", "2001:db8:bad::1", "2001:db8:5117::1"
_READY = 20.0


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One network for all tests of this module."""
    folder = tmp_path_factory.mktemp("run")
    folder.chmod(0o755)
    with site(folder, socks=False) as made:
        (made.www / "file").write_bytes(BODY)
        refuse(made, PROHIBITED, "prohibit")
        refuse(made, SILENT, "blackhole")
        yield made


def refuse(place: Site, address: str, kind: str) -> None:
    """A route of the router that leads nowhere, in the named way."""
    place.top.router.netlink(
        lambda route: route.route("add", family=socket.AF_INET6, dst=f"{address}/128", type=kind), "set a route"
    )


def runs(pid: int | str) -> bool:
    """Whether there is such a process; one that has ended and that nobody has asked about yet is none."""
    return Owner.of_pid(int(pid)) is not None


class Run:
    """A running `unimux run --json`; what it says on standard error is read line by line."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.said: list[str] = []

    async def next(self, event: str) -> dict[str, Any]:
        """The next object of a kind that it tells."""
        assert self.process.stderr is not None
        while line := (await asyncio.wait_for(self.process.stderr.readline(), _READY)).decode():
            self.said.append(line)
            if line.startswith("{") and (told := json.loads(line))["event"] == event:
                return dict(told)
        raise AssertionError(f"it ended without {event}: {self.said}")

    async def line(self) -> str:
        """The next line of the program's own output."""
        assert self.process.stdout is not None
        return (await asyncio.wait_for(self.process.stdout.readline(), _READY)).decode().strip()

    async def end(self, status: int = 0) -> tuple[str, str]:
        """Wait for the end; what the program printed, and what has been said on standard error."""
        assert self.process.stdout is not None and self.process.stderr is not None
        reading = asyncio.gather(self.process.stdout.read(), self.process.stderr.read())
        out, said = await asyncio.wait_for(reading, 60)
        assert await self.process.wait() == status, said.decode()
        return out.decode(), "".join(self.said) + said.decode()


@asynccontextmanager
async def run(place: Site, *argv: str, options: tuple[str, ...] = (), **environment: str) -> AsyncIterator[Run]:
    """`unimux run` in the client's namespace, bridged."""
    command = (sys.executable, "-m", "unimux", "run", "--json", "--bridge", place.top.client_bridge.name)
    env = {**SETTINGS, "HOME": str(place.folder), "LC_ALL": "C.UTF-8", **environment}
    async with run_in(
        place.top.client, (*command, *options, "--", *argv), stdout=PIPE, stderr=PIPE, env=env, cwd=place.folder
    ) as process:
        yield Run(process)


def namespaces(role: str = "run") -> set[str]:
    """The namespaces of runs that there are."""
    return {path.name for path in NETNS_DIR.iterdir() if path.name.endswith(f"-{role}")}


RAW = """\
import ctypes, os, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)  # system calls by number: no wrapper that could be replaced is called
fd = libc.syscall(41, socket.AF_INET6, socket.SOCK_STREAM, 0)
where = struct.pack("=HHI16sI", socket.AF_INET6, socket.htons(80), 0, socket.inet_pton(socket.AF_INET6, sys.argv[1]), 0)
assert libc.syscall(42, fd, where, len(where)) == 0, os.strerror(ctypes.get_errno())
request = b"GET /file HTTP/1.0\\r\\n\\r\\n"
assert libc.syscall(1, fd, request, len(request)) == len(request)
answer = b""
while piece := os.read(fd, 65536):
    answer += piece
sys.stdout.buffer.write(answer.partition(b"\\r\\n\\r\\n")[2])
"""


@pytest.mark.real(*SERVERS, "busybox", "curl", "drill", "wget")
@pytest.mark.proves("UM-DAS-4", "UM-DAS-6", "UM-NODE-3")
def test_clients_dynamic_static_and_by_bare_system_calls(place: Site, artefacts: Path) -> None:
    (place.folder / "raw.py").write_text(RAW)
    (place.folder / "clients.sh").write_text(
        f"""\
set -e
curl -q -sS -f -o curl-1 http://{NAME}/file
curl -q --no-progress-meter -f -Z -o curl-2 http://{NAME}/file -o curl-3 http://[{SERVER}]/file
wget -q -O wget-1 http://{NAME}/file
busybox wget -q -O busybox-1 http://[{SERVER}]/file
{sys.executable} raw.py {SERVER} > raw-1
getent ahostsv6 six.example
drill -Q @{SERVER} six.example AAAA
drill -Q -t six.example AAAA
drill -Q six.example A
"""
    )

    async def body() -> str:
        async with place.captured(artefacts) as path, run(place, "sh", "clients.sh") as running:
            out, said = await running.end()
        assert said == ""
        assert len(place.sources(path)) == 7, "six transfers and one question over TCP"
        asked = sources(frames(path), Kind.UDP, 53)
        kernel = place.top.client_bridge.mac.hex(":")
        assert {mac for mac, _ in asked} == {mac for mac, _ in asked} - {kernel}
        assert len({source for _, source in asked}) == len(asked) >= 5, "each question from an address of its own"
        assert all(IPv6Address(source) in IPv6Network(topology.CLIENT_PREFIX) for _, source in asked)
        return out

    out = place.run(body())
    assert out.split() == [
        *("2001:db8:6::6", "STREAM", "six.example", "2001:db8:6::6", "DGRAM", "2001:db8:6::6", "RAW"),
        *("2001:db8:6::6", "2001:db8:6::6"),
    ]
    for name in ("curl-1", "curl-2", "curl-3", "wget-1", "busybox-1", "raw-1"):
        assert sha256((place.folder / name).read_bytes()).hexdigest() == DIGEST, name


CAUSES = """\
import json, socket, sys, time
def attempt(host, port, timeout=20):
    began = time.monotonic()
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as s:
        s.settimeout(timeout)
        try:
            s.connect((host, port))
        except TimeoutError as error:
            return "timeout", time.monotonic() - began < timeout + 5
        except OSError as error:
            return error.errno
    return 0
def datagram(host, port):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as s:
        s.connect((host, port))
        s.settimeout(20)
        s.send(b"?")
        try:
            return s.recv(10)
        except OSError as error:
            return error.errno
server, no_route, prohibited, silent, nobody = sys.argv[1:]
print(json.dumps({
    "served": attempt(server, 80), "refused": attempt(server, 81), "no route": attempt(no_route, 80),
    "prohibited": attempt(prohibited, 80), "silent": attempt(silent, 80, 1.5), "nobody": attempt(nobody, 80),
    "ipv4": attempt("192.0.2.1", 80), "datagram": datagram(server, 81), "itself": attempt("::1", 80),
}))
"""


@pytest.mark.real(*SERVERS)
def test_the_program_sees_why_a_connection_failed(place: Site) -> None:
    (place.folder / "causes.py").write_text(CAUSES)

    async def body() -> None:
        targets = (SERVER, NO_ROUTE, PROHIBITED, SILENT, "2001:db8:2::dead")
        async with run(place, sys.executable, "causes.py", *targets) as running:
            out, said = await running.end()
        assert said == ""
        assert json.loads(out) == {
            "served": 0,
            "refused": errno.ECONNREFUSED,
            "no route": errno.ENETUNREACH,
            "prohibited": errno.EACCES,
            "silent": ["timeout", True],
            "nobody": errno.EHOSTUNREACH,
            "ipv4": errno.ENETUNREACH,
            "datagram": errno.ECONNREFUSED,
            "itself": errno.ECONNREFUSED,
        }

    place.run(body())


SERVE = """\
import signal, socket
with socket.create_server(("::", 8080), family=socket.AF_INET6) as listening:
    print("ready", flush=True)
    for _ in range(2):
        connection, peer = listening.accept()
        with connection:
            print(peer[0], peer[1], len(b"".join(iter(lambda: connection.recv(65536), b""))), flush=True)
            connection.sendall(b"bytes back")
print("deaf", flush=True)
signal.pause()
"""
VISIT = """\
import socket, sys
with socket.create_connection((sys.argv[1], 8080), timeout=20) as s:
    print(*s.getsockname()[:2], flush=True)
    s.sendall(bytes(300_000))
    s.shutdown(socket.SHUT_WR)
    print(s.recv(100).decode(), flush=True)
"""


@pytest.mark.real(*SERVERS, "busybox", "curl")
@pytest.mark.proves("UM-LIS-8", "UM-NODE-1", "UM-NODE-3")
def test_its_listening_sockets_are_services_and_it_sees_who_comes(place: Site, artefacts: Path) -> None:
    (place.folder / "serve.py").write_text(SERVE)
    (place.folder / "visit.py").write_text(VISIT)

    async def visit(address: str) -> list[str]:
        async with run_in(
            place.top.server, (sys.executable, str(place.folder / "visit.py"), address), stdout=PIPE
        ) as process:
            out, _ = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0
        return out.decode().splitlines()

    async def body() -> None:
        async with run(place, sys.executable, "serve.py") as running:
            assert await running.line() == "ready"
            told = await running.next("listening")
            service = f"{Path(sys.executable).name}-8080"
            assert (told["port"], told["service"]) == (8080, service)
            async with place.captured(artefacts) as path:
                for _ in range(2):
                    issued = await running.next("issued")
                    assert IPv6Address(issued["address"]) in IPv6Network(topology.CLIENT_PREFIX)
                    name, answer = await visit(issued["address"])
                    assert answer == "bytes back"
                    assert await running.line() == f"{name} 300000", "the program sees the visitor's address and port"
                assert await running.line() == "deaf"
            assert (await running.next("closed"))["service"] == service
            late = await curl(place.top.server, f"http://[{issued['address']}]:8080/", "--connect-timeout", "2")
            assert late.code in (7, 28), "refused while the last session ends, silence after"
            running.process.send_signal(signal.SIGTERM)
            await running.end(128 + signal.SIGTERM)
        assert len({one.server.address for one in place.judge(path).connections if one.established is not None}) == 2

        page = ("busybox", "httpd", "-f", "-p", "[::]:8080", "-h", str(place.www))
        async with run(place, *page, options=("--sessions", "3")) as running:
            issued = await running.next("issued")
            got = [await curl(place.top.server, f"{issued['url']}file") for _ in range(3)]
            assert [each.sha256 for each in got] == [DIGEST] * 3
            assert (await running.next("issued"))["address"] != issued["address"]
            running.process.send_signal(signal.SIGINT)
            await running.end(128 + signal.SIGINT)

    place.run(body())


@pytest.mark.real(*SERVERS)
def test_status_signals_users_and_what_is_left_behind(place: Site) -> None:
    before = namespaces()

    async def body() -> None:
        async with run(place, "sh", "-c", "trap 'echo told; exit 5' TERM; echo $$; sleep 60 & wait") as running:
            assert (await running.line()).isdecimal()
            running.process.send_signal(signal.SIGTERM)
            assert await running.end(5) == ("told\n", "")
        async with run(
            place, "sh", "-c", "setsid sleep 1000 & echo $!; id -un; exit 7", options=("--user", "nobody")
        ) as it:
            out, _ = await it.end(7)
        child, who = out.split()
        assert who == "nobody"
        assert not runs(child), "what it started has ended with it"
        async with run(place, "sh", "-c", "setsid unshare -n sleep 1000 & echo $!; exit 0") as it:
            child, _ = await it.end()
        assert not runs(child.strip()), "also in a namespace of its own"
        async with run(place, "no-such-program") as running:
            assert await running.end(127) == (
                "",
                "unimux: no-such-program is not a program that can be run: check its name and the PATH.\n",
            )
        assert namespaces() == before

    place.run(body())


@pytest.mark.real(*SERVERS)
def test_killed_it_takes_the_program_along_and_the_next_start_cleans(place: Site) -> None:
    async def body() -> None:
        before = namespaces()
        async with run(place, "sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo $$ $!; wait") as running:
            program, child = map(int, (await running.line()).split())
            (made,) = namespaces() - before
            with Namespace.named(made) as where:
                assert os.stat(f"/proc/{program}/ns/net").st_ino == where.inode
            running.process.kill()
            await running.end(-signal.SIGKILL)
            while runs(program):  # the kernel does it, in its own time
                await asyncio.sleep(0.01)
        async with run(place, "true") as running:
            await running.end()
        assert namespaces() == before
        assert not runs(child)

    place.run(body())
