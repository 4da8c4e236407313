"""Loss recovery of a node that sends to a kernel: what is repeated, why, and what is not.

The test loses and holds back what it names, on a path of constant delay; the verdict is that of the kernel's capture.  The bounds
hold on a machine of any load: that something did not come too early, and in which order things came.
"""

from __future__ import annotations

import asyncio
from itertools import pairwise
from pathlib import Path

import pytest

from .damage import LOSE, PASS, Passing, damaged, data, ends, streamed
from .flow import Copy, Flow, flow
from .peer import PATIENCE, exchange, options

pytestmark = pytest.mark.real("dumpcap")

DELAY = 0.05
"""Seconds from the kernel to the node; the least round trip."""
MINIMUM_RTO = 0.2
"""Seconds: what kernels keep to as well, and less than RFC 6298 (2.4) asks for."""

# -- time-outs ---------------------------------------------------------------------------------------------


@pytest.mark.proves("ST-TCP-4", "MUST-18", "MUST-19")
@pytest.mark.parametrize("sack", [0, 1])
def test_while_nothing_arrives_the_first_segment_is_repeated_at_doubled_intervals(sack: int, artefacts: Path) -> None:
    repeated, first = 3, 4
    over = False

    def outage(segment: Passing) -> int:
        nonlocal over
        lost = segment.number >= first and not over
        over |= segment.number == first and segment.again == repeated - 1
        return LOSE if lost else PASS

    async def main() -> None:
        async with damaged(artefacts, DELAY, tcp_sack=sack) as (made, path):
            path.fate = outage
            program, kernel = await made.opened("kernel", options(), data(40))
            with kernel:
                assert await asyncio.wait_for(exchange(kernel, b""), PATIENCE) == data(40)
                await ends(program)

    asyncio.run(main())
    seen = flow(artefacts)
    (start,) = seen.starts(first)
    tries = [copy for copy in seen.copies if copy.start == start]
    assert [copy.sound for copy in tries[: repeated + 1]] == [False] * repeated + [True]
    dark = [copy for copy in seen.again() if copy.place <= tries[repeated].place]
    assert {copy.start for copy in dark} == {start}, "nothing but the first segment is repeated into the dark"
    waits = [later.time - copy.time for copy, later in pairwise(tries[: repeated + 1])]
    assert all(wait >= (DELAY + MINIMUM_RTO) * 2**n for n, wait in enumerate(waits)), f"no back-off: {waits}"


@pytest.mark.proves("ST-TCP-4")
@pytest.mark.parametrize("timestamps", [0, 1])
def test_after_a_time_out_that_was_none_only_the_first_segment_was_repeated(timestamps: int, artefacts: Path) -> None:
    """Without timestamps F-RTO finds out (RFC 5682), with them Eifel does (RFC 3522)."""

    async def main() -> None:
        async with damaged(artefacts, DELAY, tcp_timestamps=timestamps) as (made, path):
            fired = asyncio.Event()

            def watch(segment: Passing) -> int:
                if segment.number == 1 and segment.again:
                    fired.set()
                return PASS

            path.fate = watch
            program, kernel = await made.opened("kernel", options())
            with kernel:
                path.keep()
                program.connection.write(data(40))
                program.connection.shutdown(made.driver.now())
                made.driver.kick()
                await asyncio.wait_for(fired.wait(), PATIENCE)
                path.sent.clear()
                path.give()  # alone: what it makes the node send is on its way before the next one
                await asyncio.wait_for(path.sent.wait(), PATIENCE)
                path.open()
                assert await asyncio.wait_for(exchange(kernel, b""), PATIENCE) == data(40)
                await ends(program)

    asyncio.run(main())
    seen = flow(artefacts)
    time_out = next(copy for copy in seen.again() if copy.start == 0)
    early = [copy for copy in seen.copies if copy.place < time_out.place]
    assert len(early) >= 10 and all(copy.sound for copy in early)
    assert seen.acknowledged(time_out.time) >= seen.starts(10)[0], "the kernel had said that it had them"
    again = {copy.start for copy in seen.again()} & {copy.start for copy in early}
    assert again == {0}, "what was only late is not sent again"


# -- fast recovery -----------------------------------------------------------------------------------------


def reported(seen: Flow, hole: int, copy: Copy, delay: float = DELAY) -> bool:
    """Whether the node can have heard, when it repeated `hole`, that something beyond it has arrived: by SACK or duplicates."""
    heard = [answer for answer in seen.answers if answer.time <= copy.time - 0.95 * delay]
    sacked = any(right > hole >= answer.una for answer in heard for _, right in answer.blocks)
    return sacked or [answer.una for answer in heard].count(hole) > 3


ANSWERS = 288_000.0
"""Bits per second: an answer each 2 ms or so, for something unanswered to be in flight when the hole is noticed."""
CASES = [
    ((5,), 1, "cubic"),
    ((5,), 1, "newreno"),
    ((5,), 1, "bbr"),
    ((3, 5, 8), 1, "cubic"),
    ((3, 5, 8), 1, "bbr"),
    ((5,), 0, "cubic"),
    ((3, 6), 0, "newreno"),
    ((3, 6), 0, "cubic"),
]


