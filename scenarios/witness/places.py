"""Where the frames of one capture stand in their connections: what a remark about their order has to be measured by.

A second dissector judges order frame by frame, by times and ports.  Here whole connections are known, whatever their
ports (flows.py), and what came later.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from .flows import Connection, Side, track
from .frames import FIN, RST, SYN, Frame

Number = tuple[str, int]
"""A frame by its file and its number there."""


class Places(NamedTuple):
    """The frames of one capture that do not simply follow."""

    odd: frozenset[Number]
    """out of order in their connection itself, which is no matter of ports"""
    repeats: frozenset[Number]
    """by a unified node: bytes that the same capture shows a round trip earlier or more; by others: at any time before"""
    exchanged: frozenset[Number]
    """by others than unified nodes: what overtook bytes that came after it, and these"""
    forgotten: frozenset[Number]
    """resets by others than unified nodes, after both FINs were acknowledged: a FIN that was sent twice is acknowledged
    twice, and the second acknowledgement meets a peer without that connection"""


def places(frames: list[Frame], pairs: set[frozenset[bytes]], by_node: Callable[[Frame], bool]) -> Places:
    """Where the frames of the address pairs stand; `by_node` tells whether a unified node sent one."""
    tracker = track(frames, lambda src, dst: frozenset((src, dst)) in pairs)
    odd, repeats, exchanged, forgotten = list(tracker.strays), list[Frame](), list[Frame](), list[Frame]()
    for connection in tracker.connections:
        for side in (connection.client, connection.server):
            odd += (*side.gaps, *side.again, *side.foreseen)
            own = any(by_node(frame) for frame in (*side.gaps[:1], *side.again[:1]))
            if not side.gaps:
                repeats += _not_at_once(connection, side) if own else side.again
            elif not own and not _holes(connection, side):
                exchanged += (*side.gaps, *side.again)
        if connection.closed is not None:
            end = connection.closed.order
            forgotten += (f for f in connection.frames if f.flags & RST and f.order > end and not by_node(f))
    return Places(_numbers(odd), _numbers(repeats), _numbers(exchanged), _numbers(forgotten))


def _numbers(frames: Iterable[Frame]) -> frozenset[Number]:
    return frozenset((frame.file, frame.number) for frame in frames)


def _not_at_once(connection: Connection, side: Side) -> Iterator[Frame]:
    """Repeats that came a round trip after the same bytes, or later: sooner nobody can know that they are missing."""
    if connection.established is None:
        return
    round_trip = connection.established.time - connection.syn.time
    begins, times = list[int](), list[float]()  # of what was new when it was sent
    last_repeat: dict[int, float] = {}
    again = set(side.again)
    for frame in connection.frames:
        if frame.src != side.address or not frame.payload:
            continue
        begin = side.relative(frame.seq, begins[-1] if begins else 1)
        if frame in again:
            before = last_repeat.get(begin, times[bisect_right(begins, begin) - 1])
            last_repeat[begin] = frame.time
            if frame.time - before >= round_trip:
                yield frame
        else:
            begins.append(begin)
            times.append(frame.time)


def _holes(connection: Connection, side: Side) -> list[tuple[int, int]]:
    """What of the side's sequence space the capture never shows, as (begin, end) counted from its SYN."""
    holes: list[tuple[int, int]] = []
    top = 1  # the SYN is number 0
    for frame in connection.frames:
        if frame.src != side.address or frame.flags & (SYN | RST):
            continue
        begin = side.relative(frame.seq, top)
        end = begin + frame.payload + bool(frame.flags & FIN)
        if begin > top:
            holes.append((top, begin))
        elif begin < end:
            holes = [part for hole in holes for part in _without(hole, begin, end)]
        top = max(top, end)
    return holes


def _without(hole: tuple[int, int], begin: int, end: int) -> list[tuple[int, int]]:
    """What is left of a hole.

    >>> _without((10, 20), 12, 15), _without((10, 20), 5, 25), _without((10, 20), 20, 25)
    ([(10, 12), (15, 20)], [], [(10, 20)])
    """
    left = [(hole[0], min(hole[1], begin)), (max(hole[0], end), hole[1])]
    return [(a, b) for a, b in left if a < b]
