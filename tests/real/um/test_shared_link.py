"""A hundred sessions at once on a shared link: each address with its DAD, group, promotion and release, as the router sees it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

import pytest

from compat.kernel import topology
from scenarios.witness import CaptureFile, Setup, UnifiedNode, Verdict, judge
from tapstack.tcp.options import PortMode
from tests.unit.unimux.lan import in_use
from unimux.aio import open_connection, start_server

from ..wire import capturing
from . import legacy
from .cells import WP
from .room import PROGRAMS, room
from .talk import answer_to, ask, end, respond

RULES = (
    "captures-whole",
    "own-pair",
    "complete",
    "dad-first",
    "group-held",
    "promotion-once",
    "speaks-within-life",
    "released",
    "never-again",
    "hop-limits",
    "checksums",
    "within-mtu",
    "claims",
)


@pytest.mark.real(*PROGRAMS)
@pytest.mark.proves("UM-NODE-3", "UM-NODE-4", "UM-ADDR-7", "UM-ADDR-8", "UM-ADDR-9", "UM-REL-1", "UM-DAS-4")
def test_fifty_service_and_fifty_ephemeral_addresses_at_once(artefacts: Path, rng: Random) -> None:
    """A legacy host opens 50 sessions to 50 SSAs while the node opens 50 to it; the wire is held against the events."""
    capture, events = artefacts / "router.pcapng", artefacts / "events.jsonl"
    said = [rng.randbytes(500) for _ in range(100)]
    with room() as net:

        async def main() -> str:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(capturing(net.top.router_server, capture))
                node = await net.attach("newcomer", stack, rng, told=events)
                await stack.enter_async_context(legacy.serve(net.top.client, WP, respond))
                server = start_server(node, respond, mode=PortMode.L1)
                issued = [str(await server.issue()) for _ in range(50)]
                calls = [legacy.connect(net.top.client, ssa, WP) for ssa in issued]
                calls += [open_connection(node, topology.CLIENT_ADDRESS, WP) for _ in range(50)]
                streams = await asyncio.gather(*calls)
                used = [e for e in node.stack.host.addresses if e.users]
                assert len(used) == 100, "all at once"
                answers = await asyncio.gather(*(ask(each, data) for each, data in zip(streams, said, strict=True)))
                assert answers == [answer_to(data) for data in said]
                await asyncio.gather(*(end(each) for each in streams))
                server.close()
                await node.until(lambda: not in_use(node), 90)
                await asyncio.sleep(1.5)  # a group that is left is reported twice
                mac = node.link.properties.mac
                assert mac is not None
                return mac.hex(":")

        mac = net.run(main())
    stable = (topology.SERVER_ROUTER, topology.SERVER_ADDRESS, topology.THIRD_ADDRESS)
    setup = Setup(
        nodes=(UnifiedNode("newcomer", "lan", (mac,), (topology.SERVER_PREFIX,), stable),),
        connections=100,
        real_time=True,
        rules=RULES,
    )
    judgement = judge([CaptureFile(capture, "lan", offload_free=True)], setup, [events], consult_tshark=False)
    assert [f"{f.rule}: {f.sentence}" for f in judgement.findings if f.verdict is not Verdict.PASSED] == []
    assert {finding.rule for finding in judgement.findings} == set(RULES)
    assert len([c for c in judgement.connections if c.complete]) == 100
