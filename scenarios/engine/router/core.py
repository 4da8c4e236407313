"""The simulated router itself, sans-I/O: frames and a time in, frames and a deadline out.

A packet goes one of three ways: to the router's own addresses and groups, onward, or nowhere, and then it is counted.
Forwarding has the order of Linux's ip6_forward: scope, route, hop limit, redirect, size, neighbour.

Invariants: nothing leaves for a neighbour that is not resolved; everything kept is bounded (neighbors.py, errors.py).
"""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from random import Random

from tapstack.link.base import LinkProperties
from tapstack.timers import TimerQueue
from tapstack.types import ALL_NODES, LOOPBACK, UNSPECIFIED, Buffer, is_link_local, is_multicast, solicited_node
from tapstack.wire import checksum, ethernet, icmpv6, ipv6, nd
from tapstack.wire.error import WireError
from tapstack.wire.icmpv6 import Type

from .advertise import Advertiser
from .config import InterfaceConfig, RouterConfig, UntrackedNa
from .counters import RouterCounters, RouterDrop
from .errors import ErrorLimit, may_be_answered
from .interface import Interface
from .neighbors import Neighbor, NeighborTable, NudState
from .routes import Route, RouteTable

_PACKET = ethernet.HEADER_LENGTH
_ETHERTYPE = ethernet.IPV6.to_bytes(2, "big")
_ND_HOP_LIMIT = 255
_REDIRECTED_MAX = 1184
"""Bytes of the packet in a Redirect: with everything around them 1280 at most, and a multiple of 8."""


