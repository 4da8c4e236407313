"""A second opinion: a legacy peer that is not this machine's kernel, but another Linux, with netem, in both roles."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from itertools import cycle, pairwise
from pathlib import Path
from random import Random

import pytest

from tapstack.tcp.options import PortMode
from tests.plugins import taps
from tests.real.um.cells import Cell, judge_cell, offer, rows
from tests.real.um.judge import segments, sessions, sound
from tests.real.um.talk import answer_to

from .room import PEER, Call, LinuxLan, lan
from .rows import as_parameters, call_legacy_server, legacy_rows

pytestmark = [pytest.mark.real("dumpcap", "linux.uml"), pytest.mark.timeout(180)]
SESSIONS = 5
SIZE = 30_000
DISTURBED_SIZE = 50_000


@pytest.fixture(scope="module")
def net() -> Iterator[LinuxLan]:
    with lan() as made:
        yield made


async def play(net: LinuxLan, cell: Cell, stack: AsyncExitStack, rng: Random, size: int) -> list[bytes]:
    """The sessions of a row; returns the requests, each of which got the right answer."""
    if cell.server.startswith("L"):
        return await call_legacy_server(net.node, cell, rng, size)
    server, addresses = await offer(net.node, cell, rng)
    stack.callback(server.close)
    calls_of_peer = [
        Call(where, port, cell.source_port, rng.getrandbits(32))
        for where, port in zip(addresses, cycle(cell.named_ports))  # ports are named in turn
    ]
    await net.peer.call(calls_of_peer, size)
    return [each.request(size) for each in calls_of_peer]


@pytest.mark.parametrize("cell", as_parameters(legacy_rows(SESSIONS)))
def test_row(net: LinuxLan, cell: Cell, artefacts: Path, rng: Random) -> None:
    """As between this machine's kernel and a node: sessions at once, each whole, with the addresses and ports of its row."""
    capture = artefacts / "switch.pcapng"

    async def main() -> list[bytes]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(net.captured(capture))
            return await play(net, cell, stack, rng, SIZE)

    judge_cell(cell, capture, net.run(main()))


@pytest.mark.proves("ST-TCP-1", "ST-TCP-3")
def test_every_byte_arrives_although_the_peer_disturbs_what_it_sends(artefacts: Path, rng: Random) -> None:
    """User-mode Linux delays, loses, repeats and reorders its own segments; every mode, both directions, both roles, at once."""
    capture = artefacts / "switch.pcapng"
    cells = [row for row in rows() if row.parallel == 1 and row.server == "L(LA,WP)"]
    cells += [Cell(mode, "U(SSA,*)", "L(LA,EP)", 1) for mode in (PortMode.L1, PortMode.L2)]
    cells.append(Cell(PortMode.AWARE, "U(*,WP)", "L(LA,EP)", 1))

    async def main(net: LinuxLan) -> list[bytes]:
        taps.disturbs()
        await net.peer.netem(delay=5000, jitter=3000, loss=2, duplicate=20, reorder=5)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(net.captured(capture))
            played = await asyncio.gather(*(play(net, cell, stack, rng, DISTURBED_SIZE) for cell in cells))
            return [request for requests in played for request in requests]

    with lan() as net:
        requests = net.run(main(net))
    sound(capture)
    found = [each for each in sessions(segments(capture), by_ports=True) if each.request]
    assert sorted(each.request for each in found) == sorted(requests)
    assert all(each.answer == answer_to(each.request) for each in found)
    said = [[s.seq for s in (each.sent if each.client == PEER else each.answered) if s.data] for each in found]
    repeated = sum(len(numbers) - len(set(numbers)) for numbers in said)
    overtaken = sum(later < earlier for numbers in said for earlier, later in pairwise(numbers))
    total = sum(len(numbers) for numbers in said)
    assert repeated > total / 14 and overtaken > total / 50, "the peer disturbed less than it was told to"
