"""The report folder: self-contained, well formed, true to the judgement, and readable with many addresses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scenarios.report import Report, choose, html, lifetimes_figure, sequence_figure, write_report
from scenarios.report.lifetimes_figure import BUNDLES, MOST_ROWS, rows_of
from scenarios.report.sequence_figure import steps_of
from scenarios.witness import Finding, Judgement, Verdict

from .story import EA, SERVER, SETUP, birth, end, examine, good, session
from .wire import NODE_MAC, ROUTER_MAC, Wire, promotion, resolved


@pytest.fixture(scope="module")
def judgement(tmp_path_factory: pytest.TempPathFactory) -> Judgement:
    """A good run."""
    return examine(tmp_path_factory.mktemp("good"), *good())


def crowd(folder: Path, number: int) -> Judgement:
    """A run with `number` addresses, every second one used."""
    lan = Wire()
    names = [f"2001:db8:a::{index + 1:x}:{index + 7:x}" for index in range(number)]
    for name in names:
        birth(lan, name, name)
    lan.wait(1.1)
    for index, name in enumerate(names):
        if index % 2 == 0:
            lan.put(promotion(name))
            session(lan, name, name, SERVER, (NODE_MAC, ROUTER_MAC), isn=(index * 7919, index * 104729))
        end(lan, name, name)
    return examine(folder, lan, lan, replace(SETUP, connections=1))


class Shape(HTMLParser):
    """Collects tags, references and text; fails on tags that do not match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.words: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def shape(page: str) -> Shape:
    parsed = Shape()
    parsed.feed(page)
    parsed.close()
    return parsed


def test_the_folder_holds_what_a_reader_needs(judgement: Judgement, tmp_path: Path) -> None:
    page = write_report(tmp_path, Report("A run", judgement, versions={"unimux": "1"}, steps=("one", "two")))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [
        "capture-far.pcapng",
        "capture-lan.pcapng",
        "findings.json",
        "lifetimes.pdf",
        "lifetimes.svg",
        "report.html",
        "sequence.pdf",
        "sequence.svg",
    ]
    assert page == tmp_path / "report.html"
    rows = json.loads((tmp_path / "findings.json").read_text())
    assert [row["rule"] for row in rows] == [finding.rule for finding in judgement.findings]


def test_the_page_needs_nothing_from_elsewhere(judgement: Judgement, tmp_path: Path) -> None:
    page = write_report(tmp_path, Report("A run", judgement)).read_text()
    parsed = shape(page)
    assert not parsed.seen & {"script", "link", "img", "iframe", "object"}
    assert parsed.open == []
    assert all((tmp_path / reference).is_file() for reference in parsed.references)
    assert len(parsed.references) == 6
    assert "url(http" not in page
    assert "@import" not in page


def test_every_verdict_connection_and_capture_is_on_the_page(judgement: Judgement) -> None:
    other = Finding("bytes-equal", (), Verdict.NOT_SHOWN, "nothing compared", title="The bytes are equal")
    parsed = shape(html(Report("A run", judgement, remarks=("TIME-WAIT is short.",), other_findings=(other,))))
    text = " ".join(" ".join(parsed.words).split())
    for finding in judgement.findings:
        assert finding.title in text
        assert finding.sentence in text
    for words in (
        "18 passed",
        "1 not shown",
        "The bytes are equal",
        "TIME-WAIT is short.",
        "lan.pcapng",
        EA,
        "2 changes",
    ):
        assert words in text, words


def test_breaches_stand_out(tmp_path: Path) -> None:
    lan, far = good()
    bent = lan.after("ask-late:ea", resolved(EA)).without("promotion:ssa")
    page = html(Report("A bad run", examine(tmp_path, bent, far)))
    assert 'class="badge failed"' in page
    assert page.count('<tr class="failed">') >= 3


def test_hostile_words_are_escaped(judgement: Judgement) -> None:
    words = '<script>alert("x")</script> & [b]'
    report = Report(words, judgement, words, (words,), {words: words}, {words: words}, (words,))
    page = html(report)
    assert "<script>" not in page
    assert page.count("&lt;script&gt;") == 9


@pytest.mark.parametrize("width", [360, 1120])
def test_figures_are_well_formed_and_inside_their_frame(judgement: Judgement, width: int) -> None:
    chosen = choose(judgement)
    assert chosen is not None
    for figure in (lifetimes_figure(judgement, width), sequence_figure(chosen, judgement, width)):
        root = ElementTree.fromstring(figure)
        high = float(root.attrib["height"])
        for element in root.iter():
            for name, limit in (("x", width), ("x1", width), ("x2", width), ("y", high), ("y1", high), ("y2", high)):
                assert 0 <= float(element.attrib.get(name, 0)) <= limit, (element.tag, element.attrib)
        assert root.find("{http://www.w3.org/2000/svg}title") is not None


