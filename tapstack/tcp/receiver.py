"""The receiving half of a connection: reassembly, window, what to acknowledge when.

Model.  `rcv_nxt` is the next byte expected.  Bytes before it stand in `_ready` until the application takes
them; bytes after it stand in `_beyond`, sorted, disjoint ranges.  The advertised right edge `rcv_adv` never
moves left (RFC 9293 SHLD-14), and moves right only in steps worth a segment (SWS avoidance, MUST-39).
Payload is kept as views of the received frames; nothing is copied here but very small pieces, which would
pin a large frame each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from ..types import Buffer

MAXIMUM_WINDOW = 65535 << 14
_SMALL = 256
_MAXIMUM_RANGES = 512
_MAXIMUM_SACK_BLOCKS = 3


class Receiver:
    """State of the receive sequence space (RFC 9293 §3.3.1); sequence numbers are unwrapped."""

    __slots__ = (
        "_beyond",
        "_ready",
        "ack_now",
        "capacity",
        "capacity_maximum",
        "fin",
        "last_ack_sent",
        "measured_at",
        "measured_bytes",
        "queued",
        "rcv_adv",
        "rcv_nxt",
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
        self.fin: int | None = None
        self.queued = 0
        self.unacked = 0
        self.ack_now = False
        self.last_ack_sent = 0
        self.ts_recent: int | None = None
        self.ts_recent_at = 0.0
        self.measured_at = 0.0
        self.measured_bytes = 0
        self._ready: deque[Buffer] = deque()
        self._beyond: list[tuple[int, int, Buffer]] = []

    def start(self, irs: int) -> None:
        """Begin after the peer's SYN."""
        self.rcv_nxt = self.last_ack_sent = irs + 1
        self.rcv_adv = self.rcv_nxt

    @property
    def orderly(self) -> bool:
        """Whether no hole is waiting to be filled."""
        return not self._beyond

    # -- window ----------------------------------------------------------------------------------

    def window(self) -> int:
        """RCV.WND: bytes from `rcv_nxt` to the advertised right edge."""
        return self.rcv_adv - self.rcv_nxt

    def advertise(self, mss: int, scaled: bool = True) -> int:
        """The window field for a segment sent now; moves the right edge where that avoids a silly window."""
        free = self.capacity - self.queued
        edge = self.rcv_nxt + max(0, min(free, 65535 << self.scale if scaled else 65535))
        if edge > self.rcv_adv and (edge - self.rcv_adv >= min(mss, self.capacity // 2) or not self.queued):
            self.rcv_adv = edge
        window = self.rcv_adv - self.rcv_nxt
        if not scaled:
            return min(window, 65535)
        # Rounded up, and the edge with it: rounding down would move an edge that was promised to the left.
        units = min((window + (1 << self.scale) - 1) >> self.scale, 65535)
        self.rcv_adv = max(self.rcv_adv, self.rcv_nxt + (units << self.scale))
        return units

    def window_update_due(self, mss: int) -> bool:
        """Whether the application freed enough that the sender should hear of it (RFC 9293 §3.8.6.2.2)."""
        gain = self.rcv_nxt + self.capacity - self.queued - self.rcv_adv
        return gain >= min(self.capacity // 2, 2 * mss) and self.rcv_adv - self.rcv_nxt < self.capacity // 2

    def grow(self, now: float, rtt: float) -> None:
        """Receive-buffer autotuning: room for twice what the application took in the last round trip."""
        if now - self.measured_at < max(rtt, 0.001):
            return
        wanted = 2 * self.measured_bytes
        if self.measured_at and wanted > self.capacity:
            self.capacity = min(wanted, self.capacity_maximum)
        self.measured_at = now
        self.measured_bytes = 0

    # -- data ------------------------------------------------------------------------------------

    def append(self, payload: Buffer) -> None:
        """Take in-order payload that begins at `rcv_nxt` and lies in the window."""
        size = len(payload)
        self._ready.append(bytes(payload) if size < _SMALL else payload)
        self.rcv_nxt += size
        self.queued += size
        self.unacked += size

    def accept(self, sequence: int, payload: Buffer, fin: bool) -> bool:
        """Take payload at `sequence`, trimmed to the window already; False when it could not be kept.

        Fills holes, and moves `rcv_nxt` over everything contiguous, the FIN included.
        """
        end = sequence + len(payload)
        if fin:
            self.fin = end
        if sequence < self.rcv_nxt:
            payload = payload[self.rcv_nxt - sequence :]
            sequence = self.rcv_nxt
        if sequence > self.rcv_nxt:
            self.ack_now = True
            return self._insert(sequence, payload) if end > sequence else True
        if payload:
            self.append(payload)
        if self._beyond:
            self._drain()
            self.ack_now = True  # RFC 5681 §4.2: a segment that fills a gap is acknowledged at once
        if self.fin is not None and self.rcv_nxt == self.fin:
            self.rcv_nxt += 1
            self.ack_now = True
        return True

    def fin_taken(self) -> bool:
        """Whether the peer's FIN and all before it has been received."""
        return self.fin is not None and self.rcv_nxt > self.fin

    def _drain(self) -> None:
        while self._beyond and self._beyond[0][0] <= self.rcv_nxt:
            start, end, piece = self._beyond.pop(0)
            if end > self.rcv_nxt:
                self.append(piece[self.rcv_nxt - start :])

    def _insert(self, start: int, piece: Buffer) -> bool:
        """Keep an out-of-order piece, without the parts that are there already."""
        beyond = self._beyond
        if len(beyond) >= _MAXIMUM_RANGES:
            return False
        if len(piece) < _SMALL:
            piece = bytes(piece)
        index = bisect_left(beyond, start, key=lambda entry: entry[0])
        if index and beyond[index - 1][1] > start:
            covered = beyond[index - 1][1] - start
            piece = piece[covered:]
            start += covered
        while piece and index < len(beyond):
            following = beyond[index]
            room = following[0] - start
            if room >= len(piece):
                break
            if room > 0:
                beyond.insert(index, (start, following[0], piece[:room]))
                index += 1
            piece = piece[following[1] - start :]
            start = following[1]
            index += 1
        if piece:
            beyond.insert(index, (start, start + len(piece), piece))
        return True

    def sack_blocks(self, latest: int | None = None) -> list[tuple[int, int]]:
        """Up to three blocks of data beyond `rcv_nxt` (RFC 2018 §4); the one that holds `latest` comes first."""
        merged: list[tuple[int, int]] = []
        for start, end, _ in self._beyond:
            if merged and merged[-1][1] == start:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((start, end))
        if latest is not None:
            merged.sort(key=lambda block: not block[0] <= latest < block[1])
        return merged[:_MAXIMUM_SACK_BLOCKS]

    def read(self) -> list[Buffer]:
        """Everything that is in order, in pieces; the buffer is free afterwards."""
        pieces = list(self._ready)
        self._ready.clear()
        self.measured_bytes += self.queued
        self.queued = 0
        return pieces
