"""A node: an own address for every connection, set before the SYN, released with the last PCB."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, IPv6

from tapstack.events import AddressChanged, ConnectionChanged, Event
from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode
from tapstack.tcp.states import TcpState
from tapstack.wire import ipv6
from tests.unit.unimux.lan import echo_server, lan, settle, virtual
from unimux import errors
from unimux.aio import open_connection, start_server
from unimux.node import Node
from unimux.poolstate import NoPrefix, PoolConfig, WhenEmpty
from unimux.transport import JOINED


async def exchange(node: Node, host: Any, data: bytes, **options: Any) -> tuple[bytes, str]:
    """Send, read everything back; returns it and the address it went from."""
    reader, writer = await open_connection(node, host, None, **options)
    writer.write(data)
    writer.write_eof()
    received = await reader.read()
    writer.close()
    return received, writer.get_extra_info("sockname")[0]


@pytest.mark.proves("UM-DAS-1", "UM-DAS-2", "UM-LIS-2", "UM-REL-1", by="api")
@pytest.mark.parametrize("mode", [PortMode.L0, PortMode.L1, PortMode.L2])
def test_a_connection_lives_and_leaves_nothing(mode: PortMode) -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            server = echo_server(bob, mode=mode)
            states = [server.state]
            ssa = await server.issue()
            states.append(server.state)
            data = bytes(range(256)) * 500
            received, source = await exchange(alice, ssa.address, data, mode=mode)
            assert received == data
            assert source.startswith("2001:db8:1:")
            states.append(server.state)
            assert states == [TcpState.LISTEN_O, TcpState.LISTEN, TcpState.LISTEN_O]
            await settle(alice)
            await settle(bob)
            for node in (alice, bob):
                node.stack.check()
                node.pool.check()
                assert len(node.stack.tcp.demux) == 0

    virtual(main())


@pytest.mark.proves("UM-NODE-3", "UM-DAS-4", "RFC8504-6.2", "RFC8504-6.4")
def test_parallel_sessions_each_have_their_own_pair() -> None:
    async def main() -> None:
        async with lan() as net:
            pool = PoolConfig(low=32, high=64)
            alice, bob = await net.node(pool=pool), await net.node(pool=pool)
            server = echo_server(bob)
            issued = [await server.issue() for _ in range(40)]
            results = await asyncio.gather(
                *(exchange(alice, ssa.address, b"%d" % n * 1000) for n, ssa in enumerate(issued))
            )
            assert [received for received, _ in results] == [b"%d" % n * 1000 for n in range(40)]
            assert len({source for _, source in results}) == 40
            assert len({ssa.address for ssa in issued}) == 40
            pairs = [(syn[IPv6].src, syn[IPv6].dst) for _, syn in net.syns()]
            assert len(pairs) == len({src for src, _ in pairs}) == len({dst for _, dst in pairs}) == 40

    virtual(main())


@pytest.mark.proves("UM-ADDR-1", "UM-DAS-1", "UM-DAS-2")
def test_the_address_is_set_before_the_syn_and_no_second_dad_is_made() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            seen: list[Event] = []
            alice.watch(seen.append)
            ssa = await echo_server(bob).issue()
            await alice.ready(1)
            _, source = await exchange(alice, ssa.address, b"x")
            mine = [e for e in seen if isinstance(e, AddressChanged) and e.address == source]
            assert [e.new for e in mine] == ["TENTATIVE", "UNCERTAIN", "PREFERRED"]
            syn = next(e for e in seen if isinstance(e, ConnectionChanged) and e.new == "SYN-SENT")
            assert seen.index(mine[2]) < seen.index(syn)
            assert mine[2].time == syn.time, "promotion takes no time"
            ((sent, first),) = net.syns()
            tested = [at for at, p in net.packets(ICMPv6ND_NS) if p[ICMPv6ND_NS].tgt == source and p[IPv6].src == "::"]
            told = [at for at, p in net.packets(ICMPv6ND_NA) if p[IPv6].src == source and p[IPv6].dst == "ff02::2"]
            assert first[IPv6].src == source
            assert (len(tested), len(told)) == (1, 1)
            assert tested[0] + 1.0 <= told[0] <= sent < told[0] + 0.01, "the SYN waits for the SSA's resolution alone"

    virtual(main())


@pytest.mark.proves("UM-DAS-4", by="api")
def test_a_sticky_session_shares_one_address_until_it_ends() -> None:
    @dataclass(frozen=True)
    class Session:
        name: str
        ttl: float | None = 5.0

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            server = echo_server(bob, mode=PortMode.L2)
            ssa = await server.issue(sessions=3)
            first, second = await asyncio.gather(
                *(exchange(alice, ssa.address, b"x", session=Session("s")) for _ in range(2))
            )
            assert first[1] == second[1]
            other = await exchange(alice, ssa.address, b"y", session=Session("t"))
            assert other[1] != first[1]
            began = alice.now()
            await settle(alice)
            assert 4 < alice.now() - began <= 6, "the session's time bounds it, not its connections"

    virtual(main())


@pytest.mark.proves("UM-POOL-3", "UM-POOL-5", by="api")
def test_an_empty_pool_waits_within_the_time_out_and_says_what_it_sustains() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(pool=PoolConfig(low=0, high=1, limit=1)), await net.node()
            server = echo_server(bob)
            one, two = await server.issue(), await server.issue()
            held_reader, held_writer = await open_connection(alice, one.address, None)
            with pytest.raises(errors.PoolExhausted, match="sustains"):
                await open_connection(alice, two.address, None, timeout=3.0)
            held_writer.write_eof()
            await held_reader.read()
            held_writer.close()
            received, _ = await exchange(alice, two.address, b"later", timeout=30)
            assert received == b"later"

    virtual(main())


@pytest.mark.proves("UM-POOL-3", by="api")
def test_a_pool_that_fails_at_once_does() -> None:
    async def main() -> None:
        async with lan() as net:
            pool = PoolConfig(low=0, high=1, limit=1, when_empty=WhenEmpty.FAIL)
            alice = await net.node(pool=pool)
            await alice.until(lambda: alice.stack.host.link_local is not None)
            await alice.until(lambda: bool(alice.stack.host.prefixes))
            began = alice.now()
            with pytest.raises(errors.PoolExhausted):
                await open_connection(alice, "2001:db8:1::99", 80)
            assert alice.now() == began

    virtual(main())


def test_without_a_prefix_the_error_says_so() -> None:
    async def main() -> None:
        async with lan() as net:
            alice = await net.node()
            host = alice.stack.host
            for prefix in host.prefixes:
                host.prefix_list.remove(prefix, alice.now())
            with pytest.raises(NoPrefix):
                await open_connection(alice, "2001:db8:1::99", 80, timeout=2)

    virtual(main())


@pytest.mark.proves("UM-REL-1", by="api")
@pytest.mark.parametrize("timeout", [0.3, 2.5, 20.0])
def test_a_connect_to_a_silent_host_ends_at_its_time_however_often_the_syn_went(timeout: float) -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            server = echo_server(bob)
            ssa = await server.issue()
            await alice.ready(1)
            bob.stack.host.upper[ipv6.TCP] = lambda packet, now: None
            began = alice.now()
            with pytest.raises(errors.ConnectTimeout, match=f"{timeout:g} s"):
                await open_connection(alice, ssa.address, 80, timeout=timeout)
            assert alice.now() - began == pytest.approx(timeout, abs=0.001)
            await settle(alice)

    virtual(main())


@pytest.mark.proves("UM-REL-1", by="api")
def test_a_connect_that_gets_no_answer_times_out_and_releases() -> None:
    async def main() -> None:
        async with lan() as net:
            alice = await net.node()
            await alice.ready(2)
            for timeout, error in ((0.5, errors.ConnectTimeout), (20.0, errors.HostUnreachable)):
                began = alice.now()
                with pytest.raises(error):
                    await open_connection(alice, "2001:db8:1::99", 80, timeout=timeout)
                assert alice.now() - began <= timeout + 1.1
                await settle(alice)

    virtual(main())


@pytest.mark.proves("UM-REL-1", by="api")
def test_a_cancelled_connect_releases_whatever_it_was_waiting_for() -> None:
    async def main() -> None:
        async with lan() as net:
            alice = await net.node(pool=PoolConfig(low=0, high=2, limit=2))
            for n, delay in enumerate((0.0, 0.3, 1.2, 2.0), 1):
                attempt = asyncio.ensure_future(open_connection(alice, f"2001:db8:1::{n}", 80))
                await asyncio.sleep(delay)
                attempt.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await attempt
                await settle(alice)
                alice.pool.check()
                assert alice.pool.waiting == 0

    virtual(main())


@pytest.mark.proves("UM-POOL-4", "RFC8504-6.2")
def test_a_dedicated_prefix_needs_no_dad_and_no_group() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node()
            alice = await net.node(dedicated="2001:db8:d::")
            await alice.ready()
            await alice.until(lambda: alice.stack.host.link_local is not None)
            bob.stack.host.routes.more_specific.clear()
            before = len(net.frames)
            entry = await alice.take_address(AddressKind.EPHEMERAL, None, timeout=1)
            alice.stack.host.addresses.release(entry, alice.now(), "test")
            await asyncio.sleep(5)
            about = [f for _, f in net.frames[before:] if entry.address in f or entry.address[13:] in f]
            assert about == []
            # The control: an address of the shared prefix is heard of.
            other = await bob.take_address(AddressKind.EPHEMERAL, None, timeout=5)
            bob.stack.host.addresses.release(other, bob.now(), "test")
            await asyncio.sleep(5)
            assert [f for _, f in net.frames[before:] if other.address in f]

    virtual(main())


def test_close_lets_written_data_arrive() -> None:
    async def main() -> None:
        async with lan(latency=0.05) as net:
            alice, bob = await net.node(), await net.node()
            got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

            async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                got.set_result(await reader.read())
                writer.close()

            ssa = await start_server(bob, sink).issue()
            _, writer = await open_connection(alice, ssa.address, None)
            writer.write(b"z" * 300_000)
            writer.close()
            await alice.close()
            assert await got == b"z" * 300_000

    virtual(main())


def test_back_pressure_stops_the_writer() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            release = asyncio.Event()

            async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await release.wait()
                total = 0
                while data := await reader.read(1 << 20):
                    total += len(data)
                writer.write(b"%d" % total)
                writer.close()

            ssa = await start_server(bob, slow).issue()
            reader, writer = await open_connection(alice, ssa.address, None)
            transport = writer.transport
            transport.set_write_buffer_limits(high=1 << 20)
            piece = bytes(1 << 18)
            written = 0
            blocked = False
            for _ in range(400):
                writer.write(piece)
                written += len(piece)
                try:
                    await asyncio.wait_for(writer.drain(), 5)
                except TimeoutError:
                    blocked = True
                    break
            assert blocked, "nobody reads, and the writer was never stopped"
            connection: Connection = writer.get_extra_info("connection")
            assert connection.sender.buffered < 4 << 20
            release.set()
            writer.write_eof()
            assert await reader.read() == b"%d" % written
            writer.close()

    virtual(main())


@pytest.mark.parametrize("ending", ["close", "abort", "peer-abort", "both-close"])
@pytest.mark.proves("UM-REL-1", by="api")
def test_every_ending_releases_both_addresses(ending: str) -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()

            async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                accepted.set_result(writer)
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.close()

            ssa = await start_server(bob, take).issue()
            reader, mine = await open_connection(alice, ssa.address, None)
            mine.write(b"x")
            theirs = await accepted
            if ending == "abort":
                mine.transport.abort()
            elif ending == "peer-abort":
                theirs.transport.abort()
            else:
                mine.close()
                if ending == "both-close":
                    theirs.close()
            await settle(alice)
            await settle(bob)
            with pytest.raises((ConnectionError, EOFError)):
                await reader.readexactly(10)

    virtual(main())


def test_segments_that_came_together_are_given_together() -> None:
    """In pieces of up to `JOINED` bytes, every byte once and in order, and the window opens as it would piece by piece."""
    text = bytes(range(256)) * 400

    class Noting(asyncio.Protocol):
        def __init__(self) -> None:
            self.pieces: list[bytes] = []

        def data_received(self, data: bytes) -> None:
            self.pieces.append(data)

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()

            async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                writer.write(text)
                writer.close()

            ssa = await start_server(bob, pour).issue()
            noting = Noting()
            transport, _ = await alice.create_connection(lambda: noting, ssa.address, None)
            await asyncio.sleep(5)
            assert b"".join(noting.pieces) == text
            assert all(type(piece) is bytes and len(piece) <= JOINED for piece in noting.pieces)
            assert len(noting.pieces) < len(text) / 1440 / 2  # half as many as segments, at most
            transport.close()

    virtual(main())


async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Sends much at once and closes."""
    writer.write(bytes(100_000))
    writer.close()


