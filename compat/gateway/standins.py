"""Addresses of others that a stack answers for, as packets to them come: the far ends of a program's traffic.

An address is admitted with the first packet that goes there, as a one-time address of the stack; whatever uses it then
(a connection, a flow, a call that waits) keeps it, and until something does this room keeps it for `LINGER` seconds.  So the
stack's own rule, that an address goes with its last user, does all the tidying.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressTable, Trigger
from tapstack.link.base import Link, LinkProperties
from tapstack.timers import TimerQueue
from tapstack.types import UNSPECIFIED, Buffer, Frame, is_link_local, is_multicast
from tapstack.wire import ipv6, virtio

LINGER = 60.0
"""Seconds that an address stays without a user: as long as the pieces of a packet may take (RFC 8200 §4.5)."""
LIMIT = 16_384
"""Addresses at a time, used ones included; packets to one more are dropped."""


class _Held:
    """Keeps an address until something uses it; speaks to anybody, since only the program's kernel can hear."""

    remote = None

    def serves(self, remote: bytes) -> bool:
        return True

    @property
    def heard(self) -> bool:
        return True


class StandIns:
    """The addresses that a stack stands in for: anybody's but `program`, the one whose packets these are."""

    def __init__(self, addresses: AddressTable, timers: TimerQueue, program: bytes) -> None:
        self._nobody = (UNSPECIFIED, program)
        self._addresses = addresses
        self._held: deque[tuple[float, AddressEntry]] = deque()
        self._hold = _Held()
        self._timer = timers.timer(self._sweep)

    def admit(self, address: bytes, now: float) -> AddressEntry | None:
        """The entry of an address, made if it is not there; None where it can be nobody's, or too many are held."""
        entry = self._addresses.get(address)
        if entry is not None:
            return entry
        if is_multicast(address) or is_link_local(address) or address in self._nobody or len(self._addresses) >= LIMIT:
            return None
        entry = self._addresses.add(
            address, AddressKind.EPHEMERAL, now, trigger=Trigger.ADD_WITHOUT_DAD, per_address_nd=False
        )
        self._addresses.acquire(entry, self._hold)
        self._held.append((now + LINGER, entry))
        if self._timer.when is None:
            self._timer.set(now + LINGER)
        return entry

    def _sweep(self, now: float) -> None:
        while self._held and self._held[0][0] <= now:
            _, entry = self._held.popleft()
            if self._hold in entry.users:
                self._addresses.drop(entry, self._hold, now, "nothing uses it")
        if self._held:
            self._timer.set(self._held[0][0])

    def link(self, inner: Link) -> Link:
        """`inner`, with every destination admitted before the stack sees its packet."""
        return _AdmittingLink(inner, self)


class _AdmittingLink(Link):
    """A link around a TUN device."""

    def __init__(self, inner: Link, stand_ins: StandIns) -> None:
        self._inner = inner
        self._stand_ins = stand_ins
        self._now: Callable[[], float] = asyncio.get_running_loop().time
        self._at = virtio.HEADER_LENGTH if inner.properties.vnet_header else 0

    @property
    def properties(self) -> LinkProperties:
        return self._inner.properties

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._inner.attach(loop, wake)

    def watch(self, changed: Callable[[bool], None]) -> None:
        self._inner.watch(changed)

    def receive(self) -> Buffer | None:
        frame = self._inner.receive()
        at = self._at
        if frame is not None and len(frame) >= at + ipv6.HEADER_LENGTH and frame[at] >> 4 == 6:
            self._stand_ins.admit(bytes(frame[at + 24 : at + 40]), self._now())
        return frame

    def handled(self) -> None:
        self._inner.handled()

    def send(self, frame: Frame) -> bool:
        return self._inner.send(frame)

    def close(self) -> None:
        self._inner.close()
