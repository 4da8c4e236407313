"""Hypothesis strategies for every value that the codecs know, and the table of codecs that general tests walk."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tapstack.types import Buffer
from tapstack.wire import ethernet, icmpv6, ipv6, mld, nd, udp

byte = st.integers(0, 0xFF)
word = st.integers(0, 0xFFFF)
long = st.integers(0, 0xFFFFFFFF)
address = st.binary(min_size=16, max_size=16)
mac = st.binary(min_size=6, max_size=6)


def units(first: int, unit: int = 8, most: int = 4) -> st.SearchStrategy[bytes]:
    """Bytes of length first, first + unit, …"""
    return st.integers(0, most).flatmap(lambda n: st.binary(min_size=first + unit * n, max_size=first + unit * n))


def masked(prefix: bytes, length: int) -> bytes:
    """The 16 bytes of `prefix` with zeros behind `length` bits, bit by bit."""
    bits = "".join(f"{value:08b}" for value in prefix)[:length].ljust(128, "0")
    return bytes(int(bits[at : at + 8], 2) for at in range(0, 128, 8))


ethernet_header = st.builds(ethernet.EthernetHeader, mac, mac, word)
ipv6_header = st.builds(ipv6.Ipv6Header, byte, st.integers(0, 0xFFFFF), word, byte, byte, address, address)
option = st.builds(ipv6.Option, st.integers(2, 255), st.binary(max_size=20))
options = st.lists(option, max_size=5).map(tuple)
hop_by_hop = st.builds(ipv6.HopByHop, byte, options)
destination_options = st.builds(ipv6.DestinationOptions, byte, options)
routing = st.builds(ipv6.Routing, byte, byte, byte, units(4))
fragment = st.builds(ipv6.Fragment, byte, st.integers(0, 8191).map(lambda n: n * 8), st.booleans(), long)

echo = st.builds(icmpv6.Echo, word, word, st.binary(max_size=40))
udp_header = st.builds(udp.UdpHeader, word, word, st.integers(8, 40), word)

prefix_information = st.builds(
    lambda prefix, length, *rest: nd.PrefixInformation(masked(prefix, length), length, *rest),
    address,
    st.integers(0, 128),
    st.booleans(),
    st.booleans(),
    long,
    long,
    st.booleans(),
)
route_information = st.builds(
    lambda prefix, length, preference, lifetime: nd.RouteInformation(
        masked(prefix, length), length, preference, lifetime
    ),
    address,
    st.integers(0, 128),
    st.sampled_from(nd.Preference),
    long,
)
pref64 = st.builds(
    lambda prefix, length, units: nd.Pref64(masked(prefix, length), length, units * 8),
    address,
    st.sampled_from(nd.Pref64.LENGTHS),
    st.integers(0, 8191),
)
label = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
name = st.lists(label, min_size=1, max_size=3).map(".".join)
nd_option: st.SearchStrategy[nd.NdOption] = st.one_of(
    st.builds(nd.SourceLinkLayer, mac),
    st.builds(nd.TargetLinkLayer, mac),
    prefix_information,
    st.builds(nd.RedirectedHeader, units(0)),
    st.builds(nd.Mtu, long),
    st.builds(nd.Nonce, units(6)),
    route_information,
    st.builds(nd.Rdnss, long, st.lists(address, min_size=1, max_size=4).map(tuple)),
    st.builds(nd.Dnssl, long, st.lists(name, min_size=1, max_size=3).map(tuple)),
    pref64,
    st.builds(nd.RawOption, byte.filter(lambda kind: kind not in nd.OPTIONS), units(6)),
)
nd_options = st.lists(nd_option, max_size=4).map(tuple)
router_solicitation = st.builds(nd.RouterSolicitation, nd_options)
router_advertisement = st.builds(
    nd.RouterAdvertisement,
    byte,
    st.booleans(),
    st.booleans(),
    st.sampled_from(nd.Preference),
    word,
    long,
    long,
    nd_options,
)
neighbor_solicitation = st.builds(nd.NeighborSolicitation, address, nd_options)
neighbor_advertisement = st.builds(
    nd.NeighborAdvertisement, address, st.booleans(), st.booleans(), st.booleans(), nd_options
)
redirect = st.builds(nd.Redirect, address, address, nd_options)

addresses = st.lists(address, max_size=4).map(tuple)
query_v1 = st.builds(mld.Query, word, address, st.just(1))
query_v2 = st.builds(mld.Query, word, address, st.just(2), st.booleans(), st.integers(0, 7), byte, addresses)
record = st.builds(mld.Record, byte, address, addresses)
report_v2 = st.builds(mld.ReportV2, st.lists(record, max_size=4).map(tuple))
report_v1 = st.builds(mld.ReportV1, address)
done_v1 = st.builds(mld.DoneV1, address)


def packed(value: Any) -> bytes:
    """The bytes of a value."""
    data: bytes = value.pack()
    return data


def datagram(header: udp.UdpHeader) -> bytes:
    """A UDP header and a payload as long as it says."""
    return header.pack() + bytes(header.length - 8)


class Codec(NamedTuple):
    """A parser, values that it must give back after `pack`, and how these become bytes."""

    parse: Callable[[Buffer], Any]
    values: st.SearchStrategy[Any]
    pack: Callable[[Any], bytes] = packed


CODECS: dict[str, Codec] = {
    "ethernet": Codec(ethernet.EthernetHeader.parse, ethernet_header),
    "ipv6": Codec(ipv6.Ipv6Header.parse, ipv6_header),
    "hop-by-hop": Codec(ipv6.HopByHop.parse, hop_by_hop),
    "destination-options": Codec(ipv6.DestinationOptions.parse, destination_options),
    "routing": Codec(ipv6.Routing.parse, routing),
    "fragment": Codec(ipv6.Fragment.parse, fragment),
    "echo": Codec(icmpv6.Echo.parse, echo),
    "udp": Codec(udp.parse, udp_header, datagram),
    "router-solicitation": Codec(nd.RouterSolicitation.parse, router_solicitation),
    "router-advertisement": Codec(nd.RouterAdvertisement.parse, router_advertisement),
    "neighbor-solicitation": Codec(nd.NeighborSolicitation.parse, neighbor_solicitation),
    "neighbor-advertisement": Codec(nd.NeighborAdvertisement.parse, neighbor_advertisement),
    "redirect": Codec(nd.Redirect.parse, redirect),
    "mld-query-v1": Codec(mld.Query.parse, query_v1),
    "mld-query-v2": Codec(mld.Query.parse, query_v2),
    "mld-report-v2": Codec(mld.ReportV2.parse, report_v2),
    "mld-report-v1": Codec(mld.ReportV1.parse, report_v1),
    "mld-done-v1": Codec(mld.DoneV1.parse, done_v1),
}
