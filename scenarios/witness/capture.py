"""Reading captures: several files of several points, merged by time, each frame decoded once."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .frames import Decoder, Frame
from .pcapng import CaptureError, Fault, PcapngFile
from .setup import CaptureFile


@dataclass(slots=True)
class Point:
    """Everything captured at one point of the network, in order of time."""

    where: str
    files: list[CaptureFile] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    dropped: int = 0
    """frames that the capturing program lost"""


def read_file(capture: CaptureFile) -> tuple[PcapngFile, Decoder, Iterator[Frame]]:
    """A capture as a stream of frames; file and decoder hold the faults once the stream is exhausted.

    The stream raises `CaptureError` when the file is missing or not pcapng.
    """
    source = PcapngFile(capture.path, capture.where)
    decoder = Decoder(capture.where, capture.path.name, source.interfaces)

    def stream() -> Iterator[Frame]:
        for raw in source.frames():
            decoder.interfaces = source.interfaces
            yield decoder.decode(raw)

    return source, decoder, stream()


def load(captures: Iterable[CaptureFile]) -> dict[str, Point]:
    """All frames by capture point.  A file that cannot be read is listed in `Point.unreadable`."""
    points: dict[str, Point] = {}
    for capture in captures:
        points.setdefault(capture.where, Point(capture.where)).files.append(capture)
    for point in points.values():
        _load_point(point)
    return points


def _load_point(point: Point) -> None:
    opened = [read_file(capture) for capture in point.files]

    def guarded(stream: Iterator[Frame]) -> Iterator[Frame]:
        try:
            yield from stream
        except CaptureError as error:
            point.unreadable.append(str(error))

    streams = [guarded(stream) for _, _, stream in opened]
    merged = streams[0] if len(streams) == 1 else heapq.merge(*streams, key=lambda frame: frame.offset)
    for order, frame in enumerate(merged):
        frame.order = order
        point.frames.append(frame)
    for source, decoder, _ in opened:
        point.faults += source.faults + decoder.faults
        point.dropped += source.dropped


def merged(points: dict[str, Point]) -> Iterator[Frame]:
    """The frames of all points by time."""
    return heapq.merge(*(point.frames for point in points.values()), key=lambda frame: frame.offset)
