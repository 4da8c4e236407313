"""The driver: what it does when its link goes away, and when its loop was late."""

from __future__ import annotations

import asyncio

import pytest

from tapstack.driver import BATCH, PATIENCE
from tapstack.link.errors import LinkLost
from tapstack.link.memory import MemoryLink
from tests.unit.unimux.lan import lan, virtual
from unimux.aio import open_connection, start_server


@pytest.mark.parametrize("direction", ["receive", "send"])
def test_a_lost_link_ends_every_connection_and_tells_the_owner(direction: str) -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()

            async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                await reader.read()
                writer.close()

            ssa = await start_server(bob, hold).issue()
            reader, writer = await open_connection(alice, ssa.address, None)
            link = alice.link
            assert isinstance(link, MemoryLink)

            def gone(*_: object) -> None:
                raise LinkLost("the device is gone")

            setattr(link, direction, gone)
            writer.write(b"anything")
            with pytest.raises(LinkLost, match="gone"):
                await asyncio.wait_for(alice.failed(), 30)
            with pytest.raises(ConnectionError):
                await reader.read()
            assert len(alice.stack.tcp.demux) == 0
            assert not [e for e in alice.stack.host.addresses if e.users]
            await alice.close()

    virtual(main())


NOISE = bytes.fromhex("02 00 00 00 00 01 02 00 00 00 00 09 88b5") + bytes(46)
"""A frame for the first node, of no protocol it knows."""


def order_of_events(frames: int | None) -> list[str]:
    """What a node whose loop was late does first: `frames` wait on its link when a timer is due; None: without end."""
    done: list[str] = []

    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            await asyncio.sleep(30)  # its addresses are there, nothing else is due
            left = frames

            def receive() -> memoryview | None:
                nonlocal left
                if left == 0 or "timer" in done:
                    return None
                if left is not None:
                    left -= 1
                done.append("frame")
                return memoryview(NOISE)

            vars(node.link)["receive"] = receive
            node.stack.timers.timer(lambda now: done.append("timer")).set(node.now() + 0.001)
            node.driver.kick()
            await asyncio.sleep(1)

    virtual(main())
    return done


@pytest.mark.parametrize("waiting", [0, 1, BATCH, 3 * BATCH + 1])
def test_a_late_loop_reads_what_has_come_before_its_timers_act(waiting: int) -> None:
    assert order_of_events(waiting) == ["frame"] * waiting + ["timer"]


def test_a_link_that_is_never_empty_does_not_stop_the_timers() -> None:
    assert order_of_events(None) == ["frame"] * (PATIENCE + 1) * BATCH + ["timer"]
