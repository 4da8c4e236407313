"""One UDP flow: a local address and port, and the peer it talks to, if only one (UM-DAS-6).

A flow is a user of its address: a one-time address lives while its flow is open, and answers only those whom the flow
serves.  A flow never calls its owner from inside the stack; it collects `Signal` bits, and whoever drives the stack takes
them and calls `owner` (see `Stack.take_signals`).

What arrives waits in a queue bounded in datagrams and bytes; what does not fit is dropped and counted.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from ..events import DropReason
from ..ipv6.addresses import AddressEntry
from ..ipv6.packet import IcmpError
from ..signals import Signal
from ..types import Buffer, address_text, is_multicast, valid_peer
from ..wire import ipv6, udp

if TYPE_CHECKING:
    from .layer import Udp

QUEUE_DATAGRAMS = 256
QUEUE_BYTES = 1 << 20
PEERS_REMEMBERED = 64
ERRORS_REMEMBERED = 16
MAXIMUM_DATA = ipv6.MAXIMUM_PAYLOAD - udp.HEADER_LENGTH
"""Largest datagram in bytes of payload; above the path MTU it travels in fragments."""


class FlowClosed(ConnectionError):
    """The flow has been closed, or its address is gone."""


class Datagram(NamedTuple):
    """A received datagram and who sent it."""

    data: bytes
    remote: bytes
    remote_port: int


class UdpFlow:
    """Made by `Udp.open`.

    entry: the local address.  local_port.  remote, remote_port: the peer, None for a flow that talks to anybody.
    owner: called with `Signal` bits by whoever drives the stack.  last_used: when something was sent or received, so
    that its owner can end it after an idle time.
    """

    def __init__(
        self,
        layer: Udp,
        entry: AddressEntry,
        local_port: int,
        remote: bytes | None,
        remote_port: int | None,
        flow_label: int,
        now: float,
    ) -> None:
        self._layer = layer
        self._flow_label = flow_label
        self._queue: deque[Datagram] = deque()
        self._queued_bytes = 0
        self._peers: OrderedDict[bytes, None] = OrderedDict()
        self._errors: deque[IcmpError] = deque(maxlen=ERRORS_REMEMBERED)
        self.entry = entry
        self.local_port = local_port
        self.remote = remote
        self.remote_port = remote_port
        self.owner: Callable[[int], None] | None = None
        self.signals = 0
        self.last_used = now
        self.closed = False
        self._heard = False

    @property
    def key(self) -> bytes:
        """Its place in the demultiplexing table: local address and port, and the peer's of a connected flow."""
        return flow_key(self.entry.address, self.local_port, self.remote, self.remote_port)

    # -- API -------------------------------------------------------------------------------------

    def send(self, data: Buffer, now: float, remote: bytes | None = None, remote_port: int | None = None) -> None:
        """Send one datagram to the peer, or to the one named by a flow without a fixed one.

        Raises `FlowClosed`, `NoRouteError`, and ValueError for a datagram that is too long, or whose destination is none.
        """
        if self.closed:
            raise FlowClosed(f"the flow on {address_text(self.entry.address)} is closed")
        if self.remote is not None:
            if remote is not None and (remote, remote_port) != (self.remote, self.remote_port):
                raise ValueError("this flow has another peer")
            remote, remote_port = self.remote, self.remote_port
        elif remote is not None and not (valid_peer(remote) or is_multicast(remote)):
            raise ValueError(f"no datagram goes to {address_text(remote)}")
        if remote is None or remote_port is None:
            raise ValueError("a datagram needs a destination address and port")
        if not 0 <= remote_port <= 0xFFFF:
            raise ValueError(f"{remote_port} is no port")
        if not isinstance(data, bytes):
            data = memoryview(data).tobytes()  # a view's length need not be that of its bytes
        if len(data) > MAXIMUM_DATA:
            raise ValueError(f"a datagram carries up to {MAXIMUM_DATA} bytes, not {len(data)}")
        host = self._layer.host
        host.path(remote, now)
        self._remember(remote)
        header = udp.pack(self.entry.address, remote, self.local_port, remote_port, data)
        host.send(self.entry.address, remote, ipv6.UDP, [header, data], now, flow_label=self._flow_label)
        self.last_used = now

    def receive(self) -> Datagram | None:
        """The oldest datagram that waits; None when none does."""
        if not self._queue:
            return None
        datagram = self._queue.popleft()
        self._queued_bytes -= len(datagram.data)
        return datagram

    def take_errors(self) -> list[IcmpError]:
        """ICMPv6 errors about datagrams of this flow since the last call, oldest first."""
        errors = list(self._errors)
        self._errors.clear()
        return errors

    def close(self, now: float, cause: str = "closed") -> None:
        """End the flow; a one-time address goes with its last user.  Harmless when called again.

        What waits for a neighbour's resolution goes with the address (UM-ADDR-9).
        """
        self._layer.close_flow(self, now, cause)

    # -- AddressUser -------------------------------------------------------------------------------

    def serves(self, remote: bytes) -> bool:
        """Whether `remote` is the peer, or one of those that this flow has lately sent to."""
        return remote == self.remote if self.remote is not None else remote in self._peers

    @property
    def heard(self) -> bool:
        """Whether a datagram, or an error about one, has come."""
        return self._heard

    # -- for the layer -----------------------------------------------------------------------------

    def deliver(self, data: bytes, remote: bytes, remote_port: int, now: float) -> bool:
        """A datagram arrived; False when the queue is full."""
        self._heard = True
        if len(self._queue) >= QUEUE_DATAGRAMS or self._queued_bytes + len(data) > QUEUE_BYTES:
            self._layer.counters.drop(DropReason.UDP_QUEUE)
            return False
        self._queue.append(Datagram(data, remote, remote_port))
        self._queued_bytes += len(data)
        self.last_used = now
        self.signal(Signal.READABLE)
        return True

    def report(self, error: IcmpError) -> None:
        """An ICMPv6 error about a datagram of this flow."""
        self._heard = True
        self._errors.append(error)
        self.signal(Signal.TROUBLE)

    def signal(self, bits: int) -> None:
        """Collect news for the owner."""
        if not self.signals:
            self._layer.signalled.append(self)
        self.signals |= bits

    def _remember(self, remote: bytes) -> None:
        if self.remote is None:
            self._peers[remote] = None
            self._peers.move_to_end(remote)
            if len(self._peers) > PEERS_REMEMBERED:
                self._peers.popitem(last=False)

    def __repr__(self) -> str:
        peer = f"[{address_text(self.remote)}]:{self.remote_port}" if self.remote else "anybody"
        return f"<UdpFlow [{address_text(self.entry.address)}]:{self.local_port} ↔ {peer}>"


def flow_key(local: bytes, local_port: int, remote: bytes | None, remote_port: int | None) -> bytes:
    """The key of a flow in the table of the layer."""
    key = local + local_port.to_bytes(2, "big")
    return key if remote is None or remote_port is None else key + remote + remote_port.to_bytes(2, "big")
