"""Small sessions of tests with the project's plug-ins: how they are run, and what they leave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scapy.utils import RawPcapNgReader

ROOT = Path(__file__).parents[3]


def run(session: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return session.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def table(session: pytest.Pytester) -> list[dict[str, Any]]:
    """The rows that the session has left."""
    rows: list[dict[str, Any]] = json.loads((session.path / "out/proves.json").read_text())["rows"]
    return rows


def read(path: Path) -> list[tuple[str, bytes, list[str]]]:
    """The frames of a capture: the interface, the bytes, the comments."""
    with path.open("rb") as file:
        found: list[Any] = list(RawPcapNgReader(file))
    return [(meta.ifname.decode(), data, [c.decode() for c in meta.comments or []]) for data, meta in found]
