"""How much a node has in flight towards a kernel, what it offers the other way, how it waits after its close, and what it counts.

As in `test_kernel_recovery`, the verdict is that of the kernel's capture, with bounds that hold on a machine of any load.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from itertools import pairwise
from pathlib import Path

import dpkt
import pytest

from compat.kernel import Interface
from scenarios.engine.probes import inject
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import SocketOptions, TimeWait
from tapstack.tcp.statistics import Statistics
from tests.plugins import taps

from .damage import LOSE, PASS, damaged, data, ends, streamed
from .flow import Copy, Flow, flow
from .peer import (
    ACK,
    FIN,
    PATIENCE,
    PORT,
    RST,
    SYN,
    Packet,
    Program,
    Site,
    captured_segments,
    exchange,
    options,
    said,
    site,
)

pytestmark = pytest.mark.real("dumpcap")

DELAY = 0.1
"""Seconds from the kernel to the node, in which it cannot have heard an answer that has left."""
CLOCKS = 0.005
"""Seconds by which the capture's clock and the node's may differ in that time."""


def heard(seen: Flow, copy: Copy, delay: float = DELAY) -> int:
    """The most that the node can have heard to be acknowledged when it sent this."""
    return seen.acknowledged(copy.time - delay + CLOCKS)


# -- slow start and congestion avoidance -------------------------------------------------------------------


@pytest.mark.proves("ST-TCP-5")
@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
@pytest.mark.parametrize("opener", ["node", "kernel"])
def test_ten_segments_begin_and_the_flight_grows_by_what_is_acknowledged(
    opener: str, congestion: str, artefacts: Path
) -> None:
    async def main() -> None:
        async with damaged(artefacts, DELAY) as (made, _):
            await streamed(made, congestion, 200, opener)

    asyncio.run(main())
    seen = flow(artefacts)
    mss, new = seen.mss, [copy for copy in seen.copies if copy.previous is None]
    assert sum(not heard(seen, copy) for copy in new) <= 10, "more than ten segments were a guess (RFC 6928)"
    flights = []
    for copy in new:
        known = heard(seen, copy)
        flights.append(copy.end - known)
        assert flights[-1] <= 10 * mss + known, f"at {copy.start} more is in flight than slow start has allowed so far"
    assert max(flights) > 20 * mss, "it did not grow"


@pytest.mark.proves("ST-TCP-5")
def test_a_paced_window_leaves_at_its_rate(artefacts: Path) -> None:
    """No faster than twice the window a round trip, which is the rate of slow start; what answers a burst is no burst."""

    async def main() -> None:
        async with damaged(artefacts, DELAY) as (made, _):
            await streamed(made, "newreno", 200, pacing=True)

    asyncio.run(main())
    seen = flow(artefacts)
    mss = seen.mss
    paced = [copy for copy in seen.copies if copy.previous is None and heard(seen, copy)]
    assert len(paced) > 150
    for number, last in enumerate(paced):
        rate = 2 * (10 * mss + heard(seen, last)) / (DELAY - CLOCKS)
        for first in paced[max(0, number - 40) : number]:
            # Two segments may leave at once, and one late where the machine was busy before it left.
            allowed = rate * (last.time - first.time + CLOCKS) + 4 * mss
            assert last.end - first.start <= allowed, f"from {first.start} to {last.end} is a burst"


def curve(segments: float, elapsed: float) -> float:
    """Segments by which CUBIC's curve may grow in so many seconds after it reduced a window of `segments` (RFC 9438 §4.2)."""
    inflection: float = (segments * 0.3 / 0.4) ** (1 / 3)
    return 0.4 * ((elapsed - inflection) ** 3 + inflection**3)


