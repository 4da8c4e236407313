"""Each timer at the instant its document gives, under a clock that stands still in between."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.signals import Signal
from tapstack.tcp.options import SocketOptions
from tapstack.tcp.recovery import Phase
from tapstack.tcp.recovery.rto import RttEstimator
from tapstack.tcp.states import TcpState

from . import wire
from .handmade import MSS, A, B, by_hand, old_segment, plain
from .pair import End, Pair, read_all
from .path import DATA, Path, collect, established
from .seen import ACK, RST, acknowledged, again, data, segments, stream

RTT = 0.02


def sent(pair: Pair, name: str, since: int, *, pure: bool = False) -> list[tuple[float, Any]]:
    """What one end sent since packet `since`: (time, TCP layer); with `pure` also segments without payload."""
    found = [(when, wire.read(p)) for when, who, p in pair.packets[since:] if who == name]
    return [(when, tcp) for when, tcp in found if pure or tcp.payload]


@pytest.mark.proves("ST-TCP-4", by="api")
def test_the_estimate_follows_rfc_6298_sample_by_sample() -> None:
    """(2.3): the variation is taken from the mean before the mean is moved."""
    estimator = RttEstimator()
    estimator.sample(0.1, 1.0)
    assert (estimator.srtt, estimator.rttvar) == (0.1, 0.05)
    estimator.sample(0.5, 2.0)
    assert estimator.rttvar == pytest.approx(0.1375)
    assert estimator.srtt == pytest.approx(0.15)
    assert estimator.rto == pytest.approx(0.15 + 4 * 0.1375)


@pytest.mark.proves("ST-TCP-4", by="api")
def test_the_first_round_trip_gives_rfc_6298s_estimate() -> None:
    pair = Pair(delay=0.15)
    client, _, _ = established(pair)
    assert client.rtt.srtt == pytest.approx(0.3)
    assert client.rtt.rttvar == pytest.approx(0.15)
    assert client.rtt.rto == pytest.approx(0.9)


@pytest.mark.proves("ST-TCP-4")
def test_a_lost_syn_goes_again_after_one_second_and_doubles() -> None:
    pair = Pair()
    pair.meddle = lambda end, packet: []
    started = pair.now
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    pair.run(400)
    times = [round(when - started, 6) for when, _ in sent(pair, "a", 0, pure=True)]
    assert times == [0, 1, 3, 7, 15, 31, 63, 123], "doubling stops at 60 s"
    assert isinstance(client.error, TimeoutError)
    assert client.options.syn_timeout >= 180


@pytest.mark.proves("ST-TCP-4")
def test_a_handshake_that_is_given_a_time_fails_at_that_moment() -> None:
    pair = Pair()
    pair.meddle = lambda end, packet: []
    started = pair.now
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    client.give_handshake(2.5, pair.now)
    pair.run(2.4)
    assert pair.a.tcp.demux.pairs
    pair.run(0.2)
    assert isinstance(client.error, TimeoutError)
    assert [round(when - started, 6) for when, _ in sent(pair, "a", 0, pure=True)] == [0, 1], "nor is a reset sent"


@pytest.mark.proves("ST-TCP-4", by="api")
def test_a_connection_that_is_established_is_given_no_time_for_its_handshake() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    client.give_handshake(1.0, pair.now)
    pair.run(5)
    assert client.timers.timeouts == 0
    client.write(b"text")
    assert collect(pair, server, 4, 1) == b"text"


@pytest.mark.proves("ST-TCP-4", by="api")
def test_after_a_lost_syn_the_time_out_begins_with_three_seconds_and_one_segment() -> None:
    pair = Pair()
    lost: list[bytes] = []

    def first(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if not lost:
            lost.append(packet)
            return []
        return [packet]

    pair.meddle = first
    client, _ = pair.connect()
    assert client.rtt.rto == 3.0
    assert client.sender.congestion.cwnd == client.sender.mss


@pytest.mark.proves("ST-TCP-4", by="api")
def test_an_answer_that_was_given_twice_measures_no_round_trip() -> None:
    """Karn's algorithm (RFC 6298 §3): the acknowledgement of the first, just after the second, is no round trip of 50 ms."""
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    pair.meddle = lambda end, packet: []
    for wait in (0.6, 0.05):
        pair.b.input(wire.segment(A, B, 6000, 80, "S", seq=1, options=[("MSS", 1440)]), pair.now)
        pair.run(wait)
    answers = sent(pair, "b", 0, pure=True)
    assert [str(tcp.flags) for _, tcp in answers] == ["SA", "SA"], "the peer's SYN came again"
    pair.b.input(wire.segment(A, B, 6000, 80, "A", seq=2, ack=answers[0][1].seq + 1), pair.now)
    server = listener.accept()
    assert server is not None
    assert server.rtt.srtt is None and server.rtt.rto == 3.0
    assert server.sender.congestion.cwnd == server.sender.mss, "one was lost (RFC 5681 §3.1)"


