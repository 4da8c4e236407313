"""The whole stack under a script of frames, timers and calls, with its invariants checked after each step.

A world has a node with an address in each state that matters: a stable one with a wildcard listener, an UNCERTAIN one, an SSA
that is armed, and an EA with an established connection to a peer.  A script may send any frame, segments near the numbers that
the connection expects (with a right checksum, so that they get past it), advance the clock, and call the stack as an
application would.

What must hold, whatever the script: nothing raises; the tables agree with each other and stay within their bounds; a frame that
leaves has a source in its lifetime, fits the link, and has a right checksum; no timer stands in the past; one input causes a
bounded number of frames.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from tapstack.ipv6.addresses import AddressEntry, AddressError, AddressKind, AddressState, Answers
from tapstack.ipv6.config import HostConfig
from tapstack.ipv6.packet import NoRouteError
from tapstack.link.base import LinkProperties
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection
from tapstack.tcp.errors import ConflictingSocket
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.tcp.states import TcpState
from tapstack.types import address
from tapstack.udp.flow import FlowClosed
from tapstack.wire import ethernet, icmpv6, ipv6, tcp, udp

from .script import Script

MAC, PEER_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000066")
PREFIX = address("2001:db8:1::")
RESERVED, SERVICE, OWN = (PREFIX[:8] + bytes.fromhex(f"00000000000000{last:02x}") for last in (0xAA, 0xBB, 0xCC))
PEER, STRANGER = (PREFIX[:8] + bytes.fromhex(f"00000000000000{last:02x}") for last in (0x66, 0xBD))
MTU = 1500
MOST_FRAMES = 2000
"""Out of one step: a send buffer of a megabyte is some 700 segments."""
MOST_STEPS = 60
SMALL = HostConfig(
    dad_initial_delay=0.0, neighbors=12, neighbors_incomplete=4, neighbor_queue=3, default_routers=3, prefixes=4, routes=3,
    rdnss=2, paths=6, path_mtus=4, reassemblies=4, reassemblies_per_source=3, fragments_per_packet=5, fragments_bytes=6000,
)  # fmt: skip
MODES = (PortMode.L1, PortMode.L0, PortMode.L2, PortMode.AWARE)
_EXPECTED = (AddressError, NoRouteError, ConflictingSocket, FlowClosed, ValueError, OSError)
"""What calls of an application may raise, for their arguments or the state of the network."""


def upper_layer(packet: bytes) -> tuple[int, int, bool]:
    """Number and place of the header behind the extension headers, and whether the packet is a fragment.

    What leaves is judged from its bytes (RFC 8200 §4), without the codecs that wrote them.
    """
    kind, at, fragment = packet[6], 40, False
    while kind in (0, 43, 44, 60):
        fragment |= kind == 44
        kind, at = packet[at], at + (8 if kind == 44 else 8 * (packet[at + 1] + 1))
    return kind, at, fragment


class World:
    """A node among a peer and a stranger that a script moves.  `mode` is that of its sockets."""

    def __init__(self, mode: PortMode) -> None:
        self.now = 1000.0
        self.random = Random(7)
        self.stack = Stack(LinkProperties(mtu=MTU, mac=MAC), b"a seed of 32 bytes, for the fuzzer", SMALL)
        self.options = SocketOptions(mode=mode, receive_buffer=20_000, receive_buffer_maximum=60_000, backlog=3)
        self.sent: list[bytes] = []
        self.listeners: list[Listener] = []
        self.connections: list[Connection] = []
        self.flows: list[object] = []
        self.stack.start(self.now)
        host = self.stack.host
        host.prefix_list.add_static(PREFIX, 64, autonomous=True, now=self.now)
        prefix = next(prefix for prefix in host.prefixes if prefix.autonomous)
        entries = [host.reserve(each, prefix, self.now) for each in (RESERVED, SERVICE, OWN)]
        self.pass_time(4.0)
        host.neighbors.heard(PEER, PEER_MAC, self.now)
        host.addresses.take(entries[1], AddressKind.SERVICE, self.now, "fuzz")
        host.addresses.take(entries[2], AddressKind.EPHEMERAL, self.now, "fuzz")
        self._listen(mode, entries[1])
        self.connections.append(self.stack.tcp.connect(entries[2], PEER, 80, self.now, self.options))
        self.flush()
        self._establish(self.connections[0])

    def _listen(self, mode: PortMode, entry: AddressEntry) -> None:
        listener = self.stack.tcp.listen(self.options, self.now, port=80 if mode is PortMode.AWARE else None)
        listener.arm(entry, self.now, sessions=2)
        self.listeners.append(listener)

    def _establish(self, connection: Connection) -> None:
        syn = connection.sender.snd_nxt & 0xFFFFFFFF
        options = tcp.Options(mss=1400, window_scale=2, timestamp=(5000, 0), sack_permitted=True).pack()
        self.segment(connection, 5000, syn, tcp.SYN | tcp.ACK, 60000, options, b"", relative=False)
        assert connection.state is TcpState.ESTABLISHED

    # -- steps -----------------------------------------------------------------------------------

    def frame(self, data: bytes) -> None:
        """The link brings a frame."""
        self.stack.input(data, self.now)
        self.settle()

    def packet(self, src: bytes, dst: bytes, next_header: int, body: bytes, hop_limit: int) -> None:
        """The link brings a packet whose headers are in order."""
        to = ethernet.multicast_mac(dst) if dst[0] == 0xFF else MAC
        header = ipv6.pack_header(src, dst, next_header, len(body), hop_limit)
        self.frame(ethernet.header(to, PEER_MAC) + header + body)

    def segment(
        self, pcb: Connection, sequence: int, ack: int, flags: int, window: int, options: bytes, payload: bytes,
        *, relative: bool = True, port: int = 0,
    ) -> None:  # fmt: skip
        """A segment of a connection's peer; numbers count from what the connection expects."""
        if relative:
            sequence += pcb.receiver.rcv_nxt
            ack += pcb.sender.snd_una
        options = (options + bytes(-len(options) % 4))[:40]
        header = tcp.pack(
            pcb.remote, pcb.local, (pcb.remote_port + port) & 0xFFFF, pcb.local_port, sequence & 0xFFFFFFFF,
            ack & 0xFFFFFFFF, flags, window, options=options, payload=payload,
        )  # fmt: skip
        self.packet(pcb.remote, pcb.local, tcp.PROTOCOL, header + payload, 64)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, timer by timer."""
        end = self.now + seconds
        for _ in range(10_000):
            due = self.stack.deadline()
            if due is None or due > end:
                self.now = end
                self.settle()
                return
            self.now = max(self.now, due)
            self.settle()
        raise AssertionError("timers come without end")

    def settle(self) -> None:
        """What a driver does after input, and all that must hold then."""
        self.stack.advance(self.now)
        for _, _ in self.stack.take_signals():
            pass
        self.flush()
        deadline = self.stack.deadline()
        assert deadline is None or deadline > self.now - 1e-9, (deadline, self.now)
        self.check()

    def flush(self) -> None:
        """Everything the stack has to say, each frame judged."""
        frames = self.stack.output(self.now)
        assert len(frames) <= MOST_FRAMES, len(frames)
        for pieces in frames:
            self._judge(b"".join(pieces))

    def _judge(self, frame: bytes) -> None:
        assert 54 <= len(frame) <= MTU + 14, len(frame)
        packet = frame[14:]
        assert int.from_bytes(packet[4:6], "big") == len(packet) - 40
        src = packet[8:24]
        entry = self.stack.host.addresses.get(src)
        assert entry is None or entry.answers & Answers.TRAFFIC or src == bytes(16), "a source that may not speak"
        kind, at, fragment = upper_layer(packet)
        if kind in (6, 17, 58) and not fragment:
            body = packet[at:]
            whole = packet[8:40] + len(body).to_bytes(4, "big") + bytes((0, 0, 0, kind)) + body
            whole += bytes(len(whole) % 2)
            assert int.from_bytes(whole, "big") % 65535 == 0, "a wrong checksum leaves"

    def check(self) -> None:
        """The invariants."""
        self.stack.check()
        host = self.stack.host
        host.neighbors.check()
        assert len(host.neighbors) <= SMALL.neighbors
        assert self.stack.tcp.demux.half_open_count <= 4 * self.options.backlog + 4
        reserved = host.addresses.get(RESERVED)
        assert reserved is None or reserved.state is not AddressState.PREFERRED or reserved.users
        for connection in self.connections:
            assert connection.receiver.queued <= self.options.receive_buffer_maximum + 65535


def run(data: bytes) -> None:
    """Carry out a script."""
    script = Script(data)
    world = World(MODES[script.byte() % len(MODES)])
    for _ in range(MOST_STEPS):
        if script.over:
            break
        STEPS[script.byte() % len(STEPS)](world, script)
        world.check()
    world.pass_time(300.0)
    world.stack.stop(world.now)
    world.flush()


# -- the steps of a script ---------------------------------------------------------------------------------


def _sources(world: World) -> tuple[bytes, ...]:
    link_local = world.stack.host.link_local or bytes(16)
    return PEER, STRANGER, bytes(16), address("fe80::66"), address("2001:db8:9::9"), link_local


def _targets(world: World) -> tuple[bytes, ...]:
    link_local = world.stack.host.link_local or bytes(16)
    stable = next((e.address for e in world.stack.host.addresses if e.kind is AddressKind.STABLE), link_local)
    groups = tuple(address("ff02::1:ff00:0")[:13] + each[13:] for each in (RESERVED, SERVICE, OWN))
    return RESERVED, SERVICE, OWN, stable, link_local, address("ff02::1"), *groups


def _choose(choices: tuple[bytes, ...], script: Script) -> bytes:
    return choices[script.byte() % len(choices)]


def _any_frame(world: World, script: Script) -> None:
    world.frame(script.block())


def _any_packet(world: World, script: Script) -> None:
    """Any next header and body between known addresses."""
    src, dst = _choose(_sources(world), script), _choose(_targets(world), script)
    world.packet(src, dst, script.byte(), script.block(), script.byte())


def _icmp(world: World, script: Script) -> None:
    """An ICMPv6 message with a right checksum: ND, MLD, errors, echo; hop limit 255 or 1."""
    src, dst = _choose(_sources(world), script), _choose(_targets(world), script)
    kind, code = script.byte(), script.byte() & 7
    hop_limit = 1 if kind in (130, 131, 132, 143) else 255
    world.packet(src, dst, ipv6.ICMPV6, icmpv6.pack(src, dst, kind, code, script.block()), hop_limit)


def _error_about_own(world: World, script: Script) -> None:
    """An ICMPv6 error that quotes a segment of the connection."""
    pcb = world.connections[0]
    sequence = (pcb.sender.snd_una + script.signed()) & 0xFFFFFFFF
    ports = pcb.local_port.to_bytes(2, "big") + pcb.remote_port.to_bytes(2, "big")
    quoted = ipv6.pack_header(pcb.local, pcb.remote, tcp.PROTOCOL, 20) + ports + sequence.to_bytes(4, "big") + bytes(12)
    kind, code, info = 1 + script.byte() % 4, script.byte() & 7, script.word()
    src = _choose(_sources(world), script)
    body = icmpv6.pack_error(src, pcb.local, kind, code, info, quoted)
    world.packet(src, pcb.local, ipv6.ICMPV6, body, 64)


def _near_segment(world: World, script: Script) -> None:
    """A segment near what a connection expects."""
    pcb = world.connections[script.byte() % len(world.connections)]
    sequence, ack, flags, window = script.signed(), script.signed(), script.byte(), script.word()
    clock = (world.connections[0].receiver.ts_recent or 0) + script.byte() - 8
    stamp = tcp.Options(timestamp=(clock & 0xFFFFFFFF, 0)).pack() if script.byte() & 1 else b""
    options = stamp + script.take(script.byte() % 29)
    world.segment(pcb, sequence, ack, flags, window, options, script.block(), port=script.byte() & 3)


def _next_segment(world: World, script: Script) -> None:
    """The very segment a connection expects, with so many bytes."""
    pcb = world.connections[script.byte() % len(world.connections)]
    stamp = b""
    if pcb.timestamps:
        stamp = tcp.Options(timestamp=(((pcb.receiver.ts_recent or 0) + 1) & 0xFFFFFFFF, 0)).pack()
    acknowledges = pcb.sender.snd_nxt - pcb.sender.snd_una if script.byte() & 1 else 0
    flags = tcp.ACK | (tcp.FIN if script.byte() & 7 == 7 else 0)
    world.segment(pcb, 0, acknowledges, flags, script.word(), stamp, bytes(script.byte()))


def _syn(world: World, script: Script) -> None:
    """A handshake's segment at the armed address."""
    src, dst = _choose(_sources(world), script), _choose(_targets(world), script)
    options = script.take(script.byte() % 41)
    options += bytes(-len(options) % 4)
    payload = bytes(script.byte() & 3)
    flags = (tcp.SYN, tcp.ACK, tcp.SYN | tcp.ACK, tcp.RST, script.byte())[script.byte() % 5]
    ports = 4000 + (script.byte() & 3), (80, 1024)[script.byte() & 1]
    header = tcp.pack(src, dst, *ports, script.word(), script.word(), flags, 4096, options=options, payload=payload)
    world.packet(src, dst, tcp.PROTOCOL, header + payload, 64)


