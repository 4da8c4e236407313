"""The pool of reserved addresses: connections that start at once, on a link that is not flooded (unified-multiplex §3).

Model.  `take` is synchronous: it gives the oldest reserved address of the prefix that suits the destination, promoted, or mints
one on a dedicated prefix (UM-POOL-4).  Who finds nothing may `request`: requests of one prefix are served in order
as addresses pass DAD, and fail at their deadline with an error that names the rate this pool sustains (UM-POOL-3,
UM-POOL-5).  There is no way from here to a stable address.

Keeping addresses in reserve is the work of `unimux.stock`.  Decisions are made in one place, `_work`, from a timer; observers of
the address table only take notes.  Invariants (`check`), beside those of the stock:

* an address is in stock, TENTATIVE or UNCERTAIN, or it is held (taken, not yet released), never both;
* reserved plus held addresses of on-link prefixes never exceed `limit`;
* a request is answered once, or cancelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tapstack.events import EventStream
from tapstack.ipv6.addresses import BEGINNINGS, ENDINGS, AddressEntry, AddressKind, AddressState, Trigger
from tapstack.ipv6.host import Host
from tapstack.ipv6.prefixes import Prefix
from tapstack.ipv6.selection import Candidate
from tapstack.randomness import KeyedRandom
from tapstack.timers import TimerQueue

from .doubts import Doubts
from .errors import NodeStopped, PoolExhausted, UnimuxError
from .generators import GeneratorError
from .poolstate import NoPrefix, Outcome, PoolChanged, PoolConfig, PoolStatus, Shelf, Ticket, WhenEmpty
from .prefix import choose_prefix
from .source import AddressSource
from .stock import Stock

__all__ = ["NoPrefix", "Outcome", "Pool", "PoolChanged", "PoolConfig", "PoolStatus", "Ticket", "WhenEmpty"]

Chooser = Callable[[list[Prefix], bytes | None], Prefix | None]


class Pool:
    """Reserved addresses of one host.

    `choose` decides which usable prefix serves a destination; the default is `choose_prefix` (RFC 6724).
    on_refused: told of an address in use that the link does not carry; whoever uses it takes another.
    Call `start` once, and `link_up` in place of the host's own when the link has come up again.
    """

    def __init__(
        self,
        host: Host,
        source: AddressSource,
        timers: TimerQueue,
        events: EventStream,
        random: KeyedRandom,
        config: PoolConfig | None = None,
        choose: Chooser = choose_prefix,
    ) -> None:
        self.host = host
        self.source = source
        self.timers = timers
        self.config = config or PoolConfig()
        self.stock = Stock(host, source, random, self.config, self._tell)
        self._events = events
        self._choose = choose
        self._timer = timers.timer(self._work)
        self._held: dict[bytes, float] = {}
        self._foreign: dict[bytes, Callable[[Trigger, float], None]] = {}
        self._homeless: dict[Ticket, None] = {}
        self.doubts = Doubts(host, timers, self.config, self._refused, self.stock.explain)
        self.on_refused: Callable[[AddressEntry, float], None] = lambda entry, now: None
        self.closed = False
        self.at_end: list[Callable[[float], None]] = []
        """Called when the pool is closed: by whoever waits for addresses in another way."""
        self._holding = self.config.holding
        self._releases = 0
        host.addresses.observe(self._moved, frozenset(Trigger) - BEGINNINGS)
        prefixes = host.prefix_list
        prefixes.on_autonomous = self._after(prefixes.on_autonomous)
        prefixes.on_deprecated = self._after(prefixes.on_deprecated)
        prefixes.on_expired = self._after(prefixes.on_expired)

    def _after(self, hook: Callable[[Prefix, float], None]) -> Callable[[Prefix, float], None]:
        def chained(prefix: Prefix, now: float) -> None:
            hook(prefix, now)
            self._wake(now)

        return chained

    # -- life --------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Begin to fill; also to be called after a prefix was configured by hand."""
        self._wake(now)

    def link_up(self, now: float) -> None:
        """The link came up, perhaps another one: tell the host, forget faults, reserve anew (UM-ADDR-10)."""
        self.stock.relinking = True
        try:
            self.host.link_up(now)
        finally:
            self.stock.relinking = False
        self.stock.start_afresh()
        self._wake(now)

    def _refused(self, entry: AddressEntry, now: float) -> None:
        """The link does not carry an address that passed DAD and is in use (UM-ADDR-12).

        The pool uses fewer at a time from now on; the limit is doubled after a while, until all is as configured.
        """
        self.stock.refused(entry, now)
        self.on_refused(entry, now)
        self._wake(now)

    def close(self, now: float) -> None:
        """Give up all reserved addresses and answer all requests, `NodeStopped`; what was taken stays with its users."""
        self.closed = True
        self._timer.cancel()
        self.doubts.close()
        for shelf in list(self.stock.shelves.values()):
            self._adopt(self.stock.withdraw(shelf, now, "the pool is closed"))
        for ticket in list(self._homeless):
            self._finish(ticket, NodeStopped(), now)
        for end in list(self.at_end):
            end(now)

    # -- taking ------------------------------------------------------------------------------------

    def take(
        self, kind: AddressKind, destination: bytes | None, now: float, cause: str = "taken"
    ) -> AddressEntry | None:
        """An address for one use, PREFERRED when this returns (OPTIMISTIC under that policy); None when none is ready.

        `kind` is EPHEMERAL or SERVICE, `destination` the peer's address where it is known.  The caller acquires the
        entry at once, or releases it.  Raises `UnimuxError` when no address can be generated.
        """
        shelf = None if self.closed else self._shelf_for(destination, now)
        tried: list[Shelf] = []
        while shelf is not None:
            try:
                return self._take(shelf, kind, destination, now, cause)
            except GeneratorError:
                tried.append(shelf)
                shelf = another = self._elsewhere(shelf, destination, now)
                if another is None or another in tried:
                    raise
        return None

    def _take(
        self, shelf: Shelf, kind: AddressKind, destination: bytes | None, now: float, cause: str
    ) -> AddressEntry | None:
        if shelf.prefix.dedicated or not shelf.queue:
            entry = self._give(shelf, kind, destination, now, cause)
            if entry is not None:
                return entry
        if self.config.when_empty is WhenEmpty.OPTIMISTIC and self.stock.may_add(shelf, now):
            return self._optimistic(shelf, kind, destination, now, cause)
        return None

    def request(
        self,
        kind: AddressKind,
        destination: bytes | None,
        now: float,
        callback: Callable[[Outcome, float], None],
        *,
        deadline: float = math.inf,
        cause: str = "taken",
    ) -> Ticket:
        """Queue for an address after `take` gave none; `callback(entry or error, now)` comes later, not from this call.

        The error is `PoolExhausted`, or `NoPrefix` where there is no prefix to form an address in, at `deadline` (a time
        of the stack's clock), at once under the policy `fail`; or why no address can be generated at all.
        Raises `NodeStopped` when the pool is closed.
        """
        if self.closed:
            raise NodeStopped
        timer = self.timers.timer(lambda now: self._finish(ticket, self.shortage(ticket, now), now))
        ticket = Ticket(kind, destination, now, callback, cause, timer, self._leave)
        if self.config.when_empty is WhenEmpty.FAIL or self.waiting >= self.config.waiters:
            deadline = now
        if deadline < math.inf:
            timer.set(max(deadline, now))
        self._homeless[ticket] = None
        self._wake(now)
        return ticket

    def shortage(self, ticket: Ticket, now: float) -> UnimuxError:
        """The error that tells a caller why its request was not served."""
        waited = now - ticket.since
        if (broken := self.stock.why_none(ticket.shelf)) is not None:
            return broken
        if not self.stock.usable():
            return NoPrefix(waited)
        return PoolExhausted(waited, self.ceiling(), self.stock.refusal)

    # -- addresses made elsewhere (`unimux.adoption`) ----------------------------------------------------

    def make_room(self, now: float) -> bool:
        """Whether the link may have one more address of this node, for which the pool gives one of its reserve where it must."""
        return self.stock.make_room(now)

    def reserve(
        self, address: bytes, prefix: Prefix, now: float, moved: Callable[[Trigger, float], None]
    ) -> AddressEntry:
        """Put a given address under DAD, beside the stock; `moved(trigger, now)` with each change of its state."""
        entry = self.host.reserve(address, prefix, now)
        self._foreign[address] = moved
        self.stock.held_on_link.add(address)
        return entry

    def lost_to_another(self, trigger: Trigger, prefix: Prefix) -> bool:
        """Whether a reservation that moves by `trigger` goes because another node claims it; asked while it moves."""
        return not self.closed and self.stock.is_claim(trigger, prefix)

    def promote(self, entry: AddressEntry, kind: AddressKind, now: float, cause: str) -> None:
        """Put an address that was so reserved, UNCERTAIN now, to its use."""
        del self._foreign[entry.address]
        self._held[entry.address] = now
        self.host.addresses.take(entry, kind, now, cause)
        self.doubts.watch(entry, None, now)

    def mint(self, address: bytes, prefix: Prefix, kind: AddressKind, now: float, cause: str) -> AddressEntry:
        """Add a given address of a dedicated prefix, PREFERRED at once."""
        entry = self.host.reserve(address, prefix, now, kind, cause)
        self._held[address] = now
        return entry

    # -- figures -----------------------------------------------------------------------------------

    @property
    def waiting(self) -> int:
        """Requests that are not served yet."""
        return len(self._homeless) + sum(len(shelf.queue) for shelf in self.stock.shelves.values())

    @property
    def ready(self) -> int:
        """UNCERTAIN addresses that `take` can give now."""
        return self.stock.ready

    @property
    def pending(self) -> int:
        """Addresses under DAD, or waiting for it."""
        return self.stock.pending

    @property
    def held(self) -> int:
        """Addresses that were taken and not released yet."""
        return len(self._held)

    @property
    def holding(self) -> float:
        """Mean time from taking an address to its release, TIME-WAIT included, in seconds; at first an estimate."""
        return self._holding

    def ceiling(self) -> float | None:
        """Connections per second that the on-link prefixes sustain (UM-POOL-5); None when only dedicated ones are used.

        Pool size over holding time, where the size is the largest number of addresses at one time; or the
        pace at which addresses pass DAD, where that is less.
        """
        shelves = self.stock.shelves.values()
        if shelves and all(shelf.prefix.dedicated for shelf in shelves):
            return None
        return min(self.stock.limit / self._holding, self.stock.pace())

    def status(self, now: float) -> PoolStatus:
        """All figures at once, for a live view."""
        stock = self.stock
        return PoolStatus(
            prefixes=tuple(str(shelf.prefix) for shelf in stock.shelves.values()),
            ready=stock.ready,
            pending=stock.pending,
            held=self.held,
            waiting=self.waiting,
            low=stock.low,
            high=stock.high,
            limit=stock.limit,
            holding=self._holding,
            ceiling=self.ceiling(),
            refusal=stock.refusal,
            held_back_for=max(0.0, stock.held_back_until() - now),
        )

    def _tell(self, now: float, cause: str) -> None:
        self._events.emit(
            PoolChanged(
                time=now,
                ready=self.ready,
                pending=self.pending,
                held=self.held,
                waiting=self.waiting,
                limit=self.stock.limit,
                ceiling=self.ceiling(),
                cause=cause,
            )
        )

    # -- the one place of decisions ------------------------------------------------------------------

    def _wake(self, when: float) -> None:
        if not self.closed and (self._timer.when is None or when < self._timer.when):
            self._timer.set(when)

    def _work(self, now: float) -> None:
        self._adopt(self.stock.sync(now))
        self.stock.age(now)
        self._serve(now)
        again = self.stock.fill(now)
        for shelf in list(self.stock.shelves.values()):
            if (broken := self.stock.hopeless(shelf, now)) is not None:
                for ticket in [*shelf.queue]:
                    if ticket not in shelf.queue:
                        continue  # given up by who was told of another one
                    self._move_or_finish(ticket, shelf, broken, now)
        if again < math.inf:
            self._wake(again)

    def _adopt(self, orphans: list[Ticket]) -> None:
        for ticket in orphans:
            ticket.shelf = None
            self._homeless[ticket] = None

    def _serve(self, now: float) -> None:
        for ticket in list(self._homeless):
            shelf = self._shelf_for(ticket.destination, now)
            if shelf is not None:
                del self._homeless[ticket]
                ticket.shelf = shelf
                shelf.queue[ticket] = None
        for shelf in list(self.stock.shelves.values()):
            while shelf.queue:
                ticket = next(iter(shelf.queue))
                try:
                    entry = self._give(shelf, ticket.kind, ticket.destination, now, ticket.cause)
                except UnimuxError as error:
                    self._move_or_finish(ticket, shelf, error, now)
                    continue
                if entry is None:
                    break
                self._finish(ticket, entry, now)

    def _move_or_finish(self, ticket: Ticket, shelf: Shelf, error: UnimuxError, now: float) -> None:
        """No address can be generated in the prefix that a request waits for: let it wait for another one, or say why."""
        if self._elsewhere(shelf, ticket.destination, now) is None:
            self._finish(ticket, error, now)
            return
        del shelf.queue[ticket]
        self._adopt([ticket])
        self._wake(now)

    # -- handing over ----------------------------------------------------------------------------------

    def candidate(self, destination: bytes) -> Candidate | None:
        """What the address for a destination would be to the rules of RFC 6724: one of its prefix; None where there is none."""
        prefix = self._choose(self.stock.usable(), destination)
        return Candidate(prefix.prefix, prefix_length=prefix.length) if prefix is not None else None

    def _shelf_for(self, destination: bytes | None, now: float) -> Shelf | None:
        prefix = self._choose(self.stock.promising(now), destination)
        if prefix is None:
            return None
        shelf = self.stock.shelf_of(prefix)
        if shelf is None:
            self._adopt(self.stock.sync(now))
            shelf = self.stock.shelf_of(prefix)
            self._wake(now)
        return shelf

    def _elsewhere(self, shelf: Shelf, destination: bytes | None, now: float) -> Shelf | None:
        """The next best prefix for a destination, after no address could be generated in one; None where there is none."""
        another = self._shelf_for(destination, now)
        if another is None or another is shelf:
            return None
        return another if another.ready or now >= another.broken_until else None

    def _give(
        self, shelf: Shelf, kind: AddressKind, destination: bytes | None, now: float, cause: str
    ) -> AddressEntry | None:
        """An address of a shelf for its use: minted on a dedicated prefix, the oldest reserved one elsewhere."""
        if shelf.prefix.dedicated:
            return self.mint(self.stock.fresh(shelf, now), shelf.prefix, kind, now, cause)
        reserved = self.stock.oldest(shelf, now)
        if reserved is not None:
            self._held[reserved.address] = now
            self.stock.held_on_link.add(reserved.address)
            self.host.addresses.take(reserved, kind, now, cause)
            self.doubts.watch(reserved, destination, now)
            if len(shelf.ready) + len(shelf.pending) < self.stock.low:
                self._wake(now)
        return reserved

    def _optimistic(
        self, shelf: Shelf, kind: AddressKind, destination: bytes | None, now: float, cause: str
    ) -> AddressEntry:
        address = self.stock.fresh(shelf, now)
        entry = self.host.addresses.add(address, kind, now, trigger=Trigger.ADD_OPTIMISTIC, cause=cause)
        self._held[address] = now
        self.stock.held_on_link.add(address)
        self.doubts.watch(entry, destination, now)
        self._wake(now)
        return entry

    def _finish(self, ticket: Ticket, outcome: Outcome, now: float) -> None:
        self._leave(ticket)
        ticket.timer.retire()
        ticket.callback(outcome, now)

    def _leave(self, ticket: Ticket) -> None:
        self._homeless.pop(ticket, None)
        if ticket.shelf is not None:
            ticket.shelf.queue.pop(ticket, None)
            ticket.shelf = None

    # -- what happens to addresses -----------------------------------------------------------------------

    def _moved(self, entry: AddressEntry, old: AddressState, trigger: Trigger, now: float) -> None:
        """Take note of a change of state; act on it in `_work`."""
        if entry.address in self._held:
            if trigger in ENDINGS:
                self._over(entry.address, trigger, now)
        elif entry.kind is AddressKind.LINK_LOCAL or self.stock.moved(entry, trigger, now):
            self._wake(now)
        elif (moved := self._foreign.get(entry.address)) is not None:
            if trigger in ENDINGS:
                del self._foreign[entry.address]
                self.stock.held_on_link.discard(entry.address)
            moved(trigger, now)

    def _over(self, address: bytes, trigger: Trigger, now: float) -> None:
        """The use of an address that was taken is over."""
        taken = self._held.pop(address)
        if trigger is Trigger.RELEASE:
            self._releases += 1
            weight = max(1 / self._releases, self.config.holding_weight)
            self._holding = max(self._holding + (now - taken - self._holding) * weight, 1e-3)
        elif trigger is Trigger.DAD_FAILED:
            self.stock.claimed(now)
        if address in self.stock.held_on_link:  # there is room for another one; a dedicated prefix always has room
            self.stock.held_on_link.remove(address)
            self._wake(now)

    def check(self) -> None:
        """Raise AssertionError where an invariant of the pool does not hold."""
        self.stock.check()
        addresses = self.host.addresses
        assert not self._held.keys() & self._foreign.keys()
        assert self.stock.held_on_link <= self._held.keys() | self._foreign.keys()
        for address in self._held:
            entry = addresses.get(address)
            assert entry is not None, address
            assert entry.kind is not AddressKind.RESERVED, entry
        for shelf in self.stock.shelves.values():
            assert all(ticket.shelf is shelf for ticket in shelf.queue)
        assert all(ticket.shelf is None for ticket in self._homeless)
