"""The gateway of `unimux run` in virtual time: a kernel's stack behind it, a LAN with another node before it."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import math
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.message
import dns.rcode
import dns.rrset
import pytest

from compat.gateway import calls, datagrams, standins
from compat.gateway.gateway import Gateway
from compat.gateway.inside import Inside
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressEntry, AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.link.memory import MemoryWire
from tapstack.signals import Signal
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.tcp.states import TcpTrigger
from tapstack.types import address
from tapstack.udp.flow import UdpFlow
from tapstack.wire import icmpv6, ipv6, tcp
from tests.unit.unimux.lan import Lan, lan, virtual
from unimux.datagram import IDLE
from unimux.node import Node
from unimux.transport import SessionTransport

KERNEL = SocketOptions(mode=PortMode.AWARE, time_wait=TimeWait.SHORT)
HOST = HostConfig(stable_addresses=False, solicit_routers=False, dad_transmits=0)


class Collector(asyncio.Protocol):
    """Keeps what comes; sends it all back at the end if it is to."""

    def __init__(self, echo: bool = False) -> None:
        self.data = b""
        self.echo = echo
        self.ended = asyncio.Event()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        if self.echo:
            assert self.transport is not None
            self.transport.write(self.data)
            self.transport.close()
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self.ended.set()


@dataclass
class Place:
    """The program's kernel, the gateway, its node, and a peer on the node's LAN."""

    net: Lan
    kernel: Stack
    driver: Driver
    entry: AddressEntry
    gateway: Gateway
    node: Node
    peer: Node
    complaints: list[str]
    sent: list[tuple[float, bytes]] = field(default_factory=list)

    def connect(self, where: str, port: int, local_port: int | None = None) -> Connection:
        """The program's connect: its SYN leaves."""
        made = self.kernel.tcp.connect(self.entry, address(where), port, self.driver.now(), KERNEL, local_port)
        self.driver.kick()
        return made

    async def outcome(self, connection: Connection, timeout: float = 200.0) -> int:
        """What becomes of it."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        connection.owner = lambda bits: None if future.done() else future.set_result(bits)
        async with asyncio.timeout(timeout):
            return await future

    def begin(self, connection: Connection) -> Collector:
        """Go on with an established connection."""
        made = Collector()
        SessionTransport(self.driver, connection).start(made)
        return made

    def flow(self, where: str, port: int) -> UdpFlow:
        """A connected datagram socket of the program."""
        return self.kernel.udp.open(self.entry, self.driver.now(), address(where), port)

    def synacks(self) -> list[float]:
        """When the program's kernel was sent a SYN-ACK."""
        found = []
        for when, frame in self.sent:
            is_tcp = frame[6] == ipv6.TCP and frame[24:40] == self.entry.address
            if is_tcp and frame[53] & (tcp.SYN | tcp.ACK) == tcp.SYN | tcp.ACK:
                found.append(when)
        return found


@asynccontextmanager
async def place(latency: float = 0.05) -> AsyncIterator[Place]:
    async with lan(latency=latency) as net:
        node, peer = await net.node(), await net.node()
        await node.ready(4, 30)
        await peer.ready(4, 30)
        wire = MemoryWire(latency=0.0001)
        inside = Inside.fresh()
        complaints: list[str] = []
        kernel = Stack(wire.a.properties, bytes(32), HOST)
        driver = Driver(kernel, wire.a)
        driver.start()
        entry = kernel.host.addresses.add(
            inside.program.packed,
            AddressKind.STABLE,
            driver.now(),
            trigger=Trigger.ADD_WITHOUT_DAD,
            per_address_nd=False,
        )
        async with Gateway(node, wire.b, inside, complain=complaints.append) as gateway:
            made = Place(net, kernel, driver, entry, gateway, node, peer, complaints)
            wire.observe(lambda when, port, frame: made.sent.append((when, bytes(frame))))
            yield made
        driver.close()
        addresses = gateway.stack.host.addresses
        assert all(
            not entry.kind.one_time or isinstance(user, standins._Held) for entry in addresses for user in entry.users
        )


