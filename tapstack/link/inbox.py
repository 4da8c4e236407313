"""The queue in front of a link's owner: what has arrived and is not yet taken, and when to say so.

Invariants.
- At most `limit` frames wait.
- The owner is woken when frames have arrived, and again as long as it takes some and leaves others, so that it may
  read in batches.  An owner that takes none is left in peace until the next arrival: to call it for ever would keep
  a virtual clock from moving.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable


class Inbox:
    """A bounded queue of frames with a wake-up."""

    __slots__ = ("_frames", "_limit", "_loop", "_taken", "_wake")

    def __init__(self, limit: int) -> None:
        """limit: frames that may wait."""
        self._frames: deque[bytes] = deque()
        self._limit = limit
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: Callable[[], None] | None = None
        self._taken = False

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Name the owner; frames that wait already are announced in the loop's next round."""
        self._loop = loop
        self._wake = wake
        if self._frames:
            loop.call_soon(self.announce)

    def put(self, frame: bytes) -> bool:
        """Add a frame, without a word; False when there is no room."""
        if len(self._frames) >= self._limit:
            return False
        self._frames.append(frame)
        return True

    def put_all(self, frames: list[bytes]) -> int:
        """Add frames, without a word; returns for how many there was room."""
        room = self._limit - len(self._frames)
        if len(frames) > room:
            frames = frames[: max(room, 0)]
        self._frames.extend(frames)
        return len(frames)

    def take(self) -> bytes | None:
        """The frame that waits for longest; None when there is none."""
        if not self._frames:
            return None
        self._taken = True
        return self._frames.popleft()

    def announce(self) -> None:
        """Wake the owner if frames wait."""
        if self._wake is None or self._loop is None or not self._frames:
            return
        self._taken = False
        self._wake()
        if self._frames and self._taken:
            self._loop.call_soon(self.announce)

    def close(self) -> None:
        """Forget the frames and the owner."""
        self._frames.clear()
        self._wake = None
