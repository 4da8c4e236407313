"""Reads what a run or a sweep left, for who wants its verdict again without running it."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from .errors import ScenarioError, refuse_bytes


class _Metric(TypedDict):
    name: str
    of: str
    unit: str
    n: int
    mean: float


class _Lan(TypedDict):
    lan: str
    who: list[str]


class _Theory(TypedDict):
    what: str


class _Run(TypedDict):
    scenario: str
    backend: str
    answer: str
    network: list[_Lan]
    figures: list[str]
    theory: list[_Theory]
    metrics: list[_Metric]


class _Finding(TypedDict):
    rule: str
    verdict: str
    title: str
    sentence: str


class _Sweep(TypedDict):
    scenario: str
    backend: str
    passed: bool


def recall(folder: Path) -> dict[str, Any]:
    """The verdict and the numbers of a folder; raises `ScenarioError` where it holds none."""
    refuse_bytes("folder", str(folder))
    if (folder / "sweep.json").is_file():
        path = folder / "summary.csv"
        if not path.is_file():
            raise ScenarioError(f"{folder} holds no run: there is no summary.csv in it.")
        result = _read(folder / "sweep.json", _Sweep)
        return {**result, "folder": str(folder), "summary": _rows(path)}
    if not (folder / "metrics.json").is_file():
        raise ScenarioError(f"{folder} holds no run: there is no metrics.json in it.")
    measured, findings = _read(folder / "metrics.json", _Run), _read(folder / "findings.json", list[_Finding])
    passed = bool(findings) and all(finding["verdict"] == "passed" for finding in findings)
    return {**measured, "folder": str(folder), "passed": passed, "findings": findings}


def _read(path: Path, shape: Any) -> Any:
    """What a file holds, if it has the shape that a run gives it; more may stand in it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        msgspec.convert(found, shape)
    except (OSError, ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise ScenarioError(f"{path} cannot be read: {error}.") from error
    return found


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows: list[dict[Any, Any]] = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise ScenarioError(f"{path} cannot be read: {error}.") from error
    if not all(_is_whole(row.keys(), row.values()) for row in rows):
        raise ScenarioError(f"{path} cannot be read: its rows are of different lengths.")
    return rows


def _is_whole(names: Iterable[object], cells: Iterable[object]) -> bool:
    return all(isinstance(each, str) for each in (*names, *cells))
