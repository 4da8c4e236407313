"""Garbage collection in a process whose objects live long.

A program with its libraries is some hundred thousand objects, a simulation of a thousand nodes a million, none of them garbage.
Python looks at all of them in each full collection, and begins a collection of some kind whenever 700 more objects were made
than went; a hundred connections that each have a hundred segments in flight come and go by more than that in every round.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_YOUNG = 10_000
"""Objects made and not gone, after which the collector looks at those: cycles of ended connections wait no longer."""


@contextmanager
def settled() -> Iterator[None]:
    """What the process has built so far stays: until the block ends the collector leaves it out, and looks less often.

    >>> with settled():
    ...     gc.get_threshold()[0]
    10000
    """
    thresholds = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, *thresholds[1:])
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()


@contextmanager
def reclaimed() -> Iterator[None]:
    """What the block leaves behind in cycles is gone when it ends, without a look at all that the process had before.

    >>> with reclaimed():
    ...     gc.get_freeze_count() > 0
    True
    """
    outer = gc.get_freeze_count()
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        if not outer:
            gc.unfreeze()
