"""IPv6 input: from a link frame to the upper layer (RFC 8200 §4, RFC 5095, RFC 7045, RFC 7112, RFC 2675).

```
 frame ─ virtio header ─ Ethernet ─ fixed header ─ destination ours? ─┬─ extension headers, in any order ─ upper layer
                                                                      └─ silence, counted
```
The address table is asked once, here, whether the destination takes traffic (UM-ADDR-4): what it does not admit gets
no answer of any kind, whatever its headers hold.  Then the headers are walked in the order in which they stand; each step
consumes at least eight bytes, the number of headers and options is bounded, and a packet is reassembled at most once.

Each fault has the action that its RFC names: a silent drop, or a Parameter Problem that points at the byte.
`_Discard` carries it out of the walk.
"""

from __future__ import annotations

from collections.abc import Callable

from ..events import Counters, DropReason
from ..types import ALL_NODES, LOOPBACK, UNSPECIFIED, Buffer, is_multicast
from ..wire import WireError, ethernet, icmpv6, ipv6, virtio
from .addresses import Answers
from .icmp import Icmp
from .interface import Interface
from .multicast import MulticastListener
from .packet import Packet, traffic_class
from .reassembly import Reassembler

_NOBODYS = (UNSPECIFIED, LOOPBACK)
_ETHERTYPE = ethernet.IPV6.to_bytes(2, "big")
_UPPER_MINIMUM = {ipv6.TCP: 20, ipv6.UDP: 8, ipv6.ICMPV6: 4}
"""Bytes of an upper-layer header that a first fragment must contain (RFC 7112 §3)."""
_RESERVED_SCOPES = (0x0, 0x1)
"""Multicast scopes that never come from a link (RFC 4291 §2.7)."""

_Code = icmpv6.ParameterProblemCode


class _Discard(Exception):
    """The packet goes no further; with a code a Parameter Problem points at the byte `pointer`."""

    def __init__(self, reason: DropReason, code: int | None = None, pointer: int = 0) -> None:
        self.reason = reason
        self.code = code
        self.pointer = pointer


