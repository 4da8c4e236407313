"""Loss recovery as a whole: what is lost is repaired in time, and what is only late costs nothing."""

from __future__ import annotations

import math
from itertools import pairwise
from random import Random
from typing import Literal

import pytest

from tapstack.tcp.connection import Connection
from tapstack.tcp.recovery import Phase, SelectiveRecovery
from tapstack.tcp.recovery.rto import EPOCH, RttEstimator
from tapstack.tcp.recovery.spurious import Undo
from tapstack.tcp.segments import IN_NETWORK, SACKED

from . import wire
from .handmade import by_hand, plain
from .pair import End, Pair
from .path import DATA, Path, collect, established, lose, transfer
from .seen import acknowledged, again, flights

RTT = 0.02
MSS = 1428


def selective(connection: Connection) -> SelectiveRecovery:
    recovery = connection.sender.recovery
    assert isinstance(recovery, SelectiveRecovery)
    return recovery


@pytest.mark.proves("ST-TCP-3", "ST-TCP-6")
@pytest.mark.parametrize("lost", [(1,), (5,), (5, 6, 7), (2, 4, 6), tuple(range(3, 9))])
def test_holes_are_filled_without_a_time_out(lost: tuple[int, ...]) -> None:
    pair = Pair()
    client, server, _ = established(pair, lose(*lost))
    took = transfer(pair, client, server, 20 * MSS)
    assert len(again(pair, "a")) == len(lost)
    assert took < 6 * RTT, "which is less than any time-out"


@pytest.mark.proves("ST-TCP-6")
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_lost_tail_is_repaired_by_a_probe(count: int) -> None:
    pair = Pair()
    client, server, _ = established(pair, lose(*range(11 - count, 11)))
    took = transfer(pair, client, server, 10 * MSS)
    assert client.timers.timeouts == 0
    assert client.sender.recovery.probes == 1
    assert len(again(pair, "a")) == count
    # the probe leaves two round trips after the last transmission, and what it uncovers takes one more
    # (a lone segment's acknowledgement may be held back by its receiver, so its probe waits for that, too, up to the time-out:
    # both begin when the others are acknowledged)
    assert took < (7 * RTT if count > 1 else 2 * RTT + 0.2 + RTT)


@pytest.mark.proves("ST-TCP-6")
def test_a_lost_retransmission_is_noticed_without_a_time_out() -> None:
    pair = Pair()
    client, server, path = established(pair)
    fifth = (client.sender.snd_nxt + 4 * MSS & 0xFFFFFFFF).to_bytes(4, "big")
    lost: list[bytes] = []

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if packet[44:48] == fifth and end is pair.a and len(lost) < 2:
            lost.append(packet)
            return []
        return path(end, packet)

    pair.meddle = meddle
    took = transfer(pair, client, server, 60 * MSS)
    assert len(lost) == len(again(pair, "a")) == 2
    assert len({seen.seq for seen in again(pair, "a")}) == 1
    assert took < 0.2, "which is less than any time-out"


@pytest.mark.proves("ST-TCP-6")
def test_the_probe_leaves_exactly_two_round_trips_after_the_last_transmission() -> None:
    pair = Pair()
    client, _, _ = established(pair, lose(1, 2, 3))
    srtt = client.rtt.srtt
    assert srtt is not None
    written = pair.now
    client.write(DATA[: 3 * MSS])
    before = len(pair.packets)
    pair.run(2 * srtt + 1e-6)
    sent = [(when, p) for when, who, p in pair.packets[before:] if who == "a" and wire.read(p).payload]
    assert [round(when - written, 9) for when, _ in sent] == [0.0, 0.0, 0.0, round(2 * srtt, 9)]
    assert wire.read(sent[3][1]).seq == wire.read(sent[2][1]).seq, "the probe repeats the last segment"


@pytest.mark.proves("ST-TCP-6")
def test_the_probe_is_new_data_when_there_is_any() -> None:
    pair = Pair()
    client, _, _ = established(pair, lose(*range(1, 11)))
    client.write(DATA[: 11 * MSS])  # ten fill the initial window
    pair.run(0.05)
    sequences = [wire.read(p).seq for p in pair.sent_by("a") if wire.read(p).payload]
    assert len(sequences) == len(set(sequences)) == 11


