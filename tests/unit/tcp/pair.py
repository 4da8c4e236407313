"""Two TCPs back to back under a hand-turned clock, without link or neighbour discovery: TCP alone.

Each end is a `Tcp` on a host that has every route; frames are IPv6 packets on a wire with a fixed delay.  Frames can be
watched, dropped or changed on the way.  Nothing waits: `run` jumps from event to event.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Literal

from tapstack.events import Counters, Event, EventStream
from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressTable, Trigger
from tapstack.ipv6.packet import IcmpError, Packet
from tapstack.link.base import LinkProperties
from tapstack.tcp import fastpath
from tapstack.tcp.connection import Connection
from tapstack.tcp.layer import Tcp
from tapstack.tcp.options import SocketOptions
from tapstack.timers import TimerQueue
from tapstack.types import Frame, address
from tapstack.wire import ipv6, virtio
from tests.plugins import taps

from .offload import HEADER, finished


class OpenPath:
    """A path that is always ready."""

    def __init__(self, dst: bytes, mtu: int) -> None:
        self.dst = dst
        self.mtu = mtu
        self.hop_limit = 64

    def ready(self, now: float) -> bytes:
        return b""

    def confirm(self, now: float) -> None:
        pass

    def doubt(self) -> None:
        pass


class OpenHost:
    """As much of a host as TCP needs, on a link without Ethernet."""

    def __init__(self, mtu: int, events: EventStream, transmit: Callable[[Frame], None], offload: bool) -> None:
        self.properties = LinkProperties(
            mtu=mtu, mac=None, vnet_header=offload, gso_size=65_521 if offload else 0, checksum_offload=offload
        )
        self.addresses = AddressTable(events)
        self._transmit = transmit
        self._mtu = self.link_mtu = mtu
        self.paths: list[OpenPath] = []

    def path(self, dst: bytes, now: float) -> OpenPath:
        self.paths.append(OpenPath(dst, self._mtu))
        return self.paths[-1]

    def send(self, src: bytes, dst: bytes, next_header: int, pieces: Frame, now: float, *, flow_label: int = 0) -> None:
        body = b"".join(pieces)
        front = virtio.PLAIN if self.properties.vnet_header else b""
        self._transmit([front + ipv6.pack_header(src, dst, next_header, len(body), flow_label=flow_label), body])

    def withdraw(self, entry: AddressEntry) -> None:
        """Nothing ever waits on such a host."""

    def accept_path_mtu(self, report: IcmpError, now: float) -> bool:
        """Learn a path MTU, as the real host does after TCP has vouched for the report."""
        if not 1280 <= report.info < self._mtu:
            return False
        self._mtu = report.info
        for path in self.paths:
            path.mtu = report.info
        return True


class End:
    """One TCP and the address it uses."""

    def __init__(self, name: str, addr: str, secret: bytes, mtu: int, offload: bool = False) -> None:
        self.name = name
        self.address = address(addr)
        self.timers = TimerQueue()
        self.events = EventStream()
        self.log: list[Event] = []
        self.events.subscribe(self.log.append)
        self.counters = Counters()
        self.out: list[Frame] = []
        self.tap = taps.FORGETFUL
        self.trusting = False
        self.host = OpenHost(mtu, self.events, self.out.append, offload)
        self.tcp = Tcp(self.host, self.timers, self.events, self.counters, secret, self.out.append)  # type: ignore[arg-type]

    def entry(self, now: float, kind: AddressKind = AddressKind.EPHEMERAL) -> AddressEntry:
        """The address, added if it is not there."""
        return self.host.addresses.get(self.address) or self.host.addresses.add(
            self.address, kind, now, trigger=Trigger.ADD_WITHOUT_DAD
        )

    def input(self, packet: bytes, now: float) -> None:
        """One IPv6 packet with TCP in it, as `Stack.input` would treat it."""
        self.tap.arrived(now, packet)
        pcb = self.tcp.demux.pairs.get(packet[8:40]) or self.tcp.demux.fours.get(packet[8:44])
        length = int.from_bytes(packet[4:6], "big")
        marked = packet[1] & 0x30 == 0x30
        if isinstance(pcb, Connection) and not marked and fastpath.receive(pcb, packet, 0, length, self.trusting, now):
            return
        if self.tcp.held:
            fastpath.settle(self.tcp, now)
        entry = self.host.addresses.get(packet[24:40])
        if entry is not None:
            arrived = Packet(packet[8:24], packet[24:40], entry, memoryview(packet))
            arrived.checksum_trusted = self.trusting
            self.tcp.input(arrived, now)

    @contextmanager
    def reading(self, now: float) -> Iterator[None]:
        """What is put in meanwhile is read from the link in one go, as by `Stack.take_in`."""
        self.tcp.reading = True
        yield
        self.tcp.reading = False
        fastpath.settle(self.tcp, now)


class Pair:
    """Two ends, `a` and `b`, and the wire between them.

    offload: both links take super-segments with unfinished checksums.  "cut" makes packets of them, as a device does, "whole"
    hands them over in one piece, as a device that merges does; "trusted" does not even finish their checksums, as between two
    devices of one machine.
    keep: whether `packets` remembers what was sent.
    together: whether what arrives at one moment is read in one go.
    `meddle(sender, packet)` returns the packets to deliver instead, each as bytes or (extra delay, bytes).
    """

    def __init__(
        self,
        *,
        delay: float = 0.01,
        mtu: int = 1500,
        start: float = 100.0,
        offload: Literal["cut", "whole", "trusted"] | None = None,
        keep: bool = True,
        together: bool = False,
    ) -> None:
        self.offload = offload
        self.keep = keep
        self.together = together
        self.now = start
        self.delay = delay
        self.a = End("a", "2001:db8:a::1", bytes(range(32)), mtu, offload is not None)
        self.b = End("b", "2001:db8:b::1", bytes(range(32, 64)), mtu, offload is not None)
        self.a.trusting = self.b.trusting = offload == "trusted"
        self.packets: list[tuple[float, str, bytes]] = []
        self.tap = self.a.tap = self.b.tap = taps.world("pair", taps.RAW_IP) if keep else taps.FORGETFUL
        for end in (self.a, self.b):
            end.events.subscribe(lambda event, name=end.name: self.tap.say(f"{name} says: {event.text()}"))  # type: ignore[misc]
        self.meddle: Callable[[End, bytes], list[bytes | tuple[float, bytes]]] | None = None
        self._flying: list[tuple[float, int, End, bytes]] = []
        self._order = count()

    def other(self, end: End) -> End:
        return self.b if end is self.a else self.a

    def sent_by(self, who: str, since: int = 0) -> list[bytes]:
        """What one end sent, from packet `since` of both on."""
        return [packet for _, name, packet in self.packets[since:] if name == who]

    def flush(self) -> None:
        """Put on the wire what both ends have to say."""
        for end in (self.a, self.b):
            end.tcp.flush(self.now)
            frames = end.out[:]
            end.out.clear()
            for packet in self._packets(frames):
                if self.keep:
                    self.packets.append((self.now, end.name, packet))
                delivered: list[bytes | tuple[float, bytes]] = self.meddle(end, packet) if self.meddle else [packet]
                self.tap.sent(self.now, end.name, packet, delivered)
                for item in delivered:
                    extra, data = item if isinstance(item, tuple) else (0.0, item)
                    arrival = self.now + self.delay + extra
                    heapq.heappush(self._flying, (arrival, next(self._order), self.other(end), data))

    def _packets(self, frames: list[Frame]) -> Iterator[bytes]:
        """What the links make of frames."""
        for frame in frames:
            data = b"".join(frame)
            if self.offload is None:
                yield data
            elif self.offload == "trusted":
                yield data[HEADER:]
            else:
                yield from finished(data, cut=self.offload == "cut")

    def step(self, until: float) -> bool:
        """Go to the next arrival or timer not after `until`; False when there is none."""
        self.flush()
        times = [t for t in (self.a.timers.deadline(), self.b.timers.deadline()) if t is not None]
        if self._flying:
            times.append(self._flying[0][0])
        if not times or min(times) > until:
            return False
        self.now = max(self.now, min(times))
        for end in (self.a, self.b):
            end.timers.run(self.now)
        with ExitStack() as stack:
            for end in (self.a, self.b) if self.together else ():
                stack.enter_context(end.reading(self.now))
            while self._flying and self._flying[0][0] <= self.now:
                _, _, end, packet = heapq.heappop(self._flying)
                end.input(packet, self.now)
        self.flush()
        for end in (self.a, self.b):
            end.tcp.check()
        return True

    def run(self, duration: float = 1.0, until: Callable[[], bool] | None = None) -> None:
        """Let time pass; ends early when `until()` holds."""
        end = self.now + duration
        while not (until is not None and until()) and self.step(end):
            pass
        if until is None:
            self.now = end

    def connect(self, options: SocketOptions | None = None, port: int | None = 80) -> tuple[Connection, Connection]:
        """A connection from `a` to an SSA of `b`, established at both ends."""
        options = options or SocketOptions()
        listener = self.b.tcp.listen(options, self.now)
        listener.arm(self.b.entry(self.now, AddressKind.SERVICE), self.now)
        client = self.a.tcp.connect(self.a.entry(self.now), self.b.address, port, self.now, options)
        self.run(10, until=lambda: bool(listener._accepted))
        server = listener.accept()
        assert server is not None
        return client, server


def read_all(connection: Connection) -> bytes:
    """Everything the connection has for its owner."""
    return b"".join(bytes(piece) for piece in connection.read())
