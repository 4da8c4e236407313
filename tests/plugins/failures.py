"""What a test leaves that failed: its wires with what the stacks said, and the frames that the failed assertion looked at.

The captures lie in the test's folder under `out/tests/` (`tests.plugins.artefacts`), those of wires in memory beside those that
dumpcap took; of the latter an annotated copy with the stack's events is made once they are closed.  The report of the failure
names them, and the frames: a frame is one that a variable of the failed statement holds, as bytes, as a packet of scapy or dpkt,
or as a record of a capture with its number.  Where no variable holds any, the last frame is named as that.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from scenarios.conformance.labels import BROKEN, label
from tests.plugins import taps
from tests.plugins.artefacts import FAILED, folder_of
from tests.plugins.marking import ANNOTATED, copy_marked, events_of, real_captures

MOST_FRAMES = 8
"""An assertion about more frames is about none of them in particular."""
_MOST_ELEMENTS = 64
_NAME = re.compile(r"[A-Za-z_]\w*")
_LABELS = pytest.StashKey[dict[Path, dict[int, list[str]]]]()
"""What is to be said beside frames of captures that dumpcap may still be writing."""


class Looked(NamedTuple):
    """A frame that a failed statement looked at."""

    capture: Path
    number: int


class _Places:
    """Where frames are found again: in the wires in memory, and in the captures of a folder."""

    def __init__(self, folder: Path, recording: taps.Recording) -> None:
        # Here, since most sessions have no failure to tell of.
        from scenarios.witness import CaptureError
        from scenarios.witness.pcapng import PcapngFile

        self.wires = dict(zip(_names(folder), filter(None, recording.worlds), strict=False))
        self.files = [path for path in real_captures(folder) if path not in self.wires]
        self._at: dict[bytes, list[Looked]] = {}
        for path, recorder in self.wires.items():
            for number, frame in enumerate(recorder.frames(), 1):
                self._add(frame, recorder.link_type, Looked(path, number))
        for path in self.files:
            try:
                file = PcapngFile(path)
                for raw in file.frames():
                    self._add(bytes(raw.data), file.interfaces[raw.interface].link_type, Looked(path, raw.number))
            except (CaptureError, ValueError):
                continue  # nothing has been captured yet

    def _add(self, frame: bytes, link_type: int, place: Looked) -> None:
        self._at.setdefault(frame, []).append(place)
        if link_type == taps.ETHERNET:  # whoever looks at packets has no Ethernet header
            self._at.setdefault(frame[14:], []).append(place)

    def of(self, value: object) -> list[Looked]:
        """The places of a frame, or of a record that has its number there."""
        found = [place for data in _bytes_of(value) for place in self._at.get(data, ())]
        number, file = getattr(value, "number", None), str(getattr(value, "file", ""))
        if isinstance(number, int) and hasattr(value, "src"):
            found += [Looked(path, number) for path in self.files if path.name == file or len(self.files) == 1]
        return found

    def last(self) -> Looked | None:
        """The last frame of the latest wire."""
        path = next(reversed(self.wires), None)
        return None if path is None else Looked(path, len(self.wires[path].frames()))


def _names(folder: Path) -> Iterator[Path]:
    return (folder / f"wire{f'-{number}' if number > 1 else ''}.pcapng" for number in count(1))


def _bytes_of(value: object) -> Iterator[bytes]:
    """The frame or packet that a value is, if it is one."""
    # Where nobody has imported one of these, no value is a packet of it.
    scapy, dpkt = sys.modules.get("scapy.packet"), sys.modules.get("dpkt")
    if isinstance(value, bytes | bytearray | memoryview) or (dpkt is not None and isinstance(value, dpkt.Packet)):
        yield bytes(value)
    elif scapy is not None and isinstance(value, scapy.Packet):
        layer: Any = value
        while layer.underlayer is not None:
            layer = layer.underlayer
        yield bytes(layer.original or b"")
        yield bytes(layer)


def _values(value: object, depth: int = 2) -> Iterator[object]:
    """A value, and what it holds where it is a list, a tuple or a dictionary."""
    yield value
    if depth and isinstance(value, list | tuple | dict) and len(value) <= _MOST_ELEMENTS:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _values(each, depth - 1)


def _looked_at(error: pytest.ExceptionInfo[BaseException], places: _Places) -> list[Looked]:
    """The frames that the statement that failed had in its variables: of the innermost function that had any."""
    for entry in reversed(error.traceback):
        names = dict.fromkeys(_NAME.findall(str(entry.statement))) if entry.frame.code.fullsource else {}
        found = list[Looked]()
        for name in names:
            # A value that cannot be asked is no frame, and the test's own failure is to be told.
            with suppress(Exception):
                found += [place for each in _values(entry.locals.get(name)) for place in places.of(each)]
        found = list(dict.fromkeys(found))
        if 0 < len(found) <= MOST_FRAMES:
            return found
    return []


def told(found: Iterable[Looked]) -> str:
    """Frames in words.

    >>> told([Looked(Path("out/wire.pcapng"), 3), Looked(Path("out/wire.pcapng"), 7), Looked(Path("out/lan.pcapng"), 1)])
    'frames 3, 7 of wire.pcapng, frame 1 of lan.pcapng'
    """
    by_file: dict[str, list[str]] = {}
    for capture, number in found:
        by_file.setdefault(capture.name, []).append(str(number))
    return ", ".join(f"frame{'s'[: len(n) - 1]} {', '.join(n)} of {name}" for name, n in by_file.items())


def _leave(
    item: pytest.Item, report: pytest.TestReport, error: pytest.ExceptionInfo[BaseException], recording: taps.Recording
) -> None:
    folder = folder_of(item)
    places = _Places(folder, recording)
    found = _looked_at(error, places)
    crash = getattr(report.longrepr, "reprcrash", None)
    why = str(crash.message).partition("\n")[0] if crash is not None else report.outcome
    for capture, number in found:
        if capture in places.wires:
            places.wires[capture].remark(number, label(BROKEN, why))
        else:
            item.stash.setdefault(_LABELS, {}).setdefault(capture, {})[number] = [label(BROKEN, why)]
    written = recording.write(_names(folder), item.nodeid, last=True)
    lines = [str(path) for path in (*written, *places.files)]
    if found:
        lines.append(f"the assertion looked at {told(found)}")
        if crash is not None:
            crash.message = f"{told(found)}: {crash.message}"
    elif (last := places.last()) is not None:
        lines.append(f"the last frame before it is {told([last]).removeprefix('frame ')}")
    if folder.exists():
        report.sections.append(("artefacts", "\n".join([str(folder), *lines])))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.excinfo is not None and taps.recording is not None:
        _leave(item, report, call.excinfo, taps.recording)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Once the captures are closed, copies of those of a failed test that say more."""
    try:
        return (yield)
    finally:
        if item.stash.get(FAILED, False) and taps.recording is not None:
            labels = item.stash.get(_LABELS, {})
            for source in _Places(folder_of(item), taps.recording).files:
                if not source.stem.endswith(ANNOTATED):
                    _annotate(source, taps.recording, labels.get(source, {}))


def _annotate(source: Path, recording: taps.Recording, labels: dict[int, list[str]]) -> None:
    notes = events_of(source, recording)
    for number, words in labels.items():
        notes.setdefault(number, []).extend(words)
    if notes or recording.made_by_hand or recording.declared:
        target = source.with_name(f"{source.stem}{ANNOTATED}.pcapng")
        copy_marked(source, target, made=recording.made_by_hand, words=recording.declared, notes=notes)
