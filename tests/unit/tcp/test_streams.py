"""What a stream is beyond bytes: urgent marks, buffers that grow, path MTUs, statistics."""

from __future__ import annotations

from typing import Literal

import pytest

from tapstack.events import DropReason
from tapstack.ipv6.packet import IcmpError
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.options import SocketOptions
from tapstack.tcp.receiver import Receiver
from tapstack.wire.icmpv6 import Type

from . import wire
from .pair import Pair, read_all
from .path import DATA, collect, established, transfer
from .seen import SYN, data, flights, segments


class Owner:
    """Collects the signals of a connection."""

    def __init__(self, pair: Pair, connection: Connection) -> None:
        self.connection = connection
        self.tcp = connection.tcp

    def news(self) -> int:
        bits = self.connection.signals
        self.connection.signals = 0
        self.tcp.signalled.clear()
        return bits


# -- urgent data ---------------------------------------------------------------------------------------


@pytest.mark.proves("ST-TCP-11", "MUST-30", "MUST-31", "MUST-62")
@pytest.mark.proves("MUST-32", by="api")
@pytest.mark.parametrize("length", [1, 1000, 100_000])
def test_urgent_data_of_any_length_is_announced_and_comes_in_line(length: int) -> None:
    pair = Pair()
    client, server, _ = established(pair)
    owner = Owner(pair, server)
    owner.news()
    before = len(pair.packets)
    client.write(DATA[:300])
    client.write_urgent(DATA[300 : 300 + length])
    client.write(DATA[300 + length : 600 + length])
    pair.run(0.012)
    assert Signal.URGENT & owner.news(), "told at once, before the data is there"
    marked = server.urgent_pending()
    assert marked == 300 + length if length <= 65_000 else marked > 60_000
    pair.run(2)
    assert read_all(server) == DATA[: 600 + length]
    assert server.urgent_pending() == 0
    first = wire.read(pair.sent_by("a", before)[0])
    assert "U" in str(first.flags)
    assert first.urgptr == min(300 + length, 65535), "the octet after the urgent data (RFC 9293 MUST-62)"


@pytest.mark.proves("ST-TCP-11")
@pytest.mark.proves("MUST-33", by="api")
def test_the_mark_counts_down_as_the_program_reads() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    client.write(b"early")
    pair.run(1)
    client.write_urgent(b"now")
    pair.run(1)
    assert server.urgent_pending() == 8
    assert read_all(server) == b"earlynow"
    assert server.urgent_pending() == 0
    client.write(b"calm")
    before = len(pair.packets)
    pair.run(1)
    assert not any("U" in str(wire.read(p).flags) for _, _, p in pair.packets[before:])


def assert_pointers(pair: Pair, before: int, end: int) -> int:
    """Every segment before `end` says where the urgent data ends, and none behind it says that there is any; how many did."""
    told = 0
    for _, who, packet in pair.packets[before:]:
        segment = wire.read(packet)
        if who == "a" and segment.payload:
            left = (end - segment.seq) & 0xFFFFFFFF
            urgent = 0 < left < 1 << 31
            assert ("U" in str(segment.flags)) == urgent, segment.summary()
            assert segment.urgptr == (left if urgent else 0), segment.summary()
            told += urgent
    return told


@pytest.mark.proves("ST-TCP-11", "MUST-62")
@pytest.mark.parametrize("offload", [None, "cut"])
def test_what_is_cut_after_a_packet_too_big_points_at_the_end_of_the_urgent_data(
    offload: Literal["cut"] | None,
) -> None:
    pair = Pair(offload=offload)
    client, server, path = established(pair)
    path.fate = lambda n: None
    client.write_urgent(DATA[:3000])
    client.write(DATA[3000:9000])
    end = client.sender.snd_up
    before = len(pair.packets)
    pair.flush()
    assert assert_pointers(pair, before, end) == 3
    path.fate = lambda n: 0.0
    quoted = memoryview(pair.packets[-1][2][40:])
    report = IcmpError(Type.PACKET_TOO_BIG, 0, 1280, pair.b.address, pair.a.address, pair.b.address, 6, quoted)
    before = len(pair.packets)
    pair.a.tcp.error(report, pair.now)
    assert collect(pair, server, 9000, 60) == DATA[:9000]
    assert assert_pointers(pair, before, end) >= 3


