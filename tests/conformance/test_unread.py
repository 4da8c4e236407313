"""What a sender had read, as the clock shows that it echoes: what a starved one may repeat, and what nobody may."""

from __future__ import annotations

from pathlib import Path

import pytest

from scenarios.conformance.causes import Kind, cause
from scenarios.conformance.packets import Reader
from scenarios.conformance.segments import ACK, RST, SYN, Segment
from tests.plugins import taps

from .talk import TALK, A, B, capture, segment

OPENING = [(who, bytes(packet)) for who, packet in TALK[:3]]
AT = (0.0, 0.1, 0.2)
REAL = pytest.mark.real("tshark")


def echoing(
    who: str, seq: int, ack: int, clocks: tuple[int, int], text: bytes = b"", sack: tuple[int, ...] = ()
) -> bytes:
    """A segment whose timestamp has a clock and the one that it echoes."""
    options: list[tuple[str, object]] = [("Timestamp", clocks), *([("SAck", sack)] if sack else [])]
    return bytes(segment(*((A, B) if who == "a" else (B, A)), "PA" if text else "A", seq, ack, text, options=options))


@REAL
@pytest.mark.parametrize("echo", [7000, 8100], ids=["not read", "read"])
@pytest.mark.parametrize("sack", [(), (106, 111)], ids=["acknowledged", "reported"])
def test_what_was_read_the_clock_tells_that_is_echoed(
    reader: Reader, tmp_path: Path, sack: tuple[int, ...], echo: int
) -> None:
    """What is repeated at 1.5 had been acknowledged, or its arrival reported, at 1.1 by the clock 8100."""
    sent = [("a", echoing("a", seq, 901, (1000, 7000), b"hello")) for seq in (101, 106)]
    told = [("b", echoing("b", 901, 101 if sack else 111, (8100, 1000), sack=sack))]
    again = [("a", echoing("a", 106, 901, (1500, echo), b"hello"))]
    frames = [*OPENING, *sent, *told, *again]
    listing = reader.read(capture(tmp_path / "x.pcapng", frames, times=(*AT, 1.0, 1.001, 1.1, 1.5)))
    assert listing.packets[-1].remarks, "tshark says nothing: the case shows nothing"
    assert {number for number, _ in listing.unexplained} == (set() if echo == 7000 else {7})


@REAL
@pytest.mark.parametrize(("seq", "right"), [(901, True), (902, False), (900, False)])
def test_only_a_clock_in_order_would_have_been_echoed(reader: Reader, tmp_path: Path, seq: int, right: bool) -> None:
    """A segment behind a hole, or one that was outdated, leaves the clock that is echoed as it is (RFC 7323 §4.3)."""
    frames = [
        *OPENING,
        ("a", echoing("a", 101, 901, (1000, 7000), b"hello")),
        ("b", echoing("b", seq, 106, (8100, 1000))),
        ("a", echoing("a", 101, 901, (1500, 7000), b"hello")),
    ]
    listing = reader.read(capture(tmp_path / "x.pcapng", frames, times=(*AT, 1.0, 1.1, 1.5)))
    assert (6 not in {number for number, _ in listing.unexplained}) == right


@REAL
@pytest.mark.parametrize(
    ("comment", "clocks", "apart", "wrong"),
    [
        ("real time", (8100, 8101), 0.0001, {9}),
        ("real time", (8100, 8100), 0.0001, {8, 9}),
        ("real time", (8100, 8120), 0.02, {8, 9}),
        ("", (8100, 8101), 0.0001, {8, 9}),
    ],
    ids=["exchanged behind the capture", "one clock", "far apart", "a link in order"],
)
def test_an_older_clock_that_came_late_is_answered_once(
    reader: Reader, tmp_path: Path, comment: str, clocks: tuple[int, int], apart: float, wrong: set[int]
) -> None:
    recorder = taps.Recorder("wire", taps.RAW_IP)
    frames = [
        *zip(AT, OPENING, strict=True),
        (1.0, ("a", echoing("a", 101, 901, (1000, 7000), b"hello"))),
        (1.0001, ("a", echoing("a", 106, 901, (1000, 7000), b"hello"))),
        (1.1, ("b", echoing("b", 901, 106, (clocks[0], 1000)))),
        (1.1 + apart, ("b", echoing("b", 901, 111, (clocks[1], 1000)))),
        (1.125, ("a", echoing("a", 111, 901, (1125, clocks[1])))),
        (1.126, ("a", echoing("a", 111, 901, (1126, clocks[1])))),
    ]
    for when, (who, frame) in frames:
        recorder.sent(when, who, frame)
    recorder.write(tmp_path / "x.pcapng", comment)
    assert {number for number, _ in reader.read(tmp_path / "x.pcapng").unexplained} == wrong


def said(when: float, who: str, seq: int, length: int, ack: int, clocks: tuple[int, int], **more: object) -> Segment:
    return Segment(time=when, sender=who, seq=seq, ack=ack, length=length, clock=clocks[0], echo=clocks[1],
                   **{"flags": ACK, **more})  # type: ignore[arg-type]  # fmt: skip


def opening(at: float, clock: int) -> list[Segment]:
    """A handshake of which a round trip takes 20 ms; the clocks of both count from it, the peer's from `clock` on."""
    return [
        said(at, "a", 100, 0, 0, (1000, 0), flags=SYN),
        said(at + 0.01, "b", 900, 0, 101, (clock, 1000), flags=SYN | ACK),
        said(at + 0.02, "a", 101, 0, 901, (1020, clock)),
    ]


