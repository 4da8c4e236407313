"""Window scale, timestamps, PAWS, and arithmetic across every wrap (RFC 7323, RFC 9293 §3.4)."""

from __future__ import annotations

import re
from itertools import pairwise
from random import Random
from typing import Any

import pytest

from tapstack.events import DropReason
from tapstack.tcp import layer, passive
from tapstack.tcp.connection import Connection
from tapstack.tcp.isn import SessionNumbers, session_numbers
from tapstack.tcp.options import SocketOptions, TimeWait
from tapstack.tcp.sequence import unwrap

from . import wire
from .pair import End, Pair, read_all
from .path import DATA, collect, established, transfer
from .seen import again, stream

A, B = "2001:db8:a::1", "2001:db8:b::1"
WRAP = 1 << 32
PLAIN = SocketOptions(timestamps=False, sack=False)


def start_at(monkeypatch: pytest.MonkeyPatch, isn: int | None = None, stamp: int | None = None) -> None:
    """Let every connection begin with these numbers."""

    def chosen(secret: bytes, key: bytes, now: float) -> SessionNumbers:
        numbers = session_numbers(secret, key, now)
        return SessionNumbers(
            numbers.isn if isn is None else isn % WRAP,
            numbers.timestamp_offset if stamp is None else (stamp - int(now * 1000)) % WRAP,
            numbers.flow_label,
        )

    monkeypatch.setattr(layer, "session_numbers", chosen)
    monkeypatch.setattr(passive, "session_numbers", chosen)


@pytest.mark.proves("ST-TCP-2")
@pytest.mark.parametrize("isn", [-1, -2, -1000, -1429, -100_000, (1 << 31) - 5, (1 << 31) - 100_000, 0])
@pytest.mark.parametrize("sack", [True, False])
def test_streams_cross_the_wrap_of_sequence_numbers(monkeypatch: pytest.MonkeyPatch, isn: int, sack: bool) -> None:
    start_at(monkeypatch, isn=isn)
    rng = Random(isn)
    fates = [None if rng.random() < 0.02 else rng.random() * 0.004 if rng.random() < 0.1 else 0.0 for _ in range(1000)]
    pair = Pair()
    client, server, _ = established(pair, lambda n: fates[n % 1000], sack=sack, time_wait=TimeWait.SHORT)
    transfer(pair, client, server, 300_000)
    server.write(DATA[:50_000])
    assert collect(pair, client, 50_000, 60) == DATA[:50_000]
    assert (stream(pair, "a"), stream(pair, "b")) == (DATA[:300_000], DATA[:50_000])
    client.shutdown(pair.now)
    pair.run(1)
    server.shutdown(pair.now)
    pair.run(30)
    assert not len(pair.a.host.addresses) and not len(pair.b.host.addresses)
    assert (client.error, server.error) == (None, None)


@pytest.mark.proves("ST-TCP-2")
@pytest.mark.parametrize("stamp", [-1, -5, -200, -2000, (1 << 31) - 100])
def test_streams_cross_the_wrap_of_timestamps(monkeypatch: pytest.MonkeyPatch, stamp: int) -> None:
    start_at(monkeypatch, stamp=stamp)
    pair = Pair()
    client, server, path = established(pair, lambda n: None if n % 37 == 5 else 0.0)
    transfer(pair, client, server, 500_000)
    pair.run(3)
    transfer(pair, client, server, 100_000)
    values = [wire.timestamps(packet) for packet in pair.sent_by("a")]
    steps = [(after[0] - value[0]) % WRAP for value, after in pairwise(filter(None, values))]
    assert max(steps) < 10_000 and sum(steps) >= 3000, "they go on over the wrap"
    assert len(again(pair, "a")) == len(range(5, path.sent + 1, 37)), "what was lost, and nothing was taken for old"
    assert client.rtt.srtt is not None and client.rtt.srtt < 0.1, "no echo was misread"


def forward(sender: Connection, receiver: Connection, size: int) -> None:
    """As if `size` more bytes had been sent and read: both ends of an idle connection move together."""
    out, into = sender.sender, receiver.receiver
    assert out.snd_una == out.snd_nxt == into.rcv_nxt
    for name in ("snd_una", "snd_nxt", "snd_up"):
        setattr(out, name, getattr(out, name) + size)
    out.recovery.point += size
    out.news.fack += size
    for name in ("rcv_nxt", "rcv_adv", "rcv_up", "last_ack_sent"):
        setattr(into, name, getattr(into, name) + size)
    receiver.sender.snd_wl1 += size  # the window that was learnt from the peer's sequence number
    sender.sender.snd_wl2 += size


