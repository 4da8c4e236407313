"""Loss recovery with SACK: RACK notices, PRR meters, a probe repairs tails, F-RTO and Eifel take back mistakes.

The parts are `scoreboard` (RFC 6675 §3, RFC 2883), `rack` (RFC 8985 §6), `prr` (RFC 6937), `frto` (RFC 5682) and `spurious`
(RFC 4015); this module is the order in which an acknowledgement passes them, and the tail loss probe (RFC 8985 §7).

The timer is RACK's reordering timer while something waits for its time, else the probe's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..segments import IN_NETWORK, LOST, SACKED, SentSegment
from .base import Phase, Recovery
from .frto import Frto, Verdict
from .prr import ProportionalRateReduction
from .rack import Rack
from .rto import RttEstimator
from .scoreboard import Scoreboard

if TYPE_CHECKING:
    from ..sender import Sender
    from ..timers import ConnectionTimers

MAXIMUM_ACK_DELAY = 0.2
"""Seconds that a peer may hold back the acknowledgement of a single segment (RFC 8985 TLP.max_ack_delay)."""
MINIMUM_PROBE = 0.01
"""Seconds: on paths shorter than a scheduler's whims twice the round trip is no evidence of anything."""
_NEW_DATA_IN_FRTO = 2
_OPEN = Phase.OPEN


