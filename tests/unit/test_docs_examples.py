"""Files and commands that a page shows are those that a reader types: they are taken from the page and run.

Simulations repeat exactly, so what a page shows changes only when the stack does: addresses when a seed is used otherwise,
figures when TCP behaves otherwise.  Then what is printed now belongs into the page.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {
    "address-generator.md": "readable.py",
    "congestion-controller.md": "scalable.py",
    "demo.md": None,
    "reading-the-report.md": None,
    "writing-a-scenario.md": "paid_delay.py",
}
"""Pages that can be followed without privileges, each with the file that it has the reader write, if any."""
PROVEN = {"address-generator.md": ["UM-GEN-6"], "congestion-controller.md": ["ST-TCP-5"]}
"""What a page shows that can be followed: that a file of a reader's own takes part."""


def blocks(page: str, language: str) -> list[str]:
    """The fenced blocks of a page in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def transcripts(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each command that a page shows after `$`, with the lines of output that it shows; "…" stands for those left out."""
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, *lines = part.rstrip("\n").split("\n")
            yield command, [line for line in lines if line != "…"]


def typed(command: str, folder: Path) -> list[str]:
    """What a command prints in a folder, with the console script found as in an activated environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "COLUMNS": "110"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.stdout.splitlines()


def timeless(line: str) -> str:
    """A line without what differs from machine to machine: how long the run took."""
    return re.sub(r" in \d+(\.\d)? s\.", " in … s.", line).rstrip()


def missing(shown: list[str], printed: list[str]) -> list[str]:
    """The lines of a page that the program does not print, or not in this order."""
    rest = iter([timeless(line) for line in printed])
    return [line for line in shown if timeless(line) not in rest]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("page", "name"),
    [pytest.param(*each, marks=pytest.mark.proves(*PROVEN.get(each[0], ()), by="api")) for each in PAGES.items()],
)
def test_a_page_can_be_followed_as_it_stands(page: str, name: str | None, tmp_path: Path) -> None:
    if name is not None:
        (source,) = blocks(page, "python")
        (tmp_path / name).write_text(source, encoding="utf-8")
    followed = 0
    for command, shown in transcripts(page):
        printed = typed(command, tmp_path)
        assert missing(shown, printed) == [], "\n".join([command, *printed])
        followed += 1
    assert followed > 1


def test_output_that_differs_from_the_page_is_found() -> None:
    shown = ["a", "c took 1, in 2.5 s."]
    assert missing(shown, ["a", "b", "c took 1, in 9.9 s."]) == []
    assert missing(shown, ["a", "c took 2, in 2.5 s."]) == ["c took 1, in 2.5 s."]
    assert missing(shown, ["c took 1, in 2.5 s.", "a"]) == ["c took 1, in 2.5 s."]
