"""UDP of one host: who gets a datagram, an error, a port.

A datagram goes to the flow with its four values, else to the flow without a fixed peer on its local address and port, else it is
dropped; then an ordinary address answers Port Unreachable (RFC 4443 §3.1), a one-time address says nothing (UM-EA-1).
"""

from __future__ import annotations

from collections import deque

from ..events import DropReason
from ..ipv6.addresses import ENDINGS, AddressEntry, AddressState, Trigger
from ..ipv6.host import Host
from ..ipv6.packet import IcmpError, Packet
from ..signals import Signal
from ..types import PORT_ATTEMPTS, valid_peer
from ..wire import WireError, checksum, icmpv6, ipv6, udp
from .flow import UdpFlow, flow_key


class PortInUseError(OSError):
    """The address and port, or all ports that were tried, belong to another flow."""


class Udp:
    """The UDP layer.  `signalled`: flows with news for their owners."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.counters = host.counters
        self.signalled: deque[UdpFlow] = deque()
        self._random = host.interface.random
        self._flows: dict[bytes, UdpFlow] = {}
        host.upper[ipv6.UDP] = self.input
        host.errors[ipv6.UDP] = self.error
        host.addresses.observe(self._address_gone, ENDINGS - {Trigger.RELEASE})

    def __len__(self) -> int:
        return len(self._flows)

    def open(
        self,
        entry: AddressEntry,
        now: float,
        remote: bytes | None = None,
        remote_port: int | None = None,
        local_port: int | None = None,
    ) -> UdpFlow:
        """A flow from an address of this node: to one peer, or to anybody when `remote` is None.

        local_port: None lets the stack choose one at random (UM-GEN-7).
        Raises `PortInUseError`, `AddressError` for an address that is not usable, ValueError for half a peer.
        """
        if (remote is None) != (remote_port is None):
            raise ValueError("a peer is an address and a port")
        if remote is not None and not valid_peer(remote):
            raise ValueError("a peer is a unicast address, and not the loopback")
        if local_port is None:
            local_port = self._choose_port(entry.address, remote, remote_port)
        elif flow_key(entry.address, local_port, remote, remote_port) in self._flows:
            raise PortInUseError(f"port {local_port} is in use on this address")
        flow = UdpFlow(self, entry, local_port, remote, remote_port, self._random.getrandbits(20), now)
        self.host.addresses.acquire(entry, flow)
        self._flows[flow.key] = flow
        return flow

    def _choose_port(self, local: bytes, remote: bytes | None, remote_port: int | None) -> int:
        for _ in range(PORT_ATTEMPTS):
            port = self._random.port()
            if flow_key(local, port, remote, remote_port) not in self._flows:
                return port
        raise PortInUseError(f"{PORT_ATTEMPTS} ports tried, all in use")

    def close_flow(self, flow: UdpFlow, now: float, cause: str) -> None:
        """End a flow and its use of the address."""
        if flow.closed:
            return
        flow.closed = True
        del self._flows[flow.key]
        flow.signal(Signal.CLOSED)
        self.host.addresses.drop(flow.entry, flow, now, cause)

    def close(self, now: float) -> None:
        """End all flows."""
        for flow in list(self._flows.values()):
            self.close_flow(flow, now, "the stack stops")

    def _address_gone(self, entry: AddressEntry, old: AddressState, trigger: Trigger, now: float) -> None:
        """The address of a flow is gone: so is the flow (UM-ADDR-11)."""
        for user in list(entry.users):
            if isinstance(user, UdpFlow):
                self.close_flow(user, now, f"the address is {entry.state}")

    # -- in --------------------------------------------------------------------------------------

    def input(self, packet: Packet, now: float) -> None:
        """A packet with next header 17."""
        try:
            header = udp.parse(packet.payload)
        except WireError:
            self.counters.drop(DropReason.UDP_MALFORMED)
            return
        datagram = packet.payload[: header.length]
        if not packet.checksum_trusted and not (
            header.checksum and checksum.valid(packet.src, packet.dst, ipv6.UDP, datagram)
        ):
            self.counters.drop(DropReason.CHECKSUM)
            return
        flow = self._flows.get(flow_key(packet.dst, header.dst_port, packet.src, header.src_port))
        if flow is None:
            flow = self._flows.get(flow_key(packet.dst, header.dst_port, None, None))
        if flow is not None:
            flow.deliver(bytes(datagram[udp.HEADER_LENGTH :]), packet.src, header.src_port, now)
            return
        self.counters.drop(DropReason.UDP_NO_FLOW)
        if packet.entry is not None and not packet.entry.kind.one_time:
            kind, code = icmpv6.Type.DESTINATION_UNREACHABLE, icmpv6.UnreachableCode.PORT
            self.host.icmp_error(packet, kind, code, 0, now)

    def error(self, error: IcmpError, now: float) -> None:
        """An ICMPv6 error about a datagram of ours; it counts only for a flow that exists."""
        local_port = error.payload[0] << 8 | error.payload[1]
        remote_port = error.payload[2] << 8 | error.payload[3]
        flow = self._flows.get(flow_key(error.src, local_port, error.dst, remote_port))
        if flow is None:
            flow = self._flows.get(flow_key(error.src, local_port, None, None))
        if flow is None or not flow.serves(error.dst):
            self.counters.drop(DropReason.ICMP_UNMATCHED)
            return
        if error.type == icmpv6.Type.PACKET_TOO_BIG:
            self.host.accept_path_mtu(error, now)
        else:
            flow.report(error)
