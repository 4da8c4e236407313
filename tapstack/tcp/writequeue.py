"""What the application wrote and no segment has taken yet.

Model.  The bytes stand in `_unsent`, a queue of buffers, from `_unsent_at` in the first one on; `unsent` counts them.  They are
cut where segments end, so that nothing large is copied: a `SentSegment` gets views of the buffers or the buffers themselves.

`Sender` derives from the queue instead of holding one: it asks for `unsent` several times per segment, and an idle connection
would pay for one object more.

The queue is a list: an empty deque holds 700 bytes.  What leaves it at the front leaves in one cut.
"""

from __future__ import annotations

from ..types import Buffer, Frame
from ..wire.tcp import DEFAULT_MSS

_MAXIMUM_PIECES = 256
_COPY = 1 << 16
_SMALL = 2048
"""Bytes that are copied in less time than a view of them is made."""


class WriteQueue:
    """Bytes on their way from the application to segments.

    mss: payload of one segment.  segment_limit: payload of the largest frame, a multiple of `mss`; 0 before both are known.
    """

    __slots__ = ("_unsent", "_unsent_at", "mss", "segment_limit", "unsent")

    def __init__(self) -> None:
        self.mss = DEFAULT_MSS
        self.segment_limit = 0
        self._unsent: list[bytes] = []
        self._unsent_at = 0
        self.unsent = 0

    def write(self, data: Buffer) -> None:
        """Queue bytes to send.  Immutable bytes are kept as they are; others are copied once, in pieces of a frame's size."""
        if isinstance(data, bytes):
            size = len(data)
            if size:
                self._unsent.append(data)
        else:
            view = memoryview(data)
            size = view.nbytes
            if view.format != "B" or not view.c_contiguous:  # whose length and slices are not those of its bytes
                view = memoryview(view.tobytes())
            # malloc maps fresh pages for large blocks, and gives them back at once: that costs more than the copy.
            step = self.segment_limit or self.mss
            limit = max(_COPY // step, 1) * step
            self._unsent += [bytes(view[at : at + limit]) for at in range(0, size, limit)]
        self.unsent += size

    def take(self, size: int) -> Frame:
        """The next `size` unsent bytes as pieces."""
        unsent = self._unsent
        self.unsent -= size
        at = self._unsent_at
        taken = 0
        pieces: Frame = []
        while size:
            piece = unsent[taken]
            length = len(piece) - at
            if length > size:
                pieces.append(piece[at : at + size] if size <= _SMALL else memoryview(piece)[at : at + size])
                at += size
                break
            pieces.append(memoryview(piece)[at:] if at else piece)
            at = 0
            taken += 1
            size -= length
        self._unsent_at = at
        if taken:
            del unsent[:taken]
        return [b"".join(pieces)] if len(pieces) > _MAXIMUM_PIECES else pieces

    def check_queue(self) -> None:
        """Raise AssertionError where the count is wrong."""
        assert self.unsent == sum(map(len, self._unsent)) - self._unsent_at
