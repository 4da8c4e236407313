"""UDP flows: an EA per flow, drawn at the first datagram, released on close or when idle (UM-DAS-6)."""

from __future__ import annotations

import asyncio
import errno
import gc
import weakref
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from compat.socks.services import DatagramService, Flow
from tapstack.tcp.errors import from_icmp
from tapstack.types import address
from tapstack.udp.flow import UdpFlow
from tests.unit.unimux.lan import eventually, in_use, virtual
from unimux import errors
from unimux.datagram import FLOWS, WAITING, DatagramSocket
from unimux.node import Node
from unimux.poolstate import PoolConfig

from .bed import Bed, bed

POOL = PoolConfig(low=16, high=32, pace=0.001)


class Peer:
    """An ordinary host's UDP socket: answers in capitals, unless it is told to be silent.

    `heard` is what was on the wire for it, as (data, source, port).
    """

    def __init__(self, made: Bed, node: Node, port: int = 53) -> None:
        self.node = node
        self.text = made.ordinary(node)
        self.address = address(self.text)
        entry = node.stack.host.addresses.get(self.address)
        assert entry is not None
        self.port = port
        self.silent = False
        self.heard: list[tuple[bytes, str, int]] = []
        self.flow: UdpFlow = node.stack.udp.open(entry, node.now(), None, None, port)
        self.flow.owner = self._on_signals
        made.switch.observe(self._see)

    def _see(self, when: float, where: int, frame: bytes) -> None:
        packet = Ether(frame)
        if UDP in packet and (packet[IPv6].dst, packet[UDP].dport) == (self.text, self.port):
            self.heard.append((bytes(packet[UDP].payload), packet[IPv6].src, packet[UDP].sport))

    def _on_signals(self, bits: int) -> None:
        while (datagram := self.flow.receive()) is not None:
            if not self.silent:
                self.flow.send(datagram.data.upper(), self.node.now(), datagram.remote, datagram.remote_port)
        self.node.driver.kick()


class Collector(asyncio.DatagramProtocol):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.received: list[tuple[bytes, Any]] = []
        self.errors: list[Exception] = []
        self.lost = False

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.append((data, addr))

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


async def open_socket(
    node: Node, host: str | None = None, port: int | None = None, **options: Any
) -> tuple[DatagramSocket, Collector]:
    transport, protocol = await node.create_datagram_endpoint(Collector, host, port, **options)
    assert isinstance(protocol, Collector)
    return transport, protocol


@pytest.mark.proves("UM-DAS-6")
@pytest.mark.parametrize("dedicated", [True, False], ids=["dedicated", "on-link"])
def test_the_address_is_drawn_at_the_first_datagram_and_ends_with_the_flow(dedicated: bool, rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, dedicated=dedicated, pool=POOL) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            sock, told = await open_socket(alice, peer.text, 53)
            assert sock.get_extra_info("peername")[:2] == (peer.text, 53)
            await asyncio.sleep(5)
            assert in_use(alice) == [], "a connect() that sends nothing burns no address"
            assert peer.heard == []
            sock.sendto(b"hello")
            sock.sendto(b"again")
            await eventually(lambda: len(told.received) == 2)
            assert [data for data, _ in told.received] == [b"HELLO", b"AGAIN"]
            assert told.received[0][1][:2] == (peer.text, 53)
            sources = {(source, port) for _, source, port in peer.heard}
            assert len(sources) == 1
            (entry,) = in_use(alice)
            assert str(sources.pop()[0]) == sock.flows[0].local[0]  # type: ignore[index]
            assert entry.kind.value == "ephemeral"
            sock.close()
            await asyncio.sleep(0.1)
            assert in_use(alice) == []
            assert told.lost
            assert len(alice.stack.udp) == 0

    virtual(main())