SENT = [said(1.0, "a", 101, 5, 901, (2000, 7000)), said(1.0001, "a", 106, 5, 901, (2000, 7000))]
TOLD = said(1.1, "b", 901, 0, 111, (8100, 2000))


def again(echo: int, ack: int = 901, when: float = 1.5, seq: int = 106) -> Segment:
    return said(when, "a", seq, 5, ack, (int(1000 + when * 1000), echo))


@pytest.mark.parametrize(
    ("talk", "right"),
    [
        ([*SENT, TOLD, again(7000)], True),
        ([*SENT, TOLD, again(8100)], False),
        ([*SENT, said(1.1, "b", 901, 0, 106, (8100, 2000)), TOLD, again(8100)], False),
        ([*SENT, TOLD, said(1.11, "b", 901, 0, 111, (8110, 2000)), again(8100)], False),
        ([*SENT, said(1.1, "b", 901, 5, 101, (8100, 2000)), TOLD, again(8100)], True),
        (
            [
                *SENT,
                TOLD,
                said(1.4, "a", 111, 5, 901, (2400, 8100)),
                said(1.495, "b", 901, 0, 116, (8495, 2400)),
                again(8100),
            ],
            False,
        ),
        (
            [
                *[*SENT, TOLD, said(1.2, "a", 111, 5, 901, (2200, 8100))],
                *[said(1.3, "b", 901, 0, 116, (8300, 2200)), said(1.305, "b", 901, 0, 116, (8305, 2200)), again(8300)],
            ],
            False,
        ),
        ([*SENT, said(1.1, "b", 901, 0, 111, (8100, 2000), flags=RST | ACK), again(7000)], False),
        ([*SENT, said(1.1, "b", 900, 1, 111, (8100, 2000)), again(7000)], False),
        ([*SENT, said(1.05, "b", 901, 0, 999, (8050, 2000)), TOLD, again(8100)], False),
        (
            [
                *[*SENT, said(1.02, "b", 901, 1, 101, (8020, 2000)), said(1.0201, "a", 111, 0, 901, (2020, 8020))],
                *[said(1.1, "b", 901, 0, 101, (8100, 2000), sacks=((106, 111),)), again(8100)],
            ],
            False,
        ),
        ([*SENT, said(1.1, "b", 901, 0, 101, (8100, 2000), sacks=((106, 111),)), again(7000)], True),
        ([*SENT, said(1.1, "b", 901, 0, 101, (8100, 2000), sacks=((106, 111),)), again(8100)], False),
    ],
    ids=[
        "not read",
        "read",
        "of two with that clock one told it",
        "read, and the next was not",
        "what else has that clock was read",
        "read while others come",
        "an earlier one was read",
        "the clock of a reset",
        "the clock of outdated bytes",
        "the clock of what acknowledges too much",
        "bytes that were read and not taken",
        "a report that was not read",
        "a report that was read",
    ],
)
def test_what_is_repeated_had_not_been_read(talk: list[Segment], right: bool) -> None:
    talk = [*opening(0, 7000), *talk]
    assert bool(cause(talk, len(talk) - 1, Kind.AGAIN)) == right


@pytest.mark.parametrize("clock", [3000, 7000], ids=["older", "newer"])
def test_ports_that_are_used_again_begin_anew(clock: int) -> None:
    """The clock of the connection before may be ahead, and says nothing of this one."""
    first = [*opening(0, 5000), *SENT, said(1.1, "b", 901, 0, 111, (6100, 2000))]
    second = [
        Segment(**{**{name: getattr(s, name) for name in Segment.__slots__}, "seq": s.seq + 5000 * (s.sender == "a"),
                   "ack": s.ack + 5000 * (s.sender == "b")})
        for s in opening(9, clock)
    ]  # fmt: skip
    syn = said(10.0, "a", 5100, 0, 0, (2000, 0), flags=SYN)
    talk = [*first, *second[:2], syn]
    assert not cause(talk, len(talk) - 1, Kind.AGAIN), "the SYN was answered a second before"
    bytes_ = said(10.0, "a", 5101, 5, 901, (2000, clock))
    told = said(10.1, "b", 901, 0, 5106, (clock + 1100, 2000))
    for echo, right in ((clock, True), (clock + 1100, False)):
        talk = [*first, *second, bytes_, told, said(10.5, "a", 5101, 5, 901, (2500, echo))]
        assert bool(cause(talk, len(talk) - 1, Kind.AGAIN)) == right


def test_an_upload_is_not_acknowledged_out_of_nothing() -> None:
    """An older clock is answered once, and as seldom as a stack challenges, whatever the number."""
    talk, found = opening(0, 7000), []
    for step in range(60):
        when, seq = 1 + step / 100, 101 + step * 10
        talk += [
            said(when, "a", seq, 5, 901, (2000 + step * 10, 7990 + step * 10)),
            said(when, "a", seq + 5, 5, 901, (2000 + step * 10, 7990 + step * 10)),
            said(when + 0.002, "b", 901, 0, seq + 5, (8000 + step * 10, 2000)),
            said(when + 0.0022, "b", 901, 0, seq + 10, (8001 + step * 10, 2000)),
            said(when + 0.005, "a", seq + 10, 0, 901, (2005 + step * 10, 8001 + step * 10)),
        ]
        found.append(bool(cause(talk, len(talk) - 1, Kind.DUPLICATE, processors=True)))
    assert [step for step, right in enumerate(found) if right] == [0]
