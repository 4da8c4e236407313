"""The interface of a congestion controller: how many bytes may be in the network, and how fast they may leave.

A controller keeps `cwnd` and `ssthresh` in bytes and is told what happened; it never sees a packet.  Write one in a file
of your own by deriving from `CongestionControl`, and name it `your.module:YourClass` wherever a controller is named
(docs/congestion-controller.md has a whole one).  Window-based controllers implement `on_ack` and `on_congestion`; a rate-based
one also reads every `on_delivery`, sets `pacing_rate`, and declares `sets_own_window` so that recovery does not meter it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import TYPE_CHECKING, ClassVar

from ...userclass import user_class
from ...wire.tcp import DEFAULT_MSS

if TYPE_CHECKING:
    from ..acknowledged import Acknowledged

INITIAL_WINDOW_SEGMENTS = 10
"""RFC 6928."""
_PACING_IN_SLOW_START = 2.0
_PACING_IN_AVOIDANCE = 1.2


@dataclass(frozen=True, slots=True)
class Saved:
    """What a controller knew before it reduced, for `restore`; `inner` is its own."""

    cwnd: int
    ssthresh: int
    inner: tuple[float, ...] = ()


class CongestionControl(ABC):
    """How fast one connection may send.  `mss` is the sender's segment size in bytes.

    pacing_rate: bytes per second, None where the window alone limits.  paced: whether a window-based controller spreads its
    window over the round trip.
    """

    __slots__ = ("cwnd", "mss", "paced", "pacing_rate", "ssthresh")

    decrease: ClassVar[float] = 0.5
    """What is left of the window after a loss."""
    sets_own_window: ClassVar[bool] = False
    """Whether `cwnd` also holds while losses are repaired, instead of proportional rate reduction."""

    def __init__(self, mss: int, paced: bool = False) -> None:
        self.mss = mss
        self.cwnd = INITIAL_WINDOW_SEGMENTS * mss
        self.ssthresh = 1 << 62
        self.paced = paced
        self.pacing_rate: float | None = None

    @property
    def phase(self) -> str:
        """Where the controller stands, in a word, for statistics."""
        return "slow start" if self.cwnd < self.ssthresh else "avoidance"

    def mss_changed(self, mss: int) -> None:
        """The path MTU changed."""
        self.mss = mss
        self.cwnd = max(self.cwnd, 2 * mss)

    @abstractmethod
    def on_ack(self, news: Acknowledged, now: float) -> None:
        """An acknowledgement outside of recovery; cwnd may grow."""

    def on_delivery(self, news: Acknowledged, now: float) -> None:
        """Any acknowledgement that delivered something, in recovery too."""
        if self.paced and news.srtt:
            gain = _PACING_IN_SLOW_START if self.cwnd < self.ssthresh else _PACING_IN_AVOIDANCE
            self.pacing_rate = gain * self.cwnd / news.srtt

    @abstractmethod
    def on_congestion(self, in_flight: int, now: float) -> None:
        """Loss or a mark was noticed with `in_flight` bytes outstanding: reduce `ssthresh` and set `cwnd` to it."""

    def on_timeout(self, in_flight: int, now: float) -> None:
        """The retransmission timer fired for the first time for this data (RFC 5681 §3.1, equation 4)."""
        self.on_congestion(in_flight, now)
        self.cwnd = self.mss

    def on_timeout_in_recovery(self, in_flight: int) -> None:
        """The timer fired while losses were being repaired that have reduced `ssthresh`: it stays, within equation 4."""
        self.ssthresh = min(self.ssthresh, max(int(in_flight * self.decrease), 2 * self.mss))
        self.cwnd = self.mss

    def on_repeated_timeout(self) -> None:
        """The timer fired once more before its data arrived; `ssthresh` is held (RFC 5681 §3.1)."""
        self.cwnd = self.mss

    def on_idle(self, idle: float) -> None:
        """Nothing was sent for `idle` seconds, longer than an RTO (RFC 5681 §4.1)."""
        self.cwnd = min(self.cwnd, INITIAL_WINDOW_SEGMENTS * self.mss)

    def save(self) -> Saved:
        """What `restore` needs to take back a reduction."""
        return Saved(self.cwnd, self.ssthresh)

    def restore(self, saved: Saved) -> None:
        """The reduction was a mistake (RFC 4015 §3.2)."""
        self.cwnd = max(self.cwnd, saved.cwnd)
        self.ssthresh = max(self.ssthresh, saved.ssthresh)


def used_up(news: Acknowledged, cwnd: int) -> bool:
    """Whether the window was in use before this was acknowledged: one that is not used must not grow (RFC 9438 §4.2, RFC 7661).

    What counts is the last round trip, not this moment: acknowledgements may come in a bunch, before anything can be sent.
    """
    return 2 * news.peak >= cwnd


BUILT_IN = {
    "bbr": "tapstack.tcp.congestion.bbr:Bbr",
    "cubic": "tapstack.tcp.congestion.cubic:Cubic",
    "newreno": "tapstack.tcp.congestion.newreno:NewReno",
}
"""Short names."""


def known() -> list[str]:
    """The names of the built-in controllers."""
    return sorted(BUILT_IN)


@cache
def load_controller(name: str) -> type[CongestionControl]:
    """The controller that is named: a built-in name, or `module:Class`.

    >>> load_controller("cubic").__name__
    'Cubic'

    Raises `ValueError` with a sentence that says what to change.
    """
    found = user_class(name, "congestion controller", CongestionControl, BUILT_IN)  # type: ignore[type-abstract]
    try:
        made = found(DEFAULT_MSS, False)
    except Exception as error:
        fault = f"{type(error).__name__}: {error}"
        raise ValueError(f"the congestion controller {name} cannot be made of a segment size: {fault}") from error
    if name in BUILT_IN:
        return found
    _check(made, name)
    return _looked_at(found, name)


_TOLD = (
    "mss_changed",
    "on_ack",
    "on_delivery",
    "on_congestion",
    "on_timeout",
    "on_timeout_in_recovery",
    "on_repeated_timeout",
    "on_idle",
    "restore",
)


def _looked_at(kind: type[CongestionControl], name: str) -> type[CongestionControl]:
    """A user's own controller, whose window and pace are looked at after each call.

    Elsewhere a fraction of a byte is an error without the name of its cause, and a window of nothing none at all: the connection
    would wait for ever.
    """

    def telling(method: Callable[..., None]) -> Callable[..., None]:
        @wraps(method)
        def told(self: CongestionControl, *arguments: object) -> None:
            method(self, *arguments)
            _check(self, name)

        return told

    members = {each: telling(getattr(kind, each)) for each in _TOLD}
    made: type[CongestionControl] = type(
        kind.__name__, (kind,), {"__slots__": (), "__module__": kind.__module__, **members}
    )
    return made


def _check(controller: CongestionControl, name: str) -> None:
    window: object = controller.cwnd
    rate: object = controller.pacing_rate
    if not isinstance(window, int) or window < controller.mss:
        raise ValueError(
            f"{name} sets cwnd to {window!r}: it is a whole number of bytes, one segment ({controller.mss}) at least"
        )
    if rate is not None and not (isinstance(rate, int | float) and 0 < rate < math.inf):
        raise ValueError(f"{name} sets pacing_rate to {rate!r}: it is a number of bytes per second above zero, or None")


def create(name: str, mss: int, paced: bool = False) -> CongestionControl:
    """A controller by name, for one connection; `ValueError` as `load_controller`."""
    return load_controller(name)(mss, paced)
