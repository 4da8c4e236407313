"""The kernel's TCP as peer, over a bad path: what both agree on, that every byte arrives, and how connections end.

What was agreed and said is read from what dumpcap saw at the kernel, and from the kernel's TCP_INFO and counters.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path
from random import Random

import dpkt
import pytest

from scenarios.witness.frames import Checksum
from tapstack.events import DropReason
from tapstack.link.base import Link
from tapstack.link.impairment import ImpairedLink, Impairment
from tapstack.tcp.connection import Signal
from tapstack.tcp.options import Ecn, TimeWait
from tapstack.types import Frame
from tests.plugins import taps

from ..um import judge
from ..wire import frames
from .peer import (
    ACK,
    CAPTURE,
    CWR,
    ECE,
    FIN,
    HEADERS,
    OWN,
    PATIENCE,
    RST,
    SYN,
    URG,
    Packet,
    exchange,
    options,
    said,
    site,
)

pytestmark = pytest.mark.real("dumpcap")

BAD = Impairment(loss=0.02, reorder=0.05, duplicate=0.01, corrupt=0.01, delay=0.003, reorder_delay=0.004)
TIMESTAMPS, SACK, WINDOW_SCALE, ECN = 1, 2, 4, 8
"""Bits of tcpi_options."""
DATA = Random(11).randbytes(250_000)


class Disturbed(ImpairedLink):
    """A bad path; what it changes on its way to the kernel is the test's doing."""

    def __init__(self, link: Link, *, seed: int, path: Impairment) -> None:
        super().__init__(link, seed=seed, outgoing=path, incoming=path)
        self._whole: set[bytes] = set()

    def send(self, frame: Frame) -> bool:
        self._whole.add(b"".join(frame))
        return super().send(frame)

    def _leave(self, frames: list[bytes]) -> None:
        for frame in frames:
            if frame not in self._whole:
                taps.by_hand(frame)
        super()._leave(frames)


def session(artefacts: Path) -> judge.Session:
    """The one connection at the kernel's interface."""
    path = artefacts / CAPTURE
    sound = {frame.number for frame in frames(path) if frame.checksum is Checksum.GOOD}
    (found,) = judge.sessions((s for s in judge.segments(path) if s.number in sound), by_ports=True)
    return found


def streams(found: judge.Session) -> dict[bool, bytes]:
    """What the node (True) and the kernel (False) said, by sequence numbers."""
    mine = found.client == OWN
    return {mine: found.request, not mine: found.answer}


def shown(seen: list[Packet]) -> int:
    """What SYN and SYN-ACK agree on, as bits of tcpi_options."""
    answer = next(n for n, each in enumerate(seen) if each.tcp.flags & (SYN | ACK) == SYN | ACK)
    asked = next(each for each in reversed(seen[:answer]) if each.tcp.flags & SYN)
    both = asked.options.keys() & seen[answer].options.keys()
    bits = {
        dpkt.tcp.TCP_OPT_TIMESTAMP: TIMESTAMPS,
        dpkt.tcp.TCP_OPT_SACKOK: SACK,
        dpkt.tcp.TCP_OPT_WSCALE: WINDOW_SCALE,
    }
    ecn: bool = asked.tcp.flags & (ECE | CWR) == ECE | CWR and seen[answer].tcp.flags & (ECE | CWR) == ECE
    return sum(bit for kind, bit in bits.items() if kind in both) + ecn * ECN


def agreed(kernel: socket.socket) -> int:
    """tcpi_options of the kernel's socket."""
    return kernel.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)[5]


ALL = TIMESTAMPS | SACK | WINDOW_SCALE
CASES = [
    ("node", {}, {}, ALL),
    ("kernel", {}, {}, ALL),
    ("node", {"tcp_sack": 0}, {}, TIMESTAMPS | WINDOW_SCALE),
    ("kernel", {"tcp_timestamps": 0}, {}, SACK | WINDOW_SCALE),
    ("node", {"tcp_window_scaling": 0}, {"congestion": "newreno"}, TIMESTAMPS | SACK),
    ("kernel", {"tcp_ecn": 1}, {"ecn": Ecn.REQUEST, "congestion": "bbr"}, ALL | ECN),
    ("node", {"tcp_syncookies": 2}, {"ecn": Ecn.REQUEST}, ALL | ECN),
    ("kernel", {}, {"sack": False, "timestamps": False}, WINDOW_SCALE),
]


