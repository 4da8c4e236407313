"""Packets of a node to its own addresses: they turn round inside the host and never touch the link.

Paths to such addresses lead to `OURSELVES`, a neighbour without a link header, so every packet for it comes by
`Host.transmit_queued`, complete with its checksum, and the paths of all others pay nothing.  It arrives soon, but not within the
call that sends it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..events import DropReason
from .interface import Interface
from .neighbors import Neighbor

LOOPED_QUEUE = 1024
"""Packets that are on their way at a time."""

OURSELVES = Neighbor(bytes(16))
"""The neighbour of a path to an address of this node: no frame ever goes there."""


class Loopback:
    """Keeps the packets that are on their way; `arrive(packet, now)` takes them."""

    def __init__(self, interface: Interface, arrive: Callable[[bytes, float], None]) -> None:
        self._counters = interface.counters
        self._arrive = arrive
        self._waiting: deque[bytes] = deque()
        self._timer = interface.timers.timer(self._due)

    def send(self, packet: bytes, now: float) -> None:
        """A packet from its IPv6 header on."""
        if len(self._waiting) >= LOOPED_QUEUE:
            self._counters.drop(DropReason.NEIGHBOR_QUEUE)
            return
        self._waiting.append(packet)
        self._timer.set(now)

    def _due(self, now: float) -> None:
        for _ in range(len(self._waiting)):
            self._arrive(self._waiting.popleft(), now)