def _complete(world: World, script: Script) -> None:
    """The acknowledgement that completes a handshake that stands half-open."""
    half_open = world.stack.tcp.demux.half_open()
    if half_open:
        pcb = half_open[script.byte() % len(half_open)]
        stamp = b""
        if pcb.timestamps:
            stamp = tcp.Options(timestamp=((pcb.receiver.ts_recent or 0) + 1 & 0xFFFFFFFF, 0)).pack()
        ack = pcb.sender.snd_nxt - pcb.sender.snd_una
        world.segment(pcb, 0, ack, tcp.ACK, 60000, stamp, bytes(script.byte() & 7), port=0)
    for listener in world.listeners:
        while (accepted := listener.accept()) is not None and len(world.connections) < 8:
            world.connections.append(accepted)


def _time(world: World, script: Script) -> None:
    world.pass_time(script.byte() ** 2 / 100)


def _datagram(world: World, script: Script) -> None:
    """A UDP datagram with a right checksum."""
    src, dst, data = _choose(_sources(world), script), _choose(_targets(world), script), script.block()
    header = udp.pack(src, dst, 53, 5300 + (script.byte() & 1), data)
    world.packet(src, dst, ipv6.UDP, header + data, 64)


def _calls(world: World, script: Script) -> None:
    """What an application does."""
    pcb = world.connections[script.byte() % len(world.connections)]
    host, stack, now = world.stack.host, world.stack, world.now
    amount = script.word()

    def listen() -> None:
        entry = host.addresses.get(_choose(_targets(world), script))
        if entry is not None and len(world.listeners) < 4:
            world.listeners.append(
                stack.tcp.listen(world.options, now, port=80 if world.options.mode is PortMode.AWARE else None)
            )
            world.listeners[-1].arm(entry, now, client=(PEER, 128) if amount & 1 else None, expires=now + amount)

    def connect() -> None:
        entry = host.addresses.get(_choose(_targets(world), script))
        if entry is not None and len(world.connections) < 8:
            world.connections.append(stack.tcp.connect(entry, _choose(_sources(world), script), 80, now, world.options))

    def take() -> None:
        entry = host.addresses.get(RESERVED)
        if entry is not None and entry.state is AddressState.UNCERTAIN:
            host.addresses.take(entry, AddressKind.EPHEMERAL, now, "fuzz")
            world.connections.append(stack.tcp.connect(entry, PEER, 80, now, world.options))

    calls: tuple[Callable[[], object], ...] = (
        lambda: pcb.write(bytes(amount)),
        pcb.read,
        lambda: pcb.shutdown(now),
        lambda: pcb.close(now),
        lambda: pcb.abort(now),
        listen,
        connect,
        take,
        lambda: world.listeners[amount % len(world.listeners)].close(now),
    )
    try:
        calls[script.byte() % len(calls)]()
    except _EXPECTED:
        pass
    world.settle()


STEPS: tuple[Callable[[World, Script], None], ...] = (
    _any_frame,
    _any_packet,
    _icmp,
    _error_about_own,
    _near_segment,
    _next_segment,
    _syn,
    _complete,
    _time,
    _datagram,
    _calls,
)
