"""The interface of a congestion controller: how many bytes may be in flight.

A controller keeps `cwnd` and `ssthresh` in bytes and is told what happened; it never sees a packet.  Write one in
a file of your own by deriving from `CongestionControl`, and name it in `SocketOptions.congestion` after
`register`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

INITIAL_WINDOW_SEGMENTS = 10
"""RFC 6928."""


class CongestionControl(ABC):
    """How fast one connection may send.  `mss` is the sender's segment size in bytes."""

    __slots__ = ("cwnd", "mss", "ssthresh")

    def __init__(self, mss: int) -> None:
        self.mss = mss
        self.cwnd = INITIAL_WINDOW_SEGMENTS * mss
        self.ssthresh = 1 << 62

    def mss_changed(self, mss: int) -> None:
        """The path MTU changed."""
        self.mss = mss
        self.cwnd = max(self.cwnd, 2 * mss)

    @abstractmethod
    def on_ack(self, acked: int, in_flight: int, now: float, srtt: float) -> None:
        """`acked` bytes were newly acknowledged outside loss recovery; `in_flight` was before the ACK."""

    @abstractmethod
    def on_congestion(self, in_flight: int, now: float) -> None:
        """Loss or a mark was noticed: reduce `ssthresh` and set `cwnd` to it."""

    def on_timeout(self, in_flight: int, now: float) -> None:
        """The retransmission timer fired for the first time for this data (RFC 5681 §3.1, equation 4)."""
        self.on_congestion(in_flight, now)
        self.cwnd = self.mss

    def on_idle(self) -> None:
        """Nothing was sent for longer than an RTO (RFC 5681 §4.1)."""
        self.cwnd = min(self.cwnd, INITIAL_WINDOW_SEGMENTS * self.mss)

    def pacing_rate(self) -> float | None:
        """Bytes per second to pace at; None where the window alone limits."""
        return None


_REGISTRY: dict[str, Callable[[int], CongestionControl]] = {}


def register(name: str, factory: Callable[[int], CongestionControl]) -> None:
    """Make a controller known under `name`; `factory(mss)` makes one."""
    _REGISTRY[name] = factory


def create(name: str, mss: int) -> CongestionControl:
    """A controller by name; ValueError names the known ones."""
    try:
        return _REGISTRY[name](mss)
    except KeyError:
        raise ValueError(f"no congestion controller {name!r}; known: {', '.join(sorted(_REGISTRY))}") from None
