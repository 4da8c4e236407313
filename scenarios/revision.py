"""Which sources a result is of."""

from __future__ import annotations

import subprocess
from pathlib import Path


def revision(checkout: Path) -> str:
    """The commit of a checkout, with `+` where files differ from it; empty where git does not know the folder.

    Files that git does not know count as a difference too, except those it ignores.
    """
    commit = _git(checkout, "rev-parse", "--short=12", "HEAD")
    return commit + ("+" if commit and _git(checkout, "status", "--porcelain") else "")


def _git(checkout: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=checkout, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
