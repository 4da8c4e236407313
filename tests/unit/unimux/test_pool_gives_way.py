"""The link has room for a few: what the pool holds in reserve gives way to what somebody asks for (UM-ADDR-12, UM-POOL-1)."""

from __future__ import annotations

import asyncio
import secrets
from ipaddress import IPv6Address

import pytest

from tests.unit.unimux.lan import PREFIX, asks, echo_server, lan, virtual
from tests.unit.unimux.test_secret import Service, client_of, talk
from unimux.aio import open_connection
from unimux.das import AddressRefused, Want
from unimux.pool import PoolConfig
from unimux.ssa.counters import MemoryCounters


@pytest.mark.proves("UM-DAS-3", "UM-POOL-1")
def test_sockets_with_an_agent_connect_where_the_reserve_fills_the_link() -> None:
    async def agent(want: Want) -> str:
        return str(IPv6Address(int(IPv6Address(PREFIX)) | secrets.randbits(60)))

    async def main() -> None:
        async with lan() as net:
            server, node = await net.node(), await net.node(pool=PoolConfig(low=4, high=8, limit=8))
            await server.ready(4, 30)
            await node.ready(8, 30)
            echo = echo_server(server)
            node.das = asks(node, agent)
            writers = []
            for _ in range(8):
                _, writer = await open_connection(node, (await echo.issue()).address, 80, timeout=30)
                writers.append(writer)
            assert (node.pool.held, node.pool.stock.on_link) == (8, 8)
            with pytest.raises(AddressRefused, match="8 addresses on the link already"):
                await open_connection(node, (await echo.issue()).address, 80, timeout=30)
            node.pool.check()
            for writer in writers:
                writer.close()

    virtual(main())


@pytest.mark.proves("UM-SSA-2", "UM-GEN-5")
@pytest.mark.parametrize("limit", [8, 16, 32])
def test_a_window_keeps_its_place_beside_a_pool_that_may_fill_the_link(limit: int) -> None:
    async def main() -> None:
        async with lan() as net:
            pool = PoolConfig(low=min(16, limit), high=limit, limit=limit)
            bob, alice = Service(await net.node(pool=pool)), await net.node()
            await bob.node.ready(limit, 120)
            window = bob.window(MemoryCounters())
            await bob.armed(window, [0, 1, 2, 3])
            client = client_of(alice)
            for _ in range(30):
                await talk(client)
                await asyncio.sleep(60)
            bob.node.pool.check()
            assert [counter for counter, _ in client.attempts] == list(range(30)), "no session took a second try"
            assert window.armed == [30, 31, 32, 33]

    virtual(main())
