"""Why a segment had to be sent as it was: what is right has a cause, what is wrong has none."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6ND_NA, IPv6

from scenarios.conformance.packets import Reader
from tests.plugins import taps

from .talk import TALK, A, B, capture, data, segment

pytestmark = [pytest.mark.real("tshark"), pytest.mark.timeout(300)]


def pointer(seq: int) -> tuple[str, bytes]:
    return "a", bytes(segment(A, B, "AU", seq, 901, window=65535, urgptr=5))


def answer(ack: int, *sack: int) -> tuple[str, bytes]:
    options = [("SAck", sack)] if sack else []
    return "b", bytes(segment(B, A, "A", 901, ack, window=65535, options=options))


def reply(ack: int) -> tuple[str, bytes]:
    return "b", bytes(segment(B, A, "PA", 901, ack, b"there", window=65535))


def closed(ack: int) -> tuple[str, bytes]:
    return "b", bytes(segment(B, A, "A", 901, ack, window=0))


def stamped(seq: int, text: bytes, clock: float | None) -> tuple[str, bytes]:
    """Bytes, or an acknowledgement, with a timestamp that says `clock` seconds."""
    options = [] if clock is None else [("Timestamp", ((2**32 - 1100 + int(clock * 1000)) % 2**32, 0))]
    return "a", bytes(segment(A, B, "PA" if text else "A", seq, 901, text, window=65535, options=options))


OPENING = [(who, bytes(packet)) for who, packet in TALK[:3]]
AT = (0.0, 0.1, 0.2)


@pytest.mark.parametrize(
    ("more", "times", "right"),
    [
        ([data(101), data(101), data(101), data(101)], (1.0, 2.0, 4.0, 8.0), True),
        ([data(101), data(101)], (1.0, 1.001), False),
        ([data(101), data(101), data(101), data(101)], (1.0, 2.0, 4.0, 5.0), False),
        ([data(101), answer(106), data(101)], (1.0, 1.1, 3.0), False),
        ([data(101), answer(106), data(101)], (1.0, 1.05, 1.06), True),
        (
            [data(101), data(106), data(111), answer(106), answer(106, 111, 116), data(106)],
            (1, 1, 1, 1.1, 1.1, 1.11),
            True,
        ),
        ([data(101), data(106), data(111), answer(106), data(106)], (1, 1, 1, 1.1, 1.11), False),
        ([data(101), answer(106), data(111), answer(106, 111, 116)], (1, 1.1, 1.2, 1.3), False),
        ([data(101), answer(106), data(111), data(106)], (1, 1.1, 1.2, 1.4), False),
        ([data(101), answer(106), data(101), answer(106, 101, 106)], (1, 1.05, 1.06, 1.1), True),
        (
            [data(101), answer(106), data(106), data(106), answer(111), answer(111, 106, 111)],
            (1, 1.001, 1.1, 1.35, 1.36, 1.6),
            True,
        ),
        (
            [data(101), answer(106), data(106), data(106), answer(111), *[answer(111, 106, 111)] * 2],
            (1, 1.001, 1.1, 1.35, 1.36, 1.6, 1.9),
            False,
        ),
        (
            [data(101), answer(106), data(106), data(106), data(106), answer(111), answer(111), answer(111)],
            (1, 1.001, 1.1, 1.35, 1.85, 1.9, 2.1, 2.3),
            True,
        ),
        (
            [data(101), answer(106), data(106), data(106), data(106), *[answer(111)] * 4],
            (1, 1.001, 1.1, 1.35, 1.85, 1.9, 2.1, 2.3, 2.5),
            False,
        ),
        ([data(101), reply(106), data(101)], (1, 1.1, 3), True),
        ([data(101), reply(106), data(101, ack=906)], (1, 1.1, 3), False),
        ([data(101), answer(106), reply(106), data(101)], (1, 1.1, 2.9, 3), False),
        ([data(101), closed(106), pointer(106), pointer(106)], (1, 1.1, 2, 4), True),
        ([data(101), answer(106), pointer(106), pointer(106)], (1, 1.1, 2, 4), False),
        ([data(101), answer(106), answer(106)], (1, 1.1, 1.2), False),
        ([data(101), answer(106), answer(106, 101, 106)], (1, 1.1, 1.2), False),
    ],
    ids=[
        "nobody answers",
        "too soon",
        "the timer speeds up",
        "acknowledged long ago",
        "crosses the acknowledgement",
        "a hole is reported",
        "no hole is reported",
        "a gap that stays",
        "a gap filled unasked",
        "bytes twice are reported",
        "bytes twice are reported late",
        "bytes twice are reported twice",
        "who is late answers each repetition",
        "who is late answers more than was asked",
        "what came with the acknowledgement is not read",
        "what came with the acknowledgement is read",
        "what came long after the acknowledgement is not read",
        "urgent data behind a closed window",
        "urgent data and an open window",
        "acknowledged twice for nothing",
        "a report of nothing",
    ],
)
def test_a_segment_is_right_where_the_capture_shows_why(
    reader: Reader, tmp_path: Path, more: list[tuple[str, bytes]], times: tuple[float, ...], right: bool
) -> None:
    listing = reader.read(capture(tmp_path / "x.pcapng", OPENING + more, times=AT + times))
    remarks = [remark for packet in listing.packets for remark in packet.remarks]
    assert remarks, "tshark says nothing: the case shows nothing"
    assert bool(listing.unexplained) != right, remarks


@pytest.mark.parametrize(
    ("clocks", "times", "right"),
    [
        ((1.0, 1.3), (1.3, 1.305), True),
        ((None, None), (1.3, 1.305), False),
        ((1.3, 1.305), (1.3, 1.305), False),
        ((1.29, 1.3), (1.3, 1.305), False),
        ((1.3, 1.6), (1.3, 1.305), False),
        ((1.0, 1.3, 1.31), (1.3, 1.305, 1.31), False),
    ],
    ids=[
        "made long before",
        "no clock says so",
        "made then",
        "hardly late",
        "a clock that leaps",
        "and then the timer speeds up",
    ],
)
def test_a_timer_counts_from_when_a_segment_was_made_which_its_clock_tells(
    reader: Reader, tmp_path: Path, clocks: tuple[float | None, ...], times: tuple[float, ...], right: bool
) -> None:
    known = None if clocks[0] is None else AT[2]
    more = [stamped(101, b"", known), *(stamped(101, b"hello", clock) for clock in clocks)]
    listing = reader.read(capture(tmp_path / "x.pcapng", OPENING[:2] + more, times=AT + times))
    assert [packet.number for packet in listing.packets if packet.remarks] == list(range(5, 4 + len(clocks)))
    assert bool(listing.unexplained) != right, listing.packets[-1]


@pytest.mark.parametrize(("clock", "right"), [(1.05, True), (1.35, False)], ids=["made before", "made after"])
def test_what_was_made_before_its_acknowledgement_crosses_it_however_late_it_leaves(
    reader: Reader, tmp_path: Path, clock: float, right: bool
) -> None:
    more = [stamped(101, b"", AT[2]), stamped(101, b"hello", 1.0), answer(106), stamped(101, b"hello", clock)]
    listing = reader.read(capture(tmp_path / "x.pcapng", OPENING[:2] + more, times=(*AT, 1.0, 1.1, 1.4)))
    assert [packet.number for packet in listing.packets if packet.remarks] == [6]
    assert bool(listing.unexplained) != right, listing.packets[-1]


@pytest.mark.parametrize(
    ("comment", "segments", "times", "right"),
    [
        ("offload", (101, 111, 106), (1, 1.0001, 1.0002), False),
        ("real time", (101, 111, 106), (1, 1.0001, 1.0002), True),
        ("", (101, 111, 106), (1, 1.0001, 1.0002), False),
        ("real time", (101, 111, 106), (1, 1.0001, 1.0202), False),
        ("real time", (101, 106, 111, 106), (1, 1.0001, 1.0002, 1.0003), False),
        ("real time", (101, -111, 106), (1, 1.0001, 1.0002), True),
        ("real time", (101, -111, 106), (1, 1.0001, 1.0202), False),
        ("real time", (101, 106, -111, 106), (1, 1.0001, 1.0002, 1.0003), False),
    ],
    ids=[
        "a link with offload",
        "overtaken",
        "one processor",
        "too late",
        "captured before",
        "overtaken by an acknowledgement",
        "too late behind it",
        "captured before it",
    ],
)
def test_segments_overtake_each_other_only_where_a_kernel_carries_them(
    reader: Reader, tmp_path: Path, comment: str, segments: tuple[int, ...], times: tuple[float, ...], right: bool
) -> None:
    recorder = taps.Recorder("wire", taps.RAW_IP)
    talk = [*OPENING, *(stamped(-number, b"", None) if number < 0 else data(number) for number in segments)]
    for when, (who, frame) in zip(AT + times, talk, strict=True):
        recorder.sent(when, who, frame)
    recorder.write(tmp_path / "x.pcapng", comment)
    last = reader.read(tmp_path / "x.pcapng").packets[-1]
    assert last.remarks, "tshark says nothing: the case shows nothing"
    assert all(bool(remark.reason) == right for remark in last.remarks), last.remarks


def beside(src: str, dst: str, flags: str, seq: int, ack: int, text: bytes = b"", **fields: object) -> bytes:
    """A segment of another connection between the same hosts."""
    packet = segment(src, dst, flags, seq, ack, text, window=65535, **fields)
    packet[TCP].sport, packet[TCP].dport = (5001, 80) if src == A else (80, 5001)
    return bytes(packet)


@pytest.mark.parametrize(
    ("comment", "came", "says", "sack", "right"),
    [
        ("real time", 1.05, 901, (), True),
        ("real time", 1.05, 906, (), False),
        ("real time", 1.4, 901, (), False),
        ("real time", 1.05, 901, (911, 916), False),
        ("", 1.05, 901, (), False),
    ],
    ids=["not read", "read", "what came later was not", "a hole", "a link in order"],
)
def test_a_host_that_is_behind_shows_it_in_its_other_connections(
    reader: Reader, tmp_path: Path, comment: str, came: float, says: int, sack: tuple[int, ...], right: bool
) -> None:
    """It repeats at 1.5 what was acknowledged at 1.1, and at 1.6 acknowledges other bytes, or not yet."""
    options = [("SAck", sack)] if sack else []
    frames = [
        *zip(AT, OPENING, strict=True),
        (0.3, ("a", beside(A, B, "S", 100, 0))),
        (0.31, ("b", beside(B, A, "SA", 900, 101))),
        (0.32, ("a", beside(A, B, "A", 101, 901))),
        (1.0, data(101)),
        (1.1, answer(106)),
        (came, ("b", beside(B, A, "PA", 901, 101, b"other"))),
        (1.5, data(101)),
        (1.6, ("a", beside(A, B, "PA", 101, says, b"more", options=options))),
    ]
    recorder = taps.Recorder("wire", taps.RAW_IP)
    for when, (who, frame) in sorted(frames):
        recorder.sent(when, who, frame)
    recorder.write(tmp_path / "x.pcapng", comment)
    again = reader.read(tmp_path / "x.pcapng").packets[-2]
    assert again.remarks, "tshark says nothing: the case shows nothing"
    assert all(bool(remark.reason) == right for remark in again.remarks), again.remarks


def test_a_syn_is_repeated_by_a_timer_only(reader: Reader, tmp_path: Path) -> None:
    syn = ("a", bytes(segment(A, B, "S", 100, window=65535)))
    listing = reader.read(capture(tmp_path / "x.pcapng", [syn] * 4, times=(0, 1, 3, 7)))
    assert (listing.unexplained, listing.explained) == ([], 3)
    listing = reader.read(capture(tmp_path / "y.pcapng", [syn] * 4, times=(0, 1, 1.1, 1.2)))
    assert [number for number, _ in listing.unexplained] == [3, 4]


def test_what_waited_for_a_neighbour_leaves_at_once(reader: Reader, tmp_path: Path) -> None:
    syn = ("a", bytes(segment(A, B, "S", 100, window=65535)))
    told = ("b", bytes(IPv6(src=B, dst=A, hlim=255) / ICMPv6ND_NA(tgt=B, R=0)))
    listing = reader.read(capture(tmp_path / "x.pcapng", [told, syn, syn], times=(0, 0.001, 0.001)))
    assert (listing.unexplained, listing.explained) == ([], 1)
    listing = reader.read(capture(tmp_path / "y.pcapng", [syn, told, syn], times=(0, 0.001, 0.0015)))
    assert [number for number, _ in listing.unexplained] == [3], "the first one had not waited"
