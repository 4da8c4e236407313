"""What a pool is told and what it tells: configuration, shelves, faults, events, figures (unified-multiplex §3)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from tapstack.events import Event
from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.ipv6.prefixes import Prefix
from tapstack.timers import Timer

from .errors import SetupError, UnimuxError


class WhenEmpty(StrEnum):
    """What taking from an empty pool does (UM-POOL-3)."""

    WAIT = "wait"
    FAIL = "fail"
    OPTIMISTIC = "optimistic"
    """use a fresh address while its DAD still runs (RFC 4429)"""


@dataclass(frozen=True, slots=True)
class PoolConfig:
    """Settings of a pool; times in seconds.  The defaults suit a link that is shared with others (RFC 7934 §9.3).

    low, high: water marks of reserved addresses per prefix.
    limit: the most one-time addresses at a time, reserved and in use, over all on-link prefixes; routers
    and switches keep an entry for each.
    pace: mean time between two addresses that are started; concurrent: addresses under DAD at a time.
    max_age: of a reservation, and never beyond the prefix's preferred lifetime (UM-POOL-2).
    when_empty, waiters: what an empty pool does, and how many requests may wait.  With `fail` one address at least is kept in
    reserve, whatever `low` is, since no request waits for the next one.
    threshold, backoff, backoff_max, settle: claims in a row that stop filling, the first and the longest pause, and how
    long an address stands unclaimed to end the row (UM-ADDR-10).
    holding, holding_weight: the holding time assumed before one was measured, and the weight of each measurement.
    doubt, doubt_pace: how long an address in use hears nothing before it is tested whether the link carries it, and the least
    time between two such tests (UM-ADDR-12).
    regrow: after the link refused addresses, the time until twice as many are tried.
    """

    low: int = 16
    high: int = 32
    limit: int = 256
    pace: float = 0.05
    concurrent: int = 32
    max_age: float = 1800.0
    when_empty: WhenEmpty = WhenEmpty.WAIT
    waiters: int = 1024
    threshold: int = 3
    backoff: float = 60.0
    backoff_max: float = 3600.0
    settle: float = 10.0
    holding: float = 60.0
    holding_weight: float = 0.05
    doubt: float = 1.5
    doubt_pace: float = 5.0
    regrow: float = 600.0

    def __post_init__(self) -> None:
        if not 0 <= self.low <= self.high <= self.limit or self.limit < 1:
            raise SetupError(
                f"A pool needs 0 ≤ low ≤ high ≤ limit, not {self.low}, {self.high}, {self.limit}: correct the pool's settings."
            )
        if self.when_empty is WhenEmpty.FAIL and self.high == 0:
            raise SetupError(
                "A pool that fails when it is empty needs a high mark of 1 or more: it would always be empty."
            )
        for name in ("pace", "concurrent", "max_age", "threshold", "backoff", "settle", "holding", "doubt", "regrow"):
            if getattr(self, name) <= 0:
                raise SetupError(f"The pool's {name} is {getattr(self, name):g}: it has to be more than 0.")


class NoPrefix(UnimuxError):
    """There is no prefix to form an address in.  `waited`: seconds that were waited.

    >>> str(NoPrefix(2.0)).partition(":")[0]
    'This node had no IPv6 prefix for 2 s'
    """

    exit_code = 4

    def __init__(self, waited: float) -> None:
        super().__init__(waited)
        self.waited = waited

    def __str__(self) -> str:
        return (
            f"This node had no IPv6 prefix for {self.waited:g} s: "
            "check that a router announces one on its link, or route one to the node."
        )


class PoolChanged(Event, kw_only=True, frozen=True, tag="pool"):
    """Something happened to the pool as a whole; `ceiling` is connections per second, None without a bound."""

    ready: int
    pending: int
    held: int
    waiting: int
    limit: int
    ceiling: float | None
    cause: str

    def text(self) -> str:
        return (
            f"pool {self.ready} ready, {self.pending} in DAD, {self.held} in use, {self.waiting} waiting: {self.cause}"
        )


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """The figures of a pool at one moment.

    refusal: why `limit` is lower than configured, None when it is not.  held_back_for: seconds until filling goes on
    after a fault.
    """

    prefixes: tuple[str, ...]
    ready: int
    pending: int
    held: int
    waiting: int
    low: int
    high: int
    limit: int
    holding: float
    ceiling: float | None
    refusal: str | None
    held_back_for: float


Outcome = AddressEntry | UnimuxError
"""What a request for an address brings."""


class Ticket:
    """A place in the queue for an address.  `cancel` gives it up; harmless when it was answered."""

    __slots__ = ("_leave", "callback", "cause", "destination", "kind", "shelf", "since", "timer")

    def __init__(
        self,
        kind: AddressKind,
        destination: bytes | None,
        now: float,
        callback: Callable[[Outcome, float], None],
        cause: str,
        timer: Timer,
        leave: Callable[[Ticket], None],
    ) -> None:
        self.kind = kind
        self.destination = destination
        self.since = now
        self.callback = callback
        self.cause = cause
        self.timer = timer
        self.shelf: Shelf | None = None
        self._leave = leave

    def cancel(self, now: float) -> None:
        """Leave the queue without an answer."""
        self.timer.retire()
        self._leave(self)


class Shelf:
    """The reserved addresses of one prefix, oldest first, and who waits for one.

    ready: address → (entry, time since when it is UNCERTAIN, time until it may be taken).  filling: below the high mark
    and on the way there.  broken: why no address of this prefix can be generated, None when they can; broken_until: when that
    is tried again.
    """

    __slots__ = ("broken", "broken_until", "filling", "pending", "prefix", "queue", "ready")

    def __init__(self, prefix: Prefix) -> None:
        self.prefix = prefix
        self.pending: dict[bytes, AddressEntry] = {}
        self.ready: dict[bytes, tuple[AddressEntry, float, float]] = {}
        self.queue: dict[Ticket, None] = {}
        self.filling = True
        self.broken: UnimuxError | None = None
        self.broken_until = -math.inf


class Faults:
    """Counts claims in a row and says for how long to stop (UM-ADDR-10)."""

    __slots__ = ("_config", "_pause", "count", "last", "until")

    def __init__(self, config: PoolConfig) -> None:
        self._config = config
        self.forgive()

    def forgive(self) -> None:
        """The row has ended."""
        self.count = 0
        self.last = -math.inf
        self.until = -math.inf
        self._pause = self._config.backoff

    def claimed(self, now: float) -> float | None:
        """One more claim; the pause that it starts, if it starts one.  Claims within a pause do not prolong it."""
        self.count += 1
        self.last = now
        if self.count < self._config.threshold or now < self.until:
            return None
        pause = self._pause
        self.until = now + pause
        self._pause = min(pause * 2, self._config.backoff_max)
        return pause
