"""The front end on real nodes, joined by a LAN in memory, in virtual time.

The clients of the front end come over one-time addresses too, so that nothing here needs a kernel, and the relay has
a userspace connection at either end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6

from compat.relay import EndReason
from compat.socks.client import SocksClient
from compat.socks.messages import Reply, pack_address
from compat.socks.node import NodeBinder
from compat.socks.services import Services
from compat.socks.session import Session
from compat.socks.settings import SocksLimits
from compat.socks.table import ClientTable
from tapstack.ipv6.addresses import AddressKind
from tapstack.types import Buffer, address
from tests.unit.unimux.lan import Lan, echo_server, lan, settle, virtual
from unimux.aio import open_connection
from unimux.journal import JournalPolicy, MemoryJournal, What
from unimux.node import Node

GREETING = b"\x05\x01\x00"


class Proxy:
    """A front end on one node, reached by an SSA of that node."""

    def __init__(self, net: Lan, node: Node, services: Services) -> None:
        self.net = net
        self.node = node
        self.services = services
        self._table = ClientTable(services.limits, services.counters)
        self._server = node.listen(lambda: SocksClient(services, self._table))

    async def connect(self, client: Node) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ssa = await self._server.issue()
        return await open_connection(client, str(ssa.address), 1080)

    async def ask(
        self, client: Node, host: str, port: int, command: int = 1
    ) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """Make a request; the reply, and the connection."""
        reader, writer = await self.connect(client)
        writer.write(GREETING + bytes([5, command, 0]) + pack_address(host, port))
        return (await reader.readexactly(24))[2:], reader, writer

    async def close(self) -> None:
        self._server.close()
        await self._table.close()


@asynccontextmanager
async def proxy(**limits: float) -> AsyncIterator[tuple[Proxy, Node]]:
    """A front end on one node; and another node."""
    async with lan() as net:
        near, far = await net.node(names={"far.test": ["2001:db8:1::dead"]}), await net.node()
        services = Services(
            dialler=near,
            binder=NodeBinder(near),
            datagrams=near.datagrams,
            limits=SocksLimits(**limits),  # type: ignore[arg-type]
        )
        made = Proxy(net, near, services)
        yield made, far
        await made.close()
        for node in (near, far):
            await settle(node)
            node.stack.check()


class Deaf(asyncio.Protocol):
    """Takes a connection and reads nothing."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.pause_reading()


def one_time(node: Node, kind: AddressKind) -> set[bytes]:
    return {entry.address for entry in node.stack.host.addresses if entry.kind is kind}


def test_connect_from_an_address_of_its_own_that_the_reply_names() -> None:
    async def main() -> None:
        async with proxy() as (front, far):
            ssa = await echo_server(far).issue()
            data = random.Random(3).randbytes(2_000_000)
            reply, reader, writer = await front.ask(far, str(ssa.address), 80)
            assert reply[:4] == b"\x05\x00\x00\x04"
            assert reply[4:20] in one_time(front.node, AddressKind.EPHEMERAL)

            async def send() -> None:
                for at in range(0, len(data), 65536):
                    writer.write(data[at : at + 65536])
                    await writer.drain()
                writer.write_eof()

            _, received = await asyncio.gather(send(), reader.read())
            assert received == data
            writer.close()
            await settle(front.node)
            counters = front.services.counters
            assert (counters.bytes_up, counters.bytes_down) == (len(data), len(data))
            assert counters.ended == {EndReason.COMPLETE: 1} and counters.active == 0

    virtual(main())


