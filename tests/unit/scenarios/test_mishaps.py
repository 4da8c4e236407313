"""What is raised where nobody can catch it fails the run, and every error of a script is told with the place of it."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest

from scenarios.engine import OPTIONS, Run, ScenarioError, echo, exchange, scenario
from scenarios.engine.definition import Backend, Script, load
from scenarios.engine.execute import Order, Outcome, execute
from scenarios.engine.mishaps import TITLE
from tapstack.tcp.acknowledged import Acknowledged
from tapstack.tcp.congestion import CongestionControl
from tapstack.tcp.congestion.base import load_controller
from unimux.aio import open_connection
from unimux.cli.main import run as command
from unimux.generators import Generator


class Raises(CongestionControl):
    """Raises at every acknowledgement."""

    decrease: ClassVar[float] = 0.5

    def on_ack(self, news: Acknowledged, now: float) -> None:
        raise RuntimeError("boom")

    def on_congestion(self, in_flight: int, now: float) -> None:
        """Nothing is ever lost here."""


class Breaks(Generator):
    """Makes no address."""

    invertible = False

    def identifier(self, counter: int) -> int:
        raise ZeroDivisionError("x")

    def counter(self, identifier: int) -> int | None:
        return None


class Fractions(Raises):
    """Counts in fractions of bytes, which no segment has."""

    def on_ack(self, news: Acknowledged, now: float) -> None:
        self.cwnd += news.acked * 0.37  # type: ignore[assignment]


class Nothing(Raises):
    """Lets nothing out, for ever."""

    def on_ack(self, news: Acknowledged, now: float) -> None:
        self.cwnd = 0


class Still(Raises):
    """Has no pace."""

    def on_ack(self, news: Acknowledged, now: float) -> None:
        self.cwnd += news.acked

    def on_delivery(self, news: Acknowledged, now: float) -> None:
        self.pacing_rate = 0


def light(script: Script, backend: Backend = "sim") -> Outcome:
    """One light run."""
    return execute(scenario()(script), Order("here", {}, 1, backend))


def failed(outcome: Outcome) -> dict[str, str]:
    """The sentences of the claims that do not hold, by title."""
    return {claim.title: claim.sentence for claim in outcome.claims if not claim.holds}


@pytest.mark.parametrize(
    ("controller", "said"),
    [
        (Raises, "RuntimeError at test_mishaps.py:"),
        (Fractions, "test_mishaps:Fractions sets cwnd to "),
        (Nothing, "test_mishaps:Nothing sets cwnd to 0: it is a whole number of bytes, one segment (14"),
        (Still, "test_mishaps:Still sets pacing_rate to 0: it is a number of bytes per second above zero, or None"),
    ],
)
def test_a_congestion_controller_that_raises_fails_the_run(
    controller: type[CongestionControl], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def transfer(run: Run) -> None:
        """How fast is it?"""
        one, two = run.lan("one"), run.lan("two")
        run.router(one, two)
        www = await run.host("www", two)
        name = f"{__name__}:{controller.__name__}"
        alice = await run.node("alice", one, options=replace(OPTIONS, congestion=name))
        await www.serve(80, echo)
        streams = await open_connection(alice, www.address, 80)
        run.require("What was sent came back", await exchange(*streams, bytes(60_000)))

    outcome = light(transfer)
    assert said in failed(outcome)[TITLE]
    assert any(said in step for step in outcome.steps)
    assert capsys.readouterr().err == ""


async def _failing() -> None:
    raise ValueError("it was\nno number")


async def _left_alone(run: Run) -> None:
    """Does anybody see it?"""
    circle: list[object] = []
    circle += [circle, asyncio.create_task(_failing())]
    await asyncio.sleep(1)


@pytest.mark.parametrize("backend", ["sim", pytest.param("netns", marks=pytest.mark.real("radvd"))])
def test_a_task_that_nobody_awaits_fails_the_run(backend: Backend, capsys: pytest.CaptureFixture[str]) -> None:
    line = _failing.__code__.co_firstlineno + 1
    assert failed(light(_left_alone, backend))[TITLE].startswith(
        f"raised: ValueError at test_mishaps.py:{line}: it was no number"
    )
    assert capsys.readouterr().err == ""


def test_tracebacks_are_shown_to_who_debugs(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMUX_DEBUG", "1")
    assert TITLE in failed(light(_left_alone))
    assert "in _failing" in caplog.text


def test_a_run_that_cannot_go_on_tells_of_the_error_that_may_be_its_cause() -> None:
    async def stuck(run: Run) -> None:
        """Does it go on?"""
        asyncio.get_running_loop().call_soon(int, "many")
        await asyncio.sleep(1)
        raise ScenarioError("it cannot go on")

    with pytest.raises(ScenarioError, match=r"^It cannot go on\. Before that raised: ValueError at "):
        light(stuck)


SCRIPT = '''"""Where does it go wrong?"""

import asyncio
from scenarios.engine import Run, scenario
from unimux.aio import open_connection


async def visit(node, address):
    await open_connection(node, address, 81)


@scenario()
async def wrong(run: Run) -> None:
    one, two = run.lan("one"), run.lan("two")
    run.router(one, two)
    www = await run.host("www", two)
    alice = await run.node("alice", one)
    BODY
'''


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("await visit(alice, www.address)", "ConnectRefused at wrong.py:9, raised at "),
        ("await asyncio.wait_for(asyncio.Event().wait(), 1)", "TimeoutError at wrong.py:18, raised at t"),
        ("[][1]", "IndexError at wrong.py:18: list index out of range"),
        (
            "task = asyncio.create_task(asyncio.sleep(9)); task.cancel(); await task",
            "it waited for what had been cancelled (CancelledError at wrong.py:18",
        ),
        (
            "async with asyncio.TaskGroup() as group: group.create_task(visit(alice, www.address))",
            "ConnectRefused at wrong.py:9, raised at ",
        ),
    ],
    ids=["deep", "no text", "shallow", "cancelled", "group"],
)
def test_an_error_is_told_with_the_line_of_the_script(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(SCRIPT.replace("BODY", body))
    found = load(str(file))
    sentence = failed(execute(found, Order(found.source, {}, 1, "sim")))["The script ran to its end"]
    assert sentence.startswith(said)
    assert not sentence.endswith(": ")


def test_a_report_tells_of_what_nobody_could_catch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "wrong.py", tmp_path / "out"
    body = 'asyncio.get_running_loop().call_soon(int, "many"); await asyncio.sleep(1)'
    file.write_text(SCRIPT.replace("BODY", body))
    assert command(["scenario", "run", str(file), "--out", str(out)]) == 1
    findings = json.loads((out / "findings.json").read_text())
    told = [each["sentence"] for each in findings if each["title"] == TITLE]
    assert len(told) == 1
    assert "ValueError" in told[0]
    assert TITLE in (out / "report.html").read_text()
    assert "ValueError" not in capsys.readouterr().err


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "'abc'", "'1'", "None", "10**400"])
@pytest.mark.parametrize("call", ["measure('m', VALUE)", "expect('m', VALUE, 1.0, within=0.1)"])
def test_what_is_no_finite_number_is_not_measured(value: str, call: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    file.write_text(SCRIPT.replace("BODY", f"run.{call.replace('VALUE', value)}"))
    found = load(str(file))
    outcome = execute(found, Order(found.source, {}, 1, "sim"))
    said = failed(outcome)["The script ran to its end"]
    assert said.startswith("ValueError at wrong.py:18, raised at measure.py:")
    assert said.endswith("it takes a finite number")
    assert list(outcome.metrics) == []


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("run.show('x')", "a chart is shown, Curves(…) or Table(…) for instance, not 'x'"),
        (
            "Curves(title='e', x='s', y='y', series={'a': [1, 2]})",
            "Curves 'e': the series 'a' has 1: a point is (x, y) or",
        ),
        (
            "Curves(title='e', x='s', y='y', series={'a': 3})",
            "Curves 'e': the series 'a' takes a list of points, not 3",
        ),
        ("Curves(title='e', x='s', y='y', series=[])", "Curves 'e': series is a mapping from names to values, not []"),
        ("Curves(title='', x='s', y='y', series={})", "a chart has words for a title, not ''"),
        ("Ecdf(title='e', x='s', series={'a': ['1']})", "Ecdf 'e': the series 'a' has '1', which is no number"),
        (
            "Bars(title='e', y='s', categories=['p', 'q'], series={'a': [1]})",
            "a value for each of the 2 categories, not [1]",
        ),
        ("Matrix(title='e', rows=['p'], columns=['q'], cells=[[1, 2]])", "the row 'p' has 2 cells for 1 columns"),
        ("Table(title='e', columns=['p'], rows=[[1]])", "a row takes a text for each of the 1 columns, not [1]"),
        ("run.witness(conections=3)", "the judge has no 'conections'; did you mean 'connections'?"),
        ("run.witness(connections='3')", "connections of the judge cannot be '3': expected `int`, got `str`"),
        ("Matrix(title='e', rows=[], columns=[], cells=[], caption=None)", "Matrix 'e': a caption is text, not None"),
        ("run.require('it is', True, 'UM-NOPE')", "There is no requirement 'UM-NOPE': their ids are like UM-DAS-1"),
        ("run.require_quietly(True, 'it is', 'x')", "There is no requirement 'x': their ids are like UM-DAS-1"),
        ("run.expect('m', 1.0, 1.0)", "m agrees with theory within a share, or by an interval: say which"),
        ("run.expect_share('m', 5, 3, 0.5)", "m: 5 of 3 is no share"),
        ("run.expect_share('m', 0, 0, 0.5)", "m: 0 of 0 is no share"),
    ],
)
def test_what_cannot_be_shown_or_judged_is_told_with_its_line(body: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "wrong.py"
    script = SCRIPT.replace("import Run, scenario", "import Bars, Curves, Ecdf, Matrix, Run, Table, scenario")
    file.write_text(script.replace("BODY", body))
    found = load(str(file))
    told = failed(execute(found, Order(found.source, {}, 1, "sim")))["The script ran to its end"]
    assert told.startswith("ValueError at wrong.py:18, raised at ")
    assert said in told


async def nothing(run: Run) -> None:
    """Is anything there?"""


def test_a_requirement_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(ScenarioError, match=r"There is no requirement 'UM-NOPE': their ids are like UM-DAS-1"):
        scenario(requirements=("UM-NOPE",))(nothing)


def test_series_may_be_named_by_numbers(tmp_path: Path) -> None:
    file, out = tmp_path / "numbers.py", tmp_path / "out"
    body = "run.show(Curves(title='e', x='s', y='y', series={1: [(1, 2)]}, theory={0: [(1, 2)]}))"
    script = SCRIPT.replace("import Run, scenario", "import Curves, Run, scenario")
    file.write_text(script.replace("BODY", body))
    command(["scenario", "run", str(file), "--out", str(out)])
    assert (out / "report.html").exists()


def test_a_choice_that_no_connection_has_is_remarked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "wrong.py", tmp_path / "out"
    file.write_text(SCRIPT.replace("BODY", "run.choose('2001:db8::77')"))
    command(["scenario", "run", str(file), "--out", str(out)])
    assert "The script chose 2001:db8::77 to be drawn, which no connection has" in (out / "report.html").read_text()


def test_a_generator_that_fails_is_told_as_the_reason() -> None:
    async def waits(run: Run) -> None:
        """Is it ready?"""
        await run.node("alice", run.lan("lan"), generator=f"{__name__}:Breaks")

    said = failed(light(waits))["The script ran to its end"]
    assert "alice was not ready within 20 s: " in said
    assert "failed: ZeroDivisionError: x" in said


def test_a_generator_that_cannot_be_imported_is_an_error_before_anything_starts() -> None:
    async def waits(run: Run) -> None:
        """Is it there?"""
        await run.node("alice", run.lan("lan"), generator="no_such_module:Such")

    with pytest.raises(ScenarioError, match=r"^The generator 'no_such_module:Such' cannot be imported"):
        light(waits)


NO_SUCH = '''"""Is it there?"""
from scenarios.engine import Parameter, Run, scenario
from typing import Annotated


@scenario(shows=())
async def no_such(run: Run, *, which: Annotated[str, Parameter("a generator")] = "nowhere:Nope") -> None:
    lan = run.lan("one")
    await run.node("alice", lan, generator=which)
    run.witness(connections=0)
'''


def test_a_run_that_could_not_be_made_leaves_its_folder_to_the_next_try(tmp_path: Path) -> None:
    script, folder = tmp_path / "no_such.py", tmp_path / "out"
    script.write_text(NO_SUCH)
    assert command(["scenario", "run", str(script), "--out", str(folder)]) == 2
    assert list(folder.iterdir()) == []
    assert command(["scenario", "run", str(script), "--out", str(folder), "--set", "which=permutation"]) == 0
    assert (folder / "report.html").exists()


BROKEN = '''"""Does it break?"""
from scenarios.engine import Run, scenario


@scenario()
async def broken(run: Run) -> None:
    raise KeyError("in the script")
'''


@pytest.mark.parametrize("debug", [True, False])
def test_the_traceback_of_the_script_is_there_for_who_asks(
    debug: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIMUX_DEBUG", "")
    script = tmp_path / "broken.py"
    script.write_text(BROKEN)
    options = ["--debug"] if debug else []
    assert command([*options, "scenario", "run", str(script), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert ("Traceback" in said) == debug
    assert ('raise KeyError("in the script")' in said) == debug


class Nowhere(Raises):
    """Its window is no number."""

    def on_ack(self, news: Acknowledged, now: float) -> None:
        self.cwnd = float("nan")  # type: ignore[assignment]


NAN = '''"""What does it draw?"""
from dataclasses import replace
from scenarios.engine import OPTIONS, Run, echo, exchange, scenario
from unimux.aio import open_connection


@scenario()
async def nan(run: Run) -> None:
    lan = run.lan("one")
    www = await run.host("www", lan)
    options = replace(OPTIONS, congestion="tests.unit.scenarios.test_mishaps:Nowhere")
    alice = await run.node("alice", lan, options=options)
    await www.serve(80, echo)
    await alice.ready(1, 10)
    streams = await open_connection(alice, www.address, 80)
    run.require("It is answered", await exchange(*streams, b"hello"))
'''


def test_a_window_that_is_no_number_costs_no_report(tmp_path: Path) -> None:
    script, folder = tmp_path / "nan.py", tmp_path / "out"
    script.write_text(NAN)
    assert command(["scenario", "run", str(script), "--out", str(folder)]) in (0, 1)
    assert (folder / "report.html").exists()
    assert json.loads((folder / "findings.json").read_text())


class Half(Raises):
    """Begins with two segments and a half."""

    def __init__(self, mss: int, paced: bool = False) -> None:
        super().__init__(mss, paced)
        self.cwnd = mss * 2.5  # type: ignore[assignment]


def test_a_controller_that_begins_with_a_window_that_is_none_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"test_mishaps:Half sets cwnd to .*: it is a whole number of bytes"):
        load_controller(f"{__name__}:Half")
