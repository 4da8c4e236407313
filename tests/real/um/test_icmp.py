"""ICMPv6 errors in every mode: genuine ones of the kernel reach their connection, forged ones count only with a sequence
number that is in flight (UM-PORT-9, UM-PORT-13)."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
from pyroute2 import IPRoute
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, IPv6
from scapy.layers.l2 import Ether

from compat.kernel import in_namespace
from compat.kernel.topology import SERVER_ADDRESS
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode
from tapstack.types import address, address_text
from tests.plugins import taps
from tests.unit.unimux.lan import eventually
from unimux import errors
from unimux.aio import open_connection, start_server
from unimux.datagram import EphemeralFlow

from ..datagrams import TABLE_PATIENCE
from ..wire import capturing
from . import legacy
from .cells import WP
from .judge import frames, icmp, segments, sessions, sound
from .room import PROGRAMS, Room, room
from .talk import answer_to, ask, end, respond

pytestmark = pytest.mark.real(*PROGRAMS)
ROUTER = "2001:db8:1::1"
NOWHERE = "2001:db8:9::1"
MODES = list(PortMode)


@pytest.fixture(scope="module")
def net() -> Iterator[Room]:
    with room("dora") as made:
        yield made


@contextmanager
def routed(net: Room, kind: str) -> Iterator[None]:
    """The router has a route of a kind (blackhole, unreachable, prohibit) for an address that nobody has."""

    def change(verb: str) -> Callable[[IPRoute], None]:
        return lambda route: route.route(verb, family=socket.AF_INET6, dst=f"{NOWHERE}/128", type=kind)

    net.top.router.netlink(change("add"), f"add a {kind} route")
    try:
        yield
    finally:
        net.top.router.netlink(change("del"), f"remove a {kind} route")


class Forger:
    """Sends errors as if the router had: it knows what a packet on the path looks like, if it is told."""

    def __init__(self, net: Room) -> None:
        self._net = net
        self._interface = net.top.router_client
        self._source = self._interface.mac
        with in_namespace(net.top.router):
            self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._raw.bind((self._interface.name, 0))

    def close(self) -> None:
        self._raw.close()

    async def quote(self, kind: Any, connection: Connection, **quoted: int) -> None:
        """An error of a kind about a segment of the connection, with header fields as `quoted` says; waits for its arrival."""
        node = self._net.node("dora")
        mac = node.link.properties.mac
        assert mac is not None
        local, remote = address_text(connection.local), address_text(connection.remote)
        ports = {"sport": connection.local_port, "dport": connection.remote_port}
        segment = IPv6(src=local, dst=remote) / TCP(**{**ports, **quoted})
        packet = Ether(src=self._source, dst=mac) / IPv6(src=ROUTER, dst=local) / kind / bytes(segment)
        wanted = node.stack.counters.frames_in + 1
        self._raw.send(taps.by_hand(bytes(packet)))
        async with asyncio.timeout(20):
            while node.stack.counters.frames_in < wanted:
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)


@pytest.fixture
def forger(net: Room) -> Iterator[Forger]:
    made = Forger(net)
    yield made
    made.close()


def only_connection(net: Room) -> Connection:
    """The one connection of dora's that is opening or open."""
    (found,) = (pcb for pcb in net.node("dora").stack.tcp.demux if isinstance(pcb, Connection))
    return found


async def released(net: Room) -> None:
    """Wait until nothing of earlier tests is left at dora's."""
    dora = net.node("dora")
    await dora.until(lambda: len(dora.stack.tcp.demux) == 0, 90)


