"""The witness on a real capture: a Linux kernel whose addresses come and go, seen by dumpcap on its peer's interface.

A kernel is no unified node: it probes, joins, connects and leaves as the wire rules expect, but it answers whoever asks
and announces nothing at promotion.  So this run shows both that the dissectors read true frames rightly, and that a node
without the rules of unified-multiplex §1 is found out.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from compat.kernel import Interface, Namespace, address, in_namespace, namespace, set_sysctl, veth
from scenarios.witness import CaptureFile, Judgement, Setup, UnifiedNode, Verdict, judge
from scenarios.witness.frames import solicited_node, text

from .wire import capturing

pytestmark = pytest.mark.real("dumpcap", "tshark")

PREFIX, FIRST, SECOND, PEER = "2001:db8:77::/64", "2001:db8:77::1:1", "2001:db8:77::2:2", "2001:db8:77::80"
RETRANS = 0.2
PATIENCE = 30.0
PAYLOAD = bytes(range(256)) * 400
Ends = tuple[Namespace, Interface, Namespace, Interface]


@pytest.fixture
def cable() -> Iterator[Ends]:
    """Two kernels and one cable without offload; DAD on it takes 0.2 s."""
    with ExitStack() as stack:
        node = stack.enter_context(namespace("witness-node"))
        peer = stack.enter_context(namespace("witness-peer"))
        for space in (node, peer):
            set_sysctl(space, "ipv6/conf/default/accept_ra", 0)
        here, there = stack.enter_context(veth(node, "here", peer, "there", mtu=1500))
        for end in (here, there):
            end.set_offloads(False)
            set_sysctl(end.namespace, f"ipv6/conf/{end.name}/mldv2_unsolicited_report_interval", 1)
            set_sysctl(end.namespace, f"ipv6/neigh/{end.name}/retrans_time_ms", int(RETRANS * 1000))
        stack.enter_context(address(there, f"{PEER}/64"))
        for end in (here, there):
            end.up()
        yield node, here, peer, there


async def until_usable(space: Namespace, name: str) -> socket.socket:
    """A socket bound to an address, once DAD is over."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with in_namespace(space):
            bound = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        try:
            bound.bind((name, 0))
        except OSError:
            bound.close()
            await asyncio.sleep(0.01)
        else:
            bound.setblocking(False)
            return bound
    raise AssertionError(f"{name} did not become usable")


async def until_left(path: Path, name: str) -> None:
    """Return when the capture holds the kernel's leave of the address's group, which it sends after a random delay."""
    leave = b"\x03\x00\x00\x00" + solicited_node(IPv6Address(name).packed)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if leave in await asyncio.to_thread(path.read_bytes):
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"the kernel did not leave the group of {name}")


async def fetch(node: Namespace, peer: Namespace, name: str) -> bytes:
    """Fetch the payload from the peer, from the address `name`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(PAYLOAD)
        writer.close()

    with in_namespace(peer):
        listening = socket.create_server((PEER, 0), family=socket.AF_INET6)
    server = await asyncio.start_server(serve, sock=listening)
    async with server:
        bound = await until_usable(node, name)
        await asyncio.get_running_loop().sock_connect(bound, listening.getsockname()[:2])
        reader, writer = await asyncio.open_connection(sock=bound)
        got = await reader.read(-1)
        writer.close()
        await writer.wait_closed()
    return got


def run(cable: Ends, folder: Path) -> Judgement:
    node, here, peer, there = cable
    path = folder / "kernel.pcapng"

    async def work() -> None:
        async with capturing(there, path):
            for name in (FIRST, SECOND):
                with address(here, f"{name}/64", nodad=False):
                    assert await fetch(node, peer, name) == PAYLOAD
                await until_left(path, name)

    asyncio.run(work())
    nodes = (UnifiedNode("kernel", "peer", (here.mac.hex(":"),), (PREFIX,)),)
    return judge([CaptureFile(path, "peer", offload_free=True)], Setup(nodes, connections=2, retrans_timer=RETRANS))


@pytest.mark.timeout(180)
def test_a_kernel_is_read_rightly_and_found_not_to_be_unified(cable: Ends, artefacts: Path) -> None:
    judgement = run(cable, artefacts)
    verdicts = {finding.rule: finding for finding in judgement.findings}
    passed = ("captures-whole", "own-pair", "complete", "released", "never-again", "hop-limits")
    for rule in (*passed, "checksums", "within-mtu", "second-opinion", "dissectors-agree"):
        assert verdicts[rule].verdict is Verdict.PASSED, verdicts[rule]
    assert [text(life.address) for life in judgement.lifetimes] == [FIRST, SECOND]
    for life, connection in zip(judgement.lifetimes, judgement.connections, strict=True):
        assert len(life.probes) == 1
        assert life.taken is not None
        assert life.leave is not None
        assert life.taken.time - life.probes[0].time >= RETRANS * 0.9
        assert connection.server.data == len(PAYLOAD)
    assert verdicts["promotion-once"].verdict is Verdict.FAILED
    assert "used without a promotion NA" in verdicts["promotion-once"].sentence
