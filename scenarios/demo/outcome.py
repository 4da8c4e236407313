"""What a demo run leaves: captures, events, who was who, and the facts that the captures cannot show."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from scenarios.witness.setup import CaptureFile, Setup
from unimux.node import Node

Watch = Callable[[str, Node], AbstractContextManager[None]]
"""Lets the person who watches follow a node, by name, while a block runs."""

Say = Callable[[str], None]
"""Tells the person who watches: one line."""


@dataclass(slots=True)
class Fact:
    """Something that happened outside the captures: what a program received, what a socket said of itself."""

    title: str
    sentence: str
    passed: bool
    requirements: tuple[str, ...] = ()


@dataclass(slots=True)
class Outcome:
    """The raw result of the story, before anybody judges it.

    not_shown: what this way of running cannot show at all (title → why).
    remarks: what a reader of the report must know.  steps: the story as it was told, line by line.
    """

    folder: Path
    captures: list[CaptureFile] = field(default_factory=list)
    setup: Setup | None = None
    facts: list[Fact] = field(default_factory=list)
    not_shown: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)

    @property
    def events(self) -> Path:
        """Where the nodes' events are."""
        return self.folder / "events.jsonl"

    def chapters(self) -> list[str]:
        """The story by chapters, which the lines begin with a number; what is told within one follows in it.

        >>> Outcome(Path(), steps=["1. A file", "   24 bytes", "2. An end"]).chapters()
        ['A file – 24 bytes', 'An end']
        """
        told: list[str] = []
        for step in self.steps:
            if step[:1].isdigit():
                told.append(step.partition(". ")[2])
            elif told:
                told[-1] += f" – {step.strip()}"
        return told

    def fact(self, title: str, passed: bool, sentence: str, *requirements: str) -> None:
        """Note one."""
        self.facts.append(Fact(title, sentence, passed, requirements))
