"""Simultaneous open, and a SYN in the peer's name, on a real link: a crafted peer behind a real router (UM-PORT-12)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from scapy.layers.inet import TCP

from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode
from unimux.aio import open_connection

from ..wire import capturing
from .crafted import CraftedPeer, crafted_peer
from .judge import ACK, RST, SYN, Segment, segments, sound, stream
from .room import PROGRAMS, Room, room
from .talk import Streams, end

pytestmark = pytest.mark.real(*PROGRAMS)
PEER = "2001:db8:2::5c"
PORT = 7000
FOREIGN = 666_000


@pytest.fixture(scope="module")
def net() -> Iterator[Room]:
    with room("dora") as made:
        yield made


class Conversation:
    """The peer's side of one connection: its numbers, and ports that move where the mode lets them."""

    def __init__(self, peer: CraftedPeer, mode: PortMode, random: Random, first: TCP, address: str) -> None:
        self.peer = peer
        self.address = address
        self.seq = random.getrandbits(32)
        self.isn = first.seq
        self.ack = (first.seq + 1) % (1 << 32)
        self._mode = mode
        self._random = random
        self._ports = first.dport, first.sport

    def ports(self) -> tuple[int, int]:
        """Source and destination port of the next segment: anything at L0."""
        if self._mode is PortMode.L0:
            return self._random.randrange(1, 65536), self._random.randrange(1, 65536)
        return self._ports

    def say(self, flags: str, data: bytes = b"") -> None:
        """The next segment in order."""
        sport, dport = self.ports()
        acknowledged = {"ack": self.ack} if "A" in flags else {}
        self.peer.say(
            self.address, sport=sport, dport=dport, seq=self.seq, flags=flags, window=65000, data=data, **acknowledged
        )
        self.seq = (self.seq + len(data) + ("F" in flags) + ("S" in flags)) % (1 << 32)

    async def talk(self, streams: Streams, data: bytes) -> None:
        """Data both ways, then an end in order that the node begins."""
        reader, writer = streams
        writer.write(data)
        heard = b""
        while len(heard) < len(data):
            segment = (await self.peer.hear(data=True))[TCP]
            if (segment.seq - self.ack) % (1 << 32) == 0:
                heard += bytes(segment.payload)
                self.ack = (segment.seq + len(bytes(segment.payload))) % (1 << 32)
        assert heard == data
        self.say("PA", data[::-1])
        assert await asyncio.wait_for(reader.readexactly(len(data)), 10) == data[::-1]
        ending = asyncio.ensure_future(end(streams))
        while True:
            segment = (await self.peer.hear())[TCP]
            if "F" in segment.flags:
                break
        self.ack = (segment.seq + 1) % (1 << 32)
        self.say("FA")
        await ending


def said(found: list[Segment], end: str) -> bytes:
    """What one end said, each byte once; its SYN-ACK has its initial sequence number, a SYN may be one in its name."""
    sent = [s for s in found if s.src == end]
    return stream(sent, next(s.seq for s in sent if s.flags & (SYN | ACK) == SYN | ACK))


@pytest.mark.proves("UM-PORT-12", "UM-PORT-1", "UM-REL-1")
@pytest.mark.parametrize("mode", [PortMode.L0, PortMode.L1])
def test_both_ends_open_at_once(net: Room, mode: PortMode, artefacts: Path, rng: Random) -> None:
    capture = artefacts / "peer.pcapng"
    dora = net.node("dora")
    request = rng.randbytes(900)

    async def main() -> str:
        async with (
            capturing(net.top.third_link, capture),
            crafted_peer(net.top.third_link, net.top.router_server.mac, PEER) as peer,
        ):
            opening = asyncio.ensure_future(open_connection(dora, PEER, PORT, mode=mode, timeout=10))
            syn = await peer.hear("S")
            talk = Conversation(peer, mode, rng, syn[TCP], syn.src)
            talk.say("S")
            answer = (await peer.hear("SA"))[TCP]
            assert (answer.seq, answer.ack) == (talk.isn, talk.seq), "the same SYN again, with an acknowledgement"
            talk.seq = (talk.seq - 1) % (1 << 32)
            talk.say("SA")
            streams = await opening
            connection: Connection = streams[1].get_extra_info("connection")
            assert connection.state.value == "ESTABLISHED"
            await talk.talk(streams, request)
            await dora.until(lambda: connection.local not in dora.stack.host.addresses, 90)
            return str(syn.src)

    source = net.run(main())
    sound(capture)
    found = [s for s in segments(capture) if source in (s.src, s.dst)]
    opened = list(dict.fromkeys((s.src, s.flags & (SYN | ACK)) for s in found if s.flags & SYN))  # each may be repeated
    assert opened == [(source, SYN), (PEER, SYN), (source, SYN | ACK), (PEER, SYN | ACK)]
    assert not [s for s in found if s.flags & RST]
    assert said(found, source) == request
    assert said(found, PEER) == request[::-1]
    if mode is PortMode.L0:
        assert len({(s.sport, s.dport) for s in found if s.src == PEER}) >= 4, "the peer's ports were to change"


@pytest.mark.proves("UM-PORT-12", "UM-PORT-10", "UM-EA-1")
@pytest.mark.parametrize("mode", list(PortMode))
def test_a_syn_in_the_peers_name_does_not_stop_the_real_syn_ack(
    net: Room, mode: PortMode, artefacts: Path, rng: Random
) -> None:
    """It comes first, with the right addresses and ports where they are read; the reset that its answer draws comes last."""
    capture = artefacts / "peer.pcapng"
    dora = net.node("dora")
    request = rng.randbytes(900)

    async def main() -> str:
        async with (
            capturing(net.top.third_link, capture),
            crafted_peer(net.top.third_link, net.top.router_server.mac, PEER) as peer,
        ):
            opening = asyncio.ensure_future(open_connection(dora, PEER, PORT, mode=mode, timeout=10))
            syn = await peer.hear("S")
            talk = Conversation(peer, mode, rng, syn[TCP], syn.src)
            spoofed = {"sport": syn[TCP].dport, "dport": syn[TCP].sport}
            if mode in (PortMode.L0, PortMode.L1):
                spoofed = {"sport": 1, "dport": 2}
            peer.say(syn.src, flags="S", seq=FOREIGN, **spoofed)
            drawn = (await peer.hear("SA"))[TCP]
            assert (drawn.seq, drawn.ack) == (talk.isn, FOREIGN + 1)
            assert not opening.done()
            talk.say("SA")
            sport, dport = talk.ports()
            peer.say(syn.src, sport=sport, dport=dport, flags="R", seq=FOREIGN + 1)  # as a kernel answers `drawn`
            streams = await opening
            await talk.talk(streams, request)
            return str(syn.src)

    source = net.run(main())
    sound(capture)
    found = [s for s in segments(capture) if source in (s.src, s.dst)]
    assert [s.seq for s in found if s.src == PEER and s.flags & RST] == [FOREIGN + 1]
    assert not [s for s in found if s.src == source and s.flags & RST]
    assert said(found, source) == request
    assert said(found, PEER) == request[::-1]
