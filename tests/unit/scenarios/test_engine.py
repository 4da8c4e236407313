"""The engine: parameters and their errors, one whole run, the folder it leaves, what a backend cannot do."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from scenarios.engine import BackendCannot, Impairment, Parameter, ParameterError, Run, ScenarioError, scenario
from scenarios.engine.definition import Scenario, catalogue, load
from scenarios.engine.errors import UnknownScenario
from scenarios.engine.execute import Order, Outcome, execute
from scenarios.engine.folder import conclude, prepare, read_order
from scenarios.engine.parameters import settings, specifications, sweep_axes
from scenarios.engine.sim import SimBackend
from scenarios.witness import tshark
from tapstack.link.impairment import ImpairedLink
from unimux.aio import open_connection, start_server


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


async def example(
    run: Run,
    *,
    count: Annotated[int, Parameter("how many", unit="B", least=1, most=10)] = 3,
    share: Annotated[float, Parameter("a share", least=0, most=1)] = 0.5,
    fast: Annotated[bool, Parameter("whether")] = False,
    colour: Annotated[Colour, Parameter("which")] = Colour.RED,
    way: Annotated[Literal["there", "back"], Parameter("which way")] = "there",
) -> None:
    """A script that is never run."""


KNOWN = specifications(example)


def test_values_are_read_by_type() -> None:
    given = settings(KNOWN, ["count=0x5", "share=0.25", "fast=yes", "colour=blue", "way=back"])
    assert given == {"count": 5, "share": 0.25, "fast": True, "colour": Colour.BLUE, "way": "back"}
    assert isinstance(given["colour"], Colour)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("count=11", "count cannot be 11: it takes a whole number, 1 B at least, 10 B at most."),
        ("count=many", "count cannot be 'many': it takes a whole number, 1 B at least, 10 B at most."),
        ("share=nan", "share cannot be nan: it takes a number, 0 at least, 1 at most."),
        ("fast=maybe", "fast cannot be 'maybe': it takes yes or no."),
        ("colour=green", "colour cannot be 'green': it takes red or blue."),
        ("way=up", "way cannot be 'up': it takes there or back."),
        ("cuont=1", "There is no parameter 'cuont': did you mean 'count'?"),
        ("zzz=1", "There is no parameter 'zzz': there are count, share, fast, colour, way."),
        ("count", "'count' sets nothing: write key=value."),
    ],
)
def test_a_wrong_value_is_a_sentence_that_names_the_right_ones(text: str, said: str) -> None:
    with pytest.raises(ParameterError) as caught:
        settings(KNOWN, [text])
    assert str(caught.value) == said


def test_sweeps_take_lists_and_ranges() -> None:
    assert sweep_axes(KNOWN, ["count=1..3,7", "colour=red,blue"]) == {
        "count": (1, 2, 3, 7),
        "colour": (Colour.RED, Colour.BLUE),
    }
    with pytest.raises(ParameterError, match="swept twice"):
        sweep_axes(KNOWN, ["count=1", "count=2"])


def test_a_parameter_without_description_or_default_is_refused() -> None:
    async def bare(run: Run, *, size: int = 1) -> None: ...

    async def needed(run: Run, *, size: Annotated[int, Parameter("size")]) -> None: ...

    async def untyped(run: Run, *, size=1) -> None: ...  # type: ignore[no-untyped-def]

    for script, said in (
        (bare, "needs a description"),
        (needed, "needs a default"),
        (untyped, "'size' of the scenario 'untyped' needs a description"),
    ):
        with pytest.raises(ScenarioError, match=said):
            specifications(script)


# -- one run -------------------------------------------------------------------------------------


def made(script: object, **options: object) -> Scenario:
    """A scenario of this file."""
    return scenario(**options)(script)  # type: ignore[arg-type]


def light(made_: Scenario, seed: int = 1, **values: object) -> Outcome:
    """One light run in sim."""
    return execute(made_, Order("here", values, seed, "sim"))  # type: ignore[arg-type]


def whole(name: str, folder: Path, seed: int = 1) -> Outcome:
    """One whole quick run in sim, with its folder."""
    found = load(name)
    prepare(folder)
    outcome = execute(found, Order(found.source, found.values({}, quick=True), seed, "sim", folder))
    assert conclude(outcome).passed
    return outcome


@pytest.mark.proves("UM-REL-1", "UM-NODE-4")
@pytest.mark.proves("UM-LIS-1", "UM-LIS-2", by="api")
def test_a_run_leaves_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "hello"
    whole("hello", folder)
    names = {path.name for path in folder.iterdir()}
    assert {"report.html", "scenario.toml", "metrics.json", "events.jsonl", "findings.json"} <= names
    assert {"capture-client.pcapng", "capture-server.pcapng", "sequence.svg", "lifetimes.svg", "wire"} <= names
    facts = tomllib.loads((folder / "scenario.toml").read_text())
    assert facts["scenario"] == "hello"
    assert facts["parameters"] == {"size": 10_000}
    assert facts["versions"]["unimux"]
    measured = json.loads((folder / "metrics.json").read_text())
    assert {metric["name"] for metric in measured["metrics"]} == {"setup", "transfer"}
    page = (folder / "report.html").read_text()
    assert "Measurements" in page
    assert "https://" not in page.replace("http://www.w3.org", "")


@pytest.mark.parametrize("fails", [True, False], ids=["tshark fails", "no tshark"])
def test_a_second_opinion_that_is_missing_is_said_and_never_a_pass(
    fails: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(capture: object) -> None:
        raise tshark.TsharkError("tshark did not finish")

    if fails:
        monkeypatch.setattr(tshark, "consult", broken)
    else:
        monkeypatch.setattr("scenarios.engine.folder.shutil.which", lambda name: None)
    found = load("hello")
    prepare(tmp_path / "run")
    outcome = execute(found, Order(found.source, found.values({}, quick=True), 1, "sim", tmp_path / "run"))
    verdicts = conclude(outcome)
    page = (tmp_path / "run" / "report.html").read_text()
    if fails:
        assert not verdicts.passed
        assert "tshark did not finish" in page
        assert "second-opinion" not in verdicts.untouched
        assert "The run did not pass, so this answer does not stand" in page
    else:
        assert verdicts.passed
        assert "tshark is not installed" in page
        assert "does not stand" not in page


def test_scenario_toml_is_enough_to_repeat_a_run(tmp_path: Path) -> None:
    whole("hello", tmp_path / "once", seed=7)
    order, differs = read_order(tmp_path / "once")
    assert differs == []
    assert (order.source, order.seed, order.backend, dict(order.values)) == (
        "scenarios.hello",
        7,
        "sim",
        {"size": 10_000},
    )
    with pytest.raises(ScenarioError, match="holds no run"):
        read_order(tmp_path)


def test_a_claim_that_does_not_hold_fails_the_run() -> None:
    async def wrong(run: Run) -> None:
        """Is one two?"""
        run.require("One is two", False, because="it is one")

    outcome = light(made(wrong))
    assert not outcome.held
    assert [claim.sentence for claim in outcome.claims if not claim.holds] == ["it is one"]


def test_an_error_of_the_script_fails_the_run_and_names_the_place() -> None:
    async def broken(run: Run) -> None:
        """Does it break?"""
        raise KeyError("nothing")

    failed = [claim for claim in light(made(broken)).claims if not claim.holds]
    assert [claim.title for claim in failed] == ["The script ran to its end"]
    assert failed[0].sentence.startswith("KeyError at test_engine.py:")


def test_a_run_that_goes_on_for_ever_is_given_up() -> None:
    async def endless(run: Run) -> None:
        """Does it end?"""
        import asyncio

        while True:
            await asyncio.sleep(1)

    failed = [claim for claim in light(made(endless, limit=100.0)).claims if not claim.holds]
    assert "did not end within 100 s" in failed[0].sentence


def test_a_wait_for_nothing_is_an_error_not_a_hang() -> None:
    async def stuck(run: Run) -> None:
        """Does it wait?"""
        import asyncio

        await asyncio.Event().wait()

    async def main() -> None:
        await stuck(None)  # type: ignore[arg-type]

    with pytest.raises(ScenarioError, match="waits for what cannot come"):
        SimBackend(1).run(main)


def test_what_a_backend_cannot_do_is_said_before_anything_starts() -> None:
    async def needs_kernel(run: Run) -> None:
        """Needs a kernel?"""
        await run.kernel("web", run.lan("one"))

    with pytest.raises(BackendCannot, match="web has to be a kernel, and sim has none"):
        light(made(needs_kernel))
    with pytest.raises(BackendCannot, match="needs a real kernel, which sim has not: run it with --backend netns"):
        made(needs_kernel, backends=("netns",)).backend("sim")


def test_the_network_is_declared_first() -> None:
    async def late(run: Run) -> None:
        """Too late?"""
        await run.node("alice", run.lan("one"), ready=0)
        run.lan("two")

    with pytest.raises(ScenarioError, match="The LAN two comes too late"):
        light(made(late))


@pytest.mark.parametrize("join", [Run.node, Run.host, Run.raw], ids=["node", "host", "raw"])
@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\x1b[2J", "x" * 65])
def test_a_name_can_be_printed_in_one_line(join: Any, name: str) -> None:
    async def odd(run: Run) -> None:
        """Who?"""
        await join(run, name, run.lan("lan"))

    with pytest.raises(ScenarioError, match=r"A host cannot be named .*: take up to 64 letters"):
        light(made(odd))


@pytest.mark.parametrize("join", [Run.node, Run.host, Run.raw], ids=["node", "host", "raw"])
def test_nobody_on_the_network_has_anothers_name(join: Any) -> None:
    async def namesakes(run: Run) -> None:
        """Who is www?"""
        lan = run.lan("lan")
        await run.host("www", lan)
        await join(run, "www", lan)

    with pytest.raises(ScenarioError, match="There are two hosts named 'www': give one another name"):
        light(made(namesakes))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shows": ("complet",)}, "There is no rule 'complet': did you mean 'complete'?"),
        ({"shows": ("nonsense",)}, "There is no rule 'nonsense': docs/reading-the-report.md lists them."),
        ({"requirements": ("UM-NO-SUCH-7",)}, "There is no requirement 'UM-NO-SUCH-7': their ids are like UM-DAS-1."),
        ({"backends": ("simm",)}, "There is no backend 'simm': choose sim or netns."),
        ({"backends": ()}, "The scenario 'promising' runs nowhere: name one of sim, netns."),
        ({"requirements": ("UM-DAS-one",)}, "There is no requirement 'UM-DAS-one': their ids are like UM-DAS-1."),
    ],
)
def test_what_a_scenario_promises_exists(options: dict[str, Any], said: str) -> None:
    async def promising(run: Run) -> None:
        """Does it keep its word?"""

    with pytest.raises(ScenarioError) as caught:
        made(promising, **options)
    assert str(caught.value) == said


def test_every_requirement_can_be_named() -> None:
    async def named(run: Run) -> None:
        """Does it know them?"""

    tables = [tomllib.loads(path.read_text(encoding="utf-8")) for path in Path("tests").glob("r*.toml")]
    known = [row["id"] for table in tables for row in table["requirement"]]
    assert len(known) > 200
    assert made(named, requirements=known).requirements == tuple(known)


def test_the_catalogue_shows_requirements_that_exist() -> None:
    table = tomllib.loads(Path("tests/requirements.toml").read_text(encoding="utf-8"))
    known = {row["id"] for row in table["requirement"]}
    assert {id_ for each in catalogue().values() for id_ in each.requirements} <= known


def test_a_name_that_no_scenario_has() -> None:
    with pytest.raises(UnknownScenario, match="did you mean 'hello'"):
        load("helo")
    assert {"hello", "parallel"} <= catalogue().keys()
    for each in catalogue().values():
        assert each.name.replace("-", "_") == each.source.rpartition(".")[2]
        assert each.question.endswith(("?", "]"))


def test_theory_that_disagrees_fails_the_run() -> None:
    async def compare(run: Run) -> None:
        """Does theory hold?"""
        run.expect("near", 10.4, 10.0, within=0.05)
        run.expect("far", 12.0, 10.0, within=0.05)
        run.expect("covered", 0.5, 0.6, interval=(0.4, 0.7))

    outcome = light(made(compare))
    assert [comparison.agrees for comparison in outcome.comparisons] == [True, False, True]
    assert not outcome.held


async def delayed(run: Run, *, delay: Annotated[float, Parameter("each way", unit="s", least=0)] = 0.1) -> None:
    """How much does a slow uplink cost?"""
    slow = Impairment(delay=delay)
    one, two = run.lan("one", to_router=slow, from_router=slow), run.lan("two")
    run.router(one, two)
    alice, bob = await run.node("alice", one), await run.node("bob", two)
    ssa = await start_server(bob, lambda reader, writer: writer.close()).issue()
    began = run.now()
    reader, writer = await open_connection(alice, ssa.address, None)
    run.measure("setup", run.now() - began, "s")
    await reader.read()
    writer.close()


def test_an_impaired_uplink_delays_both_ways() -> None:
    script = made(delayed)
    base = light(script, delay=0.0).metrics.means()["setup"]
    # One round trip for the handshake, and one in which the router resolves an address that it has never seen; what else
    # a LAN of half a millisecond makes wait may overlap with them or not.
    assert light(script, delay=0.1).metrics.means()["setup"] == pytest.approx(base + 0.4, abs=0.002)


def test_every_cable_has_a_luck_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever LANs, nodes and hosts are called: equal seeds would lose the same frames on two cables."""
    seeds: list[int | str] = []
    made_ = ImpairedLink.__init__

    def noted(self: ImpairedLink, link: Any, *, seed: int | str, **more: Any) -> None:
        seeds.append(seed)
        made_(self, link, seed=seed, **more)

    monkeypatch.setattr(ImpairedLink, "__init__", noted)
    bad = Impairment(loss=0.01)

    async def namesakes(run: Run) -> None:
        """Do namesakes share their luck?"""
        one, two = run.lan("one", to_router=bad), run.lan("two", to_router=bad)
        run.router(one, two)
        await run.node("one", one, outgoing=bad)
        await run.host("two", two, outgoing=bad)
        await run.host("three", two, outgoing=bad)
        run.require("It ran", True)

    assert light(made(namesakes)).held
    assert len(seeds) == 5
    assert len(set(seeds)) == 5, seeds


def test_a_script_that_cannot_wait_is_no_scenario() -> None:
    def at_once(run: Run) -> None:
        """Is this enough?"""

    with pytest.raises(ScenarioError, match="The scenario 'at_once' cannot wait for anything: begin it with async def"):
        made(at_once)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda run: run.answer(5), "an answer is a text, not 5"),
        (lambda run: run.say(None), "a line of the story is a text, not None"),
        (lambda run: run.remark(b"x"), "a remark is a text, not b'x'"),
        (lambda run: run.choose("nonsense"), "nonsense"),
    ],
)
def test_what_is_no_text_is_an_error_at_the_line_that_says_it(call: Callable[[Any], None], said: str) -> None:
    async def careless(run: Run) -> None:
        """What is said?"""
        call(run)

    outcome = light(made(careless))
    assert not outcome.held
    (claim,) = (claim for claim in outcome.claims if not claim.holds)
    assert said in claim.sentence
    assert "test_engine.py" in claim.sentence
