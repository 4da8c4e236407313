"""The stock of reserved addresses behind the pool: keeps it full, and the link at peace (UM-POOL-1, -2; UM-ADDR-6, -10, -12).

Model.  One `Shelf` per usable prefix.  An on-link shelf below the low mark is filled to the high one, one address per
`pace` seconds and a bounded number under DAD at a time.  The shelf of a dedicated prefix stays empty (UM-POOL-4).

An address that another node claims, during DAD or after, is replaced.  Claims in a row, with no address in between that was
used or stood for `settle` seconds, are the work of a broken link or a hostile neighbour: filling stops for 1 minute, then 2,
up to 60; after each pause one address is tried alone.  A link that does not carry what passed DAD lowers the limit.

The stock is told what happens (`moved`) and takes note; it acts when the pool calls `sync`, `age` and `fill`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tapstack.ipv6.addresses import ENDINGS, AddressEntry, AddressKind, AddressState, Trigger
from tapstack.ipv6.host import Host
from tapstack.ipv6.prefixes import Prefix
from tapstack.randomness import KeyedRandom
from tapstack.types import address_text

from .errors import UnimuxError
from .generators import GeneratorError
from .poolstate import Faults, PoolConfig, Shelf, Ticket, WhenEmpty
from .source import AddressSource

_RESERVED = (AddressState.TENTATIVE, AddressState.UNCERTAIN)
_RETRY = 60.0
"""Seconds until drawing addresses is tried again after the generator or its state failed."""


class Stock:
    """Reserved addresses by prefix.

    `tell(now, cause)` is called with what people should know.  held_on_link: addresses of on-link prefixes in use, kept
    by the pool.  limit: the most addresses at a time, now; refusal: why it is lower than configured.
    broken: why no address can be generated whatever the prefix, None when they can.
    relinking: reservations go because the link came up, not because of a claim.
    """

    def __init__(
        self,
        host: Host,
        source: AddressSource,
        random: KeyedRandom,
        config: PoolConfig,
        tell: Callable[[float, str], None],
    ) -> None:
        self.host = host
        self.source = source
        self.config = config
        self.shelves: dict[tuple[bytes, int], Shelf] = {}
        self.held_on_link: set[bytes] = set()
        self.limit = config.limit
        self.refusal: str | None = None
        self.faults = Faults(config)
        self.broken: UnimuxError | None = None
        self.relinking = False
        self._random = random
        self._tell = tell
        self._next_add = -math.inf
        self._broken_until = -math.inf
        self._regrow = math.inf

    # -- figures -----------------------------------------------------------------------------------

    @property
    def ready(self) -> int:
        """UNCERTAIN addresses."""
        return sum(len(shelf.ready) for shelf in self.shelves.values())

    @property
    def pending(self) -> int:
        """Addresses under DAD, or waiting for it."""
        return sum(len(shelf.pending) for shelf in self.shelves.values())

    @property
    def on_link(self) -> int:
        """Addresses that the link knows of: reserved or in use."""
        return self.ready + self.pending + len(self.held_on_link)

    @property
    def high(self) -> int:
        """The high water mark that the limit allows."""
        return min(self.config.high, self.limit)

    @property
    def low(self) -> int:
        """The low water mark that the limit allows.

        Where requests fail at an empty pool none of them waits for the next address: one at least is kept then.
        """
        least = 1 if self.config.when_empty is WhenEmpty.FAIL else 0
        return min(max(self.config.low, least), self.limit)

    def pace(self) -> float:
        """Addresses per second that can pass DAD, by our pace and the host's."""
        host = self.host.config
        test = host.dad_transmits * self.host.interface.retrans_timer
        tests = min(self.config.concurrent, host.dad_concurrent) / test if test else math.inf
        return min(tests, 1 / max(self.config.pace, host.dad_pace))

    def held_back_until(self) -> float:
        """When filling goes on after a fault."""
        return max(self.faults.until, self._broken_until, self.host.dad.held_until or -math.inf)

    # -- prefixes ------------------------------------------------------------------------------------

    def usable(self) -> list[Prefix]:
        """The prefixes that addresses may be formed in now.

        On a shared link none before the link-local address stands: a reserved address is defended from there (UM-ADDR-5).
        """
        usable = [p for p in self.host.prefix_list if p.preferred and (p.dedicated or p.autonomous)]
        if self.host.link_local is None and self.host.properties.mac is not None:
            return [prefix for prefix in usable if prefix.dedicated]
        return usable

    def promising(self, now: float) -> list[Prefix]:
        """The usable prefixes without those with no address that could generate none a moment ago; all, where those are all."""
        broken = {shelf.prefix for shelf in self.shelves.values() if now < shelf.broken_until and not shelf.ready}
        usable = self.usable()
        return [prefix for prefix in usable if prefix not in broken] or usable

    def shelf_of(self, prefix: Prefix) -> Shelf | None:
        """The shelf of a prefix; None before `sync` has made it."""
        shelf = self.shelves.get((prefix.prefix, prefix.length))
        return shelf if shelf is not None and shelf.prefix is prefix else None

    def sync(self, now: float) -> list[Ticket]:
        """Make one shelf per usable prefix; returns the requests that lost theirs."""
        orphans: list[Ticket] = []
        usable = {(prefix.prefix, prefix.length): prefix for prefix in self.usable()}
        for key, shelf in list(self.shelves.items()):
            if usable.get(key) is not shelf.prefix:
                orphans += self.withdraw(shelf, now, f"{shelf.prefix} was withdrawn")
                self._tell(now, f"{shelf.prefix} can no longer be used")
        for key, prefix in usable.items():
            if key not in self.shelves:
                self.shelves[key] = Shelf(prefix)
                how = "addresses are minted on demand" if prefix.dedicated else "reserving addresses"
                self._tell(now, f"{prefix} can be used: {how}")
        return orphans

    def withdraw(self, shelf: Shelf, now: float, cause: str) -> list[Ticket]:
        """Give up a shelf and what is on it; returns the requests that waited there."""
        del self.shelves[shelf.prefix.prefix, shelf.prefix.length]
        for address in [*shelf.pending, *shelf.ready]:
            self._discard(shelf, address, now, cause)
        orphans = list(shelf.queue)
        shelf.queue.clear()
        return orphans

    # -- filling -------------------------------------------------------------------------------------

    def age(self, now: float) -> None:
        """Discard what is too old (UM-POOL-2), believe in what stood long enough, let the limit come back."""
        for shelf in self.shelves.values():
            for address, (_, since, until) in list(shelf.ready.items()):
                if now >= until:
                    self._discard(shelf, address, now, "its maximum age is over")
                elif now >= since + self.config.settle:
                    self._trust(since, now)
        if now >= self._regrow:
            self.limit = min(self.config.limit, 2 * self.limit)
            if self.limit == self.config.limit:
                self.refusal, self._regrow = None, math.inf
            else:
                self._regrow = now + self.config.regrow
            self._tell(now, f"trying {self.limit} addresses at a time")

    def fill(self, now: float) -> float:
        """Start the next address where one is wanted; returns when to come again, unless something happens before."""
        wanting = min(self._wanting(now), key=lambda shelf: (not shelf.queue, len(shelf.ready)), default=None)
        if wanting is not None and now >= self._next_add:
            if wanting.queue and not wanting.pending:
                self.make_room(now)
            if self.may_add(wanting, now):
                self._add(wanting, now)
        return self._due(now)

    def _due(self, now: float) -> float:
        due = [self._regrow]
        for shelf in self.shelves.values():
            due.append(shelf.broken_until)
            due += [until for _, _, until in shelf.ready.values()]
            if self.faults.count:
                due += [since + self.config.settle for _, since, _ in shelf.ready.values()]
        if self._wanting(now):
            # When that time has come already, it waits for a release or a verdict of DAD.
            due.append(max(self._next_add, self.held_back_until()))
        return min((when for when in due if when > now), default=math.inf)

    def _wanting(self, now: float) -> list[Shelf]:
        """Shelves that lack addresses: below the low mark until the high one is reached, or with requests to serve."""
        wanting = []
        for shelf in self.shelves.values():
            if shelf.prefix.dedicated or now < shelf.broken_until:
                continue
            stock = len(shelf.ready) + len(shelf.pending)
            if stock < self.low:
                shelf.filling = True
            elif stock >= self.high:
                shelf.filling = False
            if shelf.filling or len(shelf.queue) > len(shelf.pending):
                wanting.append(shelf)
        return wanting

    def make_room(self, now: float) -> bool:
        """Whether there is room for one more address, which somebody waits for.

        At the limit a reservation that nobody asks for gives way to it.
        """
        fullest = max(self.shelves.values(), key=lambda shelf: len(shelf.ready), default=None)
        if self.on_link >= self.limit and fullest is not None and fullest.ready:
            self._discard(fullest, next(iter(fullest.ready)), now, "its place is needed")
        return self.on_link < self.limit

    def may_add(self, shelf: Shelf, now: float) -> bool:
        """Whether one more address of a shelf may be put on the link now."""
        concurrent = 1 if self.faults.count >= self.config.threshold else self.config.concurrent
        return (
            now >= max(self.held_back_until(), shelf.broken_until)
            and self.on_link < self.limit
            and self.pending < concurrent
        )

    def _add(self, shelf: Shelf, now: float) -> None:
        try:
            address = self.fresh(shelf, now)
        except UnimuxError:
            return  # told, and kept for those who wait
        shelf.pending[address] = self.host.reserve(address, shelf.prefix, now)
        self._next_add = now + self.config.pace * self._random.uniform(0.5, 1.5)

    def fresh(self, shelf: Shelf, now: float) -> bytes:
        """A fresh address of a prefix; raises `UnimuxError` when none can be drawn, which is not tried again for a while."""
        try:
            address = self.source.draw(shelf.prefix.prefix, shelf.prefix.length)
            while address in self.host.addresses:  # an ordinary one, which was given by hand
                address = self.source.draw(shelf.prefix.prefix, shelf.prefix.length)
        except GeneratorError as error:  # used up, for one: other prefixes have theirs
            shelf.broken, shelf.broken_until = error, now + _RETRY
            self._tell(now, str(error))
            raise
        except UnimuxError as error:
            self.broken, self._broken_until = error, now + _RETRY
            self._tell(now, str(error))
            raise
        self.broken = shelf.broken = None
        return address

    def why_none(self, shelf: Shelf | None) -> UnimuxError | None:
        """Why no address could be generated last, of a shelf in particular; None when one could."""
        return self.broken or (shelf.broken if shelf is not None else None)

    def hopeless(self, shelf: Shelf, now: float) -> UnimuxError | None:
        """`why_none`, as long as it is not tried again."""
        until = shelf.broken_until if self.broken is None else self._broken_until
        return self.why_none(shelf) if now < until else None

    def _discard(self, shelf: Shelf, address: bytes, now: float, cause: str) -> None:
        shelf.ready.pop(address, None)
        shelf.pending.pop(address, None)
        entry = self.host.addresses.get(address)
        if entry is not None and entry.state in _RESERVED and entry.kind is AddressKind.RESERVED:
            self.host.addresses.discard(entry, now, cause)

    # -- taking --------------------------------------------------------------------------------------

    def oldest(self, shelf: Shelf, now: float) -> AddressEntry | None:
        """Take the oldest good address off a shelf; it is UNCERTAIN still."""
        while shelf.ready:
            address, (entry, since, until) = next(iter(shelf.ready.items()))
            if now >= until:
                self._discard(shelf, address, now, "its maximum age is over")
                continue
            self._trust(since, now)
            del shelf.ready[address]
            return entry
        return None

    # -- what happens ----------------------------------------------------------------------------------

    def moved(self, entry: AddressEntry, trigger: Trigger, now: float) -> bool:
        """Take note of a change of state; False when the address is not in stock."""
        address = entry.address
        shelf = self._shelf_of(address)
        if shelf is None:
            return False
        if trigger is Trigger.DAD_PASSED_RESERVED:
            del shelf.pending[address]
            age = self.config.max_age * self._random.uniform(0.75, 1.0)
            shelf.ready[address] = entry, now, now + age
            if len(shelf.ready) == self.high:
                self._tell(now, f"{shelf.prefix} is filled")
            return True
        shelf.ready.pop(address, None)
        shelf.pending.pop(address, None)
        if self.is_claim(trigger, shelf.prefix):
            self.claimed(now)
        return True

    def is_claim(self, trigger: Trigger, prefix: Prefix) -> bool:
        """Whether a reservation that nobody gave up goes because another node claims it: neither link nor prefix went."""
        return trigger in ENDINGS and prefix.preferred and not self.relinking

    def _shelf_of(self, address: bytes) -> Shelf | None:
        for shelf in self.shelves.values():
            if address in shelf.ready or address in shelf.pending:
                return shelf
        return None

    def claimed(self, now: float) -> None:
        """Another node has, or says it has, an address of ours."""
        pause = self.faults.claimed(now)
        if pause is not None:
            count = self.faults.count
            self._tell(now, f"{count} addresses in a row were claimed by another node: no new ones for {pause:g} s")

    def _trust(self, since: float, now: float) -> None:
        """An address that passed DAD at `since` was not claimed."""
        if not self.faults.count or since <= self.faults.last:
            return
        if self.faults.count >= self.config.threshold:
            self._tell(now, "addresses are no longer claimed by another node")
        self.faults.forgive()

    def refused(self, entry: AddressEntry, now: float) -> None:
        """The link does not carry `entry`, which is in use: no more at a time than are left without it (UM-ADDR-12).

        What came to the link after it is in doubt too, and cannot be tested before it is used: it is given up.
        """
        for shelf in self.shelves.values():
            doubtful = [*shelf.pending.values(), *(each for each, _, _ in shelf.ready.values())]
            for each in doubtful:
                if each.born >= entry.born:
                    self._discard(shelf, each.address, now, "the link refuses an older one")
        left = self.on_link - (entry.address in self.held_on_link)
        self.limit = max(1, min(self.limit, left))
        self.refusal = f"{address_text(entry.address)} is not carried"
        self._regrow = now + self.config.regrow
        self._tell(now, f"the link refuses addresses: at most {self.limit} at a time")

    def explain(self, cause: str, now: float) -> None:
        """Why the link refused an address."""
        if self.refusal is not None:
            self.refusal = cause
        self._tell(now, f"the link refused {cause}")

    def start_afresh(self) -> None:
        """The link came up: past faults and limits count no more."""
        self.faults.forgive()
        self.limit = self.config.limit
        self.refusal = None
        self._regrow = math.inf

    def check(self) -> None:
        """Raise AssertionError where an invariant does not hold."""
        shelved: dict[bytes, Shelf] = {}
        for shelf in self.shelves.values():
            for address, entry in shelf.pending.items():
                assert entry.state is AddressState.TENTATIVE, entry
                shelved[address] = shelf
            for address, (entry, _, _) in shelf.ready.items():
                assert entry.state is AddressState.UNCERTAIN, entry
                assert address not in shelved, entry
                shelved[address] = shelf
        assert all(address in self.host.addresses for address in shelved)
        assert all(address in shelf.prefix for address, shelf in shelved.items())
        assert self.on_link <= self.config.limit
