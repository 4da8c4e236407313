"""Parts of a run's report: the network, goodput and window of a connection, what an object weighs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scenarios.engine import Impairment
from scenarios.engine.charts import Bars, Chart, Curves, Ecdf, Matrix, Table
from scenarios.engine.definition import load
from scenarios.engine.execute import Order, execute
from scenarios.engine.figures import chart_html, save, svg
from scenarios.engine.folder import conclude, prepare
from scenarios.engine.footprint import footprint
from scenarios.engine.network import Network
from scenarios.engine.topology import Place, Topology, topology_figure
from scenarios.engine.transfer import transfer_charts
from scenarios.witness import judge

SIZE = 300_000


def topology() -> Topology:
    """Two LANs, one behind a bad cable, and a crowd."""
    network = Network()
    there = Impairment(loss=0.01, delay=0.02, rate=50e6)
    lans = [network.add_lan("client", 1500, 0.0005, (there, Impairment(delay=0.02)))]
    lans.append(network.add_lan("server", 1500, 0.0005, (Impairment(), Impairment())))
    crowd = [Place("client", f"n{number}", "one-time addresses") for number in range(9)]
    return Topology(lans, ("client", "server"), [*crowd, Place("server", "www", "a Linux kernel")])


@pytest.mark.parametrize("width", [760, 360])
def test_the_network_is_drawn_with_everybody_on_it(width: int) -> None:
    root = ElementTree.fromstring(topology_figure(topology(), width))
    said = [element.text or "" for element in root.iter() if element.tag.endswith("text")]
    assert "client · 2001:db8:1::/64" in said
    assert "9 × n" in said
    assert "www" in said
    assert "router" in said
    assert any("20 ms, loss 1 %, 50 Mbit/s" in text for text in said)
    right = max(float(e.attrib["x"]) + float(e.attrib["width"]) for e in root.iter() if e.tag.endswith("rect"))
    assert right <= width


HOSTILE = "$\\frac{x}$ a$b_{$ <b>&\"' [/x]"


@pytest.mark.parametrize(
    "chart",
    [
        Ecdf(title=HOSTILE, x=HOSTILE, series={HOSTILE: [1.0, 2.0]}),
        Curves(title=HOSTILE, x=HOSTILE, y=HOSTILE, series={HOSTILE: [(0, 1), (1, 2)]}),
        Bars(title=HOSTILE, y=HOSTILE, categories=[HOSTILE, "q"], series={HOSTILE: [1, 2]}),
        Matrix(title=HOSTILE, rows=[HOSTILE], columns=[HOSTILE], cells=[[1.0]], row=HOSTILE),
        Table(title=HOSTILE, columns=[HOSTILE], rows=[[HOSTILE]], caption=HOSTILE),
    ],
    ids=lambda chart: type(chart).__name__,
)
def test_words_of_a_figure_are_words_whatever_they_are(chart: Chart, tmp_path: Path) -> None:
    """A parameter's value may be any text, and stands in titles and legends: no formula, no markup."""
    page = f"<div>{chart_html(chart, {})}</div>"
    words = " ".join("".join(ElementTree.fromstring(page).itertext()).split())
    assert words.count("frac{x}") >= 2
    for path in save(chart, tmp_path / "figure"):
        assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    "chart",
    [
        Ecdf(title="t", x="x", series={"a": [-3.0, 2.0]}),
        Bars(title="t", y="y", categories=["p", "q"], series={"": [-3.0, 2.0]}),
    ],
    ids=["Ecdf", "Bars"],
)
def test_what_is_below_zero_is_drawn(chart: Chart) -> None:
    assert "−3" in "".join(ElementTree.fromstring(svg(chart)).itertext())


def test_goodput_and_window_are_those_of_the_wire(tmp_path: Path) -> None:
    found = load("hello")
    folder = tmp_path / "hello"
    prepare(folder)
    outcome = execute(found, Order(found.source, found.values({"size": SIZE}), 2, "sim", folder))
    assert conclude(outcome).passed
    assert outcome.setup is not None
    judgement = judge(outcome.captures, outcome.setup, consult_tshark=False)
    goodput, window = transfer_charts(judgement.connections[0], folder / "events.jsonl")
    assert isinstance(goodput, Curves)
    assert isinstance(window, Curves)
    for points in goodput.series.values():  # the area under each curve is what was carried
        area = sum(one[1] * (two[0] - one[0]) for one, two in pairwise(points))
        assert area * 1e6 / 8 == pytest.approx(SIZE, rel=0.01)
    assert set(window.series) == {
        f"{what} from the {who}" for what in ("in flight", "cwnd") for who in ("opener", "accepter")
    }
    flight = max(point[1] for point in window.series["in flight from the opener"])
    cwnd = max(point[1] for point in window.series["cwnd from the opener"])
    assert 14 <= flight <= min(SIZE / 1000, cwnd + 1.5)  # ten segments at least, and never more than the window
    names = {path.name for path in folder.iterdir()}
    for figure in ("topology", "lifetimes", "sequence"):
        assert {f"{figure}.svg", f"{figure}.pdf"} <= names
        assert (folder / f"{figure}.pdf").read_bytes().startswith(b"%PDF")
    page = (folder / "report.html").read_text()
    assert outcome.answer.partition(":")[0] in page
    assert "Goodput of connection 1" in page


def test_a_footprint_leaves_out_what_is_shared() -> None:
    class Own:
        def __init__(self) -> None:
            self.data = bytes(1000)
            self.shared = Shared()

    class Shared:
        def __init__(self) -> None:
            self.data = bytes(100_000)

    Shared.__module__ = "elsewhere"
    assert 1000 < footprint(Own(), (__name__,)) < 5000
    assert footprint(Own(), (__name__, "elsewhere")) > 100_000
