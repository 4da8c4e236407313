"""A published service, and a process that may open few files."""

from __future__ import annotations

import asyncio
import resource

import pytest

from compat.publisher import _SPARE_FILES, Publisher
from tests.plugins.openfiles import no_file_left
from tests.unit.compat.publishing import ask, stage
from unimux.aio import open_connection
from unimux.errors import SetupError


def test_there_are_no_more_sessions_than_files_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        done = asyncio.Event()

        async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await done.wait()
            writer.close()

        complaints: list[str] = []
        async with stage(wait, complain=complaints.append) as (alice, publisher):
            ssas = [await publisher.issue() for _ in range(3)]
            sessions = [await open_connection(alice, ssa.address, None) for ssa in ssas[:2]]
            await alice.until(lambda: publisher.counters.active == 2, 5)
            with pytest.raises(ConnectionError):
                await ask(alice, ssas[2].address, b"x")
            assert (publisher.counters.turned_away, publisher.counters.backend_failed) == (1, 0)
            assert complaints == [
                "Clients of echo are reset for want of a file: this process may open only 130 files, see `ulimit -n`."
            ]
            done.set()
            for reader, writer in sessions:
                assert await reader.read() == b""
                writer.close()
            monkeypatch.setattr("resource.getrlimit", lambda which: (_SPARE_FILES, 1 << 20))
            with pytest.raises(SetupError, match=r"may open only 128 files: .* `ulimit -n`"):
                Publisher(alice, "more", publisher.backend)

    monkeypatch.setattr("resource.getrlimit", lambda which: (_SPARE_FILES + 2, 1 << 20))
    asyncio.run(main())


def test_a_lack_of_files_is_not_the_backends_fault() -> None:
    async def main() -> None:
        complaints: list[str] = []
        async with stage(complain=complaints.append) as (alice, publisher):
            ssa, other = await publisher.issue(), await publisher.issue()
            with no_file_left():
                reader, writer = await open_connection(alice, ssa.address, None)
                with pytest.raises(ConnectionError):
                    await reader.read()
                limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
                writer.close()
            assert (publisher.counters.turned_away, publisher.counters.backend_failed) == (1, 0)
            assert complaints == [
                f"Clients of echo are reset for want of a file: this process may open only {limit} files, see `ulimit -n`."
            ]
            assert await ask(alice, other.address, b"again") == b"again"

    asyncio.run(main())
