"""How to reach a destination: next-hop determination and the destination cache (RFC 4861 §5.2, RFC 4191, RFC 4861 §8).

A `Path` is what a connection keeps of it.  Per segment it costs one comparison: while `now < neighbor.fresh_until` its
frame header can be used as it is.  Everything that must be noticed (an aged neighbour, a router that went away, a
redirect) sets `fresh_until` back, and the next `ready` finds its way anew.

The next hop of a destination is, in this order: what a redirect named; the destination itself when it is on-link; the
router of the best route, where reachable routers come before others, then the longest prefix, then the router's
preference (RFC 4191 §3.2).  Routers that are all unreachable are tried in turn (RFC 4861 §6.3.6).  One that would be better than
the one in use, and does not answer, is probed once a minute while there is traffic for it (RFC 4191 §3.5).

The node's own addresses have paths as well, which lead to `ourselves.OURSELVES` and never to the link.

Paths live as long as somebody holds them; besides, the `HostConfig.paths` used last are kept.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from weakref import WeakValueDictionary

from ..types import is_multicast
from .interface import Interface
from .neighbors import Neighbor, NeighborCache, NeighborState, point_to_point
from .ourselves import OURSELVES
from .packet import NoRouteError
from .pmtu import PathMtus
from .prefixes import Prefix, PrefixList

MULTICAST_HOP_LIMIT = 1
"""Default for multicast that is not neighbour discovery (RFC 3493 §5.2)."""
ROUTER_PROBE_INTERVAL = 60.0
"""Least seconds between two probes of a router that is avoided (RFC 4191 §3.5)."""


class Path:
    """How to reach one destination.

    mtu: bytes of IPv6 packet; it changes with path MTU discovery.  hop_limit: for packets sent.
    """

    __slots__ = ("__weakref__", "_generation", "_neighbor", "_routes", "dst", "hop_limit", "mtu")

    def __init__(self, routes: Routes, dst: bytes, mtu: int, hop_limit: int) -> None:
        self._routes = routes
        self._neighbor = NOWHERE
        self._generation = -1
        self.dst = dst
        self.mtu = mtu
        self.hop_limit = hop_limit

    def ready(self, now: float) -> bytes | None:
        """The link header if a frame can go now (empty on TUN); None: use `Host.transmit_queued`.

        Using it has side effects on NUD.
        """
        neighbor = self._neighbor
        if now < neighbor.fresh_until:
            return neighbor.header
        return self._routes.refresh(self, now)

    def confirm(self, now: float) -> None:
        """What was sent on this path has arrived (RFC 4861 §7.3.1)."""
        neighbor = self._neighbor
        if now >= neighbor.confirm_from:
            self._routes.neighbors.confirm(neighbor, now)

    def doubt(self) -> None:
        """What is sent on this path seems not to arrive: have the next hop verified."""
        self._routes.neighbors.doubt(self._neighbor)

    @property
    def next_hop(self) -> bytes:
        """The neighbour that frames go to; `::` while none is chosen."""
        return self._neighbor.address


NOWHERE = Neighbor(bytes(16))
"""The neighbour of a path without a next hop: never fresh, never confirmed."""


class Router:
    """A router of the link and what it offers.

    lifetime_until: as a default router, -inf for none.  preference: RFC 4191, larger is better.
    """

    __slots__ = ("address", "lifetime_until", "preference")

    def __init__(self, address: bytes) -> None:
        self.address = address
        self.lifetime_until = -math.inf
        self.preference = 0


class Route:
    """A more specific route that a router offers (RFC 4191 §2.3)."""

    __slots__ = ("prefix", "preference", "router", "until")

    def __init__(self, prefix: Prefix, router: bytes, preference: int, until: float) -> None:
        self.prefix = prefix
        self.router = router
        self.preference = preference
        self.until = until


class Routes:
    """Next hops and paths.  `default_routers` and `more_specific` are kept by `RouterDiscovery`."""

    def __init__(self, interface: Interface, neighbors: NeighborCache, prefixes: PrefixList) -> None:
        self._interface = interface
        self.neighbors = neighbors
        self._prefixes = prefixes
        self.default_routers: dict[bytes, Router] = {}
        self.more_specific: dict[tuple[bytes, int, bytes], Route] = {}
        self.mtus = PathMtus(interface, self._mtu_changed)
        self.generation = 0
        self._redirects: OrderedDict[bytes, bytes] = OrderedDict()
        self._avoided: dict[bytes, float] = {}
        """router that would be chosen if it answered → when it may be probed again"""
        self._paths: WeakValueDictionary[bytes, Path] = WeakValueDictionary()
        self._recent: OrderedDict[bytes, Path] = OrderedDict()
        self._turn = 0
        self._far_end = point_to_point()

    # -- paths -----------------------------------------------------------------------------------

    def path(self, dst: bytes, now: float) -> Path:
        """The path to a destination; raises `NoRouteError` where there is no way at this time."""
        path = self._paths.get(dst)
        if path is None:
            path = Path(self, dst, self.mtus.get(dst), self._default_hop_limit(dst))
            self._choose(path, now)
            self._paths[dst] = path
        elif path._generation != self.generation:
            self._choose(path, now)
        self._recent[dst] = path
        self._recent.move_to_end(dst)
        if len(self._recent) > self._interface.config.paths:
            self._recent.popitem(last=False)
        return path

    def refresh(self, path: Path, now: float) -> bytes | None:
        """The link header after something may have changed; None while the next hop is not resolved or does not
        exist.
        """
        neighbor = self.settle(path, now)
        if neighbor is None:
            return None
        if self._avoided:
            self._probe_avoided(path, now)
        if neighbor.fresh_until == math.inf:
            return neighbor.header
        return self.neighbors.use(neighbor, now)

    def settle(self, path: Path, now: float) -> Neighbor | None:
        """The neighbour that the path leads to now; None without a route or without room for the neighbour."""
        neighbor = path._neighbor
        if path.dst in self._interface.addresses:
            path._neighbor = OURSELVES
            return OURSELVES
        known = neighbor is self._far_end or self.neighbors.get(neighbor.address) is neighbor
        if path._generation != self.generation or not (known or is_multicast(path.dst)):
            try:
                self._choose(path, now)
            except NoRouteError:
                path._neighbor = NOWHERE
                return None
        return path._neighbor if path._neighbor is not NOWHERE else None

    def _choose(self, path: Path, now: float) -> None:
        """Next-hop determination."""
        if path.dst in self._interface.addresses:
            path._neighbor = OURSELVES
        elif self._interface.mac is None:
            path._neighbor = self._far_end
        elif is_multicast(path.dst):
            group = Neighbor(path.dst)
            group.state = NeighborState.REACHABLE
            group.header = self._interface.multicast_header(path.dst)
            group.fresh_until = math.inf
            path._neighbor = group
        else:
            path._neighbor = self.neighbors.find(self.next_hop(path.dst, now), now) or NOWHERE
        path._generation = self.generation

    def next_hop(self, dst: bytes, now: float) -> bytes:
        """The address of the neighbour that packets to `dst` go to; raises `NoRouteError`."""
        if dst in self._interface.addresses:
            raise NoRouteError(dst, "it is an address of this node")
        redirected = self._redirects.get(dst)
        if redirected is not None:
            return redirected
        if self._prefixes.on_link(dst):
            return dst
        candidates = self._candidates(dst, now)
        if not candidates:
            raise NoRouteError(dst)
        best = max(candidates, key=lambda candidate: candidate[:3])
        if not best[0]:
            self._turn += 1
            best = candidates[self._turn % len(candidates)]
        else:
            for _, length, preference, router in candidates:
                if (length, preference) > best[1:3]:
                    self._avoided.setdefault(router, -math.inf)
        return best[3]

    def _candidates(self, dst: bytes, now: float) -> list[tuple[bool, int, int, bytes]]:
        """Of each route to `dst` whether its router is reachable, its length, its preference, its router."""
        found = [
            (self.is_reachable(route.router), route.prefix.length, route.preference, route.router)
            for route in self.more_specific.values()
            if dst in route.prefix
        ]
        return found + [
            (self.is_reachable(router.address), 0, router.preference, router.address)
            for router in self.default_routers.values()
            if router.lifetime_until > now
        ]

    def _probe_avoided(self, path: Path, now: float) -> None:
        """Ask the routers that would be better for `path` than the one in use, if it is time."""
        candidates = self._candidates(path.dst, now)
        used = max((candidate[1:3] for candidate in candidates if candidate[3] == path.next_hop), default=None)
        for reachable, length, preference, router in candidates:
            due = self._avoided.get(router, math.inf)
            if used is not None and (length, preference) > used and not reachable and now >= due:
                self._avoided[router] = now + ROUTER_PROBE_INTERVAL
                self.neighbors.probe(router, now)

    def neighbor_reachable(self, neighbor: Neighbor) -> None:
        """A neighbour answers, for the first time or again: a router that was avoided may be the better one."""
        if self._avoided.pop(neighbor.address, None) is not None:
            self.changed()

    def witness(self, dst: bytes | None, now: float) -> Neighbor | None:
        """A resolved neighbour that can be asked whether the link works: the next hop towards `dst`, or a default router."""
        hops = [router.address for router in self.default_routers.values() if router.lifetime_until > now]
        if dst is not None:
            try:
                hops.insert(0, self.next_hop(dst, now))
            except NoRouteError:
                pass
        known = (self.neighbors.get(hop) for hop in hops)
        return next((neighbor for neighbor in known if neighbor is not None and neighbor.header is not None), None)

    def resolved_router(self, now: float) -> bytes | None:
        """The link header to a default router that needs no address resolution; None where there is none."""
        for router in sorted(self.default_routers.values(), key=lambda router: -router.preference):
            neighbor = self.neighbors.get(router.address)
            if neighbor is not None and neighbor.header is not None:
                return self.neighbors.use(neighbor, now)
        return None

    def is_reachable(self, router: bytes) -> bool:
        """Whether a router's neighbour entry is in any state but INCOMPLETE and UNREACHABLE (RFC 4861 §6.3.6, RFC
        7048 §3).
        """
        neighbor = self.neighbors.get(router)
        return neighbor is not None and neighbor.state not in (NeighborState.INCOMPLETE, NeighborState.UNREACHABLE)

    def is_first_hop(self, router: bytes) -> bool:
        """Whether routes lead to a router."""
        return router in self._offering()

    def _offering(self) -> set[bytes]:
        """The routers that offer a route, the default one or another."""
        return {*self.default_routers, *(route.router for route in self.more_specific.values())}

    # -- changes -----------------------------------------------------------------------------------

    def changed(self) -> None:
        """Routers, routes or on-link prefixes have changed: every path looks for its next hop again."""
        self.generation += 1
        if self._avoided:
            offering = self._offering()
            self._avoided = {router: due for router, due in self._avoided.items() if router in offering}
        self.neighbors.invalidate_routes()

    def redirect(self, dst: bytes, target: bytes) -> None:
        """Packets to `dst` go to the neighbour `target` from now on (RFC 4861 §8.3)."""
        self._redirects[dst] = target
        self._redirects.move_to_end(dst)
        if len(self._redirects) > self._interface.config.paths:
            self._redirects.popitem(last=False)
        self._forget_next_hop(dst)

    def void_redirects(self, target: bytes, *, itself: bool) -> bool:
        """Forget the redirects to a neighbour, with `itself` also that which said that it is on-link; whether there were any."""
        void = [dst for dst, hop in self._redirects.items() if hop == target and (itself or dst != target)]
        for dst in void:
            del self._redirects[dst]
        return bool(void)

    def uses(self, dst: bytes, router: bytes) -> bool:
        """Whether packets are being sent to `dst` by way of the neighbour `router`."""
        path = self._paths.get(dst)
        return path is not None and dst != router and path.next_hop == router

    def _forget_next_hop(self, dst: bytes) -> None:
        path = self._paths.get(dst)
        if path is not None:
            path._neighbor = NOWHERE
            path._generation = -1

    def neighbor_unreachable(self, neighbor: Neighbor, now: float) -> None:
        """A neighbour no longer answers: redirects to it are void, and another router may take over (RFC 7048 §3)."""
        redirected = self.void_redirects(neighbor.address, itself=True)
        others = any(address != neighbor.address for address in self._offering())
        if redirected or (neighbor.is_router and others):
            self.changed()

    def set_mtu(self, mtu: int) -> None:
        """A router names another link MTU (RFC 4861 §6.3.4)."""
        self._interface.link_mtu = mtu
        self._renew_paths()

    def set_hop_limit(self, hop_limit: int) -> None:
        """A router names another hop limit."""
        if hop_limit != self._interface.hop_limit:
            self._interface.hop_limit = hop_limit
            self._renew_paths()

    def _renew_paths(self) -> None:
        """MTU and hop limit of the link have changed."""
        for dst, path in list(self._paths.items()):
            path.mtu = self.mtus.get(dst)
            path.hop_limit = self._default_hop_limit(dst)

    def _default_hop_limit(self, dst: bytes) -> int:
        return MULTICAST_HOP_LIMIT if is_multicast(dst) else self._interface.hop_limit

    def _mtu_changed(self, dst: bytes, mtu: int) -> None:
        path = self._paths.get(dst)
        if path is not None:
            path.mtu = mtu

    def clear(self) -> None:
        """The link went away: nothing that was learnt on it holds."""
        self.default_routers.clear()
        self.more_specific.clear()
        self._redirects.clear()
        self._avoided.clear()
        self.mtus.clear()
        self._renew_paths()
        self.changed()

    def __len__(self) -> int:
        return len(self._paths)
