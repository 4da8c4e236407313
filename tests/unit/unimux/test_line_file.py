"""Files that lines are appended to, where the file is none: a pipe that another program reads, or does not."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from tapstack.events import EventStream
from unimux.events import EventFile
from unimux.linefile import LineFile
from unimux.purpose import AddressAssigned


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "events"
    os.mkfifo(path)
    return path


def event(number: int) -> AddressAssigned:
    return AddressAssigned(
        time=float(number), address="2001:db8::1", destination=None, front_end="socks", who=None, service=None
    )


@pytest.mark.proves("UM-NODE-4", by="api")
def test_a_reader_that_stands_still_stops_nobody_and_what_it_reads_are_whole_lines(fifo: Path) -> None:
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    events = EventStream()
    complaints: list[str] = []
    lost: list[int] = []

    def write() -> None:
        with EventFile(fifo, events, complain=complaints.append) as file:
            for number in range(3000):
                events.emit(event(number))
            lost.append(file.lost)

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(10)
    try:
        assert not writing.is_alive(), "it waits for its reader"
        assert 0 < lost[0] < 3000
        assert len(complaints) == 1
        got = b""
        while piece := os.read(reader, 1 << 20):
            got += piece
        lines = got.splitlines()
        assert len(lines) == 3000 - lost[0]
        assert all(line.startswith(b"{") and line.endswith(b"}") for line in lines)
    finally:
        os.close(reader)


def test_a_file_goes_on_to_take_every_line(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    for _ in range(2):
        file = LineFile(path)
        file.write(bytes(100_000).replace(b"\0", b"x") + b"\n", durable=True)
        file.close()
    assert path.read_bytes() == 2 * (b"x" * 100_000 + b"\n")
    assert path.stat().st_mode & 0o777 == 0o600
