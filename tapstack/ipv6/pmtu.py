"""Path MTUs by destination (RFC 8201).

Only destinations whose path MTU is smaller than the link's are remembered, and for `path_mtu_lifetime`; then the link's
MTU is tried again (RFC 8201 §4).  A smaller value comes from Packet Too Big, and only after the upper layer has found the
quoted packet to be one that it has in flight: see `Host.accept_path_mtu`.

The table is bounded; when it is full the value learnt longest ago is forgotten, which costs one more Packet Too Big.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from ..wire import ipv6
from .interface import Interface


class PathMtus:
    """on_change(dst, mtu): a destination's path MTU is another one now."""

    def __init__(self, interface: Interface, on_change: Callable[[bytes, int], None]) -> None:
        self._interface = interface
        self._on_change = on_change
        self._learnt: OrderedDict[bytes, tuple[int, float]] = OrderedDict()
        """destination → MTU and when it is forgotten, in order of that time"""
        self._timer = interface.timers.timer(self._expire)

    def __len__(self) -> int:
        return len(self._learnt)

    def get(self, dst: bytes) -> int:
        """The MTU of the path to `dst`, bytes of IPv6 packet."""
        learnt = self._learnt.get(dst)
        return min(learnt[0], self._interface.link_mtu) if learnt else self._interface.link_mtu

    def learn(self, dst: bytes, mtu: int, now: float) -> bool:
        """Take a smaller MTU for the path; False when it is none, or below the IPv6 minimum (RFC 8201 §4)."""
        if mtu < ipv6.MINIMUM_MTU or mtu >= self.get(dst):
            return False
        self._learnt.pop(dst, None)
        if len(self._learnt) >= self._interface.config.path_mtus:
            forgotten, _ = self._learnt.popitem(last=False)
            self._on_change(forgotten, self._interface.link_mtu)
        self._learnt[dst] = (mtu, now + self._interface.config.path_mtu_lifetime)
        if not self._timer.armed:
            self._arm()
        self._on_change(dst, mtu)
        return True

    def clear(self) -> None:
        """The link went away, and with it all paths.  Those that are kept are told by who clears."""
        self._learnt.clear()
        self._timer.cancel()

    def _arm(self) -> None:
        if self._learnt:
            self._timer.set(next(iter(self._learnt.values()))[1])

    def _expire(self, now: float) -> None:
        while self._learnt:
            dst, (_, until) = next(iter(self._learnt.items()))
            if until > now:
                break
            del self._learnt[dst]
            self._on_change(dst, self._interface.link_mtu)
        self._arm()