@pytest.mark.proves("UM-GEN-3", "UM-NODE-4", by="api")
def test_the_journal_names_the_front_end_and_the_user_of_connect_and_bind() -> None:
    async def main() -> None:
        async with proxy() as (front, far):
            journal = MemoryJournal(front.node.source, JournalPolicy(peers=True))
            journal.watch(front.node.events)
            ssa = await echo_server(far).issue()
            names = []
            for command, host in ((1, str(ssa.address)), (2, "2001:db8:1::99")):
                reader, writer = await front.connect(far)
                writer.write(b"\x05\x01\x02" + b"\x01\x05alice\x02pw")
                assert await reader.readexactly(4) == b"\x05\x02\x01\x00"
                writer.write(bytes([5, command, 0]) + pack_address(host, 80))
                reply = await reader.readexactly(22)
                assert reply[1] == 0
                names.append(reply[4:20])
                writer.transport.abort()  # after an orderly end BIND would go on waiting: it might be a half-close
            await settle(front.node)
            for name, kind in zip(names, ("ephemeral", "service"), strict=True):
                rows = journal.whois(name).rows
                assert rows[0].kind == kind
                assert {(row.front_end, row.who) for row in rows[1:]} == {("socks5", "alice")}
            connected = [row.peer for row in journal.whois(names[0]).rows if row.what is What.CONNECTED]
            assert connected == [str(ssa.address)]

    virtual(main())


@pytest.mark.parametrize("size", [0, 5, 200_000], ids=["nothing", "a word", "more than is taken early"])
def test_a_client_that_ends_its_stream_with_its_request_is_served(size: int) -> None:
    """Its end goes on behind its last byte, and the echo, which ends after it, comes back."""

    async def main() -> None:
        async with proxy() as (front, far):
            data = random.Random(size).randbytes(size)
            for _ in range(3):
                ssa = await echo_server(far).issue()
                reader, writer = await front.connect(far)
                writer.write(GREETING + b"\x05\x01\x00" + pack_address(str(ssa.address), 80) + data)
                writer.write_eof()
                answer = await reader.read()
                assert answer[:6] == b"\x05\x00\x05\x00\x00\x04" and answer[24:] == data
                writer.close()
                source = socket.inet_ntop(socket.AF_INET6, answer[6:22])
                sent = [p[TCP] for _, p in front.net.packets(TCP) if p[IPv6].src == source]
                assert any(segment.flags.F for segment in sent), "its end is passed on"
                assert not any(segment.flags.R for segment in sent)
            await settle(front.node)
            assert front.services.counters.ended == {EndReason.COMPLETE: 3}
            assert front.services.counters.gone_early == 0

    virtual(main())


def test_a_peer_that_never_reads_stops_the_sender() -> None:
    async def main() -> None:
        async with proxy() as (front, far):
            ssa = await far.listen(Deaf).issue()
            _, _, writer = await front.ask(far, str(ssa.address), 80)
            sent = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(60):
                    while sent < 400 << 20:
                        writer.write(bytes(1 << 20))
                        await writer.drain()
                        sent += 1 << 20
            assert sent < 50 << 20, "the buffers of two connections, not more"
            writer.transport.abort()
            async with asyncio.timeout(30):
                while front.services.counters.active:
                    await asyncio.sleep(0.1)
            assert front.services.counters.ended == {EndReason.NEAR_FAILED: 1}

    virtual(main())


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("2001:db8:1::dead", Reply.HOST_UNREACHABLE),
        ("far.test", Reply.HOST_UNREACHABLE),
        ("2001:db8:9::1", Reply.NETWORK_UNREACHABLE),
        ("nowhere.test", Reply.HOST_UNREACHABLE),
    ],
    ids=["no neighbour", "no neighbour by name", "no route", "no such name"],
)
def test_failures_of_a_node_get_their_code(host: str, code: Reply) -> None:
    async def main() -> None:
        async with proxy() as (front, far):
            reader, writer = await front.connect(far)
            writer.write(GREETING + b"\x05\x01\x00" + pack_address(host, 80))
            assert await reader.read() == b"\x05\x00\x05" + bytes([code, 0, 4]) + bytes(18)
            writer.close()

    virtual(main())


