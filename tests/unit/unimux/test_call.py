"""One connect: what each of its parts has of the time that it is given, and which port it is made from."""

from __future__ import annotations

import asyncio

import pytest

from tapstack.tcp.options import PortMode
from tapstack.types import address
from tests.unit.unimux.lan import OPTIONS, PREFIX, lan, virtual
from unimux.node import Node, NodeConfig

AFTER = 10.0
"""Seconds until there is a prefix to form addresses in."""


@pytest.mark.proves("UM-POOL-3", by="api")
@pytest.mark.parametrize("count", [1, 8])
def test_an_address_is_waited_for_as_long_whatever_the_number_of_addresses_of_the_name(count: int) -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node()
            ssa = await bob.listen(asyncio.Protocol).issue(lifetime=1000)
            others = [f"{PREFIX}{n:x}" for n in range(1, count)]
            config = NodeConfig(names={"many.example": [str(ssa), *others]}, socket=OPTIONS)
            async with Node(net.switch.connect(bytes([2, 0, 0, 0, 0, 77])), config, seed=bytes(32)) as alice:

                def announced() -> None:
                    alice.stack.host.prefix_list.add_static(address(PREFIX), 64, autonomous=True, now=alice.now())
                    alice.driver.kick()

                began = alice.now()
                asyncio.get_running_loop().call_later(AFTER, announced)
                transport, _ = await alice.create_connection(asyncio.Protocol, "many.example", None, timeout=30)
                assert AFTER < alice.now() - began < AFTER + 3
                transport.close()

    virtual(main())


@pytest.mark.parametrize("mode", [PortMode.AWARE, PortMode.L1])
def test_a_port_to_connect_from_counts_where_ports_do(mode: PortMode) -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            ssa = await bob.listen(asyncio.Protocol, mode=mode, port=80 if mode is PortMode.AWARE else None).issue()
            transport, _ = await alice.create_connection(asyncio.Protocol, str(ssa), 80, mode=mode, local_port=5000)
            assert (transport.get_extra_info("sockname")[1] == 5000) is (mode is PortMode.AWARE)
            transport.close()
            with pytest.raises(OverflowError):
                await alice.create_connection(asyncio.Protocol, str(ssa), 80, mode=mode, local_port=1 << 16)

    virtual(main())
