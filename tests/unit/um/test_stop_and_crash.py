"""A node stops in order, or dies: what its peers see, and that an old address never comes back (UM-REL-1, UM-REL-4)."""

from __future__ import annotations

import asyncio
import gc
from random import Random

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6
from scapy.layers.l2 import Ether

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.types import address_text
from tests.unit.unimux.lan import in_use, virtual
from unimux import errors
from unimux.aio import open_connection
from unimux.node import Node
from unimux.poolstate import PoolConfig
from unimux.state import MemoryState

from .bed import Bed, bed, read_to_the_end, shut
from .test_endings import told_whole_stories

POOL = PoolConfig(low=32, high=64, limit=512, pace=0.001)


@pytest.mark.proves("UM-REL-1", "UM-NODE-4", by="api")
@pytest.mark.parametrize("dedicated", [True, False], ids=["dedicated", "on-link"])
def test_a_stopping_node_releases_everything_and_so_do_its_peers(dedicated: bool, rng: Random) -> None:
    async def main() -> None:
        async with bed(rng, dedicated=dedicated, pool=POOL) as made:
            talks = [await made.talk() for _ in range(30)]
            one, two = made.nodes
            server, _ = made.service(one, made.draw_options())
            for _ in range(5):
                await server.issue()
            waiting = asyncio.ensure_future(open_connection(one, "2001:db8:b::77", 9))
            await asyncio.sleep(0.01)
            assert len(in_use(one)) == 36
            await one.close()
            with pytest.raises(errors.ConnectError):
                await waiting
            assert {what: n for what, n in made.left(one).items() if n} == {}
            assert [e for e in one.stack.host.addresses if e.kind.one_time] == []
            for talk in talks:
                await read_to_the_end(talk.client)
                await read_to_the_end(talk.server)
                shut(talk.client, talk.server)
            await two.until(lambda: not in_use(two), 60)
            assert {what: n for what, n in made.left(two).items() if n} == {}
        told_whole_stories(made.witnesses)

    virtual(main())


def crash(made: Bed, node: Node) -> None:
    """The process is gone: nothing is said any more, and nothing is heard."""
    node.driver._closed = True
    node.driver._kicked = True
    node.link.close()


@pytest.mark.proves("UM-REL-4", "UM-ADDR-9", "UM-GEN-6")
@pytest.mark.parametrize("dedicated", [True, False], ids=["dedicated", "on-link"])
def test_after_a_crash_old_pairs_stay_silent_for_ever(dedicated: bool, rng: Random) -> None:
    """The new node on the old state gives its peers no sign about the old sessions and never issues their addresses."""

    async def main() -> None:
        async with bed(rng, dedicated=dedicated, pool=POOL) as made:
            made.settled = True
            one, two = made.nodes
            talks = [await made.talk() for _ in range(10)]
            old = {talk.client_address for talk in talks}
            issued = set(made.holders[one])
            state = one.source.state
            assert isinstance(state, MemoryState)
            crash(made, one)
            made.nodes.remove(one)
            heard: list[bytes] = []
            made.switch.observe(lambda when, port, frame: heard.append(bytes(frame)))
            again = await made.add(dedicated=dedicated, pool=POOL, state=state, number=1)
            made.nodes.reverse()
            made.introduce()
            for talk in talks:
                talk.server[1].write(b"are you there")
            alive = await made.talk()
            assert [frame for frame in heard if frame[22:38] == alive.client_address], "the new node speaks"
            fresh = {alive.client_address}
            for _ in range(200):
                entry = await again.take_address(AddressKind.EPHEMERAL, None, timeout=5)
                fresh.add(entry.address)
                again.stack.host.addresses.release(entry, again.now(), "test")
            assert not fresh & (old | issued)
            ended = [await asyncio.wait_for(read_to_the_end(talk.server), 600) for talk in talks]
            assert ended == [b""] * 10
            for talk in talks:
                error = talk.server[1].get_extra_info("connection").error
                assert isinstance(error, (TimeoutError, OSError)), error
                assert not isinstance(error, ConnectionResetError), "somebody reset an old session"
                shut(talk.server, talk.client)
            shut(alive.client, alive.server)
            await two.until(lambda: not in_use(two), 100)
        silent_about(heard, old)

    virtual(main())
    gc.collect()


def silent_about(frames: list[bytes], old: set[bytes]) -> None:
    """Peers went on sending to the old addresses, and nothing ever came from them or about them."""
    texts = {address_text(each) for each in old}
    asked = answered = 0
    for frame in frames:
        packet = Ether(frame)
        if IPv6 in packet:
            asked += packet[IPv6].dst in texts and TCP in packet
            answered += packet[IPv6].src in texts
            answered += ICMPv6ND_NA in packet and packet[ICMPv6ND_NA].tgt in texts
    assert asked, "nobody knocked at the old addresses: silence proves nothing"
    assert not answered


def test_control_a_node_that_answers_for_an_old_address_is_seen() -> None:

    async def main() -> None:
        async with bed(Random(3), pool=POOL) as made:
            talk = await made.talk()
            heard: list[bytes] = []
            made.switch.observe(lambda when, port, frame: heard.append(bytes(frame)))
            talk.server[1].write(b"are you there")
            await talk.client[0].readexactly(13)
            await asyncio.sleep(0.1)
            with pytest.raises(AssertionError):
                silent_about(heard, {talk.client_address})
            connection: Connection = talk.client[1].get_extra_info("connection")
            assert connection.local == talk.client_address
            shut(talk.client, talk.server)

    virtual(main())
