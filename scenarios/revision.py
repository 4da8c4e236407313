"""Which sources a result is of."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision(folder: Path) -> tuple[str | None, bool]:
    """The commit of a working copy, and whether any file that it has differs; None where the folder is no working copy."""
    # A folder below somebody else's working copy, where this may be installed, has nothing of ours.
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    if top is None or commit is None or Path(top) != folder.resolve():
        return None, False
    return commit, bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))


def described(folder: Path) -> str:
    """The same in a word: the first digits of the commit, with `+` where a file differs; empty where there is none."""
    commit, changed = revision(folder)
    return "" if commit is None else commit[:12] + "+" * changed


def origin(revision: str, ended: str) -> str:
    """Which run a result is of, for people.

    >>> origin("0123456789ab", "2026-11-22T09:00:00+00:00")
    'of 0123456789ab, 2026-11-22T09:00:00+00:00'
    """
    return f"of {revision or 'unknown sources'}, {ended or 'at an unknown time'}"


def _git(folder: Path, *words: str) -> str | None:
    """What git says; None where it refuses, or is not installed.  The working copy may be another user's: root measures."""
    command = ["git", "-C", str(folder), "-c", f"safe.directory={folder.resolve()}", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
