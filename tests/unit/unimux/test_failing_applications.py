"""What an application raises in a callback ends its own affair, and nobody else's; nor does a record that cannot be written."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tests.unit.unimux.lan import Lan, handled, lan, virtual
from unimux.aio import open_connection
from unimux.das import AutoSet, Done, Pending, Want
from unimux.events import EventFile
from unimux.node import Node
from unimux.purpose import Purpose


class Fault(Exception):
    """What the application raises."""


class Quiet(asyncio.Protocol):
    """Notes what it is told; raises in the callbacks that `faulty` names."""

    def __init__(self, *faulty: str) -> None:
        self.faulty = faulty
        self.got: list[bytes] = []
        self.lost: list[BaseException | None] = []

    def _note(self, callback: str) -> None:
        if callback in self.faulty:
            raise Fault(callback)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._note("connection_made")

    def data_received(self, data: bytes) -> None:
        self.got.append(data)
        self._note("data_received")

    def eof_received(self) -> bool:
        self._note("eof_received")
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self.lost.append(exc)
        self._note("connection_lost")


async def two_nodes(net: Lan) -> tuple[Node, Node]:
    alice, bob = await net.node(), await net.node()
    await asyncio.gather(alice.ready(4), bob.ready(4))
    return alice, bob


@pytest.mark.parametrize("callback", ["connection_made", "data_received", "eof_received"])
def test_a_protocol_that_raises_ends_its_own_connection_only(callback: str) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), lan() as net:
            alice, bob = await two_nodes(net)
            faulty, sound = Quiet(callback), Quiet()
            ssas = [await bob.listen(lambda made=made: made).issue() for made in (faulty, sound)]  # type: ignore[misc]
            told = handled()
            streams = [await open_connection(alice, ssa.address, None) for ssa in ssas]
            for _, writer in streams:  # both in one batch of frames: the faulty one is told first
                writer.write(b"hello")
                writer.write_eof()
            with pytest.raises(ConnectionError):
                await streams[0][0].read()
            await bob.until(lambda: bool(sound.got), 5)
            assert sound.got == [b"hello"] and not sound.lost
            assert [str(each["exception"]) for each in told] == [callback]
            if callback != "connection_made":
                assert [str(error) for error in faulty.lost] == [callback]
            for _, writer in streams:
                writer.close()

    virtual(main())


def test_a_factory_that_raises_leaves_no_connection_behind() -> None:
    def factory() -> asyncio.Protocol:
        raise Fault("no protocol today")

    async def main() -> None:
        async with asyncio.timeout(60), lan() as net:
            alice, bob = await two_nodes(net)
            ssa = await bob.listen(factory).issue()
            told = handled()
            reader, writer = await open_connection(alice, ssa.address, None)
            with pytest.raises(ConnectionError):
                await reader.read()
            writer.close()
            assert [str(each["exception"]) for each in told] == ["no protocol today"]
            assert not list(bob.stack.tcp.demux) and not bob.pool.held

    virtual(main())


def test_a_datagram_callback_that_raises_loses_nobody_elses_news() -> None:
    async def main() -> None:
        async with asyncio.timeout(60), lan() as net:
            alice, bob = await two_nodes(net)
            entry = await bob.take_address(AddressKind.SERVICE, None, timeout=5)
            echo = bob.stack.udp.open(entry, bob.now(), local_port=7)

            def answer(bits: int) -> None:
                while (datagram := echo.receive()) is not None:
                    echo.send(datagram.data, bob.now(), datagram.remote, datagram.remote_port)

            echo.owner = answer
            got: list[bytes] = []

            def faulty(data: bytes) -> None:
                got.append(data)
                raise Fault("datagram")

            told = handled()
            flows = [alice.datagrams.flow(entry.address, 7, receive) for receive in (faulty, got.append)]
            for flow in flows:
                flow.send(b"one")
                flow.send(b"two")
            await asyncio.sleep(1)
            assert sorted(got) == [b"one", b"one", b"two", b"two"]
            assert [str(each["exception"]) for each in told] == ["datagram", "datagram"]
            for flow in flows:
                flow.close()

    virtual(main())


async def one_session(alice: Node, bob: Node, who: str | None = None) -> None:
    """A session from its address to its release."""
    sound = Quiet()
    ssa = await bob.listen(lambda: sound).issue()
    _, writer = await open_connection(alice, ssa.address, None, purpose=Purpose(who=who))
    writer.write(b"hello")
    await bob.until(lambda: bool(sound.got), 5)
    writer.transport.abort()
    await asyncio.gather(alice.until(lambda: not alice.pool.held, 5), bob.until(lambda: not bob.pool.held, 5))


@pytest.mark.proves("UM-NODE-4", "UM-REL-1", by="api")
def test_a_subscriber_that_raises_cuts_no_change_of_state_in_two() -> None:
    async def main() -> None:
        async with asyncio.timeout(60), lan() as net:
            alice, bob = await two_nodes(net)
            told = handled()

            def faulty(event: object) -> None:
                raise Fault("subscriber")

            unwatch = alice.watch(faulty)
            await one_session(alice, bob)
            unwatch()
            assert {str(each["exception"]) for each in told} == {"subscriber"}
            alice.pool.check()

    virtual(main())


@pytest.mark.proves("UM-NODE-4", "UM-REL-1", by="api")
def test_events_on_a_full_disk_are_counted_and_told_once() -> None:
    async def main() -> None:
        async with asyncio.timeout(60), lan() as net:
            alice, bob = await two_nodes(net)
            complaints: list[str] = []
            with EventFile(Path("/dev/full"), alice.events, complain=complaints.append) as events:
                await one_session(alice, bob)
            assert events.lost > 5
            assert len(complaints) == 1 and "No space left" in complaints[0]
            alice.pool.check()

    virtual(main())


@pytest.mark.proves("UM-NODE-4", by="api")
def test_a_name_that_is_no_text_is_written_as_escapes_and_leaks_no_address(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"

    async def main() -> None:
        async with asyncio.timeout(60), lan() as net:
            alice, bob = await two_nodes(net)
            with EventFile(path, alice.events):
                await one_session(alice, bob, who=b"b\xf6b\xff".decode("utf-8", "surrogateescape"))

    virtual(main())
    told = [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["who"] for line in told if line["event"] == "assigned"] == ["b\\udcf6b\\udcff"]
    assert path.stat().st_mode & 0o077 == 0, "events name peers: nobody else may read them"


def test_a_callback_that_raises_does_not_end_what_keeps_addresses_armed() -> None:
    async def main() -> None:
        async with asyncio.timeout(600), lan() as net:
            _, bob = await two_nodes(net)
            told = handled()
            armed: list[object] = []

            def faulty(ssa: object) -> None:
                armed.append(ssa)
                raise Fault("armed")

            server = bob.listen(Quiet)
            server.auto_arm(1, faulty, lifetime=30)
            await asyncio.sleep(100)
            assert len(armed) == 4, "each one that expires is replaced"
            assert [str(each["exception"]) for each in told] == 4 * ["armed"]
            assert len(server.armed) == 1
            server.close()

    virtual(main())


@pytest.mark.parametrize("faulty", [(), ("connection_lost",)])
def test_a_transport_keeps_its_protocol_until_that_was_told_of_the_end(faulty: tuple[str, ...]) -> None:
    seen: list[asyncio.BaseProtocol | None] = []

    class Curious(Quiet):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def connection_lost(self, exc: BaseException | None) -> None:
            seen.append(self.transport.get_protocol())
            super().connection_lost(exc)

    async def main() -> None:
        async with lan() as net:
            alice, bob = await two_nodes(net)
            told = handled()
            server = bob.listen(lambda: Quiet())
            ssa = await server.issue()
            transport, protocol = await alice.create_connection(lambda: Curious(*faulty), ssa.address, None)
            await asyncio.sleep(1)
            for pcb in bob.stack.tcp.demux:
                pcb.abort(bob.now())  # type: ignore[union-attr]
            bob.driver.kick()
            await asyncio.sleep(1)
            assert seen == [protocol]
            assert [context["protocol"] for context in told] == [protocol] * len(faulty)
            assert transport.get_protocol() is None  # as of asyncio's own transports

    virtual(main())


@pytest.mark.proves("UM-LIS-2", by="api")
def test_a_policy_that_raises_once_leaves_as_many_armed_as_were_asked_for() -> None:
    class Flaky(AutoSet):
        asked = 0

        def ask(self, want: Want, now: float, done: Done) -> AddressEntry | Pending:
            self.asked += 1
            if self.asked == 2:
                raise Fault("the policy")
            return super().ask(want, now, done)

    async def main() -> None:
        told = handled()
        async with lan() as net:
            node = await net.node()
            server = node.listen(asyncio.Protocol, das=Flaky(node.pool))
            server.auto_arm(3)
            await asyncio.sleep(60)
            assert len(server.armed) == 3
            assert [str(context["exception"]) for context in told] == ["the policy"]

    virtual(main())
