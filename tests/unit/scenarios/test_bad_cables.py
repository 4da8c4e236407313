"""Whole runs with a node on a bad cable: captures hear all that comes through, and what is damaged is taken for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.engine import Impairment, Run, echo, exchange
from scenarios.engine.execute import Order, Outcome, execute
from scenarios.engine.folder import conclude, prepare
from scenarios.engine.verdicts import Verdicts
from tests.unit.scenarios.test_engine import made
from unimux.aio import open_connection


def whole(folder: Path, sessions: int, outgoing: Impairment, incoming: Impairment) -> tuple[Outcome, Verdicts]:
    async def far(run: Run) -> None:
        """What does a node do whose cable is bad?"""
        run.witness(connections=sessions)
        client_lan, server_lan = run.lan("client"), run.lan("server")
        run.router(client_lan, server_lan)
        www = await run.host("www", server_lan)
        alice = await run.node("alice", client_lan, outgoing=outgoing, incoming=incoming)
        await www.serve(80, echo)
        for _ in range(sessions):
            streams = await open_connection(alice, www.address, 80)
            run.require_quietly(await exchange(*streams, b"hello" * 400), "It came back")

    prepare(folder)
    outcome = execute(made(far), Order("here", {}, 1, "sim", folder))
    return outcome, conclude(outcome)


@pytest.mark.parametrize("delay", [0.2, 0.8])
def test_what_a_node_says_last_is_heard_however_long_it_is_under_way(delay: float, tmp_path: Path) -> None:
    outcome, verdicts = whole(tmp_path / "run", 3, Impairment(delay=delay), Impairment(delay=delay / 2))
    assert outcome.held, outcome.claims
    assert verdicts.passed, [f.sentence for f in verdicts.captured if f.verdict.value != "passed"]


def test_frames_that_are_damaged_on_the_way_cost_no_report(tmp_path: Path) -> None:
    """Of an address that stands in a damaged frame only, no life can be drawn."""
    outcome, verdicts = whole(tmp_path / "run", 20, Impairment(corrupt=0.05), Impairment())
    assert outcome.held, outcome.claims
    assert (tmp_path / "run" / "report.html").is_file()
    assert "checksums" in {finding.rule for finding in verdicts.captured}
