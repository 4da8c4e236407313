"""Which ICMPv6 errors a router may send (RFC 4443 §2.4): never about the wrong packets, and never too many."""

from __future__ import annotations

from tapstack.types import UNSPECIFIED, is_multicast
from tapstack.wire import icmpv6, ipv6
from tapstack.wire.error import WireError

_PEERS_MAX = 4096


def may_be_answered(packet: bytes, *, type: int) -> bool:
    """Whether an error of `type` may be sent about `packet`, which is not one for a group of the router's.

    >>> may_be_answered(ipv6.pack_header(bytes(16), bytes(15) + b"1", ipv6.NO_NEXT, 0), type=icmpv6.Type.TIME_EXCEEDED)
    False
    """
    src, dst = packet[8:24], packet[24:40]
    if src == UNSPECIFIED or is_multicast(src):
        return False
    if is_multicast(dst) and type != icmpv6.Type.PACKET_TOO_BIG:
        return False
    try:
        upper = ipv6.find_upper_layer(packet)
    except WireError:
        return False
    if upper.next_header != ipv6.ICMPV6:
        return True
    kind = packet[upper.offset : upper.offset + 1]
    later_fragment = upper.fragment is not None and upper.fragment.offset > 0
    return later_fragment or (bool(kind) and kind[0] >= 128 and kind[0] != icmpv6.Type.REDIRECT)


class ErrorLimit:
    """A token bucket per destination."""

    def __init__(self, interval: float, burst: int) -> None:
        """interval: seconds per message on average; burst: messages at once."""
        self._interval = interval
        self._burst = burst
        self._peers: dict[bytes, tuple[float, float]] = {}

    def allows(self, dst: bytes, now: float) -> bool:
        """Whether one more message may go to `dst` now; if so, it is counted."""
        tokens, at = self._peers.pop(dst, (float(self._burst), now))
        tokens = min(tokens + (now - at) / self._interval, float(self._burst))
        allowed = tokens >= 1
        self._peers[dst] = (tokens - 1 if allowed else tokens, now)
        if len(self._peers) > _PEERS_MAX:
            del self._peers[next(iter(self._peers))]
        return allowed
