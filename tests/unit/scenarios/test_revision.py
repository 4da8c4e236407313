"""A result names the sources that it is of."""

from __future__ import annotations

import subprocess
from pathlib import Path

from scenarios.revision import described, revision


def test_the_commit_and_whether_a_file_differs(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    assert (revision(tmp_path), described(tmp_path)) == ((None, False), "")
    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    (tmp_path / "below").mkdir()
    git("add", "file")
    git("commit", "--quiet", "--message", "first")
    (tmp_path / "result.json").write_text("what --out wrote")
    assert revision(tmp_path) == (git("rev-parse", "HEAD"), False)
    assert described(tmp_path) == git("rev-parse", "HEAD")[:12]
    (tmp_path / "file").write_text("two")
    assert described(tmp_path) == git("rev-parse", "HEAD")[:12] + "+"
    assert revision(tmp_path) == (git("rev-parse", "HEAD"), True)
    assert revision(tmp_path / "below") == (None, False), "installed somewhere inside another project's working copy"
