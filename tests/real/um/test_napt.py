"""A translator rebinds a legacy client's port in mid-session: at L1 the session goes on (UM-PORT-3)."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from tapstack.tcp import arrives
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode
from tapstack.tcp.segment import Segment
from unimux.aio import start_server
from unimux.node import Node

from ..wire import capturing
from . import legacy
from .cells import WP
from .judge import ACK, RST, SYN, segments, sessions, sound
from .napt import BEHIND, Translator, translated_host
from .room import PROGRAMS, Room, room
from .talk import PATIENCE

CLOSED = 7
"""TCP_CLOSE in the kernel's tcp_states.h."""
pytestmark = pytest.mark.real(*PROGRAMS)


@pytest.fixture(scope="module")
def net() -> Iterator[Room]:
    with room("alice") as made:
        yield made


class Spoken:
    """Both ends of one session, spoken for by the test: who says what, when."""

    def __init__(self) -> None:
        self.accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted.set_result((reader, writer))


async def pass_bytes(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, data: bytes) -> None:
    """One side says `data` and the other hears it."""
    writer.write(data)
    assert await asyncio.wait_for(reader.readexactly(len(data)), PATIENCE) == data


@pytest.mark.proves("UM-PORT-3", "UM-PORT-2", "UM-PORT-10")
def test_a_rebound_port_is_followed_and_nobody_else(net: Room, artefacts: Path, rng: Random) -> None:
    rebound_session(net, artefacts, rng)


