"""A second opinion: a legacy peer that is not this machine's kernel, but another Linux, with netem, in both roles."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest

from tapstack.tcp.options import PortMode
from tests.plugins import taps
from tests.real.um.judge import segments, sessions, sound
from tests.real.um.talk import answer_to, ask, end, respond
from unimux.aio import open_connection, start_server

from .room import PEER, Lan, lan

pytestmark = [pytest.mark.real("dumpcap", "linux.uml"), pytest.mark.timeout(180)]
PORT = 8080
SESSIONS = 5


@pytest.fixture(scope="module")
def net() -> Iterator[Lan]:
    with lan() as made:
        yield made


def judge(capture: Path, requests: list[bytes]) -> None:
    """Every session of the capture is whole, ended in order, and has an address pair of its own."""
    sound(capture)
    found = [each for each in sessions(segments(capture), by_ports=True) if each.request]
    assert sorted(each.request for each in found) == sorted(requests)
    assert all(each.answer == answer_to(each.request) and each.ended and not each.resets() for each in found)
    assert len({frozenset((each.client, each.server)) for each in found}) == len(requests)


@pytest.mark.proves("UM-NODE-1", "UM-NODE-3")
@pytest.mark.parametrize("mode", PortMode)
def test_a_unified_client_and_a_legacy_server(net: Lan, mode: PortMode, artefacts: Path, rng: Random) -> None:
    capture = artefacts / "switch.pcapng"
    requests = [rng.randbytes(30_000) for _ in range(SESSIONS)]

    async def main() -> None:
        async with net.captured(capture):
            calls = (open_connection(net.node, PEER, PORT, mode=mode, timeout=30) for _ in requests)
            streams = await asyncio.gather(*calls)
            answers = await asyncio.gather(*(ask(each, said) for each, said in zip(streams, requests, strict=True)))
            assert answers == [answer_to(said) for said in requests]
            await asyncio.gather(*(end(each) for each in streams))

    net.run(main())
    judge(capture, requests)


@pytest.mark.proves("UM-NODE-1", "UM-NODE-3")
@pytest.mark.parametrize("mode", [PortMode.L1, PortMode.L2])
def test_a_legacy_client_and_a_unified_server(net: Lan, mode: PortMode, artefacts: Path, rng: Random) -> None:
    capture = artefacts / "switch.pcapng"
    seeds = [rng.getrandbits(32) for _ in range(SESSIONS)]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(net.captured(capture))
            server = start_server(net.node, respond, mode=mode)
            stack.callback(server.close)
            addresses = [str(await server.issue()) for _ in seeds]
            await asyncio.gather(
                *(net.peer.call(where, PORT, seed, 30_000) for where, seed in zip(addresses, seeds, strict=True))
            )

    net.run(main())
    judge(capture, [Random(seed).randbytes(30_000) for seed in seeds])


@pytest.mark.proves("ST-TCP-1", "ST-TCP-3")
def test_every_byte_arrives_although_the_peer_disturbs_what_it_sends(artefacts: Path, rng: Random) -> None:
    """User-mode Linux delays, loses, repeats and reorders its own segments; both directions, both roles."""
    capture, seed = artefacts / "switch.pcapng", rng.getrandbits(32)
    request = rng.randbytes(150_000)

    async def main(net: Lan) -> None:
        taps.disturbs()
        await net.peer.netem(delay=5000, jitter=3000, loss=2, duplicate=20, reorder=5)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(net.captured(capture))
            server = start_server(net.node, respond, mode=PortMode.L1)
            stack.callback(server.close)
            streams = await open_connection(net.node, PEER, PORT, mode=PortMode.L1, timeout=60)
            called = asyncio.ensure_future(net.peer.call(str(await server.issue()), PORT, seed, 150_000))
            assert await ask(streams, request) == answer_to(request)
            await end(streams)
            await called

    with lan() as net:
        net.run(main(net))
    sound(capture)
    found = [each for each in sessions(segments(capture), by_ports=True) if each.request]
    assert {each.request for each in found} == {request, Random(seed).randbytes(150_000)}
    numbers = [[s.seq for s in side if s.data] for each in found for side in (each.sent, each.answered)]
    assert any(len(set(each)) < len(each) for each in numbers), "nothing was repeated: the peer disturbed nothing"
