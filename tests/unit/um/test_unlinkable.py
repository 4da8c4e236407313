"""What an observer of two sessions of one node could compare: nothing agrees, nothing counts up (UM-GEN-7; slide 7)."""

from __future__ import annotations

import asyncio
from itertools import pairwise
from random import Random

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from tapstack.tcp.options import PortMode
from tapstack.types import address
from tests.unit.unimux.lan import in_use, virtual
from unimux.aio import open_connection, start_server
from unimux.poolstate import PoolConfig

from .bed import bed, shut

SESSIONS = 200


def clock_of(packet: Packet) -> int:
    """The TSval of a SYN."""
    return next(int(value[0]) for kind, value in packet[TCP].options if kind == "Timestamp")


def spread(values: list[int], bits: int) -> None:
    """Values of so many bits look drawn independently: no counter, no common part, each top bit in about half of them."""
    assert len(set(values)) > 0.95 * len(values)
    steps = {(b - a) % (1 << bits) for a, b in pairwise(values)}
    assert len(steps) > 0.9 * len(values), "the values keep a common step"
    for bit in range(bits - 8, bits):
        share = sum(value >> bit & 1 for value in values) / len(values)
        assert 0.32 < share < 0.68, f"bit {bit} is set in {share:.0%} of the sessions"  # 5 sigma of a fair coin


@pytest.mark.proves("UM-GEN-7", "UM-GEN-1")
@pytest.mark.parametrize("side", ["client", "server"])
def test_sessions_of_one_node_share_no_number(side: str, rng: Random) -> None:
    async def main() -> list[Packet]:
        async with bed(rng, pool=PoolConfig(low=8, high=8)) as made:
            one, two = made.nodes
            frames: list[bytes] = []
            made.switch.observe(lambda when, port, frame: frames.append(bytes(frame)))
            server = start_server(two, lambda reader, writer: writer.close(), mode=PortMode.L1)
            opened = []
            for _ in range(SESSIONS):
                ssa = await server.issue()
                opened.append(await open_connection(one, ssa.address, None, mode=PortMode.L1))
            await asyncio.sleep(0.1)
            shut(*opened)
            await two.until(lambda: not in_use(two), 300)
            return [Ether(frame) for frame in frames]

    found: list[Packet] = []

    async def run() -> None:
        found.extend(await main())

    virtual(run())
    wanted = "S" if side == "client" else "SA"
    syns = [packet for packet in found if TCP in packet and str(packet[TCP].flags) == wanted]
    assert len(syns) == SESSIONS
    spread([packet[TCP].seq for packet in syns], 32)
    spread([clock_of(packet) for packet in syns], 32)
    spread([packet[IPv6].fl for packet in syns], 20)
    spread([int.from_bytes(address(packet[IPv6].src)[8:], "big") for packet in syns], 64)
    if side == "client":
        ports = [packet[TCP].sport for packet in syns]
        assert len(set(ports)) > 0.9 * SESSIONS
        assert len({b - a for a, b in pairwise(ports)}) > 0.9 * SESSIONS
    assert len({packet[IPv6].src for packet in syns}) == SESSIONS


def test_control_a_counter_is_seen() -> None:
    with pytest.raises(AssertionError, match="step"):
        spread([(12345 + 64000 * n) % (1 << 32) for n in range(SESSIONS)], 32)
    with pytest.raises(AssertionError, match="bit"):
        spread([Random(n).getrandbits(30) for n in range(SESSIONS)], 32)
