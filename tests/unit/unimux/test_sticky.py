"""Sticky sessions whose connections begin at one time: one address for all of them, and nobody waits longer than asked for."""

from __future__ import annotations

import asyncio

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState
from tapstack.tcp.options import PortMode
from tapstack.types import address
from tests.unit.ipv6.bench import STRANGER, STRANGER_MAC
from tests.unit.unimux.lan import Supplies, asks, echo_server, lan, virtual
from unimux.aio import open_connection
from unimux.errors import PoolExhausted, UnimuxError
from unimux.node import Node
from unimux.poolstate import PoolConfig, WhenEmpty
from unimux.sticky import DEFAULT_TTL, Hold, NamedSession

PEER = address("2001:db8:1::99")
SHOP = NamedSession("shop")


class Full:
    """A node all of whose addresses are in use, until `give`."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._taken: list[Hold] = []

    async def take(self) -> None:
        entry = await self.node.take_address(AddressKind.EPHEMERAL, None, timeout=10)
        self._taken.append(Hold(SHOP, entry))
        self.node.stack.host.addresses.acquire(entry, self._taken[-1])

    def give(self) -> None:
        hold = self._taken.pop()
        self.node.stack.host.addresses.drop(hold.entry, hold, self.node.now(), "given back")
        self.node.driver.kick()

    async def ask(self, timeout: float) -> tuple[float, AddressEntry | UnimuxError]:
        """How long it took, and what came of it."""
        began = self.node.now()
        try:
            outcome: AddressEntry | UnimuxError = await self.node.sticky.address(SHOP, PEER, timeout=timeout)
        except UnimuxError as error:
            outcome = error
        return self.node.now() - began, outcome


@pytest.mark.proves("UM-POOL-3", "UM-DAS-4", by="api")
def test_connections_of_a_session_wait_beside_each_other_not_one_after_the_other() -> None:
    async def main() -> None:
        async with lan() as net:
            full = Full(await net.node(pool=PoolConfig(low=0, high=1, limit=1)))
            await full.take()
            answers = await asyncio.gather(*(full.ask(2.0) for _ in range(5)))
            assert all(isinstance(error, PoolExhausted) for _, error in answers)
            assert max(seconds for seconds, _ in answers) == pytest.approx(2.0)
            assert not full.node.sticky._being_made

    virtual(main())


@pytest.mark.proves("UM-DAS-4", by="api")
def test_a_session_has_one_address_though_the_first_to_ask_gave_up() -> None:
    async def main() -> None:
        async with lan() as net:
            full = Full(await net.node(pool=PoolConfig(low=0, high=1, limit=2)))
            await full.take()
            await full.take()
            asking = [asyncio.create_task(full.ask(seconds)) for seconds in (1.0, 20.0)]
            cancelled = asyncio.create_task(full.ask(20.0))
            await asyncio.sleep(2.0)  # the first is over; the second asks in its place
            asking.append(asyncio.create_task(full.ask(20.0)))
            await asyncio.sleep(1.0)
            cancelled.cancel()
            full.give()
            full.give()
            (_, gone), (_, one), (_, other) = await asyncio.gather(*asking)
            assert isinstance(gone, PoolExhausted) and isinstance(one, AddressEntry)
            assert one is other
            assert full.node.pool.held == 1

    virtual(main())


@pytest.mark.proves("UM-DAS-4", by="api")
def test_ever_new_names_hold_no_more_than_so_many_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unimux.sticky.SESSIONS", 8)

    async def main() -> None:
        async with lan() as net:
            node = await net.node(dedicated="2001:db8:aa::")
            first = await node.sticky.address(SHOP, PEER, timeout=5)
            timers = []
            for n in range(100):
                await node.sticky.address(NamedSession(f"x{n}"), PEER, timeout=5)
                assert await node.sticky.address(SHOP, PEER, timeout=5) is first, "the one that is used stays"
                timers.append(len(node.stack.timers))
            assert len(node.sticky) == node.pool.held == 8
            assert timers[-1] <= timers[20] + 4
            await asyncio.sleep(DEFAULT_TTL + 1)
            assert len(node.sticky) == node.pool.held == 0

    virtual(main())


@pytest.mark.proves("UM-DAS-4", "UM-POOL-3", by="api")
def test_connections_of_a_session_share_an_address_that_is_optimistic_still() -> None:
    async def main() -> None:
        async with lan() as net:
            node = await net.node(pool=PoolConfig(low=0, high=0, when_empty=WhenEmpty.OPTIMISTIC))
            await node.until(lambda: node.stack.host.link_local is not None, 5)
            entries = await asyncio.gather(*(node.sticky.address(SHOP, PEER, timeout=5) for _ in range(3)))
            assert {entry.state for entry in entries} == {AddressState.OPTIMISTIC}
            assert len(set(entries)) == node.pool.held == 1

    virtual(main())


@pytest.mark.proves("UM-DAS-3", "UM-DAS-4", by="api")
def test_an_agent_sets_the_address_of_a_session_once() -> None:
    agent = Supplies("2001:db8:1::5e7")

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            das = asks(alice, agent)
            ssa = await bob.listen(asyncio.Protocol, mode=PortMode.L2).issue(sessions=2)
            for _ in range(2):
                transport, _ = await alice.create_connection(asyncio.Protocol, str(ssa), 80, session=SHOP, das=das)
                assert transport.get_extra_info("sockname")[0] == agent.address
                transport.close()
            assert len(agent.wanted) == 1

    virtual(main())


@pytest.mark.proves("UM-EA-1", "UM-DAS-4")
def test_the_address_of_a_session_answers_nobody_by_itself() -> None:
    """Between its connections nobody is answered, not even the last peer; strangers never are."""

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await alice.ready(4)
            port = net.switch.connect(bytes.fromhex(STRANGER_MAC.replace(":", "")))
            ssa = await echo_server(bob).issue()
            writer = (await open_connection(alice, ssa.address, None, session=SHOP))[1]
            ours = writer.get_extra_info("sockname")[0]
            mac = alice.link.properties.mac
            assert mac is not None

            async def answers(source: str) -> int:
                """How many frames the address sends for an echo request and a segment that belong to nothing."""
                before = len(net.frames)
                for message in (ICMPv6EchoRequest(), TCP(sport=9, dport=9, flags="A", seq=1, ack=1)):
                    frame = Ether(src=STRANGER_MAC, dst=mac.hex(":")) / IPv6(src=source, dst=ours) / message
                    port.send([bytes(frame)])
                await asyncio.sleep(1)
                return sum(frame[22:38] == address(ours) for _, frame in net.frames[before:])

            assert await answers(STRANGER) == 0
            assert await answers(str(ssa.address)) > 0, "the peer is answered while its connection stands"
            writer.close()
            await alice.until(lambda: not alice.stack.tcp.time_waits and not list(alice.stack.tcp.demux), 60)
            assert alice.stack.host.addresses.get(address(ours)) is not None, "the session keeps it"
            for source in (STRANGER, str(ssa.address)):
                assert await answers(source) == 0
            again = (await open_connection(alice, (await echo_server(bob).issue()).address, None, session=SHOP))[1]
            assert again.get_extra_info("sockname")[0] == ours
            again.close()

    virtual(main())
