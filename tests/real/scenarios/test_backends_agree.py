"""One script, two backends: simulation and real namespaces give the same protocol events, each node's in the same order."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from scenarios.engine.definition import Backend, load
from scenarios.engine.execute import Order, execute
from scenarios.engine.folder import conclude
from scenarios.engine.parameters import Value

PROGRAMS = ("dumpcap", "radvd", "tshark")
Move = tuple[str, str, str]
PATIENT: dict[str, dict[str, Value]] = {"reverse-attack": {"wait": 3.0}}
"""Parameters by which a busy machine's kernels do not count as silent."""


def events(name: str, backend: Backend, folder: Path) -> list[dict[str, Any]]:
    """Run a scenario; what its nodes said, in order of time."""
    found = load(name)
    folder.mkdir(parents=True)
    outcome = execute(found, Order(found.source, found.values(PATIENT.get(name, {}), quick=True), 3, backend, folder))
    verdicts = conclude(outcome)
    assert verdicts.passed, [f for f in (*verdicts.captured, *verdicts.claimed) if f.verdict.value != "passed"]
    said = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    return sorted(said, key=lambda event: event["wall"])


def moves(said: list[dict[str, Any]]) -> list[tuple[tuple[str, ...], Move]]:
    """Every move of a connection, a listener, and an address that was taken into use: who, and from where to where."""
    taken = {
        (e["node"], e["address"])
        for e in said
        if e["event"] == "address" and e["new"] == "PREFERRED" and e["kind"] in ("ephemeral", "service")
    }
    found = []
    for e in said:
        if e["event"] == "connection":
            who: tuple[str, ...] = (e["node"], f"connection {e['connection']}", e["local"], e["remote"])
        elif e["event"] == "listener":
            who = (e["node"], "listener", str(e["address"]))
        elif e["event"] == "address" and (e["node"], e["address"]) in taken and e["old"] != "INVALID":
            if e["new"] == "UNCERTAIN":
                continue  # the pool's own pace, which no connection waits for
            who = (e["node"], "address", e["address"])
        else:
            continue
        found.append((who, (e["old"], e["new"], e["cause"])))
    return found


def lives(found: list[tuple[tuple[str, ...], Move]]) -> dict[tuple[str, ...], list[Move]]:
    """The moves of each connection, listener and address on its own."""
    made: dict[tuple[str, ...], list[Move]] = defaultdict(list)
    for who, move in found:
        made[who].append(move)
    return made


@pytest.mark.real(*PROGRAMS)
@pytest.mark.parametrize("name", ["hello", "parallel", "reverse-attack"])
def test_simulation_and_namespaces_tell_the_same(name: str, artefacts: Path) -> None:
    simulated = moves(events(name, "sim", artefacts / "sim"))
    real = moves(events(name, "netns", artefacts / "netns"))
    assert lives(simulated) == lives(real)
    assert len(simulated) >= 15
    if name == "hello":
        # One connection: one thing after the other, but for an acknowledgement on its way and who sent it.
        for node in {who[0] for who, _ in simulated}:
            assert [each for each in simulated if each[0][0] == node] == [each for each in real if each[0][0] == node]
