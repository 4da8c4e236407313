"""What can be set on an IPv6 host, and the constants of the RFCs that it stands on.

Every table of the host is bounded by a number in `HostConfig`: an attacker chooses what fills a table, never how
large it is.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_RTR_SOLICITATION_DELAY = 1.0
RTR_SOLICITATION_INTERVAL = 4.0
MAX_RTR_SOLICITATION_INTERVAL = 3600.0
"""The ceiling of the back-off of Router Solicitations, seconds (RFC 7559 §2.1)."""

MAX_MULTICAST_SOLICIT = 3
MAX_UNICAST_SOLICIT = 3
DELAY_FIRST_PROBE_TIME = 5.0
REACHABLE_TIME = 30.0
MAX_REACHABLE_TIME = 3600.0
RETRANS_TIMER = 1.0
MIN_RANDOM_FACTOR = 0.5
MAX_RANDOM_FACTOR = 1.5
NUD_BACKOFF = 3
"""RFC 7048 §4: BACKOFF_MULTIPLE."""
NUD_MAX_RETRANS = 60.0
"""RFC 7048 §4: MAX_RETRANS_TIMER, seconds."""

TWO_HOURS = 7200.0
"""RFC 4862 §5.5.3 (e): an unauthenticated advertisement cannot shorten a valid lifetime below this, seconds."""

FRAGMENT_TIMEOUT = 60.0
"""Seconds that a packet may take to arrive whole (RFC 8200 §4.5)."""


@dataclass(frozen=True, slots=True)
class HostConfig:
    """The settings of a `Host`; the defaults are those of the RFCs and suit a shared Ethernet link.  Times in seconds.

    hop_limit: of packets sent, until a router advertises another.
    stable_addresses: configure one RFC 7217 address per autonomous prefix, as ordinary hosts do.
    solicit_routers: send Router Solicitations; without, only unsolicited advertisements are heard.

    dad_transmits: probes per address (RFC 4862 DupAddrDetectTransmits); 0 switches DAD off.
    dad_initial_delay: upper bound of the random delay before the first probe after start (RFC 4862 §5.4.2).
    dad_pace: least time between the first probes of two addresses, so that a pool fills without a burst.
    dad_concurrent: addresses under test at one time.
    dad_loopback_rounds: rounds of three more probes after a looped-back one (RFC 7527 §4.1), then probing stops.
    dad_fault_threshold: failures in a row that are reported as a fault of the link (UM-ADDR-10).
    dad_backoff, dad_backoff_max: pause after a fault, doubled each time up to the maximum.

    advertise_promotion: unsolicited advertisement to the routers when an address comes into use (RFC 9131, UM-ADDR-8).

    neighbors: entries of the neighbour cache.
    neighbors_incomplete: entries of it that may be unresolved at a time (RFC 6583).
    neighbor_queue: packets that wait for one neighbour's resolution; neighbor_queue_bytes: their bytes together.

    default_routers, prefixes, routes, rdnss: entries of the lists learnt from Router Advertisements.

    paths: destinations remembered beyond those that connections hold.
    path_mtus: destinations with a smaller path MTU; path_mtu_lifetime: how long one is believed (RFC 8201 §4).

    fragments_bytes: memory for fragments of incomplete packets; reassemblies: incomplete packets;
    fragments_per_packet: pieces of one packet; reassemblies_per_source: incomplete packets of one source.
    extension_headers: headers of one packet between the fixed one and the upper layer; by default as many as a packet
    can hold, as kernels take them: one costs less than a small packet of its own;
    options: options in all of them; in one header 8 at most (RFC 8504 §5.3).

    icmp_error_rate, icmp_error_burst: token bucket for ICMPv6 errors, per second and at once (RFC 4443 §2.4 (f)).
    echo_rate, echo_burst: the same for echo replies.
    notice_rate, notice_burst: the same for events that a neighbour can cause at will.

    mld_robustness: transmissions of each change of group membership (RFC 3810 §9.1).
    mld_report_interval: upper bound of the random time between them (RFC 3810 §9.11).
    """

    hop_limit: int = 64
    stable_addresses: bool = True
    solicit_routers: bool = True

    dad_transmits: int = 1
    dad_initial_delay: float = MAX_RTR_SOLICITATION_DELAY
    dad_pace: float = 0.02
    dad_concurrent: int = 64
    dad_loopback_rounds: int = 2
    dad_fault_threshold: int = 3
    dad_backoff: float = 60.0
    dad_backoff_max: float = 3600.0

    advertise_promotion: bool = True

    neighbors: int = 1024
    neighbors_incomplete: int = 128
    neighbor_queue: int = 32
    neighbor_queue_bytes: int = 256 * 1024

    default_routers: int = 16
    prefixes: int = 32
    routes: int = 64
    rdnss: int = 8

    paths: int = 1024
    path_mtus: int = 4096
    path_mtu_lifetime: float = 600.0

    fragments_bytes: int = 1 << 20
    reassemblies: int = 64
    reassemblies_per_source: int = 16
    fragments_per_packet: int = 64
    extension_headers: int = 8192
    options: int = 8192

    icmp_error_rate: float = 100.0
    icmp_error_burst: int = 50
    echo_rate: float = 1000.0
    echo_burst: int = 200
    notice_rate: float = 1.0
    notice_burst: int = 20

    mld_robustness: int = 2
    mld_report_interval: float = 1.0
