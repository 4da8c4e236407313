"""An ended connection's memory is free with the last reference to it: no cycle waits for the garbage collector."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from tapstack.tcp.connection import Connection
from tapstack.tcp.options import SocketOptions, TimeWait
from unimux import errors
from unimux.transport import SessionTransport

from .lan import lan, virtual


class Talker(asyncio.Protocol):
    """Says a word when it is told to, and does what `word` asks of it; `ended` when the connection is lost."""

    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data == b"close":
            self.transport.close()
        elif data == b"reset":
            self.transport.abort()
        else:
            self.transport.write(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.ended.set_result(None)


@contextmanager
def collected_by_hand() -> Iterator[Callable[[], list[object]]]:
    """Gives what tells the connections and transports that are in memory, without those that other tests' reports still hold."""
    gc.collect()
    gc.disable()

    def all_in_memory() -> list[object]:
        return [each for each in gc.get_objects() if isinstance(each, Connection | SessionTransport)]

    before = all_in_memory()  # held, so that none of them ends and gives its place in memory to a new one
    known = set(map(id, before))
    try:
        yield lambda: [each for each in all_in_memory() if id(each) not in known]
    finally:
        gc.enable()


@pytest.mark.parametrize("time_wait", TimeWait)
@pytest.mark.parametrize("end", ["client closes", "client resets", b"close", b"reset"])
def test_nothing_of_a_connection_waits_for_the_garbage_collector(end: str | bytes, time_wait: TimeWait) -> None:
    async def one(transport: asyncio.Transport, talker: Talker) -> None:
        transport.write(b"hello" if isinstance(end, str) else end)
        if isinstance(end, str):
            await asyncio.sleep(1)
            (transport.close if end == "client closes" else transport.abort)()
        await talker.ended

    async def main() -> None:
        async with lan(latency=0.001) as net:
            client, server = await net.node(), await net.node()
            options = SocketOptions(time_wait=time_wait, msl=1.0)
            service = server.listen(Talker, options=options)
            await client.ready()
            with collected_by_hand() as remains:
                for _ in range(3):
                    ssa = await service.issue()
                    transport, talker = await client.create_connection(Talker, ssa.address, None, options=options)
                    assert isinstance(talker, Talker)
                    await asyncio.sleep(1)
                    assert len(remains()) == 4, "two connections and two transports"
                    await one(transport, talker)
                    del transport, talker, ssa
                    await asyncio.sleep(10)
                    assert remains() == []

    virtual(main())


@pytest.mark.parametrize("dead", [0, 1, 2])
def test_nothing_of_a_name_with_dead_addresses_waits_for_the_garbage_collector(dead: int) -> None:
    async def main() -> None:
        async with lan(latency=0.001) as net:
            server = await net.node()
            service = server.listen(Talker)
            ssa = await service.issue()
            names = {"name": [*(f"2001:db8:1::dead:{number}" for number in range(dead)), str(ssa.address)]}
            client = await net.node(names=names)
            await client.ready()
            with collected_by_hand() as remains:
                with suppress(errors.ConnectError):
                    transport, talker = await client.create_connection(Talker, "name", None, timeout=10.0)
                    assert isinstance(talker, Talker)
                    transport.abort()
                    await talker.ended
                    del transport, talker
                await asyncio.sleep(10)
                assert remains() == []
                assert client.stack.counters.frames_out > 2 * dead

    virtual(main())


@pytest.mark.parametrize("patience", [1.0, 10.0])
def test_nothing_of_a_connect_that_fails_waits_for_the_garbage_collector(patience: float) -> None:
    async def main() -> None:
        async with lan(latency=0.001) as net:
            client = await net.node()
            await client.ready()
            with collected_by_hand() as remains:
                with suppress(errors.ConnectError):
                    await client.create_connection(Talker, "2001:db8:1::dead", 80, timeout=patience)
                await asyncio.sleep(10)
                assert remains() == []

    virtual(main())
