"""The reader of a pair's packets sees what it is asked for: its own negative controls."""

from __future__ import annotations

import pytest

from . import wire
from .handmade import A, B
from .pair import Pair
from .seen import acknowledged, again, ending, flights, stream

ISN, PEER_ISN = (1 << 32) - 3, 70


def spoken(*texts: tuple[int, bytes], acks: tuple[tuple[float, int], ...] = ()) -> Pair:
    """A pair on whose wire are two SYNs, then texts of `a` at these offsets, a second apart, and acknowledgements of `b`."""
    pair = Pair(delay=0.1)
    packets = [
        (0.0, "a", wire.segment(A, B, 5, 6, "S", seq=ISN)),
        (0.1, "b", wire.segment(B, A, 6, 5, "SA", seq=PEER_ISN, ack=ISN + 1)),
    ]
    for number, (at, text) in enumerate(texts):
        packets.append(
            (1.0 + number, "a", wire.segment(A, B, 5, 6, "A", seq=ISN + 1 + at, ack=PEER_ISN + 1, payload=text))
        )
    for when, at in acks:
        packets.append((when, "b", wire.segment(B, A, 6, 5, "A", seq=PEER_ISN + 1, ack=ISN + 1 + at)))
    pair.packets = sorted(packets)
    return pair


def test_a_stream_is_put_together_by_its_numbers() -> None:
    assert stream(spoken((4, b"efgh"), (0, b"abcd"), (2, b"cdef"), (8, b"i")), "a") == b"abcdefghi"


@pytest.mark.parametrize("texts", [((0, b"abcd"), (2, b"cD")), ((0, b"ab"), (3, b"d"))], ids=["another octet", "a gap"])
def test_a_stream_that_is_not_one_is_noticed(texts: tuple[tuple[int, bytes], ...]) -> None:
    with pytest.raises(AssertionError, match="octet"):
        stream(spoken(*texts), "a")


def test_what_goes_again_is_found_and_what_overtook_nothing_is_not() -> None:
    pair = spoken((0, b"abcd"), (4, b"efgh"), (0, b"abcd"), (6, b"ghij"), (10, b"k"))
    assert [seen.payload for seen in again(pair, "a")] == [b"abcd", b"ghij"]
    assert [seen.payload for seen in again(pair, "a", since=5)] == [b"ghij"]


def test_flights_end_when_acknowledgements_have_come_in() -> None:
    pair = spoken((0, b"abcd"), (4, b"efgh"), (8, b"ijkl"), acks=((1.95, 4), (2.1, 8)))
    assert list(flights(pair, "a")) == [(1.0, 4), (2.0, 8), (3.0, 4)]
    assert acknowledged(pair, "b") == 8


def test_an_ending_has_no_text() -> None:
    assert ending(spoken((0, b"abcd"), acks=((2.0, 4),)), 0) == [("a", "S"), ("b", "SA"), ("b", "A")]