@pytest.mark.proves("ST-TCP-5")
@pytest.mark.parametrize(("congestion", "left"), [("cubic", 0.7), ("newreno", 0.5)])
def test_a_loss_leaves_less_in_flight_which_then_grows_slowly(congestion: str, left: float, artefacts: Path) -> None:
    lost = 35

    async def main() -> None:
        async with damaged(artefacts, DELAY) as (made, path):
            path.fate = lambda segment: LOSE if segment.number == lost and not segment.again else PASS
            await streamed(made, congestion, 400)

    asyncio.run(main())
    seen = flow(artefacts)
    (hole,) = seen.starts(lost)
    repetition = next(copy for copy in seen.again() if copy.start == hole)
    point = seen.highest(repetition.place)
    flight = point - hole
    assert flight > 20 * seen.mss
    later = [copy for copy in seen.copies if copy.previous is None and point <= heard(seen, copy) < point + 2 * flight]
    assert len(later) > 20
    for copy in later:
        known = heard(seen, copy)
        rounds = 2 + (known - point) / (left * flight)
        grown = rounds + (curve(flight / seen.mss, copy.time - repetition.time + DELAY) if congestion == "cubic" else 0)
        assert copy.end - known <= left * flight + grown * seen.mss, (
            f"at {copy.start} more is in flight than a loss leaves"
        )


# -- what is offered the other way -------------------------------------------------------------------------

FIRST, MOST = 65_536, 262_144


@pytest.mark.proves("ST-TCP-12")
def test_the_window_grows_while_its_program_reads_and_closes_when_it_does_not(artefacts: Path) -> None:
    async def main() -> None:
        async with damaged(artefacts, 0.02) as (made, _):
            buffers = options(receive_buffer=FIRST, receive_buffer_maximum=MOST)
            program, kernel = await made.opened("kernel", buffers)
            loop, connection = asyncio.get_running_loop(), program.connection
            with kernel:
                await asyncio.wait_for(loop.sock_sendall(kernel, data(1500)), PATIENCE)
                async with asyncio.timeout(PATIENCE):
                    while len(program.received) < len(data(1500)):
                        await asyncio.sleep(0.005)
                connection.owner = None  # the program looks away
                sending = asyncio.ensure_future(loop.sock_sendall(kernel, data(4000)))
                async with asyncio.timeout(PATIENCE):
                    while connection.receiver.window() >= connection.sender.mss or not connection.receiver.queued:
                        await asyncio.sleep(0.005)
                connection.owner = program.signalled
                program.signalled(Signal.READABLE)
                await asyncio.wait_for(sending, PATIENCE)
                kernel.shutdown(socket.SHUT_WR)
                program.connection.shutdown(made.driver.now())
                await ends(program)
            assert len(program.received) == len(data(5500))

    asyncio.run(main())
    seen = flow(artefacts, node=False)
    windows = [answer.window for answer in seen.answers]
    assert windows[0] <= FIRST * 9 / 8, "the first offer is what was asked for"
    assert max(windows) >= 2 * windows[0], "it did not grow"
    assert max(windows) <= MOST * 9 / 8, "it grew beyond its bound"
    closed = next(n for n, window in enumerate(windows) if window < seen.mss)
    stood = seen.answers[closed].una
    unread = stood - len(data(1500))
    assert 0 < unread <= MOST * 9 / 8, "more was taken than fits"
    assert max(windows[closed:]) >= windows[0], "it opened again"
    edges = [answer.una + answer.window for answer in seen.answers]
    assert all(later > edge - seen.unit for edge, later in pairwise(edges)), "what was offered was taken back"
    edge = 0
    sent = {copy.place: copy.end for copy in seen.copies}
    offers = {answer.place: answer.una + answer.window for answer in seen.answers}
    for place in sorted(sent | offers):
        edge = max(edge, offers.get(place, 0))
        assert sent.get(place, 0) <= max(edge, windows[0])


# -- TIME-WAIT ---------------------------------------------------------------------------------------------

CLIENT = 40_404
"""The kernel's port, the same for both connections."""


async def first_closed(made: Site, time_wait: SocketOptions) -> Listener:
    """A connection from that port has ended, the node closed first; the kernel's socket is closed. Returns who listens."""
    listener = made.listening(time_wait)
    taken, kernel = await made.called(listener, CLIENT)
    program = Program(made.driver, taken, b"first")
    with kernel:
        assert await asyncio.wait_for(exchange(kernel, b""), PATIENCE) == b"first"
    await ends(program)
    return listener


