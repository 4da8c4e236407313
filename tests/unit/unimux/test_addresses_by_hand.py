"""Ordinary addresses that a service was given, as that of a name server: what happens when they go, and beside them."""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address

import pytest

from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState
from tapstack.link.memory import MemoryLink
from tapstack.types import address, address_text
from tests.unit.ipv6.bench import neighbor_advertisement
from tests.unit.unimux.dnsstage import aaaa
from tests.unit.unimux.lan import Lan, lan, virtual
from tests.unit.unimux.router import VALID, Router
from unimux.errors import SetupError, UnimuxError
from unimux.node import Node
from unimux.ssa.dnsresponder import Asker, DnsPolicy, Responder
from unimux.ssa.dnsserver import DnsServer, hold_address

DNS = "2001:db8:1::53"


def ordinary(node: Node) -> set[str]:
    return {address_text(entry.address) for entry in node.stack.host.addresses if entry.kind is AddressKind.STABLE}


def claim(net: Lan, where: str) -> None:
    """Another node says that it has an address."""
    port = net.switch.connect(bytes.fromhex("020000000077"))
    port.send([bytes(neighbor_advertisement(where, src="fe80::66"))])


@pytest.mark.proves("UM-NODE-1")
def test_in_place_of_an_address_given_by_hand_none_is_formed_that_nobody_asked_for() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            await node.ready(4, 30)
            holding = asyncio.create_task(hold_address(node, IPv6Address(DNS)))
            await asyncio.sleep(0.3)
            claim(net, DNS)
            with pytest.raises(SetupError, match="belongs to another node"):
                await holding
            await asyncio.sleep(60)
            assert not node.config.host.stable_addresses
            assert ordinary(node) == set()

    virtual(main())


@pytest.mark.proves("UM-SSA-3")
@pytest.mark.parametrize("how", ["its prefix expires", "another node has it"])
def test_a_name_server_whose_address_goes_takes_it_again_and_says_so(how: str) -> None:
    async def main() -> None:
        async with lan() as net:
            node, client = await net.node(advertised=True), await net.node(advertised=True)
            router = Router(net)
            await node.ready(4, 60)
            await client.ready(4, 60)
            told: list[UnimuxError | None] = []

            async def mint(asker: Asker) -> IPv6Address:
                return IPv6Address("2001:db8:1::5")

            async def answered() -> bool:
                try:
                    await client.datagrams.exchange(address(DNS), aaaa().to_wire(), 5)
                except (OSError, UnimuxError):
                    return False
                return True

            policy = DnsPolicy(zone="shop.example", server=DNS)
            responder = Responder(policy, mint, node.now)
            async with DnsServer(node, responder, IPv6Address(DNS), changed=told.append):
                assert await answered()
                if how == "its prefix expires":
                    await asyncio.sleep(VALID + 100)
                    assert not await answered()
                    assert "lies in no prefix" in str(told[-1])
                    router.prefer()
                    await client.ready(4, 60)
                else:
                    assert isinstance(node.link, MemoryLink)
                    node.link.plug(False)
                    await asyncio.sleep(1)
                    node.link.plug(True)
                    await asyncio.sleep(0.05)
                    claim(net, DNS)
                    router.prefer()
                await asyncio.sleep(60)
                await answered()  # the client asks the claimant still, and finds out that it is silent
                await asyncio.sleep(20)
                assert await answered()
                assert told[-1] is None and len(told) < 4
                assert ordinary(node) == {DNS}
            assert len(node.stack.udp) == 0

    virtual(main())


@pytest.mark.proves("UM-GEN-1", by="api")
def test_a_drawn_address_is_none_that_the_node_has_already() -> None:
    """In the narrowest prefix a name server's address is met for certain, once in 65,408."""

    async def main() -> None:
        async with lan() as net:
            node = await net.node(dedicated="2001:db8:2::")
            prefixes = node.stack.host.prefix_list
            prefixes.remove(next(prefix for prefix in prefixes if prefix.dedicated), node.now())
            prefixes.add_dedicated(address("2001:db8:3::"), 112)
            node.pool.start(node.now())
            await asyncio.sleep(3)
            await hold_address(node, IPv6Address("2001:db8:3::53"))
            drawn = set()
            for _ in range(65_400):
                entry = node.pool.take(AddressKind.EPHEMERAL, address("2001:db8:9::1"), node.now())
                assert entry is not None
                drawn.add(entry.address)
                node.stack.host.addresses.release(entry, node.now(), "test")
            assert len(drawn) == 65_400 and address("2001:db8:3::53") not in drawn

    virtual(main())


class Holder:
    """Uses an address."""

    heard = True
    remote = None

    def serves(self, remote: bytes) -> bool:
        return True


@pytest.mark.proves("UM-ADDR-11")
@pytest.mark.parametrize("routed", [False, True])
def test_addresses_expire_with_their_prefix_also_where_a_routed_one_lies_around_it(routed: bool) -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node(advertised=True)
            router = Router(net)
            await node.ready(4, 60)
            table = node.stack.host.addresses
            entry = node.pool.take(AddressKind.EPHEMERAL, address("2001:db8:1::99"), node.now())
            assert isinstance(entry, AddressEntry)
            table.acquire(entry, Holder())
            outer: AddressEntry | None = None
            if routed:
                prefix = node.stack.host.prefix_list.add_dedicated(address("2001:db8::"), 32)
                node.pool.start(node.now())
                outer = node.pool.mint(address("2001:db8:2::7"), prefix, AddressKind.EPHEMERAL, node.now(), "test")
            await asyncio.sleep(VALID + 60)
            assert entry.state is AddressState.INVALID and entry.address not in table
            assert outer is None or outer.state is AddressState.PREFERRED
            del router

    virtual(main())
