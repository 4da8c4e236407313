"""Buffer autotuning, bounded per connection by its options and per node by a budget (ST-TCP-12).

Receiving: the window is twice what the application took in the last round trip, so that a sender that doubles each round
trip is never held back by it (dynamic right-sizing).  Sending: the application may have two congestion windows waiting,
one in flight and one behind it.  Both begin at their option's size, which is not charged; what they grow by is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import Connection

NODE_BUDGET = 1 << 30
"""Bytes by which all buffers of a node together may outgrow their first sizes."""


class BufferBudget:
    """What a node's buffers may grow by.

    >>> budget = BufferBudget(100)
    >>> budget.take(60), budget.take(60), budget.used
    (60, 40, 100)
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = NODE_BUDGET) -> None:
        self.limit = limit
        self.used = 0

    def take(self, wanted: int) -> int:
        """As much of `wanted` as is left, charged."""
        given = max(0, min(wanted, self.limit - self.used))
        self.used += given
        return given

    def give_back(self, size: int) -> None:
        """A connection ended."""
        self.used -= size


def grow_receive(connection: Connection, now: float) -> None:
    """Once per round trip: widen the receive buffer to twice what was read since."""
    receiver = connection.receiver
    srtt = connection.rtt.srtt
    if srtt is None or now - receiver.measured_at < max(srtt, 0.001):
        return
    wanted = min(2 * receiver.measured_bytes, receiver.capacity_maximum)
    if receiver.measured_at and wanted > receiver.capacity:
        given = connection.tcp.budget.take(wanted - receiver.capacity)
        receiver.capacity += given
        receiver.granted += given
    receiver.measured_at = now
    receiver.measured_bytes = 0


def grow_send(connection: Connection) -> None:
    """cwnd has outgrown half of the send buffer; one that the application set by itself stays as it is."""
    if connection.high_water != connection.auto_high_water:
        return
    wanted = min(2 * connection.sender.congestion.cwnd, connection.options.send_buffer_maximum)
    if wanted > connection.high_water:
        given = connection.tcp.budget.take(wanted - connection.high_water)
        connection.high_water += given
        connection.auto_high_water = connection.high_water
        connection.low_water = connection.high_water // 2
        connection.receiver.granted += given


def release(connection: Connection) -> None:
    """The connection ended: what its buffers grew by is free."""
    connection.tcp.budget.give_back(connection.receiver.granted)
    connection.receiver.granted = 0
