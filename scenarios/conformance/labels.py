"""Labels: what the maker of a capture tells its reader beside the frames.

A label is a comment of its own, on the file or on a frame: its word, or its word, a colon, and what there is to say.  Nothing
else is one, whatever words it holds: not the name of a test, not what a stack says of itself.

>>> said(OFFLOAD, ["tests/a.py::test_b[offload] (wire)", "a says: offload", "offload: checksums are left to the link"])
['checksums are left to the link']
"""

from __future__ import annotations

from collections.abc import Iterable

OFFLOAD = "offload"
"""The link leaves checksums, or the cutting into segments, to the hardware."""
REAL_TIME = "real time"
"""A kernel carried the frames, on more than one processor perhaps: what it sends may leave in exchanged order."""
DISTURBED = "disturbed"
"""Frames of the whole file are lost, delayed, changed or repeated where its maker cannot see it."""
ELSEWHERE = "made by the test elsewhere"
"""The test made segments between these two addresses at another place than this capture's."""
LEFT_OUT = "left out"
"""What of the test's traffic the file does not hold."""
BROKEN = "the test failed here"
"""The assertion that failed looked at this frame."""
LOST, LATE, CHANGED, REPEATED = "lost on the way", "held back", "arrives changed", "repeated on the way"
"""What the wire did to this frame."""
BY_HAND = "by hand"
"""No comment but the name of an interface: its frames were made by the test, or changed on their way."""


def label(word: str, text: str) -> str:
    """A label that says something.

    >>> label(LEFT_OUT, "3 frames")
    'left out: 3 frames'
    """
    return f"{word}: {text}"


def said(word: str, comments: Iterable[str]) -> list[str]:
    """What each label with this word among the comments says; the empty string for the word alone."""
    found = (comment.partition(":") for comment in comments)
    return [text.strip() for head, _, text in found if head == word]
