"""Impairments do what they say.

The statistics.  All runs are seeded, so a test either always passes or always fails; the limits are such that a correct
implementation passes with probability above 0.999 over seeds, and such that these faults fail with probability above 0.99:
a probability of 0.1 that is off by 0.017, a distribution function that is off by 0.03 somewhere, serial correlation of 0.06.
`test_control_the_statistics_notice_what_is_off` checks the checks.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from tapstack.clock import run_virtual
from tapstack.link.base import Link, LinkProperties
from tapstack.link.errors import LinkLost
from tapstack.link.impairment import BATCH, IN_FLIGHT, NONE, ImpairedLink, Impairment, Jitter
from tapstack.link.memory import MemoryWire

COUNT = 20_000
MACS = (b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2")
Arrival = tuple[float, bytes]


def numbered(number: int, size: int = 60) -> bytes:
    return bytes(14) + number.to_bytes(4, "big") + bytes(size - 18)


def number_of(frame: bytes) -> int:
    return int.from_bytes(frame[14:18], "big")


def run(
    impairment: Impairment,
    *,
    seed: int = 1,
    count: int = COUNT,
    spacing: float = 1.0,
    size: int = 60,
    incoming: bool = False,
) -> tuple[list[Arrival], ImpairedLink]:
    """Send numbered frames, the n-th at n × spacing, through one impaired direction; what arrives, and when."""

    async def main() -> tuple[list[Arrival], ImpairedLink]:
        loop = asyncio.get_running_loop()
        wire = MemoryWire(*MACS, fabric_limit=10**6, queue_limit=10**6)
        there, back = (NONE, impairment) if incoming else (impairment, NONE)
        impaired = ImpairedLink(wire.a, seed=seed, outgoing=there, incoming=back)
        sender: Link = wire.b if incoming else impaired
        receiver: Link = impaired if incoming else wire.b
        arrivals: list[Arrival] = []

        def wake() -> None:
            while (frame := receiver.receive()) is not None:
                arrivals.append((loop.time(), bytes(frame)))

        receiver.attach(loop, wake)
        if not incoming:
            impaired.attach(loop, lambda: None)
        for number in range(count):
            assert sender.send([numbered(number, size)])
            if spacing:
                await asyncio.sleep((number + 1) * spacing - loop.time())
        await asyncio.sleep(1000)
        return arrivals, impaired

    return run_virtual(main())


def assert_proportion(hits: int, of: int, p: float) -> None:
    """`hits` of `of` within four standard deviations of probability `p`."""
    assert abs(hits - of * p) <= 4 * math.sqrt(of * p * (1 - p)), f"{hits} of {of}, expected {of * p}"


def assert_uncorrelated(flags: list[bool]) -> None:
    """The lag-1 autocorrelation is within four standard deviations (1/√n) of zero."""
    mean = sum(flags) / len(flags)
    covariance = sum((a - mean) * (b - mean) for a, b in pairwise(flags)) / len(flags)
    assert abs(covariance / (mean * (1 - mean))) <= 4 / math.sqrt(len(flags))


def assert_distribution(samples: list[float], cdf: Callable[[float], float]) -> None:
    """Kolmogorov–Smirnov at significance 0.001."""
    ordered, n = sorted(samples), len(samples)
    distance = max(max((i + 1) / n - cdf(x), cdf(x) - i / n) for i, x in enumerate(ordered))
    assert distance <= 1.95 / math.sqrt(n), f"distance {distance}"


@pytest.mark.proves("ST-LINK-3")
def test_without_impairment_nothing_changes() -> None:
    arrivals, impaired = run(Impairment(), count=100)
    assert arrivals == [(float(n), numbered(n)) for n in range(100)]
    assert set(impaired.outgoing.as_dict().values()) == {0}


@pytest.mark.proves("ST-LINK-3")
@pytest.mark.parametrize("incoming", [False, True])
def test_loss_is_independent_with_the_given_probability(incoming: bool) -> None:
    arrivals, impaired = run(Impairment(loss=0.1), incoming=incoming)
    arrived = {number_of(frame) for _, frame in arrivals}
    assert_proportion(COUNT - len(arrived), COUNT, 0.1)
    assert_uncorrelated([n in arrived for n in range(COUNT)])
    counters = impaired.incoming if incoming else impaired.outgoing
    assert (counters.entered, counters.lost) == (COUNT, COUNT - len(arrived))


@pytest.mark.proves("ST-LINK-3")
def test_delay_is_exact() -> None:
    arrivals, _ = run(Impairment(delay=0.125), count=1000)
    assert [(t, number_of(f)) for t, f in arrivals] == [(n + 0.125, n) for n in range(1000)]


@pytest.mark.proves("ST-LINK-3")
def test_uniform_jitter() -> None:
    arrivals, _ = run(Impairment(delay=0.25, jitter=0.5))
    extra = [t - 0.25 - number_of(f) for t, f in arrivals]
    assert len(extra) == COUNT
    assert_distribution(extra, lambda x: min(max(x / 0.5, 0.0), 1.0))


@pytest.mark.proves("ST-LINK-3")
def test_exponential_jitter() -> None:
    arrivals, _ = run(Impairment(jitter=0.02, jitter_shape=Jitter.EXPONENTIAL))
    assert_distribution([t - number_of(f) for t, f in arrivals], lambda x: 1 - math.exp(-x / 0.02))


@pytest.mark.proves("ST-LINK-3")
def test_jitter_alone_never_reorders() -> None:
    arrivals, _ = run(Impairment(jitter=5.0, jitter_shape=Jitter.EXPONENTIAL), spacing=0.01, count=3000)
    assert [number_of(f) for _, f in arrivals] == list(range(3000))


@pytest.mark.proves("ST-LINK-3")
def test_reordering_holds_back_the_given_share_by_the_given_time() -> None:
    arrivals, impaired = run(Impairment(delay=1.0, reorder=0.1, reorder_delay=2.5), spacing=1.0)
    late = {number_of(f) for t, f in arrivals if t == number_of(f) + 3.5}
    punctual = {number_of(f) for t, f in arrivals if t == number_of(f) + 1.0}
    assert len(late) + len(punctual) == COUNT == len(arrivals)
    assert_proportion(len(late), COUNT, 0.1)
    assert_uncorrelated([n in late for n in range(COUNT)])
    assert impaired.outgoing.held_back == len(late)
    order = [number_of(f) for _, f in arrivals]
    assert order != sorted(order)


@pytest.mark.proves("ST-LINK-3")
def test_a_frame_sent_as_another_falls_due_does_not_overtake_it() -> None:
    async def main(seed: int) -> list[tuple[float, int]]:
        loop = asyncio.get_running_loop()
        wire = MemoryWire(*MACS)
        arrivals: list[Arrival] = []
        wire.b.attach(loop, lambda: arrivals.extend((loop.time(), frame) for frame in iter(wire.b.receive, None)))
        impaired = ImpairedLink(wire.a, seed=seed, outgoing=Impairment(reorder=0.5, reorder_delay=0.25))
        loop.call_at(0.25, lambda: impaired.send([numbered(1)]))  # made first, so it runs before the delivery of 0
        impaired.send([numbered(0)])
        await asyncio.sleep(1)
        return [(when, number_of(frame)) for when, frame in arrivals]

    outcomes = [run_virtual(main(seed)) for seed in range(20)]
    assert [(0.25, 0), (0.25, 1)] in outcomes  # the first held back, the second not
    assert all([number for _, number in outcome] == [0, 1] for outcome in outcomes)


@pytest.mark.proves("ST-LINK-3")
def test_duplicates_follow_their_original() -> None:
    arrivals, impaired = run(Impairment(delay=0.5, duplicate=0.2))
    copies = Counter(number_of(f) for _, f in arrivals)
    assert set(copies.values()) == {1, 2}
    twice = [n for n, times in copies.items() if times == 2]
    assert_proportion(len(twice), COUNT, 0.2)
    assert impaired.outgoing.duplicated == len(twice)
    assert all(t == number_of(f) + 0.5 for t, f in arrivals)


@pytest.mark.proves("ST-LINK-3")
def test_corruption_flips_one_bit_anywhere_behind_the_ethernet_header() -> None:
    arrivals, impaired = run(Impairment(corrupt=0.5), size=39)
    flipped: Counter[int] = Counter()
    for at, (_, frame) in enumerate(arrivals):
        difference = int.from_bytes(frame, "big") ^ int.from_bytes(numbered(at, 39), "big")
        if difference:
            assert difference.bit_count() == 1
            flipped[39 * 8 - difference.bit_length()] += 1
    total = sum(flipped.values())
    assert_proportion(total, COUNT, 0.5)
    assert impaired.outgoing.corrupted == total
    assert min(flipped) >= 14 * 8
    expected = total / 200  # 25 bytes are open to it
    chi_square = sum((flipped[bit] - expected) ** 2 / expected for bit in range(14 * 8, 39 * 8))
    assert chi_square <= 199 + 4 * math.sqrt(2 * 199)


@pytest.mark.proves("ST-LINK-3")
def test_the_rate_spaces_frames() -> None:
    arrivals, _ = run(Impairment(rate=1_000_000, delay=0.5), count=100, spacing=0, size=125)
    assert [number_of(f) for _, f in arrivals] == list(range(100))
    assert [t for t, _ in arrivals] == pytest.approx([0.501 + n * 0.001 for n in range(100)], abs=1e-9)


@pytest.mark.proves("ST-LINK-3")
def test_an_idle_bottleneck_costs_only_the_sending_time() -> None:
    arrivals, _ = run(Impairment(rate=8000.0), count=20, spacing=2.0, size=1000)
    assert [t for t, _ in arrivals] == [n * 2.0 + 1.0 for n in range(20)]


@pytest.mark.proves("ST-LINK-3", by="api")
@pytest.mark.parametrize("begin", [0.0, 17.3, 1234.567])
@pytest.mark.parametrize(
    ("limit", "size", "passed"), [(3000, 1500, 2), (6000, 1000, 6), (10_000, 1000, 10), (999, 1000, 1)]
)
def test_how_many_of_a_burst_find_room_does_not_depend_on_the_clock(
    begin: float, limit: int, size: int, passed: int
) -> None:
    async def main() -> int:
        await asyncio.sleep(begin)
        wire = MemoryWire(*MACS)
        impaired = ImpairedLink(wire.a, seed=1, outgoing=Impairment(rate=8e6, queue_limit=limit))
        for number in range(20):
            assert impaired.send([numbered(number, size)])
        return 20 - impaired.outgoing.queue_drops

    assert run_virtual(main()) == passed


@pytest.mark.proves("ST-LINK-3", by="api")
def test_what_is_on_the_path_when_the_link_closes_is_counted() -> None:
    async def main() -> int:
        impaired = ImpairedLink(MemoryWire(*MACS).a, seed=1, outgoing=Impairment(delay=0.1))
        for number in range(3):
            assert impaired.send([numbered(number)])
        await asyncio.sleep(0.05)
        impaired.close()
        return impaired.outgoing.abandoned

    assert run_virtual(main()) == 3


@pytest.mark.proves("ST-LINK-3")
def test_the_queue_limit_drops_the_tail() -> None:
    arrivals, impaired = run(Impairment(rate=8000.0, queue_limit=10_000), count=50, spacing=0, size=1000)
    assert [number_of(f) for _, f in arrivals] == list(range(10))
    assert impaired.outgoing.queue_drops == 40
    arrivals, _ = run(Impairment(rate=8000.0, queue_limit=10), count=5, spacing=0.75, size=1000)
    assert [number_of(f) for _, f in arrivals] == [0, 2, 4]  # an idle bottleneck takes any frame


@pytest.mark.proves("ST-LINK-3")
def test_equal_seeds_give_equal_runs_and_others_do_not() -> None:
    everything = Impairment(
        loss=0.1, delay=0.05, jitter=0.1, reorder=0.1, duplicate=0.1, corrupt=0.1, rate=1e5, queue_limit=3000
    )
    first, _ = run(everything, seed=5, count=2000, spacing=0.004)
    again, _ = run(everything, seed=5, count=2000, spacing=0.004)
    other, _ = run(everything, seed=6, count=2000, spacing=0.004)
    assert first == again
    assert first != other


@pytest.mark.proves("ST-LINK-3")
def test_one_impairment_does_not_disturb_another() -> None:
    def lost(impairment: Impairment) -> set[int]:
        # By when they arrive, less than a second after they were sent: a corrupted frame may have another number.
        return set(range(2000)) - {int(when) for when, _ in run(impairment, count=2000)[0]}

    plain = lost(Impairment(loss=0.1))
    assert plain == lost(Impairment(loss=0.1, delay=0.3, jitter=0.1, duplicate=0.5, reorder=0.1))
    assert plain == lost(Impairment(loss=0.1, corrupt=0.5))
    assert plain < lost(Impairment(loss=0.2))  # common random numbers: more loss loses the same and more


@pytest.mark.proves("ST-LINK-3")
def test_the_two_directions_are_separate() -> None:
    there, _ = run(Impairment(loss=0.5), count=2000)
    back, _ = run(Impairment(loss=0.5), count=2000, incoming=True)
    assert {number_of(f) for _, f in there} != {number_of(f) for _, f in back}


def test_control_the_statistics_notice_what_is_off() -> None:
    flags = [True, False] * (COUNT // 2)
    with pytest.raises(AssertionError):
        assert_uncorrelated(flags)
    arrivals, _ = run(Impairment(loss=0.117))
    with pytest.raises(AssertionError):
        assert_proportion(COUNT - len(arrivals), COUNT, 0.1)
    arrivals, _ = run(Impairment(jitter=0.53))
    with pytest.raises(AssertionError):
        assert_distribution([t - number_of(f) for t, f in arrivals], lambda x: min(max(x / 0.5, 0.0), 1.0))


@pytest.mark.proves("ST-LINK-3")
def test_what_is_in_flight_is_bounded() -> None:
    arrivals, impaired = run(Impairment(delay=10.0), count=IN_FLIGHT + 7, spacing=0)
    assert len(arrivals) == IN_FLIGHT
    assert impaired.outgoing.overflow == 7


@pytest.mark.proves("ST-LINK-3")
def test_many_frames_at_once_all_come_in() -> None:
    arrivals, _ = run(Impairment(jitter=1e-6), count=BATCH * 3 + 1, spacing=0, incoming=True)
    assert [number_of(f) for _, f in arrivals] == list(range(BATCH * 3 + 1))


@pytest.mark.proves("ST-LINK-3")
def test_close_forgets_what_is_under_way() -> None:
    async def main() -> None:
        wire = MemoryWire()
        impaired = ImpairedLink(wire.a, seed=1, outgoing=Impairment(delay=1.0), incoming=Impairment(delay=1.0))
        impaired.attach(asyncio.get_running_loop(), lambda: None)
        impaired.send([b"out"])
        wire.b.send([b"in"])
        await asyncio.sleep(0.5)
        impaired.close()
        impaired.close()
        assert not impaired.send([b"late"])
        await asyncio.sleep(5)
        assert impaired.receive() is None
        assert wire.b.receive() is None

    run_virtual(main())


class Vanishing(Link):
    """A link whose device has been deleted."""

    def __init__(self) -> None:
        self.wake: Callable[[], None] = lambda: None

    @property
    def properties(self) -> LinkProperties:
        return LinkProperties(mtu=1500, mac=None)

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self.wake = wake

    def watch(self, changed: Callable[[bool], None]) -> None:
        pass

    def receive(self) -> bytes | None:
        raise LinkLost("gone")

    def send(self, frame: object) -> bool:
        raise LinkLost("gone")

    def close(self) -> None:
        pass


@pytest.mark.proves("ST-LINK-3", by="api")
@pytest.mark.parametrize("sending", [False, True])
def test_a_link_lost_below_is_told_to_the_owner(sending: bool) -> None:
    async def main() -> None:
        below = Vanishing()
        impaired = ImpairedLink(below, seed=1, outgoing=Impairment(delay=1.0), incoming=Impairment(delay=1.0))
        woken = asyncio.Event()
        impaired.attach(asyncio.get_running_loop(), woken.set)
        if sending:
            assert impaired.send([b"x"])
        else:
            below.wake()
        await woken.wait()
        with pytest.raises(LinkLost):
            impaired.receive()
        with pytest.raises(LinkLost):
            impaired.send([b"x"])
        impaired.close()
        assert impaired.receive() is None

    run_virtual(main())


@pytest.mark.proves("ST-LINK-3", by="api")
@pytest.mark.parametrize(
    "wrong",
    [{"loss": 1.1}, {"loss": -0.1}, {"corrupt": float("nan")}, {"delay": -1.0}, {"jitter": float("inf")}, {"rate": 0.0},
     {"queue_limit": 5}, {"rate": 1.0, "queue_limit": -1}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong)).replace("_", " ")):
        Impairment(**wrong)  # type: ignore[arg-type]


@pytest.mark.proves("ST-LINK-3", by="api")
def test_corruption_of_offloaded_frames_is_refused() -> None:
    class Offloaded(Vanishing):
        @property
        def properties(self) -> LinkProperties:
            return LinkProperties(mtu=1500, mac=None, vnet_header=True)

    with pytest.raises(ValueError, match="without offload"):
        ImpairedLink(Offloaded(), seed=1, incoming=Impairment(corrupt=0.1))


def test_a_closed_end_of_a_cable_that_lingers_calls_its_owner_no_more() -> None:
    """A driver that has stopped reads nothing: a device that goes on calling it would never let the loop rest."""

    async def main() -> None:
        wire = MemoryWire(*MACS)
        impaired = ImpairedLink(wire.a, seed=1, outgoing=Impairment(delay=1.0), lingers=True)
        woken: list[None] = []
        impaired.attach(asyncio.get_running_loop(), lambda: woken.append(None))
        impaired.close()
        wire.b.send([numbered(1)])
        await asyncio.sleep(0.5)
        assert not woken
        assert wire.a.receive() is None  # taken, so that a device does not call again

    run_virtual(main())
