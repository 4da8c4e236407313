"""The whole host as a value: frames and a time in, frames and a deadline out.

`Stack.input` parses Ethernet, IPv6 and the PCB key of a frame in one go; a known PCB takes the frame on the fast
path, everything else (ND, ICMPv6, handshakes, extension headers, the unknown) leaves by one branch to the IPv6 host.

    stack.start(now)
    while True:
        for frame in frames that have arrived: stack.input(frame, now)
        stack.advance(now)                      # timers
        for frame in stack.output(now): link.send(frame)
        for owner, signals in stack.take_signals(): owner(signals)
        wait for frames, or until stack.look_again()
"""

from __future__ import annotations

from collections.abc import Callable

from .events import Counters, EventStream
from .ipv6.config import HostConfig
from .ipv6.host import Host
from .link.base import LinkProperties
from .randomness import KeyedRandom, derive_key
from .tcp import fastpath
from .tcp.connection import Connection
from .tcp.layer import Tcp
from .timers import TimerQueue
from .types import Buffer, Frame
from .udp.layer import Udp
from .wire import ethernet, ipv6, tcp, virtio

_TRUSTED = virtio.NEEDS_CSUM | virtio.DATA_VALID
_SHORTEST_TCP = ipv6.HEADER_LENGTH + tcp.HEADER_LENGTH


class Stack:
    """An IPv6 host with TCP and UDP on one link.

    properties: of the link.  seed: 32 secret bytes or more from which everything unpredictable comes (ISNs, nonces of
    DAD, delays; see `randomness`); equal seeds and inputs give equal outputs.
    """

    def __init__(self, properties: LinkProperties, seed: bytes, config: HostConfig | None = None) -> None:
        self.properties = properties
        self.timers = TimerQueue()
        self.events = EventStream()
        self.counters = Counters()
        self._frames: list[Frame] = []
        self.host = Host(
            config or HostConfig(),
            properties,
            self.timers,
            self.events,
            self.counters,
            KeyedRandom(seed, "draws of the stack"),
            derive_key(seed, "stable addresses"),
            self._frames.append,
        )
        secret = derive_key(seed, "TCP")
        self.tcp = Tcp(self.host, self.timers, self.events, self.counters, secret, self._frames.append)
        self.udp = Udp(self.host)
        self.host.upper[ipv6.TCP] = self.tcp.input
        self.host.errors[ipv6.TCP] = self.tcp.error
        self._vnet = properties.vnet_header
        link_header = virtio.HEADER_LENGTH if properties.vnet_header else 0
        if properties.mac is not None:
            self._destination: bytes | None = properties.mac + b""
            self._mac_at = link_header
            link_header += ethernet.HEADER_LENGTH
        else:
            self._destination = None
            self._mac_at = 0
        self._ip_at = link_header
        self._pairs = self.tcp.demux.pairs
        self._fours = self.tcp.demux.fours
        self._signalled = (self.tcp.signalled, self.udp.signalled)
        self.look_again = self.timers.soonest
        """`look_again()`: when to call `advance` next, which may find that nothing is due yet; None for never."""

    def start(self, now: float) -> None:
        """Begin: the link-local address, its DAD, router solicitation."""
        self.host.start(now)

    def stop(self, now: float) -> None:
        """End every socket, leave every group; the frames that say so are in the next `output`."""
        self.tcp.close(now)
        self.udp.close(now)
        self.tcp.flush(now)
        self.host.stop(now)

    def input(self, frame: Buffer, now: float) -> None:
        """Process one received frame; never raises, whatever its bytes."""
        counters = self.counters
        size = len(frame)
        counters.frames_in += 1
        counters.bytes_in += size
        at = self._ip_at
        if size >= at + _SHORTEST_TCP and frame[at + 6] == ipv6.TCP and frame[at] >> 4 == 6:
            pair = frame[at + 8 : at + 40]
            pcb = self._pairs.get(pair if type(pair) is bytes else bytes(pair))
            if pcb is None and self._fours:
                pcb = self._fours.get(bytes(frame[at + 8 : at + 44]))
            if type(pcb) is Connection:
                length = frame[at + 4] << 8 | frame[at + 5]
                if (
                    at + ipv6.HEADER_LENGTH + length <= size
                    and (self._destination is None or frame[self._mac_at : self._mac_at + 6] == self._destination)
                    and frame[at + 1] & 0x30 != 0x30  # congestion experienced, which the slow path reads
                    and fastpath.receive(pcb, frame, at, length, bool(self._vnet and frame[0] & _TRUSTED), now)
                ):
                    return
        if self.tcp.held:
            fastpath.settle(self.tcp, now)
        self.host.input(frame, now)

    def take_in(self, receive: Callable[[], Buffer | None], most: int, now: float) -> int:
        """Process at most so many of the frames that `receive` gives until it gives none; how many it were."""
        tcp, take = self.tcp, self.input
        tcp.reading = True
        try:
            for taken in range(most):
                frame = receive()
                if frame is None:
                    return taken
                take(frame, now)
            return most
        finally:
            tcp.reading = False
            if tcp.held:
                fastpath.settle(tcp, now)

    def advance(self, now: float) -> None:
        """Run the timers that are due."""
        self.timers.run(now)

    def output(self, now: float) -> list[Frame]:
        """Everything to put on the link now, in order."""
        self.tcp.flush(now)
        if not self._frames:
            return []
        frames = self._frames[:]
        self._frames.clear()
        self.counters.frames_out += len(frames)
        return frames

    def deadline(self) -> float | None:
        """When `advance` is needed next, to the instant; None for never."""
        return self.timers.deadline()

    def take_signals(self) -> list[tuple[Callable[[int], None], int]]:
        """News for the owners of sockets since the last call: (owner, signal bits)."""
        news = []
        for queue in self._signalled:
            while queue:
                socket = queue.popleft()
                bits, socket.signals = socket.signals, 0
                if bits and socket.owner is not None:  # no bits: its owner has been told meanwhile
                    news.append((socket.owner, bits))
        return news

    def has_signals(self) -> bool:
        """Whether `take_signals` would return anything."""
        return bool(self.tcp.signalled or self.udp.signalled)

    def check(self) -> None:
        """Raise AssertionError where an invariant does not hold; tests and fuzzers call it after each step."""
        self.tcp.check()
