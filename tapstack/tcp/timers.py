"""The timers of one connection and what each does when it fires (RFC 9293 §3.8, RFC 6298 §5).

The retransmission and the persist timer are one: a connection either waits for an acknowledgement or for a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import errors
from .recovery.rto import MAXIMUM as MAXIMUM_RTO
from .states import TcpState, TcpTrigger

if TYPE_CHECKING:
    from ..timers import Timer
    from .connection import Connection

DELAYED_ACK = 0.04
"""Seconds; RFC 9293 MUST-58 allows up to 0.5."""
KEEP_ALIVE_PROBES = 9
KEEP_ALIVE_INTERVAL = 75.0
R1 = 3
"""Time-outs in a row after which the owner is told, the next hop is verified, and large packets are suspected to vanish (RFC 9293
MUST-20, SHLD-9, SHLD-10; RFC 4821)."""


class ConnectionTimers:
    """Retransmission or persist, recovery (RACK and probe), delayed ACK, pace, keep-alive or FIN-WAIT-2 (`slow`).

    All but the first are made when they are first used: few connections ever need them all.
    """

    __slots__ = (
        "_connection",
        "_delayed_ack",
        "_pace",
        "_recovery",
        "_slow",
        "keep_alive_probes",
        "persist_backoff",
        "persisting",
        "probed_at",
        "retransmit",
        "timeout_at",
        "timeouts",
        "waiting_since",
    )

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.retransmit = connection.tcp.timers.timer(self._on_retransmit)
        self._delayed_ack: Timer | None = None
        self._slow: Timer | None = None
        self._recovery: Timer | None = None
        self._pace: Timer | None = None
        self.timeouts = 0
        self.timeout_at = 0.0
        """when the retransmission or persist time-out is due; the timer may fire earlier, for the user time-out"""
        self.persisting = False
        self.persist_backoff = 0
        self.keep_alive_probes = 0
        """keep-alives sent since anything was heard, the last at `probed_at`"""
        self.probed_at = 0.0
        self.waiting_since = 0.0
        """since when the oldest unacknowledged thing has been waiting, for the user time-out"""

    @property
    def slow(self) -> Timer:
        """Keep-alive, or the end of FIN-WAIT-2."""
        if self._slow is None:
            self._slow = self._connection.tcp.timers.timer(self._on_slow)
        return self._slow

    @property
    def recovery(self) -> Timer:
        """Loss recovery's own."""
        if self._recovery is None:
            self._recovery = self._connection.tcp.timers.timer(self._on_recovery)
        return self._recovery

    @property
    def pace(self) -> Timer:
        """When the pace lets the next segment go."""
        if self._pace is None:
            self._pace = self._connection.tcp.timers.timer(self._on_pace)
        return self._pace

    def hold_back(self, now: float) -> None:
        """Something came that need not be acknowledged at once: soon it must, unless something is sent before."""
        timer = self._delayed_ack
        if timer is None:
            timer = self._delayed_ack = self._connection.tcp.timers.timer(self._on_delayed_ack)
        if timer.when is None:
            timer.set(now + DELAYED_ACK)

    def acknowledged(self) -> None:
        """An acknowledgement is leaving: none is held back any more."""
        timer = self._delayed_ack
        if timer is not None:
            timer.when = None

    def retire(self) -> None:
        """Disarm everything for good: the PCB is gone."""
        for timer in (self.retransmit, self._delayed_ack, self._slow, self._recovery, self._pace):
            if timer is not None:
                timer.retire()

    def let_go(self) -> None:
        """See `Connection.fall_apart`; no timer can be asked for any more."""
        del self._connection

    # -- retransmission and persist --------------------------------------------------------------

    def restart_retransmit(self, now: float) -> None:
        """An acknowledgement moved SND.UNA: start over, or stop when nothing is left (RFC 6298 5.2, 5.3)."""
        self.waiting_since = now
        self.persist_backoff = 0
        self.persisting = False
        self.retransmit.when = None
        self.ensure_retransmit(now)

    def ensure_retransmit(self, now: float) -> None:
        """Something may have been sent, or could not be: have the right timer running (RFC 6298 5.1)."""
        connection = self._connection
        sender = connection.sender
        timer = self.retransmit
        if sender.in_flight:
            closed = sender.snd_wnd == 0
        elif sender.unsent or (sender.fin_queued and not sender.fin_sent):
            closed = True
        else:
            if connection.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED):
                return
            timer.when = None
            self.persisting = False
            return
        if timer.when is not None and closed == self.persisting:
            return
        if timer.when is None or self.persisting:
            self.waiting_since = now  # what waited for the window begins to wait for its acknowledgement
        self.persisting = closed
        self._wait(now + (self._persist_interval() if closed else connection.rtt.rto))

    def start_over(self, now: float) -> None:
        """The retransmission time-out begins now (RFC 6298 5.1, 5.6)."""
        self._wait(now + self._connection.rtt.rto)

    def _wait(self, due: float) -> None:
        self.timeout_at = due
        patience = self._patience()
        self.retransmit.set(due if due < patience else patience)

    def _patience(self) -> float:
        """When the user time-out is over (RFC 9293 R2).

        A closed window may stay closed as long as its probes are answered (MUST-37), but not for a program that is gone.
        """
        connection = self._connection
        since = self.waiting_since
        if self.persisting and not connection.detached:
            since = max(since, connection.last_heard)
        return since + connection.user_timeout

    def _persist_interval(self) -> float:
        return min(self._connection.rtt.rto * (1 << min(self.persist_backoff, 10)), MAXIMUM_RTO)

    def _on_retransmit(self, now: float) -> None:
        connection = self._connection
        try:
            self._retransmit_due(now)
        except Exception as error:
            connection.tcp.broken(connection, error, now)
            raise

    def _retransmit_due(self, now: float) -> None:
        connection = self._connection
        if connection.state in (TcpState.SYN_SENT, TcpState.SYN_RECEIVED):
            self._on_handshake_timeout(now)
            return
        if now >= self._patience():
            connection.fail(errors.timed_out(), now, "user time-out")
            return
        if now < self.timeout_at:
            self._wait(self.timeout_at)  # something was heard since
            return
        connection.fit_path()
        if self.persisting:
            connection.sender.probe_window(now)
            self.persist_backoff += 1
            self._wait(now + self._persist_interval())
            connection.tcp.mark_dirty(connection)  # what left into a small window is watched as other data is
            return
        probe = self.recovery.when
        if probe is not None and probe <= now:
            self.recovery.cancel()
            self._recovery_due(now)  # a probe is due at the same moment: it comes first, and the time-out starts over
            return
        sender = connection.sender
        self.timeouts += 1
        connection.rtt.back_off()
        if connection.rtt.backoff >= R1:
            connection.suspect_black_hole()
            connection.trouble(errors.timed_out())
            connection.path.doubt()
        sender.recovery.on_timeout(now)
        if connection.trace is not None:
            connection.trace.point(connection, now)
        sender.transmit(now)
        self.start_over(now)

    def _on_recovery(self, now: float) -> None:
        connection = self._connection
        try:
            self._recovery_due(now)
        except Exception as error:
            connection.tcp.broken(connection, error, now)
            raise

    def _recovery_due(self, now: float) -> None:
        connection = self._connection
        connection.fit_path()
        if connection.sender.recovery.on_timer(now):
            self.start_over(now)
        connection.tcp.mark_dirty(connection)

    def _on_pace(self, now: float) -> None:
        self._connection.tcp.mark_dirty(self._connection)

    def wait_for_handshake(self, now: float) -> None:
        """Come again when the SYN is to be sent once more, or when the handshake has had its time."""
        connection = self._connection
        self.retransmit.set(min(now + connection.rtt.rto, self.waiting_since + connection.handshake_timeout))

    def _on_handshake_timeout(self, now: float) -> None:
        connection = self._connection
        if now >= self.waiting_since + connection.handshake_timeout:
            connection.fail(errors.timed_out(), now, "handshake time-out")
            return
        connection.rtt.back_off()
        if connection.rtt.backoff >= R1:
            connection.trouble(errors.timed_out())
            connection.path.doubt()
        connection.syn_retransmitted = True
        connection.send_syn(now)
        if connection.state is TcpState.SYN_RECEIVED and connection.armed is None:
            connection.send_syn(
                now, plain=True
            )  # a stranger may have sent the SYN that was answered: the peer needs ours
        self.wait_for_handshake(now)

    # -- delayed acknowledgement -----------------------------------------------------------------

    def _on_delayed_ack(self, now: float) -> None:
        connection = self._connection
        if connection.receiver.unacked:
            connection.send_ack(now)

    # -- keep-alive and FIN-WAIT-2 ---------------------------------------------------------------

    def start_slow(self, now: float) -> None:
        """Arm the slow timer as the connection's state and options ask."""
        connection = self._connection
        if connection.state is TcpState.FIN_WAIT_2 and connection.detached:
            self.slow.set(now + connection.options.fin_wait_2_timeout)
        elif connection.options.keep_alive is not None:
            self.slow.set(now + connection.options.keep_alive)

    def _on_slow(self, now: float) -> None:
        connection = self._connection
        if connection.state is TcpState.FIN_WAIT_2 and connection.detached:
            connection.delete(TcpTrigger.DELETE, now, "FIN-WAIT-2 time-out")
            return
        idle = connection.options.keep_alive
        if idle is None:
            return
        if connection.last_heard > self.probed_at:
            self.keep_alive_probes = 0
        heard = connection.last_heard + idle
        if connection.sender.in_flight:
            self.keep_alive_probes = 0
            self.slow.set(now + idle)  # the retransmission timer watches already (RFC 9293 MUST-26)
        elif heard > now:
            self.slow.set(heard)
        elif self.keep_alive_probes >= KEEP_ALIVE_PROBES:
            connection.fail(errors.timed_out(), now, "keep-alive time-out")
        else:
            self.keep_alive_probes += 1
            self.probed_at = now
            connection.send_probe(now)
            self.slow.set(now + KEEP_ALIVE_INTERVAL)
