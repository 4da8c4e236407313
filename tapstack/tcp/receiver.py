"""The receiving half of a connection: reassembly, window, what to acknowledge when.

Model.  `rcv_nxt` is the next byte expected.  Bytes before it stand in `_ready` until the application takes
them; bytes after it, `beyond` of them, stand in *runs*, each a contiguous range with its pieces, sorted and disjoint, with a
hole before each.  A SACK block is a run.  The advertised right edge `rcv_adv` never moves left (RFC 9293 SHLD-14), and moves
right only in steps worth a segment (SWS avoidance, MUST-39).  What the window field can say of it may lie less than one unit of
the scale to the left, where saying more would promise more than there is (RFC 7323 §2.4); what `rcv_adv` allows is still taken.

Payload is kept as views of the received frames; nothing is copied here but small pieces, which would pin a frame
and an object each: those are gathered in buffers of up to `_GATHER` bytes, and what is new of a large frame that repeats the
rest is copied out of it.  So what is kept costs at most a few times its length, whatever the segments' sizes.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import lru_cache

from ..types import Buffer

MAXIMUM_WINDOW_SCALE = 14
_SMALL = 256
_GATHER = 4096
_MAXIMUM_RUNS = 512
_RECENT = 4
_LARGEST_SHARE = 4
"""A piece that is less than one in so many bytes of the frame that it came in is copied out of it."""


class Run:
    """A contiguous range beyond a hole."""

    __slots__ = ("end", "pieces", "start")

    def __init__(self, start: int, end: int, pieces: list[Buffer]) -> None:
        self.start = start
        self.end = end
        self.pieces = pieces


def gather(pieces: list[Buffer], piece: Buffer) -> None:
    """Append a piece, a small one to the gathering buffer at the end."""
    if len(piece) >= _SMALL:
        pieces.append(piece)
        return
    last = pieces[-1] if pieces else None
    if isinstance(last, bytearray) and len(last) < _GATHER:
        last += piece
    else:
        pieces.append(bytearray(piece))


def released(piece: Buffer) -> Buffer:
    """The piece, without the frame where that would cost many times as much: somebody sent again what is here already."""
    if isinstance(piece, memoryview) and _LARGEST_SHARE * len(piece) < memoryview(piece.obj).nbytes:
        return bytes(piece)
    return piece


class Receiver:
    """State of the receive sequence space (RFC 9293 §3.3.1); sequence numbers are unwrapped."""

    __slots__ = (
        "_ready",
        "_recent",
        "_runs",
        "ack_now",
        "beyond",
        "capacity",
        "capacity_maximum",
        "duplicate",
        "fin",
        "granted",
        "irs",
        "last_ack_sent",
        "measured_at",
        "measured_bytes",
        "queued",
        "rcv_adv",
        "rcv_nxt",
        "rcv_up",
        "scale",
        "ts_recent",
        "ts_recent_at",
        "unacked",
    )

    def __init__(self, capacity: int, capacity_maximum: int) -> None:
        self.capacity = capacity
        self.capacity_maximum = capacity_maximum
        self.scale = 0
        self.rcv_nxt = 0
        self.rcv_adv = 0
        self.rcv_up = 0
        self.irs = 0
        self.granted = 0
        self.fin: int | None = None
        self.queued = 0
        self.beyond = 0
        self.unacked = 0
        self.ack_now = False
        self.last_ack_sent = 0
        self.ts_recent: int | None = None
        self.ts_recent_at = 0.0
        self.measured_at = 0.0
        self.measured_bytes = 0
        self.duplicate: tuple[int, int] | None = None
        self._ready: list[Buffer] = []
        self._runs: list[Run] = []
        self._recent: list[int] = []

    def start(self, irs: int) -> None:
        """Begin after the peer's SYN."""
        promised = self.rcv_adv - self.rcv_nxt  # by our SYN, if we opened
        self.rcv_nxt = self.last_ack_sent = irs + 1
        self.rcv_adv = self.rcv_nxt + promised
        self.rcv_up = self.rcv_nxt
        self.irs = irs

    # -- window ----------------------------------------------------------------------------------

    def window(self) -> int:
        """RCV.WND: bytes from `rcv_nxt` to the advertised right edge."""
        return self.rcv_adv - self.rcv_nxt

    @property
    def largest_window(self) -> int:
        """The most that the window field can say: a peer that does not scale hears of 64 KiB, however large the buffer is."""
        return 65535 << self.scale

    def advertise(self, mss: int, scaled: bool = True) -> int:
        """The window field for a segment sent now; moves the right edge where that avoids a silly window."""
        capacity, queued, nxt, scale = self.capacity, self.queued, self.rcv_nxt, self.scale
        free = capacity - queued
        largest = 65535 << scale if scaled else 65535
        edge = nxt + (free if 0 < free < largest else max(0, min(free, largest)))
        if edge > self.rcv_adv and (not queued or edge - self.rcv_adv >= min(mss, capacity // 2)):
            self.rcv_adv = edge
        window = self.rcv_adv - nxt
        if not scaled:
            return min(window, 65535)
        # Rounded up, and the edge with it: rounding down would move an edge that was promised to the left.  But each
        # rounding promises a little more; a peer that sends crumbs must not get a buffer without end by it.  Nor may a window
        # that is open be written as 0 while the application has nothing to read, which alone would open it.
        units = (window + (1 << scale) - 1) >> scale
        if units > 65535:
            units = 65535
        rounded = nxt + (units << scale)
        if rounded > self.rcv_adv:
            if rounded > nxt + free + (capacity >> 3) and (queued or window >> scale):
                return window >> scale
            self.rcv_adv = rounded
        return units

    def window_update_due(self, mss: int) -> bool:
        """Whether the application freed enough that the sender should hear of it (RFC 9293 §3.8.6.2.2)."""
        largest = self.largest_window
        gain = self.rcv_nxt + min(self.capacity - self.queued, largest) - self.rcv_adv
        half = min(self.capacity, largest) // 2
        return gain >= min(half, 2 * mss) and self.rcv_adv - self.rcv_nxt < half

    # -- data ------------------------------------------------------------------------------------

    def append(self, payload: Buffer) -> None:
        """Take in-order payload that begins at `rcv_nxt` and lies in the window."""
        size = len(payload)
        if size >= _SMALL:
            self._ready.append(payload)
        else:
            gather(self._ready, payload)
        self.rcv_nxt += size
        self.queued += size
        self.unacked += size

    def accept(self, sequence: int, payload: Buffer, fin: bool) -> bool:
        """Take payload at `sequence`, trimmed to the window already; False when it could not be kept.

        Fills holes, and moves `rcv_nxt` over everything contiguous, the FIN included.
        """
        end = sequence + len(payload)
        if fin and not (self._runs and self._runs[-1].end > end):
            self.fin = end
        elif self.fin is not None and end > self.fin:
            payload = payload[: max(0, self.fin - sequence)]  # nothing follows the end of the stream
            end = sequence + len(payload)
        if sequence < self.rcv_nxt:
            self.note_duplicate(sequence, min(end, self.rcv_nxt))
            payload = released(payload[self.rcv_nxt - sequence :])
            sequence = self.rcv_nxt
        if sequence > self.rcv_nxt:
            self.ack_now = True
            return self._insert(sequence, payload) if end > sequence else True
        if payload:
            self.append(payload)
        if self._runs:
            self._drain()
            self.ack_now = True  # RFC 5681 §4.2: a segment that fills a gap is acknowledged at once
        if self.fin is not None and self.rcv_nxt == self.fin:
            self.take_fin()
        return True

    def take_fin(self) -> None:
        """The peer's FIN is the next in order."""
        self.fin = self.rcv_nxt
        self.rcv_nxt += 1
        self.rcv_adv = max(self.rcv_adv, self.rcv_nxt)  # a FIN may lie on the edge itself
        self.ack_now = True

    def note_duplicate(self, start: int, end: int) -> None:
        """Bytes came that were here already: the next acknowledgement says so (RFC 2883)."""
        if end > start:
            self.duplicate = (start, end)
            self.ack_now = True

    def fin_taken(self) -> bool:
        """Whether the peer's FIN and all before it has been received."""
        return self.fin is not None and self.rcv_nxt > self.fin

    def _drain(self) -> None:
        """Move the runs that have become contiguous."""
        runs = self._runs
        while runs and runs[0].start <= self.rcv_nxt:
            run = runs.pop(0)
            self.beyond -= run.end - run.start
            if run.start < self.rcv_nxt:
                self.note_duplicate(run.start, min(self.rcv_nxt, run.end))
            position = run.start
            for piece in run.pieces:
                size = len(piece)
                if position >= self.rcv_nxt:
                    self.append(piece)
                elif position + size > self.rcv_nxt:
                    self.append(released(piece[self.rcv_nxt - position :]))
                position += size

    def _insert(self, start: int, piece: Buffer) -> bool:
        """Keep an out-of-order piece, without the parts that are there already."""
        runs = self._runs
        end = start + len(piece)
        recent = self._recent
        recent.append(start)
        del recent[:-_RECENT]
        if runs and start == runs[-1].end:  # by far the most frequent: the last run goes on
            run = runs[-1]
            gather(run.pieces, piece)
            run.end = end
            self.beyond += end - start
            return True
        while start < end:
            index = bisect_right(runs, start, key=_run_start)
            if index and runs[index - 1].end > start:
                stop = min(runs[index - 1].end, end)
                self.duplicate = (start, stop)
            else:
                stop = end if index == len(runs) else min(end, runs[index].start)
                if not self._put(index, start, stop, released(piece[: stop - start])):
                    return False
            piece = piece[stop - start :]
            start = stop
        return True

    def _put(self, index: int, start: int, end: int, piece: Buffer) -> bool:
        """Put a piece that overlaps nothing before the run at `index`, joined to its neighbours where they touch."""
        runs = self._runs
        before = runs[index - 1] if index and runs[index - 1].end == start else None
        after = runs[index] if index < len(runs) and runs[index].start == end else None
        if before is not None:
            gather(before.pieces, piece)
            before.end = end
            if after is not None:
                before.pieces.extend(after.pieces)
                before.end = after.end
                del runs[index]
        elif len(runs) >= _MAXIMUM_RUNS:
            return False
        else:
            pieces: list[Buffer] = []
            gather(pieces, piece)
            if after is not None:
                pieces.extend(after.pieces)
                after.pieces = pieces
                after.start = start
            else:
                runs.insert(index, Run(start, end, pieces))
        self.beyond += end - start
        return True

    def sack_blocks(self, limit: int) -> list[tuple[int, int]]:
        """Up to `limit` blocks: a duplicate first (RFC 2883 §4), then runs, the most recently changed first (RFC 2018 §4)."""
        blocks: list[tuple[int, int]] = []
        if self.duplicate is not None:
            blocks.append(self.duplicate)
        runs = self._runs
        for sequence in reversed(self._recent):
            index = bisect_right(runs, sequence, key=_run_start) - 1
            if len(blocks) < limit and index >= 0 and runs[index].end > sequence:
                block = self._block(runs[index])
                if block not in blocks[self.duplicate is not None :]:
                    blocks.append(block)
        for run in runs:
            if len(blocks) >= limit:
                break
            if self._block(run) not in blocks:
                blocks.append(self._block(run))
        return blocks

    def _block(self, run: Run) -> tuple[int, int]:
        """What a SACK block says of a run: its last sequence number may be that of the FIN."""
        return run.start, run.end + (run.end == self.fin)

    def read(self) -> list[Buffer]:
        """Everything that is in order, in pieces; the buffer is free afterwards."""
        pieces = self._ready
        self._ready = []
        self.measured_bytes += self.queued
        self.queued = 0
        return pieces

    def unread(self, pieces: list[Buffer]) -> None:
        """Put back the last pieces of what `read` gave: the application does not take them now."""
        size = sum(map(len, pieces))
        self._ready[:0] = pieces
        self.queued += size
        self.measured_bytes -= size

    def check(self) -> None:
        """Raise AssertionError where an invariant does not hold."""
        assert self.queued == sum(map(len, self._ready))
        assert self.rcv_adv >= self.rcv_nxt or not self.irs, (self.rcv_adv, self.rcv_nxt)
        position = self.rcv_nxt
        for run in self._runs:
            assert position < run.start < run.end, (position, run.start, run.end)
            assert sum(map(len, run.pieces)) == run.end - run.start
            position = run.end
        assert self.beyond == sum(run.end - run.start for run in self._runs)


def _run_start(run: Run) -> int:
    return run.start


@lru_cache(maxsize=64)
def scale_for(capacity: int) -> int:
    """The window scale that lets `capacity` bytes be announced (RFC 7323 §2.3)."""
    scale = 0
    while scale < MAXIMUM_WINDOW_SCALE and 65535 << scale < capacity:
        scale += 1
    return scale
