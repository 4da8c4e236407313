"""Taking in an address that was made elsewhere: by an agent, from a shared secret, with a tag (UM-DAS-3, UM-GEN-4, UM-GEN-5).

Model.  `adopt` checks what can be seen at once and then lets DAD run: RESERVED and TENTATIVE, then UNCERTAIN, then promoted to
its use.  On a dedicated prefix there is nothing to wait for.  From the moment it is claimed the address counts as used
by this node for ever, also when DAD then fails: another node has it, and it is no longer a secret.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState, Trigger
from tapstack.ipv6.prefixes import Prefix
from tapstack.types import address_text, is_link_local, is_multicast

from .errors import UnimuxError
from .pool import Pool
from .source import AddressUsed, is_usable


class AddressRefused(UnimuxError):
    """An address that was supplied cannot be set; `reason` is a clause, `lasting` says that asking again is of no use.

    >>> str(AddressRefused(bytes(16), "it is reserved"))
    'The address :: cannot be set: it is reserved.'
    """

    def __init__(self, address: bytes, reason: str, *, lasting: bool = True) -> None:
        super().__init__(address, reason)
        self.address = address
        self.reason = reason
        self.lasting = lasting

    @property
    def clause(self) -> str:
        """The refusal as part of another sentence."""
        return f"{address_text(self.address)} was refused ({self.reason})"

    def __str__(self) -> str:
        return f"The address {address_text(self.address)} cannot be set: {self.reason}."


Verdict = Callable[[AddressEntry | AddressRefused, float], None]


class Adoption(ABC):
    """An address on its way."""

    def __init__(self, pool: Pool, address: bytes, done: Verdict) -> None:
        self.address = address
        self._pool = pool
        self._done: Verdict | None = done
        self._timer = pool.timers.timer(self._finish)

    def cancel(self, now: float) -> None:
        """Give the address up; the verdict is not told.  Harmless when it was."""
        if self._done is not None:
            self._done = None
            self._timer.cancel()
            self._give_up(now)

    def _finish(self, now: float) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(self._verdict(now), now)

    @abstractmethod
    def _give_up(self, now: float) -> None: ...

    @abstractmethod
    def _verdict(self, now: float) -> AddressEntry | AddressRefused: ...


class _Testing(Adoption):
    """DAD runs."""

    def __init__(
        self, pool: Pool, address: bytes, prefix: Prefix, kind: AddressKind, now: float, done: Verdict, cause: str
    ) -> None:
        super().__init__(pool, address, done)
        self._kind = kind
        self._cause = cause
        self._duplicate = False
        self._entry = pool.reserve(address, prefix, now, self._moved)

    def _moved(self, trigger: Trigger, now: float) -> None:
        """Take note; act when the address table has told everybody."""
        self._duplicate = trigger is Trigger.DAD_FAILED
        self._timer.set(now)

    def _give_up(self, now: float) -> None:
        if self._entry.state in (AddressState.TENTATIVE, AddressState.UNCERTAIN):
            self._pool.host.addresses.discard(self._entry, now, "no longer wanted")

    def _verdict(self, now: float) -> AddressEntry | AddressRefused:
        if self._entry.state is AddressState.UNCERTAIN:
            self._pool.promote(self._entry, self._kind, now, self._cause)
            return self._entry
        if self._duplicate:
            return AddressRefused(self.address, "another node on the link has it")
        return AddressRefused(
            self.address, "its prefix was withdrawn, the link came up again, or another node claimed it"
        )


class _Set(Adoption):
    """An address of a dedicated prefix, usable already; told in the next turn."""

    def __init__(
        self, pool: Pool, address: bytes, prefix: Prefix, kind: AddressKind, now: float, done: Verdict, cause: str
    ) -> None:
        super().__init__(pool, address, done)
        self._entry = pool.mint(address, prefix, kind, now, cause)
        self._timer.set(now)

    def _give_up(self, now: float) -> None:
        self._pool.host.addresses.give_back(self._entry, now, "no longer wanted")

    def _verdict(self, now: float) -> AddressEntry | AddressRefused:
        alive = self._pool.host.addresses.get(self.address) is self._entry
        return self._entry if alive else AddressRefused(self.address, "its prefix was withdrawn")


class Reservation:
    """A given address held in reserve: TENTATIVE, then UNCERTAIN until `promote` puts it to its use (UM-GEN-5).

    On a dedicated prefix nothing is reserved on the link; it is ready at once.  `changed(now)` is called, outside of calls on
    this object and on the address table, when it became ready or was lost.
    """

    def __init__(
        self, pool: Pool, address: bytes, prefix: Prefix, now: float, changed: Callable[[float], None]
    ) -> None:
        self.address = address
        self._pool = pool
        self._prefix = prefix
        self._timer = pool.timers.timer(changed)
        self._entry = None if prefix.dedicated else pool.reserve(address, prefix, now, self._moved)
        self._over = False
        self.claimed = False
        """Whether it is lost to another node, and not to a link or a prefix that went."""

    @property
    def ready(self) -> bool:
        """Whether `promote` can be called."""
        if self._over or not self._prefix.preferred:
            return False
        return self._entry is None or self._entry.state is AddressState.UNCERTAIN

    @property
    def lost(self) -> bool:
        """Whether it is gone, or its prefix is; where it was not `claimed` it has never been in use and may be reserved again."""
        if self._entry is None:
            return not self._over and not self._prefix.preferred
        return self._entry.state not in (AddressState.TENTATIVE, AddressState.UNCERTAIN) and not self._over

    def _moved(self, trigger: Trigger, now: float) -> None:
        if not self._over:
            self.claimed = self._pool.lost_to_another(trigger, self._prefix)
            self._timer.set(now)

    def promote(self, kind: AddressKind, now: float, cause: str) -> AddressEntry:
        """Put it to its use; the caller acquires the entry at once, or releases it."""
        self._end()
        if self._entry is None:
            return self._pool.mint(self.address, self._prefix, kind, now, cause)
        self._pool.promote(self._entry, kind, now, cause)
        return self._entry

    def cancel(self, now: float) -> None:
        """Give it up; harmless after its end."""
        if self._over or self._entry is None:
            self._end()
            return
        self._end()
        if self._entry.state in (AddressState.TENTATIVE, AddressState.UNCERTAIN):
            self._pool.host.addresses.discard(self._entry, now, "no longer wanted")

    def _end(self) -> None:
        self._over = True
        self._timer.cancel()


def adopt(pool: Pool, address: bytes, kind: AddressKind, now: float, done: Verdict, cause: str = "set") -> Adoption:
    """Take in an address for one use: `done(entry, now)` when it is set, `done(refusal, now)` when DAD fails.

    Raises `AddressRefused` for an address that lies in no usable prefix of this node, is reserved, or is or ever was in
    use here; `StateError` when the claim cannot be made durable.
    """
    prefix = _claimed(pool, address, now, renew=False)
    if prefix.dedicated:
        return _Set(pool, address, prefix, kind, now, done, cause)
    return _Testing(pool, address, prefix, kind, now, done, cause)


def reserve(
    pool: Pool, address: bytes, now: float, changed: Callable[[float], None], *, renew: bool = False
) -> Reservation:
    """Take in an address for later: it passes DAD and is defended until it is promoted; see `Reservation`.

    renew: the caller vouches that the address, claimed before, has served no session: a counter of a shared secret that
    was only reserved when the link or its prefix went, or is taken up again after a restart.  Raises as `adopt` does.
    """
    return Reservation(pool, address, _claimed(pool, address, now, renew=renew), now, changed)


def _claimed(pool: Pool, address: bytes, now: float, *, renew: bool) -> Prefix:
    """Check an address and claim it; the prefix that it lies in."""
    if is_multicast(address) or is_link_local(address):
        raise AddressRefused(address, "it is not a unicast address of a prefix")
    prefix = pool.host.prefix_list.of(address)
    if prefix is None:
        raise AddressRefused(address, "it lies in no prefix of this node", lasting=False)
    if not prefix.preferred:
        reason = f"nothing new starts in {prefix}, whose preferred lifetime is over"
        raise AddressRefused(address, reason, lasting=False)
    if not is_usable(address, prefix.length):
        raise AddressRefused(address, "its interface identifier is reserved (RFC 5453)")
    if address in pool.host.addresses:
        raise AddressRefused(address, "it is in use on this node")
    if not prefix.dedicated and not pool.make_room(now):
        reason = f"this node has {pool.stock.limit} addresses on the link already"
        raise AddressRefused(address, reason, lasting=False)
    try:
        pool.source.claim(address)
    except AddressUsed:
        if not (renew and address in pool.source.state.claimed):
            raise AddressRefused(address, "it was used on this node before") from None
    return prefix
