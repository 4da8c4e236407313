"""Recognising that a reduction was a mistake, and taking it back (RFC 3522, RFC 3708, RFC 4015; F-RTO is in `frto`).

Two proofs count.  Eifel: the acknowledgement of something sent twice echoes a timestamp from before it was sent the second
time, so it was the first copy that arrived.  D-SACK: the peer reports as duplicate everything that was sent twice, each as
often as it was sent again.

Both are about what was sent again since the reduction.  A repetition of the time before it may still be on its way: it was
beyond the end of the recovery that sent it, and its acknowledgement proves nothing about this one.  A D-SACK for what was not
sent again shows that the network makes duplicates of its own: from then on no D-SACK proves anything (RFC 3708).  The same
holds when what was sent after the recovery has been acknowledged: the reports of its repetitions would have come before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..acknowledged import Acknowledged

if TYPE_CHECKING:
    from ..congestion import CongestionControl, Saved


class Undo:
    """What is needed to take back the latest reduction.

    _again: the ranges that were sent again since and are not reported as duplicates yet, an entry for each transmission;
    None when D-SACKs prove nothing.  _until: SND.NXT when the recovery was over.
    """

    __slots__ = ("_again", "_first_at", "_saved", "_una", "_until")

    def __init__(self) -> None:
        self._saved: Saved | None = None
        self._una = 0
        self._again: list[tuple[int, int]] | None = None
        self._first_at: int | None = None
        self._until: int | None = None

    def begin(self, congestion: CongestionControl, una: int) -> None:
        """A reduction is about to happen; everything before `una` is acknowledged."""
        self._saved = congestion.save()
        self._una = una
        self._again = []
        self._first_at = None
        self._until = None

    def over(self, snd_nxt: int) -> None:
        """The recovery that began with the reduction is over."""
        self._until = snd_nxt

    def retransmitted(self, now: float, start: int = 0, end: int = 0) -> None:
        """Payload from `start` to `end` was sent again; for a peer that reports no duplicates it does not matter which."""
        if end > start and self._again is not None:
            self._again.append((start, end))
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

    def duplicate_reported(self, start: int, end: int, una: int) -> bool:
        """The peer had `start` to `end` already; True when that was the last of what was sent again.

        una: SND.UNA before the acknowledgement that says so.
        """
        again = self._again
        if again is None or start < self._una or start >= end:
            return False
        if self._until is not None and una > self._until:
            self.forget()
            return False
        while start < end:
            index = next((i for i, (left, right) in enumerate(again) if left <= start < right), None)
            if index is None:
                self._again = None  # the network's duplicate
                return False
            left, right = again[index]
            stop = min(end, right)
            again[index : index + 1] = [part for part in ((left, start), (stop, right)) if part[0] < part[1]]
            start = stop
        return not again

    def take_back(self, congestion: CongestionControl) -> None:
        """Restore what the controller knew before."""
        if self._saved is not None:
            congestion.restore(self._saved)
        self.forget()

    def forget(self) -> None:
        """The reduction stands."""
        self._saved = None
        self._again = None
        self._first_at = None
