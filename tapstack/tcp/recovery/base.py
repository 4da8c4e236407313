"""The interface between the sender and loss recovery.

The sender moves marks when told and sends what is marked LOST; a `Recovery` decides.  It hears of each acknowledgement
after the marks and the round-trip estimate have moved (`on_ack`; what is new is in `sender.news`), of each
transmission, and of two timers: the retransmission time-out and one of its own.

Phases.  OPEN: nothing is known to be lost.  RECOVERY: losses noticed by acknowledgements are being repaired, until
everything that was in flight when the first was noticed (`point`) is acknowledged.  LOSS: the same after a time-out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import StrEnum
from typing import TYPE_CHECKING

from ..segments import SentSegment
from .rto import RttEstimator
from .spurious import Undo

if TYPE_CHECKING:
    from ...timers import Timer
    from ..sender import Sender

DUPLICATE_THRESHOLD = 3
"""Duplicate acknowledgements, or segments SACKed, that mean a loss where nothing is known of reordering (RFC 5681 §3.2)."""


class Phase(StrEnum):
    """Where loss recovery stands."""

    OPEN = "open"
    RECOVERY = "recovery"
    LOSS = "loss"


class Recovery(ABC):
    """Notices loss and repairs it, for one connection.

    window: bytes that may be in the network instead of cwnd; None where cwnd applies.
    reduced: SND.NXT when cwnd was last reduced: what is lost or marked before it is of a window of data that has had its
    reduction (RFC 3168 §6.1.2), what is after it is of another (RFC 5681 §4.3).
    losses: segments marked lost so far.  undone: reductions that turned out to be mistaken.
    probes: tail loss probes sent.
    """

    __slots__ = (
        "_timeout_una",
        "_undo",
        "losses",
        "phase",
        "point",
        "probes",
        "reduced",
        "rtt",
        "sender",
        "timer",
        "undone",
        "window",
    )

    def __init__(self, sender: Sender, rtt: RttEstimator, timer: Timer) -> None:
        self.sender = sender
        self.rtt = rtt
        self.timer = timer
        self.phase = Phase.OPEN
        self.point = sender.snd_una - 1
        self.window: int | None = None
        self.losses = 0
        self.undone = 0
        self.probes = 0
        self.reduced = sender.snd_una
        self._undo = Undo()
        self._timeout_una = 0

    def let_go(self) -> None:
        """See `Connection.fall_apart`; what was counted can still be read."""
        del self.sender

    @property
    def repairing(self) -> bool:
        """Whether losses are being repaired."""
        return self.phase is not Phase.OPEN

    # -- reductions ------------------------------------------------------------------------------

    def reduce(self, in_flight: int, now: float) -> None:
        """Congestion without anything left to repair: a mark, or a loss that a probe repaired.  It is sure, and stands."""
        self._undo.forget()
        self.sender.congestion.on_congestion(in_flight, now)
        self._note_reduction()

    def confirm(self) -> None:
        """While losses are being repaired the peer reports a mark: the reduction was due in any case."""
        self._undo.forget()

    def _reduce_for_loss(self, start: int, now: float) -> bool:
        """What begins at `start` is lost, as recovery begins or later: False where its window has had a reduction."""
        if start < self.reduced:
            return False
        sender = self.sender
        flight = sender.snd_nxt - sender.snd_una
        if self.phase is Phase.RECOVERY:
            flight = min(flight, sender.congestion.cwnd)  # the rest has arrived, behind a hole
        sender.congestion.on_congestion(flight, now)
        self._note_reduction()
        return True

    def _reduce_for_timeout(self, now: float) -> None:
        """RFC 5681 §3.1: the threshold is held only where the timer has sent this very segment again before."""
        sender = self.sender
        una = sender.snd_una
        flight = sender.snd_nxt - una
        if self.phase is Phase.OPEN:
            self._begin_undo()
            sender.congestion.on_timeout(flight, now)
        elif self.phase is Phase.RECOVERY or una > self._timeout_una:
            sender.congestion.on_timeout_in_recovery(flight)
        else:
            sender.congestion.on_repeated_timeout()
        self._timeout_una = una
        self._note_reduction()

    def _note_reduction(self) -> None:
        """cwnd was reduced, for whatever reason."""
        self.reduced = self.sender.snd_nxt
        self.sender.tell_reduced()

    def _begin_undo(self) -> None:
        """Repairing begins, and with it the wait for proofs that there is nothing to repair."""
        self._undo.begin(self.sender.congestion, self.sender.snd_una, self.reduced)

    def _take_back(self) -> None:
        """The reduction was a mistake: nothing was lost but time.  One that a mark has confirmed stands all the same."""
        before = self._undo.take_back(self.sender.congestion)
        if before is not None:
            self.reduced = before  # what was marked meanwhile has no reduction any more
            self.undone += 1
        self.sender.unmark_lost()

    # -- what is heard ---------------------------------------------------------------------------

    def read_sack(self, blocks: list[tuple[int, int]]) -> None:  # noqa: B027 - nothing is a fair answer
        """Mark what the peer reports; `blocks` are sequence numbers of the wire."""

    @abstractmethod
    def on_ack(self, now: float) -> None:
        """An acknowledgement brought news: `sender.news`."""

    def on_duplicate_ack(self, now: float) -> None:  # noqa: B027
        """A duplicate acknowledgement (RFC 5681 §2) that brought no news."""

    @abstractmethod
    def on_timeout(self, now: float) -> None:
        """The retransmission timer fired: the oldest segment is sent again before this returns."""

    def on_timer(self, now: float) -> bool:
        """The timer of recovery fired; True when the retransmission timer is to start over."""
        return False

    def on_sent(self, now: float) -> None:  # noqa: B027
        """`transmit` has just sent something."""

    def on_retransmission(self, segment: SentSegment, now: float) -> None:  # noqa: B027
        """A segment is about to be sent again."""
