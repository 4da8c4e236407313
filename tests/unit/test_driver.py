"""The driver: what it does when its link goes away, when its loop was late, and when it is answered within the write."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from ipaddress import IPv6Address

import pytest

from tapstack.clock import run_virtual
from tapstack.driver import BATCH, PATIENCE
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import Link, LinkProperties
from tapstack.link.errors import LinkLost
from tapstack.link.memory import MemoryLink
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.tcp.states import TcpState
from tapstack.types import Frame, address
from tests.unit.unimux.lan import handled, lan, virtual
from unimux.aio import open_connection, start_server
from unimux.errors import ConnectError
from unimux.node import Node


@pytest.mark.parametrize("direction", ["receive", "send"])
def test_a_lost_link_ends_every_connection_and_tells_the_owner(direction: str) -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()

            async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read()
                writer.close()

            ssa = await start_server(bob, hold).issue()
            reader, writer = await open_connection(alice, ssa.address, None)
            link = alice.link
            assert isinstance(link, MemoryLink)

            def gone(*_: object) -> None:
                raise LinkLost("the device is gone")

            setattr(link, direction, gone)
            writer.write(b"anything")
            with pytest.raises(LinkLost, match="gone"):
                await asyncio.wait_for(alice.failed(), 30)
            with pytest.raises(ConnectionError):
                await reader.read()
            assert len(alice.stack.tcp.demux) == 0
            assert not [e for e in alice.stack.host.addresses if e.users]
            await alice.close()

    virtual(main())


NOISE = bytes.fromhex("02 00 00 00 00 01 02 00 00 00 00 09 88b5") + bytes(46)
"""A frame for the first node, of no protocol it knows."""


def order_of_events(frames: int | None) -> list[str]:
    """What a node whose loop was late does first: `frames` wait on its link when a timer is due; None: without end."""
    done: list[str] = []

    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            await asyncio.sleep(30)  # its addresses are there, nothing else is due
            left = frames

            def receive() -> memoryview | None:
                nonlocal left
                if left == 0 or "timer" in done:
                    return None
                if left is not None:
                    left -= 1
                done.append("frame")
                return memoryview(NOISE)

            vars(node.link)["receive"] = receive
            node.stack.timers.timer(lambda now: done.append("timer")).set(node.now() + 0.001)
            node.driver.kick()
            await asyncio.sleep(1)

    virtual(main())
    return done


@pytest.mark.parametrize("waiting", [0, 1, BATCH, 3 * BATCH + 1])
def test_a_late_loop_reads_what_has_come_before_its_timers_act(waiting: int) -> None:
    assert order_of_events(waiting) == ["frame"] * waiting + ["timer"]


def test_a_link_that_is_never_empty_does_not_stop_the_timers() -> None:
    assert order_of_events(None) == ["frame"] * (PATIENCE + 1) * BATCH + ["timer"]


@pytest.mark.proves("ST-IP6-6", by="api")
def test_the_wait_of_dad_is_counted_from_when_the_probe_left() -> None:
    """A process that is stopped between making a probe and writing it hears the answer later, and waits for it."""

    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            await asyncio.sleep(30)
            late = 0.0
            clock, send = node.driver.now, node.link.send
            node.driver.now = lambda: clock() + late
            probes: list[float] = []

            def slow(frame: Frame) -> bool:
                nonlocal late
                if b"".join(frame)[54:55] == b"\x87":  # NEIGHBOR SOLICITATION
                    late += 0.3
                    probes.append(node.driver.now())
                return send(frame)

            vars(node.link)["send"] = slow
            passed: list[float] = []
            node.watch(lambda event: passed.append(node.driver.now()) if "PREFERRED" in event.text() else None)
            dad = node.stack.host.dad
            for last in (1, 2):
                node.stack.host.addresses.add(
                    address(f"2001:db8:1::{last}"), AddressKind.STABLE, node.driver.now(), cause="test"
                )
            node.driver.kick()
            await asyncio.sleep(5)
            assert len(probes) == len(passed) == 2
            assert all(end - begin >= 1.0 for begin, end in zip(probes, passed, strict=True)), (probes, passed)
            assert not dad.leaving

    virtual(main())


HOST = HostConfig(stable_addresses=False, solicit_routers=False, dad_transmits=0, dad_initial_delay=0.0)
SERVER = address("2001:db8:1::80")
DEDICATED = address("2001:db8:2::")


class Inline(Link):
    """A link to a host that answers within the write, as the TCP of a kernel does behind a TAP; it echoes what it reads."""

    properties = LinkProperties(mtu=1500, mac=None)

    def __init__(self) -> None:
        self.host = Stack(self.properties, bytes(32), HOST)
        self.sent: list[bytes] = []
        self.lost = False
        self._waiting: deque[bytes] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: Callable[[], None] = lambda: None

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop, self._wake = loop, wake
        now = loop.time()
        self.host.start(now)
        self.host.host.prefix_list.add_static(DEDICATED, 64, autonomous=False, now=now)
        self.host.host.addresses.add(
            SERVER, AddressKind.STABLE, now, trigger=Trigger.ADD_WITHOUT_DAD, per_address_nd=False
        )
        self.host.tcp.listen(SocketOptions(mode=PortMode.AWARE), now, 80).listen_on_ordinary()

    def watch(self, changed: Callable[[bool], None]) -> None:
        """Its carrier never goes."""

    def receive(self) -> bytes | None:
        return self._waiting.popleft() if self._waiting else None

    def send(self, frame: Frame) -> bool:
        if self.lost:
            raise LinkLost("the device is gone")
        whole = b"".join(frame)
        self.sent.append(whole)
        self.answer(whole)
        return True

    def answer(self, frame: bytes | None = None) -> None:
        """Let the far host take a frame and its programs act; the owner is woken as by a selector, in a round of its own."""
        assert self._loop is not None
        now = self._loop.time()
        if frame is not None:
            self.host.input(frame, now)
        for pcb in self.host.tcp.demux:
            if isinstance(pcb, Connection) and pcb.receiver.queued:
                pcb.write(b"".join(pcb.read()))
        self._waiting += [b"".join(each) for each in self.host.output(now)]
        if self._waiting:
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        if self._waiting:
            self._wake()

    def close(self) -> None:
        self._waiting.clear()


@asynccontextmanager
async def inline(link: Inline | None = None) -> AsyncIterator[tuple[Node, Inline]]:
    """A node on a dedicated prefix, whose peer answers at once."""
    link = link or Inline()
    async with Node(link) as node:
        prefixes = node.stack.host.prefix_list
        prefixes.add_static(SERVER[:8] + bytes(8), 64, autonomous=False, now=node.now())
        prefixes.add_dedicated(DEDICATED, 64)
        node.pool.start(node.now())
        node.driver.kick()
        await asyncio.sleep(5)
        link.sent.clear()
        yield node, link


class Told(asyncio.Protocol):
    """Notes what it is told, and in which round of the loop."""

    def __init__(self, rounds: list[int]) -> None:
        self.rounds = rounds
        self.got: list[tuple[int, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.got.append((self.rounds[0], data))


@contextmanager
def counted() -> Iterator[list[int]]:
    """A number that grows with every round of the loop; time stands still meanwhile, since there is always a next one."""
    loop = asyncio.get_running_loop()
    rounds = [0]
    ended = False

    def again() -> None:
        if not ended:
            rounds[0] += 1
            loop.call_soon(again)

    again()
    try:
        yield rounds
    finally:
        ended = True


def text_of(frame: bytes) -> bytes:
    """The payload of a TCP segment."""
    return frame[40 + (frame[52] >> 4) * 4 :]


def test_a_connect_that_is_answered_within_the_write_waits_for_no_round_of_the_loop() -> None:
    async def main() -> None:
        async with inline() as (node, link):
            with counted() as rounds:
                before = rounds[0]
                transport, told = await node.create_connection(lambda: Told(rounds), "2001:db8:1::80", 80)
                assert rounds[0] == before and len(link.sent) == 1  # the SYN
                assert isinstance(told, Told)
                transport.write(b"request")
                while not told.got:
                    await asyncio.sleep(0)
            assert text_of(link.sent[1]) == b"request"  # it went with the acknowledgement of the SYN-ACK
            assert told.got == [(before + 2, b"request")]  # written in one round, answered in the next
            transport.abort()

    run_virtual(main())


def test_what_comes_for_others_while_a_connect_is_answered_is_told_in_the_next_round() -> None:
    async def main() -> None:
        async with inline() as (node, link):
            rounds = [0]
            first, told = await node.create_connection(lambda: Told(rounds), "2001:db8:1::80", 80)
            assert isinstance(told, Told)
            await asyncio.sleep(1)
            [pcb] = [pcb for pcb in link.host.tcp.demux if isinstance(pcb, Connection)]
            with counted() as told.rounds:
                before = told.rounds[0]
                pcb.write(b"news")
                link.answer()  # it waits on the link, before the SYN-ACK that comes next
                second, _ = await node.create_connection(lambda: Told(rounds), "2001:db8:1::80", 80)
                assert told.rounds[0] == before and not told.got
                while not told.got:
                    await asyncio.sleep(0)
            assert told.got == [(before + 1, b"news")]
            first.abort()
            second.abort()

    run_virtual(main())


class Closing(Told):
    """Closes when it has heard something."""

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.transport.close()


def test_what_is_answered_within_the_write_is_read_in_the_same_wake_up() -> None:
    async def main() -> None:
        async with inline() as (node, _):
            with counted() as rounds:
                transport, told = await node.create_connection(lambda: Closing(rounds), "2001:db8:1::80", 80)
                assert isinstance(told, Closing)
                transport.write(b"request")
                while not told.got:
                    await asyncio.sleep(0)
                assert transport.get_extra_info("connection").state is TcpState.FIN_WAIT_2  # its FIN is acknowledged

    run_virtual(main())


def test_a_connect_on_a_link_that_is_lost_in_the_write_fails() -> None:
    async def main() -> None:
        async with inline() as (node, link):
            link.lost = True
            with pytest.raises(ConnectError):
                await node.create_connection(asyncio.Protocol, "2001:db8:1::80", 80)
            with pytest.raises(LinkLost):
                await node.failed()

    run_virtual(main())


def test_a_timer_that_fails_stops_no_other() -> None:
    """What a policy or a generator of the user's raises, for one: the timers behind it are due all the same."""

    async def main() -> None:
        async with lan() as net:
            told = handled()
            node = await net.node()
            rung: list[str] = []

            def faulty(now: float) -> None:
                rung.append("faulty")
                raise KeyError("somebody's mistake")

            timers, now = node.stack.timers, node.now()
            for when, callback in ((1.0, faulty), (1.0, lambda now: rung.append("sound")), (30.0, faulty)):
                timers.timer(callback).set(now + when)
            timers.timer(lambda now: rung.append("late")).set(now + 40.0)
            node.driver.kick()
            await asyncio.sleep(2)
            assert rung == ["faulty", "sound"]
            await asyncio.sleep(100)
            assert rung == ["faulty", "sound", "faulty", "late"]
            assert [type(each["exception"]) for each in told] == [KeyError, KeyError]

    virtual(main())


def test_frames_are_handled_before_anybody_is_told_what_they_brought() -> None:
    """What a program does of its own accord, within a connect() or when it is told, is not about the frame before (ST-LINK-4)."""
    order: list[str] = []

    class Watched(Inline):
        def receive(self) -> bytes | None:
            frame = super().receive()
            if frame is not None:
                order.append("frame")
            return frame

        def handled(self) -> None:
            if order and order[-1] == "frame":
                order.append("handled")

    class Speaking(Told):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            order.append("connected")
            super().connection_made(transport)
            self.transport.write(b"x")

        def data_received(self, data: bytes) -> None:
            order.append("told")

    async def main() -> None:
        async with inline(Watched()) as (node, _):
            order.clear()
            await node.create_connection(lambda: Speaking([0]), IPv6Address(SERVER), 80)
            await asyncio.sleep(1)

    run_virtual(main())
    assert order[:3] == ["frame", "handled", "connected"]
    assert order[order.index("told") - 1] == "handled"
