"""An address that goes between the moment in which it is given and the one in which it is used: its prefix expires, say."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from scapy.layers.inet6 import IPv6

from tapstack.events import AddressChanged, Event
from tapstack.ipv6.addresses import AddressEntry, AddressState
from tests.unit.unimux.lan import lan, settle, virtual
from unimux.aio import open_connection, start_server
from unimux.das import AddressUnavailable, Done, Pending, Policy, Want
from unimux.node import Node
from unimux.sticky import NamedSession


class Unlucky(Policy):
    """The node's own policy, some of whose addresses are lost while who asked for them is being told."""

    def __init__(self, node: Node, losses: int, *, deprecated: bool = False) -> None:
        self._deprecated = deprecated
        self._node = node
        self._usual = node.das
        self.losses = losses

    def ask(self, want: Want, now: float, done: Done) -> AddressEntry | Pending:
        timer = self._node.stack.timers.timer(lambda now: answer(now))

        def answer(now: float) -> None:
            entry = self._usual.ask(want, now, done)
            assert isinstance(entry, AddressEntry)
            done(entry, now)
            if self.losses:
                self.losses -= 1
                table = self._node.stack.host.addresses
                if self._deprecated:
                    table.deprecate(entry, now, "its prefix is deprecated")
                else:
                    table.release(entry, now, "its prefix expired")

        timer.set(now + 0.01)
        return _Timer(timer.cancel)


def deprecated(events: list[Event]) -> list[str]:
    changes = [event for event in events if isinstance(event, AddressChanged)]
    return [change.address for change in changes if change.new == AddressState.DEPRECATED]


class _Timer:
    def __init__(self, cancel: Callable[[], None]) -> None:
        self._cancel = cancel

    def cancel(self, now: float) -> None:
        self._cancel()


@pytest.mark.proves("UM-DAS-6", "UM-ADDR-6", by="api")
def test_a_flow_takes_another_one() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await alice.ready(4)
            alice.das = Unlucky(alice, losses=1)
            failures: list[Exception] = []
            entry = bob.stack.host.addresses.get(bob.stack.host.link_local or b"")
            assert entry is not None
            server = bob.stack.udp.open(entry, bob.now(), local_port=7)
            flow = alice.datagrams.flow(entry.address, 7, lambda data: None, failed=failures.append)
            flow.send(b"sent")
            await asyncio.sleep(5)
            datagram = server.receive()
            assert datagram is not None and datagram.data == b"sent"
            assert not failures and not flow.dropped
            flow.close()
            server.close(bob.now())

    virtual(main())


@pytest.mark.proves("UM-DAS-1", "UM-ADDR-6", by="api")
def test_a_connection_takes_another_one() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await asyncio.gather(alice.ready(4), bob.ready(4))
            alice.das = Unlucky(alice, losses=2)
            ssa = await start_server(bob, lambda reader, writer: writer.close()).issue()
            reader, writer = await open_connection(alice, ssa.address, None, timeout=10)
            assert await reader.read() == b""
            writer.close()

    virtual(main())


@pytest.mark.proves("UM-ADDR-11", "UM-DAS-1")
def test_one_on_which_nothing_may_start_any_more_is_replaced() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await asyncio.gather(alice.ready(4), bob.ready(4))
            alice.das = Unlucky(alice, losses=2, deprecated=True)
            events: list[Event] = []
            alice.watch(events.append)
            ssa = await start_server(bob, lambda reader, writer: writer.close()).issue()
            _, writer = await open_connection(alice, ssa.address, None, timeout=10)
            lost = deprecated(events)
            assert len(lost) == 2
            assert not [p for _, p in net.syns() if p[IPv6].src in lost]
            writer.close()
            await settle(alice)

    virtual(main())


@pytest.mark.proves("UM-ADDR-6", by="api")
def test_one_that_is_lost_again_and_again_is_an_error_at_the_deadline() -> None:
    async def main() -> None:
        async with lan() as net:
            alice = await net.node(dedicated="2001:db8:a::")  # where there is always one more
            alice.das = Unlucky(alice, losses=10_000)
            for session in (None, NamedSession("shop")):
                began = alice.now()
                with pytest.raises(AddressUnavailable, match="went again before it could be used"):
                    await alice.create_connection(asyncio.Protocol, "2001:db8:1::9", 80, timeout=0.2, session=session)
                assert 0.19 < alice.now() - began < 0.4
            assert 2 < 10_000 - alice.das.losses < 10_000
            assert not alice.pool.held

    virtual(main())
