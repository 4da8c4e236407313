"""The user time-out: its exact end, and the option by which two ends tell each other theirs (RFC 5482)."""

from __future__ import annotations

import itertools
from math import inf

import pytest

from tapstack.events import DropReason
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.tcp.usertimeout import UPPER_LIMIT
from tapstack.wire.tcp import Options

from . import wire
from .pair import Pair
from .path import DATA, Path, established
from .seen import RST, segments

A, B = "2001:db8:a::1", "2001:db8:b::1"


def option(packet: bytes) -> bytes | None:
    """The option as scapy finds it: kind 28."""
    for kind, value in wire.read(packet).options:
        if kind in (28, "UTO"):
            return value if isinstance(value, bytes) else int(value).to_bytes(2, "big")
    return None


def opened(client: SocketOptions, server: SocketOptions) -> tuple[Pair, Connection, Connection]:
    pair = Pair()
    listener = pair.b.tcp.listen(server, pair.now)
    listener.arm(pair.b.entry(pair.now), pair.now)
    one = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, client)
    pair.run(1)
    other = listener.accept()
    assert other is not None
    return pair, one, other


@pytest.mark.proves("ST-TCP-11")
def test_by_default_nothing_is_told_and_nothing_believed() -> None:
    pair, one, other = opened(
        SocketOptions(user_timeout=30.0), SocketOptions(tell_user_timeout=True, user_timeout=500.0)
    )
    own = [option(p) for p in pair.sent_by("a")]
    assert own and not any(own)
    assert any(option(p) for p in pair.sent_by("b"))
    assert (one.user_timeout, other.user_timeout) == (30.0, 500.0)


@pytest.mark.proves("ST-TCP-11")
@pytest.mark.parametrize(
    ("mine", "yours", "both"),
    [(30.0, 500.0, 500.0), (500.0, 30.0, 500.0), (30.0, 40.0, 100.0), (300.0, 90_000.0, UPPER_LIMIT)],
)
def test_both_wait_for_the_longer_time_within_limits(mine: float, yours: float, both: float) -> None:
    pair, one, other = opened(
        SocketOptions(tell_user_timeout=True, user_timeout=mine),
        SocketOptions(tell_user_timeout=True, user_timeout=yours),
    )
    assert (one.user_timeout, other.user_timeout) == (both, both)
    carried = [(who, str(wire.read(p).flags), option(p)) for _, who, p in pair.packets]
    assert [flags for _, flags, told in carried if told is not None] == ["S", "SA", "A"], (
        "and in the first that is no SYN"
    )
    assert carried[0][2] == int(mine).to_bytes(2, "big")
    assert pair.b.tcp.counters.drops[DropReason.TCP_MALFORMED] == 0


@pytest.mark.proves("ST-TCP-11")
def test_an_application_that_chose_a_time_keeps_it_and_tells_it() -> None:
    pair, one, other = opened(SocketOptions(tell_user_timeout=True), SocketOptions(tell_user_timeout=True))
    one.set_user_timeout(200.0)
    before = len(pair.packets)
    other.write(b"x")
    pair.run(1)
    told = [option(p) for p in pair.sent_by("a", before)]
    assert told == [(200).to_bytes(2, "big")]
    one.hear_user_timeout(1000)
    assert one.user_timeout == 200.0
    assert one.told_timeout is not None and one.told_timeout.told == 1000, "kept for who asks"


@pytest.mark.proves("ST-TCP-11")
def test_behind_a_cookie_the_first_acknowledgement_tells_it() -> None:
    pair = Pair()
    pair.b.tcp.passive.limit = 0
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.L2, tell_user_timeout=True), pair.now)
    listener.arm(pair.b.entry(pair.now), pair.now)
    options = SocketOptions(tell_user_timeout=True, user_timeout=700.0)
    one = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    pair.run(1)
    other = listener.accept()
    assert other is not None
    assert other.user_timeout == 700.0
    one.write(b"x")
    pair.run(1)
    assert one.user_timeout == 700.0
    assert any(option(p) for p in pair.sent_by("b", 2))


@pytest.mark.proves("ST-TCP-11", by="api")
@pytest.mark.parametrize(
    ("seconds", "field"),
    [(1, 1), (32_767, 32_767), (32_768, 0x8000 | 547), (10_000_000, 0xFFFF), (60 * 0x7FFF, 0xFFFF)],
)
def test_the_field(seconds: int, field: int) -> None:
    packed = Options(user_timeout=seconds).pack()
    assert packed == bytes((28, 4)) + field.to_bytes(2, "big")
    assert (Options.parse(packed).user_timeout or 0) >= min(seconds, 60 * 0x7FFF)


@pytest.mark.proves("ST-TCP-11", by="api")
def test_a_field_of_zero_is_ignored() -> None:
    assert Options.parse(bytes((28, 4, 0, 0))).user_timeout is None
    assert Options.parse(bytes((28, 4, 0x80, 0))).user_timeout is None


@pytest.mark.proves("ST-TCP-11")
@pytest.mark.parametrize("sack", [True, False])
@pytest.mark.parametrize("limit", [0.5, 7.0, 100.0])
def test_the_end_is_exact_whatever_the_time_out_of_the_moment(limit: float, sack: bool) -> None:
    pair = Pair()
    client, _, path = established(pair, user_timeout=limit, sack=sack)
    path.fate = lambda n: None
    pair.run(3)
    client.write(DATA[:5000])
    begun, before = pair.now, len(pair.packets)
    pair.run(1000)
    end = next(seen for seen in segments(pair, "a", before) if seen.flags & RST)
    assert end.when - begun == pytest.approx(limit)
    assert isinstance(client.error, TimeoutError)


@pytest.mark.proves("MUST-21")
def test_a_time_out_without_an_end_waits_for_days() -> None:
    pair = Pair()
    client, server, path = established(pair, user_timeout=inf)
    path.fate = lambda n: None
    client.write(DATA[:5000])
    pair.run(3 * 86_400)
    assert client.error is None
    path.fate = lambda n: 0.0
    pair.run(100)
    assert b"".join(server.read()) == DATA[:5000]


@pytest.mark.proves("ST-TCP-11")
def test_a_time_out_without_an_end_is_told_as_the_longest_there_is() -> None:
    pair, _, _ = opened(SocketOptions(tell_user_timeout=True, user_timeout=inf), SocketOptions())
    assert {option(p) for p in pair.sent_by("a")} >= {b"\xff\xff"}


@pytest.mark.proves("ST-TCP-11")
@pytest.mark.proves("MUST-20")
def test_what_is_heard_without_acknowledging_moves_no_time_out() -> None:
    pair = Pair()
    client, server, path = established(pair, user_timeout=2.0, sack=False, timestamps=False)
    path.fate = lambda n: None
    client.write(b"x")
    begun, before = pair.now, len(pair.packets)
    for at in (0.3, 0.6, 0.9, 1.2):
        pair.run(begun + at - pair.now)
        server.write(b"y")  # which acknowledges nothing new
    pair.run(50)
    end = next(seen for seen in segments(pair, "a", before) if seen.flags & RST)
    assert end.when - begun == pytest.approx(2.0), "it counts how long the same data waits (RFC 9293 §3.8.3)"
    again = [
        when - begun for when, who, p in pair.packets[before:] if who == "a" and bytes(wire.read(p).payload) == b"x"
    ]
    gaps = [b - a for a, b in itertools.pairwise(again)]
    assert gaps and all(b == pytest.approx(2 * a) for a, b in itertools.pairwise(gaps)), "the back-off is undisturbed"
    assert isinstance(path, Path)
