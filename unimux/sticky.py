"""Sticky sessions: the one exception to an EA per connection, asked for by name (UM-DAS-4).

Connections of one session share an address, in Aware mode.  The session holds the address like any other user of it, until
its time is over; the address is released when that hold and the last connection are gone.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState
from tapstack.timers import Timer

from .das import Policy
from .purpose import UNNAMED, Purpose

if TYPE_CHECKING:
    from .node import Node

DEFAULT_TTL = 600.0
"""Seconds that a session id keeps its address, where the user names no time."""
LONGEST_TTL = 1e9
"""Seconds, thirty years: the timer of a session without an end would stand in its queue for ever."""
SESSIONS = 4096
"""Sessions that keep an address at a time; one more ends the one used least recently, so that names alone take no memory."""


class StickySession(Protocol):
    """What names a session: a hashable value; equal ones share an address."""

    @property
    def ttl(self) -> float | None:
        """Seconds from the first connection on; None for the default."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class NamedSession:
    """A session that is named by a word; `ttl` (seconds, None for the default) is no part of the name."""

    name: str
    ttl: float | None = field(default=None, compare=False)


def check_session(session: StickySession) -> None:
    """Raise TypeError or ValueError for what names no session: before an address is taken for it."""
    try:
        hash(session)
        ttl = session.ttl
    except (AttributeError, TypeError):
        raise TypeError(f"a sticky session is a NamedSession, or has a ttl and a hash as one: {session!r}") from None
    if ttl is not None and not 0 <= ttl <= LONGEST_TTL:
        raise ValueError(f"a session's ttl is seconds from 0 to {LONGEST_TTL:.0f}, or None, not {ttl!r}")


class Hold:
    """A session's hold on its address: an `AddressUser` that serves nobody.  timer: ends it, where it has an end."""

    def __init__(self, session: StickySession, entry: AddressEntry) -> None:
        self.session = session
        self.entry = entry
        self.timer: Timer | None = None

    remote = None

    def serves(self, remote: bytes) -> bool:
        """A session by itself speaks to nobody; its connections do."""
        return False

    @property
    def heard(self) -> bool:
        """Nor does it hear anybody."""
        return False


class StickyAddresses:
    """The sessions of one node and their addresses."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._holds: OrderedDict[StickySession, Hold] = OrderedDict()
        self._being_made: dict[StickySession, asyncio.Future[None]] = {}

    def __len__(self) -> int:
        return len(self._holds)

    async def address(
        self,
        session: StickySession,
        destination: bytes,
        *,
        timeout: float,
        das: Policy | None = None,
        purpose: Purpose = UNNAMED,
    ) -> AddressEntry:
        """The session's address, taken for its first connection; the parameters and errors are those of `Node.take_address`.

        Connections that begin meanwhile wait for the same address, each within its own `timeout` seconds; where it is not to
        be had for the first of them, the next one asks.
        """
        check_session(session)
        deadline = self._node.now() + timeout
        while (held := self._held(session)) is None:
            left = max(deadline - self._node.now(), 0.0)
            asked = self._being_made.get(session)
            if asked is None or not left:  # at the deadline the policy says what is missing
                return await self._begin(session, destination, left, das, purpose)
            await asyncio.wait([asked], timeout=left)
        return held

    def _held(self, session: StickySession) -> AddressEntry | None:
        hold = self._holds.get(session)
        if hold is None or hold.entry.state not in (AddressState.PREFERRED, AddressState.OPTIMISTIC):
            return None
        self._holds.move_to_end(session)
        return hold.entry

    async def _begin(
        self, session: StickySession, destination: bytes, timeout: float, das: Policy | None, purpose: Purpose
    ) -> AddressEntry:
        node = self._node
        asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        first = self._being_made.setdefault(session, asked) is asked
        try:
            entry = await node.take_address(
                AddressKind.EPHEMERAL, destination, timeout=timeout, cause="sticky session", das=das, purpose=purpose
            )
        finally:
            asked.set_result(None)
            if first:
                del self._being_made[session]
        if (held := self._held(session)) is not None:  # another one's question, whose time was over, was answered first
            node.stack.host.addresses.give_back(entry, node.now(), "the session has an address")
            node.driver.kick()
            return held
        hold = Hold(session, entry)
        node.stack.host.addresses.acquire(entry, hold)
        if (before := self._holds.get(session)) is not None:  # its address is deprecated: renumbering
            self.end(before, node.now())
        self._holds[session] = hold
        ttl = DEFAULT_TTL if session.ttl is None else session.ttl
        hold.timer = node.stack.timers.timer(lambda now: self.end(hold, now))
        hold.timer.set(node.now() + ttl)
        if len(self._holds) > SESSIONS:
            self.end(next(iter(self._holds.values())), node.now())
        return entry

    def end(self, hold: Hold, now: float, cause: str = "sticky session is over") -> None:
        """Let go of an address: the session's next connection gets another one."""
        if hold.timer is not None:
            hold.timer.retire()
        if self._holds.get(hold.session) is hold:
            del self._holds[hold.session]
        if hold in hold.entry.users:
            self._node.stack.host.addresses.drop(hold.entry, hold, now, cause)

    def close(self, now: float) -> None:
        """End all sessions: the node stops."""
        for hold in list(self._holds.values()):
            self.end(hold, now)
