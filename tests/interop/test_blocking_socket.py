"""The blocking socket on a TAP: to an unmodified nginx, and from an unmodified curl to an SSA."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
from pathlib import Path
from random import Random

import pytest

from compat.attachment import NodeSettings, attached_node
from compat.kernel import topology
from compat.kernel.topology import Topology, demo_topology
from compat.programs import Advertisement, curl, router_advertiser, web_server
from tapstack.tcp.options import TimeWait
from tests.real.um.judge import segments, sessions
from tests.real.wire import capturing
from unimux.blocking import NodeThread, SsaPolicy

BODY = Random(8).randbytes(500_000)


def fetch(net: NodeThread) -> tuple[bytes, str]:
    """The page by the standard library's HTTP client, and the address that it was fetched from."""
    client = http.client.HTTPConnection(topology.SERVER_ADDRESS, 80)
    sock = net.create_connection((topology.SERVER_ADDRESS, 80), timeout=20)
    client.sock = sock
    client.request("GET", "/file")
    body = client.getresponse().read()
    source = sock.getsockname()[0]
    client.close()
    return body, source


def serve_once(net: NodeThread, tell: asyncio.Future[str], loop: asyncio.AbstractEventLoop) -> str:
    """Answer one request at an SSA for the server's LAN; the SSA that the accepted socket gives."""
    with net.socket() as listening:
        listening.settimeout(20)
        listening.listen()
        ssa = listening.issue(SsaPolicy(client=topology.SERVER_ADDRESS))
        loop.call_soon_threadsafe(tell.set_result, str(ssa))
        accepted, peer = listening.accept()
        with accepted:
            assert peer[0] == topology.SERVER_ADDRESS
            head = accepted.makefile("rb").readline()
            assert head == b"GET / HTTP/1.1\r\n"
            accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY))
            accepted.sendall(BODY)
            return accepted.getsockname()[0]


@pytest.mark.real("curl", "dumpcap", "nginx", "radvd")
@pytest.mark.proves("UM-DAS-4")
def test_blocking_sockets_between_kernels(tmp_path: Path, artefacts: Path) -> None:
    (tmp_path / "file").write_bytes(BODY)
    path = artefacts / "router.pcapng"

    async def body(top: Topology) -> tuple[set[str], str]:
        settings = NodeSettings(bridge=top.client_bridge.name, netns=top.client.name, time_wait=TimeWait.SHORT)
        advertisement = Advertisement(top.router_client, topology.CLIENT_PREFIX)
        async with (
            web_server(top.server, tmp_path),
            router_advertiser(top.router, advertisement),
            capturing(top.router_client, path),
        ):
            net = await asyncio.to_thread(NodeThread(lambda: attached_node(settings)).start)
            try:
                sources = set()
                for _ in range(3):
                    page, source = await asyncio.to_thread(fetch, net)
                    assert page == BODY
                    sources.add(source)
                assert len(sources) == 3
                loop = asyncio.get_running_loop()
                told: asyncio.Future[str] = loop.create_future()
                serving = asyncio.create_task(asyncio.to_thread(serve_once, net, told, loop))
                ssa = await asyncio.wait_for(told, 20)
                fetched = await curl(top.server, f"http://[{ssa}]/")
                assert fetched.sha256 == hashlib.sha256(BODY).hexdigest(), fetched
                assert await serving == ssa
            finally:
                await asyncio.to_thread(net.close)
            return sources, ssa

    with demo_topology() as top:
        sources, ssa = asyncio.run(body(top))
    *fetched, served = sessions(segments(path), by_ports=True)
    assert {each.client for each in fetched} == sources and len(fetched) == 3, "an address for each connection"
    assert all(each.answer.endswith(BODY) and each.ended is not None for each in (*fetched, served))
    assert (served.client, served.server) == (topology.SERVER_ADDRESS, ssa)
