"""A short talk between two nodes, made by hand, and captures of it: what the oracle is tried on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from tests.plugins import taps

TEST = "tests/x.py::test_of_the_oracle (wire)"
"""What names the test and the place of a capture, in its comment."""
A, B = "2001:db8:a::1", "2001:db8:b::1"


def segment(src: str, dst: str, flags: str, seq: int, ack: int = 0, data: bytes = b"", **fields: object) -> IPv6:
    ports = (5000, 80) if src == A else (80, 5000)
    return (
        IPv6(src=src, dst=dst)
        / TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq, ack=ack, **fields)
        / Raw(data)
    )


TALK = (
    ("a", segment(A, B, "S", 100, window=65535)),
    ("b", segment(B, A, "SA", 900, 101, window=65535)),
    ("a", segment(A, B, "A", 101, 901, window=65535)),
    ("a", segment(A, B, "PA", 101, 901, b"hello", window=65535)),
    ("b", segment(B, A, "A", 901, 106, window=65535)),
)


def data(seq: int, text: bytes = b"hello", ack: int = 901) -> tuple[str, bytes]:
    return "a", bytes(segment(A, B, "PA", seq, ack, text, window=65535))


def capture(
    path: Path,
    frames: list[tuple[str, bytes]],
    change: Callable[[taps.Recorder], None] | None = None,
    times: Sequence[float] = (),
    comments: Sequence[str] = (TEST,),
) -> Path:
    recorder = taps.Recorder("wire", taps.RAW_IP)
    for number, (who, frame) in enumerate(frames):
        recorder.sent(times[number] if times else number / 10, who, frame)
    if change is not None:
        change(recorder)
    recorder.write(path, *comments)
    return path
