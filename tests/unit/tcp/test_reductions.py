"""When the window is reduced, when a reduction is taken back, and when not: fairness to whom the path is shared with."""

from __future__ import annotations

from random import Random

import pytest

from tapstack.tcp.congestion import create
from tapstack.tcp.congestion.cubic import Cubic
from tapstack.tcp.recovery import Phase, Recovery
from tapstack.tcp.recovery.prr import ProportionalRateReduction

from .pair import End, Pair
from .path import DATA, collect, established, transfer

MSS = 1428


@pytest.mark.proves("ST-TCP-4", by="api")
@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("loss", [0.02, 0.05, 0.08])
def test_where_nothing_is_reordered_no_reduction_is_taken_back(loss: float, seed: int) -> None:
    """A repetition of one recovery may be acknowledged in the next; that the peer echoes it proves nothing about the next."""
    rng = Random(seed)
    pair = Pair()
    client, server, path = established(pair, lambda n: None if rng.random() < loss else 0.0)
    path.gap = 1500 * 8 / 40e6
    transfer(pair, client, server, 1_000_000)
    assert client.sender.recovery.losses > 400 * loss
    assert client.sender.recovery.undone == 0
    assert client.sender.congestion.ssthresh < 100 * MSS


def reordering_bottleneck(pair: Pair, rng: Random, limit: int) -> dict[str, int]:
    """40 Mbit/s with a queue of `limit` bytes; one packet in twenty comes 10 ms late.  Returns counts that go on."""
    count = {"late": 0, "dropped": 0, "needless": 0}
    seen: set[bytes] = set()
    free_at = 0.0

    def meddle(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        nonlocal free_at
        if end is pair.b:
            return [packet]
        late = rng.random() < 0.05
        if max(free_at - pair.now, 0.0) * 5e6 + len(packet) > limit:
            count["dropped"] += 1
            return []
        free_at = max(free_at, pair.now) + len(packet) / 5e6
        count["late"] += late
        count["needless"] += packet[44:48] in seen
        if len(packet) > 200:
            seen.add(packet[44:48])
        return [(free_at - pair.now + 0.01 * late, packet)]

    pair.meddle = meddle
    return count


@pytest.mark.proves("ST-TCP-6")
@pytest.mark.parametrize("seed", range(6))
def test_reordering_behind_a_long_queue_costs_little_more_than_what_is_late(seed: int) -> None:
    """An original that arrives just after its repetition must not make all other repetitions look overdue."""
    pair = Pair(delay=0.0001)
    client, server, _ = established(pair)
    count = reordering_bottleneck(pair, Random(seed), 250_000)
    transfer(pair, client, server, 1_000_000)
    assert count["late"] > 20
    assert count["needless"] <= 1.5 * count["late"]
    assert client.timers.timeouts == 0


@pytest.mark.proves("ST-TCP-4", "ST-TCP-5", by="api")
def test_that_one_was_only_late_says_nothing_of_others_that_are_lost() -> None:
    pair = Pair()
    client, server, path = established(pair)
    transfer(pair, client, server, 100_000)
    pair.run(1)
    late, first = path.sent + 2, path.sent + 8
    # One comes 15 ms late, which is after its repetition left; six that follow are lost, more than the window lets be sent again
    # at once when the late one shows.
    path.fate = lambda n: 0.015 if n == late else None if first <= n < first + 20 else 0.0
    client.write(DATA[: 60 * MSS])
    pair.run(5, until=lambda: client.sender.recovery.undone > 0 or client.sender.recovery.phase is Phase.RECOVERY)
    pair.run(5)
    assert client.sender.congestion.ssthresh < 1 << 40, "something was lost, and the reduction stands"


@pytest.mark.proves("ST-TCP-4", "ST-TCP-5", by="api")
@pytest.mark.parametrize("sack", [True, False])
def test_a_time_out_while_losses_are_repaired_reduces_the_threshold_once(sack: bool) -> None:
    pair = Pair()
    client, server, path = established(pair, sack=sack)
    transfer(pair, client, server, 300_000)
    pair.run(1)
    lost = path.sent + 3
    # Ten may go: one of them is lost, and then its repetition and all new data.
    path.fate = lambda n: None if n == lost or n > lost + 7 else 0.0
    client.write(DATA[: 40 * MSS])
    pair.run(1, until=lambda: client.sender.recovery.phase is Phase.RECOVERY)
    reduced = client.sender.congestion.ssthresh
    pair.run(5, until=lambda: client.timers.timeouts > 0)
    assert client.sender.recovery.phase is Phase.LOSS
    assert client.sender.congestion.ssthresh == reduced, "it is the same window of data"
    assert client.sender.congestion.cwnd == client.sender.mss
    path.fate = lambda n: 0.0
    pair.run(10)
    assert server.receiver.queued == 40 * MSS


@pytest.mark.proves("ST-TCP-4", "ST-TCP-5", by="api")
@pytest.mark.parametrize("sack", [True, False])
def test_a_time_out_of_another_segment_reduces_the_threshold_again(sack: bool) -> None:
    """RFC 5681 §3.1: it is held only for a segment that the timer has sent again before."""
    pair = Pair(delay=0.05)
    client, server, path = established(pair, congestion="newreno", sack=sack)
    transfer(pair, client, server, 400_000)
    pair.run(0.15)
    sender, congestion = client.sender, client.sender.congestion
    congestion.cwnd = congestion.ssthresh = 100 * MSS
    path.fate = lambda n: None
    client.write(DATA[: 200 * MSS])
    pair.run(5, until=lambda: client.timers.timeouts == 2)
    first = congestion.ssthresh
    assert first == pytest.approx(50 * MSS, abs=2 * MSS), "the second time-out is of the same segment"
    una = sender.snd_una
    path.fate = lambda n: 0.0
    pair.run(5, until=lambda: sender.snd_una >= una + 20 * MSS)
    path.fate = lambda n: None
    timeouts = client.timers.timeouts
    pair.run(0.15)
    assert sender.recovery.phase is Phase.LOSS and sender.snd_una > una, "not all of it is repaired"
    pair.run(5, until=lambda: client.timers.timeouts > timeouts)
    assert congestion.ssthresh <= max((sender.snd_nxt - sender.snd_una) // 2, 2 * MSS) < first


@pytest.mark.proves("ST-TCP-4", "ST-TCP-5", by="api")
@pytest.mark.parametrize(("name", "share"), [("newreno", 0.5), ("cubic", 0.7)])
def test_the_threshold_is_never_above_equation_four(name: str, share: float) -> None:
    controller = create(name, MSS)
    controller.cwnd = 100 * MSS
    controller.on_congestion(100 * MSS, 0.0)
    before = controller.ssthresh
    controller.on_timeout_in_recovery(120 * MSS)
    assert (controller.cwnd, controller.ssthresh) == (MSS, before)
    controller.on_timeout_in_recovery(40 * MSS)
    assert controller.ssthresh == int(40 * MSS * share), "less is in flight by now"
    controller.on_timeout_in_recovery(MSS)
    assert controller.ssthresh == 2 * MSS


@pytest.mark.proves("ST-TCP-5", by="api")
def test_after_a_time_out_cubics_curve_begins_where_slow_start_ends() -> None:
    controller = create("cubic", MSS)
    assert isinstance(controller, Cubic)
    controller.cwnd = 1000 * MSS
    controller.on_timeout(1000 * MSS, 0.0)
    assert (controller.cwnd, controller.ssthresh) == (MSS, int(1000 * MSS * 0.7))
    controller.cwnd = controller.ssthresh
    from .test_congestion import rounds

    now = rounds(controller, 1, 10.0, 0.1)
    after_one = controller.cwnd
    rounds(controller, 10, now, 0.1)
    # With K = 0 the curve is flat at first: 0.4 · 1.2³ segments after 1.2 s; Reno's share is 0.53 a round trip.
    assert after_one - 700 * MSS < 2 * MSS
    assert controller.cwnd - 700 * MSS < 8 * MSS, "no rush back to the old maximum (RFC 9438 §4.8)"


@pytest.mark.proves("ST-TCP-5", by="api")
@pytest.mark.parametrize("every", [0.0, 0.01, 0.05])
def test_slow_start_doubles_however_the_acknowledgements_come(every: float) -> None:
    """Acknowledgements that arrive in a bunch, before anything can be sent, show a window that was in use all the same."""
    pair = Pair(delay=0.05)
    client, server, path = established(pair)
    path.gap = 0.0001
    path.ack_fate = lambda n: -pair.now % every if every else 0.0
    client.write(DATA[: 300 * MSS])
    last = 0
    for _ in range(4):
        pair.run(0.1 + every)
        server.read()
        window = client.sender.congestion.cwnd // client.sender.mss
        assert window >= 1.9 * last
        last = window


@pytest.mark.proves("ST-TCP-6", by="api")
@pytest.mark.parametrize("seed", range(6))
def test_an_acknowledgement_clocks_out_what_it_delivered_once(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 9937 §6.2: what the reordering timer finds lost is no news of what has been delivered."""
    counted: list[int] = []
    by_timer: list[int] = []
    prr = ProportionalRateReduction.window
    pair = Pair(delay=0.0001)
    client, server, _ = established(pair)
    recovery = client.sender.recovery
    on_timer = type(recovery).on_timer

    def window(self: ProportionalRateReduction, delivered: int, pipe: int, sent: int, progress: bool) -> int:
        counted.append(delivered)
        return prr(self, delivered, pipe, sent, progress)

    def timer(self: Recovery, now: float) -> bool:
        before = len(counted)
        probe = on_timer(self, now)
        by_timer.extend(counted[before:])
        return probe

    monkeypatch.setattr(ProportionalRateReduction, "window", window)
    monkeypatch.setattr(type(recovery), "on_timer", timer)
    reordering_bottleneck(pair, Random(seed), 250_000)
    transfer(pair, client, server, 1_000_000)
    assert len(by_timer) > 5
    assert max(by_timer) <= MSS
    assert sum(counted) - sum(by_timer) <= 1_000_000


@pytest.mark.proves("ST-TCP-5", by="api")
@pytest.mark.parametrize("name", ["newreno", "cubic"])
@pytest.mark.parametrize("sack", [True, False])
def test_what_had_arrived_before_a_time_out_opens_no_window(sack: bool, name: str) -> None:
    """One segment is lost until the timer fires; its repetition then has everything acknowledged that came behind it."""
    pair = Pair(delay=0.05)
    client, server, path = established(pair, congestion=name, sack=sack, receive_buffer=4 << 20)
    transfer(pair, client, server, 400_000)
    pair.run(0.15)
    sender = client.sender
    first = sender.snd_nxt
    lost = (first & 0xFFFFFFFF).to_bytes(4, "big")
    pair.meddle = lambda end, packet: [] if packet[44:48] == lost and end is pair.a else path(end, packet)
    client.write(DATA[: 500 * MSS])
    pair.run(5, until=lambda: client.timers.timeouts > 0)
    pair.meddle = path
    pair.run(5, until=lambda: sender.snd_una > first)
    assert sender.snd_una > first + 50 * MSS, "all at once"
    assert sender.congestion.cwnd <= 3 * sender.mss < sender.congestion.ssthresh
    client.write(DATA[500 * MSS : 600 * MSS])
    pair.run(0.25)
    assert sender.congestion.cwnd > 3 * sender.mss, "slow start goes on"
    assert collect(pair, server, 600 * MSS, 10.0) == DATA[: 600 * MSS]
