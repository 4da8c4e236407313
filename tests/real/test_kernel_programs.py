"""Unmodified programs inside namespaces: they run there, answer through the router, and end with their block."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import Iterator
from pathlib import Path
from random import Random

import dns.message
import dns.query
import dns.rcode
import pytest
from scapy.layers.inet6 import (
    ICMPv6ND_RA,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
)
from scapy.layers.l2 import Ether

from compat.gateway.program import ROOM_VARIABLE, processes_of
from compat.kernel import Namespace, address, bridged_tap, in_namespace, namespace, veth
from compat.kernel.topology import CLIENT_ADDRESS, CLIENT_PREFIX, SERVER_ADDRESS, demo_topology
from compat.programs import (
    Advertisement,
    ProgramFailed,
    ProgramMissing,
    complete_in,
    curl,
    find_program,
    name_server,
    router_advertiser,
    run_in,
    web_server,
)

pytestmark = pytest.mark.real


@pytest.fixture
def space() -> Iterator[Namespace]:
    with namespace("test") as made:
        yield made


@pytest.mark.real("nginx", "curl")
def test_nginx_is_fetched_through_the_router(tmp_path: Path) -> None:
    folder = tmp_path / 'an "odd" ${name}; {'
    folder.mkdir()
    body = Random(1).randbytes(3_000_000)
    (folder / "file").write_bytes(body)

    async def fetch() -> None:
        with demo_topology() as net:
            async with web_server(net.server, folder) as server:
                found = await curl(net.client, server.url(SERVER_ADDRESS, "file"))
                assert found.ok
                assert (found.code, found.status, found.size) == (0, 200, len(body))
                assert found.sha256 == hashlib.sha256(body).hexdigest()
                assert (found.local, found.remote) == (CLIENT_ADDRESS, SERVER_ADDRESS)
                assert 0 < found.connect_seconds <= found.total_seconds
                missing = await curl(net.client, server.url(SERVER_ADDRESS, "nothing"))
                assert (missing.ok, missing.code, missing.status) == (False, 0, 404)
                assert server.access_log.read_text().count(CLIENT_ADDRESS) == 2
            refused = await curl(net.client, server.url(SERVER_ADDRESS, "file"))
            assert (refused.code, refused.status, refused.size, refused.connect_seconds) == (7, 0, 0, 0)
            assert "connect" in refused.error
            silent = await curl(net.client, "http://[2001:db8:2::5]/", timeout=0.3)
            assert silent.code == 28

    asyncio.run(fetch())


@pytest.mark.real("nginx", "dnsmasq")
def test_a_port_that_is_taken_is_an_error_in_one_sentence(space: Namespace, tmp_path: Path) -> None:
    async def twice() -> None:
        async with web_server(space, tmp_path, port=8080), name_server(space, {}, port=8053):
            with pytest.raises(
                ProgramFailed, match=r"nginx cannot have port 8080 in unimux-.*: Address already in use\.$"
            ):
                async with web_server(space, tmp_path, port=8080):
                    pass
            with pytest.raises(ProgramFailed, match="dnsmasq cannot have port 8053"):
                async with name_server(space, {}, port=8053):
                    pass

    asyncio.run(twice())


@pytest.mark.real("radvd")
def test_a_daemon_that_gives_up_is_an_error_with_its_own_words(space: Namespace) -> None:
    async def start() -> None:
        with veth(space, "a", space, "b") as (a, _):
            wrong = Advertisement(a, CLIENT_PREFIX, preferred_lifetime=9, valid_lifetime=5)
            async with router_advertiser(space, wrong):
                pass

    with pytest.raises(ProgramFailed, match=r"radvd ended with status 1: .*AdvValidLifeTime must be greater"):
        asyncio.run(start())


@pytest.mark.real("nginx")
def test_servers_leave_no_file_and_no_process(space: Namespace, tmp_path: Path) -> None:
    async def run() -> Path:
        async with web_server(space, tmp_path, port=8080) as server:
            return server.access_log

    log = asyncio.run(run())
    assert not log.parent.exists()
    assert Path(f"/proc/self/task/{os.getpid()}/children").read_text() == ""


@pytest.mark.real("radvd")
@pytest.mark.parametrize("interval", [(3, 4), (0.1, 0.2)], ids=["standard", "quick"])
def test_radvd_advertises_what_it_was_told(interval: tuple[float, float]) -> None:
    with demo_topology() as net, bridged_tap(net.client_bridge, "tap0", mac=bytes([2, 0, 0, 0, 0, 9])) as link:
        what = Advertisement(
            net.router_client,
            CLIENT_PREFIX,
            min_interval=interval[0],
            max_interval=interval[1],
            router_lifetime=90,
            valid_lifetime=1234,
            preferred_lifetime=567,
            mtu=1400,
            rdnss=["2001:db8:1::1", "2001:db8::53"],
        )

        async def until_advertised() -> ICMPv6ND_RA:
            async with router_advertiser(net.router, what), asyncio.timeout(20):
                arrived = asyncio.Event()
                link.attach(asyncio.get_running_loop(), arrived.set)
                while True:
                    await arrived.wait()
                    arrived.clear()
                    while (frame := link.receive()) is not None:
                        if ICMPv6ND_RA in (parsed := Ether(bytes(frame))):
                            return parsed[ICMPv6ND_RA]

        advertised = asyncio.run(until_advertised())
        assert advertised.routerlifetime == 90
        assert advertised[ICMPv6NDOptMTU].mtu == 1400
        prefix = advertised[ICMPv6NDOptPrefixInfo]
        assert (f"{prefix.prefix}/{prefix.prefixlen}", prefix.L, prefix.A) == (CLIENT_PREFIX, 1, 1)
        assert (prefix.validlifetime, prefix.preferredlifetime) == (1234, 567)
        assert advertised[ICMPv6NDOptRDNSS].dns == ["2001:db8:1::1", "2001:db8::53"]


def test_an_interval_that_no_router_may_use_is_refused() -> None:
    with demo_topology() as net, pytest.raises(ValueError, match="no router may advertise every 3 to 3 s"):
        Advertisement(net.router_client, CLIENT_PREFIX, min_interval=3, max_interval=3)


@pytest.mark.real("dnsmasq")
def test_dnsmasq_answers_for_its_names_only(space: Namespace) -> None:
    def ask(name: str, kind: str = "AAAA") -> tuple[str, list[str]]:
        with in_namespace(space):
            client = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        with client:
            client.setblocking(False)
            reply = dns.query.udp(dns.message.make_query(name, kind), "2001:db8::53", timeout=20, sock=client)
        answers = [str(each) for rrset in reply.answer for each in rrset]
        assert all(rrset.ttl == 7 for rrset in reply.answer)
        return dns.rcode.to_text(reply.rcode()), sorted(answers)

    async def serve() -> None:
        hosts = {"www.example": ["2001:db8::1", "2001:db8::2"], "other.example": ["2001:db8::3"]}
        async with name_server(space, hosts, ttl=7) as server:
            assert ask("www.example") == ("NOERROR", ["2001:db8::1", "2001:db8::2"])
            assert ask("other.example") == ("NOERROR", ["2001:db8::3"])
            assert ask("www.example", "A") == ("NOERROR", [])
            assert ask("no.example") == ("NXDOMAIN", [])
            server.set_hosts({"www.example": ["2001:db8::9"]})
            async with asyncio.timeout(20):
                while ask("www.example") != ("NOERROR", ["2001:db8::9"]):
                    await asyncio.sleep(0.005)
            assert ask("other.example") == ("NXDOMAIN", [])

    with veth(space, "a", space, "b") as (a, _), address(a, "2001:db8::53/64"):
        asyncio.run(serve())


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch, space: Namespace) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(ProgramMissing, match=r"^radvd is not installed; install the Debian package radvd .*\.$"):
        find_program("radvd")
    with pytest.raises(ProgramMissing, match="Debian package nginx-light"):
        asyncio.run(complete_in(space, ["nginx"]))


def test_a_program_runs_inside_and_reports_its_status(space: Namespace) -> None:
    script = "import os, sys; print(os.readlink('/proc/self/ns/net')); sys.stderr.write('said'); sys.exit(3)"
    done = asyncio.run(complete_in(space, [sys.executable, "-c", script]))
    assert done.stdout.decode().strip() == f"net:[{space.inode}]"
    assert (done.code, done.stderr) == (3, b"said")


def test_a_program_starts_as_from_a_shell(space: Namespace) -> None:
    """No signal ignored that Python ignores for itself, no descriptor but the standard ones, a session of its own."""
    script = "grep SigIgn /proc/self/status; ls /proc/self/fd; ps -o sid= -p $$; echo $$"
    found = asyncio.run(complete_in(space, ["sh", "-c", script]))
    ignored, *rest = found.stdout.decode().split("\n")
    of_python = 1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)
    own = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigIgn"))
    inherited = (
        int(own.split()[1], 16) & ~of_python
    )  # whoever started the tests may ignore some, and children inherit that
    assert int(ignored.split()[1], 16) & ~inherited == 0
    assert rest[:4] == ["0", "1", "2", "3"]  # 3 is the folder that ls reads
    assert rest[4].strip() == rest[5].strip()


def test_a_program_that_takes_too_long_is_ended(space: Namespace) -> None:
    with pytest.raises(ProgramFailed, match=r"sleep did not end within 0\.1 s"):
        asyncio.run(complete_in(space, ["sleep", "100"], timeout=0.1))


def test_the_programs_of_a_run_are_told_from_others_that_the_same_process_runs(space: Namespace) -> None:
    """A run ends what is its own, also where that has gone into another namespace, and nothing else."""

    async def main() -> None:
        script = "echo $$; exec unshare -n sh -c 'echo there; sleep 1000'"
        with namespace("room") as room:
            async with (
                run_in(space, ["sleep", "1000"]) as other,
                run_in(room, ["sh", "-c", script], stdout=PIPE, env={ROOM_VARIABLE: room.name}) as own,
            ):
                assert own.stdout is not None
                assert int(await own.stdout.readline()) == own.pid
                assert await own.stdout.readline() == b"there\n"
                found = processes_of(room)
                assert own.pid in found and other.pid not in found

    asyncio.run(main())


def test_what_has_left_the_group_and_holds_a_pipe_holds_nobody_up(space: Namespace) -> None:
    async def run() -> int:
        script = "setsid sh -c 'echo $$; exec sleep 1000' &"  # it tells its number when it has left
        async with run_in(space, ["sh", "-c", script], stdout=PIPE, grace=0.1) as process:
            assert process.stdout is not None
            return int(await process.stdout.readline())

    pid = asyncio.run(asyncio.wait_for(run(), 60))
    os.kill(pid, signal.SIGKILL)  # it was there


def test_leaving_the_block_kills_the_whole_group(space: Namespace) -> None:
    def members(group: int) -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                state, _, own_group = folder.joinpath("stat").read_text().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(own_group) == group and state not in "ZX":
                found.append(folder.name)
        return found

    async def run() -> None:
        script = "trap '' TERM; sleep 100 & sleep 100 & echo ready; wait; wait"
        async with run_in(space, ["sh", "-c", script], stdout=PIPE) as process:
            assert process.stdout is not None
            assert await process.stdout.readline() == b"ready\n"
            assert len(members(process.pid)) == 3
            os.killpg(process.pid, signal.SIGSTOP)  # deaf to SIGTERM, as a hung program is
        async with asyncio.timeout(20):
            while members(process.pid):
                await asyncio.sleep(0.005)

    asyncio.run(run())


def test_nothing_leaks_from_running_programs(space: Namespace, tmp_path: Path) -> None:
    def state() -> tuple[list[str], str]:
        return sorted(os.listdir("/proc/self/fd")), Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    async def once() -> None:
        async with web_server(space, tmp_path, port=8080):
            await complete_in(space, ["true"])

    asyncio.run(once())
    before = state()
    for _ in range(3):
        asyncio.run(once())
    assert state() == before


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"#!/no/such/interpreter\n", "its interpreter, or its loader, is not there"),
        (b"\x7fELFrubbish", "exec format error"),
    ],
)
def test_a_file_that_the_kernel_does_not_run_is_a_sentence_and_126(
    space: Namespace, tmp_path: Path, text: bytes, why: str
) -> None:
    path = tmp_path / "program"
    path.write_bytes(text)
    path.chmod(0o755)

    async def main() -> None:
        async with run_in(space, (str(path),), stdout=PIPE, stderr=PIPE) as process:
            out, said = await asyncio.wait_for(process.communicate(), 60)
        assert (process.returncode, out) == (126, b"")
        assert said.decode() == f"unimux: Cannot run {path}: {why}.\n"

    asyncio.run(main())
