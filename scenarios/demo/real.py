"""The story between real kernels: namespaces, an unmodified router, web server and curl, and nodes on TAPs.

Chapters, in the order in which they are told:

1. *bulk*: with offload, 100 MB through SOCKS.
2. *parallel*: from here on without offload, so that captures show true checksums: twenty small fetches at once.
3. *reserved*: a neighbour probes an UNCERTAIN address.
4. *service*: a file on an SSA, fetched by a legacy kernel at L1; a second fetch, and a third host all along.
5. *talk*: two unified nodes at L0 with ports that change.

Captures are taken on the router's two links, where everything passes, by dumpcap.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

from compat import kernel
from compat.kernel import topology
from compat.kernel.topology import Topology, demo_topology
from compat.programs.curl import Fetch, curl
from compat.programs.dumpcap import dumpcap
from compat.programs.nginx import WebServer, web_server
from compat.programs.radvd import Advertisement, router_advertiser
from compat.socks.command import serve_socks
from scenarios.engine.probes import inject, ping
from scenarios.engine.raw import dad_probe, knocks, solicitation
from scenarios.witness.setup import CaptureFile, Setup, UnifiedNode
from tapstack.types import address_text
from unimux.events import EventFile
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

from .outcome import Outcome, Say, Watch
from .story import (
    OPTIONS,
    READY_TIMEOUT,
    RELEASE_TIMEOUT,
    SMALL_BYTES,
    SMALL_FILES,
    all_released,
    listener_changed,
    reserved_address,
)
from .talk import talk_at_l0
from .web import FileProtocol

BULK_BYTES = 100_000_000
NAME = "www.example"


class Story:
    """One run between namespaces; `tell` fills `outcome`."""

    def __init__(self, outcome: Outcome, say: Say, watch: Watch, random: Random) -> None:
        self.outcome = outcome
        self.say = say
        self.watch = watch
        self.random = random
        self.nodes: list[UnifiedNode] = []
        self.ssa = ""

    async def tell(self) -> None:
        """Everything, in order; every namespace, link and program is gone when this returns, whatever happens."""
        with kernel.scratch_folder("demo") as files:
            digests = await asyncio.to_thread(self._write_files, files)
            with demo_topology() as top:
                async with AsyncExitStack() as stack:
                    web = await stack.enter_async_context(web_server(top.server, files))
                    advertisements = (
                        Advertisement(top.router_client, topology.CLIENT_PREFIX),
                        Advertisement(top.router_server, topology.SERVER_PREFIX),
                    )
                    await stack.enter_async_context(router_advertiser(top.router, *advertisements))
                    await self._bulk(top, web, digests)
                    top.set_offloads(False)
                    await self._without_offload(top, web, digests)
        self.outcome.setup = self._setup()

    def _write_files(self, folder: Path) -> dict[str, str]:
        """The files of the web server; returns their SHA-256 by name."""
        digests = {}
        for name, size in [("bulk", BULK_BYTES), *((f"small-{n}", SMALL_BYTES) for n in range(SMALL_FILES))]:
            digest = hashlib.sha256()
            with (folder / name).open("wb") as file:
                for start in range(0, size, 1 << 20):
                    piece = self.random.randbytes(min(1 << 20, size - start))
                    digest.update(piece)
                    file.write(piece)
            digests[name] = digest.hexdigest()
        return digests

    # -- nodes and captures ----------------------------------------------------------------------

    @asynccontextmanager
    async def _node(self, name: str, bridge: kernel.Interface, where: str, *, offload: bool) -> AsyncIterator[Node]:
        """A unified node on a TAP of a bridge, with events into the run's file."""
        config = NodeConfig(
            pool=PoolConfig(low=8, high=24),
            socket=OPTIONS,
            names={NAME: [topology.SERVER_ADDRESS]},
        )
        with kernel.bridged_tap(bridge, f"tap-{name}", mac=self.random, offload=offload) as link:
            mac = link.properties.mac
            assert mac is not None
            prefix = topology.CLIENT_PREFIX if where == "client" else topology.SERVER_PREFIX
            stable = topology.CLIENT_ROUTER, topology.CLIENT_ADDRESS
            if where == "server":
                stable = topology.SERVER_ROUTER, topology.SERVER_ADDRESS
            point = f"{where}-bulk" if name == "bulk" else where
            self.nodes.append(UnifiedNode(name, point, (mac.hex(":"),), (prefix,), stable))
            node = Node(link, config)
            with EventFile(self.outcome.events, node.events, node=name), self.watch(name, node):
                async with node:
                    yield node

    @asynccontextmanager
    async def _captured(self, name: str, interface: kernel.Interface, *, whole: bool) -> AsyncIterator[None]:
        """Capture an interface while the block runs: whole frames on a link without offload, else their beginnings."""
        path = self.outcome.folder / "wire" / f"{name}.pcapng"
        async with dumpcap(
            interface, path, snaplen=262144 if whole else 1600, buffer_mib=32 if whole else 64
        ) as capture:
            yield
            await capture.stop()
        self.outcome.fact(
            f"The capture at {name} missed nothing",
            capture.dropped == 0 and capture.received > 0,
            f"{capture.received:,} frames, {capture.dropped} lost",
        )
        self.outcome.captures.append(CaptureFile(path, name, offload_free=whole))

    @asynccontextmanager
    async def _socks(self, node: Node, where: kernel.Namespace) -> AsyncIterator[str]:
        """The node's SOCKS front end on the namespace's loopback; yields host:port."""
        sock = kernel.tcp_socket(where)
        sock.bind(("::1", 0))
        async with await serve_socks(node, sock=sock) as server:
            yield f"[::1]:{sock.getsockname()[1]}"
            await server.drain(RELEASE_TIMEOUT)  # curl is done when it has the file; the connections close after that

    # -- chapters --------------------------------------------------------------------------------

    async def _bulk(self, top: Topology, web: WebServer, digests: dict[str, str]) -> None:
        self.say("1. A unified node with offload; curl fetches 100 MB through its SOCKS front end")
        async with (
            self._captured("client-bulk", top.router_client, whole=False),
            self._node("bulk", top.client_bridge, "client", offload=True) as node,
            self._socks(node, top.client) as proxy,
        ):
            await node.ready(1, READY_TIMEOUT)
            fetched = await curl(top.client, f"http://{NAME}/bulk", "--socks5-hostname", proxy, timeout=60)
            self._compare("The 100 MB arrived equal", [fetched], [digests["bulk"]])
            if fetched.total_seconds:
                rate = fetched.size * 8 / fetched.total_seconds / 1e9
                self.say(
                    f"   {fetched.size:,} bytes in {fetched.total_seconds:.2f} s ({rate:.1f} Gbit/s), SHA-256 equal"
                )
            await all_released("bulk", node, self.outcome)

    def _compare(self, title: str, fetched: list[Fetch], digests: list[str]) -> None:
        equal = sum(fetch.ok and fetch.sha256 == digest for fetch, digest in zip(fetched, digests, strict=True))
        failures = [fetch.error or f"HTTP {fetch.status}" for fetch in fetched if not fetch.ok]
        self.outcome.fact(
            title,
            equal == len(digests),
            f"{equal} of {len(digests)} equal by SHA-256" + (f"; {failures[0]}" if failures else ""),
            "UM-NODE-2",
        )

    async def _without_offload(self, top: Topology, web: WebServer, digests: dict[str, str]) -> None:
        async with AsyncExitStack() as stack:
            for name, interface in (("client", top.router_client), ("server", top.router_server)):
                await stack.enter_async_context(self._captured(name, interface, whole=True))
            alice = await stack.enter_async_context(self._node("alice", top.client_bridge, "client", offload=False))
            bob = await stack.enter_async_context(self._node("bob", top.server_bridge, "server", offload=False))
            await self._parallel(top, alice, digests)
            await self._reserved(top, alice)
            await self._service(top, alice)
            self.say("5. Two unified nodes talk at L0; every segment carries other port numbers")
            await bob.ready(1, READY_TIMEOUT)
            await talk_at_l0(bob, alice, self.random, self.outcome, lambda text: self.say(f"   {text}"))
            self.say("   waiting for the last addresses to be released (TIME-WAIT option: short)")
            await asyncio.gather(all_released("alice", alice, self.outcome), all_released("bob", bob, self.outcome))

    async def _parallel(self, top: Topology, alice: Node, digests: dict[str, str]) -> None:
        self.say(f"2. Without offload: {SMALL_FILES} files at once, each connection from an EA of its own")
        async with self._socks(alice, top.client) as proxy:
            await alice.ready(SMALL_FILES, READY_TIMEOUT)
            names = [f"small-{n}" for n in range(SMALL_FILES)]
            fetched = await asyncio.gather(
                *(curl(top.client, f"http://{NAME}/{name}", "--socks5-hostname", proxy) for name in names)
            )
            self._compare("The 20 small files arrived equal", fetched, [digests[name] for name in names])
            self.say(
                f"   {sum(f.ok for f in fetched)} of {SMALL_FILES} fetched, {sum(f.size for f in fetched):,} bytes"
            )

    async def _reserved(self, top: Topology, alice: Node) -> None:
        self.say("3. A neighbour probes a reserved (UNCERTAIN) address: defended against DAD, silent to all else")
        await alice.ready(2, READY_TIMEOUT)
        target = reserved_address(alice)
        mac = top.router_client.mac
        source = socket.inet_pton(socket.AF_INET6, topology.CLIENT_ROUTER)
        node_mac = alice.link.properties.mac
        assert node_mac is not None
        probes = [dad_probe(mac, target, self.random.randbytes(6)), solicitation(mac, source, target)]
        inject(top.router_client, [*probes, *knocks(mac, node_mac, source, target)])
        answered = await ping(top.third_link, address_text(target), wait=1.0)
        self.outcome.fact(
            "An UNCERTAIN address does not answer a ping",
            not answered,
            f"{address_text(target)} was pinged from the third host",
            "UM-ADDR-4",
        )

    async def _service(self, top: Topology, alice: Node) -> None:
        self.say("4. A file on an SSA at L1, for one client; a legacy kernel fetches it, then tries again")
        body = self.random.randbytes(SMALL_BYTES)
        server = alice.listen(lambda: FileProtocol({"file": body}))
        states = [server.state.value]
        ssa = await server.issue(client=topology.SERVER_ADDRESS, timeout=READY_TIMEOUT)
        states.append(server.state.value)
        self.ssa = str(ssa)
        url = f"http://[{ssa}]/file"
        third = asyncio.create_task(self._third_host(top, url, str(ssa)))
        await asyncio.sleep(0.2)  # the third host knocks before, during and after the session
        first = await curl(top.server, url)
        states.append(server.state.value)
        self._compare("The legacy client fetched the file from the SSA", [first], [hashlib.sha256(body).hexdigest()])
        listener_changed(states, self.outcome)
        self.say(f"   {first.size:,} bytes from [{ssa}]; listener: {' → '.join(states)}")
        await alice.until(lambda: ssa.address.packed not in alice.stack.host.addresses, RELEASE_TIMEOUT)
        second = await curl(top.server, url, "--connect-timeout", "2")
        self.outcome.fact(
            "A second fetch of the SSA did not connect",
            not second.ok and second.size == 0,
            second.error or "it answered",
            "UM-LIS-6",
        )
        self.say(f"   second fetch: {second.error}")
        await third
        server.close()

    async def _third_host(self, top: Topology, url: str, ssa: str) -> None:
        """Knocks at the SSA with curl and ping, over and over, for as long as the chapter lasts."""
        answers = []
        for _ in range(3):
            fetched, pinged = await asyncio.gather(
                curl(top.third, url, "--connect-timeout", "0.6", timeout=1), ping(top.third_link, ssa, wait=0.6)
            )
            answers.append(fetched.ok or fetched.size > 0 or pinged)
        self.outcome.fact(
            "The third host got nothing", not any(answers), f"{len(answers)} fetches and pings", "UM-LIS-4", "UM-EA-1"
        )

    # -- for the judge ---------------------------------------------------------------------------

    def _setup(self) -> Setup:
        return Setup(
            nodes=tuple(self.nodes),
            strangers=(topology.THIRD_ADDRESS,),
            second_fetch=(self.ssa,),
            connections=SMALL_FILES + 3,
            port_changes=1,
            real_time=True,
        )


async def tell(outcome: Outcome, say: Say, watch: Watch, seed: int | None = None) -> None:
    """Run the story; raises `SetupError` where the machine lacks something."""
    kernel.capabilities().require()
    kernel.clean_leftovers()
    random = Random(os.urandom(16) if seed is None else seed)
    await Story(outcome, say, watch, random).tell()
