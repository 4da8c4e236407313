"""The scoreboard and the receiver's runs against sets of numbers, which need no cleverness."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapstack.tcp.acknowledged import Acknowledged
from tapstack.tcp.receiver import Receiver
from tapstack.tcp.recovery.scoreboard import Scoreboard
from tapstack.tcp.segments import SACKED, SentSegment
from tapstack.tcp.sender import Sender
from tapstack.types import Frame

LENGTH = 400
START = (1 << 32) - 200  # the wrap is in the middle


class _Quiet:
    """No congestion control: everything may go; no recovery: nothing is decided."""

    window = None
    losses = 0
    pacing_rate = None
    cwnd = 1 << 30

    def on_sent(self, now: float) -> None:
        """Nothing to arm."""


class _Nowhere:
    """Where segments go that nobody looks at."""

    def emit_data(self, sequence: int, flags: int, pieces: Frame, length: int, again: bool) -> None:
        """Gone."""

    def emit_run(self, sequence: int, run: list[Frame], size: int) -> None:
        """Nothing leaves."""

    def send_probe(self, now: float) -> None:
        """None leaves."""

    def start_congestion(self) -> None:
        raise AssertionError("the test brings its own")

    def window_reduced(self) -> None:
        """Nobody is told."""


def full_sender(cut: int) -> Sender:
    sender = Sender(START, _Nowhere())
    sender.congestion = sender.recovery = _Quiet()  # type: ignore[assignment]
    sender.news = Acknowledged()
    sender.nodelay = True
    sender.mss, sender.segment_limit, sender.snd_wnd = cut, cut, LENGTH
    sender.write(bytes(i & 0xFF for i in range(LENGTH)))
    sender.transmit(1.0)
    return sender


def sacked(sender: Sender) -> set[int]:
    return {n for s in sender.in_flight if s.mark == SACKED for n in range(s.start, s.end)}


block = st.tuples(st.integers(0, LENGTH), st.integers(1, 60)).map(lambda b: (b[0], min(b[0] + b[1], LENGTH)))


@pytest.mark.proves("ST-TCP-3", by="api")
@given(st.lists(st.tuples(st.integers(0, LENGTH), st.lists(block, max_size=3)), max_size=12), st.integers(20, 100))
@settings(max_examples=150)
def test_marks_are_the_union_of_what_was_reported(acks: list[tuple[int, list[tuple[int, int]]]], cut: int) -> None:
    sender = full_sender(cut)
    board = Scoreboard()
    model: set[int] = set()
    una = START
    for ack, blocks in acks:
        before = una
        una = max(una, START + ack)
        sender.news.begin(sender.pipe, before)
        if una > before:
            sender.acknowledge(una, 2.0)
            board.advance(una)
        wire = [((START + left) & 0xFFFFFFFF, (START + right) & 0xFFFFFFFF) for left, right in blocks]
        duplicate = board.read(wire, sender, before)
        taken = [(START + left, START + right) for left, right in blocks]
        if duplicate is not None:
            assert taken[0] == duplicate
        for left, right in taken:
            model |= set(range(left, right))
        model = {n for n in model if n >= una}
        sender.check()
        assert sacked(sender) == model
        assert sender.news.delivered >= una - before - LENGTH


@pytest.mark.proves("ST-TCP-3", by="api")
@given(st.lists(block, min_size=1, max_size=40), st.integers(0, 5))
@settings(max_examples=150)
def test_runs_hold_what_came_and_give_it_back_in_order(pieces: list[tuple[int, int]], shift: int) -> None:
    content = Random(3).randbytes(LENGTH)
    receiver = Receiver(1 << 20, 1 << 20)
    receiver.start(START - 1)
    receiver.rcv_adv = START + LENGTH
    here: set[int] = set()
    got = bytearray()
    for left, right in pieces:
        if left == right:
            continue
        receiver.accept(START + left, memoryview(content)[left:right], False)
        here |= set(range(left, right))
        receiver.check()
        edge = next(n for n in range(LENGTH + 1) if n not in here)
        assert receiver.rcv_nxt == START + edge
        for start, end in receiver.sack_blocks(4)[receiver.duplicate is not None :]:
            assert set(range(start - START, end - START)) <= here
            assert start - START > edge
        receiver.duplicate = None
        if shift and left % shift == 0:
            got += b"".join(map(bytes, receiver.read()))
    got += b"".join(map(bytes, receiver.read()))
    assert got == content[: len(got)]
    assert len(got) == next(n for n in range(LENGTH + 1) if n not in here)


@pytest.mark.proves("ST-TCP-3", by="api")
def test_the_block_with_the_latest_segment_comes_first() -> None:
    receiver = Receiver(1 << 20, 1 << 20)
    receiver.start(99)
    receiver.rcv_adv = 10_000
    for start in (200, 400, 600, 800):
        receiver.accept(start, bytes(50), False)
    receiver.accept(250, bytes(50), False)
    assert receiver.sack_blocks(3) == [(200, 300), (800, 850), (600, 650)]


@pytest.mark.proves("ST-TCP-3", by="api")
def test_a_duplicate_is_reported_before_everything_else() -> None:
    receiver = Receiver(1 << 20, 1 << 20)
    receiver.start(99)
    receiver.rcv_adv = 10_000
    receiver.accept(100, bytes(100), False)
    receiver.accept(300, bytes(100), False)
    receiver.accept(150, bytes(50), False)
    assert receiver.sack_blocks(3) == [(150, 200), (300, 400)]
    receiver.duplicate = None
    receiver.accept(350, bytes(100), False)
    assert receiver.sack_blocks(3) == [(350, 400), (300, 450)]


def test_single_bytes_pin_little() -> None:
    receiver = Receiver(1 << 20, 1 << 20)
    receiver.start(-1)
    receiver.rcv_adv = 1 << 20
    frame = memoryview(bytes(2000))
    for position in range(10_000):
        receiver.accept(position, frame[60:61], False)
    assert len(receiver._ready) <= 4
    for position in range(10_001, 20_000):
        receiver.accept(position, frame[60:61], False)
    assert sum(len(run.pieces) for run in receiver._runs) <= 4
    assert receiver.queued == 10_000 and receiver.beyond == 9_999


def test_the_number_of_runs_is_bounded() -> None:
    receiver = Receiver(1 << 20, 1 << 20)
    receiver.start(-1)
    receiver.rcv_adv = 1 << 20
    kept = [receiver.accept(position, b"x", False) for position in range(2, 4000, 2)]
    assert not all(kept)
    assert len(receiver._runs) <= 512
    receiver.check()


def test_splitting_keeps_bytes_and_times() -> None:
    segment = SentSegment(100, 111, [b"abcde", b"fghij"], True)
    sender = full_sender(100)
    sender.in_flight.clear()
    sender.by_time.clear()
    sender.in_flight.append(segment)
    sender.by_time.append(segment)
    segment.sent_at, segment.order = 7.0, 3
    rest = sender.split(segment, 7)
    assert (segment.start, segment.end, segment.fin) == (100, 107, False)
    assert (rest.start, rest.end, rest.fin, rest.sent_at, rest.order) == (107, 111, True, 7.0, 3)
    assert b"".join(map(bytes, segment.pieces)) + b"".join(map(bytes, rest.pieces)) == b"abcdefghij"
