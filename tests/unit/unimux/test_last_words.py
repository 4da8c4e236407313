"""Two commands that carry one session, as `unimux connect` and `unimux listen` do, each on a node that it closes at its end.

Whichever ends first, and whatever of the ending is lost once: both have everything, and neither waits for a node that is gone.
"""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from tests.unit.unimux.lan import Lan, lan, virtual
from unimux.aio import open_connection, start_server
from unimux.node import CLOSE_TIMEOUT, Node

SOON = 2 * CLOSE_TIMEOUT


async def carry(
    rng: Random, node: Node, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, out: bytes
) -> bytes:
    """Send `out` and its end while what comes is read, and stop the node when both is over; what came."""

    async def send() -> None:
        await asyncio.sleep(rng.choice([0, 0.001, 0.003, 0.01]))
        writer.write(out)
        writer.write_eof()
        writer.transport.set_write_buffer_limits(high=0)
        await writer.drain()

    _, came = await asyncio.gather(send(), reader.read())
    writer.close()
    await node.close()
    return came


async def session(net: Lan, rng: Random, lost: float) -> None:
    alice, bob = await net.node(), await net.node()
    words = [rng.randbytes(rng.choice([1, 700, 50_000])) for _ in range(2)]
    served: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            served.set_result(await carry(rng, bob, reader, writer, words[1]))
        except Exception as error:
            served.set_exception(error)

    ssa = await start_server(bob, serve, limit=1).issue()
    reader, writer = await open_connection(alice, ssa.address, None)
    net.switch.unlucky = lambda frame: rng.random() < lost
    begun = alice.now()
    came = await carry(rng, alice, reader, writer, words[0])
    assert [came, await served] == words[::-1]
    assert asyncio.get_running_loop().time() - begun < SOON


@pytest.mark.proves("UM-REL-1", by="api")
@pytest.mark.parametrize("lost", [0.0, 0.03])
@pytest.mark.parametrize("seed", range(20))
def test_neither_waits_for_a_node_that_is_gone(seed: int, lost: float) -> None:
    async def main() -> None:
        rng = Random(seed)
        async with lan(rng.choice([0.0001, 0.001, 0.01])) as net:
            await session(net, rng, lost)

    virtual(main())
