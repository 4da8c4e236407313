"""A third opinion: legacy peers whose TCP is not of Linux at all, libslirp's (of 4.4BSD's line) and pasta's."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from ipaddress import IPv6Address
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import dpkt
import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from compat.kernel.topology import SERVER_ADDRESS
from tapstack.link.impairment import Impairment
from tapstack.tcp.options import PortMode
from tests.plugins import taps
from tests.real import wire
from tests.real.um import legacy
from tests.real.um.cells import WP, Cell, judge_cell, offer
from tests.real.um.judge import ACK, RST, SYN, frames, segments, sessions, sound
from tests.real.um.talk import answer_to, ask, end, respond
from unimux.aio import open_connection

from .rows import as_parameters, call_legacy_server, legacy_rows
from .usermode import GATEWAY, LIBSLIRP, PASTA, UserLan, UserStack, until_seen, user_lan

pytestmark = [pytest.mark.real("dumpcap", LIBSLIRP.program, PASTA.program), pytest.mark.timeout(180)]
SIZE = 30_000
PATIENCE = 60.0
BAD = Impairment(loss=0.02, reorder=0.05, duplicate=0.05, delay=0.003, reorder_delay=0.004)
PADDING = {dpkt.tcp.TCP_OPT_EOL, dpkt.tcp.TCP_OPT_NOP}
NEIGHBORS = 16
"""Of libslirp's table (NDP_TABLE_SIZE): the addresses of a row's sessions are more."""
SESSIONS_OF_LIBSLIRP = 24
SESSIONS_OF_PASTA = 5


T = TypeVar("T")


@pytest.fixture(scope="module")
def libslirp() -> Iterator[UserLan]:
    with user_lan(LIBSLIRP) as made:
        yield made


@pytest.fixture(scope="module")
def pasta() -> Iterator[UserLan]:
    with user_lan(PASTA) as made:
        yield made


def server_rows(parallel: int) -> list[Cell]:
    """The rows of a legacy server."""
    return [row for row in legacy_rows(parallel) if row.server.startswith("L")]


def rows_of_pasta() -> list[Cell]:
    """Pasta sends to one address of the node at a time: the rows where all sessions share it, and one session of each other."""
    return [
        cell if cell.shares_address and cell.client.startswith("L") else replace(cell, parallel=1)
        for cell in legacy_rows(SESSIONS_OF_PASTA)
    ]


def played(net: UserLan, capture: Path, play: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What `play` returns, which writes `capture`; once more, four times at most, where a handshake had to be repeated.

    Pasta resets a session whose SYN comes twice, and a busy machine may take longer for the answer than the node waits.
    """
    for _ in range(4):
        try:
            return net.run(play())
        except (ConnectionError, asyncio.IncompleteReadError):
            opening = [(s.src, s.sport, s.dst, s.dport) for s in segments(capture) if s.flags & SYN]
            if len(opening) == len(set(opening)):
                raise
    return net.run(play())


@pytest.mark.parametrize("cell", as_parameters(server_rows(SESSIONS_OF_LIBSLIRP)))
def test_row_of_libslirp(libslirp: UserLan, cell: Cell, artefacts: Path, rng: Random) -> None:
    capture = artefacts / "switch.pcapng"

    async def main() -> list[bytes]:
        async with libslirp.captured(capture), legacy.serve(libslirp.far, WP, respond):
            return await call_legacy_server(libslirp.node, cell, rng, SIZE)

    judge_cell(cell, capture, libslirp.run(main()))


@pytest.mark.parametrize("cell", as_parameters(rows_of_pasta()))
def test_row_of_pasta(pasta: UserLan, cell: Cell, artefacts: Path, rng: Random) -> None:
    capture = artefacts / "switch.pcapng"

    async def main() -> list[bytes]:
        async with pasta.captured(capture), legacy.serve(pasta.far, WP, respond):
            if cell.server.startswith("L"):
                return await call_legacy_server(pasta.node, cell, rng, SIZE)
            return await call_node(pasta, cell, rng)

    judge_cell(cell, capture, played(pasta, capture, main))


