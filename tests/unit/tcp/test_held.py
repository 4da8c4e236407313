"""Bare acknowledgements that are read together: the last one is processed, and everything else finds its work done."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tapstack.link.base import LinkProperties
from tapstack.stack import Stack
from tapstack.tcp import fastpath
from tapstack.tcp.acknowledged import Acknowledged
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import SocketOptions

from . import wire
from .pair import Pair, read_all
from .seen import stream

TEXT = bytes(range(256)) * 80
SEGMENTS = 15


def under_way(*, timestamps: bool = True) -> tuple[Pair, Connection, list[bytes]]:
    """A pair whose client has a window of segments in flight, and what the server says to each of them."""
    pair = Pair()
    client, server = pair.connect(SocketOptions(timestamps=timestamps, nodelay=True))
    client.sender.congestion.cwnd = 10 * len(TEXT)
    client.write(TEXT)
    pair.run(0.005)
    said: list[bytes] = []
    for _, _, _, packet in sorted(pair._flying):  # one at a time: the server acknowledges each
        pair.b.input(packet, pair.now + 0.01)
        server.receiver.ack_now = True
        pair.b.tcp.mark_dirty(server)
        pair.b.tcp.flush(pair.now + 0.01)
    pair._flying.clear()
    said += [b"".join(frame) for frame in pair.b.out]
    pair.b.out.clear()
    pair.now += 0.02
    assert len(client.sender.in_flight) == len(said) == SEGMENTS
    return pair, client, said


def put_in(pair: Pair, packets: Iterable[bytes], *, together: bool) -> None:
    if together:
        with pair.a.reading(pair.now):
            for packet in packets:
                pair.a.input(packet, pair.now)
    else:
        for packet in packets:
            pair.a.input(packet, pair.now)
    pair.a.tcp.check()


@pytest.mark.proves("ST-TCP-12", by="api")
@pytest.mark.parametrize("timestamps", [True, False])
def test_only_the_last_of_many_is_processed(monkeypatch: pytest.MonkeyPatch, timestamps: bool) -> None:
    pair, client, said = under_way(timestamps=timestamps)
    news: list[int] = []
    begin = Acknowledged.begin

    def counted(self: Acknowledged, in_flight: int, una: int) -> None:
        news.append(una)
        begin(self, in_flight, una)

    monkeypatch.setattr(Acknowledged, "begin", counted)
    put_in(pair, said, together=True)
    assert len(news) == 1
    assert client.sender.everything_acknowledged
    assert client.sender.snd_una == client.sender.snd_nxt
    assert client.rtt.srtt == pytest.approx(0.02, abs=0.002)
    assert client.held is None and not pair.a.tcp.held


@pytest.mark.proves("ST-TCP-12", by="api")
def test_a_few_segments_in_flight_are_acknowledged_at_once() -> None:
    pair, client, said = under_way()
    put_in(pair, said[:-4], together=True)
    pair.a.tcp.reading = True
    before = client.sender.snd_una
    pair.a.input(said[-4], pair.now)
    assert client.sender.snd_una > before, "a conversation is answered as ever"


@pytest.mark.proves("ST-TCP-12", "ST-TCP-2", by="api")
def test_a_broken_checksum_is_no_acknowledgement_among_many_either() -> None:
    pair, client, said = under_way()
    broken = bytearray(said[-1])
    broken[56] ^= 0xFF
    put_in(pair, [*said[:5], bytes(broken)], together=True)
    assert client.sender.in_flight and len(client.sender.in_flight) == SEGMENTS - 5


@pytest.mark.proves("ST-TCP-2")
@pytest.mark.parametrize("together", [True, False])
def test_what_waits_moves_no_timestamp_past_the_last_acknowledgement_sent(together: bool) -> None:
    """RFC 7323 §4.3: the echo stays that of the first segment that is not acknowledged yet."""
    pair, client, said = under_way()
    receiver = client.receiver
    recent = receiver.ts_recent
    assert recent is not None
    first = wire.read(said[0])

    def made(seq: int, ack: int, stamp: int, payload: bytes = b"") -> bytes:
        options = [("NOP", None), ("NOP", None), ("Timestamp", (stamp, dict(first.options)["Timestamp"][1]))]
        return wire.segment(
            "2001:db8:b::1", "2001:db8:a::1", first.sport, first.dport, "A",
            seq=seq, ack=ack, payload=payload, window=first.window, options=options,
        )  # fmt: skip

    pair.a.input(made(first.seq, client.sender.snd_una, recent + 10, b"text"), pair.now)
    assert receiver.rcv_nxt > receiver.last_ack_sent
    put_in(pair, [made(first.seq + 4, first.ack, recent + 40)], together=together)
    assert client.sender.snd_una & 0xFFFFFFFF == first.ack
    before = len(pair.packets)
    pair.flush()
    client.write(b"says what is echoed")
    pair.flush()
    echoes = {stamps[1] for _, _, packet in pair.packets[before:] if (stamps := wire.timestamps(packet))}
    assert echoes == {recent + 10}


def others(client: Connection, said: list[bytes]) -> list[bytes]:
    """What may come between acknowledgements: text, FIN, a window, a SACK, an old and a wild acknowledgement, a reset."""
    first, last = wire.read(said[0]), wire.read(said[-1])
    a, b = "2001:db8:a::1", "2001:db8:b::1"

    def made(flags: str, ack: int, seq: int = first.seq, payload: bytes = b"", window: int = first.window) -> bytes:
        options = [("NOP", None), ("NOP", None), *[(k, v) for k, v in last.options if k == "Timestamp"]]
        return wire.segment(
            b, a, first.sport, first.dport, flags, seq=seq, ack=ack, payload=payload, window=window, options=options
        )

    sacked = [("NOP", None), ("NOP", None), ("SAck", (last.ack - 1428, last.ack))]
    return [
        made("PA", first.ack, payload=b"text"),
        made("A", last.ack, seq=first.seq + 4, payload=b"more"),
        made("FA", last.ack, seq=first.seq + 4),
        made("A", first.ack, window=2000),
        made("A", first.ack + 1428, window=0),
        wire.segment(b, a, first.sport, first.dport, "A", seq=first.seq, ack=first.ack, options=sacked),
        made("A", first.ack - 1000),
        made("A", last.ack + 100_000),
        made("A", first.ack, seq=first.seq - 1),
        made("RA", first.ack, seq=first.seq + 1),
        made("R", 0, seq=first.seq),
    ]


def outcome(pair: Pair, client: Connection) -> tuple[object, ...]:
    sender, receiver = client.sender, client.receiver
    return (
        client.state,
        sender.snd_una,
        sender.snd_wnd,
        sender.pipe,
        [(segment.start, segment.end, segment.mark) for segment in sender.in_flight],
        receiver.rcv_nxt,
        receiver.ts_recent,
        read_all(client),
        bool(client.signals & 1),
        pair.a.counters.drops,
    )


@pytest.mark.proves("ST-TCP-12", "ST-TCP-2", by="api")
@settings(max_examples=150)
@given(order=st.lists(st.integers(0, SEGMENTS + 10), min_size=1, max_size=24))
def test_whatever_comes_between_acknowledgements_finds_what_it_would_have_found(order: list[int]) -> None:
    outcomes = []
    for together in (False, True):
        pair, client, said = under_way()
        choice = [*said, *others(client, said)]
        put_in(pair, [choice[number] for number in order], together=together)
        outcomes.append(outcome(pair, client))
    assert outcomes[0] == outcomes[1]


@pytest.mark.proves("ST-TCP-12")
@pytest.mark.parametrize("offload", [None, "whole"])
@pytest.mark.parametrize("together", [False, True])
def test_a_lossy_transfer_arrives_whole_whether_read_together_or_not(
    offload: Literal["whole"] | None, together: bool
) -> None:
    pair = Pair(offload=offload, together=together)
    client, server = pair.connect()
    numbers = count()
    pair.meddle = lambda sender, packet: [] if next(numbers) % 97 == 5 else [packet]
    client.write(TEXT * 60)
    got: list[bytes] = []
    while sum(map(len, got)) < 60 * len(TEXT):
        assert pair.step(pair.now + 60)
        got.append(read_all(server))
    assert b"".join(got) == TEXT * 60 == stream(pair, "a")


def test_a_stack_settles_before_anything_else_is_looked_at_and_when_the_link_is_read_empty() -> None:
    """`Pair` does for its ends what `Stack` does for a link; here it is `Stack` itself."""
    pair, client, said = under_way()
    stack = Stack(LinkProperties(mtu=1500, mac=None), bytes(32))
    stack.tcp = pair.a.tcp
    stack._pairs = pair.a.tcp.demux.pairs
    una = client.sender.snd_una
    seen: list[int] = []
    stack.host.input = lambda frame, now: seen.append(client.sender.snd_una - una)
    frames = iter([*said[:3], b"nothing known", *said[3:6]])
    assert stack.take_in(lambda: next(frames, None), 64, pair.now) == 7
    assert seen == [wire.read(said[2]).ack - una & 0xFFFFFFFF]
    assert client.sender.snd_una - una == wire.read(said[5]).ack - una & 0xFFFFFFFF
    frames = iter(said[6:9])
    with pytest.raises(OSError, match="lost"):
        stack.take_in(lambda: next(frames, None) or fail(), 64, pair.now)
    assert len(client.sender.in_flight) == SEGMENTS - 9, "what was read before the link was lost counts"
    assert not pair.a.tcp.reading


def fail() -> bytes:
    raise OSError("the link is lost")


def test_settling_twice_is_settling_once() -> None:
    pair, client, said = under_way()
    put_in(pair, said, together=True)
    una = client.sender.snd_una
    fastpath.settle(pair.a.tcp, pair.now)
    assert client.sender.snd_una == una
