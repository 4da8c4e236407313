"""Reads what a run or a sweep left, for who wants its verdict again without running it."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from .errors import ScenarioError


def recall(folder: Path) -> dict[str, Any]:
    """The verdict and the numbers of a folder; raises `ScenarioError` where it holds none."""
    if (folder / "sweep.json").is_file():
        result = _json(folder / "sweep.json")
        if not (folder / "summary.csv").is_file():
            raise ScenarioError(f"{folder} holds no run: there is no summary.csv in it.")
        with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
            return {**result, "folder": str(folder), "summary": list(csv.DictReader(file))}
    if not (folder / "metrics.json").is_file():
        raise ScenarioError(f"{folder} holds no run: there is no metrics.json in it.")
    measured, findings = _json(folder / "metrics.json"), _json(folder / "findings.json")
    passed = bool(findings) and all(finding["verdict"] == "passed" for finding in findings)
    return {**measured, "folder": str(folder), "passed": passed, "findings": findings}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ScenarioError(f"{path} cannot be read: {error}.") from error
