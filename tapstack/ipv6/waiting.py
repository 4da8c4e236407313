"""Packets of ours that wait for a neighbour's link-layer address (RFC 4861 §7.2.2).

Per neighbour a queue, bounded by `HostConfig.neighbor_queue` packets and `neighbor_queue_bytes`; of a packet in fragments the
first counts, and it goes with the others.  An address that is given up takes what it has said with it (UM-ADDR-9); the
resolution that it began goes on: its pace is the neighbour's, whoever asks.
"""

from __future__ import annotations

from collections import Counter, deque

from ..events import DropReason
from ..wire import ipv6
from .addresses import AddressEntry
from .interface import Interface


class _Queue:
    """packets: (virtio header, packet from its IPv6 header on), the oldest first; size: their bytes."""

    __slots__ = ("packets", "size")

    def __init__(self) -> None:
        self.packets: deque[tuple[bytes, bytes]] = deque()
        self.size = 0


class WaitingPackets:
    """The queues of one interface, by the neighbour's address."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._queues: dict[bytes, _Queue] = {}
        self._sources: Counter[bytes] = Counter()
        """source → how many packets from it wait, so that an address without any goes at no cost"""

    def __contains__(self, neighbor: bytes) -> bool:
        return neighbor in self._queues

    def add(self, neighbor: bytes, packet: bytes, virtio_header: bytes) -> None:
        """One packet more; the oldest goes, with all its fragments, when there are too many."""
        config = self._interface.config
        queue = self._queues.setdefault(neighbor, _Queue())
        packets = queue.packets
        packets.append((virtio_header, packet))
        queue.size += len(packet)
        self._sources[packet[8:24]] += 1
        whole = sum(not _continues(each) for _, each in packets) if len(packets) > config.neighbor_queue else 0
        while whole > config.neighbor_queue or (queue.size > config.neighbor_queue_bytes and len(packets) > 1):
            _, oldest = packets.popleft()
            queue.size -= len(oldest)
            self._waits_no_more(oldest, DropReason.NEIGHBOR_QUEUE)
            if not _continues(packets[0][1]):
                whole -= 1

    def take(self, neighbor: bytes, reason: DropReason | None = None) -> deque[tuple[bytes, bytes]]:
        """What waits for a neighbour, to be sent; or to be dropped, for a reason that is counted."""
        queue = self._queues.pop(neighbor, None)
        if queue is None:
            return deque()
        for _, packet in queue.packets:
            self._waits_no_more(packet, reason)
        return queue.packets

    def withdraw(self, source: AddressEntry) -> None:
        """Drop what waits from an address of ours for those to whom it does not speak, or does not speak any more."""
        if source.address not in self._sources:
            return
        for neighbor, queue in list(self._queues.items()):
            waiting, queue.packets = queue.packets, deque()
            for each in waiting:
                packet = each[1]
                if packet[8:24] != source.address or source.speaks_to(packet[24:40]):
                    queue.packets.append(each)
                else:
                    queue.size -= len(packet)
                    self._waits_no_more(packet, DropReason.ADDRESS_SILENT)
            if not queue.packets:
                del self._queues[neighbor]

    def last_source(self, neighbor: bytes) -> bytes | None:
        """The source of the packet that came last; None where none waits."""
        queue = self._queues.get(neighbor)
        return queue.packets[-1][1][8:24] if queue is not None else None

    def wanted(self, neighbor: bytes) -> bool:
        """Whether something waits that a user of an address of ours says to its peer: no mere answer to a stranger."""
        queue = self._queues.get(neighbor)
        if queue is None:
            return False
        entry = self._interface.addresses.get
        packets = (packet for _, packet in queue.packets)
        return any((ours := entry(each[8:24])) is not None and ours.users.serve(each[24:40]) for each in packets)

    def _waits_no_more(self, packet: bytes, reason: DropReason | None) -> None:
        source = packet[8:24]
        self._sources[source] -= 1
        if not self._sources[source]:
            del self._sources[source]
        if reason is not None:
            self._interface.counters.drop(reason)

    def check(self) -> None:
        """Raise AssertionError where an invariant of the queues does not hold."""
        for queue in self._queues.values():
            assert queue.packets
            assert queue.size == sum(len(packet) for _, packet in queue.packets)
        waiting = (queue.packets for queue in self._queues.values())
        assert self._sources == Counter(packet[8:24] for packets in waiting for _, packet in packets)
        assert all(source in self._interface.addresses for source in self._sources), "a source that is gone"


def _continues(packet: bytes) -> bool:
    """Whether a packet of ours is a fragment, and not its packet's first."""
    return packet[6] == ipv6.FRAGMENT and int.from_bytes(packet[42:44], "big") >> 3 > 0