@pytest.mark.proves("ST-TCP-11", "MUST-62")
def test_a_super_segment_that_is_sent_again_before_urgent_data_leaves_as_segments() -> None:
    """The link would write one and the same pointer into all that it cuts."""
    pair = Pair(offload="cut")
    client, server, path = established(pair)
    path.fate = lambda n: None
    client.write(DATA[:9000])
    pair.flush()
    client.write_urgent(b"!")
    end = client.sender.snd_up
    path.fate = lambda n: 0.0
    before = len(pair.packets)
    assert collect(pair, server, 9001, 60) == DATA[:9000] + b"!"
    assert assert_pointers(pair, before, end) >= 7


@pytest.mark.proves("ST-TCP-11")
def test_super_segments_go_on_when_urgent_data_has_been_sent() -> None:
    pair = Pair(offload="whole")
    client, server, _ = established(pair)
    client.write_urgent(DATA[:2000])
    assert collect(pair, server, 2000, 1) == DATA[:2000]
    before = len(pair.packets)
    transfer(pair, client, server, 100_000)
    assert max(len(wire.read(p).payload) for p in pair.sent_by("a", before)) > 5 * client.sender.mss


# -- buffers and windows -------------------------------------------------------------------------------


def windows(pair: Pair, who: str, since: int = 0) -> list[int]:
    """What one end offered behind its SYN, scaled as its SYN said."""
    scale = next(dict(wire.read(packet).options)["WScale"] for _, end, packet in pair.packets if end == who)
    return [seen.window << scale for seen in segments(pair, who, since) if not seen.flags & SYN]


@pytest.mark.proves("ST-TCP-12")
@pytest.mark.parametrize("first", [1 << 20, 1 << 16])
def test_the_window_grows_to_fill_a_gigabit_over_fifty_milliseconds(first: int) -> None:
    pair = Pair(delay=0.025, mtu=9000)
    client, server, path = established(pair, send_buffer=first, receive_buffer=first)
    path.gap = 9000 * 8 / 1e9
    client.write(bytes(70_000_000))
    taken, begun = 0, pair.now
    marks: list[tuple[float, int]] = []

    def finished() -> bool:
        nonlocal taken
        taken += sum(map(len, server.read()))
        marks.append((pair.now, taken))
        return taken == 70_000_000

    pair.run(30, until=finished)
    assert finished()
    ramp = next(when for when, size in marks if size > 40_000_000)
    full = next(when for when, size in marks if size > 65_000_000)
    rate = 25_000_000 * 8 / (full - ramp)
    print(f"{rate / 1e6:.0f} Mbit/s once the window is open, {ramp - begun:.2f} s after the beginning")
    assert rate > 0.95e9
    assert ramp - begun < 1.0, "a window that begins small holds nobody back"
    assert server.receiver.capacity <= server.receiver.capacity_maximum
    assert client.high_water <= client.options.send_buffer_maximum
    offered = windows(pair, "b")
    assert offered[0] < 2 * first and max(offered) > 1e9 / 8 * 2 * pair.delay, "of the whole round trip"


@pytest.mark.proves("ST-TCP-12")
def test_a_program_that_does_not_read_gets_no_larger_buffer() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    client.write(DATA)
    pair.run(5)
    assert server.receiver.queued <= server.receiver.capacity * 9 / 8
    offered = windows(pair, "b")
    assert max(offered) <= server.options.receive_buffer and offered[-1] < 1428


@pytest.mark.proves("ST-TCP-12")
def test_a_small_buffer_grows_with_what_is_read_and_not_with_what_lies_there() -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=1 << 16)
    client.write(DATA)
    pair.run(5)
    assert max(windows(pair, "b")) <= 1 << 16, "nothing was read"
    assert sum(map(len, server.read())) <= 9 << 13
    before = len(pair.packets)
    pair.run(5)
    assert 1 << 16 < max(windows(pair, "b", before)) <= 1 << 18, "twice what was read"


@pytest.mark.proves("ST-TCP-12", by="api")
def test_crumbs_do_not_stretch_the_window() -> None:
    receiver = Receiver(10_000, 10_000)
    receiver.scale = 7
    receiver.start(-1)
    for _ in range(30_000):
        receiver.advertise(1428)
        if receiver.window() == 0:
            break
        receiver.accept(receiver.rcv_nxt, b"x", False)
    assert receiver.queued <= 10_000 * 9 / 8 + 128


@pytest.mark.proves("ST-TCP-12", by="api")
def test_the_node_has_a_budget_that_ends_with_its_connections() -> None:
    pair = Pair(delay=0.05)
    pair.b.tcp.budget.limit = 100_000
    client, server, _ = established(pair, receive_buffer=50_000)
    transfer(pair, client, server, 3_000_000)
    assert server.receiver.capacity == 100_000, "half of the budget: as much as it leaves"
    assert pair.b.tcp.budget.used == 50_000
    assert pair.b.tcp.budget.take(100_000, 0) == 25_000, "half of the rest: somebody else may come"
    pair.b.tcp.budget.give_back(25_000)
    server.abort(pair.now)
    pair.run(1)
    assert pair.b.tcp.budget.used == 0
    assert pair.a.tcp.budget.used == 0