@pytest.mark.proves("UM-PORT-9")
@pytest.mark.parametrize(
    ("kind", "error"),
    [("unreachable", errors.NetworkUnreachable), ("prohibit", errors.ConnectProhibited)],
)
@pytest.mark.parametrize("mode", MODES)
def test_a_genuine_error_ends_the_connect_that_it_is_about(
    net: Room, mode: PortMode, kind: str, error: type[Exception], artefacts: Path
) -> None:
    """Eight connects of one node at once; the one towards the closed route fails at once, the others are served."""
    capture = artefacts / "router.pcapng"

    async def main() -> None:
        dora = net.node("dora")
        async with capturing(net.top.router_client, capture), legacy.serve(net.legacy, WP, respond):
            calls = [open_connection(dora, SERVER_ADDRESS, WP, mode=mode) for _ in range(7)]
            calls.insert(3, open_connection(dora, NOWHERE, WP, mode=mode, timeout=60))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(results.pop(3), error), "it was the error that ended it, not a time-out"
            for streams in results:
                assert not isinstance(streams, BaseException), streams
                assert await ask(streams, b"twelve bytes") == answer_to(b"twelve bytes")
                await end(streams)
        await released(net)

    with routed(net, kind):
        net.run(main())
    assert [code for _, _, _, type_, code in icmp(capture) if type_ == 1] == [{"unreachable": 0, "prohibit": 1}[kind]]
    assert len([s for s in sessions(segments(capture), by_ports=True) if s.ended]) == 7


@pytest.mark.proves("UM-PORT-13", "UM-PORT-9", "UM-PORT-10")
@pytest.mark.parametrize("mode", MODES)
def test_a_forged_error_needs_a_sequence_number_in_flight(
    net: Room, mode: PortMode, forger: Forger, artefacts: Path, rng: Random
) -> None:
    capture = artefacts / "router.pcapng"

    async def main() -> None:
        async with capturing(net.top.router_client, capture):
            await forge()
        await released(net)

    async def forge() -> None:
        dora = net.node("dora")
        attempt = asyncio.ensure_future(open_connection(dora, NOWHERE, WP, mode=mode, timeout=60))
        await dora.until(lambda: len(dora.stack.tcp.demux) == 1, 20)
        connection = only_connection(net)
        isn = connection.sender.snd_una & 0xFFFFFFFF
        for kind in (ICMPv6DestUnreach(code=4), ICMPv6DestUnreach(code=0), ICMPv6TimeExceeded(code=0)):
            for wrong in (isn + 1, isn - 1, isn + 70_000, rng.getrandbits(32)):
                await forger.quote(kind, connection, seq=wrong & 0xFFFFFFFF)
        repeated = connection.rtt.backoff  # one for each time-out of the SYN; some may have passed in between
        async with asyncio.timeout(30):
            while connection.rtt.backoff == repeated and not attempt.done():
                await asyncio.sleep(0.01)
        assert not attempt.done(), "a forged error ended the connect"
        if mode is PortMode.AWARE:
            await forger.quote(ICMPv6DestUnreach(code=4), connection, seq=isn, sport=connection.local_port ^ 1)
            assert not attempt.done(), "an error about other ports ended the connect"
            await forger.quote(ICMPv6DestUnreach(code=4), connection, seq=isn)
        elif mode is PortMode.L2:
            await forger.quote(ICMPv6DestUnreach(code=4), connection, seq=isn, sport=connection.local_port ^ 1)
            assert not attempt.done(), "an error about another client's port ended the connect"
            await forger.quote(ICMPv6DestUnreach(code=4), connection, seq=isn, dport=7)
        else:
            await forger.quote(ICMPv6DestUnreach(code=4), connection, seq=isn, sport=7, dport=9)
        with pytest.raises(errors.ConnectRefused):
            await asyncio.wait_for(attempt, 20)

    with routed(net, "blackhole"):
        net.run(main())
    told = [number for number, _, _, kind, _ in icmp(capture) if kind < 128]
    tried = [segment for segment in segments(capture) if segment.dst == NOWHERE]
    assert len(told) == 13 + (mode in (PortMode.AWARE, PortMode.L2))
    assert len({segment.seq for segment in tried}) == 1
    assert tried[0].number < told[0] and tried[-1].number > told[11], "no SYN after twelve errors that were forged"
    assert tried[-1].number < told[-1], "a SYN after the error that counts"


