"""What routers tell a running node: it reaches connections that stand."""

from __future__ import annotations

import asyncio

import pytest
from scapy.layers.inet6 import ICMPv6NDOptMTU
from scapy.packet import Packet

from tests.unit.ipv6.bench import advertisement
from tests.unit.unimux.lan import lan, virtual
from unimux.aio import open_connection, start_server
from unimux.node import Node

ETHERNET = 14


def tell(node: Node, packet: Packet) -> None:
    """Give a node one frame."""
    node.stack.input(bytes(packet), node.now())
    node.driver.kick()


@pytest.mark.proves("ST-IP6-5", "ST-IP6-8")
def test_a_link_mtu_that_shrinks_is_that_of_connections_at_once() -> None:
    """RFC 4861 §6.3.4."""

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            got = asyncio.Event()

            async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                for _ in range(2):
                    await reader.readexactly(50_000)
                    got.set()
                writer.close()

            ssa = await start_server(bob, take).issue()
            _, writer = await open_connection(alice, ssa.address, None)
            largest = []
            for packet in (None, advertisement(ICMPv6NDOptMTU(mtu=1280), prefix=None)):
                if packet is not None:
                    tell(alice, packet)
                net.frames.clear()
                got.clear()
                writer.write(bytes(50_000))
                await got.wait()
                largest.append(max(len(frame) for _, frame in net.frames) - ETHERNET)
            assert largest == [1500, 1280]
            writer.close()

    virtual(main())
