"""`unimux up` while somebody reads what it says, and afterwards."""

from __future__ import annotations

import asyncio
import threading

import pytest

from compat import up
from compat.up import tell_events
from tapstack.ipv6.addresses import AddressKind
from tests.unit.unimux.lan import lan
from tests.unit.unimux.test_failing_applications import handled


def test_what_happens_is_said_until_nobody_reads_it() -> None:
    said: list[str] = []

    def say(text: str) -> None:
        if len(said) == 3:
            raise BrokenPipeError("nobody reads")
        said.append(text)

    async def main() -> None:
        async with lan(latency=0.0002) as net:
            node = await net.node()
            told = handled()
            with pytest.raises(BrokenPipeError):
                async with asyncio.timeout(20):
                    await tell_events(node, say)
            await node.ready(4, 20)
            assert not told

    asyncio.run(main())
    assert len(said) == 3


def test_a_reader_that_stands_still_stops_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """`unimux up | less`, or a terminal that is held: the node goes on, and what finds no room is counted."""
    monkeypatch.setattr(up, "UNREAD", 10)
    going_on = threading.Event()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        assert going_on.wait(20), "the node waits for its reader"

    async def main() -> None:
        async with lan(latency=0.0002) as net:
            node = await net.node(dedicated="2001:db8:a::")

            async def happen() -> None:
                entry = await node.take_address(AddressKind.EPHEMERAL, None, timeout=5)
                node.stack.host.addresses.release(entry, node.now(), "test")

            telling = asyncio.ensure_future(tell_events(node, say))
            async with asyncio.timeout(20):
                while not said:
                    await happen()
                    await asyncio.sleep(0.001)
                for _ in range(50):
                    await happen()
                assert len(said) == 1
                going_on.set()
                while not any(line.endswith(" events were not shown: nobody read them.") for line in said):
                    await happen()
                    await asyncio.sleep(0.001)
            assert len(said) >= 11
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
            lines = len(said)
            await happen()
            assert len(said) == lines

    asyncio.run(main())
