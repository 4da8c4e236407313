"""`unimux up` while somebody reads what it says, and afterwards."""

from __future__ import annotations

import asyncio

import pytest

from compat.up import tell_events
from tests.unit.unimux.lan import lan, virtual
from tests.unit.unimux.test_failing_applications import handled


def test_what_happens_is_said_until_nobody_reads_it() -> None:
    said: list[str] = []

    def say(text: str) -> None:
        if len(said) == 3:
            raise BrokenPipeError("nobody reads")
        said.append(text)

    async def main() -> None:
        async with lan() as net:
            node = await net.node()
            told = handled()
            with pytest.raises(BrokenPipeError):
                async with asyncio.timeout(20):
                    await tell_events(node, say)
            await node.ready(4)
            assert not told

    virtual(main())
    assert len(said) == 3
