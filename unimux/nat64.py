"""IPv4 destinations through a NAT64 gateway: addresses that carry an IPv4 one (RFC 6052), the prefix found (RFC 7050)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, IPv6Network

from .endpoint import parse_prefix
from .errors import WrongUsage

LENGTHS = (96, 64, 56, 48, 40, 32)
"""Prefix lengths that RFC 6052 §2.2 knows, in the order in which a prefix is looked for."""
WELL_KNOWN = IPv6Network("64:ff9b::/96")
DISCOVERY_NAME = "ipv4only.arpa"
DISCOVERY_ADDRESSES = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))
_RESERVED_OCTET = 8


def nat64_prefix(text: str) -> IPv6Network:
    """A prefix given as text; raises `WrongUsage` for one that cannot carry IPv4 addresses."""
    try:
        prefix = parse_prefix(text)
    except ValueError as error:
        raise WrongUsage(f"{text!r} is not an IPv6 prefix: {error}.") from None
    if prefix.prefixlen not in LENGTHS:
        raise WrongUsage(f"A NAT64 prefix has one of the lengths {', '.join(map(str, sorted(LENGTHS)))}, not {prefix}.")
    if prefix.network_address.packed[_RESERVED_OCTET]:
        raise WrongUsage(f"Bits 64 to 71 of a NAT64 prefix are zero (RFC 6052 §2.2), those of {prefix} are not.")
    return prefix


def embed(prefix: IPv6Network, ipv4: IPv4Address) -> IPv6Address:
    """The address that stands for `ipv4` behind a gateway (RFC 6052 §2.2; the examples are those of §2.4).

    >>> for length in (32, 40, 48, 56, 64, 96):
    ...     prefix = IPv6Network(f"2001:db8:122:344::/{length}", strict=False)
    ...     print(embed(prefix, IPv4Address("192.0.2.33")))
    2001:db8:c000:221::
    2001:db8:1c0:2:21::
    2001:db8:122:c000:2:2100::
    2001:db8:122:3c0:0:221::
    2001:db8:122:344:c0:2:2100:0
    2001:db8:122:344::c000:221
    """
    octets = bytearray(prefix.network_address.packed)
    for place, octet in zip(_places(prefix.prefixlen), ipv4.packed, strict=True):
        octets[place] = octet
    return IPv6Address(bytes(octets))


def extract(address: IPv6Address, length: int) -> IPv4Address:
    """The IPv4 address within `address`, behind a prefix of `length` bits."""
    return IPv4Address(bytes(address.packed[place] for place in _places(length)))


def _places(length: int) -> list[int]:
    """Where the four octets are: behind the prefix, around bits 64 to 71, which stay zero."""
    start = length // 8
    return [place for place in range(start, start + 5) if place != _RESERVED_OCTET][:4]


def discovered(answers: Iterable[IPv6Address]) -> IPv6Network | None:
    """The prefix by which a DNS64 server made up the addresses of `DISCOVERY_NAME` (RFC 7050 §3); None where it did not.

    >>> discovered([IPv6Address("64:ff9b::c000:aa")]), discovered([IPv6Address("2001:db8::1")])
    (IPv6Network('64:ff9b::/96'), None)
    """
    for address in answers:
        for length in LENGTHS:
            if extract(address, length) in DISCOVERY_ADDRESSES:
                return IPv6Network((address.packed, length), strict=False)
    return None


def reaches(prefix: IPv6Network, ipv4: IPv4Address) -> bool:
    """Whether a gateway may translate to `ipv4`: the well-known prefix carries global addresses only (RFC 6052 §3.1)."""
    return prefix != WELL_KNOWN or ipv4.is_global
