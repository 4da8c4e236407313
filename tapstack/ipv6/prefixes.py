"""The prefixes of the node: on-link, autonomous, dedicated (RFC 4861 §6.3.4, RFC 4862 §5.5.3, UM-POOL-4).

A Prefix Information option says two independent things, each with a lifetime of its own:

* L: the prefix is on-link, until `on_link_until`; a lifetime of zero ends that at once;
* A: addresses may be formed in it, preferred until `preferred_until` and valid until `valid_until`, which
  an unauthenticated advertisement cannot bring below two hours.

Autoconfigured addresses have no lifetimes of their own: they are deprecated and expire with their prefix, so an
advertisement costs the same whatever the number of addresses.

When the link was away its prefixes, and the connections on them, live on: the link that came back may be the same.  The
first advertisement of a prefix for addresses tells: what is not advertised any more is then deprecated, and not on-link, and
makes room in a full list.

A *dedicated* prefix is routed to this node and does not come from advertisements: its addresses need neither DAD nor
groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator

from ..types import address_text, is_link_local, is_multicast
from ..wire import nd
from .addresses import AddressEntry
from .config import TWO_HOURS
from .interface import Interface

AUTONOMOUS_LENGTH = 64
"""Prefix length in which addresses can be formed on Ethernet (RFC 2464 §4)."""

_LOOPBACK_OR_UNSPECIFIED = bytes(8)


class Prefix:
    """One prefix.  Times are of the stack's clock, `math.inf` for ever.

    prefix: 16 bytes, zero behind `length` bits.  autonomous: addresses may be formed in it.  on_link: its addresses are
    neighbours.  dedicated: routed to this node.  preferred: new uses may start (updated by timer).
    on_link_by_hand, autonomous_by_hand: no router can take it back.  superseded: a link before this one had it.
    """

    __slots__ = (
        "_head",
        "_key",
        "_shift",
        "autonomous",
        "autonomous_by_hand",
        "dedicated",
        "length",
        "on_link",
        "on_link_by_hand",
        "on_link_until",
        "preferred",
        "preferred_until",
        "prefix",
        "superseded",
        "valid_until",
    )

    def __init__(self, prefix: bytes, length: int) -> None:
        if not 0 <= length <= 128:
            raise ValueError(f"a prefix length is 0 … 128, not {length}")
        self._shift = 128 - length
        self._key = int.from_bytes(prefix, "big") >> self._shift
        self.prefix = (self._key << self._shift).to_bytes(16, "big")
        self._head = self.prefix[: length // 8]
        self.length = length
        self.autonomous = False
        self.on_link = False
        self.dedicated = False
        self.preferred = False
        self.on_link_by_hand = False
        self.autonomous_by_hand = False
        self.superseded = False
        self.on_link_until = -math.inf
        self.valid_until = -math.inf
        self.preferred_until = -math.inf

    def __contains__(self, address: bytes) -> bool:
        if not address.startswith(self._head):
            return False
        return not self._shift % 8 or int.from_bytes(address, "big") >> self._shift == self._key

    def __str__(self) -> str:
        return f"{address_text(self.prefix)}/{self.length}"

    def __repr__(self) -> str:
        flags = [name for name in ("on_link", "autonomous", "dedicated", "preferred") if getattr(self, name)]
        return f"<Prefix {self} {' '.join(flags)}>"


class PrefixList:
    """The prefixes of the interface, bounded.

    on_autonomous(prefix, now): addresses may be formed in a prefix, for the first time (perhaps deprecated ones), or again.
    on_deprecated(prefix, now): its preferred lifetime is over.  on_expired(prefix, now): its valid lifetime is.
    on_routes(): what is on-link has changed.
    """

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._table: dict[tuple[bytes, int], Prefix] = {}
        self._doubted: set[Prefix] = set()
        """What was known before the link was away and has not been advertised since."""
        self._timer = interface.timers.timer(self._age)
        self.on_autonomous: Callable[[Prefix, float], None] = lambda prefix, now: None
        self.on_deprecated: Callable[[Prefix, float], None] = lambda prefix, now: None
        self.on_expired: Callable[[Prefix, float], None] = lambda prefix, now: None
        self.on_routes: Callable[[], None] = lambda: None

    def __iter__(self) -> Iterator[Prefix]:
        return iter(list(self._table.values()))

    def __len__(self) -> int:
        return len(self._table)

    def on_link(self, address: bytes) -> bool:
        """Whether an address is a neighbour's: link-local or in an on-link prefix."""
        return is_link_local(address) or any(prefix.on_link and address in prefix for prefix in self._table.values())

    def of(self, address: bytes, *, routed: bool = False) -> Prefix | None:
        """The longest autonomous or dedicated prefix that an address lies in; with `routed` a dedicated one if there is any,
        whatever a router says of a part of it.
        """
        found = [
            prefix for prefix in self._table.values() if (prefix.autonomous or prefix.dedicated) and address in prefix
        ]
        if routed:
            found = [prefix for prefix in found if prefix.dedicated] or found
        return max(found, key=lambda prefix: prefix.length, default=None)

    def living_with(self, prefix: Prefix, addresses: Iterable[AddressEntry]) -> list[AddressEntry]:
        """Of `addresses` those that live and die with a prefix.

        Those of a longer prefix inside it do not; nor do those of a dedicated one around what a router advertised.
        """
        found = []
        for entry in addresses:
            if entry.address in prefix:
                routed = not entry.per_address_nd
                home = self.of(entry.address, routed=routed)  # once it has expired one around it, if there is any
                theirs = routed and home is not None and home.dedicated and not prefix.dedicated
                if not theirs and (home is None or home.length <= prefix.length):
                    found.append(entry)
        return found

    # -- configured by hand ------------------------------------------------------------------------

    def add_dedicated(self, prefix: bytes, length: int) -> Prefix:
        """A prefix that the network routes to this node; it lasts until `remove`."""
        entry = self._table.setdefault((Prefix(prefix, length).prefix, length), Prefix(prefix, length))
        entry.dedicated = entry.preferred = True
        entry.valid_until = entry.preferred_until = math.inf
        return entry

    def add_static(self, prefix: bytes, length: int, *, autonomous: bool, now: float) -> Prefix:
        """An on-link prefix of a link without a router that would advertise it."""
        entry = self._table.setdefault((Prefix(prefix, length).prefix, length), Prefix(prefix, length))
        entry.on_link = entry.on_link_by_hand = True
        entry.on_link_until = math.inf
        if autonomous:
            entry.autonomous_by_hand = True
            entry.valid_until = entry.preferred_until = math.inf
            entry.autonomous = entry.preferred = True
            self.on_autonomous(entry, now)
        self.on_routes()
        return entry

    def remove(self, prefix: Prefix, now: float) -> None:
        """Withdraw a prefix; its addresses expire."""
        if self._table.pop((prefix.prefix, prefix.length), None) is None:
            return
        formed = prefix.autonomous or prefix.dedicated
        prefix.on_link = prefix.autonomous = prefix.preferred = False
        prefix.valid_until = prefix.preferred_until = prefix.on_link_until = now
        if formed:
            self.on_expired(prefix, now)
        prefix.dedicated = False
        self.on_routes()

    def stop(self) -> None:
        """The host stops: no lifetime ends any more, and no address is formed."""
        self._timer.cancel()
        self._table.clear()
        self._doubted.clear()

    # -- learnt ------------------------------------------------------------------------------------

    def doubt(self) -> None:
        """The link went away: nobody knows which prefixes the next one has."""
        self._doubted = set(self._table.values())

    def advertised(self, options: Iterable[nd.PrefixInformation], now: float) -> None:
        """A router speaks of prefixes, in one advertisement."""
        sensible = [option for option in options if _makes_sense(option)]
        told = {(option.prefix, option.prefix_length) for option in sensible}
        self._doubted = {prefix for prefix in self._doubted if (prefix.prefix, prefix.length) not in told}
        if self._doubted and any(_autonomous(option) and option.preferred_lifetime for option in sensible):
            self._supersede(now)
        for option in sensible:
            self._take(option, now)
        self._age(now)

    def _supersede(self, now: float) -> None:
        """Other prefixes than before are in use on this link.

        Valid lifetimes go on: a second router of the old link may be late, and then its prefixes are preferred again.
        """
        for prefix in self._doubted:
            if not prefix.on_link_by_hand:
                prefix.on_link_until = min(prefix.on_link_until, now)
            if not (prefix.dedicated or prefix.autonomous_by_hand):
                prefix.preferred_until = min(prefix.preferred_until, now)
                prefix.superseded = not prefix.on_link_by_hand
        self._doubted.clear()

    def _take(self, option: nd.PrefixInformation, now: float) -> None:
        """What an option that makes sense says of its prefix."""
        key = option.prefix, option.prefix_length
        prefix = self._table.get(key)
        if prefix is None:
            if not option.valid_lifetime or not self._make_room(now):
                return
            prefix = self._table[key] = Prefix(*key)
        prefix.superseded = False
        if option.on_link and not prefix.on_link_by_hand:
            self._set_on_link(prefix, lifetime_end(option.valid_lifetime, now), now)
        if _autonomous(option) and not prefix.dedicated and not prefix.autonomous_by_hand:
            self._set_autonomous(prefix, option, now)

    def _make_room(self, now: float) -> bool:
        """Whether a prefix more can be learnt: of those that another link had, the one goes that would expire first."""
        learnt = [prefix for prefix in self._table.values() if not prefix.dedicated]
        if len(learnt) < self._interface.config.prefixes:
            return True
        former = min((each for each in learnt if each.superseded), key=lambda each: each.valid_until, default=None)
        if former is None:
            return False
        self.remove(former, now)
        return True

    def _set_on_link(self, prefix: Prefix, until: float, now: float) -> None:
        prefix.on_link_until = until
        if not prefix.on_link and until > now:
            prefix.on_link = True
            self._interface.notice(str(prefix), "is on-link", now)
            self.on_routes()

    def _set_autonomous(self, prefix: Prefix, option: nd.PrefixInformation, now: float) -> None:
        """RFC 4862 §5.5.3 (d), (e)."""
        if not prefix.autonomous:
            if not option.valid_lifetime:
                return
            prefix.valid_until = lifetime_end(option.valid_lifetime, now)
        elif option.valid_lifetime > TWO_HOURS or option.valid_lifetime > prefix.valid_until - now:
            prefix.valid_until = lifetime_end(option.valid_lifetime, now)
        elif prefix.valid_until - now > TWO_HOURS:
            prefix.valid_until = now + TWO_HOURS
        prefix.preferred_until = min(lifetime_end(option.preferred_lifetime, now), prefix.valid_until)
        preferred = prefix.preferred_until > now
        if not prefix.autonomous or (preferred and not prefix.preferred):
            prefix.autonomous, prefix.preferred = True, preferred
            self._interface.notice(str(prefix), "is autonomous: addresses can be formed", now)
            self.on_autonomous(prefix, now)

    def _age(self, now: float) -> None:
        """End what has had its time, and come again when the next lifetime ends."""
        due: list[float] = []
        for key, prefix in list(self._table.items()):
            if prefix.preferred and prefix.preferred_until <= now:
                prefix.preferred = False
                self._interface.notice(str(prefix), "preferred lifetime is over", now)
                self.on_deprecated(prefix, now)
            if prefix.on_link and prefix.on_link_until <= now:
                prefix.on_link = False
                self.on_routes()
            if prefix.autonomous and prefix.valid_until <= now:
                prefix.autonomous = False
                self._interface.notice(str(prefix), "valid lifetime is over", now)
                self.on_expired(prefix, now)
            if not (prefix.on_link or prefix.autonomous or prefix.dedicated):
                del self._table[key]
                continue
            if prefix.preferred:
                due.append(prefix.preferred_until)
            if prefix.on_link:
                due.append(prefix.on_link_until)
            if prefix.autonomous:
                due.append(prefix.valid_until)
        earliest = min(due, default=math.inf)
        if earliest < math.inf:
            self._timer.set(earliest)
        else:
            self._timer.cancel()


def _makes_sense(option: nd.PrefixInformation) -> bool:
    """One that does not is ignored (RFC 4862 §5.5.3 (b), (c))."""
    return not (
        is_link_local(option.prefix)
        or is_multicast(option.prefix)
        or option.prefix[:8] == _LOOPBACK_OR_UNSPECIFIED
        or option.preferred_lifetime > option.valid_lifetime
        or not (option.on_link or _autonomous(option))
    )


def _autonomous(option: nd.PrefixInformation) -> bool:
    """Whether an option lets addresses be formed."""
    return option.autonomous and option.prefix_length == AUTONOMOUS_LENGTH


def lifetime_end(lifetime: int, now: float) -> float:
    """The end of a lifetime in seconds, of which the largest means for ever."""
    return math.inf if lifetime == nd.INFINITY else now + lifetime
