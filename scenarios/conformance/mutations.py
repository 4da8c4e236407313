"""The negative controls: the stack is broken on purpose, one defect at a time, and the tests must notice.

The defects and the tests that watch over them are in the checkout, `tests/conformance/mutations`; this runs them and tells the
score.  A defect that no test notices is a survivor, and is listed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec
import typer

from compat.programs.launch import end_with
from scenarios.revision import described, origin
from unimux.errors import SetupError

from .session import FOLDER

RESULTS = FOLDER / "mutations.json"


class Result(msgspec.Struct, frozen=True):
    """What became of one defect."""

    name: str
    what: str
    """the defect, in words"""
    ids: tuple[str, ...]
    """the requirements that it breaks"""
    outcome: str
    """caught, survived, or why it could not be judged"""
    by: str = ""
    """the test that noticed it first"""
    seconds: float = 0.0

    @property
    def caught(self) -> bool:
        """Whether a test failed because of it."""
        return self.outcome == "caught"


class Score(msgspec.Struct, frozen=True):
    """The results of one run."""

    results: tuple[Result, ...]
    revision: str = ""
    """of the sources (`scenarios.revision`)"""
    ended: str = ""
    """when, in UTC"""

    @property
    def survivors(self) -> list[Result]:
        """The defects that nobody noticed, or that could not be judged."""
        return [result for result in self.results if not result.caught]

    def origin(self) -> str:
        """Which run this is, for people."""
        return origin(self.revision, self.ended)

    def sentence(self) -> str:
        """The mutation score in words.

        >>> Score((Result("a", "", (), "caught"), Result("b", "", (), "survived"))).sentence()
        '1 of 2 defects noticed, 50 %'
        """
        noticed = len(self.results) - len(self.survivors)
        share = 100 * noticed // len(self.results) if self.results else 0
        return f"{noticed} of {len(self.results)} defects noticed, {share} %"


def latest(checkout: Path) -> Score | None:
    """The results of the latest run; None where there was none."""
    try:
        return msgspec.json.decode((checkout / RESULTS).read_bytes(), type=Score)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def run(checkout: Path, *, json: bool) -> int:
    """Run every negative control of a checkout and print the results; the exit status."""
    path = checkout / RESULTS
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    told = path.with_name(f"mutations-{os.getpid()}.json")
    command = [sys.executable, "-m", "tests.conformance.mutate", "--json", str(told)]
    status = subprocess.run(
        command,
        cwd=checkout,
        check=False,
        stdout=sys.stderr,
        preexec_fn=partial(end_with, os.getpid(), ctypes.CDLL(None), signal.SIGTERM),
    ).returncode
    try:
        results = tuple(msgspec.json.decode(told.read_bytes(), type=list[Result]))
    except (FileNotFoundError, msgspec.MsgspecError):
        raise SetupError(f"The negative controls stopped with status {status}; their messages stand above.") from None
    finally:
        told.unlink(missing_ok=True)
    score = Score(results, described(checkout), datetime.now(UTC).isoformat(timespec="seconds"))
    path.write_bytes(msgspec.json.encode(score))
    if json:
        typer.echo(msgspec.json.encode(score.results).decode())
    else:
        _print(score)
    return 1 if score.survivors else 0


def _print(score: Score) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("defect", overflow="fold", ratio=3)
    table.add_column("breaks", overflow="fold", ratio=2)
    table.add_column("outcome", no_wrap=True)
    table.add_column("noticed by", overflow="fold", ratio=3)
    for result in score.results:
        style = "green" if result.caught else "bold red"
        table.add_row(
            escape(result.what),
            ", ".join(result.ids),
            f"[{style}]{escape(result.outcome)}[/]",
            escape(result.by.rpartition("::")[2]),
        )
    console = Console()
    console.print(table)
    console.print(score.sentence(), highlight=False)
    for result in score.survivors:
        console.print(
            f"survivor: {result.name} ({result.outcome}) – {result.what}", style="red", markup=False, highlight=False
        )
