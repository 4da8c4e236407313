"""Draw the figures of docs/unified-multiplex.md from captures of a run between real kernels.

    sudo .venv/bin/python tools/um_figures.py [FOLDER]

A few sessions are held between namespaces: a legacy kernel with a service address, two unified nodes whose ports change, a
unified client with a legacy server.  dumpcap records the router's links, the witness computes lifetimes and connections from
the captures alone, and the figures show what it found.  Captures stay in FOLDER, if one is named.  Takes about ten seconds.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from random import Random

from compat import kernel
from compat.kernel import topology
from compat.kernel.topology import demo_topology
from compat.programs.curl import curl
from compat.programs.dumpcap import dumpcap
from compat.programs.nginx import web_server
from compat.programs.radvd import Advertisement, router_advertiser
from scenarios.demo.outcome import Outcome
from scenarios.demo.talk import talk_at_l0
from scenarios.demo.web import FileProtocol
from scenarios.report import lifetimes_figure, sequence_figure
from scenarios.witness import CaptureFile, Judgement, Setup, UnifiedNode, judge
from tapstack.ipv6.config import HostConfig
from tapstack.tcp.options import SocketOptions, TimeWait
from unimux.aio import open_connection
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

DOCS = Path(__file__).parents[1] / "docs"
PATIENCE = 15.0
FILE = Random(1).randbytes(6000)


async def sessions(folder: Path) -> Setup:
    """Hold the sessions and capture them into `folder`."""
    random = Random(7)
    nodes: list[UnifiedNode] = []
    with demo_topology() as top:
        top.set_offloads(False)
        async with AsyncExitStack() as stack:
            (folder / "www").mkdir()
            (folder / "www" / "file").write_bytes(FILE)
            await stack.enter_async_context(web_server(top.server, folder / "www"))
            announcements = (
                Advertisement(top.router_client, topology.CLIENT_PREFIX),
                Advertisement(top.router_server, topology.SERVER_PREFIX),
            )
            await stack.enter_async_context(router_advertiser(top.router, *announcements))
            for name, interface in (("client", top.router_client), ("server", top.router_server)):
                await stack.enter_async_context(dumpcap(interface, folder / f"{name}.pcapng"))

            async def node(
                name: str, bridge: kernel.Interface, where: str, prefix: str, stable: tuple[str, ...]
            ) -> Node:
                link = stack.enter_context(kernel.bridged_tap(bridge, f"tap-{name}", mac=random))
                assert link.properties.mac is not None
                nodes.append(UnifiedNode(name, where, (link.properties.mac.hex(":"),), (prefix,), stable))
                options = SocketOptions(time_wait=TimeWait.SHORT)
                host = HostConfig(stable_addresses=False)
                config = NodeConfig(host=host, pool=PoolConfig(low=2, high=3), socket=options)
                return await stack.enter_async_context(Node(link, config))

            at_client = topology.CLIENT_ROUTER, topology.CLIENT_ADDRESS
            at_server = topology.SERVER_ROUTER, topology.SERVER_ADDRESS, topology.THIRD_ADDRESS
            alice = await node("alice", top.client_bridge, "client", topology.CLIENT_PREFIX, at_client)
            bob = await node("bob", top.server_bridge, "server", topology.SERVER_PREFIX, at_server)
            await asyncio.gather(alice.ready(3, PATIENCE), bob.ready(3, PATIENCE))
            server = alice.listen(lambda: FileProtocol({"file": FILE}))
            ssa = await server.issue(client=topology.SERVER_ADDRESS)
            fetched = await curl(top.server, f"http://[{ssa}]/file")
            if not fetched.ok:
                raise SystemExit(f"the legacy client got nothing: {fetched.error}")
            server.close()
            reader, writer = await open_connection(alice, topology.SERVER_ADDRESS, 80)
            writer.write(b"GET /file HTTP/1.0\r\n\r\n")
            await reader.read()
            writer.close()
            await talk_at_l0(bob, alice, random, Outcome(folder), lambda text: None)
            for each in (alice, bob):
                await each.until(partial(_unused, each), PATIENCE)
            await asyncio.sleep(1.5)  # the last group is reported as left twice
    return Setup(nodes=tuple(nodes))


def _unused(node: Node) -> bool:
    return not any(entry.users for entry in node.stack.host.addresses)


def draw(judgement: Judgement) -> dict[str, str]:
    """The figures by file name."""
    legacy = topology.SERVER_ADDRESS
    named = {
        judgement.evidence.lifetime(c.server.address) is not None: c for c in judgement.connections if not c.changes
    }
    restless = next(c for c in judgement.connections if c.changes)
    if set(named) != {True, False}:
        raise SystemExit(f"the capture lacks a session of {legacy}")
    return {
        "um-service-address.svg": sequence_figure(named[True], judgement),
        "um-ports.svg": sequence_figure(restless, judgement),
        "um-lifetimes.svg": lifetimes_figure(judgement, width=900),
    }


def main() -> None:
    """Run, judge, draw."""
    with tempfile.TemporaryDirectory(prefix="um-figures-") as temporary:
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        setup = asyncio.run(sessions(folder))
        captures = [CaptureFile(folder / f"{name}.pcapng", name, offload_free=True) for name in ("client", "server")]
        judgement = judge(captures, setup, consult_tshark=False)
    for name, figure in draw(judgement).items():
        (DOCS / name).write_text(figure + "\n", encoding="utf-8")
        print(f"docs/{name}: {len(figure):,} bytes")


if __name__ == "__main__":
    main()
