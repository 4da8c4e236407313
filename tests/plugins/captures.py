"""`--captures DIR`: each test that proves a requirement leaves what was on its wire, and the table of verdicts names the file.

    virtual time   frames are written down by the harness that carries them (`tests.plugins.taps`): the pair of TCPs, the bench
                   of the host, every in-memory wire and switch
    real time      pcapng files that a test leaves in its `artefacts` folder, taken there by dumpcap

Files are named for their tests.  Without the option nothing is kept and nothing is slowed down.
"""

from __future__ import annotations

import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests.plugins import taps
from tests.plugins.artefacts import folder_name
from tests.plugins.marking import copy_marked
from tests.plugins.requirements import CAPTURE, PROPERTY

MOST_BYTES = 4_000_000
"""A larger file of a real test is not copied; the report of the test that took it has it."""
_ANNOTATED = "-annotated"
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
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None]:
        taps.recording = [] if self._proves(item) else None
        taps.made_by_hand.clear()
        taps.declared.clear()
        yield

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None]:
        try:
            yield
        finally:
            worlds, taps.recording = taps.recording or [], None
        for number, recorder in enumerate([each for each in worlds if each], 1):
            suffix = f"-{number}" if number > 1 else ""
            path = self.folder / f"{folder_name(item.nodeid)}{suffix}.pcapng"
            recorder.write(path, f"{item.nodeid} ({recorder.name})")
            self._file(item, path)

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
        for source in sorted(folder.rglob("*.pcapng")):
            if source.with_name(f"{source.stem}{_ANNOTATED}.pcapng").exists() or source.stat().st_size > MOST_BYTES:
                continue
            path = self.folder / folder_name(item.nodeid) / source.name
            path.parent.mkdir(parents=True, exist_ok=True)
            if taps.made_by_hand or taps.declared:
                copy_marked(source, path, taps.made_by_hand, taps.declared)
            else:
                shutil.copyfile(source, path)
            self._file(item, path)


def _watch_memory_links() -> None:
    """Every in-memory fabric has a tap; who sends is known from the drivers on its ports, all else is made by hand."""
    from tapstack import driver
    from tapstack.link import impairment, memory

    make_fabric, make_driver = memory._Fabric.__init__, driver.Driver.__init__
    make_impaired = impairment.ImpairedLink.__init__

    def fabric(self: Any, *arguments: Any, **options: Any) -> None:
        make_fabric(self, *arguments, **options)
        if taps.recording is None:
            return
        tap: taps.Tap | None = None
        self.tap_owners = {}

        def observe(now: float, port: int, frame: bytes, delivered: list[Any] | None = None) -> None:
            nonlocal tap
            if tap is None:
                link_type = taps.RAW_IP if self._ports and self._ports[port].properties.mac is None else taps.ETHERNET
                tap = self.tap = taps.world(type(self).__name__.removeprefix("Memory").lower(), link_type)
                if getattr(self, "tap_disturbed", False):
                    tap.disturb()
            tap.sent(now, self.tap_owners.get(port, taps.BY_HAND), frame, delivered)

        self.observe(observe)
        self.tap_lost = lambda now, port, frame: observe(now, port, frame, [])

    def drive(self: Any, stack: Any, link: Any, *arguments: Any, **options: Any) -> None:
        make_driver(self, stack, link, *arguments, **options)
        below = _below(link)
        owners = getattr(getattr(below, "_fabric", None), "tap_owners", None)
        if owners is not None:
            fabric_of = below._fabric
            owners[below.port] = f"node {len(owners) + 1}"
            who = owners[below.port]
            stack.events.subscribe(
                lambda event: getattr(fabric_of, "tap", taps.FORGETFUL).say(f"{who} says: {event.text()}")
            )

    def impair(self: Any, link: Any, *arguments: Any, **options: Any) -> None:
        make_impaired(self, link, *arguments, **options)
        fabric_of = getattr(_below(link), "_fabric", None)
        if fabric_of is not None:
            fabric_of.tap_disturbed = True

    memory._Fabric.__init__ = fabric  # type: ignore[method-assign]
    driver.Driver.__init__ = drive  # type: ignore[method-assign]
    impairment.ImpairedLink.__init__ = impair  # type: ignore[method-assign]


def _below(link: Any) -> Any:
    while hasattr(link, "_link"):
        link = link._link
    return link


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
        _watch_memory_links()