@pytest.mark.proves("UM-PORT-13", "UM-PORT-9")
@pytest.mark.parametrize("mode", MODES)
def test_an_error_never_ends_a_session_and_a_forged_size_does_not_count(
    net: Room, mode: PortMode, forger: Forger, artefacts: Path, rng: Random
) -> None:
    capture = artefacts / "peer.pcapng"
    request = rng.randbytes(4000)

    async def main() -> None:
        dora = net.node("dora")
        async with capturing(net.top.server_bridge, capture), legacy.serve(net.legacy, WP, respond):
            streams = await open_connection(dora, SERVER_ADDRESS, WP, mode=mode)
            assert await ask(streams, request) == answer_to(request)
            connection = only_connection(net)
            in_flight = connection.sender.snd_una & 0xFFFFFFFF
            for wrong in (in_flight - 1, in_flight - 3000, in_flight + 1, rng.getrandbits(32)):
                await forger.quote(ICMPv6PacketTooBig(mtu=1280), connection, seq=wrong & 0xFFFFFFFF)
                await forger.quote(ICMPv6DestUnreach(code=1), connection, seq=wrong & 0xFFFFFFFF)
            assert connection.path.mtu == 1500
            assert connection.soft_error is None
            assert await ask(streams, request) == answer_to(request)
            await end(streams)
        await released(net)

    net.run(main())
    sound(capture)
    (session,) = (s for s in sessions(segments(capture), by_ports=True) if s.request)
    assert session.request == request * 2
    assert session.ended is not None
    assert max(len(s.data) for s in session.sent) > 1280 - 72, "the size was not reduced by a forged error"


def shrink(net: Room, mtu: int) -> None:
    """Give the link beyond the router another MTU; in each test a smaller one, since what a node has learnt stays for a while."""
    for link in (net.top.router_server, net.top.server_uplink, net.top.server_bridge):
        link.set_mtu(mtu)


@pytest.mark.proves("UM-PORT-9", "ST-IP6-8")
def test_a_genuine_packet_too_big_reaches_every_connection_that_it_is_about(
    net: Room, artefacts: Path, rng: Random
) -> None:
    """The far link shrinks in mid-session: the kernel says so to each connection, and every byte arrives in smaller packets."""
    capture = artefacts / "peer.pcapng"
    requests = {mode: rng.randbytes(20_000) for mode in MODES}

    async def main() -> None:
        dora = net.node("dora")
        async with capturing(net.top.server_bridge, capture), legacy.serve(net.legacy, WP, respond):
            streams = {mode: await open_connection(dora, SERVER_ADDRESS, WP, mode=mode) for mode in MODES}
            for mode, request in requests.items():
                assert await ask(streams[mode], request) == answer_to(request)
            shrink(net, 1400)
            answers = await asyncio.gather(*(ask(streams[mode], request) for mode, request in requests.items()))
            assert answers == [answer_to(request) for request in requests.values()]
            assert {streams[mode][1].get_extra_info("connection").path.mtu for mode in MODES} == {1400}
            for each in streams.values():
                await end(each)
        await released(net)

    try:
        net.run(main())
    finally:
        shrink(net, 1500)
    found = [s for s in sessions(segments(capture), by_ports=True) if s.request]
    assert sorted(s.request for s in found) == sorted(request * 2 for request in requests.values())
    for session in found:
        sizes = [len(s.data) for s in session.sent if s.data]
        assert max(sizes) > 1400 - 60
        assert max(sizes[-3:]) <= 1400 - 60


