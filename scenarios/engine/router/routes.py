"""The routing table of a simulated router: longest prefix first."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Network


@dataclass(frozen=True, slots=True)
class Route:
    """Packets to a prefix leave by `port`, to the neighbour `via`, or to their destination itself if that is None."""

    port: int
    via: bytes | None = None


class RouteTable:
    """Routes by prefix.

    >>> table = RouteTable()
    >>> table.add(IPv6Network("2001:db8::/32"), Route(0)); table.add(IPv6Network("2001:db8:1::/48"), Route(1))
    >>> table.find(IPv6Network("2001:db8:1::5").network_address.packed)
    Route(port=1, via=None)
    """

    def __init__(self) -> None:
        self._by_length: dict[int, dict[int, Route]] = {}
        self._lengths: list[int] = []

    def add(self, prefix: IPv6Network, route: Route) -> None:
        """Add a route, or replace that of the same prefix."""
        key = int(prefix.network_address) >> 128 - prefix.prefixlen
        self._by_length.setdefault(prefix.prefixlen, {})[key] = route
        self._lengths = sorted(self._by_length, reverse=True)

    def clear(self) -> None:
        """Forget all routes."""
        self._by_length.clear()
        self._lengths.clear()

    def find(self, dst: bytes) -> Route | None:
        """The route of the longest prefix that holds `dst`."""
        value = int.from_bytes(dst, "big")
        for length in self._lengths:
            route = self._by_length[length].get(value >> 128 - length)
            if route is not None:
                return route
        return None
