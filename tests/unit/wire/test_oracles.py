"""The codecs against dissectors that share no code with them: scapy and dpkt.

scapy is told the meaning of a value, field by field in its own names, and builds the packet: it must be ours, byte
for byte, checksum included.  With the round trips of test_codecs.py this checks the parsers too.  dpkt is given our
packets to read.
"""

from __future__ import annotations

import functools
import operator
from typing import Any

import dpkt
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers import inet6
from scapy.layers.inet import UDP
from scapy.layers.l2 import Ether

from tapstack.types import address_text
from tapstack.wire import ethernet, icmpv6, ipv6, mld, nd, udp
from tests.unit.wire import strategies as some


def joined(layers: list[Any]) -> Any:
    """scapy layers one inside the other."""
    return functools.reduce(operator.truediv, layers)


def texts(addresses: tuple[bytes, ...]) -> list[str]:
    return [address_text(packed) for packed in addresses]


# -- scapy: Neighbor Discovery -------------------------------------------------------------------

PREFERENCE_BITS = {nd.Preference.MEDIUM: 0, nd.Preference.HIGH: 1, nd.Preference.LOW: 3}


def scapy_option(option: nd.NdOption) -> Any:
    match option:
        case nd.SourceLinkLayer(address):
            return inet6.ICMPv6NDOptSrcLLAddr(lladdr=address.hex(":"))
        case nd.TargetLinkLayer(address):
            return inet6.ICMPv6NDOptDstLLAddr(lladdr=address.hex(":"))
        case nd.PrefixInformation(prefix, length, on_link, autonomous, valid, preferred, delegation):
            return inet6.ICMPv6NDOptPrefixInfo(
                prefixlen=length,
                L=on_link,
                A=autonomous,
                res1=0x10 * delegation,
                validlifetime=valid,
                preferredlifetime=preferred,
                prefix=address_text(prefix),
            )
        case nd.RedirectedHeader(packet):
            return inet6.ICMPv6NDOptRedirectedHdr(pkt=packet)
        case nd.Mtu(mtu):
            return inet6.ICMPv6NDOptMTU(mtu=mtu)
        case nd.Nonce(value):
            return inet6.ICMPv6NDOptUnknown(type=14, data=value)
        case nd.RouteInformation(prefix, length, preference, lifetime):
            return inet6.ICMPv6NDOptRouteInfo(
                len=1 if not length else 2 if length <= 64 else 3,
                plen=length,
                prf=PREFERENCE_BITS[preference],
                rtlifetime=lifetime,
                prefix=address_text(prefix),
            )
        case nd.Rdnss(lifetime, servers):
            return inet6.ICMPv6NDOptRDNSS(lifetime=lifetime, dns=texts(servers))
        case nd.Dnssl(lifetime, names):
            return inet6.ICMPv6NDOptDNSSL(lifetime=lifetime, searchlist=[name + "." for name in names])
        case nd.Pref64(prefix, length, lifetime):
            return inet6.ICMPv6NDOptPREF64(
                scaledlifetime=lifetime // 8, plc=(96, 64, 56, 48, 40, 32).index(length), prefix=address_text(prefix)
            )
        case nd.RawOption(kind, data):
            return inet6.ICMPv6NDOptUnknown(type=kind, data=data)
    raise AssertionError(option)


def scapy_nd(message: nd.Message) -> Any:
    match message:
        case nd.RouterSolicitation():
            head = inet6.ICMPv6ND_RS()
        case nd.RouterAdvertisement():
            head = inet6.ICMPv6ND_RA(
                chlim=message.hop_limit,
                M=message.managed,
                O=message.other,
                prf=PREFERENCE_BITS[message.preference],
                routerlifetime=message.router_lifetime,
                reachabletime=message.reachable_time,
                retranstimer=message.retrans_timer,
            )
        case nd.NeighborSolicitation():
            head = inet6.ICMPv6ND_NS(tgt=address_text(message.target))
        case nd.NeighborAdvertisement():
            head = inet6.ICMPv6ND_NA(
                R=message.router, S=message.solicited, O=message.override, tgt=address_text(message.target)
            )
        case nd.Redirect():
            head = inet6.ICMPv6ND_Redirect(tgt=address_text(message.target), dst=address_text(message.destination))
    return joined([head, *(scapy_option(option) for option in message.options)])


def scapy_packet(src: bytes, dst: bytes, upper: Any, **fields: int) -> bytes:
    return bytes(inet6.IPv6(src=address_text(src), dst=address_text(dst), **fields) / upper)


def our_packet(src: bytes, dst: bytes, message: nd.Message | mld.Message, hop_limit: int) -> bytes:
    upper = icmpv6.pack(src, dst, message.TYPE, 0, message.pack())
    if hop_limit == mld.HOP_LIMIT:
        upper = mld.ROUTER_ALERT_HEADER + upper
        return ipv6.pack_header(src, dst, ipv6.HOP_BY_HOP, len(upper), hop_limit) + upper
    return ipv6.pack_header(src, dst, ipv6.ICMPV6, len(upper), hop_limit) + upper


