"""Links inside one process: a wire between two nodes, and a switch for any number of them (ST-LINK-3).

Model.  A frame that is sent enters a fabric, which hands it to the receiving ports after a constant latency, in
the order of sending.  Each port has a bounded queue in front of its owner; what does not fit is dropped and
counted.  The switch learns, like any Ethernet bridge, behind which port a source address lives; it forwards to
that port and floods what it does not know, as it does all multicast.

A port may be made with *offload*, as a virtual machine's is: its frames have virtio headers, and between two such ports
nobody computes TCP's checksum, since nothing between them can damage a frame.  Whoever sees the frames from outside, an observer
or a port without offload, gets them with the checksum finished.

Invariants.
- Nothing is delivered inside `send`, even with a latency of zero: delivery is a callback of the loop, so two nodes
  cannot call each other in a circle.
- Frames between two ports stay in order.
- Memory is bounded: per port (`queue_limit`), in flight (`fabric_limit`), and in the address table (`table_limit`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ClassVar, TypeAlias

from ..types import Frame
from ..wire import ethernet, virtio
from .base import Link, LinkProperties
from .counters import LinkCounters, LinkDrop
from .inbox import Inbox
from .schedule import DelayQueue

QUEUE_LIMIT = 1000
FABRIC_LIMIT = 65_536
TABLE_LIMIT = 4096
AGEING = 300.0

Observer: TypeAlias = Callable[[float, int, bytes], None]
"""Gets (loop time in seconds, port it entered by, frame) of each frame that enters a fabric, without a virtio header."""


class MemoryLink(Link):
    """One end of a `MemoryWire`, or one port of a `MemorySwitch`; made by these."""

    def __init__(self, fabric: _Fabric, port: int, properties: LinkProperties, queue_limit: int) -> None:
        """For fabrics only."""
        self.port = port
        self.counters = LinkCounters()
        self._fabric = fabric
        self._properties = properties
        self.wire_at = virtio.HEADER_LENGTH if properties.vnet_header else 0
        """where in a frame of this link the wire begins, behind the virtio header"""
        self._largest = self.wire_at + properties.mtu + (ethernet.HEADER_LENGTH if properties.mac is not None else 0)
        self._inbox = Inbox(queue_limit)
        self._changed: Callable[[bool], None] = lambda up: None
        self._plugged = True
        self._closed = False

    @property
    def properties(self) -> LinkProperties:
        """Constant while the link is open."""
        return self._properties

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Call `wake()` whenever frames arrived.  `loop` must be the fabric's own."""
        if loop is not self._fabric.loop:
            raise ValueError("an in-memory link belongs to the event loop it was made for")
        self._inbox.attach(loop, wake)

    def watch(self, changed: Callable[[bool], None]) -> None:
        """Call `changed(up)` when the link is unplugged or plugged in."""
        self._changed = changed

    def plug(self, plugged: bool) -> None:
        """Pull the plug, or put it back: meanwhile frames in both directions are dropped and counted."""
        if plugged != self._plugged:
            self._plugged = plugged
            self._changed(plugged)

    def receive(self) -> bytes | None:
        """The next frame; None when none waits."""
        frame = self._inbox.take()
        if frame is not None:
            counters = self.counters
            counters.received += 1
            counters.received_bytes += len(frame)
        return frame

    def send(self, frame: Frame) -> bool:
        """Put one frame on its way; False when it is dropped here: too large, or the fabric is full."""
        whole = b"".join(frame)
        size = len(whole)
        counters = self.counters
        if self._closed:
            counters.drops[LinkDrop.CLOSED] += 1
        elif not self._plugged:
            counters.drops[LinkDrop.DEVICE_DOWN] += 1
        elif size > self._largest:
            counters.drops[LinkDrop.OVERSIZE] += 1
        elif not self._fabric.enter(self, whole):
            counters.drops[LinkDrop.QUEUE_FULL] += 1
        else:
            counters.sent += 1
            counters.sent_bytes += size
            return True
        return False

    def close(self) -> None:
        """Leave the fabric; frames still waiting are forgotten."""
        if not self._closed:
            self._closed = True
            self._inbox.close()
            self._fabric.leave(self)

    def put(self, frames: list[bytes]) -> None:
        """Queue frames that arrived together; the fabric calls it, and then `announce`."""
        if not self._plugged:
            self.counters.drops[LinkDrop.DEVICE_DOWN] += len(frames)
        elif not self._closed:
            dropped = len(frames) - self._inbox.put_all(frames)
            if dropped:
                self.counters.drops[LinkDrop.QUEUE_FULL] += dropped

    def announce(self) -> None:
        """Tell the owner of the frames that were put."""
        self._inbox.announce()