@pytest.mark.proves("ST-TCP-1", "ST-TCP-2", "ST-TCP-3", "ST-TCP-7")
@pytest.mark.parametrize(("opener", "settings", "own", "expected"), CASES)
def test_both_streams_arrive_equal_whatever_is_agreed(
    opener: str, settings: dict[str, int], own: dict[str, object], expected: int, artefacts: Path
) -> None:
    async def main() -> int:
        async with site(artefacts, lambda link: Disturbed(link, seed=1, path=BAD), **settings) as made:
            # What the path repeats or delays beyond the node's last ACK meets TIME-WAIT; nobody there would answer with a reset.
            program, kernel = await made.opened(opener, options(time_wait=TimeWait.FULL, **own), DATA)
            with kernel:
                assert agreed(kernel) & ALL == expected & ALL
                asked = ECN if program.connection.ecn.usable else 0
                assert agreed(kernel) & ECN == asked
                bits = agreed(kernel) & (ALL | ECN)
                # A SYN that the path lost is repeated without asking (RFC 3168 §6.1.1.1); which of them is answered is chance.
                assert (
                    asked == expected & ECN or program.connection.syn_retransmitted or made.counters()["TCPSynRetrans"]
                )
                arrived = await asyncio.wait_for(exchange(kernel, DATA[::-1]), PATIENCE)
                await asyncio.wait_for(program.ended.wait(), PATIENCE)
            assert arrived == DATA
            assert program.received == DATA[::-1]
            assert program.connection.error is None
            counters = made.counters()
            assert counters["TCPSACKReneging"] == 0
            assert counters["EmbryonicRsts"] == 0
            return bits

    bits = asyncio.run(main())
    found = session(artefacts)
    assert streams(found) == {True: DATA, False: DATA[::-1]}
    seen = said(artefacts)
    assert shown(seen) == bits
    sent = [each for each in seen if each.node and not each.tcp.flags & (SYN | RST)]
    assert not [each for each in found.resets() if found.over is None or each.number < found.over], (
        "a reset before the end"
    )
    stamped = sum(dpkt.tcp.TCP_OPT_TIMESTAMP in each.options for each in sent)
    assert stamped == (len(sent) if expected & TIMESTAMPS else 0), "each segment has a timestamp, or none"
    assert any(dpkt.tcp.TCP_OPT_SACK in each.options for each in sent) == bool(expected & SACK)


@pytest.mark.proves("ST-TCP-10")
@pytest.mark.parametrize("stamps", [0, 1])
def test_a_kernel_takes_our_cookie(stamps: int, artefacts: Path) -> None:
    async def main() -> None:
        async with site(artefacts, tcp_timestamps=stamps) as made:
            made.driver.stack.tcp.passive.limit = 0
            program, kernel = await made.opened("kernel", options(), DATA)
            with kernel:
                assert agreed(kernel) & ALL == (ALL if stamps else 0)
                assert await asyncio.wait_for(exchange(kernel, DATA), PATIENCE) == DATA
                await asyncio.wait_for(program.ended.wait(), PATIENCE)
            assert program.received == DATA
            assert made.driver.stack.counters.drops[DropReason.TCP_COOKIE_SENT] >= 1

    asyncio.run(main())
    assert streams(session(artefacts)) == {True: DATA, False: DATA}
    assert shown(said(artefacts)) == (ALL if stamps else 0), "a cookie keeps options in its timestamp only"


@pytest.mark.proves("ST-TCP-11", "MUST-30", "MUST-62")
def test_urgent_data_both_ways(artefacts: Path) -> None:
    """The kernel takes the last byte of urgent data for the mark, as Berkeley's sockets always did."""

    async def main() -> None:
        async with site(artefacts) as made:
            loop = asyncio.get_running_loop()
            program, kernel = await made.opened("node", options())
            with kernel:
                program.connection.write_urgent(b"now!")
                made.driver.kick()
                assert await asyncio.wait_for(loop.sock_recv(kernel, 100), PATIENCE) == b"now"
                assert kernel.recv(1, socket.MSG_OOB) == b"!"
                kernel.send(b"before")
                kernel.send(b"X", socket.MSG_OOB)
                await program.until(Signal.URGENT)
                async with asyncio.timeout(PATIENCE):
                    while program.received != b"beforeX":
                        await asyncio.sleep(0.005)

    asyncio.run(main())
    urgent = next(each.tcp for each in said(artefacts) if each.node and each.tcp.flags & URG)
    assert bytes(urgent.data) == b"now!"
    assert urgent.urp == 4, "the pointer names the octet after the urgent data (RFC 9293 §3.8.5)"


