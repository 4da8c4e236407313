"""Garbage collection where objects live long."""

from __future__ import annotations

import gc
import weakref

import pytest

from tapstack.garbage import settled


def test_what_was_built_before_is_left_out_of_collections_until_the_block_ends() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.own = self

    built = weakref.ref(old := Cycle())
    with settled():
        made = weakref.ref(new := Cycle())
        del old, new
        gc.collect()
        assert made() is None, "what is made meanwhile is collected as ever"
        assert built() is not None
    gc.collect()
    assert built() is None
    assert gc.get_freeze_count() == 0


def test_thresholds_are_put_back_even_where_the_block_fails() -> None:
    before = gc.get_threshold()
    with settled():
        assert gc.get_threshold() != before
    with pytest.raises(ZeroDivisionError), settled():
        raise ZeroDivisionError
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
