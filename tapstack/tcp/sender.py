"""The sending half of a connection: what waits, what is in flight, what may go now.

Model.  Bytes of the application wait in `_unsent`, a queue of buffers.  Each transmission moves a run of them into a
`SentSegment`, which keeps its own buffers until it is acknowledged: nothing is copied and nothing is searched.

    snd_una          snd_nxt
       |  in_flight     |   _unsent …
       +----+----+------+-----------------+ FIN when `fin_queued`

`pipe` is the number of bytes believed to be in the network: in flight, less what is marked lost and
not yet sent again.  Loss recovery (`recovery/`) only marks segments; `transmit` is the one place that sends:
lost segments first, then new data, as far as cwnd and the peer's window allow.

Invariants, checked by `check`: the in-flight segments are contiguous from `snd_una` to `snd_nxt`;
`pipe` is the sum over them; a segment that is lost was not sent again since.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..types import Buffer, Frame
from ..wire.tcp import ACK, FIN, PSH
from .congestion import CongestionControl

_MAXIMUM_PIECES = 256


class SentSegment:
    """A run of the sequence space that was sent as one; `end - start` counts a SYN or FIN as one."""

    __slots__ = ("end", "fin", "lost", "pieces", "retransmitted", "sent_at", "start")

    def __init__(self, start: int, end: int, pieces: Frame, fin: bool, sent_at: float) -> None:
        self.start = start
        self.end = end
        self.pieces = pieces
        self.fin = fin
        self.sent_at = sent_at
        self.lost = False
        self.retransmitted = False

    @property
    def payload_length(self) -> int:
        """Bytes of payload, without the FIN."""
        return self.end - self.start - self.fin

    def __repr__(self) -> str:
        return f"<{self.start}–{self.end}{' lost' if self.lost else ''}{' again' if self.retransmitted else ''}>"


def split_pieces(pieces: Frame, length: int) -> tuple[Frame, Frame]:
    """`pieces` cut after `length` bytes, without copying."""
    head: Frame = []
    for index, piece in enumerate(pieces):
        if length < len(piece):
            view = memoryview(piece)
            if length:
                head.append(view[:length])
            return head, [view[length:], *pieces[index + 1 :]]
        head.append(piece)
        length -= len(piece)
        if not length:
            return head, pieces[index + 1 :]
    return head, []


class Sender:
    """State of the send sequence space (RFC 9293 §3.3.1); sequence numbers are unwrapped.

    `emit(sequence, flags, pieces, length)` puts one segment on the link.
    """

    __slots__ = (
        "_emit",
        "_unsent",
        "congestion",
        "dup_credit",
        "duplicate_acks",
        "fin_queued",
        "fin_sent",
        "in_flight",
        "in_recovery",
        "last_sent",
        "maximum_window",
        "mss",
        "nodelay",
        "pipe",
        "recover",
        "retransmissions",
        "scale",
        "segment_limit",
        "snd_nxt",
        "snd_una",
        "snd_wl1",
        "snd_wl2",
        "snd_wnd",
        "unsent",
    )

    def __init__(self, iss: int, emit: Callable[[int, int, Frame, int], None]) -> None:
        self._emit = emit
        self.snd_una = iss
        self.snd_nxt = iss
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.maximum_window = 0
        self.scale = 0
        self.mss = 1220
        self.segment_limit = 0
        self.nodelay = False
        self.congestion: CongestionControl
        self._unsent: deque[Buffer] = deque()
        self.unsent = 0
        self.fin_queued = False
        self.fin_sent = False
        self.in_flight: deque[SentSegment] = deque()
        self.pipe = 0
        self.duplicate_acks = 0
        self.dup_credit = 0
        self.in_recovery = False
        self.recover = iss
        self.retransmissions = 0
        self.last_sent = 0.0

    # -- the application's side ------------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """Queue bytes to send.  Immutable bytes are kept as they are; anything else is copied once."""
        if not data:
            return
        self._unsent.append(data if isinstance(data, bytes) else bytes(data))
        self.unsent += len(data)

    @property
    def buffered(self) -> int:
        """Bytes taken from the application and not yet acknowledged."""
        return self.unsent + self.snd_nxt - self.snd_una

    @property
    def everything_acknowledged(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self.in_flight and not self.unsent and not (self.fin_queued and not self.fin_sent)

    # -- sending ---------------------------------------------------------------------------------

    def transmit(self, now: float) -> int:
        """Send what the windows allow; returns how many frames went out."""
        sent = self._retransmit_lost(now) if self.pipe < self.snd_nxt - self.snd_una else 0
        congestion = self.congestion
        while self.unsent or (self.fin_queued and not self.fin_sent):
            room = self.snd_una + self.snd_wnd - self.snd_nxt
            size = min(self.unsent, room, congestion.cwnd - self.pipe + self.dup_credit, self.segment_limit)
            if size < self.unsent and size > self.mss:
                size -= size % self.mss  # a super-segment is cut into whole segments unless it is the last
            if not self._worth_sending(size):
                break
            self._send_new(size, now)
            sent += 1
        return sent

    def _worth_sending(self, size: int) -> bool:
        """Sender's silly window avoidance and Nagle (RFC 9293 §3.8.6.2.1, §3.7.4)."""
        if not self.unsent:
            return size >= 0  # a FIN alone needs no window (it may exceed it by one)
        if size <= 0:
            return False
        if size >= self.mss:
            return True
        if size == self.unsent and (self.nodelay or self.fin_queued or not self.in_flight):
            return True
        return size >= self.maximum_window // 2 > 0

    def _send_new(self, size: int, now: float) -> None:
        pieces = self._take(size)
        last = not self.unsent
        fin = last and self.fin_queued
        segment = SentSegment(self.snd_nxt, self.snd_nxt + size + fin, pieces, fin, now)
        self.snd_nxt = segment.end
        self.pipe += size + fin
        self.in_flight.append(segment)
        if fin:
            self.fin_sent = True
        self.last_sent = now
        flags = ACK | (PSH if last and size else 0) | (FIN if fin else 0)
        self._emit(segment.start, flags, pieces, size)

    def _take(self, size: int) -> Frame:
        """The next `size` unsent bytes as pieces."""
        unsent = self._unsent
        self.unsent -= size
        pieces: Frame = []
        while size:
            piece = unsent[0]
            if len(piece) <= size:
                pieces.append(piece)
                unsent.popleft()
                size -= len(piece)
            else:
                view = memoryview(piece)
                pieces.append(view[:size])
                unsent[0] = view[size:]
                size = 0
        return [b"".join(pieces)] if len(pieces) > _MAXIMUM_PIECES else pieces

    def _retransmit_lost(self, now: float) -> int:
        """Send again what is marked lost, oldest first, as far as cwnd allows."""
        sent = 0
        for index, segment in enumerate(self.in_flight):
            if not segment.lost:
                continue
            room = self.congestion.cwnd - self.pipe + self.dup_credit
            if room <= 0:
                break
            size = max(room - room % self.mss, self.mss)
            if segment.payload_length > size:
                self._split(index, size)
            self.resend(segment, now)
            sent += 1
        return sent

    def resend(self, segment: SentSegment, now: float) -> None:
        """Put one segment in flight again."""
        if segment.lost:
            segment.lost = False
            self.pipe += segment.end - segment.start
        segment.retransmitted = True
        segment.sent_at = self.last_sent = now
        self.retransmissions += 1
        length = segment.payload_length
        self._emit(segment.start, ACK | (PSH if length else 0) | (FIN if segment.fin else 0), segment.pieces, length)

    def _split(self, index: int, size: int) -> SentSegment:
        """Cut the in-flight segment at `index` after `size` bytes; returns its first part."""
        segment = self.in_flight[index]
        head, tail = split_pieces(segment.pieces, size)
        rest = SentSegment(segment.start + size, segment.end, tail, segment.fin, segment.sent_at)
        rest.lost, rest.retransmitted = segment.lost, segment.retransmitted
        segment.end, segment.pieces, segment.fin = rest.start, head, False
        self.in_flight.insert(index + 1, rest)
        return segment

    def probe(self, now: float) -> None:
        """Send one byte into a closed window (RFC 9293 §3.8.6.1): the oldest in flight, or the next that waits."""
        if not self.in_flight:
            if self.unsent:
                pieces = self._take(1)
                self.in_flight.append(SentSegment(self.snd_nxt, self.snd_nxt + 1, pieces, False, now))
            elif self.fin_queued and not self.fin_sent:
                self.in_flight.append(SentSegment(self.snd_nxt, self.snd_nxt + 1, [], True, now))
                self.fin_sent = True
            else:
                return
            self.snd_nxt += 1
            self.pipe += 1
        elif self.in_flight[0].payload_length > 1:
            self._split(0, 1)
        self.resend(self.in_flight[0], now)

    # -- acknowledgements ------------------------------------------------------------------------

    def acknowledge(self, ack: int, now: float) -> float | None:
        """Remove everything before `ack`; returns a round-trip sample, None where there is none.

        Karn's rule: an acknowledgement that covers anything sent twice gives none; what was delivered before the hole was
        filled has only been waiting for it.
        """
        sample: float | None = None
        ambiguous = False
        in_flight = self.in_flight
        while in_flight:
            segment = in_flight[0]
            if segment.end > ack:
                if segment.start < ack:
                    self._trim(segment, ack)
                break
            in_flight.popleft()
            if not segment.lost:
                self.pipe -= segment.end - segment.start
            ambiguous = ambiguous or segment.retransmitted
            sample = now - segment.sent_at
        self.snd_una = ack
        return None if ambiguous else sample

    def _trim(self, segment: SentSegment, ack: int) -> None:
        """Drop the acknowledged front of a segment."""
        gone = ack - segment.start
        if gone >= segment.payload_length:
            segment.pieces = []
        else:
            segment.pieces = split_pieces(segment.pieces, gone)[1]
        if not segment.lost:
            self.pipe -= gone
        segment.start = ack

    def mark_lost(self, count: int | None = None) -> None:
        """Mark the first `count` bytes in flight lost, all when None."""
        limit = None if count is None else self.snd_una + count
        index = 0
        while index < len(self.in_flight):
            segment = self.in_flight[index]
            if limit is not None:
                if segment.start >= limit:
                    return
                if segment.start + segment.payload_length > limit:
                    self._split(index, limit - segment.start)
            if not segment.lost:
                segment.lost = True
                self.pipe -= segment.end - segment.start
            index += 1

    def check(self) -> None:
        """Raise AssertionError where an invariant does not hold."""
        position = self.snd_una
        pipe = 0
        for segment in self.in_flight:
            assert segment.start == position, (segment, position)
            assert sum(map(len, segment.pieces)) == segment.payload_length, segment
            position = segment.end
            pipe += 0 if segment.lost else segment.end - segment.start
        assert position == self.snd_nxt or not self.in_flight, (position, self.snd_nxt)
        assert pipe == self.pipe, (pipe, self.pipe)
        assert self.unsent == sum(map(len, self._unsent))
