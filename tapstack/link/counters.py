"""What a link counts: frames and bytes each way, and every frame that it dropped, by reason (ST-LINK-5)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class LinkDrop(StrEnum):
    """Why a link dropped a frame.  The value is the name in reports."""

    QUEUE_FULL = "queue-full"
    OVERSIZE = "oversize"
    MALFORMED = "malformed"
    CLOSED = "closed"
    DEVICE_BUSY = "device-busy"
    DEVICE_DOWN = "device-down"
    DEVICE_REFUSED = "device-refused"


@dataclass(slots=True)
class LinkCounters:
    """Counts of one link; `sent` is what its owner sent, `received` what its owner took.

    >>> counters = LinkCounters(sent=2, sent_bytes=120)
    >>> counters.drops[LinkDrop.QUEUE_FULL] += 1
    >>> counters.as_dict()["drop.queue-full"]
    1
    """

    sent: int = 0
    sent_bytes: int = 0
    received: int = 0
    received_bytes: int = 0
    drops: Counter[LinkDrop] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """All counts by name, drops as `drop.<reason>`."""
        counts = {
            "sent": self.sent,
            "sent_bytes": self.sent_bytes,
            "received": self.received,
            "received_bytes": self.received_bytes,
        }
        counts.update({f"drop.{reason.value}": n for reason, n in sorted(self.drops.items())})
        return counts
