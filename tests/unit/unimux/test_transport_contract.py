"""What asyncio's transports promise their protocols, and ours have to."""

from __future__ import annotations

import array
import asyncio
from typing import Any

import pytest

from tapstack.tcp.options import SocketOptions
from tests.unit.unimux.lan import lan, virtual
from unimux.aio import open_connection
from unimux.node import Node
from unimux.transport import SessionTransport


class Recorder(asyncio.Protocol):
    """Notes its callbacks; closes or aborts the transport in the one that `at` names."""

    def __init__(self, at: str = "", ending: str = "close") -> None:
        self.at = at
        self.ending = ending
        self.calls: list[str] = []
        self.data = b""
        self.transport: SessionTransport | None = None
        self.over = asyncio.Event()

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if call == self.at:
            assert self.transport is not None
            getattr(self.transport, self.ending)()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, SessionTransport)
        self.transport = transport
        self._note("connection_made")

    def data_received(self, data: bytes) -> None:
        self.data += data
        self._note("data_received")

    def eof_received(self) -> bool:
        self._note("eof_received")
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self._note("connection_lost")
        self.over.set()


@pytest.mark.parametrize("ending", ["close", "abort"])
@pytest.mark.parametrize("at", ["connection_made", "data_received", "eof_received"])
def test_nothing_is_told_after_the_protocol_has_ended_it_but_the_end(at: str, ending: str) -> None:
    """Data and the end of the stream arrive together; who closes at the data does not hear of the end."""

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await asyncio.gather(alice.ready(4), bob.ready(4))
            recorder = Recorder(at, ending)
            ssa = await bob.listen(lambda: recorder).issue()
            _, writer = await open_connection(alice, ssa.address, None)
            writer.write(b"hello")
            writer.write_eof()
            await asyncio.wait_for(recorder.over.wait(), 60)
            await asyncio.sleep(60)
            whole = ["connection_made", "data_received", "eof_received"]
            assert recorder.calls == [*whole[: whole.index(at) + 1], "connection_lost"]
            writer.close()

    virtual(main())


async def joined(net: Any) -> tuple[Node, Recorder, asyncio.StreamReader, asyncio.StreamWriter]:
    alice, bob = await net.node(), await net.node()
    await asyncio.gather(alice.ready(4), bob.ready(4))
    recorder = Recorder()
    ssa = await bob.listen(lambda: recorder).issue()
    reader, writer = await open_connection(alice, ssa.address, None)
    return alice, recorder, reader, writer


def test_a_view_of_anything_is_sent_as_its_bytes() -> None:
    numbers = array.array("I", range(20_000))

    async def main() -> None:
        async with lan() as net:
            _, recorder, _, writer = await joined(net)
            writer.write(memoryview(numbers))
            writer.write(memoryview(numbers)[::2])
            writer.write(b"end")
            writer.write_eof()
            await asyncio.sleep(60)
            assert recorder.data == numbers.tobytes() + numbers[::2].tobytes() + b"end"
            wrongs: list[Any] = ["text", 5, None, numbers]
            for wrong in wrongs:
                with pytest.raises(TypeError):
                    writer.transport.write(wrong)
            writer.close()

    virtual(main())


def test_nothing_can_be_written_after_the_end() -> None:
    async def main() -> None:
        async with lan() as net:
            _, recorder, _, writer = await joined(net)
            writer.write_eof()
            for _ in range(2):
                with pytest.raises(RuntimeError, match="after write_eof"):
                    writer.write(b"more")
                writer.close()
            await asyncio.sleep(60)
            assert recorder.data == b""

    virtual(main())


def test_a_datagram_may_be_a_view_of_anything_too() -> None:
    numbers = array.array("I", range(200))

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await alice.ready(4)
            entry = bob.stack.host.addresses.get(bob.stack.host.link_local or b"")
            assert entry is not None
            server = bob.stack.udp.open(entry, bob.now(), local_port=7)
            flow = alice.datagrams.flow(entry.address, 7, lambda data: None)
            for view in (b"first", memoryview(numbers), memoryview(numbers)[::2], bytearray(b"last")):
                flow.send(view)
                await asyncio.sleep(1)
            received = []
            while (datagram := server.receive()) is not None:
                received.append(datagram.data)
            assert received == [b"first", numbers.tobytes(), numbers[::2].tobytes(), b"last"]
            flow.close()
            server.close(bob.now())

    virtual(main())


@pytest.mark.parametrize(("nodelay", "arrived"), [(None, b"headbody"), (True, b"headbody"), (False, b"head")])
def test_small_writes_leave_at_once_unless_options_say_otherwise(nodelay: bool | None, arrived: bytes) -> None:
    """As on asyncio's own transports, which set TCP_NODELAY, on the side that connects and on the one that accepts."""

    async def main() -> None:
        async with lan() as net:
            alice, bob = await net.node(), await net.node()
            await asyncio.gather(alice.ready(4), bob.ready(4))
            options = SocketOptions(nodelay=nodelay)
            ends = [Recorder(), Recorder()]
            ssa = await bob.listen(lambda: ends[1], options=options).issue()
            await alice.create_connection(lambda: ends[0], str(ssa), None, options=options)
            await asyncio.sleep(1)
            for end, other in (ends, reversed(ends)):
                assert end.transport is not None
                end.transport.set_options(options)
                end.transport.write(b"head")
                await asyncio.sleep(0.0001)
                end.transport.write(b"body")
                await asyncio.sleep(0.0015)  # half a round trip, which is less than an acknowledgement needs
                assert other.data == arrived
                await asyncio.sleep(1)
                assert other.data == b"headbody"
            assert ends[0].transport is not None
            ends[0].transport.close()

    virtual(main())
