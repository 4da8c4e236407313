"""Links inside one process: a wire between two nodes, and a switch for any number of them (ST-LINK-3).

Model.  A frame that is sent enters a fabric, which hands it to the receiving ports after a constant latency, in
the order of sending.  Each port has a bounded queue in front of its owner; what does not fit is dropped and
counted.  The switch learns, like any Ethernet bridge, behind which port a source address lives; it forwards to
that port and floods what it does not know, as it does all multicast.

Invariants.
- Nothing is delivered inside `send`, even with a latency of zero: delivery is a callback of the loop, so two nodes
  cannot call each other in a circle.
- Frames between two ports stay in order.
- Memory is bounded: per port (`queue_limit`), in flight (`fabric_limit`), and in the address table (`table_limit`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeAlias

from ..types import Frame
from ..wire import ethernet
from .base import Link, LinkProperties
from .counters import LinkCounters, LinkDrop
from .inbox import Inbox
from .schedule import DelayQueue

QUEUE_LIMIT = 1000
FABRIC_LIMIT = 65_536
TABLE_LIMIT = 4096
AGEING = 300.0

Observer: TypeAlias = Callable[[float, int, bytes], None]
"""Gets (loop time in seconds, port it entered by, frame) of each frame that enters a fabric."""


class MemoryLink(Link):
    """One end of a `MemoryWire`, or one port of a `MemorySwitch`; made by these."""

    def __init__(self, fabric: _Fabric, port: int, properties: LinkProperties, queue_limit: int) -> None:
        """For fabrics only."""
        self.port = port
        self.counters = LinkCounters()
        self._fabric = fabric
        self._properties = properties
        self._largest = properties.mtu + (ethernet.HEADER_LENGTH if properties.mac is not None else 0)
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
            self.counters.received += 1
            self.counters.received_bytes += len(frame)
        return frame

    def send(self, frame: Frame) -> bool:
        """Put one frame on its way; False when it is dropped here: too large, or the fabric is full."""
        whole = b"".join(frame)
        if self._closed:
            self.counters.drops[LinkDrop.CLOSED] += 1
        elif not self._plugged:
            self.counters.drops[LinkDrop.DEVICE_DOWN] += 1
        elif len(whole) > self._largest:
            self.counters.drops[LinkDrop.OVERSIZE] += 1
        elif not self._fabric.enter(self, whole):
            self.counters.drops[LinkDrop.QUEUE_FULL] += 1
        else:
            self.counters.sent += 1
            self.counters.sent_bytes += len(whole)
            return True
        return False

    def close(self) -> None:
        """Leave the fabric; frames still waiting are forgotten."""
        if not self._closed:
            self._closed = True
            self._inbox.close()
            self._fabric.leave(self)

    def put(self, frame: bytes) -> None:
        """Queue a frame that arrived; the fabric calls it, and `announce` after the last one of a batch."""
        if not self._plugged:
            self.counters.drops[LinkDrop.DEVICE_DOWN] += 1
        elif not self._closed and not self._inbox.put(frame):
            self.counters.drops[LinkDrop.QUEUE_FULL] += 1

    def announce(self) -> None:
        """Tell the owner of the frames that were put."""
        self._inbox.announce()


class _Fabric:
    """What carries frames between in-memory links."""

    def __init__(self, latency: float, fabric_limit: int, loop: asyncio.AbstractEventLoop | None) -> None:
        self.loop = loop or asyncio.get_running_loop()
        self.latency = latency
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
        """Take a frame from a port; False when too many are in flight."""
        now = self.loop.time()
        if not self._moving.push(now + self.latency, (source, frame)):
            return False
        for observer in self._observers:
            observer(now, source.port, frame)
        return True

    def leave(self, link: MemoryLink) -> None:
        """Forget a port."""
        self._ports.pop(link.port, None)

    def _arrive(self, batch: list[tuple[MemoryLink, bytes]]) -> None:
        reached: dict[int, MemoryLink] = {}  # a dict for its order: who gets a frame first is woken first
        for source, frame in batch:
            for link in self._targets(source, frame):
                link.put(frame)
                reached[link.port] = link
        for link in reached.values():
            link.announce()

    def _targets(self, source: MemoryLink, frame: bytes) -> list[MemoryLink]:
        """The ports that `frame`, which came in by `source`, goes out by."""
        raise NotImplementedError


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
        self.flooded = 0
        self._table_limit = table_limit
        self._ageing = ageing
        self._table: dict[bytes, tuple[MemoryLink, float]] = {}

    def connect(self, mac: bytes, *, mtu: int | None = None, queue_limit: int = QUEUE_LIMIT) -> MemoryLink:
        """A new port, for a node with the link-layer address `mac`; queue_limit: frames that wait for the node."""
        if len(mac) != 6 or mac[0] & 1:
            raise ValueError(f"not a unicast MAC address: {mac.hex(':')}")
        return self._add(LinkProperties(mtu=mtu or self.mtu, mac=mac), queue_limit)

    def leave(self, link: MemoryLink) -> None:
        """Forget a port and what was learnt of it."""
        super().leave(link)
        for mac in [mac for mac, (port, _) in self._table.items() if port is link]:
            del self._table[mac]

    def enter(self, source: MemoryLink, frame: bytes) -> bool:
        """Take a frame from a port; one without a whole header, or from a group address, is counted and goes nowhere."""
        if len(frame) < ethernet.HEADER_LENGTH or frame[6] & 1:
            source.counters.drops[LinkDrop.MALFORMED] += 1
            return True
        return super().enter(source, frame)

    def where(self, mac: bytes) -> int | None:
        """The port behind which `mac` lives, as far as the switch knows."""
        known = self._table.get(mac)
        if known is None or known[1] + self._ageing < self.loop.time():
            return None
        return known[0].port

    def _targets(self, source: MemoryLink, frame: bytes) -> list[MemoryLink]:
        now = self.loop.time()
        table = self._table
        if source.port in self._ports:
            table.pop(frame[6:12], None)  # so that the dict's order is that of the last frame
            table[frame[6:12]] = (source, now)
            if len(table) > self._table_limit:
                del table[next(iter(table))]
        if not frame[0] & 1:
            known = table.get(frame[:6])
            if known is not None and known[1] + self._ageing >= now:
                return [known[0]] if known[0] is not source else []
        self.flooded += 1
        return [link for link in self._ports.values() if link is not source]