class Receiver:
    """Takes frames and calls `upper` by next header."""

    def __init__(
        self,
        interface: Interface,
        multicast: MulticastListener,
        icmp: Icmp,
        reassembler: Reassembler,
        upper: dict[int, Callable[[Packet, float], None]],
    ) -> None:
        self._interface = interface
        self._counters: Counters = interface.counters
        self._groups = multicast.members
        self._icmp = icmp
        self._reassembler = reassembler
        self._upper = upper
        self._options_seen = 0

    # -- link ------------------------------------------------------------------------------------

    def frame(self, frame: Buffer, now: float) -> None:
        """One frame of the link, whatever its bytes are."""
        at = 0
        trusted, gso_size, link_group = False, 0, False
        if self._interface.properties.vnet_header:
            if len(frame) < virtio.HEADER_LENGTH:
                self._counters.drop(DropReason.LINK_MALFORMED)
                return
            if frame[0] or frame[1]:  # else it says nothing
                trusted, gso_size = virtio.read(frame)
            at = virtio.HEADER_LENGTH
        mac = self._interface.mac
        if mac is not None:
            if len(frame) < at + ethernet.HEADER_LENGTH:
                self._counters.drop(DropReason.LINK_MALFORMED)
                return
            if frame[at + 12 : at + 14] != _ETHERTYPE:
                self._counters.drop(DropReason.LINK_ETHERTYPE)
                return
            link_group = frame[at] & 1 != 0
            if not link_group and frame[at : at + 6] != mac:
                self._counters.drop(DropReason.LINK_NOT_OURS)
                return
            at += ethernet.HEADER_LENGTH
        packet = self._header(frame, at)
        if packet is not None:
            packet.checksum_trusted = trusted
            packet.gso_size = gso_size
            packet.link_group = link_group
            self._process(packet, now)

    def own(self, whole: bytes, now: float) -> None:
        """A packet of this node to itself: it is treated as any other, but for its source."""
        packet = self._header(whole, 0)
        if packet is not None:
            packet.looped = True
            self._process(packet, now)

    # -- fixed header ------------------------------------------------------------------------------

    def _header(self, frame: Buffer, at: int) -> Packet | None:
        """The packet that begins at `at`, if its fixed header is sound and its destination ours; None when it was dropped.

        Most of what a busy link brings is for groups of others, so nothing is made before the destination is known to be ours.
        """
        end = at + ipv6.HEADER_LENGTH
        src, dst = bytes(frame[at + 8 : at + 24]), bytes(frame[at + 24 : end])
        group = dst[:1] == b"\xff"
        entry = None if group else self._interface.addresses.get(dst)
        if len(frame) < end:
            reason = DropReason.IP_TRUNCATED
        elif frame[at] >> 4 != 6:
            reason = DropReason.IP_VERSION
        elif len(frame) < end + (length := frame[at + 4] << 8 | frame[at + 5]):
            reason = DropReason.IP_TRUNCATED
        elif src[0] == 0xFF or src == LOOPBACK:
            reason = DropReason.IP_BAD_SOURCE
        elif group and dst[1] & 0x0F in _RESERVED_SCOPES:
            reason = DropReason.IP_SCOPE
        elif (dst not in self._groups and dst != ALL_NODES) if group else (entry is None or dst in _NOBODYS):
            reason = DropReason.IP_NOT_OURS
        elif entry is not None and not entry.answers & Answers.TRAFFIC:
            reason = _silence(entry.answers)
        else:
            view = memoryview(frame)
            return Packet(src, dst, entry, view[at : end + length] if length else view[at:])
        self._counters.drop(reason)
        return None

    # -- the chain -----------------------------------------------------------------------------------

    def _process(self, packet: Packet, now: float) -> None:
        try:
            if self._walk(packet, now):
                self._deliver(packet, now)
        except _Discard as discard:
            self._counters.drop(discard.reason)
            if discard.code is not None:
                self._icmp.error(packet, icmpv6.Type.PARAMETER_PROBLEM, discard.code, discard.pointer, now)

    def _walk(self, packet: Packet, now: float) -> bool:
        """Step over the extension headers; False while the packet is not whole yet."""
        self._options_seen = 0
        if not (packet.whole[4] or packet.whole[5]):
            self._no_payload(packet)
        at = ipv6.HEADER_LENGTH
        for step in range(self._interface.config.extension_headers):
            kind = packet.next_header
            if kind == ipv6.HOP_BY_HOP and step:
                raise _Discard(DropReason.IP_EXTENSION, _Code.NEXT_HEADER, packet.next_header_at)
            if kind == ipv6.FRAGMENT:
                following = self._fragment(packet, at, now)
                if following is None:
                    return False
                at = following
                continue
            if kind not in (ipv6.HOP_BY_HOP, ipv6.DESTINATION, ipv6.ROUTING):
                packet.payload = packet.whole[at:]
                return True
            length = self._length(packet, at)
            if kind == ipv6.ROUTING:
                # No type is known here: with no segments left the header is skipped (RFC 8200 §4.4, RFC 5095 §3).
                if packet.whole[at + 3]:
                    raise _Discard(DropReason.IP_EXTENSION, _Code.HEADER_FIELD, at + 2)
            else:
                self._options(packet, at, length)
            packet.next_header, packet.next_header_at = packet.whole[at], at
            at += length
        raise _Discard(DropReason.IP_EXTENSION)

    def _length(self, packet: Packet, at: int) -> int:
        try:
            return ipv6.extension_length(packet.next_header, packet.whole[at:])
        except WireError:
            raise _Discard(DropReason.IP_EXTENSION) from None

    def _no_payload(self, packet: Packet) -> None:
        """Payload length zero: a jumbogram, which this node does not take, an error, or a packet that ends there
        (RFC 2675 §3).
        """
        view = packet.whole
        if view[6] != ipv6.HOP_BY_HOP:
            packet.whole = view[: ipv6.HEADER_LENGTH]
            return
        try:
            options = ipv6.HopByHop.parse(view[ipv6.HEADER_LENGTH :]).options
        except WireError:
            raise _Discard(DropReason.IP_TRUNCATED) from None
        for option in options:
            if option.type == ipv6.OptionType.JUMBO_PAYLOAD:
                raise _refused(packet, option, ipv6.HEADER_LENGTH)
        raise _Discard(DropReason.IP_MALFORMED, _Code.HEADER_FIELD, 4)

    def _options(self, packet: Packet, at: int, length: int) -> None:
        """Hop-by-Hop or Destination Options: act on what is not known, in order (RFC 8200 §4.2)."""
        try:
            options = ipv6.parse_options(packet.whole[at + 2 : at + length])
        except WireError:
            raise _Discard(DropReason.IP_OPTION) from None
        self._options_seen += len(options)
        if self._options_seen > self._interface.config.options:
            raise _Discard(DropReason.IP_OPTION)
        hop_by_hop = packet.next_header == ipv6.HOP_BY_HOP
        for option in options:
            if option.type == ipv6.OptionType.ROUTER_ALERT and hop_by_hop:
                packet.router_alert = True
                continue
            if option.unknown_action is not ipv6.UnknownAction.SKIP:
                raise _refused(packet, option, at)

    def _fragment(self, packet: Packet, at: int, now: float) -> int | None:
        """A Fragment header: where the walk goes on in the whole packet; None while pieces are missing."""
        if packet.fragmented:
            raise _Discard(DropReason.IP_FRAGMENT_BAD)  # a packet is fragmented once (RFC 8200 §4.5)
        self._length(packet, at)
        fragment = ipv6.Fragment.parse(packet.whole[at:])
        packet.fragmented = True
        if fragment.atomic:  # a packet by itself (RFC 6946 §4)
            packet.next_header, packet.next_header_at = fragment.next_header, at
            return at + fragment.length
        if fragment.offset == 0:
            self._check_first(packet, at)
        packet.checksum_trusted = False
        packet.gso_size = 0
        whole = self._reassembler.add(packet, fragment, at, now)
        if whole is None:
            return None
        packet.whole = whole.packet
        packet.hop_limit = whole.packet[7]
        packet.traffic_class = traffic_class(whole.packet)
        packet.next_header, packet.next_header_at = whole.packet[whole.named_at], whole.named_at
        return whole.offset

    @staticmethod
    def _check_first(packet: Packet, at: int) -> None:
        """A first fragment holds the whole header chain, the upper-layer header included (RFC 7112 §5)."""
        try:
            upper = ipv6.find_upper_layer(packet.whole)
            complete = len(packet.whole) - upper.offset >= _UPPER_MINIMUM.get(upper.next_header, 0)
        except WireError:
            complete = False
        if not complete:
            raise _Discard(DropReason.IP_FRAGMENT_BAD, _Code.FIRST_FRAGMENT, 0)

    # -- up ----------------------------------------------------------------------------------------

    def _deliver(self, packet: Packet, now: float) -> None:
        if packet.next_header == ipv6.ICMPV6:
            self._icmp.input(packet, now)
            return
        if packet.next_header == ipv6.NO_NEXT:
            self._counters.drop(DropReason.IP_NEXT_HEADER)
            return
        if packet.src == UNSPECIFIED or (packet.src in self._interface.addresses and not packet.looped):
            self._counters.drop(DropReason.IP_BAD_SOURCE)
            return
        handler = self._upper.get(packet.next_header)
        if handler is None:
            raise _Discard(DropReason.IP_NEXT_HEADER, _Code.NEXT_HEADER, packet.next_header_at)
        handler(packet, now)


def _refused(packet: Packet, option: ipv6.Option, at: int) -> _Discard:
    """What ends the walk at an option that is not known, of the header at `at`: its action says whether the sender hears of
    it, and whether also where the packet was for a group (RFC 8200 §4.2).
    """
    action = option.unknown_action
    report = action is ipv6.UnknownAction.DISCARD_AND_REPORT or (
        action is ipv6.UnknownAction.DISCARD_AND_REPORT_UNICAST and not is_multicast(packet.dst)
    )
    return _Discard(DropReason.IP_OPTION, _Code.OPTION if report else None, at + option.offset)


def _silence(answers: int) -> DropReason:
    """Why an address of ours takes no traffic."""
    return DropReason.ADDRESS_UNCERTAIN if answers & Answers.DAD else DropReason.ADDRESS_TENTATIVE
