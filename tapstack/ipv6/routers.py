"""Router discovery: solicitations out, advertisements in (RFC 4861 §6, RFC 7559, RFC 4191, RFC 8106, RFC 8781).

What an advertisement says is believed for the lifetime that it names and not longer; lists are bounded, and a router
that offers more than fits is cut short.  Values that would cripple the host are ignored or clamped: an MTU below 1280
or above the link's, a hop limit that ends on the way, a RetransTimer that would stall DAD for hours or make it a flood.

Solicitations go out with exponential back-off until a router answers (RFC 7559), so that a lost one or a router that
comes late costs little.
"""

from __future__ import annotations

import math
from collections.abc import Callable, MutableMapping
from typing import TypeVar

from ..types import ALL_ROUTERS, address_text
from ..wire import icmpv6, ipv6, nd
from .config import (
    MAX_REACHABLE_TIME,
    MAX_RTR_SOLICITATION_DELAY,
    MAX_RTR_SOLICITATION_INTERVAL,
    RTR_SOLICITATION_INTERVAL,
)
from .interface import Interface
from .neighbors import Neighbor, NeighborCache, usable_mac
from .prefixes import Prefix, PrefixList, lifetime_end
from .routes import Route, Router, Routes

MIN_RETRANS_TIMER = 0.1
MAX_RETRANS_TIMER = 10.0
"""Bounds in seconds within which an advertised RetransTimer is taken."""
MIN_HOP_LIMIT = 32
"""The least hop limit that is taken from a router: paths are longer than what a small one lets packets live."""

_Key = TypeVar("_Key")


