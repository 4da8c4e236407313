"""The end of a node, in order or not: everybody who waits is told, nothing of it goes on, nothing can begin."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from tapstack.events import AddressChanged, ConnectionChanged, Event
from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.link.errors import LinkLost
from tapstack.types import address
from tests.unit.unimux.lan import Lan, lan, virtual
from unimux.accept import Acceptor
from unimux.aio import open_connection, start_server
from unimux.das import DasRequired
from unimux.errors import NodeStopped
from unimux.node import CLOSE_TIMEOUT, Node
from unimux.poolstate import PoolChanged, PoolConfig
from unimux.sticky import Hold, NamedSession

PEER = "2001:db8:1::99"


async def connect(node: Node) -> object:
    return await node.create_connection(asyncio.Protocol, PEER, 80, timeout=5)


async def connect_by_agent(node: Node) -> object:
    das = DasRequired(node.pool, node.events)
    return await node.create_connection(asyncio.Protocol, PEER, 80, timeout=5, das=das)


async def sticky(node: Node) -> object:
    return await node.sticky.address(NamedSession("shop"), address(PEER), timeout=5)


async def issue(node: Node) -> object:
    return await node.listen(asyncio.Protocol).issue(timeout=5)


async def exchange(node: Node) -> object:
    return await node.datagrams.exchange(address(PEER), b"?", 5)


async def datagrams(node: Node) -> object:
    return await node.create_datagram_endpoint(asyncio.DatagramProtocol, PEER, 53)


WAYS = [connect, connect_by_agent, sticky, issue, exchange]


async def full_node(net: Lan) -> Node:
    """A node whose only address is in use."""
    node = await net.node(pool=PoolConfig(low=0, high=1, limit=1))
    entry: AddressEntry = await node.take_address(AddressKind.EPHEMERAL, None, timeout=10)
    node.stack.host.addresses.acquire(entry, Hold(NamedSession("held"), entry))
    return node


@pytest.mark.proves("UM-POOL-3", "UM-DAS-3", by="api")
@pytest.mark.parametrize("lost", [False, True], ids=["closed", "link lost"])
@pytest.mark.parametrize("ask", WAYS)
def test_whoever_waits_for_an_address_is_told(ask: Callable[[Node], Awaitable[object]], lost: bool) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await full_node(net)
            asking = asyncio.ensure_future(ask(node))
            await asyncio.sleep(1)
            assert not asking.done()
            if lost:
                node.driver._lose(LinkLost("the device is gone"))
            else:
                await node.close()
            with pytest.raises(NodeStopped):
                async with asyncio.timeout(1):
                    await asking

    virtual(main())


@pytest.mark.parametrize("lost", [False, True], ids=["closed", "link lost"])
def test_whoever_waits_for_a_change_or_for_a_client_is_told(lost: bool) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            acceptor = Acceptor(node, auto_arm=2)
            ways = (node.ready(50), node.until(lambda: False), acceptor.accept())
            asking = [asyncio.ensure_future(way) for way in ways]
            keeper = acceptor.server._keeper
            assert keeper is not None
            await asyncio.sleep(5)
            assert acceptor.server.armed and not any(each.done() for each in asking)
            if lost:
                node.driver._lose(LinkLost("the device is gone"))
            else:
                await node.close()
            for way in (*asking, node.ready(50), acceptor.accept()):
                with pytest.raises(NodeStopped):
                    async with asyncio.timeout(1):
                        await way
            await asyncio.wait([keeper], timeout=1)
            assert keeper.done() and keeper.exception() is None

    virtual(main())


@pytest.mark.proves("UM-DAS-6", by="api")
@pytest.mark.parametrize("why", [None, LinkLost("the device is gone")], ids=["closed", "link lost"])
def test_a_datagram_socket_hears_of_the_end(why: LinkLost | None) -> None:
    ends: list[tuple[str, Exception | None]] = []

    class Told(asyncio.DatagramProtocol):
        def __init__(self, name: str) -> None:
            self.name = name

        def connection_lost(self, exc: Exception | None) -> None:
            ends.append((self.name, exc))

    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            early, _ = await node.create_datagram_endpoint(lambda: Told("early"))
            open_, _ = await node.create_datagram_endpoint(lambda: Told("open"), PEER, 5)
            open_.sendto(b"?")
            early.close()
            await asyncio.sleep(1)
            assert ends == [("early", None)]
            if why is None:
                await node.close()
            else:
                node.driver._lose(why)
            await asyncio.sleep(0)
            assert ends == [("early", None), ("open", why)]
            assert open_.is_closing() and not open_.flows and not node.datagrams.sockets

    virtual(main())


@pytest.mark.parametrize("ask", [*WAYS, datagrams])
def test_nothing_begins_on_a_node_that_has_stopped(ask: Callable[[Node], Awaitable[object]]) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await full_node(net)
            await node.close()
            with pytest.raises(NodeStopped):
                async with asyncio.timeout(1):
                    await ask(node)

    virtual(main())


@pytest.mark.proves("UM-NODE-4", by="api")
def test_of_a_node_that_lost_its_link_nobody_claimed_addresses() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            await node.ready(8, 30)
            told: list[Event] = []
            node.watch(told.append)
            node.driver._lose(LinkLost("the device is gone"))
            causes = {event.cause for event in told if isinstance(event, AddressChanged) and event.kind == "reserved"}
            assert causes == {"the pool is closed"}
            assert not [event for event in told if isinstance(event, PoolChanged)]

    virtual(main())


def test_the_last_acknowledgement_may_be_lost_though_the_node_is_closed_next() -> None:
    """The peer says its last words again and is answered: it ends in order, and soon."""

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            told: list[ConnectionChanged] = []
            bob.events.subscribe(lambda event: told.append(event) if isinstance(event, ConnectionChanged) else None)

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read()
                writer.write(b"last words")
                writer.close()

            ssa = await start_server(bob, serve).issue()
            reader, writer = await open_connection(alice, ssa.address, None)
            lost: list[float] = []

            def the_last(_: bytes) -> bool:
                if lost or not alice.stack.tcp.time_waits:
                    return False
                lost.append(alice.now())
                return True

            net.switch.unlucky = the_last
            writer.write_eof()
            assert await reader.read() == b"last words"
            writer.close()
            await alice.close()
            assert len(lost) == 1
            assert alice.now() - lost[0] < CLOSE_TIMEOUT
            assert not list(alice.stack.host.addresses)
            await bob.until(lambda: told[-1].new == "CLOSED", 10)
            assert (told[-1].old, told[-1].cause) == ("LAST-ACK", "closed")

    virtual(main())


def test_a_close_that_is_cancelled_closes_at_once() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            ssa = await start_server(bob, lambda reader, writer: None).issue()
            _, writer = await open_connection(alice, ssa.address, None)
            net.unplug(bob)
            writer.write(b"to nobody")
            writer.close()
            closing = asyncio.create_task(alice.close(5))
            await asyncio.sleep(0.5)
            assert not closing.done()
            closing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await closing
            assert not list(alice.stack.host.addresses) and alice.pool.closed
            begun = len(net.frames)
            await asyncio.sleep(60)
            assert alice.link.properties.mac not in {frame[6:12] for _, frame in net.frames[begun:]}

    virtual(main())


@pytest.mark.proves("UM-REL-1", by="api")
@pytest.mark.parametrize("port", [-1, 65536])
def test_what_is_no_port_costs_no_address(port: int) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            await node.ready()
            with pytest.raises(OverflowError):
                await node.create_connection(asyncio.Protocol, PEER, port)
            with pytest.raises(OverflowError):
                node.datagrams.flow(address(PEER), port, lambda data: None)
            assert not node.pool.held

    virtual(main())


@pytest.mark.proves("UM-DAS-6", by="api")
def test_a_datagram_sent_by_who_hears_of_a_failure_is_sent() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node(pool=PoolConfig(low=0, high=1, limit=1))
            entry = await node.take_address(AddressKind.EPHEMERAL, None, timeout=10)
            hold = Hold(NamedSession("held"), entry)
            node.stack.host.addresses.acquire(entry, hold)
            failures = []

            def failed(error: Exception) -> None:
                failures.append(error)
                node.stack.host.addresses.drop(entry, hold, node.now(), "given back")
                flow.send(b"again")

            flow = node.datagrams.flow(address(PEER), 5, lambda data: None, failed=failed)
            flow.send(b"first")
            await node.until(lambda: flow.local is not None, 30)
            assert len(failures) == 1 and flow.dropped == 1
            flow.close()

    virtual(main())
