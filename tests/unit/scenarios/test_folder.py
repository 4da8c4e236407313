"""Folders of runs: made once, read back, and what cannot be written into them or read from them."""

from __future__ import annotations

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from scenarios.engine.folder import fresh
from unimux.cli.exits import ExitCode
from unimux.cli.main import run

SCRIPT = '''"""How many?"""

from __future__ import annotations

from typing import Annotated

from scenarios.engine import Parameter, Run, scenario


@scenario(backends=("sim",))
async def many(
    run: Run,
    *,
    runs: Annotated[int, Parameter("how many", least=1)] = 1,
    seed: Annotated[int, Parameter("its own")] = 7,
    text: Annotated[str, Parameter("any text")] = "",
) -> None:
    run.measure("m", 100 * runs)
    run.require(f"It is {text!r}", True)
'''


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "many.py"
    path.write_text(SCRIPT)
    return path


def test_runs_that_begin_in_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with ThreadPoolExecutor(8) as together:
        made = list(together.map(lambda _: fresh(None, "hello"), range(64)))
    assert len(set(made)) == 64
    assert all(folder.is_dir() for folder in made)


def test_parameters_named_as_other_columns_have_columns_of_their_own(script: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["scenario", "run", str(script), "--sweep", "runs=4,5", "--repeat", "2", "--out", str(out)]) == 0
    with (out / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["runs (parameter)"], row["runs"], row["mean"]) for row in rows] == [
        ("4", "2", "400.0"),
        ("5", "2", "500.0"),
    ]
    with (out / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["run"], row["runs"], row["seed (parameter)"], row["seed"]) for row in rows] == [
        ("1", "4", "7", "1"),
        ("2", "4", "7", "2"),
        ("3", "5", "7", "1"),
        ("4", "5", "7", "2"),
    ]


METRIC = {"name": "m", "of": "", "unit": "", "n": 1, "mean": 1.0}
RUN: dict[str, Any] = {"scenario": "x", "backend": "sim", "answer": ""}
RUN |= {"network": [], "figures": [], "theory": [], "metrics": [METRIC]}


@pytest.mark.parametrize(
    ("metrics", "findings"),
    [
        ([], []),
        ({}, []),
        (3, []),
        (RUN, {}),
        (RUN, [{}]),
        (RUN, None),
        (RUN | {"metrics": [{}]}, []),
        (RUN | {"answer": 3}, []),
        (RUN | {"metrics": [METRIC | {"mean": "1"}]}, []),
    ],
)
def test_files_of_another_shape_are_a_sentence(
    metrics: object, findings: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "findings.json").write_text(json.dumps(findings))
    assert run(["scenario", "report", str(tmp_path)]) == ExitCode.USAGE
    assert ".json cannot be read: Expected `" in capsys.readouterr().err.replace("Object missing", "Expected `")


@pytest.mark.parametrize("table", ["a,b\n1\n", "a,b\n1,2,3\n", "a,b\n\xff\n"])
def test_a_table_of_another_shape_is_a_sentence(table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "sweep.json").write_text(json.dumps({"scenario": "x", "backend": "sim", "passed": True}))
    (tmp_path / "summary.csv").write_bytes(table.encode("latin-1"))
    assert run(["scenario", "report", str(tmp_path)]) == ExitCode.USAGE
    assert "summary.csv cannot be read: " in capsys.readouterr().err


def test_what_is_not_utf8_is_a_sentence_before_anything_runs(
    script: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    odd = tmp_path / "b\udcff.py"
    odd.write_text(SCRIPT)
    for call, what in (
        (["run", str(script), "--set", "text=a\udcff"], "value of text 'a\\udcff'"),
        (["run", str(script), "--sweep", "text=a\udcff,b"], "value of text 'a\\udcff'"),
        (["run", str(odd)], "b\\udcff.py'"),
        (["run", str(script), "--out", str(tmp_path / "o\udcff")], "o\\udcff'"),
        (["report", str(tmp_path / "o\udcff")], "o\\udcff'"),
    ):
        assert run(["scenario", *call]) == ExitCode.USAGE
        said = capsys.readouterr().err
        assert what in said and "is not UTF-8: write it in letters that are." in said
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"b\udcff.py", "many.py"}


def test_a_run_is_repeated_with_every_character_that_its_text_had(script: Path, tmp_path: Path) -> None:
    text = "".join(map(chr, range(1, 0x100))) + '"\\'
    first, again = tmp_path / "first", tmp_path / "again"
    assert run(["scenario", "run", str(script), "--set", f"text=x{text}x", "--out", str(first)]) == ExitCode.NO
    assert run(["scenario", "run", "--again", str(first), "--out", str(again)]) == ExitCode.NO, (
        "nothing was on the wire"
    )
    parameters = [json.loads((folder / "metrics.json").read_text())["parameters"] for folder in (first, again)]
    assert parameters[0] == parameters[1] == {"runs": 1, "seed": 7, "text": f"x{text}x"}
