"""Taps: what a test's stacks put on their wire, written down by the harness that carries it, as pcapng.

A harness asks `world(name)` for a tap, and tells it what passes.  While a test runs that is kept in memory; where the test fails
(`tests.plugins.failures`), and with `--captures` (`tests.plugins.captures`), each world becomes one file with an interface per
sender:

    stack names (`a`, `alice`, `host`)   frames that a stack under test sent
    `by hand`                            frames that the test made, or changed on their way

so that a reader, and the oracle, can tell what the stack answers for.  A frame that the test lost or held back has a label that
says so (`scenarios.conformance.labels`); the stack's events are comments beside the frame after which they came.  Nothing here
uses the stack's own code.
"""

from __future__ import annotations

import struct
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scenarios.conformance.labels import BY_HAND, CHANGED, DISTURBED, LATE, LEFT_OUT, LOST, REPEATED, label

ETHERNET, RAW_IP = 1, 101
EPOCH = 1_700_000_000.0
"""Virtual time 0 as unix time."""
MOST_BYTES = 4_000_000
"""Of one file; what follows is counted, and a label of the file says how much it is."""
LAST_FRAMES = 200
"""Of those that follow: the last ones are kept for the report of a failure."""
MOST_WORLDS = 3
"""Of one test, and its latest: one that makes hundreds (property tests) leaves its first ones and that which failed."""
MOST_EVENTS = 10_000
"""Of stacks on real links, during one test: the last ones."""


@dataclass(slots=True)
class _Record:
    time: float
    who: str
    frame: bytes
    remarks: list[str] = field(default_factory=list)


class Tap:
    """One wire of one test.  This one forgets; `Recorder` keeps."""

    def sent(
        self, now: float, who: str, frame: bytes, delivered: list[bytes | tuple[float, bytes]] | None = None
    ) -> None:
        """A stack sent `frame`; `delivered` is what the wire makes of it, with extra delays, where that may differ."""

    def arrived(self, now: float, frame: bytes) -> None:
        """A stack is given `frame`: what was `sent` before, or something that the test made."""

    def say(self, remark: str) -> None:
        """A remark on the last frame."""

    def disturb(self) -> None:
        """The wire loses, delays, changes or repeats frames out of this tap's sight."""


class Recorder(Tap):
    """A tap that keeps."""

    def __init__(self, name: str, link_type: int) -> None:
        self.name = name
        self.link_type = link_type
        self.disturbed = False
        self.beyond = 0
        """frames that did not fit"""
        self._records: list[_Record] = []
        self._last: deque[_Record] = deque(maxlen=LAST_FRAMES)
        self._bytes = 0
        self._flying: Counter[bytes] = Counter()

    def __bool__(self) -> bool:
        return bool(self._records)

    def sent(
        self, now: float, who: str, frame: bytes, delivered: list[bytes | tuple[float, bytes]] | None = None
    ) -> None:
        """See `Tap.sent`."""
        record = self._add(now, who, frame)
        if delivered is None:
            return
        pieces = [item if isinstance(item, tuple) else (0.0, item) for item in delivered]
        self._flying.update(data for _, data in pieces if data == frame)
        if not pieces:
            record.remarks.append(LOST)
        elif all(data != frame for _, data in pieces):
            record.remarks.append(CHANGED)
        elif any(delay for delay, _ in pieces):
            record.remarks.append(LATE)
        elif len(pieces) > 1:
            record.remarks.append(REPEATED)

    def arrived(self, now: float, frame: bytes) -> None:
        """See `Tap.arrived`."""
        flying = self._flying[frame]
        if flying > 1:
            self._flying[frame] = flying - 1
        elif flying:
            del self._flying[frame]
        else:
            self._add(now, BY_HAND, frame)

    def say(self, remark: str) -> None:
        """See `Tap.say`."""
        kept = self._last or self._records
        if kept:
            kept[-1].remarks.append(remark)

    def disturb(self) -> None:
        """See `Tap.disturb`."""
        self.disturbed = True

    def _add(self, now: float, who: str, frame: bytes) -> _Record:
        record = _Record(now, who, bytes(frame))
        if self.beyond or self._bytes + len(frame) > MOST_BYTES:
            self.beyond += 1
            self._last.append(record)
        else:
            self._bytes += len(frame)
            self._records.append(record)
        return record

    def frames(self) -> list[bytes]:
        """The frames by their numbers in a file that is written with the last ones: of the first one, the number is 1."""
        return [record.frame for record in (*self._records, *self._last)]

    def remark(self, number: int, text: str) -> None:
        """A remark on one of `frames`."""
        at = number - 1 - len(self._records)
        (self._records[number - 1] if at < 0 else self._last[at]).remarks.append(text)

    def write(self, path: Path, *comments: str, last: bool = False) -> None:
        """Write the file.  last: with the last frames of those that did not fit, behind a gap."""
        records = [*self._records, *self._last] if last else self._records
        words = list(comments)
        missing = self.beyond - (len(self._last) if last else 0)
        if missing:
            words.append(left_out(missing, "frame"))
        if self.disturbed:
            words.append(DISTURBED)
        senders = list(dict.fromkeys(record.who for record in records))
        options = option_list(*((1, text.encode()) for text in words))
        blocks = [block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + options)]
        for who in senders:
            options = option_list((2, who.encode()), (9, b"\x09"))
            blocks.append(block(1, struct.pack("<HHI", self.link_type, 0, 0) + options))
        for record in records:
            ticks = round((EPOCH + record.time) * 1e6) * 1000
            size = len(record.frame)
            head = struct.pack("<IIIII", senders.index(record.who), ticks >> 32, ticks & 0xFFFFFFFF, size, size)
            options = option_list(*((1, remark.encode()) for remark in record.remarks))
            blocks.append(block(6, head + _padded(record.frame) + options))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(blocks))


