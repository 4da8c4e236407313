"""`loop.sendfile` over the node's transport: web servers give files away by it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tapstack.tcp.options import SocketOptions
from tests.unit.unimux import certificates
from tests.unit.unimux.certificates import NAME
from tests.unit.unimux.lan import handled, lan, virtual
from unimux.aio import open_connection
from unimux.tls import connect_tls, tls_factory
from unimux.transport import SessionTransport

CONTENT = random.Random(7).randbytes(3_000_000)
SMALL = SocketOptions(send_buffer=100_000, send_buffer_maximum=100_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file that is larger than the buffers of a connection."""
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


class Sends(asyncio.Protocol):
    """Notes its callbacks, in order; writing is paused and resumed by turns, as asyncio's own protocols take for granted."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.data = b""
        self.error: BaseException | None = None
        self.paused = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def pause_writing(self) -> None:
        assert not self.paused
        self.paused = True
        self.calls.append("pause")

    def resume_writing(self) -> None:
        assert self.paused
        self.paused = False
        self.calls.append("resume")

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.calls.append("eof")
        return True

    def connection_lost(self, exc: BaseException | None) -> None:
        self.calls.append("lost")
        self.error = exc


class Meeting:
    """`sends` on one node, whose transport is the stack's, and streams on another."""

    def __init__(self, sends: Sends, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.sends = sends
        self.reader = reader
        self.writer = writer
        assert isinstance(sends.transport, SessionTransport)
        self.transport = sends.transport

    async def send(self, path: Path, offset: int = 0, count: int | None = None) -> int:
        """`loop.sendfile`, and what it promises of the file's position."""
        with path.open("rb") as file:
            sent = await asyncio.get_running_loop().sendfile(self.transport, file, offset, count)
            assert file.tell() == offset + sent
            return sent


@asynccontextmanager
async def meeting() -> AsyncIterator[Meeting]:
    async with asyncio.timeout(3600), lan() as net:
        alice, bob = await net.node(), await net.node()
        await asyncio.gather(alice.ready(4), bob.ready(4))
        sends = Sends()
        ssa = await bob.listen(lambda: sends, options=SMALL).issue()
        reader, writer = await open_connection(alice, ssa.address, None)
        await asyncio.sleep(1)  # the other end stands, too
        told = handled()
        yield Meeting(sends, reader, writer)
        writer.transport.abort()
        await asyncio.sleep(1)
        assert not told


@pytest.mark.parametrize(
    ("offset", "count"), [(0, None), (1_000_001, None), (5, 70_000), (2_999_990, 100), (3_000_000, None)]
)
def test_a_part_of_a_file_arrives(path: Path, offset: int, count: int | None) -> None:
    wanted = CONTENT[offset:] if count is None else CONTENT[offset : offset + count]

    async def main() -> None:
        async with meeting() as here:
            here.transport.write(b"before")
            sending = asyncio.create_task(here.send(path, offset, count))
            arrived = await here.reader.readexactly(6 + len(wanted))
            assert await sending == len(wanted)
            assert here.transport.get_protocol() is here.sends
            here.transport.write(b"behind")
            here.transport.write_eof()
            assert arrived + await here.reader.read() == b"before" + wanted + b"behind"
            assert not here.sends.calls, "whatever was paused meanwhile was not this protocol"

    virtual(main())


def test_a_slow_reader_holds_the_file_back(path: Path) -> None:
    """What is read ahead of it is bounded."""

    async def main() -> None:
        async with meeting() as here:
            low, high = here.transport.get_write_buffer_limits()
            here.writer.transport.pause_reading()  # type: ignore[attr-defined]
            sending = asyncio.create_task(here.send(path))
            await asyncio.sleep(300)
            assert not sending.done() and low < here.transport.get_write_buffer_size() < high + 2 * 16_384
            here.writer.transport.resume_reading()  # type: ignore[attr-defined]
            arrived = await here.reader.readexactly(len(CONTENT))
            assert await sending == len(CONTENT)
            assert arrived == CONTENT

    virtual(main())


@pytest.mark.parametrize("before", [b"", b"before"])
def test_the_protocol_hears_of_each_pause_once_and_of_its_end_once(before: bytes, path: Path) -> None:
    """Every write fills the buffer: writing is paused as the file ends, and where something precedes it as it begins.

    It is not the protocol that was paused by the file; it may write, and is paused by its own writes.
    """

    async def main() -> None:
        async with meeting() as here:
            here.transport.set_write_buffer_limits(0)
            here.transport.write(before)
            calls = ["pause", "resume"] if before else []
            sent = await here.send(path, 0, 40_000)
            assert (sent, here.transport.get_write_buffer_size() > 0) == (40_000, True)
            assert here.sends.calls == calls
            here.transport.write(b"behind")
            assert here.sends.calls == [*calls, "pause"]
            assert await here.reader.readexactly(len(before) + 40_006) == before + CONTENT[:40_000] + b"behind"
            await here.send(path, 40_000, 5)
            await asyncio.sleep(60)
            assert here.sends.calls == [*calls, "pause", "resume"] and not here.transport.is_closing()

    virtual(main())


def test_what_comes_meanwhile_is_read_afterwards(path: Path) -> None:
    async def main() -> None:
        async with meeting() as here:
            sending = asyncio.create_task(here.send(path))
            here.writer.write(b"hello")
            here.writer.write_eof()
            await asyncio.sleep(60)
            assert not sending.done() and not here.sends.data
            assert await here.reader.readexactly(len(CONTENT)) == CONTENT
            await sending
            await asyncio.sleep(1)
            assert (here.sends.data, here.sends.calls) == (b"hello", ["eof"])

    virtual(main())


@pytest.mark.parametrize("said", [b"", b"hello"])
def test_a_connection_that_breaks_in_the_middle(said: bytes, path: Path) -> None:
    """The call fails, and the protocol hears of the end once, and of what the peer had ended in order before that."""

    async def main() -> None:
        async with meeting() as here:
            sending = asyncio.create_task(here.send(path))
            if said:
                here.writer.write(said)
                here.writer.write_eof()
            await asyncio.sleep(10)
            here.writer.transport.abort()
            with pytest.raises(ConnectionError):
                await sending
            await asyncio.sleep(60)
            assert here.sends.data == said and here.sends.calls == ["eof"] * bool(said) + ["lost"]
            assert isinstance(here.sends.error, ConnectionError)
            with pytest.raises(RuntimeError, match="closing"):
                await here.send(path)

    virtual(main())


@pytest.mark.parametrize("ending", ["close", "abort"])
def test_a_connection_that_is_ended_here_in_the_middle(ending: str, path: Path) -> None:
    async def main() -> None:
        async with meeting() as here:
            sending = asyncio.create_task(here.send(path))
            await asyncio.sleep(10)
            getattr(here.transport, ending)()
            with pytest.raises(ConnectionError):
                await sending
            assert here.sends.calls == ["lost"] and here.sends.error is None
            with suppress(ConnectionError):
                assert CONTENT.startswith(await here.reader.read())

    virtual(main())


def test_a_file_behind_tls(path: Path, tmp_path: Path) -> None:
    server, client = certificates.made(tmp_path)

    async def main() -> None:
        async with asyncio.timeout(3600), lan() as net:
            alice, bob = await net.node(), await net.node()
            sends, takes = Sends(), Sends()
            ssa = str(await bob.listen(tls_factory(lambda: sends, server), options=SMALL).issue())
            await connect_tls(alice, lambda: takes, ssa, 443, client, server_hostname=NAME)
            await asyncio.sleep(1)
            assert sends.transport is not None and takes.transport is not None
            told = handled()
            takes.transport.pause_reading()
            with path.open("rb") as file:
                sending = asyncio.create_task(asyncio.get_running_loop().sendfile(sends.transport, file, 1000))
                await asyncio.sleep(60)
                assert not sending.done()
                takes.transport.resume_reading()
                assert await sending == len(CONTENT) - 1000
            await asyncio.sleep(60)
            assert takes.data == CONTENT[1000:]
            sends.transport.close()
            await asyncio.sleep(60)
            assert takes.calls == ["eof", "lost"] and not told

    virtual(main())
