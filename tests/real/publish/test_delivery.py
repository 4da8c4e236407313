"""DNS between an unmodified curl and one-time addresses, with a caching resolver of Debian; netcat between kernels."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv6Address

import pytest

from compat.kernel import topology
from compat.programs import complete_in, run_in, web_server
from scenarios.witness.frames import BLOCK, TO_INCLUDE, Kind, solicited_node
from tests.real.publish.place import COMMAND, NS, PROGRAMS, ZONE, Place, radvd

from ..daemons import READY, daemon
from ..um.judge import segments, sessions
from ..wire import advertisements, after, frames, probes, questions, reports

BODY = random.Random(9).randbytes(50_000)


@asynccontextmanager
async def resolver(here: Place, program: str) -> AsyncIterator[None]:
    """A caching resolver with its default cache on the client, which knows who answers for the zone."""
    if program == "dnsmasq":
        argv: tuple[str, ...] = (
            "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--log-queries",
            f"--server=/{ZONE}/{NS}", "--local=/#/", "--log-facility=-", "--pid-file=", "--user=root",
        )  # fmt: skip
    else:
        file = here.folder / "unbound.conf"
        file.write_text(
            'server:\n  interface: ::1\n  username: ""\n  chroot: ""\n  pidfile: ""\n  use-syslog: no\n  do-daemonize: no\n'
            f'  directory: "{here.folder}"\n  module-config: "iterator"\n  do-ip4: no\n  verbosity: 1\n'
            f'  local-zone: "example." nodefault\nstub-zone:\n  name: "{ZONE}"\n  stub-addr: {NS}\n'
            "remote-control:\n  control-enable: no\n"
        )
        argv = ("unbound", "-d", "-c", str(file))
    async with daemon(here.top.client, here.folder, program, argv, "udp6", 53):
        yield


def address_in(token: bytes) -> str:
    """The address of a token."""
    return token.decode().partition("[")[2].partition("]")[0]


async def fetch(here: Place, *options: str) -> tuple[int, str, int]:
    """An unmodified curl whose resolv.conf names ::1; its status, the address it reached, and bytes."""
    file = here.folder / "resolv.conf"
    file.write_text("nameserver ::1\noptions timeout:30 attempts:2\n")
    script = f'mount --bind {file} /etc/resolv.conf && exec curl -sS -o /dev/null -w "%{{remote_ip}} %{{size_download}}" "$@"'
    quiet = dict.fromkeys(("http_proxy", "all_proxy", "ALL_PROXY"), "")
    argv = ("unshare", "--mount", "sh", "-c", script, "curl", "--max-time", "70", *options)
    done = await complete_in(here.top.client, argv, timeout=90, env=quiet)
    words = done.stdout.decode().split()
    return done.code, words[0] if len(words) == 2 else "", int(words[-1]) if words else 0


@pytest.mark.real(*PROGRAMS, "nginx", "unshare", "mount")
@pytest.mark.proves("UM-SSA-3", "UM-NODE-2", "UM-LIS-8")
@pytest.mark.parametrize(
    "program",
    [
        pytest.param("dnsmasq", marks=pytest.mark.real(*PROGRAMS, "dnsmasq")),
        pytest.param("unbound", marks=pytest.mark.real(*PROGRAMS, "unbound")),
    ],
)
def test_curl_needs_only_a_name_and_a_caching_resolver_keeps_nothing(here: Place, program: str) -> None:
    """Two fetches, more than the retry window apart, reach two addresses; one curl's two connections share its lease."""
    path = here.folder / f"capture-{program}.pcapng"
    url = f"http://{ZONE}/file"

    async def main() -> None:
        async with (
            radvd(here),
            web_server(here.top.server, here.folder / "www", port=8080),
            here.captured(path),
            here.publish("web", "[::1]:8080", "--dns", ZONE, "--dns-address", NS) as published,
            resolver(here, program),
        ):
            assert [each["event"] for each in published.events] == ["begin", "dns", "ready"]
            first = await fetch(here, url)
            assert first[::2] == (0, len(BODY))
            await asyncio.sleep(2.2)  # beyond the retry window: what a client a little later sees
            second = await fetch(here, "--parallel", "--no-keepalive", url)
            assert second[::2] == (0, len(BODY))
            assert second[1] != first[1], "the resolver kept an answer with TTL 0"
            only_ipv4 = await fetch(here, "-4", url)
            assert only_ipv4[0] == 6, "curl could not resolve an IPv4 address"
        ended = published.events[-1]
        assert (ended["sessions"], ended["issued"]) == (2, 2)

    asyncio.run(main())
    here.judge(path, None, NS)