@pytest.mark.proves("ST-TCP-6")
@pytest.mark.parametrize("after", [0.2, 0.3, 0.4])
def test_no_probe_is_due_at_a_time_out_that_has_started_over(after: float) -> None:
    """RFC 6298 (5.3), RFC 8985 §7.2: the acknowledgement of the first segment starts it over for the second."""
    pair = Pair(delay=0.25)
    client, server, _ = established(pair, nodelay=True)
    for _ in range(20):
        transfer(pair, client, server, 1000)
        pair.run(3)
    assert client.rtt.rto < 0.75, "the time-out of the first is over before the second is acknowledged"
    client.write(DATA[:1000])
    pair.run(after)
    client.write(DATA[:1000])
    pair.run(3)
    assert not again(pair, "a")


@pytest.mark.proves("ST-TCP-6")
def test_a_duplicate_is_reported_where_data_leaves_in_the_same_moment() -> None:
    """RFC 2883 §4: once, and at once; data carries no SACK."""
    pair = Pair()
    client = plain(pair, sack=True)
    start = client.receiver.rcv_nxt
    by_hand(pair, client, "A", payload=DATA[:100])
    client.write(DATA[:500])
    answers = by_hand(pair, client, "A", seq=start, payload=DATA[:100])
    blocks = [dict(tcp.options).get("SAck") for tcp in answers]
    assert [len(tcp.payload) for tcp in answers] == [0, 500]
    assert blocks == [(start & 0xFFFFFFFF, start + 100 & 0xFFFFFFFF), None]
    client.write(DATA[:500])
    answers = by_hand(pair, client, "A", payload=DATA[:3000])
    assert answers and not any("SAck" in dict(tcp.options) for tcp in answers)


@pytest.mark.proves("ST-TCP-6", by="api")
def test_a_repetition_that_was_not_needed_costs_no_window() -> None:
    pair = Pair()
    client, server, _ = established(
        pair, lambda n: 3 * RTT if n in (3, 4) else 0.0
    )  # only late, but later than the probe
    transfer(pair, client, server, 4 * MSS)
    pair.run(1)
    cwnd = client.sender.congestion.cwnd
    transfer(pair, client, server, MSS)
    assert client.sender.recovery.probes == 1
    assert client.sender.congestion.cwnd >= cwnd
    assert client.sender.congestion.ssthresh > 1 << 40, "the peer's D-SACK shows that nothing was lost"


@pytest.mark.proves("ST-TCP-6", "ST-TCP-3")
@pytest.mark.parametrize("seed", range(4))
def test_reordering_does_not_collapse_the_window(seed: int) -> None:
    rng = Random(seed)
    late = [rng.random() * RTT / 4 if rng.random() < 0.2 else 0.0 for _ in range(4000)]
    pair = Pair()
    client, server, _ = established(pair, lambda n: late[n % 4000])
    transfer(pair, client, server, 3_000_000)
    assert client.timers.timeouts == 0
    assert len(again(pair, "a")) < 40, "RACK learns of reordering and waits"
    assert max(flying for _, flying in flights(pair, "a")) > 100 * MSS


@pytest.mark.proves("ST-TCP-6", by="api")
@pytest.mark.parametrize("offload", [None, "cut"])
def test_a_super_segment_of_which_a_part_is_acknowledged_shows_no_reordering(offload: Literal["cut"] | None) -> None:
    for number in range(20, 25):
        pair = Pair(delay=0.02, offload=offload)
        client, server, path = established(pair)
        transfer(pair, client, server, 300_000)
        path.gap = 0.0002
        path.fate = lose(path.sent + number)
        transfer(pair, client, server, 300_000)
        assert client.sender.recovery.losses
        assert not selective(client).rack.reordering_seen, "one was lost, and none overtook another"


