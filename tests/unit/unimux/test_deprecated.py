"""Renumbering: nothing new starts on a deprecated one-time address, and what stands goes on (UM-ADDR-11).

The tests look at the SYNs, and what was answered to them, from the moment at which the router's advertisement passed.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6

from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressKind, AddressState
from tapstack.ipv6.config import HostConfig
from tests.unit.unimux.lan import PREFIX, Lan, echo_server, lan, virtual
from tests.unit.unimux.router import OTHER_PREFIX, Router
from unimux.accept import Acceptor
from unimux.aio import open_connection
from unimux.errors import ConnectTimeout
from unimux.node import Node
from unimux.server import Server

OLD, NEW = IPv6Network(f"{PREFIX}/64"), IPv6Network(f"{OTHER_PREFIX}/64")


async def pair(net: Lan, host: HostConfig | None = None) -> tuple[Node, Node, Router]:
    """Two nodes with addresses in the prefix of a router; `host`: of the first one."""
    options: dict[str, Any] = {} if host is None else {"host": host}
    bob, alice = await net.node(advertised=True, **options), await net.node(advertised=True)
    await asyncio.sleep(5)  # link-local addresses: before those stand, advertisements are too early for reservations
    router = Router(net)
    await asyncio.gather(bob.ready(4, 60), alice.ready(4, 60))
    return bob, alice, router


def answered(net: Lan, ssa: IPv6Address, since: float) -> list[str]:
    """The flags of all segments from an SSA from then on."""
    return [str(p[TCP].flags) for when, p in net.packets(TCP) if when >= since and p[IPv6].src == str(ssa)]


def state_of(node: Node, where: IPv6Address) -> AddressState | None:
    entry = node.stack.host.addresses.get(where.packed)
    return None if entry is None else entry.state


async def speak(node: Node, where: IPv6Address, timeout: float = 8) -> None:
    """One session."""
    reader, writer = await open_connection(node, where, None, timeout=timeout)
    writer.write(b"hi")
    assert await reader.readexactly(2) == b"hi"
    writer.close()


@pytest.mark.proves("UM-ADDR-11", "UM-LIS-2")
def test_an_ssa_that_is_deprecated_answers_no_new_syn_until_it_is_preferred_again() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice, router = await pair(net)
            server = echo_server(bob)
            ssa = (await server.issue(sessions=3)).address
            reader, writer = await open_connection(alice, ssa, None)
            router.deprecate()
            router.prefer(OTHER_PREFIX)
            await bob.until(lambda: state_of(bob, ssa) is AddressState.DEPRECATED, 30)
            await asyncio.sleep(1)
            assert server.armed == []
            writer.write(b"going on")
            assert await reader.readexactly(8) == b"going on", "a connection outlives the deprecation of its addresses"
            writer.close()
            await asyncio.sleep(10)

            began = bob.now()
            with pytest.raises(ConnectTimeout):
                await open_connection(alice, ssa, None, timeout=8)
            assert [p for when, p in net.syns() if when >= began and p[IPv6].dst == str(ssa)], "it was asked"
            assert answered(net, ssa, began) == [], "silence, as for anything that nobody listens on"
            assert bob.stack.counters.drops[DropReason.TCP_DEPRECATED] >= 2

            router.prefer()
            await bob.until(lambda: server.armed == [ssa], 30)
            began = bob.now()
            await speak(alice, ssa)
            assert answered(net, ssa, began)[0] == "SA"

    virtual(main())


@pytest.mark.proves("UM-ADDR-11", "UM-LIS-3")
@pytest.mark.parametrize("cookies", [False, True])
def test_a_handshake_that_has_begun_is_completed(cookies: bool) -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice, router = await pair(net)
            server = echo_server(bob)
            ssa = (await server.issue()).address
            if cookies:
                bob.stack.tcp.passive.limit = 0
            lost: list[bytes] = []

            def unlucky(frame: bytes) -> bool:
                """Alice's first acknowledgement comes too late: the one that is repeated finds the address deprecated."""
                if frame[6:12] == alice.link.properties.mac and frame[20:21] == b"\x06" and frame[67] == 0x10:
                    lost.append(frame)
                return len(lost) > 0 and frame[6:12] == alice.link.properties.mac and frame[20:21] == b"\x06"

            net.switch.unlucky = unlucky
            _, writer = await open_connection(alice, ssa, None)
            writer.write(b"hi")
            router.deprecate()
            router.prefer(OTHER_PREFIX)
            await bob.until(lambda: state_of(bob, ssa) is AddressState.DEPRECATED, 30)
            assert lost and not in_session(bob)
            assert (bob.stack.counters.drops[DropReason.TCP_COOKIE_SENT] > 0) == cookies
            net.switch.unlucky = lambda frame: False
            await bob.until(lambda: in_session(bob), 30)
            writer.close()

    virtual(main())