@pytest.mark.real(*PROGRAMS)
@pytest.mark.proves("UM-SSA-1")
def test_listen_and_connect_carry_files_both_ways(here: Place) -> None:
    """A token printed by `unimux listen` on one LAN is given to `unimux connect` on the other."""
    path = here.folder / "capture.pcapng"

    async def main() -> str:
        up, down = BODY, BODY[::-1]
        (here.folder / "up").write_bytes(up)
        (here.folder / "down").write_bytes(down)
        environment = here.environment()
        listening = (*COMMAND, "listen", "files", "--json", "--bridge", here.top.server_bridge.name)
        with (here.folder / "down").open("rb") as given, (here.folder / "got").open("wb") as got:
            async with (
                radvd(here),
                here.captured(path),
                run_in(here.top.server, listening, stdin=given, stdout=got, stderr=PIPE, env=environment) as server,
            ):
                assert server.stderr is not None
                told = json.loads(await asyncio.wait_for(server.stderr.readline(), READY))
                connecting = (*COMMAND, "connect", told["token"], "--json", "--bridge", here.top.client_bridge.name)
                script = f'"$@" < {here.folder / "up"}'
                done = await complete_in(here.top.client, ("sh", "-c", script, "connect", *connecting), env=environment)
                assert done.code == 0, done.stderr
                assert done.stdout == down
                report = json.loads(done.stderr)
                assert (report["sent"], report["received"], report["ended"]) == (len(up), len(down), "complete")
                mirrored = json.loads(await server.stderr.readline())
                assert (mirrored["remote"].partition("]")[0], mirrored["received"]) == (
                    report["local"].partition("]")[0],
                    len(up),
                )
                assert await asyncio.wait_for(server.wait(), 10) == 0
                again = await complete_in(here.top.client, (*connecting, "--timeout", "6"), env=environment)
                assert again.code == 4
                assert b"did not answer" in again.stderr
        assert (here.folder / "got").read_bytes() == up
        return str(told["token"])

    token = asyncio.run(main())
    served, *again = sessions(segments(path), by_ports=True)
    assert served.server in token, "the address that was carried by hand is the one that was called"
    assert (served.request, served.answer) == (BODY, BODY[::-1])
    assert served.ended is not None
    assert again and not [segment for one in again for segment in one.answered], "a used token was answered"


@pytest.mark.real(*PROGRAMS)
def test_connect_to_a_kernel_server_and_what_its_exit_says(here: Place) -> None:
    """Netcat's other use: an ordinary server.  Refused is 4, reset in the middle or unread is 1, an end in order is 0."""

    async def main() -> None:
        environment = here.environment()
        command = (*COMMAND, "connect", "--bridge", here.top.client_bridge.name)
        async with radvd(here):
            refused = await complete_in(here.top.client, (*command, f"[{topology.SERVER_ADDRESS}]:9"), env=environment)
            assert (refused.code, b"refused the connection" in refused.stderr) == (4, True)
            reset = "import socket,struct;s=socket.create_server(('::',9000),family=socket.AF_INET6);print(1,flush=True);c,_=s.accept();c.recv(1);c.setsockopt(1,13,struct.pack('ii',1,0));c.close()"  # noqa: E501
            async with run_in(here.top.server, (sys.executable, "-c", reset), stdout=PIPE) as server:
                assert server.stdout is not None
                await server.stdout.readline()
                script = 'echo hello | "$@"'
                argv = ("sh", "-c", script, "connect", *command, topology.SERVER_ADDRESS, "9000", "--verbose")
                done = await complete_in(here.top.client, argv, env=environment)
                assert done.code == 1
                assert b"ended the session early" in done.stderr
            with (here.folder / "www" / "large").open("wb") as large:
                large.truncate(16 << 20)  # more than pipes and buffers on the way take
            async with web_server(here.top.server, here.folder / "www", port=8080):
                script = '{ printf "GET /large HTTP/1.0\\r\\n\\r\\n" | "$@"; echo "status $?" >&2; } | head -c 1'
                unread = ("sh", "-c", script, "connect", *command, topology.SERVER_ADDRESS, "8080")
                done = await complete_in(here.top.client, unread, env=environment)
                assert done.stderr == b"status 1\n", "nobody reads, and nobody need be told"

    asyncio.run(main())


@pytest.mark.real(*PROGRAMS, "nc.openbsd")
@pytest.mark.proves("UM-LIS-5")
def test_a_listen_that_nobody_calls_and_one_that_is_interrupted(here: Place) -> None:
    """Who calls an address after its lifetime gets nothing; the one that is issued next, with another address, is served."""
    path = here.folder / "capture.pcapng"

    async def main() -> tuple[str, str]:
        environment = here.environment()
        command = (*COMMAND, "listen", "--bridge", here.top.server_bridge.name)
        async with radvd(here), here.captured(path):
            done = await complete_in(here.top.server, (*command, "--lifetime", "1"), env=environment)
            assert done.code == 4
            assert done.stderr.startswith(b"unimux://[2001:db8:2:")
            assert b"Nobody connected" in done.stderr
            expired = address_in(done.stderr)
            async with run_in(here.top.server, command, stdin=PIPE, stderr=PIPE, env=environment) as process:
                assert process.stderr is not None
                fresh = address_in(await process.stderr.readline())
                late = await complete_in(here.top.client, ("curl", "-sS", "-m", "2", f"telnet://[{expired}]:80"))
                assert late.code in (7, 28)
                called = await complete_in(here.top.client, ("nc.openbsd", "-z", "-w", "10", fresh, "80"))
                assert called.code == 0, called.stderr
                process.send_signal(signal.SIGTERM)
                await asyncio.wait_for(process.wait(), 10)
            assert not [name for name in os.listdir("/sys/class/net") if name.endswith("node")]
        return expired, fresh

    expired, fresh = asyncio.run(main())
    assert expired != fresh
    seen = frames(path)
    assert len(probes(seen, expired)) == 1, "it was never reserved again"
    left = reports(seen, solicited_node(IPv6Address(expired).packed), BLOCK, TO_INCLUDE)[0]
    late = questions(after(seen, left), expired)
    served = next(frame.order for frame in seen if frame.kind is Kind.TCP and frame.src == IPv6Address(fresh).packed)
    assert late and late[0].order < served, "the late call and the permitted one are in one capture"
    assert not [frame for frame in after(seen, left) if frame.src == IPv6Address(expired).packed]
    assert not advertisements(after(seen, left), expired)
