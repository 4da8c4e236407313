"""Datagrams of the program: each pair of its socket and a remote endpoint is a flow of the node, with an address of its own.

A flow ends when it is idle, as the node's flows do (`unimux.datagram`), and the next datagram begins another one.  Errors
go back as the ICMPv6 messages that the program's kernel expects, quoting the last datagram's header.
"""

from __future__ import annotations

from collections import OrderedDict

from compat.gateway.refusals import code_of
from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressError
from tapstack.ipv6.packet import Packet
from tapstack.stack import Stack
from tapstack.tcp.errors import from_icmp
from tapstack.udp.flow import FlowClosed, UdpFlow
from tapstack.udp.idle import IdleTimer
from tapstack.wire import icmpv6, ipv6, udp
from unimux.datagram import IDLE, EphemeralFlow
from unimux.node import Node
from unimux.purpose import Purpose

LIMIT = 4096
"""Flows at a time; one more ends the one used least recently."""


class Carrier:
    """The program's datagrams.  What goes to `resolver` stays with the stack."""

    def __init__(self, stack: Stack, driver: Driver, node: Node, resolver: bytes, purpose: Purpose) -> None:
        self._stack = stack
        self._driver = driver
        self._node = node
        self._purpose = purpose
        self._resolver = resolver
        self._flows: OrderedDict[bytes, _Flow] = OrderedDict()

    def __len__(self) -> int:
        return len(self._flows)

    def input(self, packet: Packet, now: float) -> None:
        """A UDP packet of the program: its flow is there, or is made, and the stack's own UDP reads it."""
        if packet.dst != self._resolver and packet.entry is not None and len(packet.payload) >= udp.HEADER_LENGTH:
            key = packet.src + packet.dst + bytes(packet.payload[:4])
            flow = self._flows.get(key)
            if flow is None:
                self._begin(key, packet, now)
            else:
                self._flows.move_to_end(key)
        self._stack.udp.input(packet, now)

    def _begin(self, key: bytes, packet: Packet, now: float) -> None:
        assert packet.entry is not None
        source, destination = int.from_bytes(key[32:34], "big"), int.from_bytes(key[34:36], "big")
        try:
            inside = self._stack.udp.open(packet.entry, now, packet.src, source, destination)
        except (OSError, AddressError, ValueError):  # port 0, an address that cannot be a peer's
            return
        self._flows[key] = _Flow(self, key, inside)
        if len(self._flows) > LIMIT:
            next(iter(self._flows.values())).close()

    def close(self) -> None:
        """End all flows."""
        for flow in list(self._flows.values()):
            flow.close()


class _Flow:
    """One flow: what comes in at the stack's side goes out at the node's, and back."""

    def __init__(self, carrier: Carrier, key: bytes, inside: UdpFlow) -> None:
        self._carrier = carrier
        self._key = key
        self._inside = inside
        self._last = 0
        port = int.from_bytes(key[34:36], "big")
        self._outside: EphemeralFlow = carrier._node.datagrams.flow(
            key[16:32], port, self._back, failed=self._failed, purpose=carrier._purpose
        )
        inside.owner = self._on_signals
        self._timer = IdleTimer(carrier._stack.timers, inside, IDLE, lambda now: self.close())

    def _on_signals(self, bits: int) -> None:
        while (datagram := self._inside.receive()) is not None:
            self._last = len(datagram.data)
            self._outside.send(datagram.data)
        for error in self._inside.take_errors():
            if isinstance(from_icmp(error.type, error.code), ConnectionRefusedError):
                self.close()  # the program has closed its socket
                return
        if self._inside.closed:
            self.close()

    def _back(self, data: bytes) -> None:
        try:
            self._inside.send(data, self._carrier._driver.now())
        except (FlowClosed, OSError, ValueError):
            self.close()
        self._carrier._driver.kick()

    def _failed(self, error: Exception) -> None:
        """Tell the program's kernel why its last datagram came to nothing."""
        code = code_of(error)
        if code is None or self._inside.closed:
            return
        src, dst, ports = self._key[:16], self._key[16:32], self._key[32:36]
        length = udp.HEADER_LENGTH + self._last
        quoted = ipv6.pack_header(src, dst, ipv6.UDP, length) + ports + length.to_bytes(2, "big") + bytes(2)
        message = icmpv6.destination_unreachable(dst, src, code, quoted)
        now = self._carrier._driver.now()
        self._carrier._stack.host.send(dst, src, ipv6.ICMPV6, [message], now)
        self._carrier._driver.kick()

    def close(self) -> None:
        """End both sides; harmless when called again."""
        if self._carrier._flows.pop(self._key, None) is None:
            return
        self._timer.retire()
        self._outside.close()
        self._inside.owner = None
        self._inside.close(self._carrier._driver.now())
        self._carrier._driver.kick()