@pytest.mark.proves("UM-DAS-6", "UM-GEN-7")
def test_every_flow_has_an_address_and_a_port_of_its_own(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peers = [Peer(made, bob, port) for port in range(1000, 1040)]
            sock, told = await open_socket(alice)
            for peer in peers:
                sock.sendto(b"to %d" % peer.port, (peer.text, peer.port))
                await asyncio.sleep(0.001)  # few wait for the router's address resolution
            await eventually(lambda: len(told.received) == 40)
            assert {addr[1]: data for data, addr in told.received} == {p.port: b"TO %d" % p.port for p in peers}
            assert len({peer.heard[0][1] for peer in peers}) == 40, "an address for each remote endpoint"
            assert len({peer.heard[0][2] for peer in peers}) > 30, "the ports say nothing"
            for peer in peers:
                sock.sendto(b"more", (peer.text, peer.port))
            await eventually(lambda: len(told.received) == 80)
            assert all(len({source for _, source, _ in peer.heard}) == 1 for peer in peers), "a flow keeps its address"
            with pytest.raises(ValueError, match="name one"):
                sock.sendto(b"to nobody")
            sock.close()
            await made.quiet()

    virtual(main())


@pytest.mark.proves("UM-DAS-6")
@pytest.mark.parametrize("who", ["sends", "hears"])
def test_a_flow_is_not_idle_while_either_side_speaks(who: str, rng: Random) -> None:
    """A stream that only comes in, as of a camera or a name server's notices, keeps its address."""

    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            peer.silent = True
            sock, told = await open_socket(alice, peer.text, 53, idle=10)
            sock.sendto(b"begin")
            await eventually(lambda: len(peer.heard) == 1)
            _, source, port = peer.heard[0]
            for n in range(6):
                await asyncio.sleep(7)
                if who == "sends":
                    sock.sendto(b"%d" % n)
                else:
                    peer.flow.send(b"%d" % n, bob.now(), address(source), port)
                    bob.driver.kick()
            await asyncio.sleep(7)
            assert [entry.address for entry in in_use(alice)] == [address(source)]
            if who == "hears":
                assert [data for data, _ in told.received] == [b"%d" % n for n in range(6)]
                assert len(peer.heard) == 1
            sock.sendto(b"end")
            await eventually(lambda: peer.heard[-1][0] == b"end")
            assert {each[1:] for each in peer.heard} == {(source, port)}, "the flow has kept its address and its port"
            await asyncio.sleep(11)
            assert in_use(alice) == [], "and gives it back when neither speaks"
            sock.close()
            await made.quiet()

    virtual(main())


@pytest.mark.proves("UM-DAS-6", "UM-ADDR-9")
def test_an_idle_flow_gives_its_address_back_and_wakes_with_another(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            sock, told = await open_socket(alice, peer.text, 53, idle=30.0)
            for n in range(5):
                sock.sendto(b"tick %d" % n)
                await asyncio.sleep(20)
                assert len(in_use(alice)) == 1, "a flow in use stays awake"
            await asyncio.sleep(31)
            assert in_use(alice) == []
            sock.sendto(b"tock")
            await eventually(lambda: len(told.received) == 6)
            first, last = peer.heard[0][1], peer.heard[-1][1]
            assert {source for _, source, _ in peer.heard[:5]} == {first}
            assert last != first
            before = len(told.received)
            bob_flow = peer.flow
            frames: list[bytes] = []
            made.switch.observe(lambda when, where, frame: frames.append(bytes(frame)))
            bob_flow.send(b"late", bob.now(), address(first), peer.heard[0][2])
            bob.driver.kick()
            await asyncio.sleep(1)
            assert len(told.received) == before, "what comes for the old address reaches nobody"
            assert [f for f in frames if f[38:54] == address(first)], "it was seen arriving"
            assert [f for f in frames if f[22:38] == address(first)] == [], "the old address said something"
            sock.sendto(b"alive")
            await eventually(lambda: len(told.received) == before + 1)
            assert [f for f in frames if f[22:38] == address(last)]
            sock.close()
            await made.quiet()

    virtual(main())


def test_nothing_keeps_a_flow_that_was_closed(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            sock, told = await open_socket(alice, peer.text, 53, idle=86400.0)
            sock.sendto(b"x")
            await eventually(lambda: len(told.received) == 1)
            flow = weakref.ref(sock.flows[0])
            sock.close()
            await made.quiet()
            gc.collect()
            assert flow() is None

    virtual(main())


@pytest.mark.proves("UM-DAS-6", "UM-POOL-3", by="api")
def test_without_an_address_datagrams_wait_a_little_and_the_socket_is_told(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, dedicated=False, pool=PoolConfig(low=0, high=1, limit=1)) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            one, told_one = await open_socket(alice, peer.text, 53)
            one.sendto(b"first")
            await eventually(lambda: len(told_one.received) == 1)
            two, told_two = await open_socket(alice, peer.text, 53)
            for _ in range(WAITING + 5):
                two.sendto(b"x")
            assert two.flows[0].dropped == 5
            await eventually(lambda: bool(told_two.errors), 15)
            assert isinstance(told_two.errors[0], errors.PoolExhausted)
            assert two.flows[0].dropped == WAITING + 5
            one.close()
            two.sendto(b"second")
            await eventually(lambda: told_two.received == [(b"SECOND", (peer.text, 53, 0, 0))], 15)
            two.close()
            await made.quiet()
            alice.pool.check()

    virtual(main())


@pytest.mark.proves("UM-DAS-6", "UM-REL-1", by="api")
def test_closing_at_any_moment_leaves_nothing(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, dedicated=False, pool=PoolConfig(low=0, high=4, limit=8, pace=0.01)) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            for _ in range(60):
                sock, _ = await open_socket(alice, peer.text, 53)
                sock.sendto(b"x")
                await asyncio.sleep(rng.choice((0.0, 0.001, 0.5, 1.0, rng.uniform(0, 2))))
                sock.close()
                sock.close()
                sock.sendto(b"after the end")
            await made.quiet()
            await asyncio.sleep(5)
            assert len(alice.stack.udp) == 0
            assert {what: n for what, n in made.left(alice).items() if n} == {}
            alice.pool.check()

    virtual(main())


@pytest.mark.proves("UM-EA-1", "UM-DAS-6")
def test_a_flow_hears_its_peer_only(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peer, stranger = Peer(made, bob), Peer(made, bob, 99)
            sock, told = await open_socket(alice, peer.text, 53)
            sock.sendto(b"x")
            await eventually(lambda: len(told.received) == 1)
            _, source, port = peer.heard[0]
            frames: list[bytes] = []
            made.switch.observe(lambda when, where, frame: frames.append(bytes(frame)))
            other = await bob.take_address(in_use(alice)[0].kind, None, timeout=5)
            elsewhere = bob.stack.udp.open(other, bob.now(), address(source), port)
            elsewhere.send(b"from another address", bob.now())
            stranger.flow.send(b"from another port", bob.now(), address(source), port)
            peer.flow.send(b"to another port", bob.now(), address(source), port ^ 1)
            bob.driver.kick()
            await asyncio.sleep(1)
            assert len(told.received) == 1
            assert len([f for f in frames if f[38:54] == address(source)]) >= 3, "they were seen arriving"
            assert [f for f in frames if f[22:38] == address(source)] == [], "the EA said something"
            sock.sendto(b"alive")
            await eventually(lambda: len(told.received) == 2)
            sock.close()
            elsewhere.close(bob.now())
            await made.quiet()

    virtual(main())


@pytest.mark.proves("UM-PORT-9", "UM-DAS-6", by="api")
def test_an_icmp_error_reaches_the_flow_that_it_is_about(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            good, told_good = await open_socket(alice, peer.text, 53)
            bad, told_bad = await open_socket(alice, peer.text, 54)
            good.sendto(b"x")
            bad.sendto(b"nobody listens there")
            await eventually(lambda: bool(told_bad.errors) and bool(told_good.received))
            assert isinstance(told_bad.errors[0], ConnectionRefusedError)
            assert told_good.errors == []
            assert len(in_use(alice)) == 2, "an error ends no flow"
            good.close()
            bad.close()
            await made.quiet()

    virtual(main())


@pytest.mark.proves("UM-DAS-4")
def test_flows_of_a_sticky_session_share_its_address(rng: Random) -> None:
    @dataclass(frozen=True)
    class Session:
        name: str
        ttl: float | None = 10.0

    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peers = [Peer(made, bob, port) for port in (53, 54)]
            sock, told = await open_socket(alice, session=Session("one"))
            for peer in peers:
                sock.sendto(b"x", (peer.text, peer.port))
            await eventually(lambda: len(told.received) == 2)
            assert peers[0].heard[0][1] == peers[1].heard[0][1]
            sock.close()
            await asyncio.sleep(1)
            assert len(in_use(alice)) == 1, "the session holds it"
            await asyncio.sleep(10)
            assert in_use(alice) == []

    virtual(main())


@pytest.mark.proves("UM-ADDR-11", "UM-DAS-6")
def test_when_the_address_goes_the_next_datagram_draws_another(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            sock, told = await open_socket(alice, peer.text, 53)
            sock.sendto(b"x")
            await eventually(lambda: len(told.received) == 1)
            alice.stack.host.addresses.expire(in_use(alice)[0], alice.now(), "valid lifetime over")
            alice.driver.kick()
            await asyncio.sleep(0.1)
            assert sock.flows[0].local is None
            sock.sendto(b"y")
            await eventually(lambda: len(told.received) == 2)
            assert peer.heard[0][1] != peer.heard[1][1]
            sock.close()
            await made.quiet()

    virtual(main())


def test_a_socket_that_talks_to_everybody_stays_bounded(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            Peer(made, bob)
            target = made.ordinary(bob)
            sock, _ = await open_socket(alice)
            for port in range(2000, 2000 + FLOWS + 50):
                sock.sendto(b"x", (target, port))
                await asyncio.sleep(0.01)
            assert len(sock.flows) == FLOWS
            assert len(in_use(alice)) <= FLOWS
            assert sock.flows[0].port == 2050, "the one used least recently goes first"
            sock.close()
            await made.quiet()

    virtual(main())


# -- exchange --------------------------------------------------------------------------------------------


@pytest.mark.proves("UM-DAS-6")
def test_an_exchange_is_one_question_from_an_address_of_its_own(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            asked = [alice.datagrams.exchange(peer.address, b"q%d" % n, 5.0) for n in range(20)]
            assert await asyncio.gather(*asked) == [b"Q%d" % n for n in range(20)]
            assert len({source for _, source, _ in peer.heard}) == 20
            await asyncio.sleep(0.1)
            assert in_use(alice) == []
            peer.silent = True
            began = alice.now()
            with pytest.raises(TimeoutError):
                await alice.datagrams.exchange(peer.address, b"q", 2.0)
            assert alice.now() - began == pytest.approx(2.0)
            with pytest.raises(ConnectionRefusedError):
                await alice.datagrams.exchange(peer.address, b"q", 2.0, port=5353)
            await asyncio.sleep(0.1)
            assert in_use(alice) == []

    virtual(main())


@pytest.mark.proves("UM-POOL-3", by="api")
def test_an_exchange_without_an_address_says_so(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, dedicated=False, pool=PoolConfig(low=0, high=1, limit=1)) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            held, told = await open_socket(alice, peer.text, 53)
            held.sendto(b"x")
            await eventually(lambda: bool(told.received))
            with pytest.raises(errors.PoolExhausted):
                await alice.datagrams.exchange(peer.address, b"q", 60.0)
            with pytest.raises(errors.PoolExhausted):
                await alice.datagrams.exchange(peer.address, b"q", 1.0)
            cancelled = asyncio.ensure_future(alice.datagrams.exchange(peer.address, b"q", 60.0))
            await asyncio.sleep(1)
            cancelled.cancel()
            await asyncio.wait([cancelled])
            assert alice.pool.waiting == 0
            held.close()
            await made.quiet()

    virtual(main())


def test_it_is_what_the_socks_front_end_asks_for(rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, pool=POOL) as made:
            alice, bob = made.nodes
            peer = Peer(made, bob)
            service: DatagramService = alice.datagrams
            received: list[bytes] = []
            flow: Flow = await service.open_flow(peer.text, 53, lambda data: received.append(bytes(data)), session=None)
            assert flow.peer == (peer.text, 53)
            assert in_use(alice) == []
            flow.send(memoryview(b"through socks"))
            await eventually(lambda: received == [b"THROUGH SOCKS"])
            flow.close()
            await made.quiet()

    virtual(main())


def test_an_icmp_error_has_the_errno_of_its_cause() -> None:
    assert from_icmp(1, 4).errno == errno.ECONNREFUSED
    assert from_icmp(1, 0).errno == errno.ENETUNREACH