@pytest.mark.proves("ST-TCP-11", "ST-TCP-8")
@pytest.mark.parametrize("who", ["node", "kernel"])
def test_an_abort_reaches_the_other(who: str, artefacts: Path) -> None:
    async def main() -> None:
        async with site(artefacts) as made:
            loop = asyncio.get_running_loop()
            program, kernel = await made.opened("node", options())
            with kernel:
                if who == "kernel":
                    kernel.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    kernel.close()
                    await program.until(Signal.CLOSED)
                    assert isinstance(program.connection.error, ConnectionResetError)
                else:
                    program.connection.abort(made.driver.now())
                    made.driver.kick()
                    with pytest.raises(ConnectionResetError):
                        await asyncio.wait_for(loop.sock_recv(kernel, 1), PATIENCE)
            assert not len(made.driver.stack.tcp.demux)

    asyncio.run(main())
    (*_, last) = seen = said(artefacts)
    assert last.tcp.flags & RST and last.node == (who == "node"), "a reset, and nothing after it"
    expected = next(each.tcp.ack for each in reversed(seen) if each.node != last.node)
    assert last.tcp.seq == expected, "with exactly the number that the other expects (RFC 5961 §3)"


@pytest.mark.proves("ST-TCP-11")
def test_a_half_closed_connection_and_a_window_that_was_closed(artefacts: Path) -> None:
    async def main() -> None:
        async with site(artefacts, snaplen=HEADERS) as made:
            program, kernel = await made.opened("node", options(), b"request")
            with kernel:
                loop = asyncio.get_running_loop()
                assert await asyncio.wait_for(loop.sock_recv(kernel, 100), PATIENCE) == b"request"
                assert await asyncio.wait_for(loop.sock_recv(kernel, 100), PATIENCE) == b""
                assert program.connection.state.value in ("FIN-WAIT-1", "FIN-WAIT-2")
                connection, much = program.connection, DATA * 20
                connection.owner = None  # the program looks away
                sending = asyncio.ensure_future(loop.sock_sendall(kernel, much))
                async with asyncio.timeout(PATIENCE):
                    while connection.receiver.window() > 1428:
                        await asyncio.sleep(0.005)
                connection.owner = program.signalled
                program.signalled(Signal.READABLE)
                await asyncio.wait_for(sending, PATIENCE)
                kernel.shutdown(socket.SHUT_WR)
                await asyncio.wait_for(program.ended.wait(), PATIENCE)
            assert program.received == much

    asyncio.run(main())
    seen = said(artefacts)
    over = next(n for n, each in enumerate(seen) if each.node and each.tcp.flags & FIN)
    later = seen[over + 1 :]
    assert not [each for each in later if each.node and each.length], "its own stream has ended"
    first = next(each.tcp.seq for each in later if not each.node and each.length)
    end = next(each for each in later if not each.node and each.tcp.flags & FIN)
    said_by_then = (end.tcp.seq + end.length - first) % 2**32
    assert said_by_then == len(DATA) * 20
    assert [each for each in later if each.node and each.tcp.ack == (first + said_by_then + 1) % 2**32]
    (scale,) = seen[0].options[dpkt.tcp.TCP_OPT_WSCALE]
    windows = [each.tcp.win << scale for each in later if each.node]
    closed = next(n for n, window in enumerate(windows) if window <= 1428)
    assert max(windows[closed:]) > 100_000, "the window was closed, and opened again"


@pytest.mark.proves("ST-TCP-11")
def test_a_kernel_whose_program_does_not_read_is_acknowledged_all_the_while(artefacts: Path) -> None:
    async def main() -> None:
        async with site(artefacts, snaplen=HEADERS) as made:
            program, kernel = await made.opened("node", options())
            with kernel:
                connection = program.connection
                connection.write(DATA * 40)
                made.driver.kick()
                async with asyncio.timeout(PATIENCE):
                    while not (connection.timers.persisting and connection.timers.persist_backoff):
                        await asyncio.sleep(0.005)
                loop = asyncio.get_running_loop()
                await asyncio.wait_for(loop.sock_sendall(kernel, DATA * 4), PATIENCE)
                async with asyncio.timeout(PATIENCE):
                    while len(program.received) < len(DATA) * 4:
                        await asyncio.sleep(0.005)
                assert connection.timers.persisting, "the window stayed closed"
            assert program.received == DATA * 4

    asyncio.run(main())
    seen = said(artefacts)
    closed = next(n for n, each in enumerate(seen) if not each.node and not each.tcp.win and each.tcp.flags & ACK)
    probes = [
        each for each in seen[closed:] if each.node and (each.tcp.seq - seen[closed].tcp.ack) % 2**32 in (0, 2**32 - 1)
    ]
    assert probes, "the closed window was probed"
    begin = next(each.tcp.seq for each in seen[closed:] if not each.node and each.length)
    numbers = [(each.tcp.ack - begin) % 2**32 for each in seen[closed:] if each.node]
    assert max(number for number in numbers if number < 2**31) == len(DATA) * 4
