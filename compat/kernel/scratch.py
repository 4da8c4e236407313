"""Folders for the files of one run that are gone with it, or, after a kill, with the next start (leftovers.py).

Each is `unimux-<pid>-<start>-<role>-<random>` in the machine's folder for such files, and its owner holds a lock on it: who sees
the folder from another PID namespace, where the owner's id means nothing, sees that it is held.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import KernelUnavailable
from .owner import PREFIX, Owner


@contextmanager
def scratch_folder(role: str) -> Iterator[Path]:
    """A folder for the length of the block, that only we may read; raises `KernelUnavailable` where none can be made."""
    path, held = _make(role)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(held)


def _make(role: str) -> tuple[Path, int]:
    """A new folder, and the file descriptor by which it is held."""
    while True:
        try:
            path = Path(tempfile.mkdtemp(prefix=f"{Owner.current().namespace_name(role)}-"))
        except FileNotFoundError as error:
            raise KernelUnavailable(f"No folder for temporary files can be written: {error.strerror}.") from error
        try:
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # swept away from another PID namespace before it was held
            continue
        fcntl.flock(held, fcntl.LOCK_EX)
        if path.exists():
            return path, held
        os.close(held)


def remove_scratch() -> tuple[str, ...]:
    """Remove the folders of the dead; only our user's own, since anybody may make one of that name."""
    removed: list[str] = []
    try:
        folder = Path(tempfile.gettempdir())
    except OSError:  # there is none that can be written, so there is nothing of ours to remove
        return ()
    for path in sorted(folder.glob(f"{PREFIX}-*")):
        owner = Owner.of_namespace(path.name)
        if owner is None or owner.alive():
            continue
        with suppress(OSError):  # not ours to open, held, or gone
            held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                if os.fstat(held).st_uid == os.geteuid():
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path)
                    removed.append(str(path))
            finally:
                os.close(held)
    return tuple(removed)
