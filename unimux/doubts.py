"""Finds out that the link refuses addresses: source address validation, multicast snooping (UM-ADDR-12).

An address that passed DAD looks the same whether the switch has taken it into its tables or not, and a reserved one may not
be the source of any packet, so nothing can be known before it is used.  An address in use that has heard nothing `doubt`
seconds after it was taken is therefore tested (`tapstack.ipv6.carriage`): a neighbour is asked from there, and from the
link-local address beside it.  The verdict blames the link only where the one is answered and the other is not; a far server
that is down gives none.

Tests are rare: one at a time, `doubt_pace` seconds apart.  A service address may well wait for its client, so its
silence counts only where no address has been heard on for PROVEN seconds.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from functools import partial

from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.ipv6.carriage import Carriage
from tapstack.ipv6.host import Host
from tapstack.timers import TimerQueue
from tapstack.types import address_text

from .poolstate import PoolConfig

PROVEN = 60.0
"""Seconds for which one address that works speaks for service addresses that hear nothing."""

WATCHED = 1024
"""Addresses that are watched at a time; with more the oldest are not."""


class Doubts:
    """Watches addresses in use.

    `refused(entry, now)` is called with each that the link does not carry, `why(cause, now)` with what is known of the reason.
    """

    def __init__(
        self,
        host: Host,
        timers: TimerQueue,
        config: PoolConfig,
        refused: Callable[[AddressEntry, float], None],
        why: Callable[[str, float], None],
    ) -> None:
        self._why = why
        self._host = host
        self._config = config
        self._refused = refused
        self._watched: deque[tuple[float, AddressEntry, bytes | None]] = deque(maxlen=WATCHED)
        self._timer = timers.timer(self._look)
        self._testing = False
        self._next_test = -math.inf
        self._proven_at = -math.inf

    def watch(self, entry: AddressEntry, destination: bytes | None, now: float) -> None:
        """An address was taken, to talk to `destination` if that is known: look at it in a while."""
        self._watched.append((now + self._config.doubt, entry, destination))
        if not self._timer.armed:
            self._timer.set(now + self._config.doubt)

    def close(self) -> None:
        """Watch no more."""
        self._watched.clear()
        self._timer.cancel()

    def _look(self, now: float) -> None:
        while self._watched and self._watched[0][0] <= now:
            _, entry, destination = self._watched.popleft()
            if self._host.addresses.get(entry.address) is entry and entry.users:
                self._consider(entry, destination, now)
        if self._watched:
            self._timer.set(self._watched[0][0])

    def _consider(self, entry: AddressEntry, destination: bytes | None, now: float) -> None:
        if any(user.heard for user in entry.users):
            self._proven_at = now
            return
        if entry.kind is AddressKind.SERVICE and now < self._proven_at + PROVEN:
            return
        if not self._testing and now >= self._next_test:
            self._testing = self._host.carriage.test(
                entry, destination, now, partial(self._refused, entry), partial(self._judged, entry)
            )
            if self._testing:
                self._next_test = now + self._config.doubt_pace
                return
        if entry.kind is AddressKind.EPHEMERAL:  # it waits for an answer still, for a bounded time: its turn comes
            self._watched.append((now + self._config.doubt, entry, destination))

    def _judged(self, entry: AddressEntry, verdict: Carriage, now: float) -> None:
        self._testing = False
        if verdict is Carriage.CARRIED:
            self._proven_at = now
        elif verdict.refused:
            self._next_test = now  # the next one is in doubt as well
            why = f"{address_text(entry.address)}: {verdict}"
            if verdict is Carriage.DEAF and self._host.multicast.report_unasked(now):
                why += "; nobody asks for groups, so they are reported unasked"
            self._why(why, now)
