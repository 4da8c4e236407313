"""From captured bytes to compact records: what the rules read.

A TCP segment is one flat `Frame`; ICMPv6 messages that matter (neighbour discovery, multicast listener reports,
errors with what they quote) hang on `Frame.message`.  The common path (Ethernet, IPv6, TCP without extension
headers) is decoded by fixed offsets because a capture may hold hundreds of thousands of them; everything else goes
through dpkt's IPv6 dissector.  No code is shared with the stack that is judged.

A checksum is right when the ones' complement sum of pseudo header and packet is zero modulo 65535 (RFC 1071); the
sum of 16-bit words modulo 65535 equals the whole number modulo 65535, so one big division does it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv6Address
from typing import NamedTuple

import dpkt

from .pcapng import ETHERNET, IPV6_ONLY, RAW_IP, Fault, Interface, RawFrame

FIN, SYN, RST, ACK = 1, 2, 4, 16
UNSPECIFIED = bytes(16)
ALL_NODES = IPv6Address("ff02::1").packed
ALL_ROUTERS = IPv6Address("ff02::2").packed
_SOLICITED = IPv6Address("ff02::1:ff00:0").packed[:13]
_TCP = struct.Struct(">HHIIHHHH")
_EXTENSIONS = frozenset((0, 43, 44, 51, 60, 135, 139, 140))


class Kind(IntEnum):
    """What a frame carries."""

    OTHER = 0
    TCP = 1
    UDP = 2
    SOLICITATION = 3
    ADVERTISEMENT = 4
    ROUTER_SOLICITATION = 5
    ROUTER_ADVERTISEMENT = 6
    REDIRECT = 7
    LISTENER = 8
    QUERY = 9
    ECHO_REQUEST = 10
    ECHO_REPLY = 11
    ERROR = 12
    ICMP_OTHER = 13
    FRAGMENT = 14


DISCOVERY = frozenset(
    (Kind.SOLICITATION, Kind.ADVERTISEMENT, Kind.ROUTER_SOLICITATION, Kind.ROUTER_ADVERTISEMENT, Kind.REDIRECT)
)


class Checksum(IntEnum):
    """What the capture says of an upper-layer checksum."""

    NONE = 0
    GOOD = 1
    BAD = 2
    CUT = 3
    """the snapshot length cut the frame: not checkable"""


class Solicitation(NamedTuple):
    """A Neighbor Solicitation (RFC 4861 §4.3)."""

    target: bytes
    nonce: bytes
    link_layer: bytes


class Advertisement(NamedTuple):
    """A Neighbor Advertisement (RFC 4861 §4.4)."""

    target: bytes
    router: bool
    solicited: bool
    override: bool
    link_layer: bytes


class Record(NamedTuple):
    """One multicast address record; MLDv1 messages are turned into the MLDv2 type that means the same."""

    type: int
    group: bytes
    sources: int


IS_INCLUDE, IS_EXCLUDE, TO_INCLUDE, TO_EXCLUDE, ALLOW, BLOCK = range(1, 7)


class ListenerReport(NamedTuple):
    """An MLD report or done message."""

    version: int
    records: tuple[Record, ...]


class Quote(NamedTuple):
    """An ICMPv6 error and the packet it quotes."""

    type: int
    code: int
    src: bytes
    dst: bytes
    next_header: int
    sport: int
    dport: int
    seq: int


class Echo(NamedTuple):
    """Identifier and sequence number of an echo message."""

    identifier: int
    sequence: int


@dataclass(slots=True, eq=False)
class Frame:
    """One frame of a capture.  `order` is its place in the merged sequence of all captures of one point."""

    time: float
    """Unix time in seconds"""
    where: str
    file: str
    number: int
    """the frame number that tshark shows"""
    eth_src: bytes
    eth_dst: bytes
    src: bytes = UNSPECIFIED
    dst: bytes = UNSPECIFIED
    hop_limit: int = 0
    length: int = 0
    """bytes of the IPv6 packet on the wire"""
    kind: Kind = Kind.OTHER
    checksum: Checksum = Checksum.NONE
    sport: int = 0
    dport: int = 0
    flags: int = 0
    seq: int = 0
    ack: int = 0
    payload: int = 0
    """bytes of TCP or UDP payload on the wire"""
    message: Solicitation | Advertisement | ListenerReport | Quote | Echo | None = None
    cut: bool = False
    order: int = 0
    offset: int = 0
    """nanoseconds since the epoch, exactly"""


def text(address: bytes) -> str:
    """The RFC 5952 text of an address."""
    return str(IPv6Address(address))


def solicited_node(address: bytes) -> bytes:
    """The solicited-node group of an address (RFC 4291 §2.7.1)."""
    return _SOLICITED + address[13:]


def flags_text(flags: int) -> str:
    """TCP flags by name.

    >>> flags_text(0x12)
    'SYN,ACK'
    """
    names = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
    return ",".join(name for bit, name in enumerate(names) if flags >> bit & 1) or "none"


class Decoder:
    """Decodes the frames of one capture file; unreadable ones become `faults`."""

    def __init__(self, where: str, file: str, interfaces: list[Interface]) -> None:
        self.where = where
        self.file = file
        self.interfaces = interfaces
        self.faults: list[Fault] = []

    def decode(self, raw: RawFrame) -> Frame:
        """The record of one frame.  Never raises: what cannot be read is a `Fault` and a frame of kind OTHER."""
        data = raw.data
        link_type = self.interfaces[raw.interface].link_type
        time = raw.nanoseconds / 1e9
        if link_type == ETHERNET:
            if len(data) < 14:
                self._fault(raw.number, "shorter than an Ethernet header", b"")
                return Frame(time, self.where, self.file, raw.number, b"", b"", offset=raw.nanoseconds)
            frame = Frame(time, self.where, self.file, raw.number, bytes(data[6:12]), bytes(data[:6]))
            is_ipv6, start = data[12] == 0x86 and data[13] == 0xDD, 14
        else:
            frame = Frame(time, self.where, self.file, raw.number, b"", b"")
            is_ipv6, start = link_type in (RAW_IP, IPV6_ONLY) and len(data) > 0 and data[0] >> 4 == 6, 0
            if link_type not in (RAW_IP, IPV6_ONLY):
                self._fault(raw.number, f"link type {link_type} is not known here", b"")
        frame.offset = raw.nanoseconds
        if is_ipv6:
            frame.cut = len(data) < raw.length
            try:
                self._ipv6(frame, data[start:], raw.length - start)
            # AttributeError: dpkt, of extension headers in an order that it does not expect
            except (struct.error, IndexError, ValueError, AttributeError, dpkt.UnpackError) as error:
                if not frame.cut:
                    self._fault(raw.number, f"malformed: {error or type(error).__name__}", frame.eth_src)
        return frame

    def _fault(self, number: int, reason: str, sender: bytes) -> None:
        self.faults.append(Fault(self.where, self.file, number, reason, sender))

    def _ipv6(self, frame: Frame, packet: memoryview, on_wire: int) -> None:
        if len(packet) < 40:
            raise ValueError("shorter than an IPv6 header")
        if packet[0] >> 4 != 6:
            raise ValueError("IP version is not 6")
        payload_length = packet[4] << 8 | packet[5]
        if payload_length == 0:  # segmentation offload leaves it 0 where the packet passes 64 KiB
            payload_length = on_wire - 40
        frame.length = 40 + payload_length
        frame.hop_limit = packet[7]
        frame.src = bytes(packet[8:24])
        frame.dst = bytes(packet[24:40])
        if payload_length > on_wire - 40:
            raise ValueError(f"IPv6 payload length {payload_length} in a frame with room for {on_wire - 40}")
        next_header, start, end = packet[6], 40, 40 + payload_length
        if next_header in _EXTENSIONS:
            next_header, start = self._extensions(frame, packet[:end])
            if frame.kind is Kind.FRAGMENT:
                return
        upper, length = packet[start:end], end - start
        if next_header in (6, 17, 58):
            frame.checksum = _checksum(frame, upper, length, next_header)
        if next_header == 6:
            _tcp(frame, upper, length)
        elif next_header == 17:
            _udp(frame, upper, length)
        elif next_header == 58:
            _icmpv6(frame, upper)

    @staticmethod
    def _extensions(frame: Frame, packet: memoryview) -> tuple[int, int]:
        parsed = dpkt.ip6.IP6(bytes(packet))
        headers = parsed.all_extension_headers
        for header in headers:
            if isinstance(header, dpkt.ip6.IP6FragmentHeader) and (header.frag_off or header.m_flag):
                frame.kind = Kind.FRAGMENT
        if not headers:
            raise ValueError("an extension header that does not parse")
        return int(headers[-1].nxt), 40 + sum(header.length for header in headers)


def _checksum(frame: Frame, upper: memoryview, length: int, next_header: int) -> Checksum:
    if len(upper) < length:
        return Checksum.CUT
    total = int.from_bytes(frame.src + frame.dst, "big") + length + next_header
    whole = int.from_bytes(upper, "big") << (8 if length & 1 else 0)
    if next_header == 17 and length >= 8 and not upper[6] and not upper[7]:
        return Checksum.BAD  # RFC 8200 §8.1: UDP over IPv6 has one
    return Checksum.GOOD if (total + whole) % 65535 == 0 else Checksum.BAD


def _tcp(frame: Frame, upper: memoryview, length: int) -> None:
    if length < 20:
        raise ValueError("shorter than a TCP header")
    frame.sport, frame.dport, frame.seq, frame.ack, bits, _, _, _ = _TCP.unpack_from(upper)
    header = (bits >> 12) * 4
    if not 20 <= header <= length:
        raise ValueError(f"TCP data offset {header} in {length} bytes")
    frame.flags = bits & 0xFF
    frame.payload = length - header
    frame.kind = Kind.TCP


def _udp(frame: Frame, upper: memoryview, length: int) -> None:
    if length < 8:
        raise ValueError("shorter than a UDP header")
    frame.sport, frame.dport = struct.unpack_from(">HH", upper)
    frame.payload = length - 8
    frame.kind = Kind.UDP


def _icmpv6(frame: Frame, upper: memoryview) -> None:
    kind, code = upper[0], upper[1]
    body = bytes(upper[4:])
    if kind < 128:
        frame.kind, frame.message = Kind.ERROR, _quote(kind, code, body)
    elif kind in (128, 129):
        frame.kind = Kind.ECHO_REQUEST if kind == 128 else Kind.ECHO_REPLY
        frame.message = Echo(*struct.unpack_from(">HH", body))
    elif kind == 130:
        frame.kind = Kind.QUERY
    elif kind in (131, 132, 143):
        frame.kind, frame.message = Kind.LISTENER, _listener(kind, body)
    elif kind == 135:
        options = _options(body[20:])
        frame.kind = Kind.SOLICITATION
        frame.message = Solicitation(_sixteen(body[4:20]), options.get(14, b""), options.get(1, b""))
    elif kind == 136:
        target, options = _sixteen(body[4:20]), _options(body[20:])
        first = body[0]
        frame.kind = Kind.ADVERTISEMENT
        frame.message = Advertisement(
            target, bool(first & 0x80), bool(first & 0x40), bool(first & 0x20), options.get(2, b"")
        )
    else:
        frame.kind = {133: Kind.ROUTER_SOLICITATION, 134: Kind.ROUTER_ADVERTISEMENT, 137: Kind.REDIRECT}.get(
            kind, Kind.ICMP_OTHER
        )


def _sixteen(data: bytes) -> bytes:
    if len(data) != 16:
        raise ValueError("an ND message without its target address")
    return data


def _options(data: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    at = 0
    while at + 2 <= len(data):
        length = data[at + 1] * 8
        if length == 0 or at + length > len(data):
            raise ValueError(f"ND option {data[at]} of length {length}")
        options.setdefault(data[at], data[at + 2 : at + length])
        at += length
    return options


def _quote(kind: int, code: int, body: bytes) -> Quote:
    packet = body[4:]
    if len(packet) < 40:
        return Quote(kind, code, UNSPECIFIED, UNSPECIFIED, 0, 0, 0, 0)
    next_header, upper = packet[6], packet[40:]
    sport = dport = seq = 0
    if next_header in (6, 17) and len(upper) >= 8:
        sport, dport, seq = struct.unpack_from(">HHI", upper)
    return Quote(kind, code, packet[8:24], packet[24:40], next_header, sport, dport, seq)


def _listener(kind: int, body: bytes) -> ListenerReport:
    if kind != 143:  # MLDv1: the group stands where MLDv2 has reserved bytes and the first record
        record = Record(IS_EXCLUDE if kind == 131 else TO_INCLUDE, _sixteen(body[4:20]), 0)
        return ListenerReport(1, (record,))
    (count,) = struct.unpack_from(">H", body, 2)
    records, at = [], 4
    for _ in range(count):
        record_type, auxiliary, sources = struct.unpack_from(">BBH", body, at)
        group = _sixteen(body[at + 4 : at + 20])
        records.append(Record(record_type, group, sources))
        at += 20 + 16 * sources + 4 * auxiliary
        if at > len(body):
            raise ValueError("a multicast address record that runs past its report")
    return ListenerReport(2, tuple(records))