def test_sticky_sessions_share_an_address_and_others_do_not() -> None:
    async def main() -> None:
        async with proxy() as (front, far):
            server = echo_server(far)
            seen: dict[str, list[bytes]] = {}
            for user in ("a-session-1-ttl-5", "a-session-1-ttl-5", "b-session-1-ttl-5", "a"):
                ssa = await server.issue()
                reader, writer = await front.connect(far)
                name = user.encode()
                writer.write(b"\x05\x01\x02\x01" + bytes([len(name)]) + name + b"\0")
                writer.write(b"\x05\x01\x00" + pack_address(str(ssa.address), 80))
                reply = (await reader.readexactly(26))[4:]
                assert reply[1] == 0
                seen.setdefault(user, []).append(reply[4:20])
                writer.close()
            assert len(set(seen["a-session-1-ttl-5"])) == 1
            assert len({address for addresses in seen.values() for address in addresses}) == 3

    virtual(main())


def test_bind_yields_an_ssa_for_the_named_peer() -> None:
    async def main() -> None:
        async with proxy() as (front, far):
            reply, reader, writer = await front.ask(far, "::", 0, command=2)
            bound, port = socket.inet_ntop(socket.AF_INET6, reply[4:20]), struct.unpack("!H", reply[20:])[0]
            assert reply[4:20] in one_time(front.node, AddressKind.SERVICE)
            assert port == front.node.config.socket.reduced_port
            peer_reader, peer_writer = await open_connection(far, bound, port)
            second = await reader.readexactly(22)
            assert second[:4] == b"\x05\x00\x00\x04"
            assert second[4:20] == address(peer_writer.get_extra_info("sockname")[0])
            peer_writer.write(b"from the peer")
            assert await reader.readexactly(13) == b"from the peer"
            writer.write(b"from the client")
            assert await peer_reader.readexactly(15) == b"from the client"
            for each in (writer, peer_writer):
                each.close()

    virtual(main())


def test_bind_that_nobody_answers_gives_its_address_back() -> None:
    async def main() -> None:
        async with proxy(bind_timeout=20.0) as (front, far):
            _, reader, writer = await front.ask(far, "2001:db8:1::99", 0, command=2)
            assert one_time(front.node, AddressKind.SERVICE)
            assert (await reader.read())[1] == Reply.TTL_EXPIRED
            writer.close()
            await settle(front.node)

    virtual(main())


def test_udp_flows_have_addresses_of_their_own_and_give_them_back() -> None:
    async def main() -> None:
        async with proxy() as (front, far):
            entry = await far.take_address(AddressKind.EPHEMERAL, None, timeout=10)
            peer = far.stack.udp.open(entry, far.now(), local_port=5353)

            def answer(bits: int) -> None:
                while (datagram := peer.receive()) is not None:
                    peer.send(datagram.data.upper(), far.now(), datagram.remote, datagram.remote_port)
                far.driver.kick()

            peer.owner = answer
            inbox: asyncio.Queue[bytes] = asyncio.Queue()

            def receive(data: Buffer) -> None:
                inbox.put_nowait(bytes(data))

            host = socket.inet_ntop(socket.AF_INET6, entry.address)
            service = front.node.datagrams
            flows = [await service.open_flow(host, 5353, receive, session=None) for _ in range(2)]
            assert not one_time(front.node, AddressKind.EPHEMERAL), "nothing is drawn before the first datagram"
            for flow in flows:
                assert flow.peer == (host, 5353)
                flow.send(b"hello")
                assert await asyncio.wait_for(inbox.get(), 10) == b"HELLO"
            assert len(one_time(front.node, AddressKind.EPHEMERAL)) == 2
            flows[0].send(bytes(70_000))  # no datagram is that long: dropped, not raised
            session = Session("a", "1", 5.0)
            for _ in range(2):
                flows.append(await service.open_flow(host, 5353, receive, session=session))
                flows[-1].send(b"hello")
                assert await asyncio.wait_for(inbox.get(), 10) == b"HELLO"
            assert len(one_time(front.node, AddressKind.EPHEMERAL)) == 3, "a session's flows share one"
            for flow in flows:
                flow.close()
                flow.close()
                flow.send(b"too late")
            with pytest.raises(ValueError, match="unicast"):
                await service.open_flow("ff02::1", 53, receive, session=None)
            peer.close(far.now())

    virtual(main())
