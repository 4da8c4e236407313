"""Links that refuse addresses: the pool shrinks to what works, says so, and recovers (UM-ADDR-12).

The switches here do what real ones do behind the back of DAD.  `Validating` binds the first addresses that a port tests and
drops what comes from any other (RFC 6620 with a limit); `Snooping` delivers a group only to a port that reported it while
the table had room (RFC 4541).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from ipaddress import IPv6Address
from random import Random
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6MLDMultAddrRec, ICMPv6MLReport2, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import Ether

from scenarios.engine.router import AdvertisedPrefix, InterfaceConfig, Router, RouterConfig, RouterNode
from tapstack.ipv6.addresses import AddressKind, AddressState
from tapstack.link.memory import MemoryLink, MemorySwitch
from tapstack.types import address, address_text
from tests.unit.unimux.lan import OPTIONS, echo_server, virtual
from unimux import errors
from unimux.aio import open_connection
from unimux.node import Node, NodeConfig
from unimux.pool import PoolChanged
from unimux.poolstate import PoolConfig
from unimux.sticky import NamedSession

POOL = PoolConfig(low=8, high=8, limit=32, regrow=120.0, max_age=100_000.0)
CLIENT = 0
"""The port that refuses."""


class Refusing(MemorySwitch):
    """What both have in common: room for so many addresses; `mine` says whether an address is still the node's."""

    def __init__(self, room: int) -> None:
        super().__init__(latency=0.001)
        self.room = room
        self.mine: Callable[[str], bool] = lambda address: True


class Validating(Refusing):
    """Keeps a binding for `lifetime` seconds; then it asks the node, as RFC 6620 §3.2.3 has it, and forgets what is gone."""

    lifetime = 10.0

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.bound: dict[str, float] = {}

    def _targets(self, source: MemoryLink, frame: bytes) -> list[MemoryLink]:
        if source.port == CLIENT and not self._admits(Ether(frame)):
            return []
        return super()._targets(source, frame)

    def _admits(self, packet: Any) -> bool:
        now = self.loop.time()
        self.bound = {each: until for each, until in self.bound.items() if until > now or self.mine(each)}
        if packet[IPv6].src != "::":
            return packet[IPv6].src in self.bound
        if ICMPv6ND_NS in packet and len(self.bound) < self.room:
            self.bound[packet[ICMPv6ND_NS].tgt] = now + self.lifetime
        return True


class Snooping(Refusing):
    """Learns solicited-node groups from the port's MLDv2 reports."""

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.groups: set[str] = set()

    def _targets(self, source: MemoryLink, frame: bytes) -> list[MemoryLink]:
        packet = Ether(frame)
        if source.port == CLIENT and ICMPv6MLReport2 in packet:
            for record in packet[ICMPv6MLReport2].records:
                while isinstance(record, ICMPv6MLDMultAddrRec):
                    self._report(record.rtype, record.dst)
                    record = record.payload
        targets = super()._targets(source, frame)
        group = packet[IPv6].dst
        if group.startswith("ff02::1:ff") and group not in self.groups:
            return [link for link in targets if link.port != CLIENT]
        return targets

    def _report(self, kind: int, group: str) -> None:
        if kind == 3:  # CHANGE_TO_INCLUDE {}: left
            self.groups.discard(group)
        elif len(self.groups) < self.room:
            self.groups.add(group)


class Forgetful(Snooping):
    """A snooping switch in a network without a querier: a group is forgotten `lifetime` seconds after its last report."""

    lifetime = 260.0

    def __init__(self, room: int) -> None:
        super().__init__(room)
        self.reported: dict[str, float] = {}

    def _targets(self, source: MemoryLink, frame: bytes) -> list[MemoryLink]:
        now = self.loop.time()
        self.groups = {group for group in self.groups if self.reported[group] + self.lifetime > now}
        return super()._targets(source, frame)

    def _report(self, kind: int, group: str) -> None:
        self.reported[group] = self.loop.time()
        super()._report(kind, group)