async def call_node(net: UserLan, cell: Cell, rng: Random) -> list[bytes]:
    """The sessions of a row from the legacy host to the node; returns the requests, each of which got the right answer."""
    async with AsyncExitStack() as stack:
        server, addresses = await offer(net.node, cell, rng)
        stack.callback(server.close)
        await net.show(addresses[0])
        requests = [rng.randbytes(SIZE) for _ in addresses]
        calls = [
            legacy.connect(net.far, GATEWAY, port, source=cell.source_port)
            for _, port in zip(addresses, cycle(cell.named_ports))  # ports are named in turn
        ]
        streams = await asyncio.gather(*calls)
        answers = await asyncio.gather(*(ask(each, said) for each, said in zip(streams, requests, strict=True)))
        assert answers == [answer_to(said) for said in requests]
        await asyncio.gather(*(end(each) for each in streams))
    return requests


# -- what is the peer's own, and what it does besides ------------------------------------------------------

STACKS = [pytest.param(which, id=which.name) for which in (LIBSLIRP, PASTA)]


@pytest.fixture
def net(request: pytest.FixtureRequest, which: UserStack) -> UserLan:
    """The network of a test that takes each program in turn."""
    found = request.getfixturevalue(which.name)
    assert isinstance(found, UserLan)
    return found


@pytest.mark.parametrize("which", STACKS)
@pytest.mark.proves("ST-TCP-1")
def test_a_node_copes_with_a_peer_that_has_other_options(
    net: UserLan, which: UserStack, artefacts: Path, rng: Random
) -> None:
    """The node offers everything; the peer's SYN-ACK takes no SACK and no timestamps, so neither side uses them."""
    capture = artefacts / "switch.pcapng"

    async def main() -> None:
        async with net.captured(capture), legacy.serve(net.far, WP, respond):
            await call_legacy_server(net.node, Cell(PortMode.L1, "L(LA,WP)", "U(EA,*)", 1, "its own"), rng, SIZE)

    played(net, capture, main)
    kinds: dict[tuple[bool, bool], set[frozenset[int]]] = {}
    for _, _, packet in frames(capture):
        if isinstance(packet.data, dpkt.tcp.TCP):
            theirs = packet.src == IPv6Address(SERVER_ADDRESS).packed
            has = frozenset(kind for kind, _ in dpkt.tcp.parse_opts(packet.data.opts) if kind not in PADDING)
            kinds.setdefault((theirs, bool(packet.data.flags & SYN)), set()).add(has)
            assert not theirs or packet.hlim == which.hop_limit
    assert kinds[False, True] == {
        frozenset(
            {
                dpkt.tcp.TCP_OPT_MSS,
                dpkt.tcp.TCP_OPT_WSCALE,
                dpkt.tcp.TCP_OPT_SACKOK,
                dpkt.tcp.TCP_OPT_TIMESTAMP,
            }
        )
    }
    assert kinds[True, True] == {which.options}
    assert kinds[True, False] == kinds[False, False] == {frozenset()}


def test_libslirp_asks_again_for_addresses_that_its_table_has_lost(
    libslirp: UserLan, artefacts: Path, rng: Random
) -> None:
    """Its table of neighbours holds fewer than the sessions have addresses: it asks for one-time addresses, and is answered."""
    capture = artefacts / "switch.pcapng"
    cell = Cell(PortMode.L1, "L(LA,WP)", "U(EA,*)", SESSIONS_OF_LIBSLIRP, "its own")

    async def main() -> list[bytes]:
        async with libslirp.captured(capture), legacy.serve(libslirp.far, WP, respond):
            return await call_legacy_server(libslirp.node, cell, rng, SIZE)

    judge_cell(cell, capture, libslirp.run(main()))
    seen = wire.frames(capture)
    clients = {session.client for session in sessions(segments(capture), by_ports=True)}
    asked = {client for client in clients if wire.questions(seen, client)}
    assert len(asked) >= SESSIONS_OF_LIBSLIRP - NEIGHBORS
    assert all(wire.advertisements(wire.after(seen, wire.questions(seen, client)[0]), client) for client in asked)


@pytest.mark.parametrize("mode", list(PortMode))
def test_a_closed_port_is_refused(libslirp: UserLan, mode: PortMode, artefacts: Path) -> None:
    """The legacy host resets the gateway's connection, and libslirp the node's, which says so to its application."""
    capture = artefacts / "switch.pcapng"

    async def main() -> None:
        async with libslirp.captured(capture):
            with pytest.raises(ConnectionRefusedError):
                await open_connection(libslirp.node, SERVER_ADDRESS, WP, mode=mode, timeout=60)

    libslirp.run(main())
    sound(capture)
    (session,) = sessions(segments(capture), by_ports=True)
    assert [(s.flags & (SYN | RST | ACK), s.ack) for s in session.answered] == [
        (RST | ACK, (session.syn.seq + 1) % 2**32)
    ]
    assert all(s.is_syn for s in session.sent), "the node answered a reset"