def test_states_differ_by_pattern_and_by_name(judgement: Judgement) -> None:
    figure = lifetimes_figure(judgement)
    for state in ("TENTATIVE", "UNCERTAIN", "PREFERRED"):
        assert f'<pattern id="life-{state.lower()}"' in figure
        assert f">{state}<" in figure
    assert len(re.findall(r"<title>2001:db8:a::1:e1 [A-Z]+ for", figure)) == 3


def test_figures_on_one_page_share_no_ids(judgement: Judgement) -> None:
    ids = re.findall(r' id="([^"]+)"', html(Report("A run", judgement)))
    assert len(ids) == len(set(ids)) > 4


def test_sixty_addresses_have_a_bar_each_and_more_are_bundled(tmp_path: Path) -> None:
    few, more, many = crowd(tmp_path, MOST_ROWS), crowd(tmp_path, MOST_ROWS + 2), crowd(tmp_path, 2 * MOST_ROWS + 2)
    assert [len(rows) for _, rows in rows_of(few)] == [MOST_ROWS]
    ((heading, rows),) = rows_of(more)  # half of them were never taken: one bar for those
    assert heading == "N · 2001:db8:a::/64"
    assert [len(row.lives) for row in rows] == [1] * 31 + [31]
    ((_, rows),) = rows_of(many)
    assert len(rows) <= BUNDLES + 2
    assert sum(len(row.lives) for row in rows) == 2 * MOST_ROWS + 2
    for judged in (few, more, many):
        ElementTree.fromstring(lifetimes_figure(judged))
    assert ">31 addresses<" in lifetimes_figure(more)


def test_the_diagram_shows_births_segments_and_the_port_change(judgement: Judgement) -> None:
    chosen = choose(judgement)
    assert chosen is not None
    assert chosen.changes
    steps = steps_of(chosen, judgement)
    assert [step.time for step in steps] == sorted(step.time for step in steps)
    assert [step.second for step in steps if step.kind == "note"].count("PREFERRED") == 2
    assert sum("changed" in step.second for step in steps) == 2
    assert steps[-1].second == "gone"


def test_rows_of_one_time_stand_in_the_order_of_the_capture(tmp_path: Path) -> None:
    """In simulation a promotion and the first segment leave at the same time, and a leave at that of the last one."""
    lan, far = good()
    begun = next(sent.time for sent in lan.frames if sent.tag == "promotion:ea")
    ended = next(sent.time for sent in lan.frames if sent.tag == "leave-again:ea")
    at_once = [replace(sent, time=begun if begun <= sent.time <= ended else sent.time) for sent in lan.frames]
    judged = examine(tmp_path, Wire(at_once, lan.now), far)
    connection = next(each for each in judged.connections if not each.changes and each.complete)
    rows = [step.label.partition(" ")[0] for step in steps_of(connection, judged)]
    assert rows[:4] == ["DAD", "DAD", "promotion", "SYN"]
    assert rows[-1] == "group"


def test_both_figures_count_from_the_beginning_of_the_capture(tmp_path: Path) -> None:
    lan, far = good()
    late = Wire([replace(sent, time=sent.time + 3.0) for sent in lan.frames[1:]], lan.now)
    quiet = Wire(lan.frames[:1] + late.frames, lan.now + 3.0)
    figure = lifetimes_figure(examine(tmp_path, quiet, far))
    labels = re.findall(r">([0-9.]+) s</text>", figure)
    assert float(labels[0]) == 3.0


def test_long_transfers_are_one_row(tmp_path: Path) -> None:
    lan, _ = good()
    more = Wire()
    session(more, "x", EA, SERVER, (NODE_MAC, ROUTER_MAC))
    repeated = [sent.packet for sent in more.frames if sent.tag.startswith("reply")] * 50
    bent = lan.after("reply1:ea", *repeated, delay=1e-6)
    judged = examine(tmp_path, bent, lan)
    connection = next(c for c in judged.connections if c.client.sent > 1 and not c.changes and c.complete)
    runs = [step for step in steps_of(connection, judged) if step.kind == "run"]
    assert len(runs) == 1
    assert runs[0].label == "199 more segments"
    assert runs[0].second.startswith("→ 0 and ← 49,500 bytes in ")


def test_a_run_without_anything_still_has_a_page(tmp_path: Path) -> None:
    nothing = examine(tmp_path, Wire(), Wire())
    page = write_report(tmp_path / "report", Report("Nothing happened", nothing)).read_text()
    assert "No one-time address was seen." in page
    assert "No TCP connection" in page
    assert "nothing captured" in page
