"""The driver: what it does when its link goes away."""

from __future__ import annotations

import asyncio

import pytest

from tapstack.link.errors import LinkLost
from tapstack.link.memory import MemoryLink
from tests.unit.unimux.lan import lan, virtual
from unimux.aio import open_connection, start_server


@pytest.mark.parametrize("direction", ["receive", "send"])
def test_a_lost_link_ends_every_connection_and_tells_the_owner(direction: str) -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()

            async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read()
                writer.close()

            ssa = await start_server(bob, hold).issue()
            reader, writer = await open_connection(alice, ssa.address, None)
            link = alice.link
            assert isinstance(link, MemoryLink)

            def gone(*_: object) -> None:
                raise LinkLost("the device is gone")

            setattr(link, direction, gone)
            writer.write(b"anything")
            with pytest.raises(LinkLost, match="gone"):
                await asyncio.wait_for(alice.failed(), 30)
            with pytest.raises(ConnectionError):
                await reader.read()
            assert len(alice.stack.tcp.demux) == 0
            assert not [e for e in alice.stack.host.addresses if e.users]
            await alice.close()

    virtual(main())
