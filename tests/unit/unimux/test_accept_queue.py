"""The connections that wait for a thread's accept(): who gets them, how many there may be, and what the node's end does."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace
from ipaddress import IPv6Address

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.link.errors import LinkLost
from tapstack.tcp.options import PortMode
from tests.unit.unimux.lan import OPTIONS, Lan, Supplies, asks, lan, virtual
from unimux.acceptqueue import AcceptQueue, SsaPolicy
from unimux.das import DasRequired
from unimux.errors import ConnectError, NodeStopped
from unimux.node import Node
from unimux.poolstate import PoolConfig
from unimux.server import ISSUE_TIMEOUT
from unimux.ssa.dnsserver import hold_address

WHERE = IPv6Address("2001:db8:1::53")


async def bound(net: Lan, backlog: int) -> tuple[Node, AcceptQueue]:
    """A node with an ordinary address, where a socket accepts."""
    node = await net.node()
    entry = await hold_address(node, WHERE)
    assert entry.kind is AddressKind.STABLE
    queue = AcceptQueue(node, replace(OPTIONS, mode=PortMode.AWARE, backlog=backlog), 53, None)
    queue.server.bind(WHERE)
    return node, queue


async def end(node: Node, *, lost: bool) -> None:
    """The node stops, in order or because its device goes."""
    if lost:
        node.driver._lose(LinkLost("the device is gone"))
    else:
        await node.close()


async def came(client: Node) -> bool:
    """Whether one more connection stands, within a time in which SYNs are repeated."""
    try:
        await client.create_connection(asyncio.Protocol, WHERE, 53, timeout=5)
    except ConnectError:
        return False
    return True


def test_who_does_not_wait_and_is_late_is_told() -> None:
    """Two calls that do not block, and one connection: one of them has it, the other one does not wait for ever."""

    async def main() -> None:
        async with lan() as net:
            _, queue = await bound(net, 4)
            assert await came(await net.node())
            await asyncio.sleep(1)  # its acknowledgement is on the way still
            calls = [asyncio.ensure_future(queue.accept(SsaPolicy(), True, 0.0)) for _ in range(2)]
            async with asyncio.timeout(60):
                got = await asyncio.gather(*calls, return_exceptions=True)
            assert sorted(type(each).__name__ for each in got) == ["BlockingIOError", "Exchange"]
            queue.close()

    virtual(main())


def test_connections_that_nobody_accepts_are_no_more_than_the_backlog() -> None:
    """As many as a kernel's socket lets wait: the backlog and one (listen(2))."""

    async def main() -> None:
        async with lan() as net:
            _, queue = await bound(net, 3)
            client = await net.node()
            waiting = [await came(client) for _ in range(8)]
            assert waiting == [True] * 4 + [False] * 4
            for _ in range(4):
                exchange = await queue.accept(SsaPolicy(), True, 1.0)
                assert exchange.connected
            with pytest.raises(TimeoutError):
                await queue.accept(SsaPolicy(), True, 1.0)
            assert await came(client)  # there is room again
            await queue.accept(SsaPolicy(), True, 1.0)
            queue.close()

    virtual(main())


@pytest.mark.parametrize("lost", [False, True], ids=["closed", "link lost"])
def test_the_end_of_the_node_is_told_to_who_waits_at_an_ordinary_address(lost: bool) -> None:
    async def main() -> None:
        async with lan() as net:
            node, queue = await bound(net, 3)
            waiting = asyncio.ensure_future(queue.accept(SsaPolicy(), True, None))
            await asyncio.sleep(1)
            assert not waiting.done()
            await end(node, lost=lost)
            with pytest.raises(NodeStopped):
                async with asyncio.timeout(5):
                    await waiting
            with pytest.raises(NodeStopped):
                async with asyncio.timeout(5):
                    await queue.accept(SsaPolicy(), True, None)

    virtual(main())


@pytest.mark.parametrize("what", ["somebody to come", "an address"])
def test_the_end_of_the_socket_is_told_to_who_waits(what: str) -> None:
    async def main() -> None:
        async with lan() as net:
            if at_an_address := what == "somebody to come":
                _, queue = await bound(net, 3)
            else:
                node = await net.node()
                queue = AcceptQueue(node, OPTIONS, None, DasRequired(node.pool, node.events))
            waiting = asyncio.ensure_future(queue.accept(SsaPolicy(), at_an_address, None))
            await asyncio.sleep(1)
            queue.close()
            with pytest.raises(OSError, match="closed") as told:
                async with asyncio.timeout(5):
                    await waiting
            assert told.value.errno == errno.EBADF

    virtual(main())


@pytest.mark.parametrize("lost", [False, True], ids=["closed", "link lost"])
def test_the_end_of_the_node_is_told_to_who_waits_for_addresses_to_be_armed(lost: bool) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node(pool=PoolConfig(low=0, high=1, limit=1))
            queue = AcceptQueue(node, OPTIONS, None, None)
            waiting = asyncio.ensure_future(queue.keep(SsaPolicy(auto_arm=3), None))
            await asyncio.sleep(20)
            assert len(queue.server.armed) == 1 and not waiting.done()
            await end(node, lost=lost)
            with pytest.raises(NodeStopped):
                async with asyncio.timeout(5):
                    await waiting

    virtual(main())


@pytest.mark.parametrize(("timeout", "latest"), [(0.0, 0.0), (2.0, 2.0), (None, ISSUE_TIMEOUT)])
def test_more_addresses_than_are_to_be_had_are_not_waited_for_without_end(timeout: float | None, latest: float) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node(pool=PoolConfig(low=0, high=1, limit=1))
            queue = AcceptQueue(node, OPTIONS, None, None)
            began = node.now()
            async with asyncio.timeout(600):
                await queue.keep(SsaPolicy(auto_arm=3), timeout)
            assert node.now() - began == pytest.approx(latest)
            await node.until(lambda: len(queue.server.armed) == 1, 10)  # what there is follows
            queue.close()

    virtual(main())


@pytest.mark.proves("UM-DAS-3", by="api")
def test_an_address_under_test_outlives_calls_that_are_shorter_than_the_test() -> None:
    agent = Supplies("2001:db8:1::5e7")

    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            queue = AcceptQueue(node, OPTIONS, None, asks(node, agent))
            for _ in range(10):
                with pytest.raises(TimeoutError):
                    await queue.accept(SsaPolicy(), False, 0.3)
            assert queue.server.armed == [IPv6Address(agent.address)]
            assert len(agent.wanted) == 1
            queue.close()

    virtual(main())


def test_who_waits_arms_none_beside_those_that_are_kept_armed() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node(pool=PoolConfig(low=0, high=0, limit=8))
            queue, policy = AcceptQueue(node, OPTIONS, None, None), SsaPolicy(auto_arm=1)
            await queue.keep(policy, 0.0)
            with pytest.raises(TimeoutError):
                await queue.accept(policy, False, 10)
            assert len(queue.server.armed) == 1
            queue.close()

    virtual(main())
