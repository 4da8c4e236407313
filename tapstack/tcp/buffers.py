"""Buffer autotuning, bounded per connection by its options and per node by a budget (ST-TCP-12).

Receiving: the window is twice what the application took in the last round trip, so that a sender that doubles each round
trip is never held back by it (dynamic right-sizing).  Below `_EARLY` bytes it grows with what was read at all, which is
faster than slow start can be, and costs nothing where nobody reads.  Sending: the application may have two congestion windows
waiting, one in flight and one behind it.  Both begin at their option's size, which is not charged; what they grow by is.

So the memory of a node is bounded by its connections times their first sizes, and the budget.  A connection may hold no
more of the budget than is left of it (a dynamic threshold): many that hold much leave some for whoever comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .connection import Connection

NODE_BUDGET = 1 << 30
"""Bytes by which all buffers of a node together may outgrow their first sizes."""
_EARLY = 1 << 20


class BufferBudget:
    """What a node's buffers may grow by.

    >>> budget = BufferBudget(100)
    >>> budget.take(60, 0), budget.take(60, 0), budget.take(60, 0), budget.used
    (50, 25, 12, 87)
    """

    __slots__ = ("limit", "used")

    def __init__(self, limit: int = NODE_BUDGET) -> None:
        self.limit = limit
        self.used = 0

    def take(self, wanted: int, held: int) -> int:
        """As much of `wanted` as leaves no less than the taker has then, who has `held` already; charged."""
        given = max(0, min(wanted, (self.limit - self.used - held) // 2))
        self.used += given
        return given

    def give_back(self, size: int) -> None:
        """A connection ended."""
        self.used -= size


def grow_receive(connection: Connection, now: float) -> None:
    """Widen the receive buffer: at first with what was read, then once per round trip to twice what was read since."""
    receiver = connection.receiver
    if receiver.capacity < _EARLY:
        read = receiver.rcv_nxt - receiver.irs - 1 - receiver.queued  # one is the SYN
        _widen(connection, min(connection.options.receive_buffer + 2 * read, _EARLY))
    srtt = connection.rtt.srtt
    elapsed = now - receiver.measured_at
    if srtt is None or elapsed < 0.001 or elapsed < srtt:
        return
    if receiver.measured_at:
        _widen(connection, 2 * receiver.measured_bytes)
    receiver.measured_at = now
    receiver.measured_bytes = 0


def _widen(connection: Connection, wanted: int) -> None:
    receiver = connection.receiver
    wanted = min(wanted, receiver.capacity_maximum, receiver.largest_window)
    if wanted > receiver.capacity:
        receiver.capacity += _take(connection, wanted - receiver.capacity)


def grow_send(connection: Connection) -> None:
    """cwnd has outgrown half of the send buffer; one that the application set by itself stays as it is."""
    if connection.high_water != connection.auto_high_water:
        return
    wanted = min(2 * connection.sender.congestion.cwnd, connection.options.send_buffer_maximum)
    if wanted > connection.high_water:
        connection.high_water += _take(connection, wanted - connection.high_water)
        connection.auto_high_water = connection.high_water
        connection.low_water = connection.high_water // 2


def _take(connection: Connection, wanted: int) -> int:
    """What the node's budget gives a connection."""
    given = connection.tcp.budget.take(wanted, connection.receiver.granted)
    connection.receiver.granted += given
    return given


def release(connection: Connection) -> None:
    """The connection ended: what its buffers grew by is free."""
    connection.tcp.budget.give_back(connection.receiver.granted)
    connection.receiver.granted = 0