nd_message = st.one_of(
    some.router_solicitation,
    some.router_advertisement,
    some.neighbor_solicitation,
    some.neighbor_advertisement,
    some.redirect,
)


@given(some.address, some.address, nd_message)
def test_scapy_builds_the_same_neighbor_discovery(src: bytes, dst: bytes, message: nd.Message) -> None:
    assert scapy_packet(src, dst, scapy_nd(message), hlim=255) == our_packet(src, dst, message, 255)


# -- scapy: MLD ----------------------------------------------------------------------------------


def scapy_mld(message: mld.Message) -> Any:
    match message:
        case mld.Query(version=1):
            return inet6.ICMPv6MLQuery(mrd=message.response_code, mladdr=address_text(message.group))
        case mld.Query():
            return inet6.ICMPv6MLQuery2(
                mrd=message.response_code,
                mladdr=address_text(message.group),
                S=message.suppress,
                QRV=message.robustness,
                QQIC=message.interval_code,
                sources=texts(message.sources),
                sources_number=len(message.sources),
            )
        case mld.ReportV2():
            records = [
                inet6.ICMPv6MLDMultAddrRec(
                    rtype=record.type,
                    dst=address_text(record.group),
                    sources=texts(record.sources),
                )
                for record in message.records
            ]
            return inet6.ICMPv6MLReport2(records=records, records_number=len(records))
        case mld.ReportV1():
            return inet6.ICMPv6MLReport(mladdr=address_text(message.group))
        case mld.DoneV1():
            return inet6.ICMPv6MLDone(mladdr=address_text(message.group))


mld_message = st.one_of(some.query_v1, some.query_v2, some.report_v2, some.report_v1, some.done_v1)


@given(some.address, some.address, mld_message)
def test_scapy_builds_the_same_mld(src: bytes, dst: bytes, message: mld.Message) -> None:
    alert = inet6.IPv6ExtHdrHopByHop(options=[inet6.RouterAlert(value=0)])
    assert scapy_packet(src, dst, alert / scapy_mld(message), hlim=1) == our_packet(src, dst, message, 1)


# -- scapy: IPv6, ICMPv6 errors, UDP -------------------------------------------------------------


@given(some.ipv6_header)
def test_scapy_builds_the_same_ipv6_header(header: ipv6.Ipv6Header) -> None:
    packet = inet6.IPv6(
        tc=header.traffic_class,
        fl=header.flow_label,
        plen=header.payload_length,
        nh=header.next_header,
        hlim=header.hop_limit,
        src=address_text(header.src),
        dst=address_text(header.dst),
    )
    assert bytes(packet) == header.pack()


@given(some.byte, some.options.filter(lambda options: all(o.type not in ipv6.ALIGNMENT for o in options)))
def test_scapy_builds_the_same_destination_options(next_header: int, options: tuple[ipv6.Option, ...]) -> None:
    unknown = [inet6.HBHOptUnknown(otype=option.type, optdata=option.data) for option in options]
    theirs = bytes(inet6.IPv6ExtHdrDestOpt(nh=next_header, options=unknown))
    assert theirs == ipv6.DestinationOptions(next_header, options).pack()


@given(some.fragment)
def test_scapy_builds_the_same_fragment_header(fragment: ipv6.Fragment) -> None:
    theirs = inet6.IPv6ExtHdrFragment(
        nh=fragment.next_header, offset=fragment.offset // 8, m=fragment.more, id=fragment.identification
    )
    assert bytes(theirs) == fragment.pack()


@given(some.byte, some.byte, some.addresses)
def test_scapy_builds_the_same_routing_header(next_header: int, left: int, addresses: tuple[bytes, ...]) -> None:
    theirs = bytes(inet6.IPv6ExtHdrRouting(nh=next_header, type=0, segleft=left, addresses=texts(addresses)))
    assert theirs == ipv6.Routing(next_header, 0, left, bytes(4) + b"".join(addresses)).pack()


@given(some.address, some.address, some.word, some.word, st.binary(max_size=60))
def test_scapy_builds_the_same_datagram(src: bytes, dst: bytes, sport: int, dport: int, payload: bytes) -> None:
    theirs = scapy_packet(src, dst, UDP(sport=sport, dport=dport) / payload)
    assert theirs[40:] == udp.pack(src, dst, sport, dport, payload) + payload


