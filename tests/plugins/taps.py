"""Taps: what a test's stacks put on their wire, written down by the harness that carries it, as pcapng.

A harness asks `world(name)` for a tap, and tells it what passes.  Without `--captures` (`tests.plugins.captures`) that is a tap
that forgets; with it, each world becomes one file with an interface per sender:

    stack names (`a`, `alice`, `host`)   frames that a stack under test sent
    `by hand`                            frames that the test made, or changed on their way

so that a reader, and the oracle, can tell what the stack answers for.  A frame that the test lost or held back says so in a
comment, as do the stack's events, beside the frame after which they came.  Nothing here uses the stack's own code.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ETHERNET, RAW_IP = 1, 101
BY_HAND = "by hand"
EPOCH = 1_700_000_000.0
"""Virtual time 0 as unix time."""
MOST_BYTES = 600_000
"""Of one file; what follows is counted and named in the file's comment."""
MOST_WORLDS = 3
"""Of one test: one that makes hundreds (property tests) leaves its first ones."""
LOST, LATE, CHANGED, REPEATED = "lost on the way", "held back", "arrives changed", "repeated on the way"
DISTURBED = "disturbed"
"""Stands in the comment of a file whose frames are lost, delayed, changed or repeated where no tap can see it."""


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
        self.left_out = 0
        self._records: list[_Record] = []
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
        remark = ""
        if not pieces:
            remark = LOST
        elif all(data != frame for _, data in pieces):
            remark = CHANGED
        elif any(delay for delay, _ in pieces):
            remark = LATE
        elif len(pieces) > 1:
            remark = REPEATED
        if remark and record is not None:
            record.remarks.append(remark)

    def arrived(self, now: float, frame: bytes) -> None:
        """See `Tap.arrived`."""
        if self._flying[frame]:
            self._flying[frame] -= 1
        else:
            self._add(now, BY_HAND, frame)

    def say(self, remark: str) -> None:
        """See `Tap.say`."""
        if self._records and not self.left_out:
            self._records[-1].remarks.append(remark)

    def disturb(self) -> None:
        """See `Tap.disturb`."""
        self.disturbed = True

    def _add(self, now: float, who: str, frame: bytes) -> _Record | None:
        if self.left_out or self._bytes + len(frame) > MOST_BYTES:
            self.left_out += 1
            return None
        self._bytes += len(frame)
        self._records.append(_Record(now, who, bytes(frame)))
        return self._records[-1]

    def write(self, path: Path, comment: str) -> None:
        """Write the file."""
        if self.left_out:
            comment += f"; the test sent {self.left_out} frames more"
        if self.disturbed:
            comment += f"; {DISTURBED}"
        senders = list(dict.fromkeys(record.who for record in self._records))
        blocks = [block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1) + option_list((1, comment.encode())))]
        for who in senders:
            options = option_list((2, who.encode()), (9, b"\x09"))
            blocks.append(block(1, struct.pack("<HHI", self.link_type, 0, 0) + options))
        for record in self._records:
            ticks = round((EPOCH + record.time) * 1e6) * 1000
            head = struct.pack(
                "<IIIII",
                senders.index(record.who),
                ticks >> 32,
                ticks & 0xFFFFFFFF,
                len(record.frame),
                len(record.frame),
            )
            options = option_list(*((1, remark.encode()) for remark in record.remarks))
            blocks.append(block(6, head + _padded(record.frame) + options))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(blocks))


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


FORGETFUL = Tap()
recording: list[Recorder] | None = None
"""The worlds of the test that runs; None when nothing is kept."""
made_by_hand: list[bytes] = []
"""The frames that the test that runs has put on a real wire, while something is kept."""


declared: list[str] = []
"""What the test that runs has said about all its real captures."""


def disturbs() -> None:
    """The test has a real wire lose, delay or repeat what is sent, where no capture can see it."""
    declared.append(DISTURBED)


def by_hand(frame: bytes) -> bytes:
    """`frame`, which the test is about to put on a real wire: in the kept captures it is told from those of others."""
    if recording is not None:
        made_by_hand.append(frame)
    return frame


def world(name: str, link_type: int = ETHERNET) -> Tap:
    """A tap for one wire; `name` tells the worlds of one test apart."""
    if recording is None or len(recording) >= MOST_WORLDS:
        return FORGETFUL
    recorder = Recorder(name, link_type)
    recording.append(recorder)
    return recorder
