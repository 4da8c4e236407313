"""Real links that refuse addresses (UM-ADDR-12): a kernel's bridge with a full table of groups, and source address validation.

node ─ TAP ─ bridge ─ router (kernel) ─ server (kernel)

The bridge snoops on MLD, queries, and takes at most so many groups from the TAP's port (`mcast_max_groups`).  No kernel switch
validates sources by DAD, so that one is a link around the TAP; the router that is asked in both cases is the kernel.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import dpkt
import pytest

from compat import kernel
from compat.kernel import topology
from compat.kernel.topology import Topology, demo_topology
from compat.programs.radvd import Advertisement, router_advertiser
from scenarios.witness.frames import UNSPECIFIED, Solicitation, text
from tapstack.events import DropReason
from tapstack.link.base import Link, LinkProperties
from tapstack.tcp.options import SocketOptions, TimeWait
from tapstack.types import Buffer, Frame, address
from unimux import errors
from unimux.aio import open_connection
from unimux.node import Node, NodeConfig
from unimux.pool import PoolChanged
from unimux.poolstate import PoolConfig

from .. import datagrams
from ..um.judge import segments, sessions
from ..wire import advertisements, after, capturing, frames, questions
from .lan import one_processor

pytestmark = pytest.mark.real("dumpcap", "radvd")

ROOM = 4
"""Addresses that the link takes: the link-local one and three more."""
PORT = 8080
FOREIGN = "ff02::1:ff66:6666"
POOL = PoolConfig(low=8, high=8, limit=32, doubt=0.5)


class Validated(Link):
    """A link that binds the first `ROOM` addresses that are tested for duplicates, and lets nothing pass from any other."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._bound: set[bytes] = set()
        self.withheld = 0

    @property
    def properties(self) -> LinkProperties:
        return self._link.properties

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._link.attach(loop, wake)

    def watch(self, changed: Callable[[bool], None]) -> None:
        self._link.watch(changed)

    def receive(self) -> Buffer | None:
        return self._link.receive()

    def send(self, frame: Frame) -> bool:
        packet = dpkt.ethernet.Ethernet(b"".join(frame)).data
        if packet.src == bytes(16):
            if isinstance(packet.data, dpkt.icmp6.ICMP6) and packet.data.type == 135 and len(self._bound) < ROOM:
                self._bound.add(bytes(packet.data.data)[4:20])
        elif packet.src not in self._bound:
            self.withheld += 1
            return True
        return self._link.send(frame)

    def close(self) -> None:
        self._link.close()


@asynccontextmanager
async def echo_server(top: Topology) -> AsyncIterator[None]:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(100):
                writer.write(data)
        writer.close()

    listening = top.server.run(
        lambda: socket.create_server((topology.SERVER_ADDRESS, PORT), family=socket.AF_INET6),
        "listen in the server's namespace",
    )
    async with await asyncio.start_server(echo, sock=listening):
        yield


def snoop(top: Topology, port: str) -> None:
    """Make the client's bridge snoop and query, and limit the groups of a port."""
    where = top.client_bridge.namespace
    index = kernel.Interface(where, port).index
    bridge = top.client_bridge.index
    where.netlink(
        lambda route: route.link(
            "set",
            index=bridge,
            kind="bridge",
            br_mcast_snooping=1,
            br_mcast_query_response_intvl=50,
            br_mcast_querier=1,
        ),
        "make the bridge snoop",
    )
    where.netlink(lambda route: route.brport("set", index=index, mcast_max_groups=ROOM), "limit the groups of a port")


async def until_snooping(top: Topology, node: Node) -> None:
    """Until the bridge trusts its table: a group that nobody reported no longer reaches the node.

    Behind each datagram to that group comes one to all nodes, which the bridge lets through: by then it is known.
    """
    drops = node.stack.counters.drops
    with top.router.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM), "open a socket") as sender:
        sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, top.router_client.index)
        async with asyncio.timeout(60):
            while True:
                foreign, to_all = drops[DropReason.IP_NOT_OURS], drops[DropReason.UDP_NO_FLOW]
                with one_processor():
                    for group in (FOREIGN, "ff02::1"):
                        await datagrams.send(sender, b"?", (group, 9))
                while drops[DropReason.UDP_NO_FLOW] == to_all:
                    await asyncio.sleep(0.02)
                if drops[DropReason.IP_NOT_OURS] == foreign:
                    return
                await asyncio.sleep(0.2)


async def use(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"hello")
    async with asyncio.timeout(30):
        assert await reader.readexactly(5) == b"hello"


@pytest.mark.proves("UM-ADDR-12")
@pytest.mark.parametrize(
    ("snooping", "why"),
    [(True, "what is sent to its group does not arrive"), (False, "what is sent from it does not arrive")],
    ids=["snooping", "validation"],
)
def test_the_pool_shrinks_to_what_the_link_takes(snooping: bool, why: str, artefacts: Path) -> None:
    path = artefacts / "router.pcapng"

    async def main(top: Topology, stack: ExitStack) -> None:
        tap = stack.enter_context(
            kernel.bridged_tap(top.client_bridge, "tap-refused", mac=bytes.fromhex("020000000a12"))
        )
        if snooping:
            snoop(top, "tap-refused")
        link = tap if snooping else Validated(tap)
        advertised = Advertisement(top.router_client, topology.CLIENT_PREFIX)
        config = NodeConfig(pool=POOL, socket=SocketOptions(time_wait=TimeWait.SHORT))
        said: list[str] = []
        async with (
            router_advertiser(top.router, advertised),
            echo_server(top),
            capturing(top.router_client, path),
            Node(link, config) as node,
        ):
            node.watch(lambda event: said.append(event.cause) if isinstance(event, PoolChanged) else None)
            await node.ready(8, timeout=60)
            if snooping:
                await until_snooping(top, node)
            held = []
            for _ in range(ROOM - 1):
                held.append(await open_connection(node, topology.SERVER_ADDRESS, PORT))
                await use(*held[-1])
            assert node.pool.status(node.now()).limit == 32
            with pytest.raises(errors.UnimuxError, match="the link refuses") as refused:
                await open_connection(node, topology.SERVER_ADDRESS, PORT, timeout=30)
            assert why in str(refused.value)
            assert any(cause.startswith("the link refused") and why in cause for cause in said), said
            assert node.pool.status(node.now()).limit == ROOM - 1
            for session in held:
                await use(*session)
                session[1].close()
        assert not isinstance(link, Validated) or link.withheld > 0, "nothing was sent that the link could keep back"

    with demo_topology() as top, ExitStack() as stack, asyncio.Runner() as runner:
        router = top.router_client.mac
        top.set_offloads(False)
        runner.run(main(top, stack))
    seen = frames(path)
    known = {session.client: session for session in sessions(segments(path), by_ports=True)}
    served = [client for client, session in known.items() if session.established is not None]
    assert len(served) == ROOM - 1
    assert all(known[client].request == known[client].answer == b"hello" * 2 for client in served)
    tested = {text(f.message.target) for f in seen if f.src == UNSPECIFIED and isinstance(f.message, Solicitation)}
    assert len(tested) >= 8, "the pool had filled, and these are what the link takes"
    refused = {client: session for client, session in known.items() if client not in served}
    if snooping:  # the router heard the SYN, and nobody hears its question
        assert refused
        for client in refused:
            (first, *_) = (f for f in seen if f.src == address(client))
            assert [f for f in questions(after(seen, first), client) if f.eth_src == router]
            assert not advertisements(after(seen, first), client)
    else:
        assert not refused, "a packet from an address that the link does not take"
