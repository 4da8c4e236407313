"""Where a connection to a name may go: its addresses, and which of them is tried first (RFC 6724 §6; ST-IP6-10).

The source that a destination would have is one of the prefix that the pool would serve it from (UM-DAS-7): all addresses of a
prefix are alike to the rules.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from tapstack.ipv6.host import Host, NoRouteError
from tapstack.ipv6.selection import sort_destinations

from .errors import NameNotResolved, NoIpv6Address
from .nat64 import DISCOVERY_NAME, discovered, embed, nat64_prefix, reaches
from .pool import Pool
from .resolver import Resolver


class Destinations:
    """The addresses of names.  nat64: tells the prefix of the gateway as text; where it tells None, routers or RFC 7050 do."""

    def __init__(
        self, resolver: Resolver, host: Host, pool: Pool, now: Callable[[], float], nat64: Callable[[], str | None]
    ) -> None:
        self._resolver = resolver
        self._host = host
        self._pool = pool
        self._now = now
        self._nat64 = nat64
        host.on_link_down = resolver.cache.clear

    async def find(self, name: str, *, timeout: float) -> list[bytes]:
        """See `Node.resolve`."""
        deadline = self._now() + timeout
        try:
            return self.best_first(await self._resolver.resolve(name, timeout=timeout))
        except NoIpv6Address as error:
            ipv4 = list(map(IPv4Address, error.ipv4))
            prefix = await self._gateway(max(deadline - self._now(), 0.0)) if ipv4 else None
            behind = [] if prefix is None else [embed(prefix, each).packed for each in ipv4 if reaches(prefix, each)]
            if not behind:
                raise
            return behind

    def best_first(self, destinations: list[bytes]) -> list[bytes]:
        """Destinations in the order of RFC 6724 §6; the order that they have decides where the rules do not."""
        if len(destinations) < 2:
            return destinations
        return sort_destinations(destinations, self._pool.candidate, self._is_reachable)

    def _is_reachable(self, destination: bytes) -> bool:
        try:
            self._host.path(destination, self._now())
        except NoRouteError:
            return False
        return True

    async def _gateway(self, timeout: float) -> IPv6Network | None:
        """The prefix behind which a NAT64 gateway has the IPv4 addresses."""
        if (configured := self._nat64()) is not None:
            return nat64_prefix(configured)
        for packed, length in self._host.routers.pref64:
            return IPv6Network((packed, length), strict=False)
        try:
            answers = await self._resolver.resolve(DISCOVERY_NAME, timeout=timeout)
        except NameNotResolved:
            return None
        return discovered(map(IPv6Address, answers))
