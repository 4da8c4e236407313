"""The settings of a simulated router.  Defaults are those of Linux, and of radvd for advertisements."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import IPv6Address, IPv6Interface, IPv6Network


class UntrackedNa(IntEnum):
    """Linux's `accept_untracked_na`: whether an NA for an unknown neighbour makes a cache entry (RFC 9131 §6.1.1)."""

    NO = 0
    ANY = 1
    SAME_SUBNET = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvertisedPrefix:
    """A prefix of a link; the router's own address in it is `::1`.  Lifetimes in seconds."""

    prefix: str
    valid: int = 86_400
    preferred: int = 14_400
    on_link: bool = True
    autonomous: bool = True

    @property
    def network(self) -> IPv6Network:
        """The prefix, parsed; `ValueError` if it is none."""
        return IPv6Network(self.prefix)

    @property
    def address(self) -> IPv6Address:
        """The router's address in it."""
        return self.network[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class InterfaceConfig:
    """One interface.

    name: for people.  prefixes: of the link, advertised.  addresses: more of the router's own, as "2001:db8::5/64"; their
    prefixes are on the link, too, but not advertised.
    advertise: whether RAs are sent at all; interval: least and most seconds between two unsolicited ones.
    router_lifetime: seconds, 0 for "no default router".  advertise_mtu: include the link's MTU.
    rdnss: addresses of name servers, good for three times the longest interval (RFC 8106 §5.1).
    """

    name: str = ""
    prefixes: tuple[AdvertisedPrefix, ...] = ()
    addresses: tuple[str, ...] = ()
    advertise: bool = True
    interval: tuple[float, float] = (198.0, 600.0)
    router_lifetime: int = 1800
    hop_limit: int = 64
    advertise_mtu: bool = True
    rdnss: tuple[str, ...] = ()
    accept_untracked_na: UntrackedNa = UntrackedNa.NO

    def interfaces(self) -> list[IPv6Interface]:
        """The router's own addresses here with their prefix lengths, the link-local one left out."""
        own = [IPv6Interface((prefix.address, prefix.network.prefixlen)) for prefix in self.prefixes]
        return own + [IPv6Interface(text) for text in self.addresses]


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRoute:
    """`prefix` is reached through `interface` (its number), by the neighbour `via` or directly."""

    prefix: str
    interface: int
    via: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NeighborLimits:
    """Sizes and times of the neighbour cache, named as the sysctls under net.ipv6.neigh; times in seconds."""

    gc_thresh1: int = 128
    gc_thresh2: int = 512
    gc_thresh3: int = 1024
    gc_stale_time: float = 60.0
    gc_interval: float = 15.0
    base_reachable_time: float = 30.0
    delay_first_probe_time: float = 5.0
    retrans_time: float = 1.0
    mcast_solicit: int = 3
    ucast_solicit: int = 3
    unres_qlen: int = 101


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """What holds for all interfaces.

    icmp_interval, icmp_burst: errors to one destination, seconds per error on average and how many at once; Packet Too
    Big is exempt, as in Linux's `icmp.ratemask`.
    """

    routes: tuple[StaticRoute, ...] = ()
    neighbors: NeighborLimits = field(default_factory=NeighborLimits)
    icmp_interval: float = 1.0
    icmp_burst: int = 6
