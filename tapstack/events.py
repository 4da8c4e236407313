"""What happened, typed: one stream that drivers, journals, captures and tests all read (UM-NODE-4).

Every state change of an address, a listener and a connection is one event with a time, an id and a cause.
The stack appends; nobody is called by name.  What is dropped in silence is not an event but a count by
reason (ST-LINK-5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar

import msgspec


class Event(msgspec.Struct, kw_only=True, frozen=True, tag_field="event"):
    """Something that happened at `time` (seconds of the stack's clock)."""

    time: float

    def text(self) -> str:
        """One line for people."""
        raise NotImplementedError


class AddressChanged(Event, kw_only=True, frozen=True, tag="address"):
    """An address of this node changed state (unified-multiplex §1)."""

    address: str
    old: str
    new: str
    kind: str
    cause: str

    def text(self) -> str:
        return f"{self.address} {self.old} → {self.new} ({self.cause})"


class ListenerChanged(Event, kw_only=True, frozen=True, tag="listener"):
    """A listener armed or lost an SSA, or moved between LISTEN_o and LISTEN (unified-multiplex §5).

    armed: how many addresses it accepts on now.  The last three describe the one at `address`: the prefix of the only clients
    that may come, None for anybody; sessions that may still be established, None without a limit; and the time of the stack's
    clock at which it expires, None for never.  The events of a listener together tell at any time which SSAs are armed,
    for whom, until when.
    """

    listener: int
    service: str | None
    old: str
    new: str
    address: str | None
    armed: int
    cause: str
    client: str | None = None
    sessions: int | None = None
    until: float | None = None

    def text(self) -> str:
        where = f" {self.address}" if self.address else ""
        whom = f" for {self.client}" if self.client else ""
        end = f" until {self.until:.3f}" if self.until is not None else ""
        return f"listener {self.listener}{where}{whom}{end} {self.old} → {self.new}, {self.armed} armed ({self.cause})"


class ConnectionChanged(Event, kw_only=True, frozen=True, tag="connection"):
    """A connection changed its RFC 9293 state."""

    connection: int
    old: str
    new: str
    local: str
    local_port: int
    remote: str
    remote_port: int
    mode: str
    cause: str

    def text(self) -> str:
        return (
            f"connection {self.connection} [{self.local}]:{self.local_port} ↔ [{self.remote}]:{self.remote_port} "
            f"{self.mode} {self.old} → {self.new} ({self.cause})"
        )


class CongestionTrace(Event, kw_only=True, frozen=True, tag="congestion"):
    """Where a connection's congestion control stands; only for connections that ask for it (`SocketOptions.trace`).

    cwnd, ssthresh, pipe: bytes (ssthresh None while unlimited); srtt: seconds; phase: the controller's and recovery's.
    """

    connection: int
    controller: str
    phase: str
    cwnd: int
    ssthresh: int | None
    pipe: int
    srtt: float

    def text(self) -> str:
        return (
            f"connection {self.connection} {self.controller} {self.phase} cwnd {self.cwnd} "
            f"ssthresh {self.ssthresh if self.ssthresh is not None else '∞'} pipe {self.pipe}"
        )


class LinkNotice(Event, kw_only=True, frozen=True, tag="link"):
    """The host learnt something of its link: a router, a prefix, a neighbour fault."""

    subject: str
    cause: str

    def text(self) -> str:
        return f"{self.subject}: {self.cause}"


class EventStream:
    """Delivers each event to every subscriber, in order of subscription.

    A subscriber must not call back into the stack; it takes note and acts later.  It may end itself, or others: that counts
    from the next event on.
    """

    def __init__(self) -> None:
        self._subscribers: tuple[Callable[[Event], None], ...] = ()
        self.active = False
        """Whether anybody listens; where events are many, they are not even made otherwise."""

    def subscribe(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` with each event from now on; returns the function that ends it, harmless when called again."""
        self._subscribers = (*self._subscribers, subscriber)
        self.active = True
        subscribed = True

        def end() -> None:
            nonlocal subscribed
            if subscribed:
                subscribed = False
                at = self._subscribers.index(subscriber)
                self._subscribers = self._subscribers[:at] + self._subscribers[at + 1 :]
                self.active = bool(self._subscribers)

        return end

    def emit(self, event: Event) -> None:
        """Deliver one event."""
        for subscriber in self._subscribers:
            subscriber(event)


class DropReason(StrEnum):
    """Why a packet got no further.  The value is the name in counters, reports and `unimux top`."""

    FAULT = "fault"
    LINK_MALFORMED = "link-malformed"
    LINK_NOT_OURS = "link-not-ours"
    LINK_ETHERTYPE = "link-ethertype"
    LINK_SEND_FAILED = "link-send-failed"
    IP_MALFORMED = "ip-malformed"
    IP_VERSION = "ip-version"
    IP_TRUNCATED = "ip-truncated"
    IP_BAD_SOURCE = "ip-bad-source"
    IP_NOT_OURS = "ip-not-ours"
    IP_OPTION = "ip-option"
    IP_EXTENSION = "ip-extension-header"
    IP_NEXT_HEADER = "ip-next-header"
    IP_FRAGMENT_BAD = "ip-fragment-bad"
    IP_FRAGMENT_OVERLAP = "ip-fragment-overlap"
    IP_FRAGMENT_LIMIT = "ip-fragment-limit"
    IP_FRAGMENT_TIMEOUT = "ip-fragment-timeout"
    IP_NO_ROUTE = "ip-no-route"
    IP_SCOPE = "ip-scope"
    ADDRESS_TENTATIVE = "address-tentative"
    ADDRESS_UNCERTAIN = "address-uncertain"
    ADDRESS_SILENT = "address-silent"
    CHECKSUM = "checksum"
    ICMP_MALFORMED = "icmp-malformed"
    ICMP_RATE_LIMIT = "icmp-rate-limit"
    ICMP_UNKNOWN = "icmp-unknown"
    ICMP_UNMATCHED = "icmp-error-unmatched"
    ND_HOP_LIMIT = "nd-hop-limit"
    ND_MALFORMED = "nd-malformed"
    ND_UNEXPECTED = "nd-unexpected"
    ND_UNCERTAIN_SILENT = "nd-uncertain-silent"
    ND_LOOPED_BACK = "nd-looped-back"
    ND_FRAGMENTED = "nd-fragmented"
    NEIGHBOR_UNREACHABLE = "neighbor-unreachable"
    NEIGHBOR_QUEUE = "neighbor-queue-full"
    NEIGHBOR_TABLE = "neighbor-table-full"
    MLD_INVALID = "mld-invalid"
    TCP_MALFORMED = "tcp-malformed"
    TCP_NO_PCB = "tcp-no-pcb"
    TCP_SEQUENCE = "tcp-sequence"
    TCP_PAWS = "tcp-paws"
    TCP_ACK = "tcp-ack"
    TCP_FLAGS = "tcp-flags"
    TCP_NOT_NAMED_CLIENT = "tcp-not-named-client"
    TCP_DEPRECATED = "tcp-deprecated"
    TCP_HALF_OPEN_LIMIT = "tcp-half-open-limit"
    TCP_ACCEPT_QUEUE = "tcp-accept-queue-full"
    TCP_COOKIE_SENT = "tcp-cookie-sent"
    TCP_CHALLENGE_LIMIT = "tcp-challenge-limit"
    TCP_AFTER_CLOSE = "tcp-after-close"
    TCP_REASSEMBLY_LIMIT = "tcp-reassembly-limit"
    UDP_MALFORMED = "udp-malformed"
    UDP_NO_FLOW = "udp-no-flow"
    UDP_QUEUE = "udp-queue-full"


class Counters:
    """Counts of a stack: frames and bytes each way, and drops by reason.

    >>> counters = Counters()
    >>> counters.drop(DropReason.CHECKSUM)
    >>> counters.drops
    Counter({<DropReason.CHECKSUM: 'checksum'>: 1})
    """

    __slots__ = ("bytes_in", "bytes_out", "drops", "frames_in", "frames_out", "last_drop")

    FIELDS: ClassVar = ("frames_in", "bytes_in", "frames_out", "bytes_out")

    def __init__(self) -> None:
        self.frames_in = 0
        self.bytes_in = 0
        self.frames_out = 0
        self.bytes_out = 0
        self.drops: Counter[DropReason] = Counter()
        self.last_drop: DropReason | None = None

    def drop(self, reason: DropReason) -> None:
        """Count one dropped packet."""
        self.drops[reason] += 1
        self.last_drop = reason

    def as_dict(self) -> dict[str, int]:
        """All counts by name, drops as `drop.<reason>`."""
        counts = {name: getattr(self, name) for name in self.FIELDS}
        counts.update({f"drop.{reason.value}": n for reason, n in sorted(self.drops.items())})
        return counts