@pytest.mark.proves("ST-TCP-6", by="api")
def test_nor_is_the_rest_of_it_overtaken_when_a_probe_repeats_its_end() -> None:
    pair = Pair(delay=0.02, offload="cut")
    client, server, path = established(pair)
    transfer(pair, client, server, 300_000)
    pair.run(0.3)
    client.sender.congestion.cwnd = client.sender.congestion.ssthresh = 60 * MSS
    sent = path.sent
    path.fate = lambda n: 0.0 if n <= sent + 14 else 0.11 if n <= sent + 16 else 0.16
    client.write(DATA[: 20 * MSS])
    pair.run(0.5)
    assert selective(client).probes == 1
    assert (selective(client).losses, client.sender.retransmissions) == (0, 1)
    assert server.receiver.queued == 20 * MSS


@pytest.mark.proves("ST-TCP-3")
def test_data_with_a_fin_is_reported_and_believed_like_any_other() -> None:
    pair = Pair(delay=0.02)
    client, server, path = established(pair)
    transfer(pair, client, server, 200_000)
    pair.run(0.05)
    path.fate = lose(path.sent + 1)
    written, before = pair.now, len(pair.packets)
    client.write(DATA[: 4 * MSS])
    client.shutdown(pair.now)
    pair.run(3, until=lambda: client.sender.retransmissions > 0)
    assert pair.now - written == pytest.approx(0.04), "three SACKed segments are evidence, one of them has the FIN"
    assert client.sender.in_flight[-1].mark == SACKED
    blocks = [dict(wire.read(p).options).get("SAck") for p in pair.sent_by("b", before)]
    assert max(block[1] for block in blocks if block) == client.sender.snd_nxt & 0xFFFFFFFF
    pair.run(1)
    assert client.sender.retransmissions == 1
    assert server.receiver.fin_taken()


@pytest.mark.proves("ST-TCP-3", by="api")
def test_a_peer_that_reports_the_data_of_a_fins_segment_alone_is_believed() -> None:
    pair = Pair()
    client, _, _ = established(pair, lambda n: None)
    client.write(DATA[: 2 * MSS])
    client.shutdown(pair.now)
    pair.flush()
    last = client.sender.in_flight[-1]
    assert last.fin
    client.sender.mark_sacked(last.start, last.end - 1)
    assert [segment.mark for segment in client.sender.in_flight] == [IN_NETWORK, SACKED, IN_NETWORK]
    assert client.sender.in_flight[-1].fin and not client.sender.in_flight[-1].payload_length
    client.sender.check()


@pytest.mark.proves("ST-TCP-6")
def test_the_reordering_window_follows_a_path_that_has_become_longer() -> None:
    """RFC 8985 §6.2: it is a quarter of the least round trip of the last seconds, not of the connection's life."""
    pair = Pair(delay=0.001)
    client, server, path = established(pair)
    transfer(pair, client, server, 100_000)
    pair.delay = 0.1
    for _ in range(20):
        transfer(pair, client, server, 20_000)
        pair.run(1)
    path.fate = lambda n: 0.02 if n % 50 == 0 else 0.0
    before = len(pair.packets)
    transfer(pair, client, server, 2_000_000)
    assert len(again(pair, "a", before)) <= 1, "the first that is late shows that there is reordering"


