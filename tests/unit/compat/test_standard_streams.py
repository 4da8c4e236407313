"""Standard input and output of `connect` and `listen`, as whoever started the program left them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from compat.standard import Standard

Pipe = tuple[int, int]


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


def test_an_input_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    """A terminal may be left so by another program; that nothing has been typed yet is not the end."""
    source, feed = pipe
    os.set_blocking(source, False)

    async def main() -> None:
        standard = Standard(source)
        reading = asyncio.ensure_future(standard.read())
        done, _ = await asyncio.wait([reading], timeout=0.2)
        assert not done
        os.write(feed, b"typed")
        assert await asyncio.wait_for(reading, 10) == b"typed"

    asyncio.run(main())


def test_an_output_that_does_not_block_takes_everything(pipe: Pipe) -> None:
    drain, sink = pipe
    os.set_blocking(sink, False)
    data = bytes(range(256)) * 4096

    async def main() -> None:
        standard = Standard(sink=sink)
        writing = asyncio.ensure_future(standard.write(data))
        done, _ = await asyncio.wait([writing], timeout=0.2)
        assert not done, "the pipe is full"
        got = b""
        while len(got) < len(data):
            got += await asyncio.to_thread(os.read, drain, 1 << 20)
        await asyncio.wait_for(writing, 10)
        assert got == data

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
    drain, sink = os.pipe()
    os.close(drain)

    async def main() -> None:
        standard = Standard(sink=sink)
        for _ in range(2):
            with pytest.raises(BrokenPipeError):
                await standard.write(b"for nobody")

    asyncio.run(main())
    os.close(sink)
