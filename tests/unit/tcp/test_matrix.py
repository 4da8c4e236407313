"""Data integrity over the matrix of path × controller × offload; hashes of both directions are compared."""

from __future__ import annotations

import hashlib
from random import Random
from typing import Literal

import pytest

from tapstack.tcp.congestion import known
from tapstack.tcp.options import Ecn, SocketOptions, TimeWait

from .pair import End, Pair, read_all
from .path import DATA
from .seen import stream

SIZE = 250_000
LINKS: list[Literal["cut", "whole"] | None] = [None, "cut", "whole"]
PATHS = {
    "clean": (0.0, 0.001, 0.0),
    "loss 1 %": (0.01, 0.02, 0.0),
    "loss 5 %, long": (0.05, 0.05, 0.0),
    "reordering": (0.0, 0.01, 0.3),
    "all": (0.03, 0.02, 0.1),
}


def bad_wire(pair: Pair, rng: Random, loss: float, reorder: float, *, corrupt: bool) -> None:
    """Loss, reordering, duplication, corruption and congestion marks, both ways."""

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if rng.random() < loss:
            return []
        late = rng.random() * pair.delay if rng.random() < reorder else 0.0
        if loss and packet[1] & 0x30 == 0x20 and rng.random() < 0.02:
            packet = packet[:1] + bytes([packet[1] | 0x30]) + packet[2:]
        out: list[bytes | tuple[float, bytes]] = [(late, packet)]
        if loss and rng.random() < 0.01:
            out.append(packet)
        if corrupt and loss and rng.random() < 0.01:
            spoilt = bytearray(packet)
            spoilt[40 + rng.randrange(len(spoilt) - 40)] ^= 1 << rng.randrange(8)
            out = [bytes(spoilt)]
        return out

    pair.meddle = meddle


@pytest.mark.proves("ST-TCP-1", "ST-TCP-5", "ST-LINK-1")
@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("controller", known())
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sack", [True, False])
def test_both_streams_arrive_equal(
    link: Literal["cut", "whole"] | None, controller: str, path: str, sack: bool, rng: Random
) -> None:
    loss, delay, reorder = PATHS[path]
    pair = Pair(delay=delay, offload=link)
    bad_wire(pair, rng, loss, reorder, corrupt=True)
    options = SocketOptions(
        congestion=controller, time_wait=TimeWait.SHORT, sack=sack, timestamps=rng.random() < 0.7,
        ecn=rng.choice([Ecn.OFF, Ecn.REQUEST]), pacing=rng.random() < 0.3,
    )  # fmt: skip
    client, server = pair.connect(options)
    hashes = {client: hashlib.sha256(), server: hashlib.sha256()}
    for connection in (client, server):
        connection.write(DATA[:SIZE])
        connection.shutdown(pair.now)

    def finished() -> bool:
        for connection, digest in hashes.items():
            digest.update(read_all(connection))
        return not len(pair.a.host.addresses) and not len(pair.b.host.addresses)

    pair.run(900, until=finished)
    assert finished(), "an address is still held"
    expected = hashlib.sha256(DATA[:SIZE]).hexdigest()
    assert [digest.hexdigest() for digest in hashes.values()] == [expected, expected]
    assert [hashlib.sha256(stream(pair, who)).hexdigest() for who in "ab"] == [expected, expected]
    assert (client.error, server.error) == (None, None)
    assert pair.a.tcp.budget.used == pair.b.tcp.budget.used == 0


def test_the_matrix_would_see_a_wrong_byte(rng: Random) -> None:
    """Negative control: a wire that changes a byte and repairs the checksum."""
    from . import wire

    pair = Pair()
    pair.meddle = lambda end, packet: [wire.fixed(packet[:-1] + b"\0") if len(packet) > 1000 else packet]
    client, server = pair.connect()
    client.write(b"\1" * 5000)
    pair.run(2)
    assert read_all(server) != b"\1" * 5000
