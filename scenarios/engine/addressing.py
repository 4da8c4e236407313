"""How a node of a scenario gets its addresses: one-time ones, or as hosts do today, for comparison."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from random import Random

from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState, Trigger
from tapstack.ipv6.config import HostConfig
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address
from unimux.das import ChosenAddress, Pending, Policy, Want
from unimux.node import Node
from unimux.pool import Outcome
from unimux.poolstate import NoPrefix, PoolConfig

OPTIONS = SocketOptions(time_wait=TimeWait.SHORT)
POOL = PoolConfig(low=8, high=16)
NO_POOL = PoolConfig(low=0, high=0)
HOST = HostConfig(stable_addresses=False)
REGENERATE_AHEAD = 5.0
"""Seconds before its time that the next temporary address is formed (RFC 8981 §3.8, REGEN_ADVANCE)."""


class Addressing(StrEnum):
    """Where the addresses of a node's connections come from.

    ONE_TIME: a pool on the LAN's prefix.  DEDICATED: minted in a prefix of the node's own.
    FIXED: one address for ever, connections told apart by four values.  TEMPORARY: the same, but the address is random
    and replaced now and then (RFC 8981).
    """

    ONE_TIME = "one-time"
    DEDICATED = "dedicated"
    FIXED = "fixed"
    TEMPORARY = "temporary"

    @property
    def one_time(self) -> bool:
        """Whether every connection has an address of its own."""
        return self in (Addressing.ONE_TIME, Addressing.DEDICATED)

    def options(self) -> SocketOptions:
        """Socket options that suit it."""
        return OPTIONS if self.one_time else SocketOptions(mode=PortMode.AWARE, time_wait=TimeWait.SHORT)


def fix(node: Node, where: str) -> None:
    """Give a node one ordinary address, which all its connections use from now on."""
    own = address(where)
    node.stack.host.addresses.add(own, AddressKind.STABLE, node.now(), trigger=Trigger.ADD_WITHOUT_DAD)
    node.das = ChosenAddress(node.stack.host.addresses, own)
    node.driver.kick()


class TemporaryAddresses(Policy):
    """Random addresses of RFC 8981: each serves all connections that begin within `lifetime` seconds.

    used: every address so far, the present one last; formed: these and the one that comes next.
    """

    def __init__(self, node: Node, prefix: bytes, random: Random, lifetime: float) -> None:
        self.used: list[bytes] = []
        self.formed: list[bytes] = []
        self._node = node
        self._prefix = prefix
        self._random = random
        self._lifetime = lifetime
        self._coming: AddressEntry | None = None
        self._entry: AddressEntry | None = None
        self._form = node.stack.timers.timer(self._begin)
        self._switch = node.stack.timers.timer(self._take)
        self._form.set(node.now())

    @property
    def ready(self) -> bool:
        """Whether there is one to use."""
        return self._entry is not None and self._entry.state is AddressState.PREFERRED

    def _begin(self, now: float) -> None:
        formed = self._prefix[:8] + self._random.randbytes(8)
        self.formed.append(formed)
        self._coming = self._node.stack.host.addresses.add(formed, AddressKind.STABLE, now)
        self._switch.set(now if self._entry is None else now + REGENERATE_AHEAD)

    def _take(self, now: float) -> None:
        old, self._entry, self._coming = self._entry, self._coming, None
        assert self._entry is not None
        self.used.append(self._entry.address)
        if old is not None and old.state is AddressState.PREFERRED:
            self._node.stack.host.addresses.deprecate(old, now, "temporary address replaced")
        self._form.set(now + max(self._lifetime - REGENERATE_AHEAD, 0.0))

    def ask(self, want: Want, now: float, done: Callable[[Outcome, float], None]) -> AddressEntry | Pending:
        """The present one."""
        if self._entry is None or self._entry.state is not AddressState.PREFERRED:
            raise NoPrefix(0.0)
        return self._entry
