"""The neighbour cache: address resolution and neighbour unreachability detection (RFC 4861 §7, RFC 7048, RFC 6583).

```
             packet to send              NA                    no confirmation
       - ───────────────────▶ INCOMPLETE ─────▶ REACHABLE ─────────────────────▶ STALE
                                   │ 3 NS          ▲  ▲                            │ packet sent
                                   ▼               │  └─ confirmation ─ DELAY ◀────┘
                                 gone              │                      │ 5 s
                                                   └── NA ─ PROBE ◀───────┘
                                                            │ 3 NS
                                                            ▼
                                                       UNREACHABLE (still used; multicast NS, backing off)
```
REACHABLE ages into STALE lazily: nothing happens until the entry is used again.  A connection asks two attributes per
segment (`Path.ready`, `Path.confirm`) and comes here only when one of them says that something is due:

* `fresh_until`: until then using the entry has no side effect.  It is -inf whenever a use must be noticed;
* `confirm_from`: from then on a confirmation changes something.

Invariants: at most `HostConfig.neighbors` entries, of which `neighbors_incomplete` unresolved; an entry has a header exactly
when it is not INCOMPLETE; an entry that left the table has no header and is never fresh, so nobody goes on using it.

When the table is full the entry used longest ago makes room, unless it is a router that is in use as one, reachable or under
test.  An attacker can so replace what other attackers wrote and what nobody uses, not what carries traffic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from enum import StrEnum
from functools import partial
from itertools import chain

from ..events import DropReason
from ..timers import Timer
from ..types import address_text, is_link_local, solicited_node
from ..wire import ethernet, icmpv6, nd
from .addresses import AddressState, Answers
from .config import (
    DELAY_FIRST_PROBE_TIME,
    MAX_MULTICAST_SOLICIT,
    MAX_UNICAST_SOLICIT,
    NUD_BACKOFF,
    NUD_MAX_RETRANS,
)
from .interface import Interface
from .waiting import WaitingPackets

EVICTION_LOOKS = 16
"""How many entries are looked at for one to give up, so that a full table costs a bounded time."""


REDRAW_INTERVAL = 7200.0
"""Seconds after which ReachableTime is drawn anew."""


class NeighborState(StrEnum):
    """RFC 4861 §7.3.2 and RFC 7048 §3."""

    INCOMPLETE = "INCOMPLETE"
    REACHABLE = "REACHABLE"
    STALE = "STALE"
    DELAY = "DELAY"
    PROBE = "PROBE"
    UNREACHABLE = "UNREACHABLE"


_S = NeighborState


class Neighbor:
    """One neighbour.  `header` is the link header of a frame to it, None while its address is not resolved."""

    __slots__ = (
        "address",
        "confirm_from",
        "fresh_until",
        "header",
        "is_router",
        "mac",
        "probes",
        "reachable_until",
        "state",
        "timer",
    )

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.state = NeighborState.INCOMPLETE
        self.mac: bytes | None = None
        self.header: bytes | None = None
        self.is_router = False
        self.fresh_until = -math.inf
        self.confirm_from = math.inf
        self.reachable_until = -math.inf
        self.probes = 0
        self.timer: Timer | None = None

    def __repr__(self) -> str:
        return f"<Neighbor {address_text(self.address)} {self.state}>"


def point_to_point() -> Neighbor:
    """The neighbour at the far end of a link without addresses: always there, an empty header, nothing to confirm."""
    neighbor = Neighbor(bytes(16))
    neighbor.state = NeighborState.REACHABLE
    neighbor.header = b""
    neighbor.fresh_until = math.inf
    return neighbor


def usable_mac(mac: bytes) -> bool:
    """Whether a link-layer address from an option can be one station's: six bytes, no group, not all zero."""
    return len(mac) == ethernet.ADDRESS_LENGTH and not ethernet.is_group(mac) and any(mac)


