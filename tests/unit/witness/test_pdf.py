"""Figures as PDF: the same words and states as in the SVG, and the same bytes each time."""

from __future__ import annotations

import re
import zlib

import pytest

from scenarios.report import lifetimes_figure, sequence_figure
from scenarios.report.pdf import pdf
from scenarios.witness import Judgement

from .story import examine, good


@pytest.fixture(scope="module")
def judgement(tmp_path_factory: pytest.TempPathFactory) -> Judgement:
    """A good run."""
    return examine(tmp_path_factory.mktemp("good"), *good())


def drawing(data: bytes) -> bytes:
    """What the page's content streams say, unpacked."""
    streams = re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, flags=re.DOTALL)
    unpacked = []
    for stream in streams:
        try:
            unpacked.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return b"".join(unpacked)


def test_a_figure_is_a_pdf_page_of_its_size(judgement: Judgement) -> None:
    svg = lifetimes_figure(judgement)
    found = re.search(r'viewBox="0 0 (\S+) (\S+)"', svg)
    assert found is not None
    data = pdf(svg)
    box = re.search(rb"/MediaBox \[ 0 0 (\S+) (\S+) \]", data)
    assert box is not None
    assert [round(float(box[i]) / 0.75) for i in (1, 2)] == [round(float(found[i])) for i in (1, 2)]
    assert data == pdf(svg)


def test_every_bar_and_arrow_is_drawn(judgement: Judgement) -> None:
    svg = lifetimes_figure(judgement)
    drawn = drawing(pdf(svg))
    assert drawn.count(b"BT") == svg.count("<text")  # words stay words; a hatch is a pattern of its own
    assert len(re.findall(rb"/H\d+ scn", drawn)) >= svg.count('fill="url(#life-uncertain)"')
    connection = judgement.connections[0]
    svg = sequence_figure(connection, judgement)
    assert len(re.findall(rb" l\s", drawing(pdf(svg)))) >= svg.count("<line")
