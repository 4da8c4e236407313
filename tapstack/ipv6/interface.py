"""What all rooms of the host share: the interface variables of RFC 4861 §6.3.2 and the way out to the link.

The rooms do not know each other; each gets this one object, and the host joins them by callbacks.
"""

from __future__ import annotations

from collections.abc import Callable

from ..events import Counters, EventStream, LinkNotice
from ..link.base import LinkProperties
from ..randomness import KeyedRandom
from ..timers import TimerQueue
from ..types import UNSPECIFIED, Frame
from ..wire import ethernet, icmpv6, ipv6, virtio
from .addresses import AddressTable
from .config import MAX_RANDOM_FACTOR, MIN_RANDOM_FACTOR, REACHABLE_TIME, RETRANS_TIMER, HostConfig
from .limiter import TokenBucket

ND_HOP_LIMIT = 255


class Interface:
    """The one interface of a host.

    mac: own link-layer address; None on a link without addresses (TUN), where there is no neighbour discovery.
    link_mtu: in bytes, the link's or less if a router says so.  hop_limit: of packets sent.
    retrans_timer, reachable_time: seconds, the latter drawn anew from `base_reachable_time`.
    link_local: the assigned link-local address; None until its DAD has passed.
    """

    __slots__ = (
        "_notices",
        "_transmit",
        "_vnet",
        "addresses",
        "base_reachable_time",
        "config",
        "counters",
        "events",
        "hop_limit",
        "link_local",
        "link_mtu",
        "mac",
        "properties",
        "random",
        "reachable_time",
        "retrans_timer",
        "timers",
    )

    def __init__(
        self,
        config: HostConfig,
        properties: LinkProperties,
        timers: TimerQueue,
        events: EventStream,
        counters: Counters,
        random: KeyedRandom,
        transmit: Callable[[Frame], None],
    ) -> None:
        self.config = config
        self.properties = properties
        self.timers = timers
        self.events = events
        self.counters = counters
        self.random = random
        self.addresses = AddressTable(events)
        self.mac = properties.mac
        self.link_local: bytes | None = None
        self._transmit = transmit
        self._vnet = virtio.PLAIN if properties.vnet_header else b""
        self._notices = TokenBucket(config.notice_rate, config.notice_burst)
        self.set_defaults()

    def set_defaults(self) -> None:
        """The variables that routers may set, as they are on a link of which nothing is known (RFC 4861 §6.3.2)."""
        self.link_mtu = self.properties.mtu
        self.hop_limit = self.config.hop_limit
        self.base_reachable_time = REACHABLE_TIME
        self.retrans_timer = RETRANS_TIMER
        self.draw_reachable_time()

    def draw_reachable_time(self) -> None:
        """Draw a new ReachableTime around the base value (RFC 4861 §6.3.2); the cache does it every two hours as well."""
        self.reachable_time = self.base_reachable_time * self.random.uniform(MIN_RANDOM_FACTOR, MAX_RANDOM_FACTOR)

    def notice(self, subject: str, cause: str, now: float) -> None:
        """Tell the event stream what a neighbour caused; at a bounded rate, since neighbours may be hostile."""
        if self._notices.take(now):
            self.events.emit(LinkNotice(time=now, subject=subject, cause=cause))

    def header_to(self, mac: bytes) -> bytes:
        """The link header of a frame to a neighbour."""
        assert self.mac is not None
        return ethernet.header(mac, self.mac)

    def multicast_header(self, group: bytes) -> bytes:
        """The link header of a frame to an IPv6 group; empty on a link without addresses."""
        if self.mac is None:
            return b""
        return ethernet.header(ethernet.multicast_mac(group), self.mac)

    def transmit(self, link_header: bytes, pieces: Frame, virtio_header: bytes = b"") -> None:
        """Hand one frame to the link: `pieces` begin with the IPv6 header."""
        vnet = virtio_header or self._vnet
        first = vnet + link_header
        self._transmit([first, *pieces] if first else pieces)

    @staticmethod
    def icmp_packet(src: bytes, dst: bytes, type: int, code: int, body: bytes) -> bytes:
        """An IPv6 packet with one neighbour discovery message."""
        message = icmpv6.pack(src, dst, type, code, body)
        return ipv6.pack_header(src, dst, ipv6.ICMPV6, len(message), ND_HOP_LIMIT) + message

    def send_icmp(self, link_header: bytes, src: bytes, dst: bytes, type: int, code: int, body: bytes) -> None:
        """Send one neighbour discovery message to a link-layer destination that is known."""
        self.transmit(link_header, [self.icmp_packet(src, dst, type, code, body)])

    def nd_source(self) -> bytes:
        """The source of neighbour discovery that belongs to no other address: link-local, or unspecified before
        there is one.
        """
        return self.link_local or UNSPECIFIED
