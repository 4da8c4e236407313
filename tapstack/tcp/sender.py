"""The sending half of a connection: what waits, what is in flight, what may go now.

Model.  Bytes of the application wait in the queue of `writequeue`.  Each transmission moves a run of them into a `SentSegment`,
which keeps its own buffers until it is acknowledged: nothing large is copied and nothing is searched.

    snd_una          snd_nxt
       |  in_flight     |   unsent …
       +----+----+------+-----------------+ FIN when `fin_queued`

A segment in flight has one of three marks: IN_NETWORK, SACKED (the peer reported it) or LOST (to be sent again).
`pipe` is the number of bytes with the mark IN_NETWORK.  Loss recovery (`recovery/`) only moves marks; `transmit` is the one place
that sends: lost segments first, then new data, as far as the window of congestion control (or of recovery, while
it lasts), the peer's window and the pace allow.

`lost` queues the segments with the mark LOST in order of sequence; `by_time` all segments in order of their last transmission,
which is what RACK asks for.  Both may hold entries whose mark has moved on; readers skip them.

All queues are lists: an empty deque holds 700 bytes, which an idle connection would have four times.  Whatever leaves them at
the front leaves in one cut per acknowledgement or transmission.

Invariants, checked by `check`: the in-flight segments are contiguous from `snd_una` to `snd_nxt`; `pipe` is the sum
over those IN_NETWORK; every LOST segment is in `lost`.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

from ..types import Frame
from ..wire.tcp import ACK, FIN, PSH
from .segments import ACKED, IN_NETWORK, LOST, SACKED, SentSegment, split_pieces
from .writequeue import WriteQueue

if TYPE_CHECKING:
    from .acknowledged import Acknowledged
    from .congestion import CongestionControl
    from .recovery.base import Recovery

_PACING_QUANTUM = 0.001
"""Seconds of the pacing rate that may leave at once: timers are not finer than that."""


class Outlet(Protocol):
    """What a sender needs of its connection."""

    def emit_data(self, sequence: int, flags: int, pieces: Frame, length: int, again: bool) -> None:
        """Put one segment on the link; `again`: it is a repetition or a probe."""

    def emit_run(self, sequence: int, run: list[Frame], size: int) -> None:
        """Put many new segments of `size` bytes each on the link, one after the other."""

    def start_congestion(self) -> None:
        """Set the sender's `congestion` and `recovery`."""


