"""Default address selection (RFC 6724).

Pure functions over addresses; the host gives the candidates.  One-time addresses are never among them: for a
unified connection the rules choose the *prefix*, and the pool of that prefix gives the address (UM-DAS-7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cmp_to_key
from ipaddress import IPv6Network

from ..types import LOOPBACK, is_link_local, is_multicast


@dataclass(frozen=True, slots=True)
class Policy:
    """One row of the policy table (RFC 6724 §2.1)."""

    network: IPv6Network
    precedence: int
    label: int

    def covers(self, address: bytes) -> bool:
        """Whether the row applies to an address."""
        shift = 128 - self.network.prefixlen
        return int.from_bytes(address, "big") >> shift == int(self.network.network_address) >> shift


DEFAULT_POLICY: tuple[Policy, ...] = tuple(
    sorted(
        (
            Policy(IPv6Network("::1/128"), 50, 0),
            Policy(IPv6Network("::/0"), 40, 1),
            Policy(IPv6Network("::ffff:0:0/96"), 35, 4),
            Policy(IPv6Network("2002::/16"), 30, 2),
            Policy(IPv6Network("2001::/32"), 5, 5),
            Policy(IPv6Network("fc00::/7"), 3, 13),
            Policy(IPv6Network("::/96"), 1, 3),
            Policy(IPv6Network("fec0::/10"), 1, 11),
            Policy(IPv6Network("3ffe::/16"), 1, 12),
        ),
        key=lambda policy: -policy.network.prefixlen,
    )
)
"""The default policy table, longest prefix first."""

LINK_LOCAL_SCOPE = 0x2
SITE_LOCAL_SCOPE = 0x5
GLOBAL_SCOPE = 0xE


def policy_of(address: bytes) -> Policy:
    """The row of the longest matching prefix."""
    return next(policy for policy in DEFAULT_POLICY if policy.covers(address))


def scope_of(address: bytes) -> int:
    """The scope of an address in the numbers of multicast scopes (RFC 6724 §3.1)."""
    if is_multicast(address):
        return address[1] & 0x0F
    if is_link_local(address) or address == LOOPBACK:
        return LINK_LOCAL_SCOPE
    if address[0] == 0xFE and address[1] & 0xC0 == 0xC0:
        return SITE_LOCAL_SCOPE
    return GLOBAL_SCOPE


def common_prefix_length(source: bytes, destination: bytes, prefix_length: int = 64) -> int:
    """How many leading bits are equal, not more than the length of the source's prefix (RFC 6724 §2.2)."""
    difference = int.from_bytes(source, "big") ^ int.from_bytes(destination, "big")
    return min(128 - difference.bit_length(), prefix_length)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible source address."""

    address: bytes
    deprecated: bool = False
    prefix_length: int = 64
    temporary: bool = False


def choose_source(candidates: Iterable[Candidate], destination: bytes) -> Candidate | None:
    """The best source for a destination (RFC 6724 §5); of equals the first.

    Rules 4 (home addresses), 5 and 5.5 (interfaces and next hops) compare nothing on a node with one interface.
    """
    best: Candidate | None = None
    for candidate in candidates:
        if best is None or _prefers(candidate, best, destination):
            best = candidate
    return best


def _prefers(one: Candidate, other: Candidate, destination: bytes) -> bool:
    """Whether `one` is the better source."""
    if one.address == destination or other.address == destination:  # rule 1
        return one.address == destination
    scope_one, scope_other, scope = scope_of(one.address), scope_of(other.address), scope_of(destination)
    if scope_one != scope_other:  # rule 2
        if scope_one < scope_other:
            return scope_one >= scope
        return scope_other < scope
    if one.deprecated != other.deprecated:  # rule 3
        return other.deprecated
    label = policy_of(destination).label
    matches_one, matches_other = policy_of(one.address).label == label, policy_of(other.address).label == label
    if matches_one != matches_other:  # rule 6
        return matches_one
    if one.temporary != other.temporary:  # rule 7
        return one.temporary
    length_one = common_prefix_length(one.address, destination, one.prefix_length)
    length_other = common_prefix_length(other.address, destination, other.prefix_length)
    return length_one > length_other  # rule 8


def sort_destinations(
    destinations: Iterable[bytes],
    source_for: Callable[[bytes], Candidate | None],
    reachable: Callable[[bytes], bool] = lambda destination: True,
) -> list[bytes]:
    """Destinations from best to worst (RFC 6724 §6); `source_for` gives the source that each would have."""
    rows = [(destination, source_for(destination)) for destination in destinations]

    def compare(one: tuple[bytes, Candidate | None], other: tuple[bytes, Candidate | None]) -> int:
        keys_one = _destination_keys(one[0], one[1], reachable(one[0]))
        keys_other = _destination_keys(other[0], other[1], reachable(other[0]))
        for value_one, value_other in zip(keys_one, keys_other, strict=True):
            if value_one != value_other:
                return -1 if value_one > value_other else 1
        if one[1] is not None and other[1] is not None:  # rule 9
            length_one = common_prefix_length(one[1].address, one[0], one[1].prefix_length)
            length_other = common_prefix_length(other[1].address, other[0], other[1].prefix_length)
            return length_other - length_one
        return 0

    return [destination for destination, _ in sorted(rows, key=cmp_to_key(compare))]


def _destination_keys(destination: bytes, source: Candidate | None, reachable: bool) -> tuple[int, ...]:
    """Rules 1, 2, 3, 5, 6 and 8 as numbers, the larger the better; 4 and 7 do not apply (no home address, no
    tunnel).
    """
    policy = policy_of(destination)
    usable = reachable and source is not None
    return (
        int(usable),
        int(source is not None and scope_of(source.address) == scope_of(destination)),
        int(source is not None and not source.deprecated),
        int(source is not None and policy_of(source.address).label == policy.label),
        policy.precedence,
        -scope_of(destination),
    )
