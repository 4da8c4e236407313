"""Controllers by the numbers of their documents, and each of them on a path."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import pytest

from tapstack.events import CongestionTrace
from tapstack.tcp.acknowledged import Acknowledged
from tapstack.tcp.congestion import CongestionControl, create, known
from tapstack.tcp.congestion.bbr import Bbr
from tapstack.tcp.congestion.cubic import Cubic
from tapstack.tcp.congestion.hystart import CSS_ROUNDS, HyStart

from .pair import Pair
from .path import DATA, established, lose, transfer
from .seen import again, data

MSS = 1000


def news(acked: int, in_flight: int, rtt: float = 0.1, una: int = 0, nxt: int = 0) -> Acknowledged:
    made = Acknowledged()
    made.begin(in_flight, una)
    made.acked = made.delivered = acked
    made.peak = in_flight
    made.rtt = made.srtt = made.minimum_rtt = rtt
    made.acknowledged, made.next = una + acked, nxt
    return made


def rounds(controller: CongestionControl, count: int, now: float, rtt: float) -> float:
    """Acknowledge whole windows, segment by segment, over `count` round trips."""
    for _ in range(count):
        window = controller.cwnd
        for n in range(window // MSS):
            controller.on_ack(news(MSS, window, rtt), now + rtt * n / (window // MSS))
        now += rtt
    return now


@pytest.mark.proves("ST-TCP-5", by="api")
@pytest.mark.parametrize("name", known())
def test_the_initial_window_is_ten_segments(name: str) -> None:
    assert create(name, MSS).cwnd == 10 * MSS


@pytest.mark.proves("ST-TCP-5", by="api")
@pytest.mark.parametrize("name", ["newreno", "cubic"])
def test_slow_start_doubles_and_a_timeout_leaves_one_segment(name: str) -> None:
    controller = create(name, MSS)
    rounds(controller, 2, 0.0, 0.1)
    assert controller.cwnd == 40 * MSS
    controller.on_timeout(40 * MSS, 1.0)
    assert controller.cwnd == MSS
    assert controller.ssthresh == {"newreno": 20 * MSS, "cubic": int(40 * MSS * 0.7)}[name]


@pytest.mark.proves("ST-TCP-5")
@pytest.mark.parametrize("name", known())
def test_the_first_flight_is_ten_segments_and_the_next_is_twice_as_many(name: str) -> None:
    pair = Pair(delay=0.05)
    client, _, _ = established(pair, congestion=name, receive_buffer=4 << 20)
    before = len(pair.packets)
    client.write(DATA[:500_000])
    pair.run(0.099)
    assert [len(seen.payload) for seen in data(pair, "a", before)] == [1428] * 10
    pair.run(0.1)
    assert 28 <= len(data(pair, "a", before)) <= 30


@pytest.mark.proves("ST-TCP-5")
@pytest.mark.parametrize(("name", "share"), [("newreno", 0.5), ("cubic", 0.7)])
def test_a_loss_makes_the_flight_smaller_and_a_time_out_leaves_one_segment(name: str, share: float) -> None:
    pair = Pair(delay=0.05)
    client, server, path = established(pair, congestion=name, receive_buffer=4 << 20, sack=False)
    transfer(pair, client, server, 600_000)
    pair.run(0.15)
    controller = client.sender.congestion
    controller.cwnd = controller.ssthresh = 60 * 1428
    path.fate = lose(path.sent + 1)
    client.write(DATA)
    pair.run(0.25)
    before = len(pair.packets)
    pair.run(0.1)
    assert len(data(pair, "a", before)) == pytest.approx(60 * share, abs=3), "in one round trip"
    path.fate = lambda n: None
    before = len(pair.packets)
    pair.run(0.9, until=lambda: bool(again(pair, "a", before)))
    pair.run(0.1)
    (alone,) = again(pair, "a", before)
    assert data(pair, "a", before)[-1] == alone


@pytest.mark.proves("ST-TCP-5", by="api")
def test_newreno_adds_one_segment_per_round_trip() -> None:
    controller = create("newreno", MSS)
    controller.on_congestion(40 * MSS, 0.0)
    assert controller.cwnd == controller.ssthresh == 20 * MSS
    rounds(controller, 5, 0.0, 0.1)
    assert controller.cwnd == 25 * MSS


@pytest.mark.proves("ST-TCP-5", by="api")
def test_a_window_that_is_not_used_does_not_grow() -> None:
    for name in ("newreno", "cubic"):
        controller = create(name, MSS)
        controller.on_ack(news(MSS, 2 * MSS), 0.0)
        assert controller.cwnd == 10 * MSS


@pytest.mark.proves("ST-TCP-5", by="api")
def test_cubic_is_back_at_its_maximum_after_k() -> None:
    controller = create("cubic", MSS)
    assert isinstance(controller, Cubic)
    controller.cwnd = 1000 * MSS
    controller.on_congestion(1000 * MSS, 0.0)
    assert controller.cwnd == 700 * MSS
    k = ((1000 - 700) / 0.4) ** (1 / 3)
    now = rounds(controller, 1, 0.0, 0.1)
    while now < k:
        now = rounds(controller, 1, now, 0.1)
    assert controller.cwnd / MSS == pytest.approx(1000, rel=0.01)
    plateau = controller.cwnd
    rounds(controller, 3, now, 0.1)
    assert controller.cwnd - plateau < 5 * MSS, "flat around the old maximum"
    while now < 2 * k:
        now = rounds(controller, 1, now, 0.1)
    assert controller.cwnd / MSS == pytest.approx(1300, rel=0.03), "the curve is symmetric about K"


@pytest.mark.proves("ST-TCP-5", by="api")
@pytest.mark.parametrize("pause", [0.1, 5.0])
def test_cubics_clock_stands_still_while_the_application_is_the_limit(pause: float) -> None:
    """RFC 9438 §5.8: however many acknowledgements come meanwhile, and however often nothing could be sent."""
    steady, limited, idle = (create("cubic", MSS) for _ in range(3))
    for controller in (steady, limited, idle):
        controller.cwnd = 100 * MSS
        controller.on_congestion(100 * MSS, 0.0)
        now = rounds(controller, 80, 0.0, 0.1)
    window = limited.cwnd
    for n in range(1, 51):
        limited.on_ack(news(MSS, MSS, 0.1), now - 0.001 + pause * n / 50)
    assert limited.cwnd == window
    for n in range(1, 21):
        idle.on_idle(pause * n / 20)
    idle.cwnd = window  # the restart is not the question
    rounds(steady, 30, now, 0.1)
    for controller in (limited, idle):
        rounds(controller, 30, now + pause, 0.1)
        assert controller.cwnd == pytest.approx(steady.cwnd, rel=0.01)
    assert steady.cwnd > 1.5 * window


@pytest.mark.proves("ST-TCP-5", by="api")
@pytest.mark.parametrize(("heard", "stood"), [(0.0, 5.0), (3.0, 2.1)], ids=["silence", "acknowledged meanwhile"])
def test_a_pause_is_left_out_once_however_it_is_told(heard: float, stood: float) -> None:
    """`on_idle` counts from the last transmission, acknowledgements from one to the next: the shorter is the pause."""
    controller = create("cubic", MSS)
    assert isinstance(controller, Cubic)
    controller.cwnd = 100 * MSS
    controller.on_congestion(100 * MSS, 0.0)
    now = rounds(controller, 10, 0.0, 0.1)
    begun = controller._epoch
    assert begun is not None
    controller.on_ack(news(MSS, controller.cwnd, 0.1), now + heard)
    controller.on_idle(5.0)
    controller.cwnd = 60 * MSS
    controller.on_ack(news(MSS, controller.cwnd, 0.1), now + 5.1)
    assert controller._epoch == pytest.approx(begun + stood)


@pytest.mark.proves("ST-TCP-5", by="api")
@pytest.mark.parametrize("before", [1.0, 12.0], ids=["below the old maximum", "beyond it"])
def test_cubics_curve_goes_on_where_it_is_when_segments_become_smaller(before: float) -> None:
    """As many bytes are more segments of the new size: the window neither waits for the curve nor leaps after it."""
    controller = create("cubic", 7 * MSS)
    controller.cwnd = 700 * MSS
    controller.on_congestion(700 * MSS, 0.0)
    now = rounds(controller, round(before * 10), 0.0, 0.1)
    controller.mss_changed(MSS)
    sizes = [controller.cwnd]
    for _ in range(20):
        now = rounds(controller, 1, now, 0.1)
        sizes.append(controller.cwnd)
    steps = [after - size for size, after in pairwise(sizes)]
    assert 0 < min(steps) <= max(steps) < 0.03 * sizes[0]
    assert sizes[-1] > 1.05 * sizes[0]
    assert (sizes[-1] < 700 * MSS) == (before == 1.0)


@pytest.mark.proves("ST-TCP-5", by="api")
def test_cubic_on_a_short_path_is_no_slower_than_reno() -> None:
    cubic, reno = create("cubic", MSS), create("newreno", MSS)
    for controller in (cubic, reno):
        controller.cwnd = 20 * MSS
        controller.on_congestion(20 * MSS, 0.0)
        rounds(controller, 100, 0.0, 0.001)
    assert cubic.cwnd > 14 * MSS + 40 * MSS  # alpha is 0.53 up to the old window, one beyond


@pytest.mark.proves("ST-TCP-5", by="api")
def test_fast_convergence_lowers_the_maximum() -> None:
    controller = create("cubic", MSS)
    assert isinstance(controller, Cubic)
    controller.cwnd = 100 * MSS
    controller.on_congestion(100 * MSS, 0.0)
    controller.on_congestion(70 * MSS, 1.0)
    assert controller._w_max == pytest.approx(70 * 1.7 / 2)


@pytest.mark.proves("ST-TCP-5", by="api")
@pytest.mark.parametrize("name", ["newreno", "cubic"])
def test_a_reduction_can_be_taken_back(name: str) -> None:
    controller = create(name, MSS)
    rounds(controller, 2, 0.0, 0.1)
    before = (controller.cwnd, controller.ssthresh)
    saved = controller.save()
    controller.on_timeout(40 * MSS, 1.0)
    controller.restore(saved)
    assert (controller.cwnd, controller.ssthresh) == before


@pytest.mark.proves("ST-TCP-5", by="api")
def test_hystart_slows_down_when_the_round_trip_rises_and_ends_after_five_rounds() -> None:
    hystart = HyStart()
    end = 0
    ended: int | None = None
    for number in range(12):
        rtt = 0.1 if number < 3 else 0.1 + 0.02
        una, end = end, end + 10 * MSS
        for n in range(10):
            grown = hystart.growth(news(MSS, 10 * MSS, rtt, una + n * MSS, end + n * MSS))
            if grown is None:
                ended = number
                break
            if number == 3 and n == 9:
                assert hystart.active and grown == MSS // 4
        if ended is not None:
            break
    assert ended == 3 + CSS_ROUNDS


@pytest.mark.proves("ST-TCP-5", by="api")
def test_hystart_resumes_when_the_rise_was_noise() -> None:
    hystart = HyStart()
    for number, rtt in enumerate((0.1, 0.1, 0.13, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)):
        for n in range(10):
            grown = hystart.growth(news(MSS, 10 * MSS, rtt, (number * 10 + n) * MSS, ((number + 1) * 10 + n) * MSS))
            assert grown is not None
    assert not hystart.active and not hystart.over


@pytest.mark.proves("ST-TCP-5")
@pytest.mark.parametrize("name", known())
def test_each_controller_fills_a_bottleneck(name: str) -> None:
    pair = Pair()
    client, server, path = established(pair, congestion=name, receive_buffer=4 << 20)
    path.gap = 0.0005  # 2,000 packets per second: a bandwidth-delay product of 40
    begun = len(pair.packets)
    took = transfer(pair, client, server, 3_000_000)
    best = 3_000_000 / 1428 * path.gap
    assert took < 1.25 * best
    assert not again(pair, "a", begun)


@pytest.mark.proves("ST-TCP-5", by="api")
def test_the_rate_based_controller_finds_the_path_and_keeps_its_queue_short() -> None:
    pair = Pair()
    client, server, path = established(pair, congestion="bbr", receive_buffer=4 << 20)
    path.gap = 0.0005
    transfer(pair, client, server, 3_500_000)
    bbr = client.sender.congestion
    assert isinstance(bbr, Bbr)
    assert bbr.bandwidth == pytest.approx(1428 / path.gap, rel=0.1)
    assert bbr.phase == "probe bandwidth"
    assert client.rtt.srtt is not None and client.rtt.srtt < 0.06


@pytest.mark.proves("ST-TCP-5")
def test_pacing_spreads_a_window_over_the_round_trip() -> None:
    pair = Pair()
    client, server, _ = established(pair, pacing=True)
    transfer(pair, client, server, 500_000)
    before = len(pair.packets)
    transfer(pair, client, server, 500_000)
    times = [seen.when for seen in data(pair, "a", before)]

    def most(span: float) -> int:
        """So many segments leave within a time at most."""
        return max(bisect_left(times, when + span) - at for at, when in enumerate(times))

    assert most(0.001) <= 2 * most(2 * pair.delay) * 0.001 / (2 * pair.delay) + 3
    assert most(2 * pair.delay) > 40, "there is something to spread"


@pytest.mark.proves("ST-TCP-5", by="api")
def test_the_window_is_traced_when_asked_for() -> None:
    pair = Pair()
    client, server, _ = established(pair, trace=True)
    transfer(pair, client, server, 500_000)
    traced = [event for event in pair.a.log if isinstance(event, CongestionTrace)]
    assert len(traced) > 3
    assert traced[-1].cwnd > 10 * 1428
    assert traced[0].ssthresh is None
    assert [event.time for event in traced] == sorted(event.time for event in traced)
    assert "cwnd" in traced[0].text()


def test_what_cubic_takes_back_is_of_the_same_size_in_other_segments() -> None:
    cubic = Cubic(8900)
    cubic._w_max, cubic.cwnd, cubic.ssthresh = 100.0, 100 * 8900, 50 * 8900
    saved = cubic.save()
    cubic.on_congestion(cubic.cwnd, 1.0)
    cubic.mss_changed(1228)
    cubic.restore(saved)
    assert cubic._w_max * cubic.mss == pytest.approx(100 * 8900)


def test_what_cubic_counts_in_segments_is_of_the_same_size_in_other_segments() -> None:
    cubic = Cubic(8900)
    cubic._w_max, cubic._cwnd_prior, cubic._origin, cubic._estimate = counted = (100.0, 90.0, 80.0, 70.0)
    cubic.mss_changed(1228)
    now = (cubic._w_max, cubic._cwnd_prior, cubic._origin, cubic._estimate)
    assert [each * 1228 for each in now] == pytest.approx([each * 8900 for each in counted])
