"""What the server of a shared secret keeps on disk, and what it does where that is old or cannot be written (UM-GEN-6)."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path

import pytest

from tests.unit.unimux.lan import lan, virtual
from tests.unit.unimux.test_secret import SHARED, client_of, service, talk
from unimux.ssa.counters import CounterFile, MemoryCounters, counter_file_name
from unimux.state import MemoryState, StateError


@pytest.mark.proves("UM-GEN-5", "UM-GEN-6", by="api")
def test_a_restart_goes_on_where_the_record_says(tmp_path: Path) -> None:
    """What served a session never comes again; what was only reserved is taken up, but not after a doubt."""

    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            client = client_of(alice)
            path = tmp_path / "record.json"
            window = bob.window(CounterFile(path))
            await bob.armed(window, [0, 1, 2, 3])
            await talk(client)
            await talk(client)
            window.close(bob.node.now())
            await asyncio.sleep(5)
            again = bob.window(CounterFile(path))
            await bob.armed(again, [2, 3, 4, 5])
            await talk(client)
            assert client.attempts[-2:] == [(1, None), (2, None)]
            again.close(bob.node.now())
            await asyncio.sleep(5)
            assert isinstance(bob.node.source.state, MemoryState)
            bob.node.source.state.rekey("a doubt")
            with CounterFile(path) as record:
                first = record.reserved
            for _ in range(2):  # a start in which nobody comes does not forget the doubt
                doubtful = bob.window(CounterFile(path))
                await bob.node.until(lambda: len(doubtful.armed) == 4, 10)  # noqa: B023
                assert min(doubtful.armed) >= first > 11
                doubtful.close(bob.node.now())
                await asyncio.sleep(5)
            last = bob.window(CounterFile(path))
            await bob.node.until(lambda: len(last.armed) == 4, 10)
            await talk(client)
            assert client.counters.used >= first

    virtual(main())


def test_a_window_whose_record_cannot_be_kept_closes_and_says_so() -> None:
    class Broken(MemoryCounters):
        def save(self) -> None:
            if self.used >= 0:
                raise StateError("The counters cannot be written: disk full.")

    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            failures: list[str] = []
            window = bob.window(Broken(), failed=lambda error: failures.append(str(error)))
            await bob.armed(window, [0, 1, 2, 3])
            await talk(client_of(alice))
            await bob.node.until(lambda: not bob.server.armed, 5)
            assert str(window.failure) == "The counters cannot be written: disk full."
            assert "The counters cannot be written: disk full." in bob.causes
            assert failures == ["The counters cannot be written: disk full."]

    virtual(main())


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
def test_what_served_does_not_serve_again_though_the_disk_was_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice, third = await service(net), await net.node(), await net.node()
            path = tmp_path / "record.json"
            window = bob.window(CounterFile(path))
            await bob.armed(window, [0, 1, 2, 3])

            def full(path: Path, data: bytes) -> None:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            with monkeypatch.context() as patch:
                patch.setattr("unimux.ssa.counters.replace_durably", full)
                await talk(client_of(alice))
                await bob.node.until(lambda: not bob.server.armed, 5)
            assert "No space left on device" in str(window.failure)
            await asyncio.sleep(10)
            bob.node.source.state.forget(window._served_on_record)  # on that disk, too
            again = bob.window(CounterFile(path))
            await bob.armed(again, [16, 17, 18, 19])
            await talk(other := client_of(third))
            assert other.counters.used in range(16, 20)
            assert sorted(os.listdir(tmp_path)) == ["record.json", "record.lock"]
            again.close(bob.node.now())
            await asyncio.sleep(5)
            last = bob.window(CounterFile(path))
            await bob.node.until(lambda: len(last.armed) == 4, 10)
            assert min(last.armed) == other.counters.used + 1

    virtual(main())


@pytest.mark.proves("UM-GEN-6", "UM-ADDR-9", by="api")
def test_a_record_that_alone_is_put_back_does_not_arm_what_has_served(tmp_path: Path) -> None:
    async def main() -> None:
        async with lan() as net:
            bob, alice = await service(net), await net.node()
            client = client_of(alice)
            path = tmp_path / "record.json"
            window = bob.window(CounterFile(path))
            await bob.armed(window, [0, 1, 2, 3])
            await talk(client)
            backup = path.read_bytes()
            for _ in range(3):
                await talk(client)
            window.close(bob.node.now())
            await asyncio.sleep(5)
            path.write_bytes(backup)
            again = bob.window(CounterFile(path))
            await bob.node.until(lambda: len(again.armed) == 4, 10)
            assert min(again.armed) > client.counters.used == 3
            await talk(client)
            assert client.counters.used > 3

    virtual(main())


def test_a_counter_file_belongs_to_one_process_at_a_time_and_is_never_guessed(tmp_path: Path) -> None:
    path = tmp_path / counter_file_name(SHARED.secret, "server", "echo", "alice")
    with CounterFile(path) as record:
        assert (record.used, record.reserved) == (-1, 0)
        record.used = 7
        record.save()
        with pytest.raises(StateError, match="Another process"):
            CounterFile(path)
    with pytest.raises(StateError, match="given back"):
        record.save()
    with CounterFile(path) as record:
        assert record.used == 7
    path.write_text('{"used": 3')
    with pytest.raises(StateError, match="damaged"):
        CounterFile(path)
