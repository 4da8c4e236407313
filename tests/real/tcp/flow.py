"""One direction of a connection as the capture at the kernel's interface shows it: each transmission, and each answer.

Numbers are bytes of the stream, the first is 0; times are those of the capture, in seconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import dpkt

from .peer import ACK, RST, SYN, captured_segments

_WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class Copy:
    """One transmission of data from `start` to `end`; place: in the capture.

    previous: when the same first byte was sent before, None for the first time.  sound: whether the receiver could take it.
    """

    place: int
    time: float
    start: int
    end: int
    previous: float | None
    sound: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """One acknowledgement: everything before `una` has arrived, and `blocks` beyond it, as SACK reports them.

    window: bytes that may follow `una`.
    """

    place: int
    time: float
    una: int
    blocks: tuple[tuple[int, int], ...]
    window: int


@dataclass(frozen=True, slots=True)
class Flow:
    """What one end sent, and what the other answered, both in order of the capture; unit: bytes in which windows are told."""

    copies: list[Copy]
    answers: list[Answer]
    unit: int

    @property
    def mss(self) -> int:
        """The largest segment's data."""
        return max(copy.end - copy.start for copy in self.copies)

    @property
    def end(self) -> int:
        """Behind the last byte."""
        return max(copy.end for copy in self.copies)

    def again(self) -> list[Copy]:
        """Repetitions."""
        return [copy for copy in self.copies if copy.previous is not None]

    def hasty(self, seconds: float) -> set[int]:
        """What was sent again within so many seconds: no timer can have asked for it, however busy the machine was."""
        return {
            copy.start for copy in self.again() if copy.previous is not None and copy.time - copy.previous < seconds
        }

    def starts(self, *numbers: int) -> list[int]:
        """The first bytes of segments by their numbers, from 1."""
        firsts = sorted({copy.start for copy in self.copies})
        return [firsts[number - 1] for number in numbers]

    def acknowledged(self, until: float) -> int:
        """What answers that left before `until` acknowledge."""
        return max((answer.una for answer in self.answers if answer.time <= until), default=0)

    def highest(self, place: int) -> int:
        """Behind the last byte of what was sent before a place of the capture."""
        return max((copy.end for copy in self.copies if copy.place < place), default=0)


def flow(artefacts: Path, *, node: bool = True) -> Flow:
    """The data of the node, or of the kernel, of the one connection that was captured."""
    seen = captured_segments(artefacts)
    syn = next(each for each in seen if each.node == node and each.tcp.flags & SYN and each.sound)
    other = next(each for each in seen if each.node != node and each.tcp.flags & SYN and each.sound)
    both = syn.options.keys() & other.options.keys()
    scale = other.options[dpkt.tcp.TCP_OPT_WSCALE][0] if dpkt.tcp.TCP_OPT_WSCALE in both else 0

    first: int = syn.tcp.seq + 1

    def place(number: int) -> int:
        return (number - first) % _WRAP

    copies: list[Copy] = []
    answers: list[Answer] = []
    last: dict[int, float] = {}
    for number, each in enumerate(seen):
        tcp = each.tcp
        if tcp.flags & (SYN | RST):
            continue
        if each.node == node and each.length:
            start = place(tcp.seq)
            copies.append(Copy(number, each.time, start, start + each.length, last.get(start), each.sound))
            last[start] = each.time
        elif each.node != node and tcp.flags & ACK:
            report = each.options.get(dpkt.tcp.TCP_OPT_SACK, b"")
            edges = [place(int.from_bytes(report[at : at + 4], "big")) for at in range(0, len(report), 4)]
            blocks = tuple(zip(edges[::2], edges[1::2], strict=True))
            answers.append(Answer(number, each.time, place(tcp.ack), blocks, tcp.win << scale))
    return Flow(copies, answers, 1 << scale)