class NeighborCache:
    """All neighbours of the interface.

    on_unresolved(neighbor, packets, now): resolution failed; the packets that waited, from their IPv6 headers on.
    on_unreachable(neighbor, now): a neighbour does not answer, resolution or one more probe; look for another way.
    on_reachable(neighbor): it answers, for the first time or again.
    on_router_lost(neighbor, now): a neighbour says that it is no router any more.
    is_first_hop(address): whether a router that routes lead to; that a neighbour calls itself one is not enough.
    """

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._table: dict[bytes, Neighbor] = {}
        self._incomplete: dict[bytes, Neighbor] = {}
        self.waiting = WaitingPackets(interface)
        self._redraw_at = -math.inf
        self.get = self._table.get
        self.on_unresolved: Callable[[Neighbor, list[bytes], float], None] = lambda neighbor, packets, now: None
        self.on_unreachable: Callable[[Neighbor, float], None] = lambda neighbor, now: None
        self.on_reachable: Callable[[Neighbor], None] = lambda neighbor: None
        self.on_router_lost: Callable[[Neighbor, float], None] = lambda neighbor, now: None
        self.is_first_hop: Callable[[bytes], bool] = lambda address: False

    def __len__(self) -> int:
        return len(self._table)

    def __iter__(self) -> Iterator[Neighbor]:
        return iter(list(self._table.values()))

    # -- use -------------------------------------------------------------------------------------

    def find(self, address: bytes, now: float) -> Neighbor | None:
        """The entry of a next hop, made INCOMPLETE if there is none; None when the table has no room (counted)."""
        neighbor = self._table.get(address)
        if neighbor is None:
            if len(self._incomplete) >= self._interface.config.neighbors_incomplete:
                self._fail(self._least_wanted(), now)
            neighbor = self._insert(address, now)
            if neighbor is not None:
                self._incomplete[address] = neighbor
        return neighbor

    def _least_wanted(self) -> Neighbor:
        """The oldest unresolved entry for which only answers to strangers wait, else the oldest.

        Strangers who do not exist cost answers at any rate; they take no place from those to whom we speak (RFC 6583 §7.2).
        """
        entries = iter(self._incomplete.values())
        oldest = next(entries)
        return next((each for each in chain((oldest,), entries) if not self.waiting.wanted(each.address)), oldest)

    def probe(self, address: bytes, now: float) -> None:
        """Ask once whether a router is there that is not in use because it did not answer (RFC 4191 §3.5)."""
        full = len(self._incomplete) >= self._interface.config.neighbors_incomplete
        neighbor = self._table.get(address) if full else self.find(address, now)
        if neighbor is None or (neighbor.timer is not None and neighbor.timer.armed):
            return  # no room, for a mere question; or it is being asked already
        if neighbor.state is _S.INCOMPLETE:
            neighbor.probes = MAX_MULTICAST_SOLICIT - 1
            self._solicit_incomplete(neighbor, now)
        else:
            self._solicit(neighbor, unicast=False)

    def use(self, neighbor: Neighbor, now: float) -> bytes | None:
        """The link header for a packet to be sent now, with the side effects of sending; None while unresolved."""
        state = neighbor.state
        if neighbor.header is None:
            return None
        if state is _S.REACHABLE and now < neighbor.reachable_until:
            neighbor.fresh_until = neighbor.reachable_until
        elif state is _S.REACHABLE or state is _S.STALE:
            self._enter(neighbor, _S.DELAY)
            neighbor.fresh_until = math.inf
            self._timer(neighbor).set(now + DELAY_FIRST_PROBE_TIME)
        elif state is _S.UNREACHABLE:
            if neighbor.timer is None or not neighbor.timer.armed:
                self._probe_unreachable(neighbor, now)
        else:
            neighbor.fresh_until = math.inf
        self._touch(neighbor)
        return neighbor.header

    def enqueue(self, neighbor: Neighbor, packet: bytes, virtio_header: bytes, now: float) -> None:
        """Keep a packet (from its IPv6 header on) until the neighbour is resolved."""
        if self._table.get(neighbor.address) is not neighbor:
            self._interface.counters.drop(DropReason.NEIGHBOR_TABLE)
            return
        self.waiting.add(neighbor.address, packet, virtio_header)
        if neighbor.timer is None or not neighbor.timer.armed:
            neighbor.probes = 0
            self._solicit_incomplete(neighbor, now)

    def confirm(self, neighbor: Neighbor, now: float) -> None:
        """An upper layer saw its packets arrive at the other end (RFC 4861 §7.3.1)."""
        if neighbor.header is not None:
            self._reachable(neighbor, now)

    def doubt(self, neighbor: Neighbor) -> None:
        """An upper layer sees its packets vanish (RFC 9293 §3.8.3): the next use begins to verify the neighbour."""
        if neighbor.state is _S.REACHABLE and neighbor.reachable_until < math.inf:
            self._enter(neighbor, _S.STALE)

    def invalidate_routes(self) -> None:
        """Routes have changed: each path asks again for its next hop before it uses its neighbour once more."""
        for neighbor in self._table.values():
            neighbor.fresh_until = -math.inf

    # -- what neighbours say -----------------------------------------------------------------------

    def heard(self, address: bytes, mac: bytes, now: float, *, is_router: bool | None = None) -> Neighbor | None:
        """A Neighbor or Router Solicitation, Router Advertisement or Redirect names a link-layer address (RFC 4861 App.

        C).
        """
        neighbor = self._table.get(address)
        if neighbor is None:
            neighbor = self._insert(address, now)
            if neighbor is None:
                return None
            self._record(neighbor, mac, _S.STALE, now)
        elif neighbor.mac != mac:
            self._record(neighbor, mac, _S.STALE, now)
        if is_router is not None:
            self._set_router(neighbor, is_router, now)
        return neighbor

    def advertised(
        self, address: bytes, mac: bytes | None, *, router: bool, solicited: bool, override: bool, now: float
    ) -> bool:
        """A Neighbor Advertisement for an address that is not ours (RFC 4861 §7.2.5); False when no entry exists
        for it.
        """
        neighbor = self._table.get(address)
        if neighbor is None:
            return False
        if neighbor.state is _S.INCOMPLETE:
            if mac is None:
                return True
            neighbor.is_router = router
            self._record(neighbor, mac, _S.REACHABLE if solicited else _S.STALE, now)
            return True
        different = mac is not None and mac != neighbor.mac
        if different and not override:
            if neighbor.state is _S.REACHABLE:
                self._enter(neighbor, _S.STALE)
            return True
        if different:
            assert mac is not None
            self._record(neighbor, mac, _S.REACHABLE if solicited else _S.STALE, now)
        elif solicited:
            self._reachable(neighbor, now)
        self._set_router(neighbor, router, now)
        return True

    def remove(self, address: bytes) -> None:
        """Forget a neighbour; packets that wait for it are dropped."""
        neighbor = self._table.pop(address, None)
        if neighbor is None:
            return
        self._incomplete.pop(address, None)
        neighbor.header = neighbor.mac = None
        neighbor.state = _S.INCOMPLETE
        neighbor.fresh_until = -math.inf
        neighbor.confirm_from = math.inf
        self.waiting.take(address)
        if neighbor.timer is not None:
            neighbor.timer.cancel()

    def clear(self) -> None:
        """Forget all neighbours: the link went away."""
        for address in list(self._table):
            self.remove(address)

    # -- states ----------------------------------------------------------------------------------

    def _enter(self, neighbor: Neighbor, state: NeighborState) -> None:
        silent = neighbor.state is _S.UNREACHABLE or neighbor.state is _S.INCOMPLETE
        neighbor.state = state
        neighbor.probes = 0
        neighbor.fresh_until = -math.inf
        neighbor.confirm_from = -math.inf
        if neighbor.timer is not None:
            neighbor.timer.cancel()
        if silent and state is not _S.UNREACHABLE:
            self.on_reachable(neighbor)

    def _reachable(self, neighbor: Neighbor, now: float) -> None:
        """REACHABLE from now on, for ReachableTime, which changes every few hours (RFC 4861 §6.3.4)."""
        if now >= self._redraw_at:
            self._redraw_at = now + REDRAW_INTERVAL
            self._interface.draw_reachable_time()
        reachable_time = self._interface.reachable_time
        self._enter(neighbor, _S.REACHABLE)
        neighbor.reachable_until = now + reachable_time
        # Not fresh before its first use: routes may have changed since the path was chosen.
        neighbor.confirm_from = now + reachable_time / 4

    def _record(self, neighbor: Neighbor, mac: bytes, state: NeighborState, now: float) -> None:
        """Write a link-layer address into the entry and send what waited for it."""
        neighbor.mac = mac
        neighbor.header = self._interface.header_to(mac)
        self._incomplete.pop(neighbor.address, None)
        if state is _S.REACHABLE:
            self._reachable(neighbor, now)
        else:
            self._enter(neighbor, state)
        for virtio_header, packet in self.waiting.take(neighbor.address):
            header = self.use(neighbor, now)
            assert header is not None
            self._interface.transmit(header, [packet], virtio_header)

    def _set_router(self, neighbor: Neighbor, router: bool, now: float) -> None:
        was, neighbor.is_router = neighbor.is_router, router
        if was and not router:
            self.on_router_lost(neighbor, now)

    def _due(self, neighbor: Neighbor, now: float) -> None:
        """The entry's timer: retransmission in INCOMPLETE and PROBE, end of DELAY; in UNREACHABLE only the end of a wait."""
        if neighbor.state is _S.INCOMPLETE:
            if neighbor.probes < MAX_MULTICAST_SOLICIT:
                self._solicit_incomplete(neighbor, now)
            else:
                self._fail(neighbor, now)
        elif neighbor.state is _S.DELAY:
            self._enter(neighbor, _S.PROBE)
            neighbor.fresh_until = math.inf
            self._probe(neighbor, now)
        elif neighbor.state is _S.PROBE:
            if neighbor.probes < MAX_UNICAST_SOLICIT:
                self._probe(neighbor, now)
            else:
                self._enter(neighbor, _S.UNREACHABLE)
                self._probe_unreachable(neighbor, now)

    def _solicit_incomplete(self, neighbor: Neighbor, now: float) -> None:
        neighbor.probes += 1
        self._solicit(neighbor, unicast=False)
        self._timer(neighbor).set(now + self._interface.retrans_timer)

    def _probe(self, neighbor: Neighbor, now: float) -> None:
        neighbor.probes += 1
        self._solicit(neighbor, unicast=True)
        self._timer(neighbor).set(now + self._interface.retrans_timer)

    def _probe_unreachable(self, neighbor: Neighbor, now: float) -> None:
        """One multicast NS; the next use after a wait that grows each time sends another (RFC 7048 §3).

        Each time paths choose anew, so that of routers that are all silent every one is probed (RFC 4861 §6.3.6).
        """
        neighbor.probes += 1
        self._solicit(neighbor, unicast=False)
        wait = self._interface.retrans_timer * NUD_BACKOFF ** min(neighbor.probes, 8)
        self._timer(neighbor).set(now + min(wait, NUD_MAX_RETRANS))
        self.on_unreachable(neighbor, now)

    def _fail(self, neighbor: Neighbor, now: float) -> None:
        """Nobody answered: the entry goes and those who waited hear of it; the next packet looks for another way."""
        waiting = [packet for _, packet in self.waiting.take(neighbor.address, DropReason.NEIGHBOR_UNREACHABLE)]
        self.remove(neighbor.address)
        self.on_unreachable(neighbor, now)
        self.on_unresolved(neighbor, waiting, now)

    def _timer(self, neighbor: Neighbor) -> Timer:
        if neighbor.timer is None:
            neighbor.timer = self._interface.timers.timer(partial(self._due, neighbor))
        return neighbor.timer

    # -- solicitations -----------------------------------------------------------------------------

    def _solicit(self, neighbor: Neighbor, *, unicast: bool) -> None:
        """Send one Neighbor Solicitation (RFC 4861 §7.2.2); nothing while this node has no source for it."""
        interface = self._interface
        src = self._source(neighbor)
        if src is None or interface.mac is None:
            return
        if unicast:
            assert neighbor.header is not None
            dst, header = neighbor.address, neighbor.header
        else:
            dst = solicited_node(neighbor.address)
            header = interface.multicast_header(dst)
        message = nd.NeighborSolicitation(neighbor.address, (nd.SourceLinkLayer(interface.mac),))
        interface.send_icmp(header, src, dst, icmpv6.Type.NEIGHBOR_SOLICITATION, 0, message.pack())

    def _source(self, neighbor: Neighbor) -> bytes | None:
        """The address of the waiting packet, so that the neighbour learns what it needs to answer; link-local to
        link-local.

        The last attempt is made from the link-local address: perhaps the link refuses the other one (UM-ADDR-12).
        An optimistic address must not be the source (RFC 4429 §3.2).
        """
        addresses = self._interface.addresses
        last = neighbor.probes >= MAX_MULTICAST_SOLICIT
        src = self.waiting.last_source(neighbor.address)
        if src is not None and not last and not is_link_local(neighbor.address):
            entry = addresses.get(src)
            if entry is not None and entry.answers & Answers.TRAFFIC and entry.state is not AddressState.OPTIMISTIC:
                return src
        return self._interface.link_local

    # -- the table ---------------------------------------------------------------------------------

    def _insert(self, address: bytes, now: float) -> Neighbor | None:
        if len(self._table) >= self._interface.config.neighbors and not self._make_room(now):
            self._interface.counters.drop(DropReason.NEIGHBOR_TABLE)
            return None
        neighbor = self._table[address] = Neighbor(address)
        return neighbor

    def _make_room(self, now: float) -> bool:
        """Give up the entry used longest ago that nothing depends on; entries that are kept go to the end."""
        for _ in range(min(EVICTION_LOOKS, len(self._table))):
            neighbor = next(iter(self._table.values()))
            if not self._protected(neighbor, now):
                self.remove(neighbor.address)
                return True
            self._touch(neighbor)
        return False

    def _protected(self, neighbor: Neighbor, now: float) -> bool:
        if neighbor.state is _S.INCOMPLETE:
            return neighbor.address in self.waiting
        return (
            neighbor.state in (_S.DELAY, _S.PROBE)
            or (neighbor.state is _S.REACHABLE and now < neighbor.reachable_until)
            or self.is_first_hop(neighbor.address)
        )

    def _touch(self, neighbor: Neighbor) -> None:
        """Make the entry the most recently used one."""
        if self._table.get(neighbor.address) is neighbor:
            del self._table[neighbor.address]
            self._table[neighbor.address] = neighbor

    def check(self) -> None:
        """Raise AssertionError where an invariant of this table does not hold."""
        assert len(self._table) <= self._interface.config.neighbors
        assert len(self._incomplete) <= self._interface.config.neighbors_incomplete
        for address, neighbor in self._table.items():
            assert address == neighbor.address, neighbor
            assert (neighbor.header is None) == (neighbor.state is _S.INCOMPLETE), neighbor
            assert (address in self._incomplete) == (neighbor.state is _S.INCOMPLETE), neighbor
            assert neighbor.header is not None or neighbor.fresh_until == -math.inf, neighbor
            assert address not in self.waiting or neighbor.state is _S.INCOMPLETE, neighbor
        self.waiting.check()
