"""Series of connections without a kernel: what fails, steady state, overflows, the peer's clients."""

from __future__ import annotations

import json
import socket
import threading
import time
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from compat.programs.errors import ProgramFailed
from scenarios.bench import peer, workers
from scenarios.bench.connections import Series, connections, first_overflow, steady
from scenarios.bench.overflows import Overflows, overflows
from tapstack.clock import run_virtual
from tapstack.tcp.options import TimeWait


class FewSockets:
    """Stands for a node whose connections fail from a certain one on."""

    def __init__(self, good: int) -> None:
        self.good = good

    async def create_connection(self, factory: Any, host: str, port: int, **more: object) -> tuple[None, Any]:
        self.good -= 1
        if self.good < 0:
            raise OSError("no more")
        protocol = factory()
        protocol.done.set_result(True)
        return None, protocol


def test_a_series_of_which_some_failed_is_no_figure() -> None:
    async def main() -> None:
        whole = await connections(cast(Any, FewSockets(4)), 4, 2)
        assert (whole.done, whole.failed) == (4, 0)
        with pytest.raises(ProgramFailed, match="3 of 4 connections failed"):
            await connections(cast(Any, FewSockets(1)), 4, 2)
        lossy = await connections(cast(Any, FewSockets(1)), 4, 2, may_fail=True)
        assert (lossy.done, lossy.failed) == (1, 3)
        first = await connections(cast(Any, FewSockets(1)), 4, 1, until_failure=True)
        assert (first.done, first.stopped_at) == (1, 1)

    run_virtual(main())


def test_steady_state_begins_with_the_first_release() -> None:
    """Of a node in which TIME-WAIT lasts for seven connections."""

    class Waiting(FewSockets):
        def __init__(self) -> None:
            super().__init__(1000)
            self.stack = SimpleNamespace(tcp=SimpleNamespace(demux=self))
            self.config = SimpleNamespace(socket=SimpleNamespace(time_wait=TimeWait.SHORT))

        def __len__(self) -> int:
            return min(1000 - self.good, 7)

    node = Waiting()
    run_virtual(steady(cast(Any, node), 1))
    assert 1000 - node.good == 8
    node.config.socket.time_wait = TimeWait.FULL
    run_virtual(steady(cast(Any, node), 1))
    assert 1000 - node.good == 8, "with full TIME-WAIT nobody waits for a release"


def test_an_overflow_is_what_the_kernel_counts(tmp_path: Path) -> None:
    table = tmp_path / "ndisc_cache"

    def overflown(*counts: int) -> None:
        table.write_text("entries  lookups table_fulls\n" + "".join(f"00000004 00000100 {n:08x}\n" for n in counts))

    class Overflowing(FewSockets):
        async def create_connection(self, factory: Any, host: str, port: int, **more: object) -> tuple[None, Any]:
            if self.good == 3:
                overflown(15, 0x11)
            return await super().create_connection(factory, host, port, **more)

    def count(node: FewSockets, counter: Overflows) -> Series:
        counter.begin()
        return run_virtual(connections(cast(Any, node), 8, 1, until_failure=True, overflows=counter))

    overflown(15, 16)
    with overflows(table, ("lookups", "table_fulls")) as several:
        assert several is not None and several.total() == 0x200 + 31
    with overflows(table) as counter:
        assert counter is not None and counter.total() == 31
        both = count(Overflowing(5), counter)
        assert (both.overflowed_at, both.stopped_at, first_overflow(both, 8)) == (2, 5, 2)
        assert first_overflow(count(FewSockets(8), counter), 8) == 8, "none failed, and nothing overflew"
        with pytest.raises(ProgramFailed, match="a connection failed after 4 though"):
            first_overflow(count(FewSockets(4), counter), 8)
    with overflows(tmp_path / "none") as missing:
        assert missing is None


def test_what_the_processes_of_a_sharded_run_take_is_added_up() -> None:
    outcomes = [
        Series(done=30, began=10.0, seconds=2.0, cpu=1.5, peer=0.3),
        Series(done=10, began=11.0, seconds=1.0, cpu=0.5, peer=0.1),
    ]
    assert (workers.rate(outcomes), workers.peer_cost(outcomes)) == (20.0, 10_000.0)
    assert workers.share(outcomes, 4) == pytest.approx(30.0)
    apart = [outcomes[0], replace(outcomes[1], began=13.0)]
    assert workers.rate(apart) == 10.0, "from the first beginning to the last end"


def test_processes_that_meet_wait_for_the_last_one_each_time() -> None:
    one = workers.Meeting(2)
    other = copy(one)  # as a fork has it: what was counted before is its own, the number of those who came is shared
    for _ in range(2):
        first = one.come()
        assert not first()
        second = other.come()
        assert first() and second()


ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"


@pytest.mark.parametrize(
    ("answer", "fails"),
    [
        (ANSWER, None),
        (ANSWER[:-1], "ended early"),
        (ANSWER[:10], "ended early"),
        (ANSWER.replace(b"200 OK", b"404 Not Found"), "404"),
        (ANSWER.replace(b"content-length: 5\r\n", b""), "how long"),
    ],
)
def test_a_fetch_is_done_when_the_whole_page_has_come(answer: bytes, fails: str | None) -> None:
    near, far = socket.socketpair()
    with near, far:
        for byte in answer:
            far.send(bytes([byte]))
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(OSError, match=fails) if fails else nullcontext():
            peer.fetching("2001:db8::1", 80)(near)
        request = far.recv(1000)
    assert request.startswith(b"GET / HTTP/1.1\r\nHost: [2001:db8::1]:80\r\n") and request.endswith(b"\r\n\r\n")


def test_the_time_to_connect_is_that_of_connect_alone(capfd: pytest.CaptureFixture[str]) -> None:
    class Slow(peer.Dialler):
        def fresh(self) -> socket.socket:
            until = time.perf_counter() + 0.2
            while time.perf_counter() < until:
                pass
            return super().fresh()

    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        peer.requests(Slow("::1", server.getsockname()[1], None), 1, 1, lambda sock: None)
    [facts] = map(json.loads, capfd.readouterr().out.splitlines())
    assert facts["done"] == 1
    assert facts["times"][0] <= facts["seconds"] - 0.2 + 1e-6


def test_the_peers_requests_are_counted_once(capfd: pytest.CaptureFixture[str]) -> None:
    """One that cannot connect, and one that is answered by nobody, are each one that failed."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            for number in range(2):
                connection, _ = server.accept()
                with connection:
                    if number == 0:
                        connection.sendall(connection.recv(1))
            server.close()

        thread = threading.Thread(target=serve)
        thread.start()
        peer.requests(peer.Dialler("::1", port, None), 2, 1, peer.one_byte)
        thread.join()
        peer.requests(peer.Dialler("::1", port, None), 3, 1, peer.one_byte)
    first, second = map(json.loads, capfd.readouterr().out.splitlines())
    assert (first["done"], first["failed"]) == (1, 1)
    assert (second["done"], second["failed"], second["times"]) == (0, 3, [])
