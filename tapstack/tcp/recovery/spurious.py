"""Recognising that a reduction was a mistake, and taking it back (RFC 3522, RFC 3708, RFC 4015; F-RTO is in `frto`).

Two proofs count.  Eifel: the acknowledgement of something sent twice echoes a timestamp from before it was sent the second
time, so it was the first copy that arrived.  D-SACK: the peer reports as duplicate everything that was sent twice, each as
often as it was sent again.

Both are about what was sent again since the reduction; a tail loss probe that was on its way then must be reported as well.  Any
other repetition of the time before may still be on its way, too: it was beyond the end of the recovery that sent it, and its
acknowledgement proves nothing about this one.  A D-SACK for what was not sent again shows that the network makes duplicates of
its own: no D-SACK proves anything any more until the next reduction (RFC 3708).  Nor does one that comes when what was sent
after the recovery has been acknowledged: the reports of its repetitions have mostly come before, and where an original is later
still, the reduction stands, which is the safe side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..acknowledged import Acknowledged

if TYPE_CHECKING:
    from ..congestion import CongestionControl, Saved

_MOST_AGAIN = 256
"""Transmissions whose reports are waited for.  Who repeats more has lost something, or Eifel's proof serves."""


class Undo:
    """What is needed to take back the latest reduction.

    _again: the ranges that were sent again since and are not reported as duplicates yet, an entry for each transmission;
    None when D-SACKs prove nothing.  _reduced: `Recovery.reduced` before.  _until: SND.NXT when the recovery was over.
    """

    __slots__ = ("_again", "_first_at", "_reduced", "_saved", "_una", "_until")

    def __init__(self) -> None:
        self._saved: Saved | None = None
        self._reduced = 0
        self._una = 0
        self._again: list[tuple[int, int]] | None = None
        self._first_at: int | None = None
        self._until: int | None = None

    def begin(self, congestion: CongestionControl, una: int, reduced: int) -> None:
        """A reduction is about to happen; everything before `una` is acknowledged, `reduced` was SND.NXT at the last one."""
        self._saved = congestion.save()
        self._reduced = reduced
        self._una = una
        self._again = []
        self._first_at = None
        self._until = None

    def over(self, snd_nxt: int) -> None:
        """The recovery that began with the reduction is over."""
        self._until = snd_nxt

    def retransmitted(self, now: float, start: int = 0, end: int = 0) -> None:
        """Payload from `start` to `end` was sent again; for a peer that reports no duplicates it does not matter which."""
        self.expect(start, end)
        if self._first_at is None:
            self._first_at = int(now * 1000)

    def expect(self, start: int, end: int) -> None:
        """A report that `start` to `end` came twice is part of the proof."""
        if end > start and self._again is not None:
            if len(self._again) < _MOST_AGAIN:
                self._again.append((start, end))
            else:
                self._again = None

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

    def take_back(self, congestion: CongestionControl) -> int | None:
        """Restore what the controller knew before; returns SND.NXT at the reduction before, None where this one stands."""
        saved = self._saved
        self.forget()
        if saved is None:
            return None
        congestion.restore(saved)
        return self._reduced

    def forget(self) -> None:
        """The reduction stands."""
        self._saved = None
        self._again = None
        self._first_at = None