def test_a_reset_refuses_only_if_it_acknowledges_the_syn(pasta: UserLan, artefacts: Path) -> None:
    """RFC 9293 §3.10.7.3.  Pasta of Debian 12 answers a SYN that it cannot pass on with a bare RST; later ones may do better."""
    capture = artefacts / "switch.pcapng"

    def is_reset(packet: Packet) -> bool:
        return TCP in packet and bool(packet[TCP].flags.R)

    async def main() -> None:
        with wire.packet_socket(pasta.port) as seen:
            call = open_connection(pasta.node, SERVER_ADDRESS, WP, mode=PortMode.L1, timeout=60)
            calling = asyncio.ensure_future(call)
            if (await until_seen(seen, is_reset))[TCP].flags.A:
                with pytest.raises(ConnectionRefusedError):
                    await calling
                return
            await until_seen(seen, is_reset)
        assert not calling.done()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling

    async def captured() -> None:
        async with pasta.captured(capture):
            await main()

    pasta.run(captured())
    sound(capture)
    (session,) = sessions(segments(capture), by_ports=True)
    first, *later = session.answered
    assert first.flags & RST and all(s.is_syn for s in session.sent)
    if first.flags & ACK:
        assert not later and first.ack == (session.syn.seq + 1) % 2**32
    else:
        assert session.sent[1].number > first.number, "the node did not go on asking after a bare reset"


@pytest.mark.parametrize("which", STACKS)
def test_a_reset_ends_a_session_that_stands(net: UserLan, artefacts: Path, rng: Random) -> None:
    """Of two sessions the legacy server resets one: it ends with that error, and the other goes on."""
    capture = artefacts / "switch.pcapng"
    request = rng.randbytes(SIZE)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.readexactly(1) == b"R":
            made: socket.socket = writer.get_extra_info("socket")
            made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        else:
            await respond(reader, writer)

    async def main() -> None:
        async with net.captured(capture), legacy.serve(net.far, WP, answer):
            reader, writer = await open_connection(net.node, SERVER_ADDRESS, WP, mode=PortMode.L1, timeout=60)
            writer.write(b"R")
            with pytest.raises(ConnectionResetError):
                await asyncio.wait_for(reader.read(), PATIENCE)
            writer.close()
            other = await open_connection(net.node, SERVER_ADDRESS, WP, mode=PortMode.L1, timeout=60)
            other[1].write(b"-")
            assert await ask(other, request) == answer_to(request)
            await end(other)

    played(net, capture, main)
    sound(capture)
    reset, whole = sessions(segments(capture), by_ports=True)
    assert [s.flags & RST for s in reset.answered if s.flags & RST] and not any(s.flags & RST for s in reset.sent)
    assert whole.request == b"-" + request and not whole.resets()


@pytest.mark.proves("ST-TCP-1")
def test_every_byte_arrives_over_a_bad_path(artefacts: Path, rng: Random) -> None:
    """Segments of node and libslirp are delayed, lost, repeated and reordered; a session of every mode at once, without SACK."""
    capture = artefacts / "switch.pcapng"
    cells = server_rows(1)

    async def main(net: UserLan) -> list[bytes]:
        async with net.captured(capture), legacy.serve(net.far, WP, respond):
            played = await asyncio.gather(*(call_legacy_server(net.node, cell, rng, SIZE) for cell in cells))
            return [request for requests in played for request in requests]

    taps.disturbs()
    with user_lan(LIBSLIRP, path=BAD, seed=rng.getrandbits(32)) as net:
        requests = net.run(main(net))
        assert net.path is not None
        for way in (net.path.outgoing, net.path.incoming):
            assert way.lost + way.duplicated + way.held_back > 0, "the path was not bad"
    sound(capture)
    found = [each for each in sessions(segments(capture), by_ports=True) if each.request]
    assert sorted(each.request for each in found) == sorted(requests)
    assert all(each.answer == answer_to(each.request) for each in found)
