"""A fault in the middle of one connection, here of a controller of the user's, ends that connection and no other one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, ClassVar

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6

from tapstack.events import DropReason
from tapstack.tcp.congestion.newreno import NewReno
from tapstack.tcp.options import SocketOptions
from tapstack.types import address
from tests.unit.unimux.lan import Lan, handled, lan, settle, virtual
from unimux.aio import open_connection, start_server
from unimux.node import Node

CONTENT = random.Random(9).randbytes(2_000_000)


class Mistake(Exception):
    """What the controller raises."""


class Faulty(NewReno):
    """Raises in the callback that `at` names."""

    at: ClassVar[str] = ""

    def __getattribute__(self, name: str) -> Any:
        if name == Faulty.at:
            raise Mistake(name)
        return super().__getattribute__(name)


OPTIONS = SocketOptions(congestion=f"{Faulty.__module__}:Faulty")


@asynccontextmanager
async def talking() -> AsyncIterator[tuple[Lan, Node, Node, asyncio.StreamWriter]]:
    """Two nodes, and a connection between them whose controller is about to be faulty."""
    Faulty.at = ""
    async with asyncio.timeout(3600), lan() as net:
        alice, bob = await net.node(), await net.node()
        await asyncio.gather(alice.ready(4), bob.ready(4))
        ssa = await bob.listen(asyncio.Protocol).issue()
        _, writer = await open_connection(alice, ssa.address, None, options=OPTIONS)
        await asyncio.sleep(1)
        try:
            yield net, alice, bob, writer
        finally:
            Faulty.at = ""


async def transfer(alice: Node, bob: Node) -> bool:
    """Whether CONTENT arrives on a connection of its own."""
    arrived = asyncio.get_running_loop().create_future()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        arrived.set_result(await reader.read())
        writer.close()

    ssa = await start_server(bob, take).issue()
    _, writer = await open_connection(alice, ssa.address, None)
    writer.write(CONTENT)
    writer.write_eof()
    whole: bool = await arrived == CONTENT
    writer.close()
    return whole


@pytest.mark.proves("UM-REL-1")
@pytest.mark.parametrize(
    ("at", "lost"), [("on_ack", 0), ("cwnd", 0), ("on_congestion", 50), ("on_timeout", 1)], ids=lambda value: str(value)
)
def test_a_faulty_controller_ends_its_own_connection(at: str, lost: int) -> None:
    """Within a frame, the flush, or a timer; the peer is reset, the owner told, the address free, and the count right."""

    async def main() -> None:
        async with talking() as (net, alice, bob, writer):
            told = handled()
            victim = writer.get_extra_info("sockname")[0]
            others = [asyncio.create_task(transfer(alice, bob)) for _ in range(3)]
            await asyncio.sleep(0.01)
            number = count(1)
            net.switch.unlucky = lambda frame: (
                bool(lost) and len(frame) > 200 and address(victim) in frame and next(number) % lost == 0
            )
            Faulty.at = at
            for _ in range(200):
                writer.write(CONTENT[:100_000])
                await asyncio.sleep(0.1)
                if writer.transport.is_closing():
                    break
            else:
                pytest.fail("the fault was never met")
            assert all(await asyncio.gather(*others))
            assert [type(each["exception"]) for each in told] == [Mistake]
            with pytest.raises(Mistake):
                await writer.drain()
            resets = [p for _, p in net.packets(TCP) if p[IPv6].src == victim and p[TCP].flags & 4]
            assert len({p[TCP].seq for p in resets}) == len(resets) > 0, "one for each number that the peer may expect"
            assert alice.stack.counters.drops[DropReason.FAULT] == (at in ("on_ack", "on_congestion"))
            await settle(alice)
            alice.stack.check()

    virtual(main())
