"""Neighbor Discovery input and the advertisements of this node (RFC 4861 §6.1, §7, §8; RFC 4862 §5.4; RFC 6980, 9131).

Every message passes the same gate first: hop limit 255, code 0, no Fragment header, options of non-zero length, the
address rules of its type.  What does not pass is dropped and counted.

What is answered for an address of ours is not decided here but read from `entry.answers`:

| solicitation from | needs | answer |
|---|---|---|
| `::` (DAD) | `Answers.DAD` | S=0 O=1 to all nodes; for an UNCERTAIN address from the link-local one (UM-ADDR-2, -5) |
| a unicast address | `Answers.RESOLUTION` | S=1 O=1 to the asker; O=0 while optimistic (RFC 4429 §3.3) |

An advertisement of ours that the link brings back is known by our own link-layer address in it and is no sign of
another owner.
"""

from __future__ import annotations

from ..events import DropReason
from ..types import (
    ALL_NODES,
    ALL_ROUTERS,
    UNSPECIFIED,
    address_text,
    is_link_local,
    is_multicast,
    solicited_node,
)
from ..wire import WireError, icmpv6, nd
from .addresses import AddressEntry, AddressState, Answers
from .carriage import LinkCarriage
from .dad import DuplicateAddressDetection
from .interface import ND_HOP_LIMIT, Interface
from .neighbors import NeighborCache, usable_mac
from .packet import Packet
from .routers import RouterDiscovery
from .routes import Routes


