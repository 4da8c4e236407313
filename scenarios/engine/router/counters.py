"""What a simulated router counts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum


class RouterDrop(StrEnum):
    """Why the router dropped a packet."""

    MALFORMED = "malformed"
    NOT_OURS = "not-ours"
    CHECKSUM = "checksum"
    BAD_ND = "bad-neighbor-discovery"
    SCOPE = "scope"
    NO_ROUTE = "no-route"
    HOP_LIMIT = "hop-limit"
    TOO_BIG = "too-big"
    UNREACHABLE = "neighbor-unreachable"
    NEIGHBOR_QUEUE = "neighbor-queue-full"
    NEIGHBOR_TABLE = "neighbor-table-full"
    NO_SERVICE = "no-service"
    UNKNOWN = "unknown"


@dataclass(slots=True)
class RouterCounters:
    """Counts since the start.

    received, sent: ICMPv6 messages by type name, addressed to the router and sent by it.
    overheard: those flooded to it that its multicast filter keeps out, the load that the link bears anyway.
    errors_limited: ICMPv6 errors that the rate limit held back.
    """

    forwarded: int = 0
    forwarded_bytes: int = 0
    received: Counter[str] = field(default_factory=Counter)
    sent: Counter[str] = field(default_factory=Counter)
    overheard: Counter[str] = field(default_factory=Counter)
    errors_limited: int = 0
    drops: Counter[RouterDrop] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, int]:
        """All counts by name: `received.<type>`, `sent.<type>`, `overheard.<type>`, `drop.<reason>`."""
        counts = {"forwarded": self.forwarded, "forwarded_bytes": self.forwarded_bytes}
        for name, counter in (("received", self.received), ("sent", self.sent), ("overheard", self.overheard)):
            counts.update({f"{name}.{kind}": n for kind, n in sorted(counter.items())})
        counts["errors_limited"] = self.errors_limited
        counts.update({f"drop.{reason.value}": n for reason, n in sorted(self.drops.items())})
        return counts
