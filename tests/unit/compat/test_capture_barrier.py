"""Taking our own marks out of a capture file: exactly them, wherever they are, and nothing from a file that is none."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random

import dpkt
import pytest

from compat.programs.barrier import strip

MARK = bytes.fromhex("0180c200000e02000000000988b5") + b"unimux capture barrier 12345678".ljust(46, b"\0")
TUN_MARK = bytes.fromhex("60000000001f3b01") + bytes(32) + b"unimux capture barrier 12345678"


def other(random: Random) -> bytes:
    """A frame that is no mark, sometimes one that looks like it."""
    return random.choice(
        [
            random.randbytes(random.randrange(14, 1514)),
            MARK[:12] + b"\x86\xdd" + MARK[14:],
            MARK[:12] + b"\x88\xb5" + b"unimux capture"[::-1].ljust(46),
            bytes(60) + MARK,
        ]
    )


def written(frames: list[bytes]) -> bytes:
    file = io.BytesIO()
    writer = dpkt.pcapng.Writer(file)
    for number, frame in enumerate(frames):
        writer.writepkt(frame, ts=1000.0 + number)
    return file.getvalue()


@pytest.mark.parametrize("places", [[], [0], [-1], [0, -1], list(range(0, 50, 7)), list(range(50))])
def test_exactly_the_marks_go(tmp_path: Path, places: list[int]) -> None:
    random = Random(len(places))
    frames = [other(random) for _ in range(50)]
    marks = {place % 50 for place in places}
    for place in marks:
        frames[place] = random.choice([MARK, TUN_MARK])
    path = tmp_path / "capture.pcapng"
    path.write_bytes(written(frames))
    assert strip(path) == len(marks)
    with path.open("rb") as file:
        assert [frame for _, frame in dpkt.pcapng.Reader(file)] == [
            frame for place, frame in enumerate(frames) if place not in marks
        ]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"unimux capture barrier ",
        MARK * 3,
        bytes(100) + b"unimux capture barrier " + bytes(100),
        written([MARK, b"x" * 60])[:-9],
        b"\xff" * 8 + MARK,
    ],
    ids=["empty", "short", "frames", "zeros", "cut", "huge"],
)
def test_what_is_no_capture_does_no_harm(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    if strip(path) == 0:
        assert path.read_bytes() == content
    else:
        assert path.stat().st_size < len(content)
        assert MARK not in path.read_bytes()
