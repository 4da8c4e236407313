"""Sessions whose ports change, and windows: the oracle judges them over all their ports, and finds what is planted there."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from scenarios.conformance import labels
from scenarios.conformance.packets import Reader
from tests.plugins import taps

from .talk import TALK, TEST, A, B, capture, data, segment

pytestmark = [pytest.mark.real("tshark"), pytest.mark.timeout(300)]


def ported(
    who: str, ports: tuple[int, int], flags: str, seq: int, ack: int = 0, data: bytes = b"", **fields: object
) -> tuple[str, bytes]:
    """A segment between the same two addresses on other ports."""
    src, dst = (A, B) if who == "a" else (B, A)
    header = TCP(sport=ports[0], dport=ports[1], flags=flags, seq=seq, ack=ack, **{"window": 65535, **fields})
    return who, bytes(IPv6(src=src, dst=dst) / header / Raw(data))


RESTLESS = [
    ported("a", (5000, 80), "S", 100),
    ported("b", (80, 5000), "SA", 900, 101),
    ported("a", (5000, 80), "A", 101, 901),
    ported("a", (7, 9), "PA", 101, 901, b"hello"),
    ported("b", (9, 7), "A", 901, 106),
]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (ported("a", (7, 9), "PA", 101, 901, b"hello"), "retransmission"),
        (ported("a", (7, 9), "PA", 300, 901, b"later"), "not captured"),
        (ported("b", (9, 7), "A", 901, 4000), "ACK"),
    ],
    ids=["bytes again", "a gap", "what was never sent is acknowledged"],
)
def test_ports_that_change_explain_no_fault_of_the_session(
    reader: Reader, tmp_path: Path, fault: tuple[str, bytes], said: str
) -> None:
    times = [number / 10 for number in range(len(RESTLESS))] + [4.0]
    listing = reader.read(capture(tmp_path / "x.pcapng", [*RESTLESS, fault], times=times))
    assert {number for number, _ in listing.unexplained} == {6}, listing.packets
    assert said in listing.unexplained[0][1]


def test_ports_that_change_explain_what_tshark_makes_of_them(reader: Reader, tmp_path: Path) -> None:
    more = [
        ported("b", (9, 7), "PA", 901, 106, b"answer"),
        ported("a", (11, 13), "A", 106, 907),
        ported("a", (5000, 80), "PA", 106, 907, b"more"),
        ported("b", (80, 5000), "A", 907, 110),
    ]
    listing = reader.read(capture(tmp_path / "x.pcapng", RESTLESS + more))
    assert listing.unexplained == []
    assert listing.explained >= 1, "tshark says nothing: the case shows nothing"


def by_hand(frame: tuple[str, bytes]) -> tuple[str, bytes]:
    return labels.BY_HAND, frame[1]


def objected(reader: Reader, path: Path, frames: list[tuple[str, bytes]], *comments: str) -> dict[int, str]:
    """What is objected to, by frame: all frames 0.1 s apart, but those after the fifth 1 s, beginning 4 s after the first."""
    times = [number / 10 if number < 5 else number - 1 for number in range(len(frames))]
    return dict(reader.read(capture(path, frames, times=times, comments=(TEST, *comments))).unexplained)


AGAIN = data(101)
"""Bytes of `TALK` that had been acknowledged long before."""
NOTHING_NEW = "b", bytes(segment(B, A, "A", 901, 106, window=65535))
"""An acknowledgement of `TALK` that answers nothing."""
STRAY = ported("b", (9, 7), "R", 3_000_000_000)
NEXT = [ported("a", (7, 9), "PA", 106, 901, b"next"), ported("b", (9, 7), "A", 901, 110)]
"""The next bytes of `TALK`, on other ports, and their acknowledgement."""


@pytest.mark.parametrize(
    ("fault", "said"), [(AGAIN, "retransmission"), (NOTHING_NEW, "Duplicate ACK")], ids=["bytes again", "nothing new"]
)
@pytest.mark.parametrize(
    ("before", "later"),
    [
        ([], [by_hand(STRAY)]),
        ([], [by_hand(NEXT[0])]),
        ([], [STRAY]),
        ([], NEXT),
        ([STRAY], []),
        (NEXT, []),
    ],
    ids=[
        "by hand later",
        "the next by hand later",
        "a stray later",
        "a change later",
        "a stray before",
        "a change before",
    ],
)
def test_other_ports_explain_no_fault_where_ports_stay(
    reader: Reader,
    tmp_path: Path,
    fault: tuple[str, bytes],
    said: str,
    before: list[tuple[str, bytes]],
    later: list[tuple[str, bytes]],
) -> None:
    talk = [*((who, bytes(packet)) for who, packet in TALK), *before]
    found = objected(reader, tmp_path / "x.pcapng", [*talk, fault, *later])
    assert list(found) == [len(talk) + 1] and said in found[len(talk) + 1], found


def told(ack: int = 106, *sack: int, **fields: object) -> tuple[str, bytes]:
    return ported("b", (9, 7), "A", 901, ack, b"", options=[("SAck", sack)] if sack else [], **fields)


def bytes_on(ports: tuple[int, int], seq: int, text: bytes = b"hello") -> tuple[str, bytes]:
    return ported("a", ports, "PA", seq, 901, text)


FILLED = [bytes_on((11, 13), 111), told(106, 111, 116), bytes_on((5000, 80), 106), told(116)]
"""A gap that is reported, and filled."""


@pytest.mark.parametrize(
    ("frames", "objections"),
    [
        ([told()], {6: "Duplicate ACK"}),
        ([told(106, 101, 106)], {6: "Duplicate ACK"}),
        ([told(106, 4000, 4005)], {6: "Duplicate ACK"}),
        ([told(window=500)], {}),
        ([bytes_on((11, 13), 101)], {6: "Retransmission on other ports"}),
        ([bytes_on((11, 13), 106), told(111), bytes_on((5000, 80), 106)], {8: "not captured"}),
        ([bytes_on((11, 13), 106), bytes_on((5000, 80), 106), told(111, 106, 111)], {}),
        ([bytes_on((11, 13), 111)], {6: "not captured on any ports"}),
        (FILLED, {6: "not captured on any ports"}),
        ([ported("b", (13, 11), "A", 901, 4000)], {6: "wasn't captured on any ports"}),
        ([ported("a", (11, 13), "A", 105, 901), told()], {}),
        ([ported("a", (11, 13), "R", 106)], {}),
    ],
    ids=[
        "nothing new",
        "a D-SACK of what came once",
        "a SACK of what never came",
        "another window",
        "bytes again",
        "bytes again after their acknowledgement on other ports",
        "bytes again that nobody had acknowledged",
        "a gap",
        "a gap that is reported and filled, of what was not captured when it was lost",
        "what was never sent is acknowledged",
        "a keep-alive",
        "a reset",
    ],
)
def test_a_session_has_all_its_ports_as_its_own(
    reader: Reader, tmp_path: Path, frames: list[tuple[str, bytes]], objections: dict[int, str]
) -> None:
    found = objected(reader, tmp_path / "x.pcapng", RESTLESS + frames)
    assert list(found) == list(objections), found
    assert all(said in found[number] for number, said in objections.items()), found


def test_a_gap_on_other_ports_is_explained_where_the_capture_has_not_all(reader: Reader, tmp_path: Path) -> None:
    part = labels.label(labels.LEFT_OUT, "1 frame")
    assert not objected(reader, tmp_path / "x.pcapng", RESTLESS + FILLED, part)
    assert list(objected(reader, tmp_path / "y.pcapng", RESTLESS + FILLED[:1], part)) == [6]


SECOND = [
    ported("a", (6000, 80), "S", 2_000_000_000),
    ported("b", (80, 6000), "SA", 3_000_000_000, 2_000_000_001),
    ported("a", (15, 16), "PA", 2_000_000_001, 3_000_000_001, b"second"),
    ported("b", (16, 15), "A", 3_000_000_001, 2_000_000_007),
    ported("a", (7, 9), "PA", 106, 901, b"first"),
    ported("b", (9, 7), "A", 901, 111),
]
"""Another session of the same two addresses after `RESTLESS`, and more of the first one."""


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (None, ""),
        (ported("a", (15, 16), "PA", 2_000_000_007, 3_000_000_001, b"more"), ""),
        (ported("a", (15, 16), "PA", 2_000_000_001, 3_000_000_001, b"second"), "etransmission"),
        (ported("a", (7, 9), "PA", 2_000_000_001, 3_000_000_001, b"second"), "not captured"),
        (ported("a", (15, 16), "PA", 106, 901, b"first"), "etransmission"),
        (ported("a", (17, 18), "PA", 2_000_000_099, 3_000_000_001, b"later"), "not captured"),
        (ported("b", (16, 15), "A", 3_000_000_001, 2_000_000_007), "Duplicate ACK"),
    ],
    ids=["none", "the next", "again", "again on the first's ports", "the first's on its ports", "a gap", "nothing new"],
)
def test_several_sessions_of_two_addresses_are_told_apart(
    reader: Reader, tmp_path: Path, frame: tuple[str, bytes] | None, said: str
) -> None:
    talk = RESTLESS + SECOND
    found = objected(reader, tmp_path / "x.pcapng", [*talk, frame] if frame else talk)
    assert list(found) == ([len(talk) + 1] if said else []), found
    assert all(said in text for text in found.values()), found


@pytest.mark.parametrize(
    ("window", "data_", "right"),
    [(0, b"hello", False), (0, b"h", True), (3, b"hello", False), (5, b"hello", True)],
    ids=["into a closed window", "a probe", "beyond the window", "within it"],
)
def test_nobody_sends_more_than_the_window_takes(
    reader: Reader, tmp_path: Path, window: int, data_: bytes, right: bool
) -> None:
    talk = [
        ("a", bytes(segment(A, B, "S", 100, window=65535, options=[("WScale", 7)]))),
        ("b", bytes(segment(B, A, "SA", 900, 101, window=window, options=[("WScale", 0)]))),
        ("a", bytes(segment(A, B, "A", 101, 901, window=500))),
        data(101, data_),
    ]
    listing = reader.read(capture(tmp_path / "x.pcapng", talk))
    beyond = [(number, text) for number, text in listing.unexplained if "beyond the window" in text]
    assert [number for number, _ in beyond] == ([] if right else [4]), listing.packets


def too_much(ports: tuple[int, int]) -> list[tuple[str, bytes]]:
    """Ten bytes where the last window takes five."""
    talk = [
        ported("a", (5000, 80), "S", 100, options=[("WScale", 0)]),
        ported("b", (80, 5000), "SA", 900, 101, window=3, options=[("WScale", 0)]),
        ported("a", (7, 9), "A", 101, 901),
        ported("b", (9, 7), "A", 901, 101, window=5),
    ]
    return [*talk, ported("a", ports, "PA", 101, 901, b"0123456789")]


@pytest.mark.parametrize("ports", [(5000, 80), (7, 9), (11, 13)])
def test_a_window_is_offered_to_the_session_on_whatever_ports(
    reader: Reader, tmp_path: Path, ports: tuple[int, int]
) -> None:
    found = objected(reader, tmp_path / "x.pcapng", too_much(ports))
    assert found == {5: "5 bytes beyond the window of the receiver"}
    within = [*too_much(ports)[:4], bytes_on(ports, 101)]
    assert objected(reader, tmp_path / "y.pcapng", within) == {}


def test_a_disturbed_wire_is_no_reason_to_send_beyond_the_window(reader: Reader, tmp_path: Path) -> None:
    beyond = {5: "5 bytes beyond the window of the receiver"}
    frames = too_much((7, 9))
    for comment, objections in ((labels.DISTURBED, beyond), (labels.label(labels.ELSEWHERE, f"{A} and {B}"), {})):
        path = capture(tmp_path / "x.pcapng", frames, comments=["tests/x.py::test_x", comment])
        assert dict(reader.read(path).unexplained) == objections

    def lossy(recorder: taps.Recorder) -> None:
        for number, (who, frame) in enumerate(frames):
            recorder.sent(number / 10, who, frame)
            recorder.say(labels.LOST)

    assert dict(reader.read(capture(tmp_path / "lost.pcapng", [], lossy)).unexplained) == beyond
    mine = reader.read(capture(tmp_path / "mine.pcapng", [*frames[:4], by_hand(frames[4])]))
    assert (mine.unexplained, mine.explained >= 1) == ([], True)
