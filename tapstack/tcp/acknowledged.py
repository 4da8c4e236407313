"""What one acknowledgement says: filled while the marks move, read by recovery and by congestion control."""

from __future__ import annotations

from .segments import SentSegment


class Acknowledged:
    """The news of one acknowledgement.  There is one object per connection, emptied by `begin` each time.

    acked: bytes by which SND.UNA moved; what congestion control hears of, in a slow start that repairs losses, is at most what
    left the network with them.  sacked: how many segments were newly reported by SACK.  delivered: bytes that
    newly left the network either way.  in_flight: `pipe` before; peak: the most that `pipe` was in the last round trip.
    newest: the most recently sent of the segments delivered; clean: the last one acknowledged that was sent once;
    ambiguous: whether one acknowledged had been sent twice; repeated_at: when the latest of those was sent again (0: none).
    fack: the highest sequence number delivered so far; reordered: whether something below it came that was sent once;
    original: the highest end of a newly delivered segment that was sent once (0 if none).
    rtt: this acknowledgement's sample, seconds; srtt and minimum_rtt: the estimates after it.
    rate_bytes, interval, prior_delivered, limited: the delivery-rate sample: bytes in seconds, `delivered` when `newest` was
    sent, whether the application was the limit then.
    una, acknowledged, next: SND.UNA before and after, and SND.NXT.
    echo: when the transmission that the peer echoes was made, in whole milliseconds of this clock; None without timestamps.
    duplicate_sack: whether the peer reported a range that it had already (RFC 2883).
    ece: the peer saw congestion marks (RFC 3168).
    """

    __slots__ = (
        "acked",
        "acknowledged",
        "ambiguous",
        "clean",
        "delivered",
        "duplicate_sack",
        "ece",
        "echo",
        "fack",
        "in_flight",
        "interval",
        "limited",
        "minimum_rtt",
        "newest",
        "next",
        "original",
        "peak",
        "prior_delivered",
        "rate_bytes",
        "reordered",
        "repeated_at",
        "rtt",
        "sacked",
        "srtt",
        "una",
    )

    def __init__(self) -> None:
        self.fack = 0
        self.srtt = 0.0
        self.minimum_rtt = 0.0
        self.una = 0
        self.acknowledged = 0
        self.next = 0
        self.peak = 0
        self.begin(0, 0)

    def begin(self, in_flight: int, una: int) -> None:
        """A new acknowledgement arrives."""
        self.acked = 0
        self.sacked = 0
        self.delivered = 0
        self.in_flight = in_flight
        self.una = una
        self.newest: SentSegment | None = None
        self.clean: SentSegment | None = None
        self.ambiguous = False
        self.repeated_at = 0.0
        self.reordered = False
        self.original = 0
        self.rtt: float | None = None
        self.rate_bytes = 0
        self.interval = 0.0
        self.prior_delivered = 0
        self.limited = False
        self.echo: int | None = None
        self.duplicate_sack = False
        self.ece = False

    def repeated(self, segment: SentSegment) -> None:
        """`segment`, which was sent twice, is acknowledged."""
        self.ambiguous = True
        self.repeated_at = max(self.repeated_at, segment.sent_at)

    def take(self, segment: SentSegment, end: int) -> None:
        """`segment` is newly delivered, up to `end`: of a super-segment perhaps only the first packets."""
        self.delivered += end - segment.start
        newest = self.newest
        if newest is None or segment.order >= newest.order:
            self.newest = segment
        if not segment.retransmitted:
            self.original = end
            if end < self.fack:
                self.reordered = True
        if end > self.fack:
            self.fack = end