class SelectiveRecovery(Recovery):
    """Recovery for peers that permit SACK.  `timers`: the connection's, whose retransmission time-out bounds the probe's."""

    __slots__ = (
        "_frto",
        "_probe_due",
        "_probe_end",
        "_probe_needs_sample",
        "_probe_start",
        "_prr",
        "_scoreboard",
        "_timers",
        "rack",
    )

    def __init__(self, sender: Sender, rtt: RttEstimator, timers: ConnectionTimers) -> None:
        super().__init__(sender, rtt, timers.recovery)
        self.rack = Rack(rtt)
        self._scoreboard = Scoreboard()
        self._prr = ProportionalRateReduction()
        self._frto = Frto()
        self._timers = timers
        self._probe_end: int | None = None
        self._probe_start: int | None = None  # of what it sends again; None where it is new data
        self._probe_due = False
        self._probe_needs_sample = False

    # -- acknowledgements ------------------------------------------------------------------------

    def read_sack(self, blocks: list[tuple[int, int]]) -> None:
        sender = self.sender
        news = sender.news
        duplicate = self._scoreboard.read(blocks, sender, news.una)
        self.rack.segs_sacked += news.sacked
        if duplicate is not None:
            news.duplicate_sack = True
            self._probe_reported(duplicate)
            start, end = duplicate
            end = min(end, sender.snd_nxt - sender.fin_sent)  # some report the FIN, some do not
            if self._undo.duplicate_reported(start, end, news.una) and not self._more_to_repair():
                self._take_back()

    def on_ack(self, now: float) -> None:
        sender = self.sender
        news = sender.news
        una = sender.snd_una
        quiet = self.phase is _OPEN and self._probe_end is None and not self._scoreboard.starts
        if quiet and not news.sacked and not news.duplicate_sack:
            self._nothing_missing(now)
            return
        if news.acked:
            self._scoreboard.advance(una)
            if not self._scoreboard:
                self.rack.segs_sacked = 0
        if news.rtt is not None:
            self._probe_needs_sample = False
        self.rack.update(news, now)
        self.rack.adapt(sender, news.duplicate_sack)
        self._probe_acknowledged(now)
        if self.repairing and self._undo.proven(news) and not self._more_to_repair():
            self.rack.reordering_seen = True
            self._take_back()
        if self.repairing and self._frto.under_way:
            self._judge_timeout(now)
        if self.repairing and una >= self.point:
            self._leave()
        self._detect(now, news.acked > 0, news.delivered)
        if self.phase is Phase.OPEN and news.acked and not self._scoreboard:
            self._arm_probe(now)

    def _nothing_missing(self, now: float) -> None:
        """The same where nothing is being repaired, no SACK is out and no probe on its way, as mostly."""
        sender = self.sender
        news = sender.news
        rack = self.rack
        if news.acked:
            rack.segs_sacked = 0
        if news.rtt is not None:
            self._probe_needs_sample = False
        rack.update(news, now)
        rack.adapt(sender, False)
        by_time = sender.by_time
        if by_time and by_time[0].order <= rack.latest[0]:
            self._detect(now, news.acked > 0, news.delivered)  # something that was sent later has arrived
        elif not self._probe_due:
            self.timer.when = None
        if news.acked and self.phase is _OPEN:
            self._arm_probe(now)

    def _detect(self, now: float, progress: bool, delivered: int) -> None:
        """Mark what is lost, begin recovery if that is news, and meter it."""
        sender = self.sender
        losses = self.losses
        again = self.rack.detect(sender, now, self.phase is not Phase.OPEN)
        if self.losses > losses:
            self._notice(now)
        if self.phase is Phase.RECOVERY and not sender.congestion.sets_own_window:
            sent = sender.snd_nxt + sender.retransmitted_bytes
            fresh = progress and self.losses == losses
            if not delivered and self.losses > losses:
                delivered = sender.mss  # no acknowledgement will clock out what the timer has found
            self.window = self._prr.window(delivered, sender.pipe, sent, fresh)
        if again is not None:
            self.timer.set(again)
            self._probe_due = False
        elif not self._probe_due:
            self.timer.when = None

    def _notice(self, now: float) -> None:
        """Something is newly lost: recovery begins, or goes on with what may be of another window of data."""
        sender = self.sender
        newest = next(segment.start for segment in reversed(sender.lost) if segment.mark == LOST)
        if self.phase is Phase.OPEN:
            flight = sender.snd_nxt - sender.snd_una
            self._begin_undo()
            self._reduce_for_loss(newest, now)
            self.phase = Phase.RECOVERY
            self.point = sender.snd_nxt
            self._probe_end = None
            self._stop_probe()
        elif self.phase is Phase.RECOVERY and self._reduce_for_loss(newest, now):
            flight = sender.pipe
        else:
            return
        self._prr.begin(flight, sender.congestion.ssthresh, sender.mss, sender.snd_nxt + sender.retransmitted_bytes)

    def _begin_undo(self) -> None:
        super()._begin_undo()
        if self._probe_end is not None and self._probe_start is not None:
            # A probe on its way is to be reported as well, but was no repetition since (`Undo.proven`).
            self._undo.expect(self._probe_start, min(self._probe_end, self.sender.snd_nxt - self.sender.fin_sent))

    def _leave(self) -> None:
        """Everything that was in flight when the loss was noticed has arrived."""
        congestion = self.sender.congestion
        self._undo.over(self.sender.snd_nxt)
        if self.phase is Phase.RECOVERY and not congestion.sets_own_window:
            congestion.cwnd = max(congestion.ssthresh, 2 * self.sender.mss)
        self.phase = Phase.OPEN
        self.window = None
        self._frto.stop()
        self.rack.recovery_ended()

    def _more_to_repair(self) -> bool:
        """Whether RECOVERY has yet to send something again: that the first was only late says nothing of the others."""
        return self.phase is Phase.RECOVERY and any(segment.mark == LOST for segment in self.sender.lost)

    def _take_back(self) -> None:
        super()._take_back()
        if self.phase is not Phase.OPEN:
            self.phase = Phase.OPEN
            self.window = None
            self._frto.stop()
            self.rack.recovery_ended()

    # -- time-outs -------------------------------------------------------------------------------

    def on_timeout(self, now: float) -> None:
        sender = self.sender
        first = sender.in_flight[0]
        if first.mark == SACKED:
            self._scoreboard.clear()
            sender.forget_sacks()
        try_frto = self.phase is Phase.OPEN or self._frto.under_way
        self._reduce_for_timeout(now)
        self.phase = Phase.LOSS
        self.point = sender.snd_nxt
        self.window = None
        self._probe_end = None
        self._stop_probe()
        expired = now - self.rack.rtt - self.rack.reordering_window(True)
        for segment in sender.in_flight:
            if segment is first or (segment.mark == IN_NETWORK and segment.sent_at <= expired):
                sender.mark_lost(segment)
        if first.payload_length > sender.mss:
            sender.split(first, sender.mss)
        sender.resend(first, now)
        sender.relist()
        if try_frto:
            self._frto.begin()
            self.window = sender.pipe
        else:
            self._frto.stop()

    def _judge_timeout(self, now: float) -> None:
        """F-RTO, on an acknowledgement after a time-out."""
        sender = self.sender
        news = sender.news
        room = sender.snd_una + sender.snd_wnd - sender.snd_nxt
        verdict = self._frto.on_ack(
            acked=news.acked,
            delivered=news.original,
            una=sender.snd_una,
            fack=news.fack,
            snd_nxt=sender.snd_nxt,
            can_send=bool(sender.unsent) and room > 0,
        )
        if verdict is Verdict.SEND_NEW:
            for _ in range(_NEW_DATA_IN_FRTO):
                sender.send_one(now)
            self.window = sender.pipe
        elif verdict is Verdict.SPURIOUS:
            self._take_back()
        elif verdict is Verdict.CONVENTIONAL:
            self.window = None

    # -- the tail loss probe (RFC 8985 §7) -------------------------------------------------------

    def on_sent(self, now: float) -> None:
        if self.phase is _OPEN and not self._scoreboard.starts:
            self._arm_probe(now)

    def on_retransmission(self, segment: SentSegment, now: float) -> None:
        if self.phase is not Phase.OPEN:
            if segment.start == self.sender.snd_una:
                self._timers.start_over(now)  # the oldest is on its way again: give it its time
            self._undo.retransmitted(now, segment.start, segment.end - segment.fin)

    def _arm_probe(self, now: float) -> None:
        """Start the probe timer over (§7.2)."""
        sender = self.sender
        if not sender.in_flight or not sender.snd_wnd or self._probe_end is not None:
            self._stop_probe()
            return
        srtt = self.rtt.srtt
        if srtt is None:
            interval = 1.0
        else:
            interval = 2 * srtt
            if interval < MINIMUM_PROBE:
                interval = MINIMUM_PROBE
            if sender.pipe <= sender.mss:
                interval += MAXIMUM_ACK_DELAY
        due = now + interval
        timeout = self._timers.retransmit.when
        if timeout is None or self._timers.persisting:  # what the timer runs for then is over, or about to be
            timeout = now + self.rtt.rto
        self._probe_due = True
        self.timer.set(due if due < timeout else timeout)

    def _stop_probe(self) -> None:
        if self._probe_due:
            self._probe_due = False
            self.timer.when = None

    def on_timer(self, now: float) -> bool:
        if not self._probe_due:
            self._detect(now, False, 0)
            return False
        self._probe_due = False
        sender = self.sender
        if not sender.in_flight:
            return False
        if self._probe_end is None and not self._probe_needs_sample:
            self._probe_needs_sample = True
            self._probe_start = None
            if not sender.send_one(now):
                last = sender.in_flight[-1]
                if last.payload_length > sender.mss:
                    last = sender.split(last, (last.payload_length - 1) // sender.mss * sender.mss)
                sender.resend(last, now)
                self._probe_start = last.start
            self._probe_end = sender.snd_nxt
            self.probes += 1
        return True

    def _probe_reported(self, duplicate: tuple[int, int]) -> None:
        """The peer had the repeated segment already: nothing was lost (§7.4.2)."""
        if self._probe_end is not None and self._probe_start is not None and duplicate[1] >= self._probe_end:
            self._probe_end = None

    def _probe_acknowledged(self, now: float) -> None:
        """An acknowledgement that reaches the probe ends it, and may prove a loss that it repaired (§7.4.2)."""
        end = self._probe_end
        sender = self.sender
        if end is None or sender.snd_una < end:
            return
        news = sender.news
        if self._probe_start is None or news.duplicate_sack:
            self._probe_end = None
        elif sender.snd_una > end:
            self._probe_end = None
            if self.phase is Phase.OPEN and self._probe_start >= self.reduced:
                self.reduce(sender.snd_nxt - news.una, now)
        elif not news.acked and not news.delivered:
            self._probe_end = None