@pytest.mark.proves("ST-TCP-4", by="api")
def test_a_simultaneous_open_measures_no_round_trip() -> None:
    """What acknowledges both the SYN and the SYN-ACK, 50 ms after the second, answers the first."""
    pair = Pair()
    pair.meddle = lambda end, packet: []
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    pair.run(0.55)
    pair.a.input(wire.segment(B, A, 80, client.local_port, "S", seq=500), pair.now)
    pair.run(0.05)
    pair.a.input(wire.segment(B, A, 80, client.local_port, "SA", seq=500, ack=client.sender.snd_nxt), pair.now)
    assert client.state is TcpState.ESTABLISHED
    assert client.rtt.srtt is None and client.rtt.rto == 1.0
    assert client.sender.congestion.cwnd == 10 * client.sender.mss, "nothing was lost"


@pytest.mark.proves("ST-TCP-4", by="api")
def test_how_often_a_syn_was_lost_says_nothing_of_the_path_for_data() -> None:
    pair = Pair()
    count = [0]

    def three(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        count[0] += 1
        return [packet] if count[0] > 3 else []

    pair.meddle = three
    client, server = pair.connect()
    pair.run(1)
    assert client.syn_retransmitted and client.rtt.backoff == 0
    mss = client.sender.mss
    Path(pair, lambda n: None if n <= 2 else 0.0)  # the segment and its probe
    client.write(DATA[:1400])
    assert collect(pair, server, 1400, 20) == DATA[:1400]
    assert client.timers.timeouts == 1
    assert client.sender.mss == mss, "one time-out is no black hole"


@pytest.mark.proves("ST-TCP-4", "MUST-18")
def test_a_doubled_time_out_stays_until_there_is_a_sample() -> None:
    """Karn's algorithm: where the round trip has grown beyond the time-out, no other way leads to a sample without timestamps."""
    pair = Pair()
    client, server, _ = established(pair, timestamps=False, sack=False)
    for _ in range(20):
        client.write(b"x")
        pair.run(1)
    assert client.rtt.rto < 0.3
    pair.delay = 0.4
    pair.tap.disturb()  # the oracle goes by the shortest round trip, and does not know of a way that grows
    before = len(pair.packets)
    for _ in range(4):
        client.write(b"x")
        pair.run(5)
    last = len(pair.packets)
    client.write(b"x")
    pair.run(5)
    assert again(pair, "a", before), "the first are sent again before they can have arrived"
    assert len(again(pair, "a", before)) <= 3 and not again(pair, "a", last), "the new round trip is learned"
    assert client.rtt.backoff == 0
    assert len(read_all(server)) == 25


@pytest.mark.proves("ST-TCP-4")
@pytest.mark.parametrize("sack", [True, False])
def test_retransmission_time_outs_double_exactly(sack: bool) -> None:
    pair = Pair()
    client, _, path = established(pair, sack=sack)
    rto = client.rtt.rto
    path.fate = lambda n: None
    before, started = len(pair.packets), pair.now
    client.write(b"x")
    pair.run(rto * 40)
    times = [when - started for when, _ in sent(pair, "a", before)]
    probes = client.sender.recovery.probes
    assert probes == (1 if sack else 0)
    begun = times[probes]  # the probe, if there is one, starts the time-out over
    expected = [begun + rto * (2**n - 1) for n in range(5)]
    assert times[probes : probes + 5] == pytest.approx(expected)


@pytest.mark.proves("ST-TCP-6")
@pytest.mark.parametrize(("follow", "quarters"), [(1, 1), (2, 1), (3, 0), (5, 0)])
def test_the_reordering_timer_gives_a_quarter_of_the_least_round_trip_below_three_sacks(
    follow: int, quarters: int
) -> None:
    pair = Pair()
    client, _, path = established(pair)
    path.fate = lambda n: None if n == 1 else 0.0
    least = client.rtt.minimum_rtt
    before, written = len(pair.packets), pair.now
    client.write(DATA[: (1 + follow) * client.sender.mss])
    pair.run(0.1)
    first, *_, again = sent(pair, "a", before)
    assert again[1].seq == first[1].seq
    assert again[0] - written == pytest.approx(2 * pair.delay + quarters * least / 4)
    assert client.timers.timeouts == 0


@pytest.mark.proves("ST-TCP-4")
def test_an_acknowledgement_restarts_the_time_out() -> None:
    pair = Pair()
    client, _, path = established(pair, sack=False)
    path.fate = lambda n: None if n > 1 else 0.0
    client.write(DATA[:1428])
    pair.run(0.005)
    client.write(DATA[:1428])
    before = len(pair.packets)
    pair.run(1, until=lambda: client.sender.retransmissions > 0)
    when = sent(pair, "a", before)[-1][0]
    acked = next(t for t, who, p in pair.packets[before:] if who == "b") + pair.delay
    assert when == pytest.approx(acked + client.rtt.rto / 2), "the RTO from the acknowledgement on (doubled since)"


@pytest.mark.proves("ST-TCP-11")
def test_a_lone_segment_is_acknowledged_after_forty_milliseconds_and_every_second_at_once() -> None:
    pair = Pair()
    client, _, _ = established(pair)
    before = len(pair.packets)
    client.write(b"x")
    pair.run(1)
    (heard, _), (answered, _) = sent(pair, "a", before)[0], sent(pair, "b", before, pure=True)[0]
    assert answered == pytest.approx(heard + pair.delay + 0.04)
    before = len(pair.packets)
    client.write(DATA[: 2 * client.sender.mss])
    pair.run(1)
    (heard, _), (answered, _) = sent(pair, "a", before)[0], sent(pair, "b", before, pure=True)[0]
    assert answered == pytest.approx(heard + pair.delay)


@pytest.mark.proves("ST-TCP-4", by="api")
def test_an_acknowledgement_without_a_sample_begins_a_new_count_of_time_outs() -> None:
    """What was sent twice is no sample, and the time-out stays doubled; but the path is alive (R1 counts what is in a row)."""
    pair = Pair()
    client, _, path = established(pair, timestamps=False)
    path.fate = lambda n: None
    client.write(DATA[:100])
    pair.run(10, until=lambda: client.rtt.backoff == 2)
    path.fate = lambda n: 0.0
    doubled = client.rtt.rto
    pair.run(10, until=lambda: not client.sender.in_flight)
    assert client.rtt.rto >= doubled > 0.7
    assert client.rtt.backoff == 0


@pytest.mark.proves("ST-TCP-11")
def test_probes_of_a_closed_window_double_and_never_end_while_they_are_answered() -> None:
    pair = Pair()
    client, server, _ = established(pair, receive_buffer=5000, receive_buffer_maximum=5000, user_timeout=100.0)
    client.write(DATA[:20_000])
    pair.run(3)
    assert client.sender.snd_wnd == 0
    before = len(pair.packets)
    pair.run(3600)
    probes = [when for when, tcp in sent(pair, "a", before, pure=True)]
    assert client.error is None, "an hour of closed window is no reason to give up (RFC 9293 MUST-37)"
    gaps = [b - a for a, b in pairwise(probes)]
    assert all(b == pytest.approx(min(2 * a, 60.0)) for a, b in pairwise(gaps))
    assert gaps[-1] == pytest.approx(60.0)
    assert collect(pair, server, 20_000, 70) == DATA[:20_000]


@pytest.mark.proves("ST-TCP-4", "MUST-20")
def test_what_went_into_a_small_window_is_lost_like_any_other_data() -> None:
    """It leaves when the sender has waited long enough for a larger window (RFC 9293 §3.8.6.2.1): no probe any more."""
    pair = Pair()
    client = plain(pair)
    by_hand(pair, client, "A", window=2)
    before = len(pair.packets)
    client.write(DATA[:5000])
    pair.run(100, until=lambda: client.signals & Signal.TROUBLE != 0)
    tries = data(pair, "a", before)
    assert {len(seen.payload) for seen in tries} == {2 << 8} and {seen.seq for seen in tries} == {tries[0].seq}
    gaps = [b.when - a.when for a, b in pairwise(tries)]
    assert gaps[0] == pytest.approx(client.rtt.rto / 2**client.rtt.backoff)
    assert gaps[1:] == pytest.approx([2 * gap for gap in gaps[:-1]])
    assert isinstance(client.soft_error, TimeoutError) and client.sender.congestion.cwnd == MSS + 12


@pytest.mark.proves("ST-TCP-5", "ST-TCP-11", by="api")
@pytest.mark.parametrize("sack", [True, False])
def test_the_answer_to_a_probe_of_a_closed_window_is_no_sign_of_loss(sack: bool) -> None:
    pair = Pair()
    client = plain(pair, sack=sack)
    client.write(DATA[:5000])
    pair.flush()
    for _ in range(8):  # the peer takes back the window of what is in flight
        by_hand(pair, client, "A", ack=client.sender.snd_una, window=0)
        pair.run(8)
    recovery = client.sender.recovery
    assert client.sender.snd_wnd == 0 and client.sender.in_flight and client.sender.retransmissions > 3
    assert (recovery.losses, recovery.phase) == (0, Phase.OPEN)
    assert client.sender.congestion.ssthresh > 1 << 40, "the threshold stays"


@pytest.mark.proves("ST-TCP-11")
def test_an_old_window_does_not_open_one_that_is_closed() -> None:
    pair = Pair()
    client = plain(pair)
    nxt, una = client.receiver.rcv_nxt, client.sender.snd_una
    client.write(DATA[:10_000])
    pair.flush()
    by_hand(pair, client, "A", seq=nxt + 100, ack=una, window=0)
    pair.run(3)
    doublings = client.timers.persist_backoff
    assert doublings > 1
    assert not by_hand(pair, client, "A", seq=nxt, ack=una, payload=b"x" * 100, window=500), "it was sent before"
    assert client.timers.persist_backoff == doublings and not client.sender.lost


@pytest.mark.proves("ST-TCP-11")
def test_a_window_that_opens_while_the_update_is_lost_is_found_by_the_probe() -> None:
    pair = Pair()
    client, server, path = established(pair, receive_buffer=5000, receive_buffer_maximum=5000)
    client.write(DATA[:9000])
    pair.run(1)
    assert client.sender.snd_wnd == 0
    path.ack_fate = lambda n: None
    before = len(pair.packets)
    arrived = bytearray(read_all(server))
    pair.run(0.01)
    opened = segments(pair, "b", before)
    assert [seen.window > 0 for seen in opened] == [True], "it was sent"
    path.ack_fate = lambda n: 0.0
    assert arrived + collect(pair, server, 9000 - len(arrived), 5) == DATA[:9000]
    probe, *_ = segments(pair, "a", before)
    assert not probe.payload and probe.when < data(pair, "a", before)[0].when
    assert len(stream(pair, "a")) == 9000


@pytest.mark.proves("ST-TCP-11", "MUST-25")
def test_keep_alive_is_off_by_default() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    before = len(pair.packets)
    pair.run(86_400)
    assert len(pair.packets) == before
    assert (client.error, server.error) == (None, None)
    client.write(b"still there")
    pair.run(1)
    assert acknowledged(pair, "b") == len(b"still there")


@pytest.mark.proves("ST-TCP-11", "MAY-5", "MUST-24", "MUST-26", "MUST-27", "MUST-29", "SHLD-12")
def test_keep_alive_probes_an_idle_connection_and_gives_up_on_a_dead_one() -> None:
    pair = Pair()
    client, _, _ = established(pair, keep_alive=7200.0)
    heard, before = client.last_heard, len(pair.packets)
    pair.run(3 * 7200)
    last = (client.sender.snd_nxt - 1) & 0xFFFFFFFF
    probes = [(when, tcp) for when, tcp in sent(pair, "a", before, pure=True) if tcp.seq == last]
    assert probes[0][0] == pytest.approx(heard + 7200)
    assert not probes[0][1].payload
    assert len(probes) == 3 and client.error is None, "answered probes keep it alive"
    pair.meddle = lambda end, packet: []
    before = len(pair.packets)
    pair.run(2 * 7200)
    times = [when for when, tcp in sent(pair, "a", before, pure=True) if tcp.seq == last]
    assert [round(b - a) for a, b in pairwise(times)] == [75] * 8
    assert isinstance(client.error, TimeoutError)


@pytest.mark.proves("ST-TCP-11")
@pytest.mark.parametrize("idle", [20.0, 75.0, 76.0])
def test_keep_alives_that_are_answered_end_nothing_however_often_they_go(idle: float) -> None:
    """Also where the idle time is shorter than what lies between two probes: nine answered ones ended the connection."""
    pair = Pair()
    client, _, _ = established(pair, keep_alive=idle)
    before = len(pair.packets)
    pair.run(7200)
    assert client.state.value == "ESTABLISHED"
    probes, answers = (len(sent(pair, who, before, pure=True)) for who in "ab")
    assert probes == answers > 90
    pair.meddle = lambda end, packet: []
    silent = pair.now
    pair.run(2000, until=lambda: client.state.value == "CLOSED")
    assert isinstance(client.error, TimeoutError)
    assert 8 * 75 < pair.now - silent < 10 * 75 + idle


@pytest.mark.proves("ST-TCP-11", "MUST-26")
def test_keep_alive_stays_quiet_while_data_is_in_flight() -> None:
    pair = Pair()
    client, _, path = established(pair, user_timeout=50.0, keep_alive=1.0)
    pair.run(0.3)
    path.fate = lambda n: None
    client.write(b"x")
    before = len(pair.packets)
    pair.run(20)
    assert all(tcp.payload for _, tcp in sent(pair, "a", before, pure=True))


@pytest.mark.proves("ST-TCP-11")
def test_fin_wait_2_of_a_closed_socket_ends_after_its_time_out() -> None:
    pair = Pair()
    client, _, _ = established(pair, timestamps=False)
    client.close(pair.now)
    pair.run(1)
    assert client.state.value == "FIN-WAIT-2"
    entered = segments(pair, "b")[-1].when + pair.delay
    pair.run(entered + 59.9 - pair.now)
    assert old_segment(pair, client) == ["A"]
    pair.run(0.2)
    assert old_segment(pair, client) == []
    pair.a.entry(pair.now, AddressKind.STABLE)
    assert old_segment(pair, client) == ["R"], "where the address is the node's again the same segment is answered"


@pytest.mark.proves("ST-TCP-11")
def test_a_half_closed_connection_stays_for_ever() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    client.shutdown(pair.now)
    pair.run(86_400)
    assert (client.state.value, server.state.value) == ("FIN-WAIT-2", "CLOSE-WAIT")
    server.write(b"still here")
    pair.run(1)
    assert read_all(client) == b"still here"
    assert acknowledged(pair, "a") == len(b"still here")


@pytest.mark.proves("ST-TCP-11")
def test_the_user_time_out_counts_from_when_data_began_to_wait() -> None:
    pair = Pair()
    client, _, path = established(pair, user_timeout=30.0)
    pair.run(1000)
    path.fate = lambda n: None
    client.write(b"x")
    started, before = pair.now, len(pair.packets)
    pair.run(200)
    assert isinstance(client.error, TimeoutError)
    end = next(seen for seen in segments(pair, "a", before) if not seen.payload)
    assert end.flags == RST | ACK and end.when - started == pytest.approx(30.0)


@pytest.mark.proves("ST-IP6-8")
def test_a_path_that_swallows_large_packets_is_noticed() -> None:
    pair = Pair()
    client, server, path = established(pair)
    hole = Path(pair)
    pair.meddle = lambda end, packet: [] if len(packet) > 1400 else hole(end, packet)
    client.write(DATA[:50_000])
    begun = len(pair.packets)
    assert collect(pair, server, 50_000, 60) == DATA[:50_000]
    sizes = list(map(len, pair.sent_by("a", begun)))
    small = next(n for n, size in enumerate(sizes) if 1000 < size <= 1280)
    assert max(sizes[:small]) == 1500 and max(sizes[small:]) <= 1280
    assert path is not hole