def left_out(number: int, what: str) -> str:
    """The label of a file that does not hold all.

    >>> left_out(1, "frame"), left_out(12, "frame")
    ('left out: 1 frame', 'left out: 12 frames')
    """
    return label(LEFT_OUT, f"{number} {what}{'' if number == 1 else 's'}")


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def option_list(*each: tuple[int, bytes]) -> bytes:
    """Options of a block, as (code, value), with their end."""
    if not each:
        return b""
    return b"".join(struct.pack("<HH", code, len(data)) + _padded(data) for code, data in each) + bytes(4)


def block(kind: int, body: bytes) -> bytes:
    """One block of a pcapng file."""
    length = struct.pack("<I", len(body) + 12)
    return struct.pack("<I", kind) + length + body + length


def lost(fabric: object, now: float, port: int, frame: bytes) -> None:
    """A harness takes a frame away before its in-memory wire or switch has it: the tap there hears of it."""
    tell = getattr(fabric, "tap_lost", None)
    if tell is not None:
        tell(now, port, frame)


class Recording:
    """What the test that runs has on its wires."""

    def __init__(self) -> None:
        self.worlds: list[Recorder] = []
        self.unkept = 0
        """worlds with frames that were dropped for their number"""
        self.made_by_hand: list[bytes] = []
        """the frames that the test has put on a real wire"""
        self.declared: list[str] = []
        """labels that the test gives all its real captures"""
        self.told: deque[tuple[float, str, Any]] = deque(maxlen=MOST_EVENTS)
        """(unix time, name of the link, event) of stacks on real links"""

    def world(self, name: str, link_type: int) -> Recorder:
        """One more wire."""
        if len(self.worlds) > MOST_WORLDS:
            self.unkept += bool(self.worlds.pop())
        self.worlds.append(Recorder(name, link_type))
        return self.worlds[-1]

    def write(self, names: Iterable[Path], of: str, *, last: bool = False) -> list[Path]:
        """Write each wire that had frames to the next of `names`; `of`: the test.  Returns what was written."""
        worlds = [each for each in self.worlds if each]
        written = []
        for recorder, path in zip(worlds, names, strict=False):
            words = [f"{of} ({recorder.name})"]
            if self.unkept and recorder is worlds[-1]:
                words.append(left_out(self.unkept, "wire"))
            recorder.write(path, *words, last=last)
            written.append(path)
        return written


FORGETFUL = Tap()
recording: Recording | None = None
"""Of the test that runs; None between tests."""


def disturbs() -> None:
    """The test has a real wire lose, delay or repeat what is sent, where no capture can see it."""
    if recording is not None:
        recording.declared.append(DISTURBED)


def by_hand(frame: bytes) -> bytes:
    """`frame`, which the test is about to put on a real wire: in the kept captures it is told from those of others."""
    if recording is not None:
        recording.made_by_hand.append(frame)
    return frame


def world(name: str, link_type: int = ETHERNET) -> Tap:
    """A tap for one wire; `name` tells the worlds of one test apart."""
    return FORGETFUL if recording is None else recording.world(name, link_type)