def test_a_protocol_that_pauses_gets_no_more_until_it_resumes() -> None:
    class Sipping(asyncio.Protocol):
        """Takes one piece at a time."""

        transport: asyncio.Transport
        pieces = 0
        received = 0

        def data_received(self, data: bytes) -> None:
            self.pieces += 1
            self.received += len(data)
            self.transport.pause_reading()

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()

            ssa = await start_server(bob, pour).issue()
            protocol = Sipping()
            transport, _ = await alice.create_connection(lambda: protocol, ssa.address, None)
            protocol.transport = transport
            await asyncio.sleep(5)
            assert protocol.pieces == 1
            connection: Connection = transport.get_extra_info("connection")
            assert connection.receiver.queued == 100_000 - protocol.received
            connection.receiver.check()
            while protocol.received < 100_000:
                before = protocol.pieces
                transport.resume_reading()
                await asyncio.sleep(0.1)
                assert protocol.pieces == before + 1
            transport.close()

    virtual(main())


@pytest.mark.parametrize("reset", [False, True], ids=["in order", "reset"])
def test_a_protocol_that_pauses_has_everything_when_the_connection_is_over(reset: bool) -> None:
    """Nothing can be read from it later; the end of the stream comes before the end of the connection, as ever."""

    class Sipping(asyncio.Protocol):
        def __init__(self) -> None:
            self.news: list[str] = []
            self.received = 0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, asyncio.Transport)
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            self.received += len(data)
            self.transport.pause_reading()

        def eof_received(self) -> bool:
            self.news.append("end of stream")
            return True

        def connection_lost(self, exc: Exception | None) -> None:
            self.news.append(f"lost: {type(exc).__name__}")

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()

            ssa = await start_server(bob, pour).issue()
            protocol = Sipping()
            transport, _ = await alice.create_connection(lambda: protocol, ssa.address, None)
            await asyncio.sleep(5)
            assert 0 < protocol.received < 50_000
            if reset:
                transport.write(b"to a server that has closed")
            else:
                transport.write_eof()
            await settle(alice)
            assert protocol.received == 100_000
            assert protocol.news == ["end of stream", "lost: ConnectionResetError" if reset else "lost: NoneType"]

    virtual(main())
