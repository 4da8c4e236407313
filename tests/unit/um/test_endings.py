"""Release on every ending (UM-REL-1, UM-REL-2): who holds the address, and what is left after ten thousand endings."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from random import Random

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import SocketOptions
from tests.unit.unimux.lan import virtual
from unimux.aio import start_server
from unimux.poolstate import PoolConfig

from .bed import Bed, Witness, bed
from .endings import ENDINGS, HOLDERS

POOL = PoolConfig(low=64, high=128, limit=2048, pace=0.001, concurrent=256)


@pytest.mark.proves("UM-REL-1", "UM-NODE-4", by="api")
@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("dedicated", [True, False], ids=["dedicated", "on-link"])
def test_an_ending_leaves_nothing(name: str, dedicated: bool, rng: Random) -> None:
    """Three times each, with the node's pool, whichever node calls, whatever mode and TIME-WAIT option are drawn."""

    async def main() -> None:
        async with bed(rng, dedicated=dedicated, pool=POOL) as made:
            for _ in range(3):
                await ENDINGS[name](made)
            await made.quiet()
            await asyncio.sleep(10)
            nothing_left(made)
        told_whole_stories(made.witnesses)

    virtual(main())


SHOWN = {
    "+Connection -Connection": "connection",
    "+Connection +TimeWaitRecord -Connection -TimeWaitRecord": "connection → TIME-WAIT",
    "+ArmedAddress +Connection -ArmedAddress -Connection": "armed SSA → connection",
    "+ArmedAddress +Connection -ArmedAddress +TimeWaitRecord -Connection -TimeWaitRecord": (
        "armed SSA → connection → TIME-WAIT"
    ),
    "+ArmedAddress -ArmedAddress": "armed SSA",
    "+ArmedAddress +Connection -Connection -ArmedAddress": "armed SSA + half-open",
    "+ArmedAddress +Connection +Connection -ArmedAddress -Connection -Connection": "armed SSA → 2 connections",
}


@pytest.mark.proves("UM-REL-1", "UM-REL-2", by="api")
@pytest.mark.parametrize("name", ENDINGS)
def test_the_table_of_endings_and_holders(name: str) -> None:
    """Each ending hands the address from holder to holder without a gap; the last one to let go releases it."""

    async def main() -> None:
        async with bed(Random(1)) as made:
            made.settled = True
            await ENDINGS[name](made)
            await made.quiet()
            await asyncio.sleep(10)
            for node, expected in zip(made.nodes, HOLDERS[name], strict=True):
                logs = [" ".join(log) for key, log in made.holders[node].items() if key[15:] != b"\x01"]
                assert {SHOWN[log] for log in logs} == ({expected} if expected else set())

    virtual(main())


def nothing_left(made: Bed) -> None:
    """Raise AssertionError where anything is left at either node."""
    for node in made.nodes:
        left = {what: count for what, count in made.left(node).items() if count}
        assert left == {}
        node.stack.check()
        node.pool.check()
        reserved = sum(e.kind.one_time for e in node.stack.host.addresses)
        assert len(node.stack.host.multicast) <= reserved + 2, "groups of addresses that are gone"


def told_whole_stories(witnesses: list[Witness]) -> None:
    """Raise AssertionError where events do not tell from beginning to end what happened."""
    for witness in witnesses:
        assert witness.faults(ended=True)[:5] == []


@pytest.mark.proves("UM-REL-1", "UM-REL-2", "UM-NODE-4", by="api")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("dedicated", "count"), [(True, 9000), (False, 1000)], ids=["dedicated-9000", "on-link-1000"])
def test_ten_thousand_mixed_endings_leave_nothing(dedicated: bool, count: int, rng: Random) -> None:
    happened: Counter[str] = Counter()

    async def main() -> None:
        async with bed(rng, dedicated=dedicated, loss=0.01, pool=POOL) as made:
            await asyncio.sleep(60)
            before = [len(node.stack.timers) for node in made.nodes]
            gate = asyncio.Semaphore(100)

            async def one(name: str) -> None:
                async with gate:
                    await ENDINGS[name](made)
                    happened[name] += 1

            names = rng.choices(list(ENDINGS), k=count)
            async with asyncio.TaskGroup() as tasks:
                for name in names:
                    tasks.create_task(one(name))
            await made.quiet()
            await asyncio.sleep(200)
            nothing_left(made)
            after = [len(node.stack.timers) for node in made.nodes]
            assert all(now <= then for now, then in zip(after, before, strict=True)), (after, before)
            gc.collect()
            assert sum(isinstance(each, Connection) for each in gc.get_objects()) == 0
            for node in made.nodes:
                node.pool.close(node.now())
                assert [e for e in node.stack.host.addresses if e.kind.one_time] == []
                assert len(node.stack.host.multicast) == 1, "the group of the link-local address alone"
        told_whole_stories(made.witnesses)
        assert sum(len(witness.connections) for witness in made.witnesses) > count

    virtual(main())
    assert sum(happened.values()) == count
    assert set(happened) == set(ENDINGS)


@pytest.mark.proves("UM-ADDR-11", "UM-REL-1", by="api")
def test_a_prefix_that_goes_takes_half_open_handshakes_with_their_ssas(rng: Random) -> None:
    """The armed address ends its handshakes; they are users of the same address, and end once."""

    async def main() -> None:
        async with bed(rng, dedicated=False, pool=POOL) as made:
            one, two = made.nodes
            server = start_server(two, lambda reader, writer: writer.close())
            ssa = await server.issue()
            entry = await one.take_address(AddressKind.EPHEMERAL, None, timeout=5)
            caller = one.stack.tcp.connect(entry, ssa.address.packed, 80, one.now(), SocketOptions())
            one.driver.kick()
            while not any(armed.half_open for armed in server.listener.armed.values()):
                await asyncio.sleep(0.0001)
            host = two.stack.host
            [prefix] = [prefix for prefix in host.prefix_list if prefix.autonomous]
            host.prefix_list.remove(prefix, two.now())
            assert [entry for entry in host.addresses if entry.address in prefix] == []
            two.pool.check()
            two.stack.check()
            caller.abort(one.now())
            one.driver.kick()
            await made.quiet()

    virtual(main())
