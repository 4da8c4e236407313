"""Two LANs of real kernels and a router; unmodified servers and `unimux publish` on one side, unmodified clients on the other.

  client                router (radvd)             server
curl, ssh, iperf3 ───── unmodified Linux ───── bridge ── TAP of the node (unimux publish)
dnsmasq or unbound                              nginx, sshd, iperf3 on the kernel's loopback
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import dpkt

from compat.kernel import topology
from compat.kernel.topology import Topology, demo_topology
from compat.programs import Advertisement, router_advertiser, run_in
from compat.programs.process import is_bound, until
from scenarios.witness import CaptureFile, Judgement, Setup, UnifiedNode, Verdict, judge

from ..wire import capturing

PROGRAMS = ("curl", "dumpcap", "radvd")
READY = 20.0
RULES = (
    "captures-whole", "own-pair", "dad-first", "group-held", "promotion-once", "speaks-within-life",
    "never-again", "checksums", "within-mtu", "hop-limits",
)  # fmt: skip


@dataclass
class Published:
    """A running `unimux publish --json`; `events` are the objects that it has printed."""

    process: Process
    log: Path
    events: list[dict[str, Any]]

    async def next(self, event: str) -> dict[str, Any]:
        """The next object of a kind; AssertionError with what it said when it ends before."""
        assert self.process.stdout is not None
        while line := await asyncio.wait_for(self.process.stdout.readline(), READY):
            said = json.loads(line)
            self.events.append(said)
            if said["event"] == event:
                return dict(said)
        raise AssertionError(self.log.read_text())


@dataclass
class Place:
    """The network, running; `folder` holds what the programs write and the captures."""

    top: Topology
    folder: Path

    def environment(self, **more: str) -> dict[str, str]:
        """Settings for the node, as a user would export them."""
        return {
            "UNIMUX_NODE_OFFLOAD": "false",
            "UNIMUX_NODE_TIME_WAIT": "short",
            "UNIMUX_NODE_POOL_PACE": "0.01",
            **more,
        }

    @asynccontextmanager
    async def publish(self, service: str, to: str, *options: str, **environment: str) -> AsyncIterator[Published]:
        """`unimux publish` in the server's namespace, bridged, until the block ends; it must end in order."""
        argv: tuple[str, ...] = (
            sys.executable,
            "-m",
            "unimux",
            "publish",
            service,
            "--to",
            to,
            "--json",
            *options,
        )
        argv += ("--bridge", self.top.server_bridge.name)
        log = self.folder / f"publish-{service}.log"
        with log.open("wb") as errors:
            async with run_in(
                self.top.server, argv, stdout=PIPE, stderr=errors, env=self.environment(**environment)
            ) as process:
                made = Published(process, log, [])
                await made.next("ready")
                yield made
                process.send_signal(signal.SIGINT)
                await made.next("end")
                assert await asyncio.wait_for(process.wait(), 10) == 0, log.read_text()

    def captured(self, path: Path, **options: int) -> AbstractAsyncContextManager[Path]:
        """Capture the router's link to the server's LAN, where everything passes."""
        return capturing(self.top.router_server, path, **options)

    def judge(self, path: Path, sessions: dict[str, int] | None = None, *stable: str) -> Judgement:
        """The witness's verdict on a capture; every rule must pass."""
        node = UnifiedNode(
            "node",
            "server",
            tuple(node_macs(path)),
            (topology.SERVER_PREFIX,),
            (topology.SERVER_ROUTER, topology.SERVER_ADDRESS, topology.THIRD_ADDRESS, *stable),
        )
        setup = Setup((node,), sessions=sessions or {}, rules=RULES)
        judgement = judge([CaptureFile(path, "server", offload_free=True)], setup, consult_tshark=False)
        for finding in judgement.findings:
            assert finding.verdict is Verdict.PASSED, f"{finding.rule}: {finding.sentence} {finding.details}"
        return judgement


def node_macs(path: Path) -> set[str]:
    """Who sent TCP from the server's prefix, but for the kernels there: the node."""
    prefix = IPv6Network(topology.SERVER_PREFIX)
    kernels = {IPv6Address(each) for each in (topology.SERVER_ADDRESS, topology.SERVER_ROUTER, topology.THIRD_ADDRESS)}
    found = set()
    with path.open("rb") as file:
        for _, frame in dpkt.pcapng.Reader(file):
            ethernet = dpkt.ethernet.Ethernet(frame)
            packet = ethernet.data
            if isinstance(packet, dpkt.ip6.IP6) and packet.nxt == dpkt.ip.IP_PROTO_TCP:
                source = IPv6Address(packet.src)
                if source in prefix and source not in kernels:
                    found.add(ethernet.src.hex(":"))
    return found


@asynccontextmanager
async def radvd(place: Place) -> AsyncIterator[None]:
    """The router advertises both prefixes."""
    advertisements = (
        Advertisement(place.top.router_client, topology.CLIENT_PREFIX),
        Advertisement(place.top.router_server, topology.SERVER_PREFIX),
    )
    async with router_advertiser(place.top.router, *advertisements):
        yield


@asynccontextmanager
async def daemon(
    place: Place, where: Any, name: str, argv: Sequence[str], protocol: str, port: int
) -> AsyncIterator[Process]:
    """An unmodified daemon, ready when it is bound to its port."""
    log = place.folder / f"{name}.log"
    with log.open("wb") as output:
        async with run_in(where, argv, stdout=output, stderr=output) as process:
            await until(process, lambda: is_bound(process, protocol, port), log)
            yield process


@asynccontextmanager
async def ssh_server(place: Place, port: int) -> AsyncIterator[list[str]]:
    """An unmodified sshd on the server's loopback; yields the client's options."""
    folder = place.folder / "ssh"
    folder.mkdir(mode=0o700)
    for key in ("host", "user"):
        argv = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key))
        async with run_in(place.top.server, argv) as made:
            assert await made.wait() == 0
    (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
    kind, public = (folder / "host.pub").read_text().split()[:2]
    (folder / "known").write_text(f"published {kind} {public}\n")
    (folder / "sshd_config").write_text(
        f"ListenAddress [::1]:{port}\nHostKey {folder}/host\nPidFile none\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nUsePAM no\nUseDNS no\nPermitRootLogin yes\nPasswordAuthentication no\n"
    )
    os.makedirs("/run/sshd", mode=0o755, exist_ok=True)  # sshd wants it; Debian's service would make it
    command = ("sshd", "-D", "-e", "-f", str(folder / "sshd_config"))
    async with daemon(place, place.top.server, "sshd", command, "tcp6", port):
        settings = {
            "IdentityFile": folder / "user",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": folder / "known",
            "HostKeyAlias": "published",
            "StrictHostKeyChecking": "yes",
            "BatchMode": "yes",
            "LogLevel": "ERROR",
        }
        yield ["-F", "none", *(word for key, value in settings.items() for word in ("-o", f"{key}={value}"))]


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """Build the network; everything is gone afterwards."""
    with demo_topology() as top:
        top.set_offloads(False)
        yield Place(top, folder)