def test_a_syn_is_answered_after_the_nodes_own_connect_and_both_streams_pass() -> None:
    async def main() -> None:
        async with place() as here:
            peers: list[Collector] = []

            def factory() -> Collector:
                peers.append(Collector(echo=True))
                return peers[-1]

            server = here.peer.listen(factory, mode=PortMode.L2)
            ssa = await server.issue(sessions=2)
            began = here.driver.now()
            for number in range(2):
                connection = here.connect(str(ssa.address), 8080 + number)
                assert await here.outcome(connection) & Signal.ESTABLISHED
                assert here.synacks()[-1] - began >= 2 * 0.05, "one round trip of the LAN has passed before"
                assert connection.entry is here.entry
                mine = here.begin(connection)
                assert mine.transport is not None
                mine.transport.write(bytes(100_000) + b"end")
                mine.transport.write_eof()
                await asyncio.wait_for(mine.ended.wait(), 20)
                assert mine.data == bytes(100_000) + b"end"
            assert peers[0].transport is not None and peers[1].transport is not None
            names = [each.transport.get_extra_info("peername") for each in peers if each.transport]
            assert names[0][0] != names[1][0], "each connection from an address of its own"
            assert (here.gateway.calls.waiting, here.gateway.calls.doors) == (0, 0)

    virtual(main())


@pytest.mark.proves("UM-NODE-2", by="api")
def test_a_refusal_is_a_refusal_and_silence_is_silence() -> None:
    async def main() -> None:
        async with place() as here:
            here.peer.stack.host.addresses.add(
                address("2001:db8:1::5"), AddressKind.STABLE, here.peer.now(), trigger=Trigger.ADD_WITHOUT_DAD
            )
            connection = here.connect("2001:db8:1::5", 81)
            assert await here.outcome(connection) & Signal.CLOSED
            assert isinstance(connection.error, ConnectionRefusedError)
            gone = here.connect("2001:db8:99::1", 80)
            assert await here.outcome(gone) & Signal.CLOSED
            assert isinstance(gone.error, OSError) and gone.error.errno == 101, "there is no router: ENETUNREACH"

    virtual(main())


@pytest.mark.proves("UM-NODE-2", by="api")
def test_the_attempt_ends_with_the_programs_interest() -> None:
    """A destination that says nothing: the node tries as long as SYNs of the program come, and not much longer."""

    async def main() -> None:
        async with place() as here:
            ssa = await here.peer.listen(Collector).issue(client="2001:db8:5::/48")  # silent to our node
            connection = here.connect(str(ssa.address), 80)
            await asyncio.sleep(20)
            assert here.gateway.calls.waiting == 1, "its kernel goes on to ask"
            connection.abort(here.driver.now())
            await asyncio.sleep(60)
            assert here.gateway.calls.waiting == 0
            assert here.synacks() == []
            assert not here.complaints

    virtual(main())


def test_a_program_that_leaves_before_the_answer_costs_nothing_that_stays() -> None:
    async def main() -> None:
        async with place() as here:
            peers: list[Collector] = []

            def factory() -> Collector:
                peers.append(Collector())
                return peers[-1]

            ssa = await here.peer.listen(factory).issue()
            connection = here.connect(str(ssa.address), 80)
            await asyncio.sleep(0.01)
            connection.owner = None
            connection.delete(
                TcpTrigger.DELETE, here.driver.now(), "the socket is closed"
            )  # as a kernel does: in silence
            here.driver.kick()
            await asyncio.sleep(calls.HANDSHAKE_TIMEOUT + 5)
            assert (here.gateway.calls.waiting, here.gateway.calls.doors, len(here.gateway.calls.relays)) == (0, 0, 0)
            assert peers[0].ended.is_set(), "the peer hears that nobody is there"

    virtual(main())


