"""A node whose link goes away and comes back: connections go on, reservations are made anew (UM-ADDR-10, UM-ADDR-11)."""

from __future__ import annotations

import asyncio

import pytest

from tapstack.events import LinkNotice
from tapstack.ipv6.addresses import AddressState
from tapstack.link.counters import LinkDrop
from tapstack.link.memory import MemoryLink
from tests.unit.unimux.lan import echo_server, lan, virtual
from unimux.aio import open_connection
from unimux.lookup import Outcome
from unimux.node import Node


def reserved(node: Node) -> set[bytes]:
    return {entry.address for entry in node.stack.host.addresses if entry.state is AddressState.UNCERTAIN}


@pytest.mark.proves("UM-ADDR-10", "UM-POOL-1", by="api")
@pytest.mark.parametrize("away", [0.1, 20.0])
def test_connections_outlive_it_and_what_was_reserved_does_not(away: float) -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            told: list[str] = []
            alice.watch(lambda event: told.append(event.cause) if isinstance(event, LinkNotice) else None)
            ssa = await echo_server(bob).issue()
            reader, writer = await open_connection(alice, ssa.address, None)
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            await alice.ready(4)
            before = reserved(alice)

            assert isinstance(alice.link, MemoryLink)
            alice.link.plug(False)
            writer.write(b"during")
            await asyncio.sleep(away)
            assert alice.link.counters.drops[LinkDrop.DEVICE_DOWN] >= 1
            alice.link.plug(True)
            async with asyncio.timeout(60):
                assert await reader.readexactly(6) == b"during"
            await asyncio.sleep(10.0)
            after = reserved(alice)
            assert len(after) >= 4
            assert before.isdisjoint(after)
            assert told == ["the carrier is gone", "the carrier is back"]
            assert alice.pool.status(alice.now()).held_back_for == 0
            alice.pool.check()
            writer.close()

    virtual(main())


@pytest.mark.proves("ST-IP6-6", by="api")
def test_what_name_servers_said_on_it_is_forgotten() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            node.resolver.cache.put("www.example.", Outcome((bytes(16),), ttl=3600), node.now())
            assert isinstance(node.link, MemoryLink)
            node.link.plug(False)
            assert len(node.resolver.cache) == 0

    virtual(main())


def test_who_keeps_the_networks_side_of_the_link_hears_that_it_is_back() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            told: list[float] = []
            node.on_link_up = told.append
            assert isinstance(node.link, MemoryLink)
            node.link.plug(False)
            assert told == []
            node.link.plug(True)
            await asyncio.sleep(1.0)
            assert len(told) == 1

    virtual(main())
