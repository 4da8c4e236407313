"""`--captures DIR`: each test that proves a requirement leaves what was on its wire, and the table of verdicts names the file.

    virtual time   frames are written down by the harness that carries them (`tests.plugins.taps`): the pair of TCPs, the bench
                   of the host, every in-memory wire and switch
    real time      pcapng files that a test leaves in its `artefacts` folder, taken there by dumpcap

Files are named for their tests.  What a file does not hold of its test's traffic, for its size, a label in it says.
A real test that passed, proves a requirement by the wire (its marker has no `by="api"`) and left no capture is an error:
nobody could look.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from itertools import count
from pathlib import Path

import pytest

from scenarios.conformance.labels import REAL_TIME
from tests.plugins import taps
from tests.plugins.artefacts import folder_name
from tests.plugins.marking import ANNOTATED, copy_marked, events_of, real_captures
from tests.plugins.requirements import BY_API, CAPTURE, PROPERTY

MOST_BYTES = 16_000_000
"""Of one file of a real test; a label of the copy says how many frames follow in the original."""
_PASSED = pytest.StashKey[bool]()
_OURS = ".captures-of-a-test-run"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("requirements")
    group.addoption("--captures", metavar="DIR", help="keep the captures of tests that prove requirements in DIR")


class Captures:
    """Keeps the captures of one session."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self._root = root

    def _file(self, item: pytest.Item, path: Path) -> None:
        shown = path.relative_to(self._root) if path.is_relative_to(self._root) else path
        item.user_properties.append((CAPTURE, str(shown)))

    def _proves(self, item: pytest.Item) -> bool:
        return any(name == PROPERTY for name, _ in item.user_properties)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        try:
            yield
        finally:
            if taps.recording is not None and self._proves(item):
                stem = folder_name(item.nodeid)
                names = (self.folder / f"{stem}{f'-{n}' if n > 1 else ''}.pcapng" for n in count(1))
                for path in taps.recording.write(names, item.nodeid):
                    self._file(item, path)
        if item.stash.get(_PASSED, False):
            _require_evidence(item)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call":
            item.stash[_PASSED] = report.passed
        return report

    def keep(self, item: pytest.Item, folder: Path) -> None:
        """The captures in the artefacts of a real test, before its folder goes."""
        if not self._proves(item):
            return
        # What a test named itself goes with its folder; the copy is named instead.
        item.user_properties[:] = [
            (name, value)
            for name, value in item.user_properties
            if not (name == CAPTURE and (self._root / str(value)).is_relative_to(folder))
        ]
        recording = taps.recording or taps.Recording()
        for source in real_captures(folder):
            path = self.folder / folder_name(item.nodeid) / source.relative_to(folder)
            path.parent.mkdir(parents=True, exist_ok=True)
            notes = {} if source.stem.endswith(ANNOTATED) else events_of(source, recording)
            copy_marked(
                source,
                path,
                made=recording.made_by_hand,
                words=[*recording.declared, REAL_TIME],
                notes=notes,
                most_bytes=MOST_BYTES,
            )
            self._file(item, path)


def _require_evidence(item: pytest.Item) -> None:
    """Fail a real test that judged by the wire and left nothing of it."""
    told = dict(item.user_properties)
    by_api = str(told.get(BY_API, "")).split()
    ids = [name for name in str(told.get(PROPERTY, "")).split() if name not in by_api]
    if ids and CAPTURE not in told and item.get_closest_marker("real") is not None:
        why = f"it proves {', '.join(ids)} by the wire and left no capture in `artefacts`"
        pytest.fail(f'{why}: see tests/real/wire.py, or mark it by="api"', pytrace=False)


def _prepare(folder: Path) -> None:
    """An empty folder; one that holds anything else than an earlier run's captures is left alone."""
    if folder.exists() and not (folder / _OURS).exists() and any(folder.iterdir()):
        raise pytest.UsageError(f"--captures {folder}: the folder is not empty; name another")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _OURS).touch()


def pytest_configure(config: pytest.Config) -> None:
    name = config.getoption("--captures")
    if name:
        folder = Path(name).absolute()
        if not hasattr(config, "workerinput"):
            _prepare(folder)
        config.pluginmanager.register(Captures(folder, config.rootpath), "unimux-captures")