class _Fabric:
    """What carries frames between in-memory links."""

    _addressed: ClassVar = False
    """Whether frames have Ethernet headers by which they find their way."""

    def __init__(self, latency: float, fabric_limit: int, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop or asyncio.get_running_loop()
        self.latency = latency
        self._now = self.loop.time
        self._ports: dict[int, MemoryLink] = {}
        self._next_port = 0
        self._observers: list[Observer] = []
        self._moving: DelayQueue[tuple[MemoryLink, bytes]] = DelayQueue(self.loop, self._arrive, fabric_limit)

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` with each frame as it enters; returns the function that ends it.

        Frames enter in the order of cause and effect, each once, however many ports it will reach.
        """
        self._observers.append(observer)
        return lambda: self._observers.remove(observer)

    def close(self) -> None:
        """Close all ports and forget what is in flight."""
        for link in list(self._ports.values()):
            link.close()
        self._moving.clear()

    def _add(self, properties: LinkProperties, queue_limit: int) -> MemoryLink:
        link = MemoryLink(self, self._next_port, properties, queue_limit)
        self._ports[self._next_port] = link
        self._next_port += 1
        return link

    def enter(self, source: MemoryLink, frame: bytes) -> bool:
        """Take a frame from a port; False when too many are in flight.

        Where frames have addresses, one without a whole header, or from a group address, is counted and goes nowhere.
        """
        if self._addressed:
            at = source.wire_at
            if len(frame) < at + ethernet.HEADER_LENGTH or frame[at + 6] & 1:
                source.counters.drops[LinkDrop.MALFORMED] += 1
                return True
        now = self._now()
        if not self._moving.push(now + self.latency, (source, frame)):
            return False
        if self._observers:
            wire = virtio.completed(frame) if source.wire_at else frame
            for observer in self._observers:
                observer(now, source.port, wire)
        return True

    def leave(self, link: MemoryLink) -> None:
        """Forget a port."""
        self._ports.pop(link.port, None)

    def _arrive(self, batch: list[tuple[MemoryLink, bytes]]) -> None:
        reached: dict[MemoryLink, list[bytes]] = {}  # in order: who gets a frame first is woken first
        for source, frame in batch:
            at = source.wire_at
            for link in self._targets(source, frame):
                arriving = frame if link.wire_at == at else _translated(frame, at)
                frames = reached.get(link)
                if frames is None:
                    reached[link] = [arriving]
                else:
                    frames.append(arriving)
        for link, frames in reached.items():
            link.put(frames)
        for link in reached:
            link.announce()

    def _targets(self, source: MemoryLink, frame: bytes) -> list[MemoryLink]:
        """The ports that `frame`, which came in by `source`, goes out by."""
        raise NotImplementedError


def _translated(frame: bytes, wire_at: int) -> bytes:
    """A frame of a port with offload for one without, or the other way round."""
    return virtio.completed(frame) if wire_at else virtio.PLAIN + frame


class MemoryWire(_Fabric):
    """A cable between two links, `a` and `b`; without MAC addresses it carries bare IPv6 packets, as TUN does."""

    def __init__(
        self,
        mac_a: bytes | None = None,
        mac_b: bytes | None = None,
        *,
        mtu: int = 1500,
        latency: float = 0.0,
        queue_limit: int = QUEUE_LIMIT,
        fabric_limit: int = FABRIC_LIMIT,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """latency: seconds from one end to the other; queue_limit and fabric_limit: frames; loop: the running one."""
        super().__init__(latency, fabric_limit, loop)
        self.a = self._add(LinkProperties(mtu=mtu, mac=mac_a), queue_limit)
        self.b = self._add(LinkProperties(mtu=mtu, mac=mac_b), queue_limit)

    def _targets(self, source: MemoryLink, frame: bytes) -> list[MemoryLink]:
        return [self.b if source is self.a else self.a]


class MemorySwitch(_Fabric):
    """A learning Ethernet switch; `connect` makes a port.

    >>> from tapstack.clock import run_virtual
    >>> async def main() -> tuple[float, bytes | None]:
    ...     loop = asyncio.get_running_loop()
    ...     switch = MemorySwitch(latency=0.002)
    ...     one, two = switch.connect(bytes.fromhex("020000000001")), switch.connect(bytes.fromhex("020000000002"))
    ...     arrived = asyncio.Event()
    ...     two.attach(loop, arrived.set)
    ...     one.send([ethernet.header(two.properties.mac, one.properties.mac), b"payload"])
    ...     await arrived.wait()
    ...     return loop.time(), two.receive()[14:]
    >>> run_virtual(main())
    (0.002, b'payload')
    """

    _addressed = True

    def __init__(
        self,
        *,
        mtu: int = 1500,
        latency: float = 0.0,
        table_limit: int = TABLE_LIMIT,
        ageing: float = AGEING,
        fabric_limit: int = FABRIC_LIMIT,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        """mtu: largest IPv6 packet, bytes; latency: seconds between any two ports; table_limit: addresses it remembers,
        the one not seen for longest goes first; ageing: seconds an address is remembered after its last frame;
        fabric_limit: frames in flight; loop: the running one unless given."""
        super().__init__(latency, fabric_limit, loop)
        self.mtu = mtu
        self._table_limit = table_limit
        self._ageing = ageing
        self._table: dict[bytes, tuple[MemoryLink, float]] = {}
        self._run: tuple[MemoryLink, bytes, float] | None = None
        self._run_targets: list[MemoryLink] = []

    def connect(
        self, mac: bytes, *, mtu: int | None = None, queue_limit: int = QUEUE_LIMIT, offload: bool = False
    ) -> MemoryLink:
        """A new port, for a node with the link-layer address `mac`.

        queue_limit: frames that wait for the node.  offload: TCP's checksums are left to the switch.
        """
        if len(mac) != 6 or mac[0] & 1:
            raise ValueError(f"not a unicast MAC address: {mac.hex(':')}")
        properties = LinkProperties(mtu=mtu or self.mtu, mac=mac, vnet_header=offload, checksum_offload=offload)
        return self._add(properties, queue_limit)

    def leave(self, link: MemoryLink) -> None:
        """Forget a port and what was learnt of it."""
        super().leave(link)
        self._run = None
        for mac in [mac for mac, (port, _) in self._table.items() if port is link]:
            del self._table[mac]

    def where(self, mac: bytes) -> int | None:
        """The port behind which `mac` lives, as far as the switch knows."""
        known = self._table.get(mac)
        if known is None or known[1] + self._ageing < self.loop.time():
            return None
        return known[0].port

    def _targets(self, source: MemoryLink, frame: bytes) -> list[MemoryLink]:
        now = self._now()
        at = source.wire_at
        run = (source, frame[at : at + 12], now)
        if run == self._run:  # of the frames of a run all go where the first one went
            return self._run_targets
        self._run = None
        table = self._table
        if source.port in self._ports:
            sender = frame[at + 6 : at + 12]
            table.pop(sender, None)  # so that the dict's order is that of the last frame
            table[sender] = (source, now)
            if len(table) > self._table_limit:
                del table[next(iter(table))]
        if not frame[at] & 1:
            known = table.get(frame[at : at + 6])
            if known is not None and known[1] + self._ageing >= now:
                self._run = run
                self._run_targets = [known[0]] if known[0] is not source else []
                return self._run_targets
        return [link for link in self._ports.values() if link is not source]
