"""F-RTO: was the time-out spurious? (RFC 5682 §3, the SACK-enhanced version)

After a time-out the oldest segment is sent again.  If the acknowledgement that follows moves SND.UNA, two *new*
segments are sent instead of more repetitions.  If the next acknowledgement then covers data that was sent once, before
the time-out, that data was only late, and so was everything else: the time-out was spurious.
"""

from __future__ import annotations

from enum import Enum, auto


class Verdict(Enum):
    """What to do now."""

    WAIT = auto()
    SEND_NEW = auto()
    SPURIOUS = auto()
    CONVENTIONAL = auto()


class _Step(Enum):
    IDLE = auto()
    FIRST = auto()
    SECOND = auto()


class Frto:
    """The algorithm's steps for one connection; sequence numbers are unwrapped.

    >>> frto = Frto()
    >>> frto.begin()
    >>> frto.on_ack(acked=1000, delivered=1000, una=2000, fack=2000, snd_nxt=9000, can_send=True).name
    'SEND_NEW'
    >>> frto.on_ack(acked=1000, delivered=1000, una=3000, fack=3000, snd_nxt=11000, can_send=True).name
    'SPURIOUS'
    """

    __slots__ = ("_point", "_step")

    def __init__(self) -> None:
        self._step = _Step.IDLE
        self._point = 0

    @property
    def under_way(self) -> bool:
        """Whether a verdict is still to come."""
        return self._step is not _Step.IDLE

    def begin(self) -> None:
        """Step 1: the time-out; the oldest segment has been sent again."""
        self._step = _Step.FIRST

    def stop(self) -> None:
        """Forget it."""
        self._step = _Step.IDLE

    def on_ack(self, *, acked: int, delivered: int, una: int, fack: int, snd_nxt: int, can_send: bool) -> Verdict:
        """An acknowledgement arrived; `can_send`: new data could be sent now."""
        if self._step is _Step.FIRST:
            if not acked:
                return Verdict.WAIT
            self._point = snd_nxt
            if una >= snd_nxt or not can_send:
                self._step = _Step.IDLE
                return Verdict.CONVENTIONAL
            self._step = _Step.SECOND
            return Verdict.SEND_NEW
        self._step = _Step.IDLE
        if delivered and una <= self._point and fack <= self._point:
            return Verdict.SPURIOUS
        return Verdict.CONVENTIONAL