@given(some.address, some.address, st.sampled_from([1, 2, 3, 4]), st.integers(0, 6), some.long)
def test_scapy_builds_the_same_error(src: bytes, dst: bytes, kind: int, code: int, info: int) -> None:
    packet = ipv6.pack_header(dst, src, ipv6.NO_NEXT, 20) + bytes(20)
    if kind in (1, 3):
        info = 0
    head = {
        1: inet6.ICMPv6DestUnreach(code=code),
        2: inet6.ICMPv6PacketTooBig(code=code, mtu=info),
        3: inet6.ICMPv6TimeExceeded(code=code),
        4: inet6.ICMPv6ParamProblem(code=code, ptr=info),
    }[kind]
    theirs = scapy_packet(src, dst, head / packet)
    assert theirs[40:] == icmpv6.pack_error(src, dst, kind, code, info, packet)


@given(some.address, some.address, some.echo)
def test_scapy_builds_the_same_echo(src: bytes, dst: bytes, echo: icmpv6.Echo) -> None:
    theirs = scapy_packet(
        src, dst, inet6.ICMPv6EchoRequest(id=echo.identifier, seq=echo.sequence, data=echo.data), hlim=64
    )
    assert theirs[40:] == icmpv6.pack(src, dst, icmpv6.Type.ECHO_REQUEST, 0, echo.pack())


@given(some.address, some.mac)
def test_scapy_finds_the_same_multicast_address(group: bytes, mac: bytes) -> None:
    group = b"\xff" + group[1:]
    theirs = bytes(Ether(src=mac.hex(":"), dst=inet6.in6_getnsmac(group)) / inet6.IPv6(dst=address_text(group)))
    assert theirs[:14] == ethernet.header(ethernet.multicast_mac(group), mac)


# -- dpkt ----------------------------------------------------------------------------------------


@given(some.ethernet_header, some.ipv6_header, some.hop_by_hop, some.fragment, some.word, some.word, st.binary())
def test_dpkt_reads_a_frame_with_extension_headers(
    link: ethernet.EthernetHeader,
    network: ipv6.Ipv6Header,
    options: ipv6.HopByHop,
    fragment: ipv6.Fragment,
    sport: int,
    dport: int,
    payload: bytes,
) -> None:
    datagram = udp.pack(network.src, network.dst, sport, dport, payload) + payload
    fragment = ipv6.Fragment(ipv6.UDP, 0, fragment.more, fragment.identification)
    body = ipv6.HopByHop(ipv6.FRAGMENT, options.options).pack() + fragment.pack() + datagram
    head = ipv6.pack_header(
        network.src,
        network.dst,
        ipv6.HOP_BY_HOP,
        len(body),
        network.hop_limit,
        network.traffic_class,
        network.flow_label,
    )
    theirs = dpkt.ethernet.Ethernet(ethernet.header(link.dst, link.src) + head + body)
    assert (theirs.dst, theirs.src, theirs.type) == (link.dst, link.src, ethernet.IPV6)
    ip = theirs.data
    assert (ip.src, ip.dst, ip.hlim, ip.plen) == (network.src, network.dst, network.hop_limit, len(body))
    assert (ip.fc, ip.flow) == (network.traffic_class, network.flow_label)
    known = ip.extension_hdrs[ipv6.HOP_BY_HOP]
    assert known.length == len(ipv6.HopByHop(0, options.options).pack())
    assert [(option["type"], option["data"]) for option in known.options] == [
        (option.type, option.data) for option in options.options
    ]
    piece = ip.extension_hdrs[ipv6.FRAGMENT]
    assert (piece.frag_off, piece.m_flag, piece.id) == (0, fragment.more, fragment.identification)
    assert (ip.data.sport, ip.data.dport, ip.data.ulen, ip.data.data) == (sport, dport, 8 + len(payload), payload)


@given(some.address, some.address, st.sampled_from(list(icmpv6.UnreachableCode)))
def test_dpkt_reads_an_error(src: bytes, dst: bytes, code: icmpv6.UnreachableCode) -> None:
    quoted = ipv6.pack_header(dst, src, ipv6.UDP, 12) + udp.pack(dst, src, 1000, 2000, b"data") + b"data"
    upper = icmpv6.destination_unreachable(src, dst, code, quoted)
    ip = dpkt.ip6.IP6(ipv6.pack_header(src, dst, ipv6.ICMPV6, len(upper)) + upper)
    assert (ip.data.type, ip.data.code) == (1, code)
    inner = ip.data.data.data
    assert (inner.src, inner.dst, inner.data.sport, inner.data.dport) == (dst, src, 1000, 2000)


@given(some.address, some.address, mld_message)
def test_dpkt_agrees_with_the_checksum_of_icmpv6(src: bytes, dst: bytes, message: mld.Message) -> None:
    ip = dpkt.ip6.IP6(our_packet(src, dst, message, 255))
    ours = ip.data.sum
    ip.data.sum = 0
    assert bytes(ip)[42:44] == ours.to_bytes(2, "big")
