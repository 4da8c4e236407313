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

if TYPE_CHECKING:
    from ...timers import Timer
    from ..sender import Sender


class Phase(StrEnum):
    """Where loss recovery stands."""

    OPEN = "open"
    RECOVERY = "recovery"
    LOSS = "loss"


class Recovery(ABC):
    """Notices loss and repairs it, for one connection.

    window: bytes that may be in the network instead of cwnd; None where cwnd applies.
    losses: segments marked lost so far.  undone: reductions that turned out to be mistaken.
    probes: tail loss probes sent.
    """

    __slots__ = ("losses", "phase", "point", "probes", "rtt", "sender", "timer", "undone", "window")

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

    def let_go(self) -> None:
        """See `Connection.fall_apart`; what was counted can still be read."""
        del self.sender

    @property
    def repairing(self) -> bool:
        """Whether losses are being repaired."""
        return self.phase is not Phase.OPEN

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