class World:
    """A client behind the refusing port and an echo server on another one."""

    def __init__(self, switch: Refusing, client: Node, other: Node) -> None:
        self.switch = switch
        self.client = client
        self.other = other
        self.server = echo_server(other)
        self.said: list[str] = []
        self.sessions: list[Session] = []
        client.watch(lambda event: self.said.append(event.cause) if isinstance(event, PoolChanged) else None)
        switch.mine = lambda text: address(text) in client.stack.host.addresses

    async def open(self, timeout: float = 30.0) -> Session:
        """A connection to a fresh service address, used once."""
        ssa = await self.server.issue()
        return await self.connect(self.client, ssa.address, timeout)

    async def connect(self, node: Node, service: IPv6Address, timeout: float = 30.0) -> Session:
        """A connection of either node, used once."""
        session = Session(*await open_connection(node, service, None, timeout=timeout))
        self.sessions.append(session)
        await session.use()
        return session

    @property
    def limit(self) -> int:
        return self.client.pool.status(self.client.now()).limit

    @property
    def refusals(self) -> list[str]:
        return [cause for cause in self.said if cause.startswith("the link refused")]


class Session:
    """A connection that is held."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def use(self) -> None:
        self.writer.write(b"hello")
        async with asyncio.timeout(30):
            assert await self.reader.readexactly(5) == b"hello"


def world(switch: Callable[[int], Refusing], room: int, main: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    """client ─ refusing switch ─ router ─ switch ─ server"""

    async def whole() -> None:
        near, far = switch(room), MemorySwitch(latency=0.001)
        links = near.connect(mac(1)), far.connect(mac(2))
        router = RouterNode(Router(RouterConfig(), Random(1)))
        for fabric, number, prefix in ((near, 11, "2001:db8:a::/64"), (far, 12, "2001:db8:b::/64")):
            config = InterfaceConfig(prefixes=(AdvertisedPrefix(prefix=prefix),))
            router.connect(fabric.connect(mac(number)), config)
        router.start()
        client = await Node.start(links[0], NodeConfig(pool=POOL, socket=OPTIONS), seed=bytes(32))
        other = await Node.start(
            links[1], NodeConfig(pool=PoolConfig(low=32, high=48, limit=128), socket=OPTIONS), seed=bytes(31) + b"2"
        )
        try:
            await other.ready(16, timeout=60)
            await client.ready(8, timeout=60)
            made = World(near, client, other)
            await main(made)
            for session in made.sessions:
                session.writer.close()
            client.pool.check()
            client.stack.check()
        finally:
            await client.close()
            await other.close()
            router.close()

    virtual(whole())


def mac(number: int) -> bytes:
    return bytes([2, 0, 0, 0, 0, number])


BOTH = pytest.mark.parametrize(
    ("switch", "why"),
    [(Validating, "what is sent from it does not arrive"), (Snooping, "what is sent to its group does not arrive")],
    ids=["validation", "snooping"],
)


@pytest.mark.proves("UM-ADDR-12", by="api")
@BOTH
def test_the_pool_shrinks_to_what_works_says_so_and_the_program_hears_nothing(
    switch: Callable[[int], Refusing], why: str
) -> None:
    """Room for the link-local address and five more, of eight that are reserved: the sixth connection waits for a place."""

    async def main(world: World) -> None:
        held = [await world.open() for _ in range(5)]
        assert world.limit == 32
        sixth = asyncio.create_task(world.open(timeout=400))
        await asyncio.sleep(20)
        assert world.limit == 5
        assert why in world.refusals[0]
        assert not sixth.done()
        assert world.refusals[0] == f"the link refused {world.client.pool.status(world.client.now()).refusal}"
        for session in held:
            await session.use()  # what works goes on
        held.pop().writer.close()
        session = await sixth
        await session.use()
        for session in held:
            await session.use()
        assert world.limit < 32

    world(switch, 6, main)


@pytest.mark.proves("UM-ADDR-12", by="api")
@BOTH
def test_when_the_link_has_room_again_the_pool_grows_back(switch: Callable[[int], Refusing], why: str) -> None:
    async def main(world: World) -> None:
        held = [await world.open() for _ in range(3)]
        with pytest.raises(errors.UnimuxError, match="the link refuses more") as refused:
            await world.open(timeout=15)
        assert why in str(refused.value)
        assert world.limit == 3
        world.switch.room = 1000
        await asyncio.sleep(120 * 5)
        assert world.limit == 32
        assert world.client.pool.status(world.client.now()).refusal is None
        held += [await world.open() for _ in range(20)]
        for session in held:
            await session.use()
        assert len(world.refusals) == 1

    world(switch, 4, main)


@pytest.mark.proves("UM-ADDR-12", "UM-DAS-4", by="api")
@BOTH
def test_a_session_gives_up_an_address_that_the_link_refuses(switch: Callable[[int], Refusing], why: str) -> None:
    """Room for three: the session's address is none of them, until there is room; then its connection gets another one."""

    async def main(world: World) -> None:
        held = [await world.open() for _ in range(3)]
        session = NamedSession("shop")
        ssa = await world.server.issue()
        opening = asyncio.create_task(open_connection(world.client, ssa.address, None, timeout=400, session=session))
        await asyncio.sleep(20)
        assert why in world.refusals[0]
        assert not opening.done() and not len(world.client.sticky)
        held.pop().writer.close()
        world.sessions.append(Session(*await opening))
        await world.sessions[-1].use()
        (hold,) = world.client.sticky._holds.values()
        assert hold.entry.state is AddressState.PREFERRED

    world(switch, 4, main)


