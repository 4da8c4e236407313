"""One IPv6 host on one link: the rooms of this package joined (RFC 8200, RFC 8504; unified-multiplex §1).

```
            addresses ──observer──▶ group joined/left, DAD, promotion NA, ordinary sources
                ▲  ▲
 frame ─▶ receive  discovery ─▶ dad · neighbors · routers ─▶ prefixes ─▶ addresses deprecated, expired
             │        ▲                       └─▶ routes ◀─ Path (kept by connections)
             ├─▶ icmp ┴─▶ multicast             │
             └─▶ upper[next header]        frame out
```
The address table is the only place that knows the state of an address.  What follows from a change of state is done in the call
that made the change: when `addresses.take` returns, the promotion has been announced and the address can be used (UM-ADDR-1).

Work per frame is bounded by the frame's length and by the bounds in `HostConfig`; nothing in a frame raises out of
`input`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from ..events import Counters, DropReason, EventStream
from ..link.base import LinkProperties
from ..randomness import KeyedRandom
from ..timers import TimerQueue
from ..types import Frame, address_text, is_link_local, is_multicast, solicited_node
from ..wire import icmpv6, ipv6, mld
from .addresses import BEGINNINGS, ENDINGS, AddressEntry, AddressError, AddressKind, AddressState, Trigger
from .carriage import LinkCarriage
from .config import HostConfig
from .dad import DuplicateAddressDetection
from .discovery import Discovery
from .fragmentation import fragments
from .icmp import Icmp
from .interface import Interface
from .multicast import MulticastListener
from .neighbors import Neighbor, NeighborCache
from .ourselves import OURSELVES, Loopback
from .packet import IcmpError, NoRouteError, Packet
from .prefixes import Prefix, PrefixList
from .reassembly import Reassembler
from .receive import Receiver
from .routers import RouterDiscovery
from .routes import Path, Routes
from .selection import Candidate, choose_source
from .stable import StableAddresses

__all__ = ["Host", "HostConfig", "IcmpError", "NoRouteError", "Packet", "Path", "Prefix"]

UNDELIVERABLE_REMEMBERED = 256
"""Packets of our own that failed before their protocols have heard of it."""

_S = AddressState


class Host:
    """An IPv6 host.  Feed it frames with `input`, run its timers, and it sends through `transmit`.

    addresses: the address table.  upper: by next header, who takes packets; errors: by quoted next header, who hears of
    ICMPv6 errors.  secret: from which the stable addresses are derived (RFC 7217).
    on_link_down(): what others learnt on the link is to be forgotten as well.
    """

    def __init__(
        self,
        config: HostConfig,
        properties: LinkProperties,
        timers: TimerQueue,
        events: EventStream,
        counters: Counters,
        random: KeyedRandom,
        secret: bytes,
        transmit: Callable[[Frame], None],
    ) -> None:
        self.config = config
        self.properties = properties
        self.counters = counters
        self.interface = Interface(config, properties, timers, events, counters, random, transmit)
        self.addresses = self.interface.addresses
        self.upper: dict[int, Callable[[Packet, float], None]] = {}
        self._timers = timers
        self._random = random
        self._ordinary: dict[bytes, AddressEntry] = {}
        self._reserved: set[bytes] = set()
        """Ordinary addresses that `reserve` added: they have their prefix's lifetimes"""
        self._held: dict[bytes, deque[tuple[Path, bytes, bytes]]] = {}
        self._undeliverable: deque[tuple[bytes, int]] = deque(maxlen=UNDELIVERABLE_REMEMBERED)
        self._report = timers.timer(self._report_undeliverable)
        self.on_link_down: Callable[[], None] = lambda: None

        self.neighbors = NeighborCache(self.interface)
        self.prefix_list = PrefixList(self.interface)
        self.stable = StableAddresses(self.interface, self.prefix_list, secret)
        self.routes = Routes(self.interface, self.neighbors, self.prefix_list)
        self.routers = RouterDiscovery(self.interface, self.neighbors, self.prefix_list, self.routes)
        self.multicast = MulticastListener(self.interface)
        self.dad = DuplicateAddressDetection(self.interface)
        self.icmp = Icmp(self.interface, self.send, self.source_for, self.multicast.is_ordinary)
        self.errors = self.icmp.errors
        self.reassembler = Reassembler(self.interface, self.icmp)
        self.carriage = LinkCarriage(self.interface, self.routes)
        self.discovery = Discovery(self.interface, self.neighbors, self.dad, self.routers, self.routes, self.carriage)
        self._receiver = Receiver(self.interface, self.multicast, self.icmp, self.reassembler, self.upper)
        self._loopback = Loopback(self.interface, self._receiver.own)
        self.input = self._receiver.frame
        """`input(frame, now)`: one whole link frame, whatever its bytes are."""
        self.icmp_error = self.icmp.error
        """`icmp_error(packet, type, code, info, now)`: an ICMPv6 error about a received packet, if the rules allow one."""
        self._join_rooms()

    def _join_rooms(self) -> None:
        self.addresses.observe(self._arrived, BEGINNINGS)
        self.addresses.observe(self._taken, (Trigger.TAKE,))
        self.addresses.observe(self._passed, (Trigger.DAD_PASSED,))
        self.addresses.observe(self._gone, ENDINGS)
        self.icmp.handlers.update(self.discovery.handlers)
        self.icmp.handlers[icmpv6.Type.MLD_QUERY] = self._mld_query
        self.icmp.handlers[icmpv6.Type.MLD_REPORT_V1] = self._mld_report_v1
        self.icmp.handlers[icmpv6.Type.MLD_REPORT_V2] = self._mld_of_others
        self.icmp.handlers[icmpv6.Type.MLD_DONE_V1] = self._mld_of_others
        self.neighbors.on_unresolved = self._neighbor_unresolved
        self.neighbors.on_unreachable = self.routes.neighbor_unreachable
        self.neighbors.on_reachable = self.routes.neighbor_reachable
        self.neighbors.on_router_lost = self.routers.neighbor_is_no_router
        self.neighbors.is_first_hop = self.routes.is_first_hop
        self.prefix_list.on_autonomous = self._prefix_usable
        self.prefix_list.on_deprecated = self._prefix_deprecated
        self.prefix_list.on_expired = self._prefix_expired
        self.prefix_list.on_routes = self.routes.changed
        self.dad.on_conflict = self._conflict

    # -- life --------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Form the link-local address; router discovery follows when its DAD has passed."""
        if self.interface.mac is not None:
            self.stable.start(now)

    def stop(self, now: float) -> None:
        """Leave all groups, give up every address, and ask for nothing any more."""
        self.stable.stop()
        self.routers.stop()
        self.prefix_list.stop()
        self.reassembler.clear()
        self.neighbors.clear()
        self.multicast.leave_all(now)
        for entry in self.addresses:
            entry.per_address_nd = False  # its group has been left, with all others in one report
            self._expire(entry, now, "the host stops")
        self.interface.link_local = None

    def link_down(self, now: float) -> None:
        """The link lost its carrier: what was learnt on it holds no more."""
        self.interface.notice("link", "the carrier is gone", now)
        self.neighbors.clear()
        self.interface.set_defaults()
        self.routes.clear()
        self.icmp.reply_mtus.clear()
        self.reassembler.clear()
        self.routers.stop()
        self.multicast.forget_queriers()
        self.prefix_list.doubt()
        self.on_link_down()

    def link_up(self, now: float) -> None:
        """The link is back, perhaps another one: reserved addresses are not trusted any more, all others are tested, those
        in use while it goes on (RFC 4862 §5.4), groups are reported, routers asked.
        """
        self.interface.notice("link", "the carrier is back", now)
        self.dad.reset(now)
        for entry in self.addresses:
            if entry.kind is AddressKind.RESERVED and entry.state in (_S.TENTATIVE, _S.UNCERTAIN):
                self.addresses.discard(entry, now, "the link came up again")
            elif entry.per_address_nd:
                self.dad.begin(entry, now)
        self.multicast.report_all(now)
        self.routers.restore_static()
        self.routers.solicit(now)

    @property
    def prefixes(self) -> list[Prefix]:
        """All prefixes known: on-link, autonomous, dedicated."""
        return list(self.prefix_list)

    @property
    def rdnss(self) -> list[bytes]:
        """DNS servers that routers named (RFC 8106)."""
        return list(self.routers.rdnss)

    @property
    def link_local(self) -> bytes | None:
        """The link-local address, once its DAD has passed."""
        return self.interface.link_local

    @property
    def link_mtu(self) -> int:
        """Largest packet on the link in bytes: the link's property or what a router named."""
        return self.interface.link_mtu

    # -- addresses ---------------------------------------------------------------------------------

    def reserve(
        self,
        address: bytes,
        prefix: Prefix,
        now: float,
        kind: AddressKind = AddressKind.RESERVED,
        cause: str = "added",
    ) -> AddressEntry:
        """Add an address of a prefix, that lives as long as it.

        On an on-link prefix it is TENTATIVE and, if nobody else has it, UNCERTAIN a DAD later.  On a dedicated prefix it is
        PREFERRED at once, with neither DAD nor group (UM-POOL-4); give the kind of its use then.
        Raises `AddressError` when the prefix cannot be used, or the address is not in it or on this node already.
        """
        if address not in prefix or not prefix.preferred or not (prefix.autonomous or prefix.dedicated):
            raise AddressError(f"{address_text(address)} cannot be formed in {prefix!r}")
        if not kind.one_time:
            self._reserved.add(address)
        if prefix.dedicated:
            trigger = Trigger.ADD_WITHOUT_DAD
            return self.addresses.add(address, kind, now, trigger=trigger, per_address_nd=False, cause=cause)
        return self.addresses.add(address, kind, now, cause=cause)

    def source_for(self, dst: bytes) -> bytes | None:
        """The ordinary address for packets to a destination (RFC 6724 §5); None where there is none.

        One-time addresses are never chosen.
        """
        candidates = [
            Candidate(entry.address, entry.state is _S.DEPRECATED, entry.prefix_length)
            for entry in self._ordinary.values()
            if entry.state in (_S.PREFERRED, _S.DEPRECATED)
        ]
        chosen = choose_source(candidates, dst)
        return chosen.address if chosen else None

    # What follows from a change of state; see the table of transitions.

    def _arrived(self, entry: AddressEntry, old: AddressState, trigger: Trigger, now: float) -> None:
        if self.interface.mac is None:
            entry.per_address_nd = False
        ordinary = not entry.kind.one_time
        if ordinary:
            self._ordinary[entry.address] = entry
        if entry.per_address_nd:
            self.multicast.join(solicited_node(entry.address), now, ordinary=ordinary)
        if min(entry.preferred_until, entry.valid_until) < math.inf:
            self._watch_lifetimes(entry, now)
        if trigger is not Trigger.ADD_WITHOUT_DAD:
            self.dad.begin(entry, now)
        if trigger is not Trigger.ADD and entry.per_address_nd and not is_link_local(entry.address):
            self.discovery.announce(entry)

    def _taken(self, entry: AddressEntry, old: AddressState, trigger: Trigger, now: float) -> None:
        if entry.per_address_nd:
            self.discovery.announce(entry)

    def _gone(self, entry: AddressEntry, old: AddressState, trigger: Trigger, now: float) -> None:
        ordinary = not entry.kind.one_time
        if ordinary:
            self._ordinary.pop(entry.address, None)
            self._reserved.discard(entry.address)
        self.withdraw(entry)
        self.dad.forget(entry, now)
        self.carriage.forget(entry, now)
        if entry.per_address_nd:
            self.multicast.leave(solicited_node(entry.address), now, ordinary=ordinary)
        if trigger is Trigger.DAD_FAILED and ordinary:
            self.stable.taken(entry, now)

    def _passed(self, entry: AddressEntry, old: AddressState, trigger: Trigger, now: float) -> None:
        """An ordinary or an optimistic address has passed DAD."""
        if entry.kind is AddressKind.LINK_LOCAL:
            self.interface.link_local = entry.address
            self.multicast.report_all(now)
            self.routers.solicit(now)
            return
        if old is _S.TENTATIVE and entry.per_address_nd:
            self.discovery.announce(entry)
        for path, packet, virtio_header in self._held.pop(entry.address, ()):
            self.transmit_queued(path, [packet], now, virtio_header)
        prefix = self.prefix_list.of(entry.address)
        if prefix is not None and not prefix.preferred and self._configured(entry):
            self.addresses.deprecate(entry, now, "the prefix is deprecated")

    def _watch_lifetimes(self, entry: AddressEntry, now: float) -> None:
        """Lifetimes given to one address, by hand: they end by timer."""

        def due(now: float) -> None:
            if self.addresses.get(entry.address) is not entry:
                return
            if entry.valid_until <= now:
                self._expire(entry, now, "its valid lifetime is over")
            elif entry.preferred_until <= now:
                self._deprecate(entry, now, "its preferred lifetime is over")
                if entry.address in self.addresses and entry.valid_until < math.inf:
                    timer.set(entry.valid_until)

        timer = self._timers.timer(due)
        timer.set(min(entry.preferred_until, entry.valid_until))

    # -- prefixes ----------------------------------------------------------------------------------

    def _prefix_usable(self, prefix: Prefix, now: float) -> None:
        for entry in self._living_with(prefix):
            if entry.state is _S.DEPRECATED and prefix.preferred:
                self.addresses.refresh(entry, now, "the prefix is preferred again")
        if self.config.stable_addresses and not any(entry.address in prefix for entry in self._ordinary.values()):
            self.stable.usable(prefix, now)

    def _prefix_deprecated(self, prefix: Prefix, now: float) -> None:
        for entry in self._living_with(prefix):
            self._deprecate(entry, now, f"the preferred lifetime of {prefix} is over")

    def _prefix_expired(self, prefix: Prefix, now: float) -> None:
        self.stable.expired(prefix)
        for entry in self._living_with(prefix):
            self._expire(entry, now, f"the valid lifetime of {prefix} is over")

    def _configured(self, entry: AddressEntry) -> bool:
        """Whether an address has its prefix's lifetimes, and none of its own."""
        return entry.kind.one_time or entry in self.stable or entry.address in self._reserved

    def _living_with(self, prefix: Prefix) -> list[AddressEntry]:
        return [entry for entry in self.prefix_list.living_with(prefix, self.addresses) if self._configured(entry)]

    def _deprecate(self, entry: AddressEntry, now: float, cause: str) -> None:
        """Nothing new starts on the address: what is reserved goes, what is used stays (UM-ADDR-6, UM-ADDR-11)."""
        if entry.state is _S.PREFERRED:
            self.addresses.deprecate(entry, now, cause)
        elif entry.state in (_S.TENTATIVE, _S.UNCERTAIN) and entry.kind is AddressKind.RESERVED:
            self.addresses.discard(entry, now, cause)

    def _expire(self, entry: AddressEntry, now: float, cause: str) -> None:
        if entry.address not in self.addresses:
            return  # it went with one before it: somebody who heard of that gave it up
        if entry.state in (_S.TENTATIVE, _S.UNCERTAIN):
            self.addresses.discard(entry, now, cause)
        else:
            self.addresses.expire(entry, now, cause)

    def _conflict(self, entry: AddressEntry, cause: str, now: float) -> None:
        """While the link was away somebody took an address of ours.

        A connection keeps its one-time address (UM-ADDR-11); an address that stays is replaced by the next one.
        """
        if entry.kind.one_time:
            self.interface.notice(address_text(entry.address), f"{cause}; it is kept", now)
            return
        if entry.kind is AddressKind.LINK_LOCAL:
            self.interface.link_local = None
        self.addresses.expire(entry, now, cause)
        self.stable.taken(entry, now)

    # -- output --------------------------------------------------------------------------------------

    def path(self, dst: bytes, now: float) -> Path:
        """The path to a destination, to be kept by who sends there; raises `NoRouteError`."""
        return self.routes.path(dst, now)

    def transmit_queued(self, path: Path, pieces: Frame, now: float, virtio_header: bytes = b"") -> None:
        """Send a packet (from its IPv6 header on), or keep it until the next hop is resolved.

        `virtio_header`: 10 bytes, when the link is to segment it or to complete its checksum; without, it must be complete.
        """
        header = path.ready(now)
        if header is not None:
            self.interface.transmit(header, pieces, virtio_header)
            return
        neighbor = self.routes.settle(path, now)
        packet = b"".join(pieces)
        if neighbor is OURSELVES:
            self._loopback.send(packet, now)
            return
        source = self.addresses.get(packet[8:24])
        if source is not None and source.state is _S.OPTIMISTIC:
            self._send_optimistic(source, path, packet, virtio_header, now)
        elif neighbor is None:
            self.counters.drop(DropReason.IP_NO_ROUTE)
            self._cannot_deliver(packet, icmpv6.UnreachableCode.NO_ROUTE, now)
        else:
            self.neighbors.enqueue(neighbor, packet, virtio_header, now)

    def _send_optimistic(
        self, source: AddressEntry, path: Path, packet: bytes, virtio_header: bytes, now: float
    ) -> None:
        """No address resolution for an optimistic address: by a router, or after DAD (RFC 4429 §3.2)."""
        router = self.routes.resolved_router(now)
        if router is not None:
            self.interface.transmit(router, [packet], virtio_header)
            return
        held = self._held.setdefault(source.address, deque(maxlen=self.config.neighbor_queue))
        if len(held) == held.maxlen:
            self.counters.drop(DropReason.NEIGHBOR_QUEUE)
        held.append((path, packet, virtio_header))

    def withdraw(self, entry: AddressEntry) -> None:
        """Drop what an address has said that waits for a neighbour's resolution, or for DAD, but for those to whom it speaks.

        After its release that is nobody (UM-ADDR-9, UM-REL-3), after its last session is established the peers (UM-LIS-6).
        """
        self.neighbors.waiting.withdraw(entry)
        held = self._held.pop(entry.address, ())
        kept = [waiting for waiting in held if entry.speaks_to(waiting[0].dst)]
        if kept:
            self._held[entry.address] = deque(kept, self.config.neighbor_queue)
        for _ in range(len(held) - len(kept)):
            self.counters.drop(DropReason.ADDRESS_SILENT)

    def send(
        self,
        src: bytes,
        dst: bytes,
        next_header: int,
        pieces: Frame,
        now: float,
        *,
        hop_limit: int | None = None,
        flow_label: int = 0,
        at_most: int | None = None,
    ) -> None:
        """Send one upper-layer packet, its checksum complete; in fragments when it is larger than the path MTU, or `at_most`.

        Where there is no route the packet is dropped and counted, and its protocol hears of it.
        Raises `WireError` for more than 65,535 bytes.
        """
        length = sum(len(piece) for piece in pieces)
        try:
            path = self.routes.path(dst, now)
        except NoRouteError:
            self.counters.drop(DropReason.IP_NO_ROUTE)
            if length <= ipv6.MAXIMUM_PAYLOAD:
                header = ipv6.pack_header(src, dst, next_header, length)
                self._cannot_deliver(header + b"".join(pieces), icmpv6.UnreachableCode.NO_ROUTE, now)
            return
        if hop_limit is None:
            hop_limit = path.hop_limit
        mtu = path.mtu if at_most is None else min(path.mtu, at_most)
        if ipv6.HEADER_LENGTH + length <= mtu:
            header = ipv6.pack_header(src, dst, next_header, length, hop_limit, flow_label=flow_label)
            self.transmit_queued(path, [header, *pieces], now)
            return
        identification = self._random.getrandbits(32)
        payload = b"".join(pieces)
        for packet in fragments(src, dst, next_header, payload, mtu, identification, hop_limit, flow_label):
            self.transmit_queued(path, [packet], now)

    def accept_path_mtu(self, error: IcmpError, now: float) -> bool:
        """Believe a Packet Too Big, after its protocol found the quoted packet in flight; False when it changes
        nothing (RFC 8201 §4).
        """
        return error.type == icmpv6.Type.PACKET_TOO_BIG and self.routes.mtus.learn(error.dst, error.info, now)

    def _neighbor_unresolved(self, neighbor: Neighbor, waiting: list[bytes], now: float) -> None:
        for packet in waiting:
            self._cannot_deliver(packet, icmpv6.UnreachableCode.ADDRESS, now)

    def _cannot_deliver(self, packet: bytes, code: int, now: float) -> None:
        """Tell the protocol soon, but not within its own call."""
        self._undeliverable.append((packet, code))
        self._report.set(now)

    def _report_undeliverable(self, now: float) -> None:
        for _ in range(len(self._undeliverable)):
            packet, code = self._undeliverable.popleft()
            self.icmp.undeliverable(packet, code, now)

    # -- groups --------------------------------------------------------------------------------------

    def _mld_query(self, packet: Packet, message: icmpv6.Icmpv6, now: float) -> None:
        self.multicast.query(packet.src, packet.hop_limit, packet.router_alert, message.body, now)

    def _mld_report_v1(self, packet: Packet, message: icmpv6.Icmpv6, now: float) -> None:
        report = mld.ReportV1.parse(message.body)
        if packet.hop_limit != mld.HOP_LIMIT or not is_link_local(packet.src) or not is_multicast(report.group):
            self.counters.drop(DropReason.MLD_INVALID)
        else:
            self.multicast.heard_report_v1(report.group, now)

    def _mld_of_others(self, packet: Packet, message: icmpv6.Icmpv6, now: float) -> None:
        """Reports and leaves of other listeners concern routers only."""
        self.counters.drop(DropReason.ICMP_UNKNOWN)
