"""A result names the sources that it is of."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scenarios.revision import revision


def test_the_commit_and_whether_files_differ(tmp_path: Path) -> None:
    assert revision(tmp_path) == "", "git does not know the folder"

    def git(*arguments: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-q", "-m", "a")
    commit = git("rev-parse", "HEAD")
    assert revision(tmp_path) == commit[:12]
    (tmp_path / "a").write_text("b")
    assert revision(tmp_path) == commit[:12] + "+"
