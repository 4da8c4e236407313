"""`unimux socks` and the servers of an unmodified Linux on two LANs with a router between, for real programs to use.

    client LAN                       router, capture here           server LAN
      the programs under test  →  unimux socks on a TAP  →  nginx, sshd, dnsmasq on the kernel's stack

The front end is a process of its own in the client's namespace, as a user would start it.  One loop runs for the whole
life of a site; the servers live between two calls of `run`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

import dpkt

from compat.kernel import topology
from compat.kernel.topology import Topology, demo_topology
from compat.programs import Advertisement, Completed, name_server, router_advertiser, run_in, web_server
from compat.programs.process import is_bound, until
from scenarios.witness import CaptureFile, Judgement, Setup, UnifiedNode, Verdict, judge
from tests.real.wire import capturing

SERVERS = ("dnsmasq", "dumpcap", "nginx", "radvd")
"""Programs that every site needs."""
SERVER = topology.SERVER_ADDRESS
PORT = 1080
NAME = "www.example"
MIRRORS = [f"mirror-{digit}.example" for digit in range(10)]
HOSTS = {NAME: [SERVER], "six.example": ["2001:db8:6::6"], **{name: [SERVER] for name in MIRRORS}}
"""What the name server knows, which only the node can ask: the programs leave every name to the front end."""
_READY = 20.0
_PRIVILEGE_SEPARATION = "/run/sshd"
_RULES = ("captures-whole", "own-pair", "checksums", "within-mtu")

T = TypeVar("T")


class Site:
    """The network of the picture above, running; `folder` holds what the programs read and write."""

    def __init__(self, runner: asyncio.Runner, top: Topology, folder: Path) -> None:
        self._runner = runner
        self.top = top
        self.folder = folder
        self.www = folder / "www"
        self.socks: Process | None = None

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Let the network live until `main` is done."""
        return self._runner.run(main)

    async def program(
        self, *argv: str, timeout: float = 30.0, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> Completed:
        """Run a program on the client's kernel to its end, with a home of its own; one that fails shows what it said."""
        home = {"HOME": str(self.folder), "LC_ALL": "C.UTF-8", **dict.fromkeys(_PROXIES, "")}
        async with run_in(
            self.top.client, argv, stdout=PIPE, stderr=PIPE, env={**home, **(env or {})}, cwd=cwd or self.folder
        ) as process:
            try:
                out, said = await asyncio.wait_for(process.communicate(), timeout)
            except TimeoutError:
                raise AssertionError(f"{argv[0]} did not end within {timeout:g} s") from None
        return Completed(process.returncode or 0, out, said)

    def captured(self, folder: Path) -> AbstractAsyncContextManager[Path]:
        """Capture the router's link to the client's LAN, into a test's folder."""
        return capturing(self.top.router_client, folder / "router.pcapng")

    def judge(self, path: Path) -> Judgement:
        """What the witness says of a capture: every connection of the node from an address of its own."""
        node = UnifiedNode(
            "node",
            "client",
            tuple(node_macs(path)),
            (topology.CLIENT_PREFIX,),
            (topology.CLIENT_ROUTER, topology.CLIENT_ADDRESS),
        )
        setup = Setup(nodes=(node,), rules=_RULES)
        judgement = judge([CaptureFile(path, "client", offload_free=True)], setup, consult_tshark=False)
        for finding in judgement.findings:
            assert finding.verdict is Verdict.PASSED, f"{finding.rule}: {finding.sentence} {finding.details}"
        return judgement

    def sources(self, path: Path) -> list[str]:
        """The one-time addresses of the established connections of a capture, each from another one."""
        connections = [one for one in self.judge(path).connections if one.established is not None]
        addresses = [str(IPv6Address(one.client.address)) for one in connections]
        assert len(set(addresses)) == len(addresses), "an address was used twice"
        return addresses


_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "GIT_SSH_COMMAND")


def node_macs(path: Path) -> set[str]:
    """Who sent TCP from the client's prefix: the node, since the client's own kernel has nothing to say there."""
    prefix, found = IPv6Network(topology.CLIENT_PREFIX), set()
    with path.open("rb") as file:
        for _, frame in dpkt.pcapng.Reader(file):
            ethernet = dpkt.ethernet.Ethernet(frame)
            packet = ethernet.data
            tcp = isinstance(packet, dpkt.ip6.IP6) and packet.nxt == dpkt.ip.IP_PROTO_TCP
            if tcp and IPv6Address(packet.src) in prefix:
                found.add(ethernet.src.hex(":"))
    return found


def udp_sources(path: Path, port: int) -> set[tuple[str, str]]:
    """Link-layer and IPv6 source of every datagram to a port."""
    found = set()
    with path.open("rb") as file:
        for _, frame in dpkt.pcapng.Reader(file):
            ethernet = dpkt.ethernet.Ethernet(frame)
            packet = ethernet.data
            if isinstance(packet, dpkt.ip6.IP6) and isinstance(packet.data, dpkt.udp.UDP) and packet.data.dport == port:
                found.add((ethernet.src.hex(":"), str(IPv6Address(packet.src))))
    return found


