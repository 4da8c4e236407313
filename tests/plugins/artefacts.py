"""The fixture `artefacts`: a folder for a test's captures, events and logs.

It lies under `out/tests/`, is named for the test, and is empty when the test begins.  After a test that passed it is
removed, unless `--keep-artefacts` asks to keep it; after a failure it stays and the report names it (`tests.plugins.failures`).
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from tests.plugins.real import plain

FAILED = pytest.StashKey[bool]()
"""Whether a test has failed so far."""
_LONGEST = 100  # characters of a folder name; most file systems take 255 bytes


def folder_name(nodeid: str) -> str:
    """A file name for a test: its node id where that is short and plain, else shortened with a digest.

    >>> folder_name("tests/real/test_tap.py::test_echo[1500]")
    'real.test_tap.test_echo.1500'
    """
    own = plain(nodeid)
    name = re.sub(r"[^A-Za-z0-9_.-]+", ".", own.removeprefix("tests/").replace(".py::", ".")).strip(".")
    if len(name) <= _LONGEST:
        return name
    return f"{name[: _LONGEST - 9]}.{hashlib.sha256(own.encode()).hexdigest()[:8]}"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--keep-artefacts", action="store_true", help="keep the artefacts of tests that passed, too")


def folder_of(item: pytest.Item) -> Path:
    """Where a test leaves what it leaves."""
    return item.config.rootpath / "out" / "tests" / folder_name(item.nodeid)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    shutil.rmtree(folder_of(item), ignore_errors=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    failed = item.stash[FAILED] = item.stash.get(FAILED, False) or report.failed
    if report.when == "teardown" and not failed and not item.config.getoption("--keep-artefacts"):
        shutil.rmtree(folder_of(item), ignore_errors=True)
    return report


@pytest.fixture
def artefacts(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty folder for what this test leaves behind; kept when it fails."""
    folder = folder_of(request.node)
    folder.mkdir(parents=True)
    yield folder
    captures = request.config.pluginmanager.get_plugin("unimux-captures")
    if captures is not None:
        captures.keep(request.node, folder)
