"""ICMPv6: echo, errors out and errors in (RFC 4443).

Errors out obey the rules of RFC 4443 §2.4 (e) on when none is sent, a token bucket, and the silence of one-time
addresses: to a stranger neither an error nor an echo reply leaves on their behalf (UM-EA-1), nor on behalf of the
solicited-node group that only such addresses keep.

Errors in are handed to the protocol whose packet they quote, when the quoted source is an address of ours.  What they
claim is not believed here: a path MTU changes only after the protocol found the quoted packet to be in flight.  Of echo replies
nothing is kept to tell; so what their Packet Too Big says holds for echo replies alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..events import DropReason
from ..types import ALL_NODES, UNSPECIFIED, Frame, is_multicast
from ..wire import WireError, checksum, icmpv6, ipv6
from .addresses import Answers
from .interface import Interface
from .limiter import TokenBucket
from .packet import IcmpError, Packet
from .pmtu import PathMtus

MIN_QUOTE = 8
"""Bytes of the quoted upper layer that a protocol needs to know its packet again."""


class Send(Protocol):
    """`Host.send`."""

    def __call__(
        self, src: bytes, dst: bytes, next_header: int, pieces: Frame, now: float, *, at_most: int | None = None
    ) -> None: ...


class Icmp:
    """The ICMPv6 of one host.

    handlers: by type, for the messages of other rooms (ND, MLD); each may raise `WireError` for a malformed body.
    errors: by quoted next header, the protocols that hear of errors.
    is_ordinary(group): whether an address that is not one-time keeps the group; only such a group answers.
    on_echo_reply: hears replies to echo requests of ours (source, body).
    """

    def __init__(
        self,
        interface: Interface,
        send: Send,
        source_for: Callable[[bytes], bytes | None],
        is_ordinary: Callable[[bytes], bool],
    ) -> None:
        self._interface = interface
        self._send = send
        self._source_for = source_for
        self._is_ordinary = is_ordinary
        self._errors_out = TokenBucket(interface.config.icmp_error_rate, interface.config.icmp_error_burst)
        self._echoes = TokenBucket(interface.config.echo_rate, interface.config.echo_burst)
        self.handlers: dict[int, Callable[[Packet, icmpv6.Icmpv6, float], None]] = {
            icmpv6.Type.ECHO_REQUEST: self._echo_request,
            icmpv6.Type.ECHO_REPLY: self._echo_reply,
        }
        self.errors: dict[int, Callable[[IcmpError, float], None]] = {ipv6.ICMPV6: self._error_about_our_own}
        self.reply_mtus = PathMtus(interface, lambda dst, mtu: None)
        """Of echo replies, by whom they go to"""
        self.on_echo_reply: Callable[[Packet, icmpv6.Icmpv6, float], None] | None = None

    # -- in --------------------------------------------------------------------------------------

    def input(self, packet: Packet, now: float) -> None:
        """A packet with next header 58."""
        drop = self._interface.counters.drop
        if not checksum.valid(packet.src, packet.dst, ipv6.ICMPV6, packet.payload):
            drop(DropReason.CHECKSUM)
            return
        try:
            message = icmpv6.parse(packet.payload)
            handler = self.handlers.get(message.type)
            if handler is not None:
                handler(packet, message, now)
            elif message.is_error:
                self._error_in(packet, message, now)
            else:
                drop(DropReason.ICMP_UNKNOWN)
        except WireError:
            drop(DropReason.ICMP_MALFORMED)

    def _echo_request(self, packet: Packet, message: icmpv6.Icmpv6, now: float) -> None:
        """RFC 4443 §4.2; the reply to a multicast request comes from an ordinary address."""
        interface = self._interface
        if packet.src == UNSPECIFIED or (packet.src in interface.addresses and not packet.looped):
            interface.counters.drop(DropReason.IP_BAD_SOURCE)
            return
        src = self.speaker(packet)
        if src is None:
            interface.counters.drop(DropReason.ADDRESS_SILENT)
            return
        if not self._echoes.take(now):
            interface.counters.drop(DropReason.ICMP_RATE_LIMIT)
            return
        reply = icmpv6.pack(src, packet.src, icmpv6.Type.ECHO_REPLY, 0, message.body)
        self._send(src, packet.src, ipv6.ICMPV6, [reply], now, at_most=self.reply_mtus.get(packet.src))

    def _echo_reply(self, packet: Packet, message: icmpv6.Icmpv6, now: float) -> None:
        if self.on_echo_reply is None:
            self._interface.counters.drop(DropReason.ICMP_UNMATCHED)
        else:
            self.on_echo_reply(packet, message, now)

    def _error_in(self, packet: Packet, message: icmpv6.Icmpv6, now: float) -> None:
        """Find out whose packet an error quotes, and tell it (RFC 4443 §2.4 (a), (d))."""
        error = icmpv6.parse_error(message)
        quoted = error.quoted
        try:
            upper = ipv6.find_upper_layer(quoted)
        except WireError:
            self._interface.counters.drop(DropReason.ICMP_MALFORMED)
            return
        src, dst = bytes(quoted[8:24]), bytes(quoted[24:40])
        entry = self._interface.addresses.get(src)
        payload = quoted[upper.offset :]
        later_fragment = upper.fragment is not None and upper.fragment.offset
        handler = self.errors.get(upper.next_header)
        if entry is None or not entry.answers & Answers.TRAFFIC or later_fragment or handler is None:
            self._interface.counters.drop(DropReason.ICMP_UNMATCHED)
        elif len(payload) < MIN_QUOTE:
            self._interface.counters.drop(DropReason.ICMP_MALFORMED)
        else:
            handler(
                IcmpError(error.type, error.code, error.info, packet.src, src, dst, upper.next_header, payload), now
            )

    def _error_about_our_own(self, error: IcmpError, now: float) -> None:
        """About a message of this protocol: with echo replies Packet Too Big counts (RFC 8201 §4), the rest is nobody's."""
        reply = error.payload[0] == icmpv6.Type.ECHO_REPLY
        if error.type == icmpv6.Type.PACKET_TOO_BIG and reply and self.reply_mtus.learn(error.dst, error.info, now):
            return
        self._interface.counters.drop(DropReason.ICMP_UNMATCHED)

    def undeliverable(self, queued: bytes, code: int, now: float) -> None:
        """A packet of our own could not be sent; its protocol hears of it as if a router had said so (RFC 4861
        §7.2.2).
        """
        try:
            upper = ipv6.find_upper_layer(queued)
        except WireError:
            return
        handler = self.errors.get(upper.next_header)
        src, dst = queued[8:24], queued[24:40]
        payload = memoryview(queued)[upper.offset :]
        later_fragment = upper.fragment is not None and upper.fragment.offset
        if (
            handler is not None
            and not later_fragment
            and len(payload) >= MIN_QUOTE
            and src in self._interface.addresses
        ):
            kind = icmpv6.Type.DESTINATION_UNREACHABLE
            handler(IcmpError(kind, code, 0, src, src, dst, upper.next_header, payload), now)

    # -- out -------------------------------------------------------------------------------------

    def error(self, packet: Packet, type: int, code: int, info: int, now: float) -> None:
        """Send an error about a received packet, unless a rule forbids it; what is not sent is counted."""
        drop = self._interface.counters.drop
        if not self._may_answer(packet, type, code):
            return
        src = self.speaker(packet)
        if src is None:
            drop(DropReason.ADDRESS_SILENT)
            return
        if not self._errors_out.take(now):
            drop(DropReason.ICMP_RATE_LIMIT)
            return
        message = icmpv6.pack_error(src, packet.src, type, code, info, packet.whole)
        self._send(src, packet.src, ipv6.ICMPV6, [message], now)

    def _may_answer(self, packet: Packet, type: int, code: int) -> bool:
        """The rules of RFC 4443 §2.4 (e)."""
        foreign = packet.looped or packet.src not in self._interface.addresses
        if packet.src == UNSPECIFIED or is_multicast(packet.src) or not foreign:
            return False
        allowed_to_groups = type == icmpv6.Type.PACKET_TOO_BIG or (
            type == icmpv6.Type.PARAMETER_PROBLEM and code == icmpv6.ParameterProblemCode.OPTION
        )
        if (is_multicast(packet.dst) or packet.link_group) and not allowed_to_groups:
            return False
        return not self._is_error(packet)

    @staticmethod
    def _is_error(packet: Packet) -> bool:
        """Whether the packet is an ICMPv6 error or redirect, as far as its headers can be read."""
        try:
            upper = ipv6.find_upper_layer(packet.whole)
        except WireError:
            # Headers broken off within ICMPv6 would have been found; anything else may be answered.
            return False
        if upper.next_header != ipv6.ICMPV6 or (upper.fragment is not None and upper.fragment.offset):
            return False
        kind = packet.whole[upper.offset : upper.offset + 1]
        return not kind or kind[0] < 128 or kind[0] == icmpv6.Type.REDIRECT

    def speaker(self, packet: Packet) -> bytes | None:
        """The source of an answer to a packet; None where this node must seem not to exist."""
        if packet.entry is not None:
            return packet.dst if packet.entry.speaks_to(packet.src) else None
        if packet.dst != ALL_NODES and not self._is_ordinary(packet.dst):
            return None
        return self._source_for(packet.src)
