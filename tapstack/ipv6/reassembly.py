"""Reassembly of fragmented packets (RFC 8200 §4.5, RFC 5722, RFC 6946).

```
 packet   │ unfragmentable part │ fragment 0 │ fragment 1 │ … │ last fragment (M = 0) │
 pieces     kept of the first      {offset: bytes}, no two of them overlap
```
A packet is known by source, destination and identification.  Any overlap that is not an exact repetition ends it: all
that came is thrown away, and the key stays remembered until the packet's time is over, so that what still comes starts
nothing new (RFC 5722 §4).  Atomic fragments never come here (RFC 6946).

A mark of congestion (CE) on any fragment is one on the whole packet; beside a fragment whose sender does not take marks the
packet is dropped (RFC 3168 §5.3).

Bounds: packets in all and per source, pieces per packet, bytes in all.  A new packet that exceeds a bound takes the
place of the oldest one of the same source, or of the oldest.  Only a table of one's own size can so be wasted by an
attacker, for `FRAGMENT_TIMEOUT` at most.
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from ..events import DropReason
from ..wire import icmpv6, ipv6
from .config import FRAGMENT_TIMEOUT
from .icmp import Icmp
from .interface import Interface
from .packet import Packet

_Key = tuple[bytes, bytes, int]

_NOT_ECT, _CE = 1 << 0b00, 1 << 0b11
_ECN = 0x30
"""The two bits of ECN in the second byte of an IPv6 packet (RFC 3168 §5)."""
PIECE_OVERHEAD = 64
"""Bytes of memory that a piece costs besides its data, so that many tiny ones count too."""


class Whole(NamedTuple):
    """A reassembled packet, without Fragment header; its fragmentable part begins at `offset`, named by the byte
    at `named_at`.
    """

    packet: memoryview
    offset: int
    named_at: int


class _Partial:
    """A packet of which pieces are missing."""

    __slots__ = ("bytes", "codepoints", "dead", "end", "first", "head", "pieces", "started")

    def __init__(self, now: float) -> None:
        self.started = now
        self.pieces: dict[int, bytes] = {}
        self.end: int | None = None
        self.head = b""
        self.first: Packet | None = None
        self.bytes = 0
        self.codepoints = 0  # of ECN on the pieces, a bit for each that came
        self.dead = False


class Reassembler:
    """Collects fragments until their packet is whole.

    `bytes_held` counts what all incomplete packets occupy.
    """

    def __init__(self, interface: Interface, icmp: Icmp) -> None:
        self._interface = interface
        self._icmp = icmp
        self._partials: dict[_Key, _Partial] = {}
        self._per_source: Counter[bytes] = Counter()
        self._timer = interface.timers.timer(self._expire)
        self.bytes_held = 0

    def __len__(self) -> int:
        return len(self._partials)

    def add(self, packet: Packet, fragment: ipv6.Fragment, at: int, now: float) -> Whole | None:
        """Take the fragment whose header stands at offset `at` of `packet.whole`; the whole packet when it is
        complete.
        """
        data = packet.whole[at + fragment.length :]
        if not self._is_sane(packet, fragment, at, len(data), now):
            return None
        key = packet.src, packet.dst, fragment.identification
        partial = self._partials.get(key)
        if partial is None:
            partial = self._begin(key, now)
        if partial.dead:
            self._interface.counters.drop(DropReason.IP_FRAGMENT_OVERLAP)
            return None
        if not self._insert(key, partial, fragment, data):
            return None
        partial.codepoints |= 1 << (packet.traffic_class & 0b11)
        if fragment.offset == 0:
            partial.head = bytes(packet.whole[:at])
            packet.whole = memoryview(
                bytes(packet.whole[: ipv6.MINIMUM_MTU])
            )  # for the quote; the frame itself is not kept
            packet.next_header = fragment.next_header
            partial.first = packet
        return self._complete(key, partial)

    def _is_sane(self, packet: Packet, fragment: ipv6.Fragment, at: int, length: int, now: float) -> bool:
        """RFC 8200 §4.5: lengths; RFC 7112 §5: the first fragment must contain all headers."""
        code = icmpv6.ParameterProblemCode.HEADER_FIELD
        if fragment.more and length % 8:
            pointer = 4
        elif fragment.offset + length > ipv6.MAXIMUM_PAYLOAD:
            pointer = at + 2
        elif not length:
            self._interface.counters.drop(DropReason.IP_FRAGMENT_BAD)
            return False
        else:
            return True
        self._interface.counters.drop(DropReason.IP_FRAGMENT_BAD)
        self._icmp.error(packet, icmpv6.Type.PARAMETER_PROBLEM, code, pointer, now)
        return False

    def _begin(self, key: _Key, now: float) -> _Partial:
        config = self._interface.config
        if self._per_source[key[0]] >= config.reassemblies_per_source:
            self._evict(next(other for other in self._partials if other[0] == key[0]))
        elif len(self._partials) >= config.reassemblies:
            self._evict(next(iter(self._partials)))
        partial = self._partials[key] = _Partial(now)
        self._per_source[key[0]] += 1
        if not self._timer.armed:
            self._timer.set(now + FRAGMENT_TIMEOUT)
        return partial

    def _insert(self, key: _Key, partial: _Partial, fragment: ipv6.Fragment, data: memoryview) -> bool:
        """Put a piece in its place; False when it was dropped."""
        drop = self._interface.counters.drop
        begin, end = fragment.offset, fragment.offset + len(data)
        known = partial.pieces.get(begin)
        if known is not None and known == data and fragment.more == (partial.end != end):
            return False  # an exact repetition says nothing new (RFC 8200 §4.5)
        overlaps = any(begin < at + len(piece) and at < end for at, piece in partial.pieces.items())
        beyond = partial.end is not None and (end > partial.end or not fragment.more)
        before = not fragment.more and any(at >= end for at in partial.pieces)
        if overlaps or beyond or before:
            drop(DropReason.IP_FRAGMENT_OVERLAP)
            self._kill(partial)
            return False
        cost = len(data) + PIECE_OVERHEAD
        config = self._interface.config
        if len(partial.pieces) >= config.fragments_per_packet:
            drop(DropReason.IP_FRAGMENT_LIMIT)
            self._kill(partial)
            return False
        while self.bytes_held + cost > config.fragments_bytes:
            victim = next((other for other, held in self._partials.items() if held.bytes), key)
            self._evict(victim)
            if victim == key:
                return False
        partial.pieces[begin] = bytes(data)
        partial.bytes += cost
        self.bytes_held += cost
        if not fragment.more:
            partial.end = end
        return True

    def _complete(self, key: _Key, partial: _Partial) -> Whole | None:
        if partial.end is None or partial.first is None:
            return None
        if sum(len(piece) for piece in partial.pieces.values()) != partial.end:
            return None
        head = bytearray(partial.head)
        length = len(head) - ipv6.HEADER_LENGTH + partial.end
        marked = partial.codepoints & _CE
        if length > ipv6.MAXIMUM_PAYLOAD or (marked and partial.codepoints & _NOT_ECT):
            self._interface.counters.drop(DropReason.IP_FRAGMENT_BAD)
            self._remove(key)
            return None
        if marked:
            head[1] |= _ECN
        head[4:6] = length.to_bytes(2, "big")
        named_at = partial.first.next_header_at
        head[named_at] = partial.first.next_header
        packet = bytes(head) + b"".join(partial.pieces[offset] for offset in sorted(partial.pieces))
        self._remove(key)
        return Whole(memoryview(packet), len(head), named_at)

    # -- endings -----------------------------------------------------------------------------------

    def _kill(self, partial: _Partial) -> None:
        """Throw the pieces away but remember the packet."""
        self.bytes_held -= partial.bytes
        partial.bytes = 0
        partial.pieces.clear()
        partial.first = None
        partial.dead = True

    def _evict(self, key: _Key) -> None:
        self._interface.counters.drop(DropReason.IP_FRAGMENT_LIMIT)
        self._remove(key)

    def _remove(self, key: _Key) -> None:
        self._kill(self._partials.pop(key))
        self._per_source[key[0]] -= 1
        if not self._per_source[key[0]]:
            del self._per_source[key[0]]

    def _expire(self, now: float) -> None:
        """Give up packets whose time is over; their senders hear of it if the first piece came (RFC 8200 §4.5)."""
        while self._partials:
            key, partial = next(iter(self._partials.items()))
            if partial.started + FRAGMENT_TIMEOUT > now:
                self._timer.set(partial.started + FRAGMENT_TIMEOUT)
                return
            if not partial.dead:
                self._interface.counters.drop(DropReason.IP_FRAGMENT_TIMEOUT)
                if partial.first is not None:
                    code = icmpv6.TimeExceededCode.REASSEMBLY
                    self._icmp.error(partial.first, icmpv6.Type.TIME_EXCEEDED, code, 0, now)
            self._remove(key)

    def clear(self) -> None:
        """Throw everything away."""
        for key in list(self._partials):
            self._remove(key)
        self._timer.cancel()