@asynccontextmanager
async def front_end(site: Site) -> AsyncIterator[Process]:
    """`unimux socks` in the client's namespace, when its pool has addresses."""
    environment = {
        "UNIMUX_NODE_OFFLOAD": "false",
        "UNIMUX_NODE_TIME_WAIT": "short",
        "UNIMUX_NODE_NAME_SERVERS": SERVER,
        "UNIMUX_NODE_POOL_LOW": "32",
        "UNIMUX_NODE_POOL_HIGH": "64",
        "UNIMUX_NODE_POOL_PACE": "0.01",
    }
    events = site.folder / "events.jsonl"
    argv = (sys.executable, "-m", "unimux", "socks", "--json", "--bridge", site.top.client_bridge.name)
    log = site.folder / "socks.log"
    with log.open("wb") as errors:
        async with run_in(
            site.top.client, (*argv, "--events", str(events)), stdout=PIPE, stderr=errors, env=environment
        ) as process:
            assert process.stdout is not None
            line = await asyncio.wait_for(process.stdout.readline(), _READY)
            assert line, log.read_text()
            (where,) = json.loads(line)["listening"]
            assert where["port"] == PORT
            await until(process, lambda: events.exists() and "UNCERTAIN" in events.read_text(), log, timeout=_READY)
            try:
                yield process
                process.send_signal(signal.SIGINT)
                assert await asyncio.wait_for(process.wait(), 10) == 0, log.read_text()
            finally:
                said = log.read_text()
                assert said == "", said


@asynccontextmanager
async def ssh_server(site: Site) -> AsyncIterator[None]:
    """An unmodified sshd on the server's kernel; the client's key and the server's are in the site's folder."""
    folder = site.folder / "ssh"
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        made = await site.program("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
        assert made.code == 0, made.stderr
    (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
    kind, public = (folder / "host.pub").read_text().split()[:2]
    (folder / "known").write_text(f"{SERVER},{NAME} {kind} {public}\n")
    (folder / "sshd_config").write_text(
        f"""\
ListenAddress ::
Port 22
HostKey {folder}/host
PidFile none
AuthorizedKeysFile {folder}/authorized
StrictModes no
UsePAM no
UseDNS no
PermitRootLogin yes
PasswordAuthentication no
AcceptEnv NONE
Subsystem sftp internal-sftp
"""
    )
    os.makedirs(_PRIVILEGE_SEPARATION, mode=0o755, exist_ok=True)  # sshd wants it; Debian's service would make it
    log = folder / "sshd.log"
    argv = ("sshd", "-D", "-e", "-f", str(folder / "sshd_config"))
    with log.open("wb") as errors:
        async with run_in(site.top.server, argv, stderr=errors) as process:
            await until(process, lambda: is_bound(process, "tcp6", 22), log)
            yield


@asynccontextmanager
async def udp_forwarder(site: Site, port: int, target: str, target_port: int) -> AsyncIterator[None]:
    """v2ray on the client: what comes to ::1 and `port` goes to the target by UDP ASSOCIATE of the front end."""
    log, configuration = site.folder / "v2ray.log", site.folder / "v2ray.json"
    forward = {"address": target, "port": target_port, "network": "udp"}
    settings = {
        "log": {"loglevel": "warning"},
        "inbounds": [{"listen": "::1", "port": port, "protocol": "dokodemo-door", "settings": forward}],
        "outbounds": [{"protocol": "socks", "settings": {"servers": [{"address": "127.0.0.1", "port": PORT}]}}],
    }
    configuration.write_text(json.dumps(settings))
    argv = ("v2ray", "-config", str(configuration))
    with log.open("wb") as errors:
        async with run_in(site.top.client, argv, stdout=errors, stderr=errors) as process:
            await until(process, lambda: is_bound(process, "udp6", port), log, timeout=_READY)
            yield


def ssh_options(site: Site) -> list[str]:
    """Options by which ssh and scp reach the server with the site's keys and through netcat's SOCKS5 client."""
    folder = site.folder / "ssh"
    settings = {
        "IdentityFile": folder / "user",
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": folder / "known",
        "StrictHostKeyChecking": "yes",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
        "ProxyCommand": f"nc.openbsd -X 5 -x 127.0.0.1:{PORT} %h %p",
    }
    return ["-F", "none", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]


@contextmanager
def site(folder: Path, *, socks: bool = True) -> Iterator[Site]:
    """Build the network with its servers and, if wanted, the SOCKS front end; everything is gone afterwards."""
    with demo_topology() as top, asyncio.Runner() as runner:
        top.set_offloads(False)
        made = Site(runner, top, folder)
        made.www.mkdir()
        stack = AsyncExitStack()

        async def begin() -> None:
            advertisement = Advertisement(top.router_client, topology.CLIENT_PREFIX)
            await stack.enter_async_context(router_advertiser(top.router, advertisement))
            await stack.enter_async_context(web_server(top.server, made.www))
            await stack.enter_async_context(name_server(top.server, HOSTS))
            if socks:
                made.socks = await stack.enter_async_context(front_end(made))

        try:
            runner.run(begin())
            yield made
        finally:
            runner.run(stack.aclose())
