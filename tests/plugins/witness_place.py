"""Keeps what `DiskState` notes outside its folder away from the machine's own notes: they go with the session."""

from __future__ import annotations

import tempfile

import pytest

_PLACE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    place = config.stash[_PLACE] = tempfile.TemporaryDirectory(prefix="unimux-witness-")
    patch = pytest.MonkeyPatch()
    patch.setenv("UNIMUX_WITNESS", place.name)  # also for the processes that tests start
    config.add_cleanup(patch.undo)
    config.add_cleanup(place.cleanup)
