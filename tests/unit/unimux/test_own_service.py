"""A program that connects to a service of its own node: the connection stands inside the node, on two one-time addresses."""

from __future__ import annotations

import asyncio

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.options import PortMode
from tapstack.types import address
from tests.unit.unimux.lan import Lan, in_use, lan, settle, virtual
from unimux.aio import open_connection, start_server

TCP, UDP = 6, 17


def on_the_wire(net: Lan, *protocols: int) -> int:
    return sum(frame[20] in protocols for _, frame in net.frames)


@pytest.mark.proves("UM-DAS-4", "UM-REL-1", by="api")
@pytest.mark.parametrize("mode", list(PortMode))
@pytest.mark.parametrize("dedicated", [None, "2001:db8:d::"])
def test_it_is_reached_without_a_frame_and_leaves_nothing(mode: PortMode, dedicated: str | None) -> None:
    data = bytes(range(256)) * 1200

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(-1))
        writer.close()

    async def main() -> None:
        async with lan() as net:
            node = await net.node(dedicated=dedicated)
            ssa = await start_server(node, echo, mode=mode).issue()
            reader, writer = await open_connection(node, ssa.address, None, mode=mode, timeout=10)
            assert len(in_use(node)) == 2
            source = writer.get_extra_info("sockname")[0]
            assert source != str(ssa.address)
            writer.write(data)
            writer.write_eof()
            async with asyncio.timeout(30):
                assert await reader.read() == data
            writer.close()
            await settle(node)
            assert on_the_wire(net, TCP) == 0
            node.stack.check()
            node.pool.check()

    virtual(main())


def test_datagrams_too() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            entry = await node.take_address(AddressKind.SERVICE, None, timeout=5)
            service = node.stack.udp.open(entry, node.now(), local_port=7)
            got: list[bytes] = []
            flow = node.datagrams.flow(entry.address, 7, got.append)
            flow.send(b"ask")
            await asyncio.sleep(1.0)
            asked = service.receive()
            assert asked is not None
            assert flow.local is not None
            assert (asked.data, asked.remote) == (b"ask", address(flow.local[0]))
            service.send(b"answer", node.now(), asked.remote, asked.remote_port)
            node.driver.kick()
            await asyncio.sleep(1.0)
            assert got == [b"answer"]
            assert on_the_wire(net, UDP) == 0

    virtual(main())
