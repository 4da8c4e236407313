"""A path between a node and a kernel on which the test chooses what is lost and what is late.

What is lost of the node's segments still reaches the kernel's interface, with its checksum spoilt: the kernel discards it, and
the capture shows when it was sent.  What is lost of the kernel's is in the capture before it is lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dpkt

from tapstack.link.base import Link
from tapstack.link.impairment import ImpairedLink, Impairment
from tapstack.types import Frame
from tests.plugins import taps

from .peer import PATIENCE, Program, Site, exchange, options, site

SEGMENT = 1440
"""No segment on a TUN of 1500 bytes has more data."""
LOSE = -1
PASS = 0
_CHECKSUM = slice(56, 58)
"""Of a TCP segment behind an IPv6 header without extensions."""


@dataclass(frozen=True, slots=True)
class Passing:
    """A segment with data on its way.

    number: its data's place among all data of its sender, from 1, by first transmissions.  again: how often its first
    sequence number was sent before.
    """

    number: int
    again: int
    tcp: Any


class Numbering:
    """Numbers what one sender sends."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._copies: Counter[int] = Counter()

    def of(self, frame: bytes) -> Passing | None:
        """What the frame is; None where it carries no data of TCP."""
        packet = dpkt.ip6.IP6(frame)
        if not isinstance(packet.data, dpkt.tcp.TCP) or not packet.data.data:
            return None
        tcp = packet.data
        number = self._numbers.setdefault(tcp.seq, len(self._numbers) + 1)
        self._copies[tcp.seq] += 1
        return Passing(number, self._copies[tcp.seq] - 1, tcp)


class Damaged(ImpairedLink):
    """What comes from the kernel takes `delay` seconds; otherwise nothing happens but what the test asks for.

    rate: bits per second of a bottleneck that it passes before; None for none.
    fate: of each segment with data from the node: PASS, LOSE, or the number of later ones that it is to follow.
    incoming: whether a segment with data from the kernel passes.
    spoils: whether any other packet of the node is lost.
    opening: the kernel's first packet of TCP.
    """

    def __init__(self, link: Link, delay: float, rate: float | None = None) -> None:
        super().__init__(link, seed=0, incoming=Impairment(delay=delay, rate=rate))
        taps.disturbs()
        self.fate: Callable[[Passing], int] = lambda segment: PASS
        self.incoming_fate: Callable[[Passing], int] = lambda segment: PASS
        self.spoils: Callable[[bytes], bool] = lambda packet: False
        self.sent = asyncio.Event()
        """Set whenever the node has sent data."""
        self.opening = b""
        self._mine, self._kernels = Numbering(), Numbering()
        self._late: list[tuple[int, bytes]] = []
        self._kept: list[bytes] | None = None

    def send(self, frame: Frame) -> bool:
        data = b"".join(frame)
        segment = self._mine.of(data)
        if segment is None:
            return self._pass_on(data, lost=self.spoils(data))
        self.sent.set()
        fate = self.fate(segment)
        if fate > 0:
            self._late.append((fate + 1, data))
        else:
            self._pass_on(data, lost=fate == LOSE)
        self._late = [(left - 1, held) for left, held in self._late]
        for left, held in self._late:
            if not left:
                self._pass_on(held, lost=False)
        self._late = [each for each in self._late if each[0]]
        return True

    def _pass_on(self, data: bytes, *, lost: bool) -> bool:
        if lost:
            changed = bytearray(data)
            changed[_CHECKSUM] = bytes(255 - byte for byte in data[_CHECKSUM])
            data = taps.by_hand(bytes(changed))
        return super().send([data])

    # -- what comes from the kernel --------------------------------------------------------------

    def keep(self) -> None:
        """From now on nothing arrives at the node, until `give` and `open`."""
        self._kept = []

    def give(self) -> None:
        """Let the oldest of what is kept arrive."""
        assert self._kept
        super()._arrive([self._kept.pop(0)])

    def open(self) -> None:
        """Let all that is kept arrive at once, and from now on everything."""
        kept, self._kept = self._kept or [], None
        super()._arrive(kept)

    def _arrive(self, frames: list[bytes]) -> None:
        passing = []
        for frame in frames:
            if not self.opening and isinstance(dpkt.ip6.IP6(frame).data, dpkt.tcp.TCP):
                self.opening = frame
            segment = self._kernels.of(frame)
            if segment is None or self.incoming_fate(segment) == PASS:
                passing.append(frame)
        if self._kept is not None:
            self._kept += passing
        else:
            super()._arrive(passing)


@asynccontextmanager
async def damaged(
    artefacts: Path, delay: float, rate: float | None = None, **settings: int
) -> AsyncIterator[tuple[Site, Damaged]]:
    """A site, and the path on which the test may lose and hold back."""
    made: list[Damaged] = []

    def path(link: Link) -> Link:
        made.append(Damaged(link, delay, rate))
        return made[0]

    async with site(artefacts, path, **settings) as where:
        yield where, made[0]


def data(segments: int) -> bytes:
    """Bytes that need at least so many segments, each unlike its neighbours."""
    return b"".join(number.to_bytes(4, "big") * (SEGMENT // 4) for number in range(segments))


async def ends(program: Program) -> None:
    """Both streams end in order."""
    await asyncio.wait_for(program.ended.wait(), PATIENCE)
    assert program.connection.error is None


async def streamed(made: Site, congestion: str, segments: int, opener: str = "kernel", **own: Any) -> None:
    """The node sends so many segments to a kernel, which gets them all."""
    program, kernel = await made.opened(opener, options(congestion=congestion, **own), data(segments))
    with kernel:
        assert await asyncio.wait_for(exchange(kernel, b""), PATIENCE) == data(segments)
        await ends(program)
