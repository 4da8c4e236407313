"""What a rule says: a verdict, a sentence with figures, and the frames that bear witness."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from .frames import Frame


class Verdict(StrEnum):
    """The outcome of one rule.  `NOT_SHOWN`: the captures hold no evidence either way, which is not a pass."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_SHOWN = "not shown"


class Witness(NamedTuple):
    """One frame, as a reader finds it again."""

    where: str
    file: str
    number: int

    def __str__(self) -> str:
        return f"{self.file}#{self.number}"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one rule."""

    rule: str
    requirements: tuple[str, ...]
    verdict: Verdict
    sentence: str
    witnesses: tuple[Witness, ...] = ()
    details: tuple[str, ...] = ()
    """further lines, one per thing found (a failure each, or an explained message each)"""
    title: str = ""


MOST_WITNESSES = 12
MOST_DETAILS = 50


def witnesses(frames: Iterable[Frame | None]) -> tuple[Witness, ...]:
    """The first dozen frames as witnesses, without repeats."""
    found: dict[Witness, None] = {}
    for frame in frames:
        if frame is not None:
            found[Witness(frame.where, frame.file, frame.number)] = None
            if len(found) == MOST_WITNESSES:
                break
    return tuple(found)


def frames_text(found: Sequence[Witness], most: int = 3) -> str:
    """Witness frames in short, by file.

    >>> frames_text([Witness("lan", "lan.pcapng", 3), Witness("lan", "lan.pcapng", 7), Witness("far", "far.pcapng", 1)], 2)
    'lan #3 #7, +1'
    """
    by_file: dict[str, list[str]] = {}
    for witness in found[:most]:
        by_file.setdefault(witness.file.removesuffix(".pcapng"), []).append(f"#{witness.number}")
    parts = [" ".join((file, *numbers)) for file, numbers in by_file.items()]
    if len(found) > most:
        parts.append(f"+{len(found) - most}")
    return ", ".join(parts)


def count(number: int, singular: str, plural: str = "") -> str:
    """A number with its noun.

    >>> count(1, "address", "addresses"), count(1200, "frame")
    ('1 address', '1,200 frames')
    """
    return f"{number:,} {singular if number == 1 else plural or singular + 's'}"
