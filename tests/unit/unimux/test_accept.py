"""accept() under way several times at once, given up, and repeated: no session waits beside somebody who waits for it."""

from __future__ import annotations

import asyncio
import gc

import pytest

from tests.unit.unimux.lan import lan, virtual
from unimux.accept import Acceptor, AcceptTimeout
from unimux.aio import open_connection
from unimux.ssa.issue import ServiceAddress


@pytest.mark.proves("UM-LIS-2", by="api")
def test_a_session_goes_to_who_still_waits_when_another_gives_up_in_the_same_moment() -> None:
    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            armed: list[ServiceAddress] = []
            acceptor = Acceptor(bob, auto_arm=2, armed=armed.append)
            await bob.until(lambda: len(armed) == 2, 10)
            first, second = (asyncio.create_task(acceptor.accept()) for _ in range(2))
            await asyncio.sleep(0.1)
            came = acceptor._came

            def came_as_the_first_gives_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                came(reader, writer)
                first.cancel()

            acceptor._came = came_as_the_first_gives_up  # type: ignore[method-assign]
            _, writer = await open_connection(alice, armed[0].address, None)
            with pytest.raises(asyncio.CancelledError):
                await first
            async with asyncio.timeout(5):
                _, accepted = await second
            for each in (writer, accepted):
                each.close()
            acceptor.close()

    virtual(main())


def test_accepting_in_vain_again_and_again_leaves_nothing() -> None:
    async def main() -> None:
        async with lan() as net:
            bob = await net.node()
            acceptor = Acceptor(bob)
            counts = []
            for _ in range(100):
                with pytest.raises(AcceptTimeout):
                    await acceptor.accept(timeout=0.1)
                await asyncio.sleep(0.1)
                counts.append(sum(isinstance(each, asyncio.Future) for each in gc.get_objects()))
            assert counts[-1] <= counts[10] + 10
            assert len(acceptor.server.armed) == 1
            acceptor.close()

    virtual(main())
