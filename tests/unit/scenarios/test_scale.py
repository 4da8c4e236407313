"""A thousand nodes in one simulation, and a sweep on a Dask cluster."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scenarios.engine import Run, ScenarioError, echo, exchange, scenario
from scenarios.engine.definition import load
from scenarios.engine.execute import Order, execute
from scenarios.engine.sweep import Plan, cluster, run_sweep
from scenarios.engine.tables import results
from unimux.aio import open_connection, start_server
from unimux.poolstate import PoolConfig

NODES = 1000
LANS = 10


async def crowd(run: Run) -> None:
    """Do a thousand nodes find each other?"""
    lans = [run.lan(f"lan{number}") for number in range(LANS)]
    run.router(*lans)
    pool = PoolConfig(low=2, high=2)
    nodes = [await run.node(f"n{i}", lans[i % LANS], pool=pool, ready=0) for i in range(NODES)]
    for caller, callee in zip(nodes[::50], nodes[25::50], strict=True):
        await callee.ready(1, 60)
        await caller.ready(1, 60)
        server = start_server(callee, echo)
        ssa = await server.issue()
        streams = await open_connection(caller, ssa.address, None)
        run.require_quietly(await exchange(*streams, b"hello" * 100), "Every pair talked")


@pytest.mark.proves("UM-NODE-3", by="api")
def test_a_thousand_nodes() -> None:
    made = scenario()(crowd)
    outcome = execute(made, Order("here", {}, 1, "sim"))
    assert outcome.held, [claim for claim in outcome.claims if not claim.holds]
    assert "20 of 20" in [claim.sentence for claim in outcome.claims]


@pytest.mark.filterwarnings("ignore")
def test_a_cluster_gives_the_tables_of_one_machine(tmp_path: Path) -> None:
    if importlib.util.find_spec("distributed") is None:  # the extra is not installed: then that is what is said
        with pytest.raises(ScenarioError, match="needs Dask"), cluster("local", 2):
            raise AssertionError("there is no cluster without Dask")
        return
    plan = Plan(load("hello"), "sim", {}, {"size": (10, 1000)}, repeat=3)
    with cluster("local", 2) as (executor, workers):
        spread = run_sweep(plan, executor, workers, tmp_path / "journal.jsonl")
    assert workers == 2
    assert spread.whole
    assert spread.passed
    with ThreadPoolExecutor(1) as executor_here:
        here = run_sweep(plan, executor_here, 1, tmp_path / "journal2.jsonl")
    assert results(spread) == results(here)