@pytest.mark.proves("ST-TCP-12", by="api")
def test_a_send_buffer_that_the_program_set_stays() -> None:
    pair = Pair()
    client, server, _ = established(pair, send_buffer=50_000)
    client.high_water = 70_000
    transfer(pair, client, server, 2_000_000)
    assert client.high_water == 70_000


# -- path MTU ------------------------------------------------------------------------------------------


def too_big(pair: Pair, connection: Connection, sequence: int, mtu: int) -> None:
    quoted = (
        connection.local_port.to_bytes(2, "big")
        + connection.remote_port.to_bytes(2, "big")
        + (sequence & 0xFFFFFFFF).to_bytes(4, "big")
    )
    report = IcmpError(
        Type.PACKET_TOO_BIG, 0, mtu, connection.remote, connection.local, connection.remote, 6, memoryview(quoted)
    )
    connection.tcp.error(report, pair.now)


@pytest.mark.proves("ST-IP6-8", "UM-PORT-13")
def test_packet_too_big_makes_segments_smaller_and_repeats_what_was_lost() -> None:
    pair = Pair()
    client, server, path = established(pair)
    path.fate = lambda n: None
    client.write(DATA[:30_000])
    pair.flush()
    cwnd = client.sender.congestion.cwnd
    too_big(pair, client, client.sender.snd_una, 1300)
    path.fate = lambda n: 0.0
    before, told, una = len(pair.packets), pair.now, client.sender.snd_una
    pair.flush()
    again = [(when, wire.read(p)) for when, who, p in pair.packets[before:]]
    assert {when for when, _ in again} == {told}, "at once, not when a timer says so"
    assert again[0][1].seq == una & 0xFFFFFFFF
    assert b"".join(bytes(tcp.payload) for _, tcp in again) == DATA[:14_280], (
        "all that was in flight, in smaller pieces"
    )
    assert collect(pair, server, 30_000, 1) == DATA[:30_000]
    assert max(map(len, pair.sent_by("a", before))) == 1300
    assert client.sender.congestion.cwnd >= cwnd, "size is not congestion (RFC 8201 §5.3)"
    assert client.timers.timeouts == 0


@pytest.mark.proves("ST-IP6-8", "UM-PORT-13")
@pytest.mark.parametrize(
    ("offset", "mtu"), [(-1, 1300), (1_000_000, 1300), (1 << 31, 1300), (0, 1279), (0, 1500), (0, 9000)]
)
def test_a_forged_packet_too_big_changes_nothing(offset: int, mtu: int) -> None:
    pair = Pair()
    client, _, path = established(pair)
    path.fate = lambda n: None
    client.write(DATA[:5000])
    pair.flush()
    before = len(pair.packets)
    too_big(pair, client, client.sender.snd_una + offset, mtu)
    pair.flush()
    assert not data(pair, "a", before)
    pair.run(2)
    assert max(len(packet) for _, _, packet in pair.packets[before:]) == 1500, (
        "what a time-out repeats is as large as it was"
    )
    if mtu == 1300:
        assert pair.a.counters.drops[DropReason.ICMP_UNMATCHED] == 1


@pytest.mark.proves("ST-IP6-8")
def test_another_link_mtu_changes_the_size_of_segments_repetitions_included() -> None:
    """RFC 4861 §6.3.4; what is in flight is lost only when recovery finds it to be."""
    pair = Pair()
    client, server, path = established(pair)
    path.fate = lambda n: None
    client.write(DATA[:30_000])
    pair.flush()
    before = len(pair.packets)
    client.path.mtu = 1280
    pair.flush()
    assert len(pair.packets) == before
    path.fate = lambda n: 0.0
    assert collect(pair, server, 30_000, 60) == DATA[:30_000]
    assert max(map(len, pair.sent_by("a", before))) == 1280


# -- segments that are cut -----------------------------------------------------------------------------