class Router:
    """A router with any number of interfaces.

    random: all its chances (when to advertise, how long neighbours stay reachable).
    """

    def __init__(self, config: RouterConfig, random: Random) -> None:
        self.config = config
        self.counters = RouterCounters()
        self.interfaces: list[Interface] = []
        self._random = random
        self._timers = TimerQueue()
        self.neighbors = NeighborTable(self, self._timers, random, config.neighbors, self.counters)
        self._routes = RouteTable()
        self._own: set[bytes] = set()
        self._advertisers: list[Advertiser] = []
        self._error_limit = ErrorLimit(config.icmp_interval, config.icmp_burst)
        self._redirect_limit = ErrorLimit(config.icmp_interval, config.icmp_burst)
        self._frames: list[tuple[int, bytes]] = []

    # -- the sans-I/O interface ------------------------------------------------------------------

    def add_interface(self, properties: LinkProperties, config: InterfaceConfig) -> int:
        """Add an interface before `start`; returns its number."""
        interface = Interface(len(self.interfaces), properties, config)
        port = interface.port
        self.interfaces.append(interface)
        self._advertisers.append(
            Advertiser(
                config,
                interface.mac,
                interface.mtu,
                self._timers,
                self._random,
                lambda message, now: self._send_nd(port, self.interfaces[port].link_local, ALL_NODES, message, now),
            )
        )
        return port

    def start(self, now: float) -> None:
        """Begin to route and to advertise."""
        self._tables()
        for advertiser in self._advertisers:
            advertiser.start(now)

    def stop(self, now: float) -> None:
        """Take leave of the hosts; their last advertisements are in `output`."""
        for advertiser in self._advertisers:
            advertiser.stop(now)

    def change(self, port: int, config: InterfaceConfig, now: float) -> None:
        """Give an interface another configuration, renumbering for instance, and advertise it at once."""
        self.interfaces[port].configure(config)
        self._tables()
        self._advertisers[port].change(config, now)

    def deadline(self) -> float | None:
        """When `advance` is due next."""
        return self._timers.deadline()

    def advance(self, now: float) -> None:
        """Run what is due."""
        self._timers.run(now)

    def output(self) -> list[tuple[int, bytes]]:
        """The frames to send, each with the number of its interface."""
        frames, self._frames = self._frames, []
        return frames

    def input(self, port: int, frame: Buffer, now: float) -> None:
        """Process a frame that came in by an interface; never raises, whatever its bytes."""
        drop = self._process(self.interfaces[port], frame, now)
        if drop is not None:
            self.counters.drops[drop] += 1

    # Each of the methods that take a packet returns why it was dropped, or None.

    def _process(self, interface: Interface, frame: Buffer, now: float) -> RouterDrop | None:
        if len(frame) < _PACKET + ipv6.HEADER_LENGTH or frame[12:14] != _ETHERTYPE or frame[_PACKET] >> 4 != 6:
            return RouterDrop.MALFORMED
        length = ipv6.HEADER_LENGTH + (frame[18] << 8 | frame[19])
        packet = bytes(frame[_PACKET : _PACKET + length])
        if len(packet) < length:
            return RouterDrop.MALFORMED
        to_group = bool(frame[0] & 1)
        if not to_group and frame[:6] != interface.mac:
            return RouterDrop.NOT_OURS
        src, dst = packet[8:24], packet[24:40]
        if is_multicast(src) or dst == UNSPECIFIED or LOOPBACK in (src, dst):
            return RouterDrop.SCOPE
        try:
            if is_multicast(dst):
                return self._local(interface, packet, now) if dst in interface.groups else self._overhear(packet)
            if dst in interface.addresses or dst in self._own:
                return self._local(interface, packet, now)
        except WireError:
            return RouterDrop.MALFORMED
        return RouterDrop.NOT_OURS if to_group else self._forward(interface, packet, now)

    # -- what the neighbour table asks -----------------------------------------------------------

    def transmit(self, port: int, mac: bytes, packet: bytes) -> None:
        """Put a packet on a link."""
        self._frames.append((port, ethernet.header(mac, self.interfaces[port].mac) + packet))

    def solicit(self, neighbor: Neighbor, now: float) -> None:
        """Ask who has a neighbour's address: everybody, or in PROBE the neighbour itself."""
        interface = self.interfaces[neighbor.port]
        probe = neighbor.state is NudState.PROBE and neighbor.mac is not None
        dst = neighbor.address if probe else solicited_node(neighbor.address)
        message = nd.NeighborSolicitation(neighbor.address, (nd.SourceLinkLayer(interface.mac),))
        packet = self._icmp_packet(interface.link_local, dst, message.TYPE, message.pack(), _ND_HOP_LIMIT)
        mac = neighbor.mac if probe and neighbor.mac is not None else ethernet.multicast_mac(dst)
        self.transmit(neighbor.port, mac, packet)

    def unreachable(self, port: int, packet: bytes, now: float) -> None:
        """A neighbour did not answer: tell the sender of a packet that came in by `port`."""
        self._error(port, packet, Type.DESTINATION_UNREACHABLE, icmpv6.UnreachableCode.ADDRESS, 0, now)

    # -- onward ----------------------------------------------------------------------------------

    def _forward(self, came_in: Interface, packet: bytes, now: float) -> RouterDrop | None:
        src, dst = packet[8:24], packet[24:40]
        if src == UNSPECIFIED or is_link_local(dst):
            return RouterDrop.SCOPE
        route = self._routes.find(dst)
        if route is None:
            self._error(came_in.port, packet, Type.DESTINATION_UNREACHABLE, icmpv6.UnreachableCode.NO_ROUTE, 0, now)
            return RouterDrop.NO_ROUTE
        if packet[7] <= 1:
            self._error(came_in.port, packet, Type.TIME_EXCEEDED, icmpv6.TimeExceededCode.HOP_LIMIT, 0, now)
            return RouterDrop.HOP_LIMIT
        next_hop = route.via or dst
        if route.port == came_in.port:
            self._redirect(came_in, packet, next_hop, now)
        elif is_link_local(src):
            code = icmpv6.UnreachableCode.BEYOND_SCOPE
            self._error(came_in.port, packet, Type.DESTINATION_UNREACHABLE, code, 0, now)
            return RouterDrop.SCOPE
        mtu = self.interfaces[route.port].mtu
        if len(packet) > mtu:
            self._error(came_in.port, packet, Type.PACKET_TOO_BIG, 0, mtu, now)
            return RouterDrop.TOO_BIG
        self.counters.forwarded += 1
        self.counters.forwarded_bytes += len(packet)
        onward = b"".join((packet[:7], bytes((packet[7] - 1,)), packet[8:]))
        self.neighbors.send(route.port, next_hop, onward, now, came_in_by=came_in.port)
        return None

    def _redirect(self, interface: Interface, packet: bytes, next_hop: bytes, now: float) -> None:
        """Tell a neighbour that it need not come here for `next_hop` (RFC 4861 §8.2)."""
        src, dst = packet[8:24], packet[24:40]
        if not interface.on_link(src) or (next_hop != dst and not is_link_local(next_hop)):
            return
        if not self._redirect_limit.allows(next_hop, now):
            return
        known = self.neighbors.get(interface.port, next_hop)
        options: list[nd.NdOption] = []
        if known is not None and known.mac is not None:
            options.append(nd.TargetLinkLayer(known.mac))
        quoted = packet[: min(len(packet) // 8 * 8, _REDIRECTED_MAX)]
        options.append(nd.RedirectedHeader(quoted))
        self._send_nd(interface.port, interface.link_local, src, nd.Redirect(next_hop, dst, tuple(options)), now)

    def _error(self, port: int, packet: bytes, type: Type, code: int, info: int, now: float) -> None:
        """An ICMPv6 error about a packet that came in by `port`, if one is due and the limit allows."""
        if not may_be_answered(packet, type=type):
            return
        dst = packet[8:24]
        if type != Type.PACKET_TOO_BIG and not self._error_limit.allows(dst, now):
            self.counters.errors_limited += 1
            return
        src = self.interfaces[port].source_for(dst)
        message = icmpv6.pack_error(src, dst, type, code, info, packet)
        self.counters.sent[type.name.lower()] += 1
        header = ipv6.pack_header(src, dst, ipv6.ICMPV6, len(message))
        self._originate(port, dst, header + message, now)

    # -- to the router ---------------------------------------------------------------------------

    def _local(self, interface: Interface, packet: bytes, now: float) -> RouterDrop | None:
        src, dst = packet[8:24], packet[24:40]
        upper = ipv6.find_upper_layer(packet)
        if upper.fragment is not None:
            return RouterDrop.UNKNOWN
        if upper.next_header != ipv6.ICMPV6:
            if upper.next_header == ipv6.UDP and not is_multicast(dst):
                code = icmpv6.UnreachableCode.PORT
                self._error(interface.port, packet, Type.DESTINATION_UNREACHABLE, code, 0, now)
            return RouterDrop.NO_SERVICE
        data = memoryview(packet)[upper.offset :]
        if not checksum.valid(src, dst, ipv6.ICMPV6, data):
            return RouterDrop.CHECKSUM
        message = icmpv6.parse(data)
        self.counters.received[_name(message.type)] += 1
        if message.type in nd.MESSAGES:
            if packet[7] != _ND_HOP_LIMIT or message.code != 0:
                return RouterDrop.BAD_ND
            return self._neighbor_discovery(interface, src, dst, nd.parse(message.type, message.body), now)
        if message.type == Type.ECHO_REQUEST and src != UNSPECIFIED:
            own = interface.source_for(src) if is_multicast(dst) else dst
            reply = self._icmp_packet(own, src, Type.ECHO_REPLY, bytes(message.body), 64)
            self._originate(interface.port, src, reply, now)
        return None

    def _neighbor_discovery(
        self, interface: Interface, src: bytes, dst: bytes, message: nd.Message, now: float
    ) -> RouterDrop | None:
        if isinstance(message, nd.NeighborSolicitation):
            return self._solicitation(interface, src, dst, message, now)
        if isinstance(message, nd.NeighborAdvertisement):
            return self._advertisement(interface, src, dst, message, now)
        if isinstance(message, nd.RouterSolicitation):
            sender = nd.find(message.options, nd.SourceLinkLayer)
            if src == UNSPECIFIED and sender is not None:
                return RouterDrop.BAD_ND
            if sender is not None:
                self.neighbors.heard(interface.port, src, sender.address, now)
            self._advertisers[interface.port].solicited(now)
        return None

    def _solicitation(
        self, interface: Interface, src: bytes, dst: bytes, message: nd.NeighborSolicitation, now: float
    ) -> RouterDrop | None:
        sender = nd.find(message.options, nd.SourceLinkLayer)
        probe = src == UNSPECIFIED
        if is_multicast(message.target) or (probe and (sender is not None or dst != solicited_node(message.target))):
            return RouterDrop.BAD_ND
        if message.target not in interface.addresses:
            return None  # as a rule somebody else's: many addresses share a solicited-node group
        if sender is not None:
            self.neighbors.heard(interface.port, src, sender.address, now)
        answer = nd.NeighborAdvertisement(
            message.target,
            router=True,
            solicited=not probe,
            override=True,
            options=(nd.TargetLinkLayer(interface.mac),),
        )
        self._send_nd(interface.port, message.target, ALL_NODES if probe else src, answer, now)
        return None

    def _advertisement(
        self, interface: Interface, src: bytes, dst: bytes, message: nd.NeighborAdvertisement, now: float
    ) -> RouterDrop | None:
        target = message.target
        if is_multicast(target) or (message.solicited and is_multicast(dst)):
            return RouterDrop.BAD_ND
        if target in interface.addresses:
            return None  # somebody claims an address of this router; Linux only logs it
        option = nd.find(message.options, nd.TargetLinkLayer)
        mac = option.address if option is not None else None
        if self.neighbors.get(interface.port, target) is not None:
            self.neighbors.advertised(
                interface.port, target, mac, now, solicited=message.solicited, override=message.override
            )
        elif mac is not None:
            accept = interface.config.accept_untracked_na
            if accept is UntrackedNa.ANY or (accept is UntrackedNa.SAME_SUBNET and interface.on_link(src)):
                self.neighbors.untracked(interface.port, target, mac, now)
        return None

    def _overhear(self, packet: bytes) -> RouterDrop | None:
        """Count a message to a group that a network card would have kept away from the router."""
        upper = ipv6.find_upper_layer(packet)
        if upper.next_header != ipv6.ICMPV6 or upper.fragment is not None or upper.offset >= len(packet):
            return RouterDrop.NOT_OURS
        self.counters.overheard[_name(packet[upper.offset])] += 1
        return None

    # -- sending ---------------------------------------------------------------------------------

    def _icmp_packet(self, src: bytes, dst: bytes, type: Type, body: bytes, hop_limit: int) -> bytes:
        self.counters.sent[type.name.lower()] += 1
        message = icmpv6.pack(src, dst, type, 0, body)
        return ipv6.pack_header(src, dst, ipv6.ICMPV6, len(message), hop_limit) + message

    def _send_nd(self, port: int, src: bytes, dst: bytes, message: nd.Message, now: float) -> None:
        packet = self._icmp_packet(src, dst, message.TYPE, message.pack(), _ND_HOP_LIMIT)
        self._originate(port, dst, packet, now)

    def _originate(self, port: int, dst: bytes, packet: bytes, now: float) -> None:
        """Send a packet of the router's own; `port` matters for link-local and multicast destinations."""
        if is_multicast(dst):
            self.transmit(port, ethernet.multicast_mac(dst), packet)
        elif is_link_local(dst):
            self.neighbors.send(port, dst, packet, now)
        elif (route := self._routes.find(dst)) is not None:
            self.neighbors.send(route.port, route.via or dst, packet, now)
        else:
            self.counters.drops[RouterDrop.NO_ROUTE] += 1

    def _tables(self) -> None:
        """Rebuild routes and own addresses from the configuration."""
        self._routes.clear()
        self._own = {own for interface in self.interfaces for own in interface.addresses if not is_link_local(own)}
        for static in self.config.routes:
            via = IPv6Address(static.via).packed if static.via is not None else None
            self._routes.add(IPv6Network(static.prefix), Route(static.interface, via))
        for interface in self.interfaces:
            for subnet in interface.subnets:
                self._routes.add(subnet, Route(interface.port))


def _name(type: int) -> str:
    try:
        return Type(type).name.lower()
    except ValueError:
        return f"type_{type}"
