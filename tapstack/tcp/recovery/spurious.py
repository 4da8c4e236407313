"""Recognising that a reduction was a mistake, and taking it back (RFC 3522, RFC 3708, RFC 4015; F-RTO is in `frto`).

Two proofs count.  Eifel: the acknowledgement of something sent twice echoes a timestamp from before it was sent the second
time, so it was the first copy that arrived.  D-SACK: the peer reports as duplicate everything that was sent twice.

Both are about what was sent again since the reduction.  A repetition of the time before it may still be on its way: it was
beyond the end of the recovery that sent it, and its acknowledgement proves nothing about this one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..acknowledged import Acknowledged

if TYPE_CHECKING:
    from ..congestion import CongestionControl, Saved


class Undo:
    """What is needed to take back the latest reduction."""

    __slots__ = ("_count", "_first_at", "_saved", "_una")

    def __init__(self) -> None:
        self._saved: Saved | None = None
        self._una = 0
        self._count = 0
        self._first_at: int | None = None

    def begin(self, congestion: CongestionControl, una: int) -> None:
        """A reduction is about to happen; everything before `una` is acknowledged."""
        self._saved = congestion.save()
        self._una = una
        self._count = 0
        self._first_at = None

    def retransmitted(self, now: float, segments: int = 1) -> None:
        """Something was sent again."""
        self._count += segments
        if self._first_at is None:
            self._first_at = int(now * 1000)

    def proven(self, news: Acknowledged) -> bool:
        """Whether this acknowledgement proves the reduction wrong by its timestamp."""
        return (
            self._saved is not None
            and self._first_at is not None
            and int(news.repeated_at * 1000) >= self._first_at
            and news.echo is not None
            and news.echo < self._first_at
        )

    def duplicate_reported(self, start: int, segments: int) -> bool:
        """The peer had `segments` from `start` on already, which were sent again; True when that was all of it."""
        if self._saved is None or not self._count or start < self._una:
            return False
        self._count = max(0, self._count - segments)
        return not self._count

    def take_back(self, congestion: CongestionControl) -> None:
        """Restore what the controller knew before."""
        if self._saved is not None:
            congestion.restore(self._saved)
        self.forget()

    def forget(self) -> None:
        """The reduction stands."""
        self._saved = None
        self._count = 0
        self._first_at = None
