"""Of the addresses of a name the best is tried first (RFC 6724 §6)."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import IPv6

from tapstack.types import address_text
from tests.unit.unimux.lan import lan, virtual
from unimux.aio import start_server
from unimux.errors import ConnectTimeout


@pytest.mark.proves("ST-IP6-10")
@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["fd00:5::1", "2001:db8:5::1"], ["2001:db8:5::1", "fd00:5::1"]),  # rule 5: the label of the source
        (["2001:db8:ff::1", "2001:db8:1:ff::1"], ["2001:db8:1:ff::1", "2001:db8:ff::1"]),  # rule 9: the longest match
        (["2001:db8:5::2", "2001:db8:5::1"], ["2001:db8:5::2", "2001:db8:5::1"]),  # equals keep their order
    ],
)
def test_the_order_of_a_names_addresses(told: list[str], expected: list[str]) -> None:
    async def main() -> None:
        async with lan() as net:
            router, node = await net.node(), await net.node(names={"shop.example": told})
            await router.until(lambda: router.stack.host.link_local is not None, 5)
            assert router.stack.host.link_local is not None
            node.stack.host.routers.add_static(router.stack.host.link_local, node.now())
            await node.until(lambda: node.stack.host.link_local is not None, 5)  # addresses are formed from then on
            assert [address_text(each) for each in await node.resolve("shop.example", timeout=5)] == expected
            with pytest.raises(ConnectTimeout):  # the router forwards nothing
                await node.connect("shop.example", 80, timeout=10)
            assert [syn[IPv6].dst for _, syn in net.syns()] == expected

    virtual(main())


@pytest.mark.proves("ST-IP6-10")
def test_a_connection_goes_to_where_there_is_a_way_first() -> None:
    """Without a router only the address on the link can be reached, last of the name's though it is."""

    async def main() -> None:
        async with lan() as net:
            service = await net.node()
            server = start_server(service, lambda reader, writer: writer.close())
            ssa = await server.issue()
            client = await net.node(names={"shop.example": ["2001:db8:5::1", str(ssa.address)]})
            await client.until(lambda: client.pool.ready > 0, 20)
            began = client.now()
            connection = await client.connect("shop.example", 80, timeout=20)
            assert connection.remote == ssa.address.packed
            assert client.now() - began < 1, "nothing was tried before"
            assert [syn[IPv6].dst for _, syn in net.syns()] == [str(ssa.address)]
            server.close()

    virtual(main())
