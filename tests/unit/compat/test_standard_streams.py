"""Standard input and output of `connect` and `listen`, as whoever started the program left them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from io import FileIO

import pytest

from compat.standard import Standard

Pipe = tuple[FileIO, FileIO]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    source, sink = os.pipe()
    with FileIO(source) as reading, FileIO(sink, "w") as writing:
        yield reading, writing


def test_an_input_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    """A terminal may be left so by another program; that nothing has been typed yet is not the end."""
    source, feed = pipe
    os.set_blocking(source.fileno(), False)

    async def main() -> None:
        standard = Standard(source.fileno())
        reading = asyncio.ensure_future(standard.read())
        done, _ = await asyncio.wait([reading], timeout=0.2)
        assert not done
        feed.write(b"typed")
        assert await asyncio.wait_for(reading, 10) == b"typed"
        feed.close()
        for _ in range(2):
            assert await asyncio.wait_for(standard.read(), 10) == b"", "there is one end, and it stays"

    asyncio.run(main())


def test_an_output_that_does_not_block_takes_everything(pipe: Pipe) -> None:
    drain, sink = pipe
    os.set_blocking(sink.fileno(), False)
    data = bytes(range(256)) * 4096

    async def main() -> None:
        standard = Standard(sink=sink.fileno())
        writing = asyncio.ensure_future(standard.write(data))
        done, _ = await asyncio.wait([writing], timeout=0.2)
        assert not done, "the pipe is full"
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), drain)
        assert await asyncio.wait_for(reader.readexactly(len(data)), 60) == data
        await asyncio.wait_for(writing, 10)
        transport.close()

    asyncio.run(main())


STUCK = """
import asyncio, os
from compat.standard import Standard

async def main():
    source, sink = os.pipe()
    standard = Standard(source, sink)
    writing = asyncio.ensure_future(standard.write(bytes(1 << 20)))
    reading = asyncio.ensure_future(Standard(os.pipe()[0]).read())
    await asyncio.wait([writing, reading], timeout=0.2)
    writing.cancel()
    reading.cancel()
    await asyncio.gather(writing, reading, return_exceptions=True)

asyncio.run(main())
print("over")
"""


def test_a_reader_that_stands_still_does_not_keep_the_program_from_ending() -> None:
    """`unimux connect … | less`, then Ctrl-C."""
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("over\n", 0), done.stderr


def test_an_output_that_nobody_reads_any_more_is_an_error(pipe: Pipe) -> None:
    drain, sink = pipe
    drain.close()

    async def main() -> None:
        standard = Standard(sink=sink.fileno())
        for _ in range(2):
            with pytest.raises(BrokenPipeError):
                await standard.write(b"for nobody")

    asyncio.run(main())