class Sender(WriteQueue):
    """State of the send sequence space (RFC 9293 §3.3.1); sequence numbers are unwrapped.

    snd_up is SND.UP, the end of urgent data.  A connection begins with an `IdleSender` (idlesender.py), which has no
    `congestion`, `recovery` and `news` yet.
    """

    __slots__ = (
        "_outlet",
        "by_time",
        "congestion",
        "delivered",
        "delivered_at",
        "fin_queued",
        "fin_sent",
        "first_sent_at",
        "in_flight",
        "iss",
        "last_sent",
        "limited_until",
        "lost",
        "maximum_window",
        "news",
        "nodelay",
        "paced_until",
        "peak",
        "peak_until",
        "pipe",
        "recovery",
        "retransmissions",
        "retransmitted_bytes",
        "scale",
        "snd_nxt",
        "snd_una",
        "snd_up",
        "snd_wl1",
        "snd_wl2",
        "snd_wnd",
        "transmissions",
    )

    def __init__(self, iss: int, outlet: Outlet) -> None:
        super().__init__()
        self._outlet = outlet
        self.snd_una = iss
        self.snd_nxt = iss
        self.iss = iss
        self.snd_up = iss
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.maximum_window = 0
        self.scale = 0
        self.nodelay = False
        self.congestion: CongestionControl
        self.recovery: Recovery
        self.news: Acknowledged
        self.fin_queued = False
        self.fin_sent = False
        self.in_flight: list[SentSegment] = []
        self.lost: list[SentSegment] = []
        self.by_time: list[SentSegment] = []
        self.pipe = 0
        self.peak = 0
        self.peak_until = iss
        self.transmissions = 0
        self.retransmissions = 0
        self.retransmitted_bytes = 0
        self.last_sent = 0.0
        self.delivered = 0
        self.delivered_at = 0.0
        self.first_sent_at = 0.0
        self.limited_until = 0
        self.paced_until = 0.0

    @property
    def started(self) -> bool:
        """Whether there is congestion control, because something was sent."""
        return True

    # -- the application's side ------------------------------------------------------------------

    @property
    def buffered(self) -> int:
        """Bytes taken from the application and not yet acknowledged."""
        return self.unsent + self.snd_nxt - self.snd_una

    @property
    def everything_acknowledged(self) -> bool:
        """Whether nothing waits and nothing is in flight."""
        return not self.in_flight and not self.unsent and not (self.fin_queued and not self.fin_sent)

    @property
    def something_to_send(self) -> bool:
        """Whether data, a FIN or something lost waits for `transmit`."""
        return bool(self.unsent or self.lost or (self.fin_queued and not self.fin_sent))

    # -- sending ---------------------------------------------------------------------------------

    def transmit(self, now: float) -> int:
        """Send what the windows allow; returns how many frames went out."""
        rate = self.congestion.pacing_rate
        if rate is not None and self.paced_until > now:
            return 0
        recovery = self.recovery
        sent = self._retransmit_lost(now, rate) if self.lost else 0
        while self.unsent or (self.fin_queued and not self.fin_sent):
            if rate is not None and self.paced_until > now:
                break
            window = self.congestion.cwnd if recovery.window is None else recovery.window
            room = self.snd_una + self.snd_wnd - self.snd_nxt
            size = min(self.unsent, room, window - self.pipe, self.segment_limit)
            if size < self.unsent and size > self.mss:
                if rate is not None:
                    size = min(size, max(int(rate * _PACING_QUANTUM), 2 * self.mss))
                size -= size % self.mss  # a super-segment is cut into whole segments unless it is the last
            if not self._worth_sending(size):
                break
            if size == self.segment_limit and rate is None and self.unsent > 2 * size:
                count = min(self.unsent - 1, room, window - self.pipe) // size
                self._send_run(size, count, now)
                sent += count
                continue
            self._send_new(size, now)
            sent += 1
            if rate is not None:
                self.paced_until = max(self.paced_until, now) + size / rate
        if not self.unsent and self.pipe < self.congestion.cwnd:
            self.limited_until = self.delivered + self.pipe or 1
        if self.pipe > self.peak or self.snd_una >= self.peak_until:
            self.peak, self.peak_until = self.pipe, self.snd_nxt
        if sent:
            recovery.on_sent(now)
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
        pieces = self.take(size)
        last = not self.unsent
        fin = last and self.fin_queued
        segment = SentSegment(self.snd_nxt, self.snd_nxt + size + fin, pieces, fin)
        self.snd_nxt = segment.end
        self.in_flight.append(segment)
        if fin:
            self.fin_sent = True
        self._put(segment, ACK | (PSH if last and size else 0) | (FIN if fin else 0), size, now)

    def _send_run(self, size: int, count: int, now: float) -> None:
        """What `_send_new` does, for `count` segments of `size` bytes at once; the last byte that waits is in none of them."""
        if not self.pipe:
            self.first_sent_at = self.delivered_at = now
        limited = self.limited_until > self.delivered
        start = end = self.snd_nxt
        order = self.transmissions
        run = [self.take(size) for _ in range(count)]
        segments = []
        for pieces in run:
            segment = SentSegment(end, end + size, pieces, False)
            end += size
            order += 1
            segment.sent_at = now
            segment.order = order
            segment.delivered = self.delivered
            segment.delivered_at = self.delivered_at
            segment.first_sent_at = self.first_sent_at
            segment.limited = limited
            segments.append(segment)
        self.snd_nxt = end
        self.transmissions = order
        self.pipe += end - start
        self.in_flight += segments
        self.by_time += segments
        self.last_sent = now
        self._outlet.emit_run(start, run, size)

    def _put(self, segment: SentSegment, flags: int, size: int, now: float) -> None:
        """Put a segment on the link and into the books."""
        if not self.pipe:
            self.first_sent_at = self.delivered_at = now
        segment.sent_at = now
        self.transmissions += 1
        segment.order = self.transmissions
        segment.delivered = self.delivered
        segment.delivered_at = self.delivered_at
        segment.first_sent_at = self.first_sent_at
        segment.limited = self.limited_until > self.delivered
        self.pipe += segment.end - segment.start
        self.by_time.append(segment)
        self.last_sent = now
        self._outlet.emit_data(segment.start, flags, segment.pieces, size, segment.retransmitted)

    def _retransmit_lost(self, now: float, rate: float | None) -> int:
        """Send again what is marked lost, oldest first, as far as the window allows."""
        sent = 0
        lost = self.lost
        while lost:
            segment = lost[0]
            if segment.mark != LOST:
                del lost[0]
                continue
            window = self.congestion.cwnd if self.recovery.window is None else self.recovery.window
            room = window - self.pipe
            if room <= 0 or (rate is not None and self.paced_until > now):
                break
            size = max(room - room % self.mss, self.mss)
            if segment.payload_length > size:
                self.split(segment, size)
            del lost[0]
            self.resend(segment, now)
            if rate is not None:
                self.paced_until = max(self.paced_until, now) + (segment.end - segment.start) / rate
            sent += 1
        return sent

    def resend(self, segment: SentSegment, now: float) -> None:
        """Put one segment in flight again, whatever the windows say."""
        length = segment.end - segment.start
        if segment.mark == IN_NETWORK:
            self.pipe -= length
            self.by_time.remove(segment)  # a probe or a guess of NewReno: rare
        segment.mark = IN_NETWORK
        segment.retransmitted = True
        self.retransmissions += 1
        self.retransmitted_bytes += length
        self.recovery.on_retransmission(segment, now)
        size = segment.payload_length
        self._put(segment, ACK | (PSH if size else 0) | (FIN if segment.fin else 0), size, now)

    def split(self, segment: SentSegment, size: int) -> SentSegment:
        """Cut an in-flight segment after `size` bytes; it keeps the first part, the rest is returned."""
        head, tail = split_pieces(segment.pieces, size)
        rest = SentSegment(segment.start + size, segment.end, tail, segment.fin)
        rest.copy_history(segment)
        segment.end, segment.pieces, segment.fin = rest.start, head, False
        self.in_flight.insert(self.find(segment.start) + 1, rest)
        if segment.mark == LOST:
            self.lost.insert(self.lost.index(segment) + 1, rest)
        elif segment.mark == IN_NETWORK:
            self.by_time.insert(self.by_time.index(segment) + 1, rest)
        return rest

    def find(self, sequence: int) -> int:
        """The index of the in-flight segment that holds `sequence`."""
        return bisect_right(self.in_flight, sequence, key=_start) - 1

    def probe_window(self, now: float) -> None:
        """Send one byte into a closed window (RFC 9293 §3.8.6.1): the oldest in flight, or the next that waits.

        Where the window is open but too small for its own good, what fits goes: the time-out of SWS avoidance (§3.8.6.2.1).
        """
        if not self.in_flight:
            if self.unsent:
                size = max(1, min(self.unsent, self.mss, self.snd_una + self.snd_wnd - self.snd_nxt))
                segment = SentSegment(self.snd_nxt, self.snd_nxt + size, self.take(size), False)
            elif self.fin_queued and not self.fin_sent:
                segment = SentSegment(self.snd_nxt, self.snd_nxt + 1, [], True)
                self.fin_sent = True
            else:
                return
            self.snd_nxt = segment.end
            self.in_flight.append(segment)
            self._put(segment, ACK | (FIN if segment.fin else PSH), segment.payload_length, now)
            return
        first = self.in_flight[0]
        if first.payload_length > 1:
            self.split(first, 1)
        self.resend(first, now)

    def send_one(self, now: float) -> bool:
        """One new segment of at most MSS beyond what congestion control allows (RFC 8985 §7.3); False if there is none."""
        size = min(self.unsent, self.mss, self.snd_una + self.snd_wnd - self.snd_nxt)
        if size <= 0:
            return False
        self._send_new(size, now)
        return True

    # -- acknowledgements ------------------------------------------------------------------------

    def acknowledge(self, ack: int, now: float) -> None:
        """Remove everything before `ack` and tell `news` of it."""
        news = self.news
        news.acked = ack - self.snd_una
        in_flight = self.in_flight
        done = 0
        for segment in in_flight:
            if segment.end > ack:
                if segment.start < ack:
                    self._trim(segment, ack)
                break
            done += 1
            mark = segment.mark
            segment.mark = ACKED
            if mark != SACKED:
                if mark == IN_NETWORK:
                    self.pipe -= segment.end - segment.start
                news.take(segment, segment.end - segment.start)
                if segment.retransmitted:
                    news.repeated(segment)
                else:
                    news.clean = segment
        del in_flight[:done]
        self.snd_una = ack
        by_time = self.by_time
        old = 0
        for segment in by_time:
            if segment.mark == IN_NETWORK:
                break
            old += 1
        del by_time[:old]
        if not in_flight:
            self.lost.clear()

    def _trim(self, segment: SentSegment, ack: int) -> None:
        """Drop the acknowledged front of a segment."""
        gone = ack - segment.start
        if gone >= segment.payload_length:
            segment.pieces = []
        else:
            segment.pieces = split_pieces(segment.pieces, gone)[1]
        if segment.mark != SACKED:
            if segment.mark == IN_NETWORK:
                self.pipe -= gone
            self.news.take(segment, gone)
            if segment.retransmitted:
                self.news.repeated(segment)
        segment.start = ack

    def finish_news(self, now: float) -> None:
        """Everything that the acknowledgement says is marked: settle what was delivered, and how fast."""
        news = self.news
        self.delivered += news.delivered
        news.acknowledged = self.snd_una
        news.next = self.snd_nxt
        news.peak = self.peak
        newest = news.newest
        if news.delivered:
            self.delivered_at = now
        if newest is not None:
            news.prior_delivered = newest.delivered
            news.rate_bytes = self.delivered - newest.delivered
            news.interval = max(now - newest.delivered_at, newest.sent_at - newest.first_sent_at)
            news.limited = newest.limited
            self.first_sent_at = newest.sent_at

    # -- marks -----------------------------------------------------------------------------------

    def mark_lost(self, segment: SentSegment) -> None:
        """One segment in the network is lost; the caller keeps `lost` in order of sequence."""
        if segment.mark == IN_NETWORK:
            segment.mark = LOST
            self.pipe -= segment.end - segment.start
            self.recovery.losses += 1
            lost = self.lost
            if lost and lost[-1].start > segment.start:
                at = len(lost)
                while at and lost[at - 1].start > segment.start:
                    at -= 1
                lost.insert(at, segment)
            else:
                lost.append(segment)

    def mark_all_lost(self) -> None:
        """Everything that is not SACKED is lost: after a change of path MTU, or when a closed window opens."""
        for segment in self.in_flight:
            if segment.mark == IN_NETWORK:
                segment.mark = LOST
                self.pipe -= segment.end - segment.start
        self.relist()

    def unmark_lost(self) -> None:
        """Nothing was lost after all."""
        for segment in self.in_flight:
            if segment.mark == LOST:
                segment.mark = IN_NETWORK
                self.pipe += segment.end - segment.start
        self.relist()

    def relist(self) -> None:
        """Make `lost` and `by_time` anew from the marks."""
        self.lost = [segment for segment in self.in_flight if segment.mark == LOST]
        self.by_time = sorted((s for s in self.in_flight if s.mark == IN_NETWORK), key=lambda s: (s.order, s.end))

    def mark_sacked(self, start: int, end: int) -> None:
        """The peer holds `start` to `end`, which no SACK block covered before."""
        index = self.find(start)
        in_flight = self.in_flight
        if in_flight[index].start < start:
            if not self._may_split():
                index += 1
            else:
                self.split(in_flight[index], start - in_flight[index].start)
                index += 1
        while index < len(in_flight):
            segment = in_flight[index]
            if segment.end > end:
                if segment.start >= end or end - segment.start >= segment.payload_length or not self._may_split():
                    return
                self.split(segment, end - segment.start)
            if segment.mark != SACKED:
                if segment.mark == IN_NETWORK:
                    self.pipe -= segment.end - segment.start
                segment.mark = SACKED
                self.news.take(segment, segment.end - segment.start)
                self.news.sacked += 1
            index += 1

    def _may_split(self) -> bool:
        """Whether another cut is affordable: a peer that SACKs single bytes must not cost memory without bound."""
        return len(self.in_flight) <= 64 + 4 * ((self.snd_nxt - self.snd_una) // self.mss)

    def forget_sacks(self) -> None:
        """The peer took back what it had reported (RFC 2018 §8): all of it is lost."""
        for segment in self.in_flight:
            if segment.mark == SACKED:
                segment.mark = LOST
        self.relist()

    def check(self) -> None:
        """Raise AssertionError where an invariant does not hold."""
        position = self.snd_una
        pipe = 0
        lost = set(map(id, self.lost))
        for segment in self.in_flight:
            assert segment.start == position, (segment, position)
            assert sum(map(len, segment.pieces)) == segment.payload_length, segment
            assert segment.mark in (IN_NETWORK, SACKED, LOST), segment
            assert segment.mark != LOST or id(segment) in lost, segment
            position = segment.end
            pipe += segment.end - segment.start if segment.mark == IN_NETWORK else 0
        assert position == self.snd_nxt or not self.in_flight, (position, self.snd_nxt)
        assert pipe == self.pipe, (pipe, self.pipe)
        self.check_queue()


def _start(segment: SentSegment) -> int:
    return segment.start