@pytest.mark.proves("UM-PORT-9", "ST-IP6-8")
def test_a_genuine_packet_too_big_reaches_every_session_that_was_accepted(
    net: Room, artefacts: Path, rng: Random
) -> None:
    """The same for sessions of a legacy host with service addresses of every mode, two of them on one address."""
    capture = artefacts / "peer.pcapng"
    requests = [rng.randbytes(20_000) for _ in range(len(MODES) + 1)]

    async def main() -> None:
        dora = net.node("dora")
        async with capturing(net.top.server_bridge, capture), AsyncExitStack() as stack:
            streams = []
            for mode in MODES:
                server = start_server(dora, respond, mode=mode, port=WP if mode is PortMode.AWARE else None)
                stack.callback(server.close)
                shared = 2 if mode is PortMode.L2 else 1
                ssa = str(await server.issue(sessions=shared))
                streams += [await legacy.connect(net.legacy, ssa, WP) for _ in range(shared)]
            for each, request in zip(streams, requests, strict=True):
                assert await ask(each, request) == answer_to(request)
            shrink(net, 1340)
            answers = await asyncio.gather(*(ask(each, said) for each, said in zip(streams, requests, strict=True)))
            assert answers == [answer_to(request) for request in requests]
            for each in streams:
                await end(each)
        await released(net)

    try:
        net.run(main())
    finally:
        shrink(net, 1500)
    found = [s for s in sessions(segments(capture), by_ports=True) if s.request]
    assert sorted(s.answer for s in found) == sorted(answer_to(request * 2) for request in requests)
    assert len({s.server for s in found}) == len(MODES)
    for session in found:
        sizes = [len(s.data) for s in session.answered if s.data]
        assert max(sizes) > 1340 - 60, "the path was wide before"
        assert max(sizes[-3:]) <= 1340 - 60


@pytest.mark.proves("UM-PORT-9", "UM-DAS-6", "ST-IP6-8")
def test_genuine_errors_reach_the_udp_flow_that_they_are_about(net: Room, artefacts: Path, rng: Random) -> None:
    """Too big: the flow's next datagram comes in fragments that fit.  No route: that flow hears of it, the other does not."""
    capture = artefacts / "router.pcapng"
    large, small = rng.randbytes(1285), rng.randbytes(100)
    heard: list[tuple[str, bytes]] = []
    failed: list[tuple[str, Exception]] = []

    def flow(name: str, remote: str, port: int) -> EphemeralFlow:
        return net.node("dora").datagrams.flow(
            address(remote),
            port,
            lambda data: heard.append((name, data)),
            failed=lambda error: failed.append((name, error)),
        )

    until = partial(eventually, timeout=TABLE_PATIENCE)

    async def main() -> None:
        backwards = legacy.answering(net.legacy, 7000, lambda data: data[::-1])
        async with capturing(net.top.router_client, capture), backwards:
            wide, narrow = flow("wide", SERVER_ADDRESS, 7000), flow("narrow", SERVER_ADDRESS, 7000)
            wide.send(large)
            await until(lambda: heard == [("wide", large[::-1])])
            narrow.send(small)
            await until(lambda: heard[1:] == [("narrow", small[::-1])])
            shrink(net, 1290)
            while len(heard) == 2:  # what is too big is lost, and the flow is not told: the next datagram is cut
                wide.send(large)
                await asyncio.sleep(0.1)
            assert heard[2] == ("wide", large[::-1])
            lost = flow("lost", NOWHERE, 7000)
            lost.send(small)
            narrow.send(small)
            await until(lambda: bool(failed) and "narrow" in dict(heard[3:]))
            for each in (wide, narrow, lost):
                each.close()

    try:
        with routed(net, "unreachable"):
            net.run(asyncio.wait_for(main(), 4 * TABLE_PATIENCE))
    finally:
        shrink(net, 1500)
    assert [(name, getattr(error, "errno", None)) for name, error in failed] == [("lost", errno.ENETUNREACH)]
    pieces = [p for _, _, p in frames(capture) if p.nxt == 44 or 44 in p.extension_hdrs]
    assert pieces, "the datagram went in fragments"
    assert [(type_, code) for _, _, _, type_, code in icmp(capture) if type_ < 128].count((1, 0)) == 1
    assert (2, 0) in {(type_, code) for _, _, _, type_, code in icmp(capture)}
    assert max(len(bytes(p)) for p in pieces) <= 1290
