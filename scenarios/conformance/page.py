"""The report of a run: `index.html` with every requirement, and a page per capture with its annotated packet list.

No script and nothing from elsewhere: the folder can be archived, mailed and read offline, on a phone too.  The captures lie
beside their pages.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from unimux.errors import SetupError

from .mutations import latest
from .oracle import Opinion
from .packets import Listing
from .rows import SPECIFICATIONS, Row, Table, counts, grouped, without_evidence

MOST_PACKETS = 1000
"""Lines of one packet list; the capture has the others."""
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class _Link:
    """A capture as a row of the table refers to it."""

    label: str
    page: str
    packets: int
    sound: bool
    left_out: list[str]
    broken: list[int]
    """the packets that a failed assertion looked at"""


def write(folder: Path, checkout: Path, table: Table, rows: Sequence[Row], opinion: Opinion) -> Path:
    """Write the report of some rows of a run's table and return the path of its first page.

    Raises `SetupError` where it cannot be written.
    """
    try:
        captures = folder / "captures"
        captures.mkdir(parents=True, exist_ok=True)
        proves = _by_capture(rows)
        links = {
            name: _write_capture(captures, checkout, name, listing, opinion.tests[name], proves.get(name, []))
            for name, listing in opinion.listings.items()
        }
        page = folder / "index.html"
        page.write_text(_index(checkout, table, rows, opinion, links), encoding="utf-8")
    except OSError as error:
        raise SetupError(f"The report cannot be written to {folder}: {error.strerror}.") from error
    return page


def _by_capture(rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        for name in row.captures:
            found.setdefault(name, []).append(row)
    return found


def page_name(name: str) -> str:
    """The file name, without suffix, of a capture in the report.

    >>> page_name("out/conformance/captures/unit.tcp.test_modes.test_x.pcapng")
    'unit.tcp.test_modes.test_x'
    """
    parts = PurePath(name).with_suffix("").parts
    after = parts[parts.index("captures") + 1 :] if "captures" in parts else parts[-2:]
    joined = ".".join(part for part in after if part != os.sep)
    if len(joined) > _LONGEST:
        joined = f"{joined[:_LONGEST]}.{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return joined


def heading(comment: str, stem: str) -> str:
    """What a capture's page is headed by: the name of its test, from the file's first comment or from the file's name, in words.

    >>> heading("tests/a.py::test_one_two (pair)", "unit.a.test_one_two")
    'one two'
    >>> heading("Annotated copy of lan.pcapng", "real.test_demo.test_it_passes.capture-lan")
    'it passes, capture-lan'
    """
    test = comment.split(" (")[0].rpartition("::")[2] if "::" in comment else stem.rpartition(".test_")[2] or stem
    return test.removeprefix("test_").replace("_", " ").replace(".", ", ")


def _write_capture(folder: Path, checkout: Path, name: str, listing: Listing, test: str, rows: list[Row]) -> _Link:
    """The page of one capture, which `test` left and which is evidence for `rows`, perhaps for none."""
    stem = page_name(name)
    if not listing.error:
        shutil.copyfile(checkout / name, folder / f"{stem}.pcapng")
    senders = list(dict.fromkeys(packet.sender for packet in listing.packets))
    text = _template("capture.html.j2").render(
        style=_style(),
        title=heading(listing.comments[0] if listing.comments else "", stem),
        file=f"{stem}.pcapng",
        listing=listing,
        packets=listing.packets[:MOST_PACKETS],
        more=max(0, len(listing.packets) - MOST_PACKETS),
        test=test,
        rows=rows,
        senders={sender: f"s{number % 4}" for number, sender in enumerate(senders)},
        show_senders=len(senders) > 1,
    )
    (folder / f"{stem}.html").write_text(text, encoding="utf-8")
    label = stem.rpartition("test_")[2] or stem
    sound = not listing.error and not listing.unexplained
    broken = [packet.number for packet in listing.packets[:MOST_PACKETS] if packet.broken]
    page = f"captures/{stem}.html"
    return _Link(label.replace("_", " "), page, len(listing.packets), sound, listing.left_out, broken)


def _others(rows: Sequence[Row], opinion: Opinion, links: dict[str, _Link]) -> dict[str, list[_Link]]:
    """The captures that are evidence for no row, by test."""
    evidence = _by_capture(rows)
    found: dict[str, list[_Link]] = {}
    for name, link in links.items():
        if name not in evidence:
            found.setdefault(opinion.tests[name], []).append(link)
    return found


def _index(checkout: Path, table: Table, rows: Sequence[Row], opinion: Opinion, links: dict[str, _Link]) -> str:
    specifications: list[dict[str, Any]] = [
        {
            "name": spec,
            "title": SPECIFICATIONS.get(spec, spec),
            "counts": counts(members),
            "rows": [(row, [links[name] for name in row.captures], _tests(row)) for row in members],
        }
        for spec, members in grouped(rows).items()
    ]
    return _template("index.html.j2").render(
        style=_style(),
        table=table,
        counts=counts(rows),
        specifications=specifications,
        opinion=opinion,
        others=_others(rows, opinion, links),
        evidenceless=without_evidence(rows),
        mutations=latest(checkout),
        when=datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"),
        versions={
            "unimux": version("unimux"),
            "Python": sys.version.split()[0],
            "kernel": f"{os.uname().sysname} {os.uname().release}",
            "second oracle": opinion.version,
        },
    )


def _tests(row: Row) -> list[tuple[str, list[str]]]:
    """The tests of a row by file, each case with its parameters."""
    files: dict[str, list[str]] = {}
    for test in row.tests:
        file, _, case = test.partition("::")
        files.setdefault(file.removeprefix("tests/"), []).append(case)
    return list(files.items())


def prose(text: str) -> Markup:
    """A rule's text, which is a little Markdown, as HTML.

    >>> prose("*Ours.* In `LISTEN_o` < all")
    Markup('<i>Ours.</i> In <code>LISTEN_o</code> &lt; all')
    """
    escaped = str(escape(text))
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return Markup(re.sub(r"(?<![\w*>])\*([^*`<>]+)\*(?![\w*])", r"<i>\1</i>", marked))


@cache
def _template(name: str) -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["prose"] = prose
    return environment.from_string((resources.files(__package__) / name).read_text(encoding="utf-8"))


@cache
def _style() -> Markup:
    return Markup((resources.files(__package__) / "report.css").read_text(encoding="utf-8"))
