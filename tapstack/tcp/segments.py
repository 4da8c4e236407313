"""A segment that was sent, and what is believed of it."""

from __future__ import annotations

from ..types import Frame

IN_NETWORK, SACKED, LOST, ACKED = range(4)
"""Marks of a sent segment.  ACKED ones are no longer in flight; they only linger in lists that skip them."""


class SentSegment:
    """A run of the sequence space that was sent as one; `end - start` counts a SYN or FIN as one.

    sent_at: time of the last transmission; order: its number among all transmissions.
    delivered, delivered_at, first_sent_at, limited: the state of the connection at that time, from which a delivery rate is
    computed when the segment is acknowledged (see `congestion.bbr`).
    """

    __slots__ = (
        "delivered",
        "delivered_at",
        "end",
        "fin",
        "first_sent_at",
        "limited",
        "mark",
        "order",
        "pieces",
        "retransmitted",
        "sent_at",
        "start",
    )

    def __init__(self, start: int, end: int, pieces: Frame, fin: bool) -> None:
        self.start = start
        self.end = end
        self.pieces = pieces
        self.fin = fin
        self.mark = IN_NETWORK
        self.retransmitted = False
        self.sent_at = 0.0
        self.order = 0
        self.delivered = 0
        self.delivered_at = 0.0
        self.first_sent_at = 0.0
        self.limited = False

    @property
    def payload_length(self) -> int:
        """Bytes of payload, without the FIN."""
        return self.end - self.start - self.fin

    def copy_history(self, other: SentSegment) -> None:
        """Take over everything but the place in the sequence space."""
        self.mark = other.mark
        self.retransmitted = other.retransmitted
        self.sent_at = other.sent_at
        self.order = other.order
        self.delivered = other.delivered
        self.delivered_at = other.delivered_at
        self.first_sent_at = other.first_sent_at
        self.limited = other.limited

    def __repr__(self) -> str:
        mark = ("", " sacked", " lost", " acked")[self.mark]
        return f"<{self.start}–{self.end}{mark}{' again' if self.retransmitted else ''}>"


def split_pieces(pieces: Frame, length: int) -> tuple[Frame, Frame]:
    """`pieces` cut after `length` bytes, without copying."""
    head: Frame = []
    for index, piece in enumerate(pieces):
        if length < len(piece):
            view = memoryview(piece)
            if length:
                head.append(view[:length])
            return head, [view[length:], *pieces[index + 1 :]]
        head.append(piece)
        length -= len(piece)
        if not length:
            return head, pieces[index + 1 :]
    return head, []