class Discovery:
    """Takes all ND messages; `handlers` is merged into `Icmp.handlers`."""

    def __init__(
        self,
        interface: Interface,
        neighbors: NeighborCache,
        dad: DuplicateAddressDetection,
        routers: RouterDiscovery,
        routes: Routes,
        carriage: LinkCarriage,
    ) -> None:
        self._interface = interface
        self._neighbors = neighbors
        self._dad = dad
        self._routers = routers
        self._routes = routes
        self._carriage = carriage
        self.handlers = dict.fromkeys(nd.MESSAGES, self.input)
        self._own_address = b"" if interface.mac is None else nd.TargetLinkLayer(interface.mac).pack()

    def input(self, packet: Packet, message: icmpv6.Icmpv6, now: float) -> None:
        """One ND message whose checksum is right; raises `WireError` for a malformed body."""
        drop = self._interface.counters.drop
        if self._interface.mac is None:
            drop(DropReason.ND_UNEXPECTED)
        elif packet.hop_limit != ND_HOP_LIMIT:
            drop(DropReason.ND_HOP_LIMIT)
        elif packet.fragmented:
            drop(DropReason.ND_FRAGMENTED)
        elif message.code:
            drop(DropReason.ND_MALFORMED)
        else:
            parsed = nd.parse(message.type, message.body)
            if isinstance(parsed, nd.NeighborSolicitation):
                self._solicitation(packet, parsed, now)
            elif isinstance(parsed, nd.NeighborAdvertisement):
                self._advertisement(packet, parsed, now)
            elif isinstance(parsed, nd.RouterAdvertisement):
                self._router_advertisement(packet, parsed, now)
            elif isinstance(parsed, nd.Redirect):
                self._redirect(packet, parsed, now)
            else:
                drop(DropReason.ND_UNEXPECTED)  # a Router Solicitation: this node is no router

    # -- solicitations -----------------------------------------------------------------------------

    def _solicitation(self, packet: Packet, message: nd.NeighborSolicitation, now: float) -> None:
        """RFC 4861 §7.1.1, §7.2.3; RFC 4862 §5.4.3."""
        source = nd.find(message.options, nd.SourceLinkLayer)
        probe = packet.src == UNSPECIFIED
        if is_multicast(message.target):
            raise WireError("a solicitation for a group")
        if probe and (packet.dst != solicited_node(message.target) or source is not None):
            raise WireError("a DAD probe to another group, or with a link-layer address")
        drop = self._interface.counters.drop
        entry = self._interface.addresses.get(message.target)
        if entry is None or packet.src in self._interface.addresses:
            drop(DropReason.ND_UNEXPECTED)
        elif probe:
            nonce = nd.find(message.options, nd.Nonce)
            self._probe(entry, nonce.value if nonce else None, now)
        elif entry.answers & Answers.RESOLUTION:
            self._resolution(packet, entry, source.address if source else None, now)
        elif entry.answers & Answers.DAD:
            drop(DropReason.ND_UNCERTAIN_SILENT)
        else:
            drop(DropReason.ADDRESS_TENTATIVE)

    def _probe(self, entry: AddressEntry, nonce: bytes | None, now: float) -> None:
        """Somebody tests an address that is in our table."""
        if self._dad.is_own_probe(nonce, entry.address, now):
            return
        if entry.answers & Answers.DAD:
            self.advertise(entry, ALL_NODES, override=True)
        else:
            self._dad.fail(entry, now, "another node probes for it")

    def _resolution(self, packet: Packet, entry: AddressEntry, mac: bytes | None, now: float) -> None:
        """Somebody asks for our link-layer address, or whether we are still there."""
        override = entry.state is not AddressState.OPTIMISTIC
        header = None
        if mac is not None:
            if not usable_mac(mac):
                raise WireError("a source link-layer address that is no station's")
            self._neighbors.heard(packet.src, mac, now)
            header = self._interface.header_to(mac)
        self.advertise(entry, packet.src, override=override, link_header=header, now=now)

    # -- advertisements of ours ----------------------------------------------------------------------

    def advertise(
        self,
        entry: AddressEntry,
        dst: bytes,
        *,
        override: bool,
        link_header: bytes | None = None,
        now: float = 0.0,
    ) -> None:
        """Send a Neighbor Advertisement for an address of ours; S=1 exactly when it goes to one node.

        An UNCERTAIN address is never a source: its defence comes from the link-local address (UM-ADDR-5), and
        cannot be sent while there is none.
        """
        interface = self._interface
        assert interface.mac is not None
        src = entry.address if entry.answers & Answers.TRAFFIC else interface.link_local
        if src is None:
            interface.counters.drop(DropReason.ADDRESS_TENTATIVE)
            return
        solicited = not is_multicast(dst)
        body = nd.pack_advertisement(entry.address, False, solicited, override, self._own_address)
        kind = icmpv6.Type.NEIGHBOR_ADVERTISEMENT
        if link_header is None and solicited:
            neighbor = self._neighbors.find(dst, now)
            if neighbor is None:
                return
            link_header = self._neighbors.use(neighbor, now)
            if link_header is None:
                packet = interface.icmp_packet(src, dst, kind, 0, body)
                self._neighbors.enqueue(neighbor, packet, b"", now)
                return
        interface.send_icmp(link_header or interface.multicast_header(dst), src, dst, kind, 0, body)

    def announce(self, entry: AddressEntry) -> None:
        """Tell the routers of an address that came into use, once, without overriding anything (RFC 9131 §6.1.2,
        UM-ADDR-8).

        The source is the address itself: it is assigned now, and the announcement says nothing of other addresses.
        """
        if self._interface.mac is not None and self._interface.config.advertise_promotion:
            self.advertise(entry, ALL_ROUTERS, override=False)

    # -- advertisements of others --------------------------------------------------------------------

    def _advertisement(self, packet: Packet, message: nd.NeighborAdvertisement, now: float) -> None:
        """RFC 4861 §7.1.2, §7.2.5; RFC 4862 §5.4.4."""
        if is_multicast(message.target) or (is_multicast(packet.dst) and message.solicited):
            raise WireError("an advertisement for a group, or a solicited one to a group")
        option = nd.find(message.options, nd.TargetLinkLayer)
        mac = option.address if option else None
        entry = self._interface.addresses.get(message.target)
        if entry is not None:
            self._claim(entry, mac, now)
            return
        if mac is not None and not usable_mac(mac):
            raise WireError("a target link-layer address that is no station's")
        known = self._neighbors.advertised(
            message.target,
            mac,
            router=message.router,
            solicited=message.solicited,
            override=message.override,
            now=now,
        )
        if message.solicited:
            self._carriage.advertised(packet.dst, message.target, now)
        if not known:
            self._interface.counters.drop(DropReason.ND_UNEXPECTED)

    def _claim(self, entry: AddressEntry, mac: bytes | None, now: float) -> None:
        """Somebody advertises an address of ours."""
        owner = "a node without link-layer address" if mac is None else mac.hex(":")
        if entry.state in (AddressState.TENTATIVE, AddressState.OPTIMISTIC):
            self._dad.fail(entry, now, f"{owner} has it")
        elif mac == self._interface.mac:
            self._interface.counters.drop(DropReason.ND_LOOPED_BACK)
        elif entry.state is AddressState.UNCERTAIN:
            self._interface.addresses.discard(entry, now, f"{owner} advertises it")
        elif self._dad.tests(entry):
            self._dad.fail(entry, now, f"{owner} has it")
        else:
            self._interface.counters.drop(DropReason.ND_UNEXPECTED)
            self._interface.notice(address_text(entry.address), f"{owner} advertises it too; it is kept", now)

    # -- routers -----------------------------------------------------------------------------------

    def _router_advertisement(self, packet: Packet, message: nd.RouterAdvertisement, now: float) -> None:
        """RFC 4861 §6.1.2."""
        if not is_link_local(packet.src):
            raise WireError("a router advertisement not from a link-local address")
        if packet.src in self._interface.addresses:
            self._interface.counters.drop(DropReason.ND_UNEXPECTED)
            return
        self._routers.advertised(packet.src, message, now)

    def _redirect(self, packet: Packet, message: nd.Redirect, now: float) -> None:
        """RFC 4861 §8.1, §8.3: only from the router that is the first hop to the destination now."""
        on_link = message.target == message.destination
        if not is_link_local(packet.src) or is_multicast(message.destination):
            raise WireError("a redirect not from a router, or of a group")
        if not on_link and not is_link_local(message.target):
            raise WireError("a redirect to neither the destination nor a router's link-local address")
        addresses = self._interface.addresses
        if not self._routes.uses(message.destination, packet.src) or message.target in addresses:
            self._interface.counters.drop(DropReason.ND_UNEXPECTED)
            return
        option = nd.find(message.options, nd.TargetLinkLayer)
        if option is not None:
            if not usable_mac(option.address):
                raise WireError("a target link-layer address that is no station's")
            self._neighbors.heard(message.target, option.address, now, is_router=None if on_link else True)
        self._routes.redirect(message.destination, message.target)