class RouterDiscovery:
    """Default routers, routes, prefixes and servers learnt from advertisements.

    rdnss: DNS servers with the time until which each is valid; pref64: NAT64 prefixes likewise.
    managed, other: the M and O flags of the last advertisement, DHCPv6 for addresses and for the rest.
    """

    def __init__(self, interface: Interface, neighbors: NeighborCache, prefixes: PrefixList, routes: Routes) -> None:
        self._interface = interface
        self._neighbors = neighbors
        self._prefixes = prefixes
        self._routes = routes
        self.rdnss: dict[bytes, float] = {}
        self.pref64: dict[tuple[bytes, int], float] = {}
        self._static: set[bytes] = set()
        self.managed = False
        self.other = False
        self._solicitation = interface.timers.timer(self._solicit)
        self._interval = 0.0
        self._aging = interface.timers.timer(self._age)
        self.on_router: Callable[[Router, float], None] = lambda router, now: None

    # -- solicitations -----------------------------------------------------------------------------

    def solicit(self, now: float) -> None:
        """Look for routers: the first solicitation after a random delay (RFC 4861 §6.3.7)."""
        if self._interface.config.solicit_routers and self._interface.mac is not None:
            self._interval = 0.0
            self._solicitation.set(now + self._interface.random.uniform(0.0, MAX_RTR_SOLICITATION_DELAY))

    def stop(self) -> None:
        """No more solicitations, and the servers that routers named are forgotten: their time would not end any more."""
        self._solicitation.cancel()
        self._aging.cancel()
        self.rdnss.clear()
        self.pref64.clear()

    def _solicit(self, now: float) -> None:
        interface = self._interface
        src = interface.nd_source()
        options = (nd.SourceLinkLayer(interface.mac),) if interface.link_local and interface.mac else ()
        interface.send_icmp(
            interface.multicast_header(ALL_ROUTERS),
            src,
            ALL_ROUTERS,
            icmpv6.Type.ROUTER_SOLICITATION,
            0,
            nd.RouterSolicitation(options).pack(),
        )
        jitter = interface.random.uniform(0.9, 1.1)
        self._interval = min(self._interval * 2 or RTR_SOLICITATION_INTERVAL, MAX_RTR_SOLICITATION_INTERVAL)
        self._solicitation.set(now + self._interval * jitter)

    # -- advertisements ----------------------------------------------------------------------------

    def advertised(self, src: bytes, message: nd.RouterAdvertisement, now: float) -> None:
        """A valid Router Advertisement (RFC 4861 §6.3.4)."""
        self._take_variables(message)
        source = nd.find(message.options, nd.SourceLinkLayer)
        if source is not None and usable_mac(source.address):
            self._neighbors.heard(src, source.address, now, is_router=True)
        else:
            known = self._neighbors.get(src)
            if known is not None:
                known.is_router = True
        lifetime, preference = message.router_lifetime, message.preference
        routes = nd.find_all(message.options, nd.RouteInformation)
        for route in routes:
            if route.prefix_length == 0:  # it speaks of the router itself, and overrides the header (RFC 4191 §3.1)
                lifetime, preference = route.lifetime, route.preference
        changed = self._take_router(src, lifetime, preference, now)
        self._prefixes.advertised(nd.find_all(message.options, nd.PrefixInformation), now)
        for route in routes:
            if route.prefix_length:
                changed |= self._take_route(src, route, now)
        self._take_servers(message, now)
        if lifetime:
            self._solicitation.cancel()
        if changed:
            self._routes.changed()
        self._age(now)

    def _take_variables(self, message: nd.RouterAdvertisement) -> None:
        interface = self._interface
        self.managed, self.other = message.managed, message.other
        if message.hop_limit >= MIN_HOP_LIMIT:
            self._routes.set_hop_limit(message.hop_limit)
        if message.reachable_time and message.reachable_time / 1000 <= MAX_REACHABLE_TIME:
            base = message.reachable_time / 1000
            if base != interface.base_reachable_time:
                interface.base_reachable_time = base
                interface.draw_reachable_time()
        if message.retrans_timer:
            interface.retrans_timer = min(max(message.retrans_timer / 1000, MIN_RETRANS_TIMER), MAX_RETRANS_TIMER)
        mtu = nd.find(message.options, nd.Mtu)
        if (
            mtu is not None
            and ipv6.MINIMUM_MTU <= mtu.mtu <= interface.properties.mtu
            and mtu.mtu != interface.link_mtu
        ):
            self._routes.set_mtu(mtu.mtu)

    def _take_router(self, src: bytes, lifetime: int, preference: int, now: float) -> bool:
        """Add, renew or remove a default router, for `lifetime` seconds; whether the choice of routers changes."""
        routers = self._routes.default_routers
        router = routers.get(src)
        if src in self._static:
            return False
        if not lifetime:
            if router is None:
                return False
            self._lose(src, "says that it is no default router any more", now)
            return True
        known = router is not None
        if router is None:
            if len(routers) >= self._interface.config.default_routers:
                return False
            router = routers[src] = Router(src)
            self._interface.notice(f"router {address_text(src)}", "found", now)
        changed = not known or router.preference != preference
        router.preference = preference
        router.lifetime_until = lifetime_end(lifetime, now)
        if not known:
            self.on_router(router, now)
        return changed

    def add_static(self, address: bytes, now: float) -> None:
        """A default router set by hand, for a link whose router does not advertise itself; it lasts, link flaps included."""
        self._static.add(address)
        self.restore_static()

    def restore_static(self) -> None:
        """Routers set by hand are there again: the link came up."""
        for address in self._static:
            self._routes.default_routers.setdefault(address, Router(address)).lifetime_until = math.inf
        if self._static:
            self._routes.changed()

    def _take_route(self, src: bytes, option: nd.RouteInformation, now: float) -> bool:
        """RFC 4191 §2.3; whether routes change."""
        routes = self._routes.more_specific
        key = option.prefix, option.prefix_length, src
        route = routes.get(key)
        if not option.lifetime:
            return routes.pop(key, None) is not None
        if route is None:
            if len(routes) >= self._interface.config.routes:
                return False
            routes[key] = Route(
                Prefix(option.prefix, option.prefix_length), src, option.preference, lifetime_end(option.lifetime, now)
            )
            return True
        changed = route.preference != option.preference
        route.preference = option.preference
        route.until = lifetime_end(option.lifetime, now)
        return changed

    def _take_servers(self, message: nd.RouterAdvertisement, now: float) -> None:
        config = self._interface.config
        for servers in nd.find_all(message.options, nd.Rdnss):
            for server in servers.servers:
                _keep(self.rdnss, server, servers.lifetime, now, config.rdnss)
        for nat64 in nd.find_all(message.options, nd.Pref64):
            _keep(self.pref64, (nat64.prefix, nat64.prefix_length), nat64.lifetime, now, config.rdnss)

    # -- loss ------------------------------------------------------------------------------------

    def neighbor_is_no_router(self, neighbor: Neighbor, now: float) -> None:
        """A neighbour advertised itself without the R flag; one set by hand stays what it was set to be.

        Nothing goes through it any more: neither by default, nor by a route that it offered, nor by a redirect (RFC 4861 §7.2.5).
        """
        address = neighbor.address
        if address in self._static:
            return
        routes = self._routes
        changed = address in routes.default_routers
        if changed:
            self._lose(address, "advertises itself as a host", now)
        else:
            changed = routes.void_redirects(address, itself=False)
        for key in [key for key, route in routes.more_specific.items() if route.router == address]:
            del routes.more_specific[key]
            changed = True
        if changed:  # else a neighbour that changes its mind would have every path look for its next hop again
            routes.changed()

    def _lose(self, address: bytes, cause: str, now: float) -> None:
        """A default router is none any more, nor is what redirects led through it (RFC 4861 §6.3.5)."""
        del self._routes.default_routers[address]
        self._routes.void_redirects(address, itself=False)
        self._interface.notice(f"router {address_text(address)}", cause, now)
        if not self._routes.default_routers:
            self.solicit(now)

    def _age(self, now: float) -> None:
        """End what has had its time, and come again when the next lifetime ends."""
        routes = self._routes
        changed = False
        for address, router in list(routes.default_routers.items()):
            if router.lifetime_until <= now:
                self._lose(address, "its lifetime is over", now)
                changed = True
        for key, route in list(routes.more_specific.items()):
            if route.until <= now:
                del routes.more_specific[key]
                changed = True
        _drop_old(self.rdnss, now)
        _drop_old(self.pref64, now)
        if changed:
            routes.changed()
        due = [
            *(router.lifetime_until for router in routes.default_routers.values()),
            *(route.until for route in routes.more_specific.values()),
            *self.rdnss.values(),
            *self.pref64.values(),
        ]
        earliest = min(due, default=math.inf)
        if earliest < math.inf:
            self._aging.set(earliest)
        else:
            self._aging.cancel()


def _keep(table: MutableMapping[_Key, float], key: _Key, lifetime: int, now: float, limit: int) -> None:
    """Renew, add or remove an entry of a bounded table with lifetimes."""
    if not lifetime:
        table.pop(key, None)
    elif key in table or len(table) < limit:
        table[key] = lifetime_end(lifetime, now)


def _drop_old(table: MutableMapping[_Key, float], now: float) -> None:
    for key in [key for key, until in table.items() if until <= now]:
        del table[key]