@pytest.mark.proves("UM-NODE-2", by="api")
def test_a_visitor_appears_under_its_own_address_and_port() -> None:
    async def main() -> None:
        async with place() as here:
            listener = here.kernel.tcp.listen(KERNEL, here.driver.now(), 8080)
            listener.arm(here.entry, here.driver.now(), sessions=None)
            visitor = address("2001:db8:77::7"), 4711
            seen = []
            for _ in range(2):
                await here.gateway.visits.connect(Collector, visitor, 8080, timeout=5)
                await asyncio.sleep(0.01)  # the last acknowledgement of the handshake is on its way
                accepted = listener.accept()
                assert accepted is not None and accepted.remote == visitor[0]
                seen.append(accepted.remote_port)
            assert seen[0] == 4711
            assert seen[1] != 4711, "the pair was taken: another port, the same address"
            with pytest.raises(ConnectionRefusedError):
                await here.gateway.visits.connect(Collector, visitor, 8081, timeout=5)

    virtual(main())


def test_datagrams_are_flows_that_end_when_they_are_idle() -> None:
    async def main() -> None:
        async with place() as here:
            heard: list[tuple[bytes, int]] = []
            stable = here.peer.stack.host.addresses.add(
                address("2001:db8:1::5"), AddressKind.STABLE, here.peer.now(), trigger=Trigger.ADD_WITHOUT_DAD
            )
            server = here.peer.stack.udp.open(stable, here.peer.now(), local_port=7)

            def answer(bits: int) -> None:
                while (datagram := server.receive()) is not None:
                    heard.append((datagram.remote, datagram.remote_port))
                    server.send(datagram.data.upper(), here.peer.now(), datagram.remote, datagram.remote_port)
                here.peer.driver.kick()

            server.owner = answer
            first, second = here.flow("2001:db8:1::5", 7), here.flow("2001:db8:1::5", 7)
            for flow, word in ((first, b"one"), (second, b"two"), (first, b"x" * 4000)):
                flow.send(word, here.driver.now())
                here.driver.kick()
                await asyncio.sleep(3)
                got = flow.receive()
                assert got is not None and got.data == word.upper()
            assert heard[0] == heard[2], "a flow keeps its address"
            assert heard[0][0] != heard[1][0], "and each socket has its own"
            nobody = here.flow("2001:db8:1::5", 8)
            nobody.send(b"?", here.driver.now())
            here.driver.kick()
            await asyncio.sleep(1)
            assert [(error.type, error.code) for error in nobody.take_errors()] == [(1, 4)], "port unreachable"
            assert len(here.gateway.datagrams) == 3
            await asyncio.sleep(IDLE + 5)
            assert len(here.gateway.datagrams) == 0

    virtual(main())


@pytest.mark.proves("UM-DAS-6", by="api")
def test_datagram_flows_and_stand_ins_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "LIMIT", 8)
    monkeypatch.setattr(standins, "LIMIT", 16)

    async def main() -> None:
        async with place() as here:
            made = weakref.WeakSet[object]()
            for number in range(64):
                here.flow(f"2001:db8:1::{number:x}:1", 9).send(b"x", here.driver.now())
                here.driver.kick()
                await asyncio.sleep(0.001)
                made.update(here.gateway.datagrams._flows.values())
            assert len(here.gateway.datagrams) <= 8
            gc.collect()
            assert len(made) <= 8, "nothing keeps one that had to end"
            assert len(here.gateway.stack.host.addresses) <= 16
            await asyncio.sleep(standins.LINGER + IDLE + 5)
            kinds = [entry.kind.one_time for entry in here.gateway.stack.host.addresses]
            assert kinds == [False], "only the resolver's address is left"

    virtual(main())


