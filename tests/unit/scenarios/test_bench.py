"""Benchmarks without a kernel: figures, goals, files and comparison, the peer without memory, the units in virtual time."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from msgspec import structs

from compat.programs.errors import ProgramFailed
from scenarios.bench import peer, workers
from scenarios.bench.catalogue import BENCHMARKS, WITHOUT_KERNEL
from scenarios.bench.command import bench
from scenarios.bench.compare import Change, compare
from scenarios.bench.connections import Series, connections, first_overflow, steady
from scenarios.bench.figures import Beginning, Figure, Goal, Result, circumstances, figure, revision
from scenarios.bench.overflows import Overflows, overflows
from scenarios.bench.plot import plot
from scenarios.bench.responder import Lone, answer
from scenarios.bench.setting import Setting, take_turns
from tapstack.clock import run_virtual
from tapstack.tcp.options import SocketOptions, TimeWait
from tapstack.tcp.states import TcpState
from unimux.cli.main import run
from unimux.errors import SetupError

FIELDS = ["id", "what", "value", "unit", "baseline", "ratio", "reach", "met", "repeats", "min", "median", "max"]


def result(*figures: Figure, load: float = 0.0) -> Result:
    beginning = Beginning("2026-01-02T03:04:05+00:00", load, "0123456789abcdef", True)
    return Result(
        circumstances=circumstances(beginning, "asyncio", "short", False, {"iperf3": "3.12"}),
        figures=list(figures),
    )


def test_a_figure_is_the_median_beside_the_median_of_its_baseline() -> None:
    row = figure("P-1", "bulk", "Gbit/s", [3.0, 9.0, 1.0], [4.0, 2.0, 40.0], Goal(at_least=0.75, of_ratio=True))
    assert (row.value, row.median, row.min, row.max, row.repeats) == (3.0, 3.0, 1.0, 9.0, 3)
    assert (row.baseline, row.ratio, row.met, row.reach) == (4.0, 0.75, True, "≥ 0.75 × baseline")


@pytest.mark.parametrize(
    ("goal", "value", "ratio", "met"),
    [
        (Goal(at_least=3000), 2999.0, None, False),
        (Goal(at_least=3000), 3000.0, None, True),
        (Goal(at_most=1.05, of_ratio=True), 500.0, 1.06, False),
        (Goal(at_most=1.05, of_ratio=True), 500.0, 1.05, True),
        (Goal(at_least=0.9, of_ratio=True), 500.0, None, None),
    ],
)
def test_a_goal_bounds_the_value_or_the_ratio(goal: Goal, value: float, ratio: float | None, met: bool | None) -> None:
    assert goal.met(value, ratio) is met


def test_measurements_and_baseline_take_turns() -> None:
    order: list[str] = []

    async def one(name: str) -> float:
        order.append(name)
        return float(len(order))

    measured = run_virtual(take_turns(2, lambda: one("A"), lambda: one("B")))
    assert order == ["A", "B", "A", "B"]
    assert measured == [[1.0, 3.0], [2.0, 4.0]]


def test_a_result_comes_back_from_its_file_and_names_versions(tmp_path: Path) -> None:
    written = result(figure("P-9", "memory", "B", [300.0], goal=Goal(at_most=256)), load=2.0)
    written.write(tmp_path / "deep" / "a.json")
    read = Result.read(tmp_path / "deep" / "a.json")
    assert read == written
    assert read.circumstances.noisy and read.circumstances.processors == os.cpu_count()
    assert {"Python", "Linux", "unimux", "iperf3"} <= set(read.circumstances.versions)
    assert "commit 0123456789ab, with files changed since" in str(read.circumstances)


def test_a_result_from_before_results_had_commits_is_read(tmp_path: Path) -> None:
    written = msgspec.to_builtins(result())
    for name in ("commit", "changed"):
        del written["circumstances"][name]
    (tmp_path / "old.json").write_bytes(msgspec.json.encode(written))
    assert "no commit known" in str(Result.read(tmp_path / "old.json").circumstances)


def test_a_result_names_the_commit_and_whether_a_file_differs(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert revision(tmp_path) == (None, False)
    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    (tmp_path / "below").mkdir()
    git("add", "file")
    git("commit", "--quiet", "--message", "first")
    (tmp_path / "result.json").write_text("what --out wrote")
    assert revision(tmp_path) == (git("rev-parse", "HEAD"), False)
    (tmp_path / "file").write_text("two")
    assert revision(tmp_path) == (git("rev-parse", "HEAD"), True)
    assert revision(tmp_path / "below") == (None, False), "installed somewhere inside another project's working copy"


@pytest.mark.parametrize("content", [None, b"", b"[]", b'{"figures": 1}'])
def test_a_file_that_is_no_result_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SetupError, match="unimux bench"):
        Result.read(path)


def test_comparison_prefers_ratios_and_knows_what_is_better() -> None:
    before = result(
        figure("P-1", "bulk", "Gbit/s", [10.0], [20.0]),
        figure("P-5", "price", "µs", [100.0]),
        figure("P-9", "memory", "B", [100.0]),
        figure("P-4", "rate", "1/s", [90.0, 100.0, 130.0]),
        figure("P-6", "gone", "1/s", [1.0]),
    )
    after = result(
        figure("P-1", "bulk", "Gbit/s", [9.0], [9.0]),
        figure("P-5", "price", "µs", [200.0]),
        figure("P-9", "memory", "B", [101.0]),
        figure("P-4", "rate", "1/s", [80.0, 120.0, 125.0]),
        figure("P-7", "new", "ms", [1.0]),
    )
    found = compare(before, after)
    rows = found.changes
    assert [(row.after.id, row.verdict, row.of_ratio) for row in rows] == [
        ("P-1", "better", True),
        ("P-5", "worse", False),
        ("P-9", "same", False),
        ("P-4", "within", False),
    ]
    assert rows[0].by == 2.0
    assert [row.what for row in found.gone] == ["gone"] and [row.what for row in found.new] == ["new"]


def test_figures_of_two_time_waits_are_not_compared_unless_one_is_not_named() -> None:
    def only(what: str) -> Result:
        return result(figure("P-6", what, "1/s", [1.0]))

    short, sharp, unnamed = (
        only("services, TIME-WAIT short; alone"),
        only("services, TIME-WAIT sharp; alone"),
        only("services; alone"),
    )
    assert [len(compare(short, other).changes) for other in (short, sharp, unnamed)] == [1, 0, 1]
    apart = compare(short, sharp)
    assert (apart.gone, apart.new) == (short.figures, sharp.figures)


@pytest.mark.parametrize(("goal", "after", "regression"), [(True, 1.0, True), (True, 3.0, False), (False, 1.0, False)])
def test_a_figure_that_has_a_goal_and_got_worse_is_a_regression(goal: bool, after: float, regression: bool) -> None:
    aim = Goal(at_least=0.5) if goal else None
    change = Change(figure("P-6", "x", "1/s", [2.0], goal=aim), figure("P-6", "x", "1/s", [after], goal=aim))
    assert change.regression is regression


@pytest.mark.parametrize(
    ("before", "after", "verdict"), [(0.0, 5.0, "worse"), (5.0, 0.0, "better"), (2.0, 5.0, "worse"), (0.0, 0.0, "same")]
)
def test_a_count_that_is_bounded_from_above_is_better_when_it_falls(before: float, after: float, verdict: str) -> None:
    rows = [figure("P-18", "connections that failed", "", [value], goal=Goal(at_most=0)) for value in (before, after)]
    [change] = compare(result(rows[0]), result(rows[1])).changes
    assert change.verdict == verdict


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
    assert facts["done"] == 1 and facts["seconds"] >= 0.2 > facts["times"][0]


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


def test_where_the_result_cannot_be_written_nothing_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert run(["bench", "--smoke", "--id", "P-13", "--out", str(tmp_path / "file" / "a.json")]) == 3
    said = capsys.readouterr().err
    assert "cannot be written" in said
    assert "P-13:" not in said, "it began to measure"


def test_a_comparison_with_a_smoke_run_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "a.json", tmp_path / "b.json"
    about = result().circumstances
    for path, smoke in zip(files, (False, True), strict=True):
        row = figure("P-6", "services", "1/s", [1.0])
        Result(circumstances=structs.replace(about, smoke=smoke), figures=[row]).write(path)
    assert run(["bench", "--compare", *map(str, files)]) == 0
    assert "--smoke" in capsys.readouterr().out


def test_the_peer_without_memory_takes_connections_to_their_end() -> None:
    lone = Lone(SocketOptions(time_wait=TimeWait.SHARP))
    connections = lone.connect(100)
    assert {connection.state for connection in connections} == {TcpState.ESTABLISHED}
    assert len({connection.local for connection in connections}) == 100
    lone.close(connections)
    assert {connection.state for connection in connections} == {TcpState.CLOSED}
    assert len(lone.stack.tcp.demux) == 0
    lone.stack.check()


def test_the_peer_without_memory_acknowledges_data_and_is_silent_to_acknowledgements() -> None:
    lone = Lone(SocketOptions())
    [connection] = lone.connect(1)
    connection.write(b"x")
    [frame] = lone.stack.output(lone.now)
    sent = b"".join(frame)
    said = answer(sent)
    assert said is not None
    assert int.from_bytes(said[48:52], "big") == int.from_bytes(sent[44:48], "big") + 1, "it acknowledges the byte"
    assert answer(said) is None


def test_the_catalogue_is_complete() -> None:
    assert list(BENCHMARKS) == [f"P-{number}" for number in range(1, len(BENCHMARKS) + 1)]


@pytest.mark.parametrize("id", sorted(WITHOUT_KERNEL))
def test_each_benchmark_without_a_kernel_yields_figures(id: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench(id=[id.lower()], json=True, smoke=True)
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert rows and all(list(row) == FIELDS and row["id"] == id for row in rows)
    assert all(row["value"] > 0 for row in rows)


def test_a_benchmark_that_fails_costs_the_others_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(setting: Setting) -> list[Figure]:
        raise SetupError("This machine has no luck: try another one.")

    monkeypatch.setitem(BENCHMARKS, "P-9", fail)
    assert run(["bench", "--smoke", "--json", "--id", "P-9", "--id", "P-13", "--out", str(tmp_path / "a.json")]) == 3
    said = capsys.readouterr()
    assert [row["id"] for row in json.loads(said.out)] == ["P-13", "P-13"]
    words = "This machine has no luck: try another one.\n"
    assert said.err == f"P-9 failed: {words}unimux: {words}"
    assert [row.id for row in Result.read(tmp_path / "a.json").figures] == ["P-13", "P-13"]


def test_a_profile_needs_a_program_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path: None)
    assert run(["bench", "--smoke", "--id", "P-13", "--profile", str(tmp_path)]) == 3
    assert "pip install py-spy" in capsys.readouterr().err


def test_what_there_is_not_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--id", "P-99"]) == 2
    last = list(BENCHMARKS)[-1]
    assert capsys.readouterr().err == f"unimux: There is no benchmark P-99: they are P-1 to {last}.\n"


def test_cost_growth_becomes_a_chart(tmp_path: Path) -> None:
    rows = [
        figure("P-14", f"time per {unit}, ×{factor}" + "; baseline ×1" * (factor > 1), "µs", [10.0 + factor])
        for unit in ("GB", "connection, 50 × so many")
        for factor in (1, 10, 100)
    ]
    plot(rows, tmp_path / "deep" / "growth.svg")
    drawn = (tmp_path / "deep" / "growth.svg").read_text()
    assert "time per GB" in drawn and "time per connection" in drawn
    with pytest.raises(SetupError, match="P-14"):
        plot([figure("P-1", "bulk", "Gbit/s", [1.0])], tmp_path / "no.svg")
    with pytest.raises(SetupError, match="--plot"):
        plot(rows, tmp_path / "growth.nonsense")


def test_the_command_compares_two_files_and_ends_with_1_where_a_goal_is_farther_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    goal = Goal(at_least=3)
    first = result(figure("P-6", "services", "1/s", [2.0], goal=goal), figure("P-7", "gone", "ms", [3.0]))
    second = result(figure("P-6", "services", "1/s", [1.0], goal=goal), figure("P-8", "new", "ns", [4.0]))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    for path, each in zip(files, (first, second), strict=True):
        each.write(Path(path))
    assert run(["bench", "--json", "--compare", *files]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [(row["id"], row["before"], row["after"], row["by"], row["verdict"], row["reach"]) for row in rows] == [
        ("P-6", 2.0, 1.0, 0.5, "worse", "≥ 3"),
        ("P-7", 3.0, None, None, "gone", None),
        ("P-8", None, 4.0, None, "new", None),
    ]
    assert run(["bench", "--compare", *files]) == 1
    said = capsys.readouterr().out
    assert "2 → 1 1/s (-50 %): worse" in said
    assert "In the first result only:\nP-7   gone: 3 ms\n" in said
    assert "In the second result only:\nP-8   new: 4 ns\n" in said
    assert "Worse, of what has a goal: P-6 services." in said
    assert run(["bench", "--compare", *reversed(files)]) == 0
    assert "Worse, of" not in capsys.readouterr().out
