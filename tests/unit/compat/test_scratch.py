"""Folders of a run: gone with it, after a kill with the next start, and nobody else's ever."""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from pathlib import Path

import pytest

from compat.kernel import KernelUnavailable, Owner, scratch_folder
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


def test_where_no_folder_can_be_written_a_start_goes_on_and_who_needs_one_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def nowhere() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert remove_scratch() == ()
    with pytest.raises(KernelUnavailable, match="No folder for temporary files can be written"), scratch_folder("demo"):
        pass


def test_a_folder_that_is_swept_before_it_is_held_is_made_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    swept: list[str] = []
    make = tempfile.mkdtemp

    def first_goes(prefix: str) -> str:
        name = make(prefix=prefix)
        if len(swept) < 2:
            swept.append(name)
            if len(swept) == 1:
                os.rmdir(name)
        return name

    lock = fcntl.flock

    def sweep_second(held: int, how: int) -> None:
        if len(swept) == 2 and os.path.exists(swept[1]) and os.fstat(held).st_ino == os.stat(swept[1]).st_ino:
            os.rmdir(swept[1])
        lock(held, how)

    monkeypatch.setattr(tempfile, "mkdtemp", first_goes)
    monkeypatch.setattr(fcntl, "flock", sweep_second)
    with scratch_folder("demo") as folder:
        assert folder.is_dir()
        assert str(folder) not in swept
    assert not list(place.iterdir())