@pytest.mark.proves("ST-TCP-1")
@pytest.mark.parametrize("gone", [1, 500, 1427])
def test_what_a_peer_acknowledged_of_a_segment_is_not_sent_again(gone: int) -> None:
    pair = Pair()
    client, _, path = established(pair, timestamps=False, sack=False)
    path.fate = lambda n: None
    client.write(DATA[: client.sender.mss])
    pair.flush()
    una = client.sender.snd_una
    acknowledgement = wire.segment(
        "2001:db8:b::1", "2001:db8:a::1", client.remote_port, client.local_port, "A",
        seq=client.receiver.rcv_nxt, ack=una + gone, window=1000,
    )  # fmt: skip
    pair.a.input(acknowledgement, pair.now)
    client.sender.check()
    before = len(pair.packets)
    pair.run(10, until=lambda: client.timers.timeouts > 0)
    pair.flush()
    (again,) = [wire.read(p) for p in pair.sent_by("a", before)]
    assert again.seq == (una + gone) & 0xFFFFFFFF
    assert bytes(again.payload) == DATA[gone : client.options.send_buffer][: len(again.payload)]
    assert len(again.payload) == 1440 - gone


@pytest.mark.proves("ST-TCP-1", "ST-LINK-1")
def test_a_super_segment_whose_next_hop_is_unknown_waits_as_segments() -> None:
    """The neighbour may be asked for anew in mid-transfer; what waits for it cannot be cut by the link later."""
    pair = Pair(offload="whole")
    client, _, _ = established(pair)
    waiting: list[bytes] = []
    client.path.ready = lambda now: None  # type: ignore[method-assign]
    pair.a.host.transmit_queued = lambda path, pieces, now: waiting.append(b"".join(pieces))  # type: ignore[attr-defined]
    una = client.sender.snd_una
    client.write(DATA[:5000])
    pair.flush()
    segments = [wire.read(packet) for packet in waiting]
    assert [tcp.seq for tcp in segments] == [(una + at) & 0xFFFFFFFF for at in (0, 1428, 2856, 4284)]
    assert b"".join(bytes(tcp.payload) for tcp in segments) == DATA[:5000]
    assert ["P" in str(tcp.flags) for tcp in segments] == [False, False, False, True]


@pytest.mark.proves("ST-TCP-2")
@pytest.mark.parametrize("timestamps", [True, False])
def test_the_peers_window_is_scaled_on_the_fast_path(timestamps: bool) -> None:
    pair = Pair()
    client, server, _ = established(pair, timestamps=timestamps, receive_buffer=200_000, receive_buffer_maximum=200_000)
    before = len(pair.packets)
    transfer(pair, client, server, 3_000_000)
    assert 1 << 16 < max(flying for _, flying in flights(pair, "a", before)) <= max(windows(pair, "b"))


# -- statistics ----------------------------------------------------------------------------------------


@pytest.mark.proves("ST-TCP-14")
def test_statistics_agree_with_the_wire() -> None:
    pair = Pair()
    client, server, path = established(pair)
    path.fate = lambda n: None if n == 30 else 0.0
    before = len(pair.packets)
    transfer(pair, client, server, 200_000)
    server.write(b"back")
    pair.run(0.5)
    sent = [wire.read(p) for p in pair.sent_by("a", before) if wire.read(p).payload]
    here, there = client.statistics(pair.now), server.statistics(pair.now)
    assert here.bytes_acked == 200_000 == there.bytes_received
    assert here.bytes_received == 4 == there.bytes_acked
    assert here.segments_sent == len(sent)
    assert here.bytes_sent == sum(len(tcp.payload) for tcp in sent)
    assert here.retransmissions == 1 and here.bytes_retransmitted == 1428
    assert here.mss == 1428 and here.path_mtu == 1500 and here.peer_mss == 1440
    assert here.minimum_rtt == pytest.approx(0.02, abs=0.002)
    assert (here.unacked, here.lost, here.sacked, here.send_queue) == (0, 0, 0, 0)
    assert there.receive_queue == 0
    assert here.last_heard == pytest.approx(0.5 - pair.delay)
    assert here.as_dict()["state"] == "ESTABLISHED"


@pytest.mark.proves("ST-TCP-14", by="api")
def test_the_text_reads_like_ss() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    transfer(pair, client, server, 200_000)
    pair.run(1)
    text = client.statistics(pair.now).text()
    who, how = text.splitlines()
    assert who.startswith("ESTABLISHED 0 0 [2001:db8:a::1]:")
    for word in ("cubic", "ts", "sack", "wscale:8,8", "rtt:", "mss:1428", "cwnd:", "bytes_acked:200000", "retrans:0"):
        assert f" {word}" in how, word


def test_statistics_of_a_connection_that_is_not_established_yet() -> None:
    pair = Pair()
    pair.meddle = lambda end, packet: []
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    pair.run(0.5)
    statistics = client.statistics(pair.now)
    assert (statistics.state, statistics.cwnd, statistics.bytes_sent) == ("SYN-SENT", None, 0)
    assert statistics.text()