@pytest.mark.proves("ST-TCP-2", by="api")
def test_every_multiple_of_the_wrap_on_one_connection() -> None:
    pair = Pair()
    client, server, path = established(pair)
    pair.tap.disturb()  # both ends' numbers are moved on by hand, which no capture shows
    begun = client.sender.iss
    for lap in range(5):
        target = begun + (lap + 1) * WRAP - 150_000  # this lap's data lies across a multiple of 2³² from the start
        pair.run(1)
        forward(client, server, target - client.sender.snd_nxt)
        path.fate = lambda n: None if n % 41 == 3 else 0.0
        transfer(pair, client, server, 300_000)
        pair.run(1)
    statistics = client.statistics(pair.now)
    assert statistics.bytes_acked > 5 * WRAP
    assert server.statistics(pair.now).bytes_received == statistics.bytes_acked
    assert client.timers.timeouts == 0


@pytest.mark.proves("ST-TCP-2", by="api")
def test_a_transfer_of_more_than_four_gibibytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Byte after byte, with losses around both wraps of sequence numbers, after 100 MB and 2³² more; timestamps wrap at once."""
    start_at(monkeypatch, isn=WRAP - 100_000_000, stamp=WRAP - 100)
    size = WRAP + 200_000_000
    pair = Pair(delay=0.005, offload="trusted", keep=False)
    client, server = pair.connect(SocketOptions(receive_buffer=8 << 20, receive_buffer_maximum=8 << 20))
    first = client.sender.snd_nxt
    packets = 0

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        nonlocal packets
        packets += end is pair.a
        sent = client.sender.snd_nxt - first
        near = min(abs(sent - 100_000_000), abs(sent - WRAP - 100_000_000)) < 20_000_000
        return [] if end is pair.a and near and packets % 50 == 0 else [packet]

    pair.meddle = meddle
    piece = DATA[: 1 << 20]
    written = arrived = 0

    def more() -> bool:
        nonlocal written, arrived
        for part in server.read():
            at = arrived % len(piece)
            expected = piece[at : at + len(part)]
            assert part[: len(expected)] == expected and part[len(expected) :] == piece[: len(part) - len(expected)]
            arrived += len(part)
        while written < size and client.sender.buffered < 16 << 20:
            client.write(piece[: size - written])
            written += min(len(piece), size - written)
        return arrived == size

    pair.run(3600, until=more)
    assert more()
    assert client.sender.snd_nxt - first == size
    assert client.statistics(pair.now).bytes_acked >= size - (16 << 20)
    assert 0 < client.sender.retransmissions < 1000
    assert client.timers.timeouts == 0


@pytest.mark.proves("ST-TCP-2", by="api")
@pytest.mark.parametrize("reference", [0, 5, WRAP - 5, WRAP, 7 * WRAP + (1 << 31), 7 * WRAP - 1])
def test_unwrap_is_the_nearest(reference: int) -> None:
    for distance in (-(1 << 31), -70_000, -1, 0, 1, 70_000, (1 << 31) - 1):
        assert unwrap((reference + distance) % WRAP, reference) == reference + distance


# -- window scale --------------------------------------------------------------------------------------


@pytest.mark.proves("ST-TCP-2", by="api")
@pytest.mark.parametrize(("offered", "used"), [(0, 0), (7, 7), (14, 14), (15, 14), (200, 14), (None, 0)])
def test_the_peers_scale_is_fourteen_at_most(offered: int | None, used: int) -> None:
    pair = Pair()
    pair.meddle = lambda end, packet: []
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, PLAIN)
    pair.flush()
    options: list[Any] = [("MSS", 1440)] + ([] if offered is None else [("WScale", offered)])
    pair.a.input(
        wire.segment(B, A, 80, client.local_port, "SA", seq=5, ack=client.sender.snd_nxt, window=1000, options=options),
        pair.now,
    )
    assert client.sender.snd_wnd == 1000, "the window of a SYN is not scaled"
    assert client.sender.scale == used
    assert (client.receiver.scale > 0) is (offered is not None), "both or neither"


@pytest.mark.proves("ST-TCP-2", by="api")
def test_neither_side_scales_unless_both_do() -> None:
    pair = Pair()

    def without_scale(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if "S" not in str(wire.read(packet).flags):
            return [packet]
        return [wire.fixed(re.sub(rb"\x03\x03.(?=$|\x01|\x00)", b"\x01\x01\x01", packet, flags=re.DOTALL))]

    pair.meddle = without_scale
    client, server = pair.connect()
    assert (client.sender.scale, client.receiver.scale, server.sender.scale, server.receiver.scale) == (0, 0, 0, 0)
    transfer(pair, client, server, 300_000)


@pytest.mark.proves("ST-TCP-2")
def test_the_echoed_timestamp_is_that_of_what_is_acknowledged() -> None:
    """RFC 7323 §4.3: what lies beyond a hole changes nothing; what fills the hole does, though its timestamp is older."""
    pair = Pair()
    _, server, _ = established(pair)
    recent, first = server.receiver.ts_recent, server.receiver.rcv_nxt
    assert recent is not None
    echoed = []
    for offset, later in ((100, 50), (0, 20), (200, 60)):
        before = len(pair.packets)
        stamp = ("Timestamp", ((recent + later) % WRAP, 0))
        packet = wire.segment(
            A, B, server.remote_port, server.local_port, "PA", seq=first + offset & 0xFFFFFFFF, ack=server.sender.snd_una,
            options=[("NOP", None), ("NOP", None), stamp], payload=bytes(100),
        )  # fmt: skip
        pair.b.input(packet, pair.now)
        pair.run(0.5)
        stamps = [wire.timestamps(packet) for packet in pair.sent_by("b", before)]
        echoed.append({(found[1] - recent) % WRAP for found in stamps if found})
    assert echoed == [{0}, {20}, {60}]


# -- PAWS ----------------------------------------------------------------------------------------------


def stale(pair: Pair, server: Connection, age: int, payload: bytes = b"old") -> bool:
    """A segment with a timestamp that is `age` ms older than the last; whether it is taken."""
    recent = server.receiver.ts_recent
    assert recent is not None
    before = server.receiver.queued
    packet = wire.segment(
        A, B, server.remote_port, server.local_port, "A", seq=server.receiver.rcv_nxt, ack=server.sender.snd_una,
        options=[("NOP", None), ("NOP", None), ("Timestamp", ((recent - age) % WRAP, 0))], payload=payload,
    )  # fmt: skip
    pair.b.input(packet, pair.now)
    pair.flush()
    return server.receiver.queued > before


@pytest.mark.proves("ST-TCP-2")
def test_an_old_segment_in_the_window_is_kept_out_and_answered() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    transfer(pair, client, server, 5000)
    before = len(pair.packets)
    assert not stale(pair, server, 1)
    assert pair.b.counters.drops[DropReason.TCP_PAWS] == 1
    (answer,) = [wire.read(p) for p in pair.sent_by("b", before)]
    assert answer.ack == server.receiver.rcv_nxt & 0xFFFFFFFF
    assert stale(pair, server, 0), "an equal timestamp is not old"
    assert read_all(server) == b"old"


@pytest.mark.proves("ST-TCP-2", by="api")
def test_after_twenty_four_days_of_silence_the_last_timestamp_is_void() -> None:
    pair = Pair()
    _, server, _ = established(pair)
    pair.run(23 * 86_400)
    assert not stale(pair, server, 1)
    pair.run(2 * 86_400)
    assert stale(pair, server, 1)


@pytest.mark.proves("ST-TCP-2", by="api")
def test_once_negotiated_every_segment_needs_a_timestamp_but_a_reset() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    fields = {"seq": server.receiver.rcv_nxt, "ack": server.sender.snd_una}
    pair.b.input(wire.segment(A, B, server.remote_port, server.local_port, "A", payload=b"x", **fields), pair.now)
    assert server.receiver.queued == 0
    pair.b.input(wire.segment(A, B, server.remote_port, server.local_port, "R", **fields), pair.now)
    assert server.state.value == "CLOSED"
    assert client.state.value == "ESTABLISHED"


@pytest.mark.proves("ST-TCP-2")
def test_the_echo_of_a_delayed_acknowledgement_is_that_of_the_first_segment() -> None:
    pair = Pair()
    client, server, path = established(pair)
    path.gap = 0.01
    before = len(pair.packets)
    client.write(DATA[:1428])
    pair.run(0.005)
    client.write(DATA[:1428])
    pair.run(0.3)
    stamps = [wire.timestamps(p) for p in pair.sent_by("a", before)]
    echo = wire.timestamps(pair.sent_by("b", before)[0])
    assert stamps[0] is not None
    assert echo is not None
    assert echo[1] == stamps[0][0], "so that the delay is part of the estimate (RFC 7323 §4.1)"
    assert server.error is None


@pytest.mark.proves("ST-TCP-2", by="api")
def test_an_old_echo_does_not_spoil_the_estimate() -> None:
    pair = Pair()
    client, _, path = established(pair)
    path.fate = lambda n: None
    client.write(b"x")
    pair.flush()
    stamp = client.timestamp(pair.now)
    assert stamp is not None
    future = wire.segment(
        B, A, client.remote_port, client.local_port, "A", seq=client.receiver.rcv_nxt, ack=client.sender.snd_nxt,
        window=1000, options=[("NOP", None), ("NOP", None), ("Timestamp", (client.receiver.ts_recent, (stamp[0] + 5000) % WRAP))],
    )  # fmt: skip
    pair.a.input(future, pair.now)
    assert client.rtt.srtt is not None and 0 <= client.rtt.srtt < 0.1