async def called_again(made: Site, listener: Listener) -> tuple[Connection, socket.socket]:
    """The same call once more, as soon as the kernel has had the last acknowledgement of the one before."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await made.called(listener, CLIENT)
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL):
                    raise
            await asyncio.sleep(0.02)


def stamp(packet: Packet) -> int:
    """TSval; 0 without timestamps."""
    return int.from_bytes(packet.options.get(dpkt.tcp.TCP_OPT_TIMESTAMP, b"")[:4], "big")


@pytest.mark.proves("ST-TCP-13", "MUST-13")
@pytest.mark.parametrize("timestamps", [0, 1])
def test_a_newer_syn_on_the_same_ports_reopens_what_waits(timestamps: int, artefacts: Path) -> None:
    async def main() -> None:
        async with site(artefacts, tcp_timestamps=timestamps) as made:
            listener = await first_closed(made, options(time_wait=TimeWait.FULL))
            await asyncio.sleep(0.01)  # a step of the kernel's timestamps
            taken, kernel = await called_again(made, listener)
            program = Program(made.driver, taken, b"second")
            with kernel:
                assert await asyncio.wait_for(exchange(kernel, b""), PATIENCE) == b"second"
                await ends(program)

    asyncio.run(main())
    seen = said(artefacts)
    calls = [n for n, each in enumerate(seen) if not each.node and each.tcp.flags & (SYN | ACK) == SYN]
    again = next(n for n in calls if seen[n].tcp.seq != seen[calls[0]].tcp.seq)
    assert {(seen[n].tcp.sport, seen[n].tcp.dport) for n in calls} == {(CLIENT, PORT)}
    old, new = seen[:again], seen[again:]
    theirs = next(each for each in reversed(old) if not each.node)
    before, now = (stamp(theirs), stamp(new[0])) if timestamps else (theirs.tcp.seq, new[0].tcp.seq)
    assert 0 < (now - before) % 2**32 < 2**31, "it is newer"
    answer = next(each for each in new if each.node)
    assert answer.tcp.flags & (SYN | ACK | RST) == SYN | ACK, "a newer SYN is answered by a SYN-ACK at once"
    assert answer.tcp.ack == (new[0].tcp.seq + 1) % 2**32
    last = next(each for each in reversed(old) if each.node)
    assert 0 < (answer.tcp.seq - last.tcp.seq) % 2**32 < 2**31, "its numbers are beyond those of the old connection"


@pytest.mark.proves("ST-TCP-13")
@pytest.mark.parametrize("timestamps", [0, 1])
def test_an_old_syn_is_answered_by_an_acknowledgement(timestamps: int, artefacts: Path) -> None:
    """It is the kernel's own first SYN, which the network has kept back and delivers now."""

    async def main() -> None:
        async with damaged(artefacts, 0.001, tcp_timestamps=timestamps) as (made, path):
            answered = asyncio.Event()
            await first_closed(made, options(time_wait=TimeWait.FULL))

            def heard(packet: bytes) -> bool:
                answered.set()
                return False

            path.spoils = heard
            inject(Interface(made.space, "peer"), [taps.by_hand(path.opening)])
            await asyncio.wait_for(answered.wait(), PATIENCE)

    asyncio.run(main())
    seen = said(artefacts)
    calls = [n for n, each in enumerate(seen) if not each.node and each.tcp.flags & (SYN | ACK) == SYN]
    old, late = seen[: calls[-1]], seen[calls[-1] :]
    assert len(calls) > 1 and late[0].tcp.seq == seen[calls[0]].tcp.seq
    fins = {each.node: each for each in old if each.tcp.flags & FIN}
    answer = next(each for each in late if each.node)
    assert answer.tcp.flags & (SYN | ACK | RST | FIN) == ACK and not answer.length, "an old SYN opens nothing"
    ends_at = {side: (fin.tcp.seq + fin.length + 1) % 2**32 for side, fin in fins.items()}
    assert (answer.tcp.seq, answer.tcp.ack) == (ends_at[True], ends_at[False]), (
        "it tells where the old connection stands"
    )


