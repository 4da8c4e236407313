"""Every scenario of the catalogue runs in simulation with its quick parameters, passes, and draws what it promises."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from pathlib import Path

import pytest

from scenarios.engine.charts import Table
from scenarios.engine.definition import catalogue, load
from scenarios.engine.execute import Order, execute
from scenarios.engine.figures import save
from scenarios.engine.folder import conclude, prepare
from scenarios.engine.parameters import Value

SIMULATED = sorted(name for name, each in catalogue().items() if "sim" in each.backends)
WHOLE = {"hello", "parallel"}  # test_engine.py and test_determinism.py judge their captures
WITH_THEORY = {
    "scan", "pool-exhaustion", "time-wait", "blind-injection", "ssa-theft", "linkability", "setup-latency", "collision",
}  # fmt: skip
EVERY_QUESTION = {
    "hello", "parallel", "interop-matrix", "legacy-baseline", "setup-latency", "pool-exhaustion", "scan", "reverse-attack",
    "linkability", "blind-injection", "syn-flood", "ssa-theft", "neighbor-cost", "rebinding", "impaired", "time-wait", "churn",
    "collision",
}  # fmt: skip


def test_the_catalogue_is_whole() -> None:
    assert catalogue().keys() >= EVERY_QUESTION


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_what_is_left_out_is_said_before_anything_runs(name: str) -> None:
    """An interrupted run is judged, too, and rules that the scenario breaks on purpose would be breaches."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(load(name).script))).body
    first = min(node.lineno for node in ast.walk(body) if isinstance(node, ast.Await))
    told = [node.lineno for node in ast.walk(body) if isinstance(node, ast.Attribute) and node.attr == "leave_out"]
    assert max(told, default=0) < first


@pytest.mark.parametrize("name", SIMULATED)
def test_a_quick_run_holds_and_can_be_drawn(name: str, tmp_path: Path) -> None:
    found = load(name)
    outcome = execute(found, Order(found.source, found.values({}, quick=True), 11, "sim"))
    assert [claim for claim in outcome.claims if not claim.holds] == []
    assert bool(outcome.comparisons) >= (name in WITH_THEORY)
    assert outcome.answer
    assert "\n" not in outcome.answer
    assert outcome.metrics.means()
    if name not in WHOLE:
        assert outcome.charts
    for number, chart in enumerate(outcome.charts):
        assert isinstance(chart, Table) or len(save(chart, tmp_path / f"figure-{number}")) == 2


@pytest.mark.parametrize("name", ["reverse-attack", "scan", "rebinding", "ssa-theft"])
def test_captures_of_a_quick_run_pass(name: str, artefacts: Path) -> None:
    found = load(name)
    folder = artefacts / name
    prepare(folder)
    outcome = execute(found, Order(found.source, found.values({}, quick=True), 11, "sim", folder))
    verdicts = conclude(outcome)
    assert [f for f in (*verdicts.captured, *verdicts.claimed) if f.verdict.value != "passed"] == []
    shown = {finding.rule for finding in verdicts.captured}
    assert set(found.shows) <= shown


def test_the_documentation_has_every_scenario_with_its_answer() -> None:
    page = (Path(__file__).parents[3] / "docs" / "scenarios.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (?!Answers)(.*)$", page, flags=re.MULTILINE) == sorted(catalogue())
    for name, each in catalogue().items():
        assert f"*{each.question}*" in page
        assert len(re.findall(rf"^\| \[`{name}`\]\(#{name}\) \| .{{20,}} \|$", page, flags=re.MULTILINE)) == 1
    for part in ("network", "measured", "figures", "theory beside it", "passes if", "run it"):
        assert page.count(f"| {part} |") == len(catalogue())
    assert "failed" not in page.partition("## collision")[0].partition("scenario | answer")[2].replace("failed to", "")


@pytest.mark.parametrize("seed", range(3))
def test_theory_agrees_whatever_the_seed(seed: int) -> None:
    found = load("scan")
    outcome = execute(found, Order(found.source, found.values({"trials": 20}), 100 + seed, "sim"))
    assert [comparison.agrees for comparison in outcome.comparisons] == [True] * 10


def test_newreno_keeps_to_the_square_root_law() -> None:
    found = load("impaired")
    given: dict[str, Value] = {
        "controllers": "newreno",
        "losses": "0.01,0.02",
        "delays": "",
        "reorders": "",
        "repeats": 2,
    }
    outcome = execute(found, Order(found.source, found.values(given), 5, "sim"))
    assert [comparison.what for comparison in outcome.comparisons if comparison.agrees] == [
        "NewReno's steady goodput, in units of the square-root law"
    ]


def test_a_controller_that_ignores_losses_breaks_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control of the law: without the halving on loss the goodput is far above it."""
    from tapstack.tcp.congestion.newreno import NewReno

    monkeypatch.setattr(NewReno, "on_congestion", lambda self, in_flight, now: None)
    found = load("impaired")
    given: dict[str, Value] = {
        "controllers": "newreno",
        "losses": "0.02",
        "delays": "",
        "reorders": "",
        "repeats": 1,
        "size": 3_000_000,
    }
    outcome = execute(found, Order(found.source, found.values(given), 5, "sim"))
    assert [comparison.agrees for comparison in outcome.comparisons] == [False]


def test_a_broken_node_fails_a_scenario(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a stack that answers strangers is found out by the scripts' own requirements."""
    from tapstack.ipv6.addresses import AddressEntry

    monkeypatch.setattr(AddressEntry, "speaks_to", lambda self, remote: True)
    for name, title in (("reverse-attack", "Nothing reaches a one-time client"), ("scan", "tells a stranger nothing")):
        found = load(name)
        outcome = execute(found, Order(found.source, found.values({}, quick=True), 1, "sim"))
        assert any(title in claim.title for claim in outcome.claims if not claim.holds), name
