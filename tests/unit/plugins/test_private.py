"""Two sessions of tests on one machine do not see each other's namespaces and services."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.plugins.private import FOLDERS

LOOKS = """
import sys
from pathlib import Path
from tests.plugins.private import FOLDERS, leave
assert leave()
print([path.name for folder in FOLDERS for path in folder.iterdir()])
(FOLDERS[1] / "services").mkdir()
"""


@pytest.mark.real
def test_another_session_sees_nothing_of_this_one_and_leaves_nothing() -> None:
    names = [folder / f"of-this-session-{os.getpid()}" for folder in FOLDERS]
    for path in names:
        path.touch()
    try:
        before = [sorted(folder.iterdir()) for folder in FOLDERS]
        done = subprocess.run([sys.executable, "-c", LOOKS], capture_output=True, text=True, timeout=30, check=False)
        assert (done.stdout, done.stderr) == ("[]\n", "")
        assert [sorted(folder.iterdir()) for folder in FOLDERS] == before
    finally:
        for path in names:
            path.unlink()


@pytest.mark.real
def test_this_session_has_folders_of_its_own() -> None:
    assert [os.path.ismount(folder) for folder in FOLDERS] == [True, True]
