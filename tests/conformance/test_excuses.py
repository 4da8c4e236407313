"""What the oracle must not excuse: faults that resemble what is right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.packet import Packet

from scenarios.conformance.packets import Reader

from .talk import TALK, A, B, capture, data, segment

pytestmark = [pytest.mark.real("tshark"), pytest.mark.timeout(300)]

OPENING = [(who, bytes(packet)) for who, packet in TALK[:3]]
AT = (0.0, 0.1, 0.2)


def answer(ack: int, *sack: int, text: bytes = b"") -> tuple[str, bytes]:
    options = [("SAck", sack)] if sack else []
    return "b", bytes(segment(B, A, "A", 901, ack, text, window=65535, options=options))


def error(quoted: Packet | None = None) -> tuple[str, bytes]:
    quoted = quoted or segment(A, B, "PA", 101, 901, b"hello", window=65535)
    return "b", bytes(IPv6(src=B, dst=A) / ICMPv6DestUnreach(code=3) / quoted)


def faults(path: Path, more: list[tuple[str, bytes]], times: Sequence[float]) -> list[int]:
    """The frames of the talk, behind its opening, with a remark that nothing explains."""
    with Reader() as reader:
        listing = reader.read(capture(path / "wire.pcapng", OPENING + more, times=AT + tuple(times)))
    assert not listing.error
    return sorted({number - len(OPENING) for number, _ in listing.unexplained})


def test_a_hole_is_not_filled_again_and_again_within_a_round_trip(tmp_path: Path) -> None:
    storm = [data(101), data(106), answer(101, 106, 111)] + [data(101)] * 30
    times = [1.0, 1.0001, 1.1] + [1.11 + number / 1000 for number in range(30)]
    assert faults(tmp_path, storm, times) == list(range(6, 34)), "all but the first two repetitions"
    again = [data(101), data(106), answer(101, 106, 111), data(101), data(101)]
    assert faults(tmp_path, again, (1.0, 1.0001, 1.1, 1.11, 1.5)) == [], "a repetition that was lost too"
    assert faults(tmp_path, again, (1.0, 1.0001, 1.1, 1.11, 1.12)) == [], "a time-out that ran on"


def test_bytes_that_are_sent_together_again_came_once_each(tmp_path: Path) -> None:
    small = [data(101 + at, b"x") for at in range(4)]
    joined = [*small, data(105), answer(101, 105, 110), data(101, b"xxxx")]
    assert faults(tmp_path, joined, (1.0, 1.02, 1.04, 1.06, 1.0601, 1.1, 1.11)) == []


def test_what_was_reported_as_received_is_not_sent_again(tmp_path: Path) -> None:
    reported = [data(101), data(106), data(111), answer(101, 106, 111), answer(101, 106, 116), data(106)]
    assert faults(tmp_path, reported, (1.0, 1.0001, 1.0002, 1.1, 1.1001, 1.35)) == [6]
    assert faults(tmp_path, [*reported[:5], data(101)], (1.0, 1.0001, 1.0002, 1.1, 1.1001, 1.35)) == []


def test_a_stale_acknowledgement_shows_nothing_that_was_not_read(tmp_path: Path) -> None:
    read = ("a", bytes(segment(A, B, "A", 106, 906, window=65535)))
    stale = [data(101), answer(106, text=b"there"), read, data(101)]
    assert 4 in faults(tmp_path, stale, (1.0, 1.1, 1.15, 3.0))
    unread = [data(101), answer(106, text=b"there"), data(101)]
    assert faults(tmp_path, unread, (1.0, 1.1, 3.0)) == []


def test_an_error_excuses_what_was_sent_before_it_and_nothing_later(tmp_path: Path) -> None:
    later = [data(101), error(), answer(106), data(106), answer(111), data(111), data(111)]
    assert faults(tmp_path, later, (1.0, 1.05, 1.1, 2.0, 2.1, 60.0, 60.0001)) == [7]
    assert faults(tmp_path, [data(101), error(), data(101)], (1.0, 1.05, 1.06)) == []
    again = [data(101), error(), data(101), error(), data(101), error(), data(101)]
    assert faults(tmp_path, again, (1.0, 1.05, 1.06, 1.07, 1.08, 1.09, 1.1)) == []


@pytest.mark.parametrize("upper", [UDP(sport=5353, dport=53), TCP(sport=7777, dport=80, seq=101)], ids=["UDP", "TCP"])
def test_an_error_about_something_else_excuses_nothing(tmp_path: Path, upper: Packet) -> None:
    assert faults(tmp_path, [data(101), error(IPv6(src=A, dst=B) / upper), data(101)], (1.0, 1.05, 1.06)) == [3]


def test_a_segment_that_was_never_sent_was_not_lost(tmp_path: Path) -> None:
    """A capture in virtual time has all that the stack sent, lost or not."""
    skipped = [data(101), data(111), data(116), answer(106), answer(106, 111, 121), data(106)]
    assert faults(tmp_path, skipped, (1.0, 1.0001, 1.0002, 1.1, 1.1001, 1.11)) == [2]


def test_a_keep_alive_with_a_byte_is_that_byte_again(tmp_path: Path) -> None:
    last = ("a", bytes(segment(A, B, "PA", 105, 901, b"o", window=65535)))
    empty = ("a", bytes(segment(A, B, "A", 105, 901, window=65535)))
    assert faults(tmp_path, [data(101), answer(106), last, last], (1.0, 1.1, 3.0, 3.0001)) == [3, 4]
    assert faults(tmp_path, [data(101), answer(106), empty, empty], (1.0, 1.1, 3.0, 4.0)) == []