@pytest.mark.proves("ST-TCP-6", by="api")
def test_the_least_round_trip_is_that_of_the_last_two_epochs() -> None:
    rtt = RttEstimator()
    assert math.isinf(rtt.minimum_rtt)
    least = []
    for n, sample in enumerate((0.3, 0.1, 0.2, 0.4, 0.5, 0.3, 0.6, 0.6)):
        rtt.sample(sample, now=n * EPOCH / 2)
        least.append(rtt.minimum_rtt)
    assert least == [0.3, 0.1, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    rtt.sample(0.7, now=1000.0)
    assert rtt.minimum_rtt == 0.6, "however long ago that was"


@pytest.mark.proves("ST-TCP-6", by="api")
def test_the_reordering_window_grows_with_duplicate_sacks() -> None:
    rng = Random(1)
    late = [RTT * 0.8 if rng.random() < 0.05 else 0.0 for _ in range(4000)]
    pair = Pair()
    client, server, _ = established(pair, lambda n: late[n % 4000], timestamps=False)
    transfer(pair, client, server, 3_000_000)
    rack = selective(client).rack
    assert rack.reordering_seen
    assert rack.multiplier > 1
    assert rack.reordering_window(False) > 0.25 * client.rtt.minimum_rtt


@pytest.mark.proves("ST-TCP-4")
@pytest.mark.parametrize("timestamps", [True, False])
def test_a_delay_spike_is_recognised_as_spurious(timestamps: bool) -> None:
    pair = Pair()
    client, server, path = established(pair, timestamps=timestamps)
    transfer(pair, client, server, 400_000)
    pair.run(1)
    cwnd = client.sender.congestion.cwnd
    spike_ends = pair.now + 0.5
    path.fate = lambda n: max(0.0, spike_ends - pair.now)
    timeouts, before = client.timers.timeouts, len(pair.packets)
    transfer(pair, client, server, 600_000)
    assert client.timers.timeouts > timeouts, "the spike was longer than the time-out"
    assert client.sender.recovery.undone >= 1
    assert client.sender.recovery.phase is Phase.OPEN
    assert client.sender.congestion.cwnd >= cwnd
    assert 1 <= len(again(pair, "a", before)) <= 6, "at most the probe and the first segment, not the window"


@pytest.mark.proves("ST-TCP-4", by="api")
def test_f_rto_alone_recognises_a_delay_spike(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the proofs that timestamps and D-SACK give, what is acknowledged after the time-out decides."""
    monkeypatch.setattr(Undo, "proven", lambda self, news: False)
    monkeypatch.setattr(Undo, "duplicate_reported", lambda self, start, end, una: False)
    pair = Pair()
    client, server, path = established(pair, timestamps=False)
    transfer(pair, client, server, 400_000)
    pair.run(1)
    ssthresh = client.sender.congestion.ssthresh
    late = pair.now + 0.6
    path.gap = 0.0002  # late packets still come one after the other
    path.fate = lambda n: max(0.0, late - pair.now)
    client.write(DATA[:200_000])
    pair.run(0.5)
    client.write(DATA[:200_000])
    assert collect(pair, server, 400_000, 60) == DATA[:200_000] * 2
    assert client.timers.timeouts >= 1
    assert client.sender.recovery.undone == 1
    assert client.sender.congestion.ssthresh == ssthresh, "the reduction was taken back"


@pytest.mark.proves("ST-TCP-4", by="api")
def test_a_real_time_out_is_not_taken_back() -> None:
    pair = Pair()
    client, server, path = established(pair, timestamps=False)
    outage = pair.now + 0.7
    path.fate = lambda n: None if pair.now < outage else 0.0
    transfer(pair, client, server, 100_000)
    assert client.timers.timeouts >= 1
    assert client.sender.recovery.undone == 0
    assert client.sender.congestion.ssthresh < 1 << 40


@pytest.mark.proves("ST-TCP-5", by="api")
def test_the_reduction_is_proportional_not_a_pause() -> None:
    pair = Pair()
    client, server, path = established(pair, congestion="newreno")
    path.gap = RTT / 100
    transfer(pair, client, server, 300_000)
    path.fate = lose(path.sent + 20)
    client.write(DATA[:1_000_000])
    recovery, congestion = client.sender.recovery, client.sender.congestion
    pair.run(10, until=lambda: recovery.phase is Phase.RECOVERY)
    ssthresh, begun, sent = congestion.ssthresh, pair.now, path.sent
    last_sent, longest = pair.now, 0.0
    pipe = client.sender.pipe
    while recovery.phase is Phase.RECOVERY:
        before, count = client.sender.pipe, path.sent
        assert pair.step(pair.now + 1)
        if path.sent > count:
            longest = max(longest, pair.now - last_sent)
            last_sent = pair.now
        if recovery.phase is Phase.RECOVERY:
            pipe = client.sender.pipe
            assert pipe <= max(before, ssthresh) + 2 * MSS, "no burst"
    assert abs(pipe - ssthresh) <= 2 * MSS, "PRR ends at ssthresh"
    assert path.sent - sent > 10
    assert longest < (pair.now - begun) / 4, "halving at once would stand still for half a round trip"
    assert not server.receiver.beyond


@pytest.mark.proves("ST-TCP-3")
def test_a_peer_that_takes_back_its_sacks_still_gets_everything() -> None:
    pair = Pair()
    client, server, path = established(pair, lose(1))
    path.ack_fate = lambda n: 0.0
    client.write(DATA[: 10 * MSS])
    pair.run(RTT * 1.01)  # the SACKs for 2 to 10 are on their way
    pair.run(0.001)
    server.receiver._runs.clear()
    server.receiver.beyond = 0
    server.receiver._recent.clear()
    path.fate = lambda n: 0.0
    arrived = bytearray()

    def finished() -> bool:
        arrived.extend(b"".join(map(bytes, server.read())))
        return len(arrived) >= 10 * MSS

    pair.run(60, until=finished)
    pair.run(1)
    assert arrived == DATA[: 10 * MSS]
    assert len(again(pair, "a")) == 10 and acknowledged(pair, "b") == 10 * MSS


@pytest.mark.proves("ST-TCP-5")
@pytest.mark.parametrize("timestamps", [True, False])
@pytest.mark.parametrize("lost", [(5,), (3, 9), (4, 5, 6, 7)])
def test_without_sack_newreno_repairs_holes(lost: tuple[int, ...], timestamps: bool) -> None:
    pair = Pair()
    client, server, _ = established(pair, lose(*lost), sack=False, timestamps=timestamps)
    transfer(pair, client, server, 40 * MSS)
    assert not any("SAckOK" in dict(wire.read(p).options) for _, who, p in pair.packets[:2] if who == "a")
    assert client.timers.timeouts == 0
    assert len(again(pair, "a")) == len(lost)


@pytest.mark.proves("ST-TCP-5")
def test_limited_transmit_gets_the_third_duplicate() -> None:
    pair = Pair()
    client, server, path = established(pair, lose(1), sack=False)
    path.gap = 0.001
    client.sender.congestion.cwnd = 3 * MSS
    took = transfer(pair, client, server, 6 * MSS)
    # Two duplicates for 2 and 3; the third is for what limited transmit sent, before the acknowledgement of anything.
    assert len(again(pair, "a")) == 1
    assert took < 8 * RTT, "which is less than any time-out"


def test_a_dead_path_is_tried_with_doubled_pauses_until_the_user_time_out() -> None:
    pair = Pair()
    client, _, path = established(pair, user_timeout=30.0)
    path.fate = lambda n: None
    client.write(b"x")
    before = len(pair.packets)
    pair.run(100)
    assert isinstance(client.error, TimeoutError)
    times = [when for when, who, p in pair.packets[before:] if who == "a" and wire.read(p).payload]
    gaps = [round(b - a, 6) for a, b in pairwise(times[1:])]
    assert gaps
    assert all(b == pytest.approx(2 * a) for a, b in pairwise(gaps))
    assert times[-1] - times[0] <= 30


def test_sack_of_single_bytes_does_not_cost_memory_without_bound() -> None:
    pair = Pair()
    client, _, path = established(pair, lambda n: None)
    client.write(DATA[: 10 * MSS])
    pair.flush()
    una, port, remote = client.sender.snd_una, client.remote_port, client.local_port
    stamp = next(s for s in (wire.timestamps(p) for p in reversed(pair.sent_by("b"))) if s)
    for offset in range(1, 4000, 3):
        left = (una + offset) & 0xFFFFFFFF
        packet = wire.segment(
            "2001:db8:b::1", "2001:db8:a::1", port, remote, "A",
            seq=client.receiver.rcv_nxt, ack=una, window=5000,
            options=[("NOP", None), ("NOP", None), ("Timestamp", stamp), ("NOP", None), ("NOP", None),
                     ("SAck", (left, left + 1))],
        )  # fmt: skip
        pair.a.input(packet, pair.now)
        client.sender.check()
    assert len(client.sender.in_flight) < 200
    assert isinstance(path, Path)
