"""A peer without memory: it answers a stack's segments from what stands in them, for any number of connections.

A SYN gets a SYN-ACK, a FIN an acknowledgement with a FIN, data an acknowledgement; no state is kept.  So whatever
memory a process holds after a hundred thousand handshakes belongs to the stack under test.
"""

from __future__ import annotations

from collections.abc import Iterable

from tapstack.ipv6.addresses import AddressEntry, AddressKind, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.link.base import LinkProperties
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection
from tapstack.tcp.options import SocketOptions
from tapstack.types import Buffer, Frame, address
from tapstack.wire import ipv6, tcp

PEER = address("2001:db8:c::1")
PREFIX = address("2001:db8:d::")
_SEQUENCE = 1000
_WINDOW = 0xFFFF


def answer(packet: Buffer) -> bytes | None:
    """The packet that this peer sends for one that it gets; None for none.  Both begin with the IPv6 header."""
    if packet[6] != ipv6.TCP:
        return None
    source, destination = bytes(packet[8:24]), bytes(packet[24:40])
    header = tcp.TcpHeader.parse(memoryview(packet)[ipv6.HEADER_LENGTH :])
    size = len(packet) - ipv6.HEADER_LENGTH - header.length
    if not header.flags & (tcp.SYN | tcp.FIN) and not size:
        return None
    stamp = header.options.timestamp
    options = tcp.Options(timestamp=None if stamp is None else (1, stamp[0]))
    if header.flags & tcp.SYN:
        flags, sequence = tcp.SYN | tcp.ACK, _SEQUENCE
        options.mss, options.window_scale, options.sack_permitted = 1440, 7, True
    else:
        flags, sequence = header.flags & tcp.FIN | tcp.ACK, header.acknowledgment
    segment = tcp.pack(
        destination,
        source,
        header.destination_port,
        header.source_port,
        sequence,
        (header.sequence + size + bool(header.flags & (tcp.SYN | tcp.FIN))) & 0xFFFFFFFF,
        flags,
        _WINDOW,
        options=options.pack(),
    )
    return ipv6.pack_header(destination, source, ipv6.TCP, len(segment)) + segment


def data(connection: Connection, offset: int, payload: bytes) -> bytes:
    """A packet of this peer's with `payload`, which begins `offset` bytes into what it sends on an established connection."""
    segment = tcp.pack(
        connection.remote,
        connection.local,
        connection.remote_port,
        connection.local_port,
        _SEQUENCE + 1 + offset,
        connection.sender.snd_nxt & 0xFFFFFFFF,
        tcp.ACK,
        _WINDOW,
        options=tcp.Options(timestamp=(1, 0)).pack() if connection.timestamps else b"",
        payload=payload,
    )
    header = ipv6.pack_header(connection.remote, connection.local, ipv6.TCP, len(segment) + len(payload))
    return header + segment + payload


class Lone:
    """A stack without a link: its frames go to the peer above, under a clock that the caller moves."""

    def __init__(self, options: SocketOptions) -> None:
        self.now = 1.0
        self.options = options
        config = HostConfig(stable_addresses=False, solicit_routers=False, dad_transmits=0, dad_initial_delay=0.0)
        self.stack = Stack(LinkProperties(mtu=1500, mac=None), bytes(32), config)
        self.stack.start(self.now)
        prefixes = self.stack.host.prefix_list
        prefixes.add_dedicated(PREFIX, 64)
        prefixes.add_static(PEER[:8] + bytes(8), 64, autonomous=False, now=self.now)
        self._next = 1
        self.exchange()

    def address(self) -> AddressEntry:
        """A fresh one-time address."""
        self._next += 1
        return self.stack.host.addresses.add(
            PREFIX[:8] + self._next.to_bytes(8, "big"),
            AddressKind.EPHEMERAL,
            self.now,
            trigger=Trigger.ADD_WITHOUT_DAD,
            per_address_nd=False,
        )

    def connect(self, count: int) -> list[Connection]:
        """So many established connections, each from an address of its own."""
        made = []
        for _ in range(count):
            made.append(self.stack.tcp.connect(self.address(), PEER, 80, self.now, self.options))
            if len(made) % 64 == 0:
                self.exchange()
        self.exchange()
        return made

    def converse(self, connections: Iterable[Connection]) -> None:
        """A byte each way on every connection."""
        for connection in connections:
            connection.write(b"x")
            self.exchange()
            self.stack.input(data(connection, 0, b"x"), self.now)
            connection.read()
        self.exchange()

    def close(self, connections: Iterable[Connection]) -> None:
        """Close connections from this side; their TIME-WAIT begins."""
        for connection in connections:
            connection.close(self.now)
        self.exchange()

    def rest(self, seconds: float = 10.0) -> None:
        """Let time pass, so that timers of what has ended are forgotten."""
        self.now += seconds
        self.stack.advance(self.now)
        self.exchange()

    def exchange(self) -> None:
        """Hand frames to and fro until both sides are silent."""
        stack = self.stack
        while frames := stack.output(self.now):
            for frame in frames:
                reply = answer(_whole(frame))
                if reply is not None:
                    stack.input(reply, self.now)
            stack.take_signals()


def _whole(frame: Frame) -> bytes:
    return b"".join(frame)