@pytest.mark.proves("ST-TCP-13")
def test_a_fin_whose_acknowledgement_was_lost_is_acknowledged_again(artefacts: Path) -> None:
    async def main() -> None:
        async with damaged(artefacts, 0.001) as (made, path):
            acknowledgements = 0
            twice = asyncio.Event()

            def first_of_two(packet: bytes) -> bool:
                nonlocal acknowledgements
                tcp = dpkt.ip6.IP6(packet).data
                state = program.connection.state.value
                if not isinstance(tcp, dpkt.tcp.TCP) or state not in ("TIME-WAIT", "CLOSED"):
                    return False
                acknowledgements += 1
                if acknowledgements > 1:
                    twice.set()
                return acknowledgements == 1

            taken, kernel = await made.called(made.listening(options(time_wait=TimeWait.FULL)), CLIENT)
            program = Program(made.driver, taken, b"first")
            path.spoils = first_of_two
            with kernel:
                assert await asyncio.wait_for(exchange(kernel, b""), PATIENCE) == b"first"
            await asyncio.wait_for(twice.wait(), PATIENCE)

    asyncio.run(main())
    seen = captured_segments(artefacts)
    fins = [n for n, each in enumerate(seen) if not each.node and each.tcp.flags & FIN]
    assert len(fins) > 1 and len({seen[n].tcp.seq for n in fins}) == 1, "the kernel repeated its FIN"
    end = (seen[fins[0]].tcp.seq + seen[fins[0]].length + 1) % 2**32
    assert not [each for each in seen[: fins[1]] if each.node and each.sound and each.tcp.ack == end]
    answer = next(each for each in seen[fins[1] :] if each.node)
    assert answer.sound and answer.tcp.flags & (ACK | RST) == ACK and answer.tcp.ack == end
    assert not [each for each in seen if each.node and each.tcp.flags & RST]


# -- statistics --------------------------------------------------------------------------------------------


@pytest.mark.proves("ST-TCP-14")
def test_statistics_count_what_the_capture_counts(artefacts: Path) -> None:
    lost, told = (5, 40, 41, 200), list[Statistics]()

    async def main() -> None:
        async with damaged(artefacts, DELAY) as (made, path):
            path.fate = lambda segment: LOSE if segment.number in lost and not segment.again else PASS
            program, kernel = await made.opened("kernel", options())
            connection, loop, arrived = program.connection, asyncio.get_running_loop(), 0
            much = data(201)[: 200 * connection.sender.mss]
            with kernel:
                await loop.sock_sendall(kernel, b"hello")
                connection.write(much)
                made.driver.kick()
                while arrived < len(much):
                    arrived += len(await asyncio.wait_for(loop.sock_recv(kernel, 1 << 16), PATIENCE))
                async with asyncio.timeout(PATIENCE):
                    while connection.sender.buffered or len(program.received) < 5:
                        await asyncio.sleep(0.005)
                told.append(connection.statistics(made.driver.now()))
                connection.shutdown(made.driver.now())
                made.driver.kick()
                await asyncio.wait_for(exchange(kernel, b""), PATIENCE)
                await ends(program)

    asyncio.run(main())
    seen, (record,) = flow(artefacts), told
    again = seen.again()
    assert {copy.start for copy in again} >= set(seen.starts(*lost))
    assert record.segments_sent == len(seen.copies)
    assert record.retransmissions == len(again)
    assert record.bytes_sent == sum(copy.end - copy.start for copy in seen.copies)
    assert record.bytes_retransmitted == sum(copy.end - copy.start for copy in again)
    assert record.bytes_acked == seen.end == max(copy.end for copy in seen.copies)
    assert record.bytes_received == flow(artefacts, node=False).end == 5
    assert record.mss == seen.mss
    assert (record.unacked, record.lost, record.sacked, record.send_queue) == (0, 0, 0, 0)
    assert record.minimum_rtt is not None and record.srtt is not None
    took = seen.copies[-1].time - seen.copies[0].time + DELAY
    assert DELAY - CLOCKS < record.minimum_rtt <= record.srtt < took < record.age + CLOCKS