@pytest.mark.proves("ST-TCP-5", "ST-TCP-3", "ST-TCP-6")
@pytest.mark.parametrize(("lost", "sack", "congestion"), CASES)
def test_what_is_lost_is_repeated_once_it_is_reported_and_nothing_else(
    lost: tuple[int, ...], sack: int, congestion: str, artefacts: Path
) -> None:
    async def main() -> None:
        async with damaged(artefacts, DELAY, ANSWERS, tcp_sack=sack) as (made, path):
            path.fate = lambda segment: LOSE if segment.number in lost and not segment.again else PASS
            await streamed(made, congestion, 100)

    asyncio.run(main())
    seen = flow(artefacts)
    holes = seen.starts(*lost)
    assert seen.hasty(2 * DELAY) <= set(holes), "something was repeated that nobody missed"
    firsts = [next(copy for copy in seen.again() if copy.start == hole) for hole in holes]
    for hole, copy in zip(holes, firsts, strict=True):
        assert reported(seen, hole, copy) or (hole != holes[0] and not sack), (
            f"{hole} was repeated before it was missed"
        )
    # Who waits for a time-out sends nearly all before, on what the later ones' answers allow.
    for later, copy in enumerate(firsts):
        new = {each.start for each in seen.copies if each.place < copy.place}
        assert len(new) <= 2 * lost[0] + 15 + 10 * later, "recovery was not fast"
    for hole, copy in zip(holes[1:], firsts[1:], strict=True):
        if not sack:
            partial = next(answer for answer in seen.answers if answer.una == hole)
            assert copy.time >= partial.time + 0.95 * DELAY, (
                "without SACK a hole is known when the one before is filled"
            )
    assert seen.acknowledged(firsts[0].time) == holes[0]


@pytest.mark.proves("ST-TCP-3")
@pytest.mark.parametrize("lost", [(5,), (3, 5, 8)])
def test_a_kernel_that_sends_hears_exactly_what_is_missing(lost: tuple[int, ...], artefacts: Path) -> None:
    async def main() -> None:
        async with damaged(artefacts, DELAY) as (made, path):
            path.incoming_fate = lambda segment: LOSE if segment.number in lost and not segment.again else PASS
            program, kernel = await made.opened("node", options())
            with kernel:
                program.connection.shutdown(made.driver.now())
                made.driver.kick()
                assert await asyncio.wait_for(exchange(kernel, data(60)), PATIENCE) == b""
                await ends(program)
            assert program.received == data(60)

    asyncio.run(main())
    seen = flow(artefacts, node=False)
    holes = set(seen.starts(*lost))
    assert holes <= {copy.start for copy in seen.again()}
    assert seen.hasty(1.5 * DELAY) <= holes, "the kernel took the reports for more than they should say"
    first = next(copy for copy in seen.again() if copy.start == min(holes))
    reports = [answer for answer in seen.answers if answer.una == min(holes) and answer.place < first.place]
    assert any(answer.blocks for answer in reports), "nothing told of the hole"
    for answer in seen.answers:
        said = {copy.start for copy in seen.copies for left, right in answer.blocks if left <= copy.start < right}
        early = {copy.start for copy in seen.copies if copy.time <= answer.time - 0.95 * DELAY}
        assert said <= early, "what is on its way is reported as here"
        assert answer.place > first.place or not said & holes, "what is missing is reported as here"


# -- RACK and the tail loss probe --------------------------------------------------------------------------


@pytest.mark.proves("ST-TCP-6")
@pytest.mark.parametrize("lost", [(10,), (8, 9, 10)])
def test_a_lost_tail_is_found_by_repeating_its_last_segment(lost: tuple[int, ...], artefacts: Path) -> None:
    """A time-out would begin with the first of what is lost."""

    async def main() -> None:
        async with damaged(artefacts, DELAY) as (made, path):
            path.fate = lambda segment: LOSE if segment.number in lost and not segment.again else PASS
            program, kernel = await made.opened("kernel", options())
            much = data(11)[: 10 * program.connection.sender.mss]
            with kernel:
                program.connection.write(much)
                made.driver.kick()
                loop, arrived = asyncio.get_running_loop(), bytearray()
                while len(arrived) < len(much):
                    arrived += await asyncio.wait_for(loop.sock_recv(kernel, 1 << 16), PATIENCE)
                program.connection.shutdown(made.driver.now())
                made.driver.kick()
                assert arrived == much
                assert await asyncio.wait_for(exchange(kernel, b""), PATIENCE) == b""
                await ends(program)

    asyncio.run(main())
    seen = flow(artefacts)
    again = seen.again()
    assert again[0].start == seen.starts(10)[0], "the probe repeats the end"
    assert {copy.start for copy in again} == set(seen.starts(*lost))
    before = [copy for copy in seen.copies if copy.place < again[0].place]
    assert again[0].time - before[-1].time >= 2 * 0.95 * DELAY, "a probe waits for two round trips (RFC 8985 §7.2)"


LATE_DELAY = 0.1
LATE = range(20, 200, 15)


@pytest.mark.proves("ST-TCP-6")
def test_what_is_late_by_less_than_the_reordering_window_is_not_repeated(artefacts: Path) -> None:
    """Four overtake it each time, more than duplicates it takes; RACK waits once it knows of reordering (RFC 8985 §6.2)."""

    async def main() -> None:
        async with damaged(artefacts, LATE_DELAY) as (made, path):
            path.fate = lambda segment: 4 if segment.number in LATE and not segment.again else PASS
            await streamed(made, "cubic", 220)

    asyncio.run(main())
    seen = flow(artefacts)
    judged = 0
    for start in seen.starts(*LATE)[1:]:
        overtaken = next(
            answer for answer in seen.answers if any(right > start >= answer.una for _, right in answer.blocks)
        )
        tries = [copy for copy in seen.copies if copy.start == start]
        window = overtaken.time + 1.25 * 0.95 * LATE_DELAY
        assert not [copy for copy in tries[1:] if copy.time < window], f"{start} was repeated within the window"
        judged += tries[0].time < overtaken.time + LATE_DELAY / 8
    assert judged, "none was only a little late"
