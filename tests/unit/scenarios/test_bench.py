"""Benchmarks without a kernel: figures, goals, files and comparison, the command."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import structs

from scenarios.bench.catalogue import BENCHMARKS, PROGRAMS, WITHOUT_KERNEL
from scenarios.bench.command import _print, bench
from scenarios.bench.compare import Change, compare
from scenarios.bench.figures import Beginning, Figure, Goal, Result, circumstances, figure
from scenarios.bench.overflows import overflows
from scenarios.bench.plot import plot
from scenarios.bench.setting import Setting, take_turns
from tapstack.clock import run_virtual
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
    assert (row.ratio_min, row.ratio_max) == (0.025, 4.5), "turn by turn"
    assert list(row.facts()) == FIELDS


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


@pytest.mark.parametrize(
    ("kept", "values", "verdict"),
    [
        (True, [6.0, 8.0, 10.0], "within"),  # ratios 0.6 … 1.0 beside 0.9 … 1.1
        (True, [6.0, 8.0, 8.5], "worse"),  # … 0.85
        (False, [6.0, 8.0, 10.0], "within"),  # beside 1.0, of which no more is known
        (False, [6.0, 8.0, 9.5], "worse"),
    ],
)
def test_ratios_whose_turns_overlap_are_within(kept: bool, values: list[float], verdict: str, tmp_path: Path) -> None:
    goal = Goal(at_least=0.5, of_ratio=True)
    baselines = [10.0, 10.0, 10.0]
    results = [
        msgspec.to_builtins(result(figure("P-1", "bulk", "Gbit/s", of, baselines, goal)))
        for of in ([9.0, 10.0, 11.0], values)
    ]
    if not kept:
        for name in ("ratio_min", "ratio_max"):
            del results[0]["figures"][0][name]
    for name, each in zip("ab", results, strict=True):
        (tmp_path / name).write_bytes(msgspec.json.encode(each))
    [change] = compare(Result.read(tmp_path / "a"), Result.read(tmp_path / "b")).changes
    assert (change.verdict, change.of_ratio) == (verdict, True)
    assert change.regression is (verdict == "worse")


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


def test_overflows_of_all_processors_count_though_a_read_ends_with_a_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "ndisc_cache"
    table.write_text("entries  table_fulls\n" + "00000001 00000002\n" * 100)
    whole = os.pread
    monkeypatch.setattr("os.pread", lambda file, size, offset: whole(file, min(size, 50), offset))
    with overflows(table) as counter:
        assert counter is not None and counter.total() == 200


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


def test_the_catalogue_is_complete() -> None:
    assert list(BENCHMARKS) == [f"P-{number}" for number in range(1, len(BENCHMARKS) + 1)]


@pytest.mark.parametrize("id", sorted(WITHOUT_KERNEL))
def test_each_benchmark_without_a_kernel_yields_figures(id: str, capsys: pytest.CaptureFixture[str]) -> None:
    bench(id=[id.lower()], json=True, smoke=True)
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    assert rows and all(list(row) == FIELDS and row["id"] == id for row in rows)
    assert all(row["value"] > 0 for row in rows)
    ending = "TIME-WAIT sharp" if id == "P-13" else "TIME-WAIT full"
    for row in rows:
        ends = id == "P-13" or (id == "P-9" and "address in use" not in row["what"] and "UNCERTAIN" not in row["what"])
        assert (ending in row["what"]) is ends, row


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


@pytest.mark.parametrize("name", ["growth.nonsense", "growth", "file/growth.svg", "folder.svg"])
def test_where_the_chart_cannot_be_written_nothing_is_measured(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BENCHMARKS, "P-14", lambda setting: pytest.fail("it began to measure"))
    monkeypatch.setitem(PROGRAMS, "iperf3", frozenset())
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.svg").mkdir()
    assert run(["bench", "--smoke", "--id", "P-14", "--plot", str(tmp_path / name)]) == 3
    assert "--plot" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"file", "folder.svg"}


def test_the_chart_is_drawn_though_another_benchmark_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(setting: Setting) -> list[Figure]:
        raise SetupError("This machine has no luck: try another one.")

    rows = [figure("P-14", f"time per GB, ×{factor}", "s/GB", [2.0]) for factor in (1, 10)]
    monkeypatch.setitem(BENCHMARKS, "P-9", fail)
    monkeypatch.setitem(BENCHMARKS, "P-14", lambda setting: rows)
    monkeypatch.setitem(PROGRAMS, "iperf3", frozenset())
    chosen = ["--id", "P-9", "--id", "P-14"]
    assert run(["bench", "--smoke", *chosen, "--plot", str(tmp_path / "growth.svg")]) == 3
    assert "time per GB" in (tmp_path / "growth.svg").read_text()
    (tmp_path / "growth.svg").unlink()
    monkeypatch.setitem(BENCHMARKS, "P-14", fail)
    assert run(["bench", "--smoke", "--id", "P-14", "--plot", str(tmp_path / "growth.svg")]) == 3
    assert not (tmp_path / "growth.svg").exists()


@pytest.mark.parametrize(("id", "needed"), [("P-1", "iperf3"), ("P-12", "radvd"), ("P-4", None)])
def test_programs_are_missed_before_anything_is_measured_and_only_where_they_are_needed(
    id: str, needed: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    begun: list[str] = []

    def measured(setting: Setting) -> list[Figure]:
        begun.append(id)
        return []

    monkeypatch.setattr("shutil.which", lambda name, path: None)
    for each in ("P-13", id):
        monkeypatch.setitem(BENCHMARKS, each, measured)
    assert run(["bench", "--smoke", "--id", "P-13", "--id", id]) == (3 if needed else 0)
    said = capsys.readouterr().err
    assert len(begun) == (0 if needed else 2)
    assert needed is None or f"{needed} is not installed" in said


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


@pytest.mark.parametrize("more", [["--id", "P-1"], ["--smoke"], ["--out", "c.json"], ["--workers", "2"], ["--uvloop"]])
def test_a_comparison_takes_no_options_of_measurements(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "--compare", "a.json", "b.json", *more]) == 2
    assert "--compare measures nothing" in capsys.readouterr().err


def test_a_baseline_of_nothing_is_printed_without_a_ratio(capsys: pytest.CaptureFixture[str]) -> None:
    row = figure("P-5", "x", "1/s", [1.0, 2.0], [0.0, 0.0], Goal(at_least=0.95, of_ratio=True))
    _print(Result(circumstances=circumstances(Beginning.now(), "asyncio", "short", False, {}), figures=[row]))
    assert "baseline 0  goal ≥ 0.95 × baseline: not known" in capsys.readouterr().out


def test_a_goal_that_a_figure_has_now_says_what_is_better() -> None:
    change = Change(figure("P-5", "x", "entries", [10.0]), figure("P-5", "x", "entries", [20.0], goal=Goal(at_most=30)))
    assert (change.verdict, change.regression) == ("worse", True)
