"""Two LANs of real kernels and a router; unmodified servers and `unimux publish` on one side, unmodified clients on the other.

  client                router (radvd)             server
curl, ssh, iperf3 ───── unmodified Linux ───── bridge ── TAP of the node (unimux publish)
dnsmasq or unbound                              nginx, sshd, iperf3 on the kernel's loopback
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compat.kernel import topology
from compat.kernel.topology import Topology, demo_topology
from compat.programs import Advertisement, router_advertiser, run_in
from scenarios.witness import Judgement

from ..daemons import READY
from ..wire import capturing, judged

PROGRAMS = ("curl", "dumpcap", "radvd")
COMMAND = (sys.executable, "-m", "unimux")
ZONE = "shop.example"
NS = "2001:db8:2::53"
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
        bridge = self.top.server_bridge.name
        argv = (*COMMAND, "publish", service, "--to", to, "--json", *options, "--bridge", bridge)
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
        kernels = (topology.SERVER_ROUTER, topology.SERVER_ADDRESS, topology.THIRD_ADDRESS)
        return judged(path, topology.SERVER_PREFIX, (*kernels, *stable), RULES, sessions)


@asynccontextmanager
async def radvd(place: Place) -> AsyncIterator[None]:
    """The router advertises both prefixes."""
    advertisements = (
        Advertisement(place.top.router_client, topology.CLIENT_PREFIX),
        Advertisement(place.top.router_server, topology.SERVER_PREFIX),
    )
    async with router_advertiser(place.top.router, *advertisements):
        yield


@contextmanager
def place(folder: Path, page: bytes) -> Iterator[Place]:
    """Build the network; everything is gone afterwards.  page: what a web server on the folder `www` has as `/file`."""
    (folder / "www").mkdir()
    (folder / "www" / "file").write_bytes(page)
    with demo_topology() as top:
        top.set_offloads(False)
        yield Place(top, folder)