@pytest.mark.proves("UM-NODE-2", by="api")
def test_ping_is_refused_in_words() -> None:
    """An echo request to anywhere is answered by Destination Unreachable, prohibited, never by an echo reply."""

    async def main() -> None:
        async with place() as here:
            there = address("2001:db8:99::1")
            echo = icmpv6.pack(here.entry.address, there, icmpv6.Type.ECHO_REQUEST, 0, bytes(8))
            here.kernel.host.send(here.entry.address, there, ipv6.ICMPV6, [echo], here.driver.now())
            here.driver.kick()
            await asyncio.sleep(1)
            answers = [frame[40:42] for _, frame in here.sent if frame[6] == ipv6.ICMPV6 and frame[8:24] == there]
            assert answers == [bytes([icmpv6.Type.DESTINATION_UNREACHABLE, icmpv6.UnreachableCode.PROHIBITED])]

    virtual(main())


RECORDS = {
    ("both.example.", "AAAA"): ["2001:db8::7"],
    ("both.example.", "A"): ["192.0.2.7"],
    ("old.example.", "A"): ["198.51.100.7"],
    ("text.example.", "TXT"): ['"a word"'],
}


def test_names_are_asked_by_the_node_and_there_is_no_ipv4_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    async def exchange(server: bytes, payload: bytes, timeout: float, **_: object) -> bytes:
        if server == address("2001:db8:1::54"):
            raise TimeoutError
        query = dns.message.from_wire(payload)
        response = dns.message.make_response(query)
        (question,) = query.question
        asked.append(query.id)
        if not any(name == str(question.name) for name, _ in RECORDS):
            response.set_rcode(dns.rcode.NXDOMAIN)
        elif (records := RECORDS.get((str(question.name), question.rdtype.name))) is not None:
            response.answer = [dns.rrset.from_text(question.name, 60, "IN", question.rdtype, *records)]
        return response.to_wire()

    async def ask(here: Place, name: str, kind: str) -> tuple[str, list[str]]:
        query = dns.message.make_query(name, kind)
        flow = here.flow(str(here.gateway.inside.resolver), 53)
        flow.send(query.to_wire(), here.driver.now())
        here.driver.kick()
        await asyncio.sleep(15)
        got = flow.receive()
        assert got is not None
        response = dns.message.from_wire(got.data)
        assert query.is_response(response)
        assert response.id not in asked[-1:], "the question goes on under another id"
        return dns.rcode.to_text(response.rcode()), [item.to_text() for rrset in response.answer for item in rrset]

    asked: list[int] = []

    async def main() -> None:
        async with place() as here:
            here.node.config = type(here.node.config)(
                name_servers=("2001:db8:1::54", "2001:db8:1::53"), nat64="2001:db8:64::/96"
            )
            monkeypatch.setattr(here.node.datagrams, "exchange", exchange)
            assert await ask(here, "both.example", "AAAA") == ("NOERROR", ["2001:db8::7"])
            assert await ask(here, "both.example", "A") == ("NOERROR", [])
            assert await ask(here, "old.example", "AAAA") == (
                "NOERROR",
                [str(ipaddress.IPv6Address("2001:db8:64::c633:6407"))],
            )
            assert await ask(here, "text.example", "TXT") == ("NOERROR", ['"a word"'])
            assert await ask(here, "nowhere.example", "AAAA") == ("NXDOMAIN", [])
            here.node.config = type(here.node.config)(name_servers=("2001:db8:1::54",))
            assert await ask(here, "both.example", "AAAA") == ("SERVFAIL", [])
            names = here.gateway.names
            assert await names.answer(b"garbage", stream=False) is None
            here.node.config = type(here.node.config)()  # and no router has named a server yet
            servers = here.node.stack.host.routers.rdnss
            asyncio.get_running_loop().call_later(8, servers.update, {address("2001:db8:1::53"): math.inf})
            assert await ask(here, "both.example", "AAAA") == ("NOERROR", ["2001:db8::7"])

    virtual(main())