def test_control_a_stack_that_follows_every_segment_is_caught(
    net: Room, artefacts: Path, rng: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked = arrives.segment_arrives

    def gullible(connection: Connection, segment: Segment, now: float) -> None:
        connection.remote_port = segment.source_port
        checked(connection, segment, now)

    monkeypatch.setattr(arrives, "segment_arrives", gullible)
    with pytest.raises(AssertionError, match="diverted"):
        rebound_session(net, artefacts, rng)


def rebound_session(net: Room, artefacts: Path, rng: Random) -> None:
    """One session through the translator, rebound twice and misled twice; judged from captures on both sides of the box."""
    inside, outside = artefacts / "client.pcapng", artefacts / "node.pcapng"
    chunks = [rng.randbytes(1500) for _ in range(8)]
    node = net.peers["alice"]
    misleading = 0

    async def main() -> str:
        nonlocal misleading
        spoken = Spoken()
        server = start_server(node.node, spoken.take, mode=PortMode.L1)
        target = str(await server.issue(client=BEHIND))
        async with (
            AsyncExitStack() as stack,
            translated_host(net) as (behind, own, box),
            capturing(own, inside),
            capturing(node.interface, outside),
        ):
            reader, writer = await legacy.connect(behind, target, WP)
            stack.callback(writer.transport.abort)
            peer_reader, peer_writer = await spoken.accepted
            connection: Connection = peer_writer.get_extra_info("connection")
            await pass_bytes(writer, peer_reader, chunks[0])
            await pass_bytes(peer_writer, reader, chunks[1])
            for step in range(2):
                old = box.outer_port
                box.rebind()
                # The client speaks first after the rebinding, as it must: nobody outside knows the new port.
                await pass_bytes(writer, peer_reader, chunks[2 + 3 * step])
                await pass_bytes(peer_writer, reader, chunks[3 + 3 * step])
                assert connection.remote_port == box.outer_port
                misleading += await mislead(node.node, box, old, target, rng)
                assert connection.remote_port == box.outer_port, "an old or a blind segment diverted the session"
                await pass_bytes(peer_writer, reader, chunks[4 + 3 * step])
            writer.close()
            peer_writer.close()
            await node.node.until(lambda: target not in str(list(node.node.stack.host.addresses)), 90)
            server.close()
        return target

    target = net.run(main())
    sound(inside)
    sound(outside)
    judge_session(inside, outside, target, chunks)
    arrived = [s for s in segments(outside) if s.dst == target]
    strange = [s for s in arrived if s.sport < 41_000 - 1]
    assert len(strange) == 2 * 9, "the forged segments are seen arriving at the node's own link"
    assert misleading == 2 * 12


@pytest.mark.proves("UM-PORT-3", "UM-REL-2")
@pytest.mark.parametrize("what", ["the last FIN", "text for a closed socket", "a repetition"])
def test_a_segment_that_only_ends_or_repeats_is_answered_at_its_own_port(
    net: Room, what: str, artefacts: Path, rng: Random
) -> None:
    """The node says nothing after it but the one answer, which the client's kernel repeats itself for until it gives up."""
    outside = artefacts / "node.pcapng"
    node = net.peers["alice"]
    text = rng.randbytes(700)

    async def main() -> str:
        spoken = Spoken()
        server = start_server(node.node, spoken.take, mode=PortMode.L1)
        target = str(await server.issue(client=BEHIND))
        async with (
            AsyncExitStack() as stack,
            translated_host(net) as (behind, _, box),
            capturing(node.interface, outside),
        ):
            reader, writer = await legacy.connect(behind, target, WP)
            stack.callback(writer.transport.abort)
            peer_reader, peer_writer = await spoken.accepted
            await pass_bytes(writer, peer_reader, text)
            await pass_bytes(peer_writer, reader, text)
            if what == "a repetition":
                box.deaf = True
                writer.write(text)
                assert await asyncio.wait_for(peer_reader.readexactly(len(text)), PATIENCE) == text
                box.rebind()
                box.deaf = False
                await kernel_says(writer, lambda state, unacknowledged: unacknowledged == 0)
                await pass_bytes(peer_writer, reader, text)
                peer_writer.close()
            else:
                peer_writer.close()
                assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
                box.rebind()
                if what == "the last FIN":
                    writer.write_eof()
                else:
                    writer.write(text)
                await kernel_says(writer, lambda state, unacknowledged: state == CLOSED)
            server.close()
        return target

    target = net.run(main())
    sound(outside)
    (session,) = (s for s in sessions(segments(outside), by_ports=False) if s.server == target)
    found = [s for s in segments(outside) if target in (s.src, s.dst)]
    moved = next(number for number, s in enumerate(found) if s.src == BEHIND and s.sport == 41_001)
    assert {s.dport for s in found[moved:] if s.src == target} == {41_001}
    assert bool(session.resets()) == (what == "text for a closed socket")


async def kernel_says(writer: asyncio.StreamWriter, wanted: Callable[[int, int], bool]) -> None:
    """Wait until the state of a kernel's socket, and how many segments it has unacknowledged, are as wanted (TCP_INFO)."""
    made = writer.get_extra_info("socket")
    async with asyncio.timeout(3 * PATIENCE):
        while True:
            said = made.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
            if wanted(said[0], int.from_bytes(said[24:28], sys.byteorder)):
                return
            await asyncio.sleep(0.01)


def forged(last: TCP, rng: Random) -> list[tuple[str, int, int]]:
    """Flags, sequence and acknowledgment number of segments that must change nothing, from the client's last one.

    Guessing would not show much: most numbers are far from all that a stack without these checks would take.
    """
    expected, valid = last.seq + len(last.payload), last.ack
    unsent = valid + (1 << 30) + rng.getrandbits(16)
    return [
        ("R", expected + 1, 0),
        ("RA", expected + 1, valid),
        ("R", expected - 70_000, 0),
        ("SA", expected, valid),
        ("PA", expected + (1 << 24), valid),
        ("FA", expected - 70_000, valid),
        ("PA", expected, unsent),
        ("A", expected, unsent),
        ("A", expected, valid),
    ]


async def mislead(node: Node, box: Translator, old: int, target: str, rng: Random) -> int:
    """Replay segments of the session at the old port, and make some that RFC 5961 is about; returns how many the node has had."""
    with_bytes = [frame for frame in box.passed if len(Ether(frame)[TCP].payload)]
    made = []
    for frame in with_bytes[-3:]:
        packet = Ether(frame)
        packet[TCP].sport = old
        del packet[TCP].chksum
        made.append(bytes(packet))
    template = Ether(box.passed[-1])
    clock = [option for option in template[TCP].options if option[0] == "Timestamp"]
    for flags, sequence, acknowledgment in forged(template[TCP], rng):
        numbers = {"seq": sequence % 2**32, "ack": acknowledgment % 2**32}
        segment = TCP(sport=old - 7, dport=WP, flags=flags, options=clock, **numbers)
        packet = Ether(src=template.src, dst=template.dst) / IPv6(src=BEHIND, dst=target) / segment
        made.append(bytes(packet / b"x" if "P" in flags else packet))
    wanted = node.stack.counters.frames_in + len(made)
    for frame in made:
        box.inject(frame)
    async with asyncio.timeout(PATIENCE):
        while node.stack.counters.frames_in < wanted:  # what changes nothing need be no event
            await asyncio.sleep(0.01)
    return len(made)


def judge_session(inside: Path, outside: Path, target: str, chunks: list[bytes]) -> None:
    """One session on both sides of the box, every byte the same; the ports moved outside and only there."""
    said = b"".join((chunks[0], chunks[2], chunks[5]))
    heard = b"".join((chunks[1], chunks[3], chunks[4], chunks[6], chunks[7]))
    (within,) = (s for s in sessions(segments(inside), by_ports=True) if s.server == target)
    assert (within.request, within.answer) == (said, heard)
    assert not within.resets()
    assert within.ended is not None
    (without,) = (s for s in sessions(segments(outside), by_ports=False) if s.server == target)
    assert without.answer == heard
    ports = list(dict.fromkeys(s.dport for s in without.answered))
    assert ports == [41_000, 41_001, 41_002], f"replies went to {ports}"
    assert len([s for s in without.answered if s.flags & SYN]) == 1
    assert not [s for s in without.answered if s.flags & RST]
    assert all(s.flags & ACK for s in without.answered)
