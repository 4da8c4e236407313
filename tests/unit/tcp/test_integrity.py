"""Every byte stream arrives equal, both ways, whatever the wire does to it; and nothing is left behind."""

from __future__ import annotations

import random

import pytest

from tapstack.tcp.options import PortMode, SocketOptions, TimeWait

from .pair import End, Pair, read_all

SEEDS = range(24)


def impairment(rng: random.Random, pair: Pair) -> dict[str, float]:
    """Put a randomly chosen mix of loss, reordering, duplication and corruption on the wire; returns the rates."""
    rates = {
        "loss": rng.choice([0, 0.01, 0.05, 0.1]),
        "reorder": rng.choice([0, 0.05, 0.2]),
        "duplicate": rng.choice([0, 0.02]),
        "corrupt": rng.choice([0, 0.01]),
    }

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if rng.random() < rates["loss"]:
            return []
        out: list[bytes | tuple[float, bytes]] = [packet]
        if rng.random() < rates["reorder"]:
            out = [(rng.random() * 0.05, packet)]
        if rng.random() < rates["duplicate"]:
            out.append(packet)
        if rng.random() < rates["corrupt"]:
            spoilt = bytearray(packet)
            spoilt[40 + rng.randrange(len(spoilt) - 40)] ^= 1 << rng.randrange(8)
            out = [bytes(spoilt)]
        return out

    pair.meddle = meddle
    return rates


@pytest.mark.proves("UM-REL-1", "ST-TCP-1", by="api")
@pytest.mark.parametrize("seed", SEEDS)
def test_streams_arrive_equal_both_ways(seed: int) -> None:
    rng = random.Random(seed)
    pair = Pair(delay=rng.choice([0.001, 0.02, 0.1]))
    rates = impairment(rng, pair)
    mode = rng.choice([PortMode.L0, PortMode.L1, PortMode.L2])
    client, server = pair.connect(SocketOptions(mode=mode, time_wait=TimeWait.SHORT))
    there, back = rng.randbytes(rng.randrange(300_000)), rng.randbytes(rng.randrange(300_000))
    client.write(there)
    client.shutdown(pair.now)
    server.write(back)
    arrived_there, arrived_back = bytearray(), bytearray()

    def finished() -> bool:
        arrived_there.extend(read_all(server))
        arrived_back.extend(read_all(client))
        if len(arrived_there) >= len(there):
            server.shutdown(pair.now)
        return not len(pair.a.host.addresses) and not len(pair.b.host.addresses)

    pair.run(2000, until=finished)
    assert arrived_there == there, rates
    assert arrived_back == back, rates
    assert finished(), "an address is still held"
    assert (client.error, server.error) == (None, None)


def test_a_clean_wire_needs_no_retransmission() -> None:
    pair = Pair()
    client, server = pair.connect()
    data = random.Random(1).randbytes(2_000_000)
    client.write(data)
    arrived = bytearray()

    def finished() -> bool:
        arrived.extend(read_all(server))
        return len(arrived) == len(data)

    pair.run(60, until=finished)
    assert arrived == data
    assert client.sender.retransmissions == 0
    assert not pair.a.counters.drops
    assert not pair.b.counters.drops
