"""The sending half of a connection: what may go now, and how it goes.

Model.  Bytes of the application wait in the queue of `writequeue`.  Each transmission moves a run of them into a `SentSegment`,
which keeps its own buffers until it is acknowledged: nothing large is copied and nothing is searched.

    snd_una          snd_nxt
       |  in_flight     |   unsent …
       +----+----+------+-----------------+ FIN when `fin_queued`

What is in flight, and what is believed of it, is kept by `flight`.  `transmit` is the one place that sends: lost segments first,
then new data, as far as the window of congestion control (or of recovery, while it lasts), the peer's window and the pace allow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from ..types import Frame
from ..wire.tcp import ACK, FIN, PSH
from .flight import Flight
from .segments import IN_NETWORK, LOST, SentSegment

if TYPE_CHECKING:
    from .congestion import CongestionControl

_PACING_QUANTUM = 0.001
"""Seconds of the pacing rate that may leave at once: timers are not finer than that."""


class Outlet(Protocol):
    """What a sender needs of its connection."""

    def emit_data(self, sequence: int, flags: int, pieces: Frame, length: int, again: bool) -> None:
        """Put one segment on the link; `again`: it is a repetition."""

    def emit_run(self, sequence: int, run: list[Frame], size: int) -> None:
        """Put many new segments of `size` bytes each on the link, one after the other."""

    def send_probe(self, now: float) -> None:
        """Put a segment on the link that the peer must answer with its window."""

    def start_congestion(self) -> None:
        """Set the sender's `congestion` and `recovery`."""

    def window_reduced(self) -> None:
        """cwnd was reduced, for whatever reason."""


class Sender(Flight):
    """State of the send sequence space (RFC 9293 §3.3.1); sequence numbers are unwrapped.

    snd_up is SND.UP, the end of urgent data; outgrown is the last transmission before segments became smaller.  A connection
    begins with an `IdleSender` (idlesender.py), which has no `congestion`, `recovery` and `news` yet.
    """

    __slots__ = (
        "_outlet",
        "congestion",
        "delivered",
        "delivered_at",
        "fin_queued",
        "fin_sent",
        "first_sent_at",
        "iss",
        "last_sent",
        "limited_until",
        "maximum_window",
        "nodelay",
        "outgrown",
        "paced_until",
        "peak",
        "peak_until",
        "retransmissions",
        "retransmitted_bytes",
        "scale",
        "snd_up",
        "snd_wl1",
        "snd_wl2",
        "snd_wnd",
        "transmissions",
    )

    def __init__(self, iss: int, outlet: Outlet) -> None:
        super().__init__(iss)
        self._outlet = outlet
        self.iss = iss
        self.snd_up = iss
        self.snd_wnd = 0
        self.snd_wl1 = 0
        self.snd_wl2 = 0
        self.maximum_window = 0
        self.scale = 0
        self.nodelay = False
        self.congestion: CongestionControl
        self.fin_queued = False
        self.fin_sent = False
        self.peak = 0
        self.peak_until = iss
        self.transmissions = 0
        self.outgrown = 0
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

    def let_go(self) -> None:
        """See `Connection.fall_apart`; nothing can be sent any more."""
        if self.started:
            self.recovery.let_go()
        del self._outlet

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
            size = unsent = self.unsent
            if size > self.segment_limit:
                size = self.segment_limit
            if size > room or size > window - self.pipe:
                size = min(room, window - self.pipe)
            if self.mss < size < unsent:
                if rate is not None:
                    size = min(size, max(int(rate * _PACING_QUANTUM), 2 * self.mss))
                size -= size % self.mss  # a super-segment is cut into whole segments unless it is the last
            if not self._worth_sending(size):
                break
            if size == self.segment_limit and rate is None and unsent > 2 * size:
                count = min(unsent - 1, room, window - self.pipe) // size
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
            return size >= 0 and self.snd_nxt < self.snd_una + self.snd_wnd
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
        fin = last and self.fin_queued and self.snd_nxt + size < self.snd_una + self.snd_wnd
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

    def probe_window(self, now: float) -> None:
        """Ask for the window that is closed (RFC 9293 §3.8.6.1): by one byte of what is in flight if anything is.

        Nothing is sent beyond the window for it, as kernels do: with SND.NXT past its edge the peer would take none of our
        acknowledgements, and what it sends would come to a stop.  Where the window is open but too small for its own good,
        what fits goes: the time-out of SWS avoidance (§3.8.6.2.1).
        """
        if not self.in_flight:
            if not self.send_one(now):
                self._outlet.send_probe(now)
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

    def tell_reduced(self) -> None:
        """cwnd was reduced: the peer that echoes marks is to know (RFC 3168 §6.1.2)."""
        self._outlet.window_reduced()

    # -- acknowledgements ------------------------------------------------------------------------

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
