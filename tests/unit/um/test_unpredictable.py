"""What a peer and a neighbour see of a node foretells nothing (UM-GEN-7; slide 7): an attack that random numbers must withstand.

The attack is that on a Mersenne Twister, Python's `random.Random`: 624 outputs of 32 bits, which a server gets as the fragment
identifications of as many large datagrams, are its whole state.  From there it runs on as it does in the victim.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import ICMPv6ND_NS, IPv6, IPv6ExtHdrFragment

from tapstack.ipv6.addresses import AddressKind
from tapstack.types import address
from unimux.node import Node, NodeConfig
from unimux.poolstate import PoolConfig

from ..unimux.lan import PREFIX, Lan, lan, virtual

STATE = 624
"""Words of a twister's state."""
SERVER, OTHER = "2001:db8:1::b", "2001:db8:1::c"
FLOWS = 8
FIRST_PORT = 49152
AHEAD = 400
"""Words that the attacker looks ahead: a few are drawn for each flow and each address, and 20 bits are rarely met by chance."""


def before_tempering(word: int) -> int:
    """The word of a twister's state that was put out as `word`."""
    word ^= word >> 18
    word ^= word << 15 & 0xEFC60000
    found = word
    for _ in range(4):
        found = word ^ (found << 7 & 0x9D2C5680)
    word = found
    for _ in range(2):
        found = word ^ found >> 11
    return found


def foretell(seen: list[int]) -> list[int]:
    """What a twister that has put out these 624 words puts out next."""
    assert len(seen) == STATE
    twister = Random()
    twister.setstate((3, (*map(before_tempering, seen), STATE), None))
    return [twister.getrandbits(32) for _ in range(AHEAD)]


def explained(values: list[int], bits: int, words: list[int]) -> int:
    """How many of the values, of so many bits, are the top of one of the words, as `getrandbits` takes it."""
    tops = {word >> 32 - bits for word in words}
    return sum(value in tops for value in values)


def identifications(net: Lan) -> list[int]:
    """Those of the fragmented datagrams to the server, in order."""
    seen = (packet for _, packet in net.packets(IPv6ExtHdrFragment) if packet[IPv6].dst == SERVER)
    return list(dict.fromkeys(packet[IPv6ExtHdrFragment].id for packet in seen))


def nonces(net: Lan, mac: str) -> list[bytes]:
    """The nonces in probes from a link-layer address (RFC 7527), in order: six bytes behind type and length of the option."""
    seen = (packet for _, packet in net.packets(ICMPv6ND_NS) if packet.src == mac and packet[IPv6].src == "::")
    return [bytes(packet[ICMPv6ND_NS])[26:32] for packet in seen]


@pytest.mark.proves("UM-GEN-7")
def test_who_saw_what_a_node_drew_foretells_nothing() -> None:
    async def main() -> None:
        async with lan() as net:
            alice = await net.node(pool=PoolConfig(low=FLOWS, high=16))
            for host in (SERVER, OTHER):
                node = await net.node()
                node.stack.host.addresses.add(address(host), AddressKind.STABLE, node.now())
                node.driver.kick()
            await asyncio.sleep(20)
            flow = alice.datagrams.flow(address(SERVER), 9, lambda datagram: None)
            flow.send(b"resolve the server's address")
            await asyncio.sleep(5)  # and the pool is full again: nothing else is drawn meanwhile
            for _ in range(STATE + 100):
                flow.send(bytes(2000))
                await asyncio.sleep(0.001)
            seen = identifications(net)
            assert len(seen) == STATE + 100
            assert explained(seen[STATE:], 32, foretell(seen[:STATE])) == 0, "later identifications"
            words = foretell(seen[-STATE:])
            net.frames.clear()
            flows = [alice.datagrams.flow(address(OTHER), 53, lambda datagram: None) for _ in range(FLOWS)]
            for each in flows:
                each.send(b"question")
            await asyncio.sleep(5)
            found = [packet for _, packet in net.packets(UDP) if packet[IPv6].dst == OTHER]
            assert len(found) == FLOWS
            assert explained([packet[IPv6].fl for packet in found], 20, words) == 0, "flow labels"
            ports = [packet[UDP].sport - FIRST_PORT for packet in found]
            assert max(explained(ports, 14, words), explained(ports, 15, words)) < FLOWS / 2, "ports"
            halves = [nonce[at : at + 4] for nonce in nonces(net, "02:00:00:00:00:01") for at in (0, 2)]
            assert len(halves) >= 2 * FLOWS, "the pool was filled again"
            read = [int.from_bytes(half, order) for half in halves for order in ("big", "little")]
            assert explained(read, 32, words) == 0, "nonces"

    virtual(main())


def test_control_a_twister_does_not_withstand_it() -> None:
    victim = Random(b"thirty-two bytes that nobody knows")
    victim.randbytes(64)  # secrets
    words = foretell([victim.getrandbits(32) for _ in range(STATE)])
    assert explained([victim.getrandbits(32) for _ in range(20)], 32, words) == 20
    ports = [victim.choice(range(FIRST_PORT, 1 << 16)) - FIRST_PORT for _ in range(20)]
    assert explained(ports, 15, words) == 20
    assert explained([victim.getrandbits(20) for _ in range(20)], 20, words) == 20
    nonce = victim.randbytes(6)
    assert explained([int.from_bytes(nonce[:4], "little")], 32, words) == 1


@pytest.mark.proves("UM-GEN-7")
def test_nodes_without_a_seed_draw_differently() -> None:
    async def drawn() -> list[bytes]:
        async with lan() as net, Node(net.switch.connect(bytes([2, 0, 0, 0, 0, 77])), NodeConfig()) as node:
            node.stack.host.prefix_list.add_static(address(PREFIX), 64, autonomous=True, now=node.now())
            await node.ready(4, 60)
            return nonces(net, "02:00:00:00:00:4d")

    found: list[bytes] = []

    async def run() -> None:
        found.extend(await drawn())

    for _ in range(2):
        virtual(run())
    assert len(found) >= 10
    assert len(set(found)) == len(found)
