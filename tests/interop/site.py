"""`unimux socks` and the servers of an unmodified Linux on two LANs with a router between, for real programs to use.

    client LAN                       router, capture here           server LAN
      the programs under test  →  unimux socks on a TAP  →  nginx, sshd, dnsmasq on the kernel's stack

The front end is a process of its own in the client's namespace, as a user would start it.  One loop runs for the whole
life of a site; the servers live between two calls of `run`.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any, TypeVar

from compat.kernel import topology
from compat.kernel.topology import Topology, demo_topology
from compat.programs import Advertisement, Completed, name_server, router_advertiser, run_in, web_server
from compat.programs.process import until
from scenarios.witness import Judgement
from scenarios.witness.frames import Kind
from tests.real.daemons import READY, daemon
from tests.real.wire import capturing, frames, judged, sources

SERVERS = ("dnsmasq", "dumpcap", "nginx", "radvd")
"""Programs that every site needs."""
SERVER = topology.SERVER_ADDRESS
PORT = 1080
NAME = "www.example"
MIRRORS = [f"mirror-{digit}.example" for digit in range(10)]
HOSTS = {NAME: [SERVER], "six.example": ["2001:db8:6::6"], **{name: [SERVER] for name in MIRRORS}}
"""What the name server knows, which only the node can ask: the programs leave every name to the front end."""
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
        kernel = topology.CLIENT_ADDRESS
        assert kernel not in {source for _, source in sources(frames(path), Kind.TCP)}, "it was the client's own kernel"
        return judged(path, topology.CLIENT_PREFIX, (topology.CLIENT_ROUTER, kernel), _RULES)

    def sources(self, path: Path) -> list[str]:
        """The one-time addresses of the established connections of a capture, each from another one."""
        connections = [one for one in self.judge(path).connections if one.established is not None]
        addresses = [str(IPv6Address(one.client.address)) for one in connections]
        assert len(set(addresses)) == len(addresses), "an address was used twice"
        return addresses


_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTPS_PROXY", "ALL_PROXY", "no_proxy", "GIT_SSH_COMMAND")


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
            line = await asyncio.wait_for(process.stdout.readline(), READY)
            assert line, log.read_text()
            (where,) = json.loads(line)["listening"]
            assert where["port"] == PORT
            await until(process, lambda: events.exists() and "UNCERTAIN" in events.read_text(), log, timeout=READY)
            try:
                yield process
                process.send_signal(signal.SIGINT)
                assert await asyncio.wait_for(process.wait(), 10) == 0, log.read_text()
            finally:
                said = log.read_text()
                assert said == "", said


@asynccontextmanager
async def udp_forwarder(site: Site, port: int, target: str, target_port: int) -> AsyncIterator[None]:
    """v2ray on the client: what comes to ::1 and `port` goes to the target by UDP ASSOCIATE of the front end."""
    configuration = site.folder / "v2ray.json"
    forward = {"address": target, "port": target_port, "network": "udp"}
    settings = {
        "log": {"loglevel": "warning"},
        "inbounds": [{"listen": "::1", "port": port, "protocol": "dokodemo-door", "settings": forward}],
        "outbounds": [{"protocol": "socks", "settings": {"servers": [{"address": "127.0.0.1", "port": PORT}]}}],
    }
    configuration.write_text(json.dumps(settings))
    argv = ("v2ray", "-config", str(configuration))
    async with daemon(site.top.client, site.folder, "v2ray", argv, "udp6", port):
        yield


def through_netcat(options: Sequence[str]) -> list[str]:
    """Options of ssh and scp, which have no SOCKS of their own, with netcat's client in between."""
    return [*options, "-o", f"ProxyCommand=nc.openbsd -X 5 -x 127.0.0.1:{PORT} %h %p"]


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