@pytest.mark.proves("UM-ADDR-12", by="api")
def test_a_link_that_takes_no_address_at_all_is_named_in_the_error() -> None:
    async def main(world: World) -> None:
        with pytest.raises(errors.UnimuxError, match="link refuses"):
            await world.open(timeout=25)
        assert world.limit == 1

    world(Validating, 1, main)


@pytest.mark.proves("UM-ADDR-12", by="api")
def test_a_silent_server_is_not_taken_for_a_refusing_link() -> None:
    """The server's link-layer address is known and its host is up, but it answers no SYN: an EA answers its peer only."""

    async def main(world: World) -> None:
        taken = await world.other.take_address(AddressKind.EPHEMERAL, None, timeout=5)
        world.other.stack.udp.open(taken, world.other.now())
        for _ in range(4):
            with pytest.raises(errors.ConnectTimeout):
                await world.client.connect(address_text(taken.address), 80, timeout=12)
        with pytest.raises(errors.ConnectError):  # nobody at all, on the same link
            await world.client.connect("2001:db8:a::dead", 80, timeout=12)
        assert world.limit == 32
        assert not world.refusals

    world(Validating, 1000, main)


@pytest.mark.proves("UM-ADDR-12", by="api")
@BOTH
def test_a_service_address_that_the_link_refuses_is_withdrawn(switch: Callable[[int], Refusing], why: str) -> None:
    """Room for three: two service addresses stand, the third is told apart although no client ever came."""

    async def main(world: World) -> None:
        service = echo_server(world.client)
        issued = []
        for _ in range(3):
            issued.append(await service.issue(lifetime=3600.0))
            await asyncio.sleep(70)  # for a minute an address that works speaks for the others
        assert {str(each) for each in service.armed} == {str(ssa.address) for ssa in issued[:2]}
        assert why in world.refusals[0]
        await world.connect(world.other, issued[1].address)

    world(switch, 3, main)


@pytest.mark.proves("UM-ADDR-12", "UM-DAS-6", by="api")
def test_a_datagram_flow_moves_to_an_address_that_works() -> None:
    async def main(world: World) -> None:
        await world.open()
        got: list[bytes] = []
        peer = await world.other.take_address(AddressKind.EPHEMERAL, None, timeout=5)
        far = world.other.stack.udp.open(peer, world.other.now(), local_port=7)
        flow = world.client.datagrams.flow(peer.address, 7, got.append)
        flow.send(b"first")
        await asyncio.sleep(10)
        assert far.receive() is None
        assert world.refusals
        world.switch.room = 100
        await asyncio.sleep(130)
        flow.send(b"second")
        await asyncio.sleep(5)
        second = far.receive()
        assert second is not None
        assert second.data == b"second"

    world(Validating, 2, main)


@pytest.mark.proves("UM-ADDR-12", "ST-IP6-7", by="api")
def test_where_a_switch_forgets_because_nobody_asks_groups_are_reported_unasked() -> None:
    async def main(world: World) -> None:
        await asyncio.sleep(400)  # all that is reserved is forgotten by now
        first = await world.open(timeout=30)
        assert len(world.refusals) == 1
        assert "reported unasked" in world.refusals[0]
        await asyncio.sleep(1500)
        assert world.limit == 32
        for _ in range(5):
            await world.open(timeout=2)
        await first.use()
        assert len(world.refusals) == 1, "nothing is forgotten any more"

    world(Forgetful, 1000, main)