def armed_in(server: Server, prefix: IPv6Network) -> int:
    return sum(ssa in prefix for ssa in server.armed)


def in_session(node: Node) -> bool:
    return next(iter(node.stack.tcp.demux), None) is not None


@pytest.mark.proves("UM-ADDR-11", "UM-LIS-2")
def test_servers_that_poll_arm_in_the_new_prefix_at_once_and_not_twice_in_the_old_one() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice, router = await pair(net)
            server = echo_server(bob)
            told: list[IPv6Address] = []
            server.auto_arm(2, lambda ssa: told.append(ssa.address), lifetime=None)
            await bob.until(lambda: len(server.armed) == 2, 30)
            old = set(server.armed)
            began = bob.now()
            router.prefer(OTHER_PREFIX)
            router.deprecate()
            await bob.until(lambda: armed_in(server, NEW) == 2, 30)
            assert bob.now() - began < 10, "at once, and not when the valid lifetime is over"
            await asyncio.sleep(3000)
            assert told[2:] == server.armed, "two, and no more"
            assert bob.stack.counters.drops[DropReason.TCP_DEPRECATED] == 0
            await speak(alice, server.armed[0])
            for _ in range(5):  # a link on which the prefixes change places again and again
                router.prefer()
                router.deprecate(OTHER_PREFIX)
                await bob.until(lambda: set(server.armed) == old, 30)
                await asyncio.sleep(5)
                router.prefer(OTHER_PREFIX)
                router.deprecate()
                await bob.until(lambda: armed_in(server, NEW) == 2, 30)
                await asyncio.sleep(5)
            assert len(told) == 5, "two in each prefix, one of them replaced"

    virtual(main())


@pytest.mark.proves("UM-ADDR-11", "UM-LIS-2", by="api")
def test_who_waits_in_accept_gets_an_address_of_the_new_prefix() -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice, router = await pair(net)
            told: list[IPv6Address] = []
            acceptor = Acceptor(bob, armed=lambda ssa: told.append(ssa.address), lifetime=None)
            accepted = asyncio.create_task(acceptor.accept(timeout=200))
            await bob.until(lambda: len(told) == 1, 30)
            router.deprecate()
            router.prefer(OTHER_PREFIX)
            await bob.until(lambda: len(told) == 2, 30)
            assert told[0] in OLD and told[1] in NEW
            _, calling = await open_connection(alice, told[1], None, timeout=8)
            _, called = await accepted
            calling.close()
            called.close()
            acceptor.close()

    virtual(main())


@pytest.mark.proves("UM-ADDR-11", by="api")
def test_an_ordinary_address_accepts_until_the_end_of_its_valid_lifetime() -> None:
    """RFC 4862 §5.5.4: a deprecated address that an application bound is served as before; only one-time ones rest."""

    async def main() -> None:
        async with lan() as net:
            bob, alice, router = await pair(net, HostConfig())
            table = bob.stack.host.addresses
            await bob.until(lambda: any(entry.kind is AddressKind.STABLE for entry in table), 30)
            where = next(IPv6Address(entry.address) for entry in table if entry.kind is AddressKind.STABLE)
            await bob.until(lambda: state_of(bob, where) is AddressState.PREFERRED, 30)
            server = echo_server(bob)
            server.bind(where)
            router.deprecate()
            router.prefer(OTHER_PREFIX)
            await bob.until(lambda: state_of(bob, where) is AddressState.DEPRECATED, 30)
            assert server.armed == [where]
            await speak(alice, where)

    virtual(main())
