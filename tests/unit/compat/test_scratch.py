"""Folders of a run: gone with it, after a kill with the next start, and nobody else's ever."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from compat.kernel import Owner, scratch_folder
from compat.kernel.scratch import remove_scratch

DEAD = "unimux-4194305-1-demo-x"
"""Of a process that there cannot be: ids end at 2**22."""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_named_for_its_owner_and_goes_with_the_block(place: Path) -> None:
    with scratch_folder("demo") as folder:
        assert folder.parent == place
        assert Owner.of_namespace(folder.name) == Owner.current()
        (folder / "bulk").write_bytes(b"x")
        assert remove_scratch() == ()
    assert not folder.exists()


def test_what_the_dead_have_left_is_removed_and_nothing_else(
    place: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (outside / "kept").touch()
    dead, held = place / DEAD, place / f"{DEAD}-held"
    for folder in (dead, held, place / "unimux-strange", place / "other-4194305-1-demo-x"):
        folder.mkdir()
    (dead / "bulk").touch()
    (dead / "link").symlink_to(outside)
    (place / f"{DEAD}-link").symlink_to(outside)
    (place / f"{DEAD}-file").touch()
    lock = os.open(held, os.O_RDONLY)  # by its owner, in a PID namespace of its own
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert remove_scratch() == (str(dead),)
    os.close(lock)
    assert remove_scratch() == (str(held),)
    assert (outside / "kept").exists()
    assert len(list(place.iterdir())) == 4


def test_a_stranger_s_folder_is_left_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / DEAD).mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert remove_scratch() == ()
