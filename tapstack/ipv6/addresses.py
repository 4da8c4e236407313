"""The addresses of a node and their states (unified-multiplex §1; RFC 4862 §5.3, §5.4, §5.5.4).

The state machine is the table `TRANSITIONS`; everything that can move an address is a `Trigger`, and a pair
that is not in the table cannot happen.  What a node does with a packet *to* an address follows from
its state alone, through the table `ANSWERS`: ND, MLD, ICMPv6, TCP and UDP input all ask that one place.

Invariants, checked by `AddressTable.check`:

* an entry in the table is never INVALID nor DUPLICATED: such an address is gone;
* only PREFERRED, DEPRECATED and OPTIMISTIC addresses have users (PCBs, TIME-WAIT records, armed listeners, UDP flows);
* a one-time address whose last user goes is released in the same call (UM-REL-1);
* an address is in the table once.  That a released one never comes back (UM-ADDR-9) is the generator's affair: remembering them
  all would be a table without bound.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from enum import Enum, StrEnum, auto
from typing import Final, Protocol, Self, TypeAlias

from ..events import AddressChanged, EventStream
from ..types import address_text


class AddressState(StrEnum):
    """The state of an address of this node."""

    INVALID = "INVALID"
    TENTATIVE = "TENTATIVE"
    OPTIMISTIC = "OPTIMISTIC"
    UNCERTAIN = "UNCERTAIN"
    PREFERRED = "PREFERRED"
    DEPRECATED = "DEPRECATED"
    DUPLICATED = "DUPLICATED"


class AddressKind(StrEnum):
    """What an address is for; only RESERVED ones change kind, when they are taken.

    one_time: whether the address is released with its last user, and silent to strangers.
    """

    one_time: bool

    def __new__(cls, value: str, one_time: bool) -> Self:
        """A member of this value; what asks for `one_time` asks for each packet, so it is kept beside."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.one_time = one_time
        return member

    LINK_LOCAL = "link-local", False
    STABLE = "stable", False
    RESERVED = "reserved", True
    EPHEMERAL = "ephemeral", True
    SERVICE = "service", True


class Trigger(Enum):
    """What can move an address from one state to another."""

    __hash__ = object.__hash__  # `Enum`'s is a function in Python, and each move looks one up

    ADD = auto()
    ADD_WITHOUT_DAD = auto()
    ADD_OPTIMISTIC = auto()
    DAD_PASSED = auto()
    DAD_PASSED_RESERVED = auto()
    DAD_FAILED = auto()
    TAKE = auto()
    DISCARD = auto()
    DEPRECATE = auto()
    REFRESH = auto()
    RELEASE = auto()
    EXPIRE = auto()


_S = AddressState
TRANSITIONS: dict[tuple[AddressState, Trigger], AddressState] = {
    (_S.INVALID, Trigger.ADD): _S.TENTATIVE,
    (_S.INVALID, Trigger.ADD_WITHOUT_DAD): _S.PREFERRED,
    (_S.INVALID, Trigger.ADD_OPTIMISTIC): _S.OPTIMISTIC,
    (_S.TENTATIVE, Trigger.DAD_PASSED): _S.PREFERRED,
    (_S.TENTATIVE, Trigger.DAD_PASSED_RESERVED): _S.UNCERTAIN,
    (_S.TENTATIVE, Trigger.DAD_FAILED): _S.DUPLICATED,
    (_S.TENTATIVE, Trigger.DISCARD): _S.INVALID,
    (_S.OPTIMISTIC, Trigger.DAD_PASSED): _S.PREFERRED,
    (_S.OPTIMISTIC, Trigger.DAD_FAILED): _S.DUPLICATED,
    (_S.OPTIMISTIC, Trigger.DISCARD): _S.INVALID,
    (_S.OPTIMISTIC, Trigger.RELEASE): _S.INVALID,
    (_S.OPTIMISTIC, Trigger.EXPIRE): _S.INVALID,
    (_S.UNCERTAIN, Trigger.TAKE): _S.PREFERRED,
    (_S.UNCERTAIN, Trigger.DISCARD): _S.INVALID,
    (_S.PREFERRED, Trigger.DEPRECATE): _S.DEPRECATED,
    (_S.PREFERRED, Trigger.RELEASE): _S.INVALID,
    (_S.PREFERRED, Trigger.EXPIRE): _S.INVALID,
    (_S.DEPRECATED, Trigger.REFRESH): _S.PREFERRED,
    (_S.DEPRECATED, Trigger.RELEASE): _S.INVALID,
    (_S.DEPRECATED, Trigger.EXPIRE): _S.INVALID,
}
"""Every move that exists; a test walks each (state, trigger) cell, and the docs' diagram is drawn from it."""

BEGINNINGS: Final = frozenset(trigger for old, trigger in TRANSITIONS if old is _S.INVALID)
"""What brings an address into the table."""
ENDINGS: Final = frozenset(trigger for (_, trigger), new in TRANSITIONS.items() if new in (_S.INVALID, _S.DUPLICATED))
"""What takes it out again, from whatever state."""


class Answers:
    """What a node may answer for an address: bits of an int, since every packet asks."""

    NOTHING: Final = 0
    DAD: Final = 1
    """a Neighbor Solicitation from the unspecified address: the address is defended (UM-ADDR-2)"""
    RESOLUTION: Final = 2
    """a Neighbor Solicitation from a unicast source (UM-ADDR-3)"""
    TRAFFIC: Final = 4
    """any other packet (UM-ADDR-4)"""


ANSWERS: dict[AddressState, int] = {
    _S.INVALID: Answers.NOTHING,
    _S.TENTATIVE: Answers.NOTHING,
    _S.OPTIMISTIC: Answers.RESOLUTION | Answers.TRAFFIC,  # a probe for it is a conflict, RFC 4429 §3.3
    _S.UNCERTAIN: Answers.DAD,
    _S.PREFERRED: Answers.DAD | Answers.RESOLUTION | Answers.TRAFFIC,
    _S.DEPRECATED: Answers.DAD | Answers.RESOLUTION | Answers.TRAFFIC,
    _S.DUPLICATED: Answers.NOTHING,
}
"""The one place that says what is answered in which state."""


class AddressError(Exception):
    """An address was asked for something that its state does not allow."""


class AddressUser(Protocol):
    """Whatever keeps an address alive: a PCB, a TIME-WAIT record, an armed listener, a UDP flow."""

    @property
    def remote(self) -> bytes | None:
        """The one address that `serves` can hold for, which never changes; None where it is none, or several."""

    def serves(self, remote: bytes) -> bool:
        """Whether `remote` is a peer of this user: a one-time address answers its peers only (UM-EA-1)."""

    @property
    def heard(self) -> bool:
        """Whether anything was heard on the address for this user: the link carries it then (UM-ADDR-12)."""


_FEW: Final = 8
"""Users that are asked one by one."""


class _Table(dict["AddressUser", None]):
    """Users in order of coming.  Of many, those of a peer are found by it: what a stranger sends costs no more with them."""

    __slots__ = ("_peers",)

    def __init__(self) -> None:
        super().__init__()
        self._peers: dict[bytes | None, dict[AddressUser, None]] | None = None

    def serve(self, remote: bytes) -> bool:
        """Whether `remote` is a peer of any."""
        peers = self._peers
        if peers is None:
            return any(user.serves(remote) for user in self)
        return any(user.serves(remote) for who in (remote, None) for user in peers.get(who, ()))

    def add(self, user: AddressUser) -> None:
        """One more."""
        self[user] = None
        if self._peers is not None:
            self._peers.setdefault(user.remote, {})[user] = None
        elif len(self) > _FEW:
            self._peers = {}
            for each in self:
                self._peers.setdefault(each.remote, {})[each] = None

    def remove(self, user: AddressUser) -> None:
        """One less; KeyError when it is not there."""
        del self[user]
        if self._peers is not None:
            group = self._peers[user.remote]
            del group[user]
            if not group:
                del self._peers[user.remote]


class Users:
    """Whatever keeps one address alive, in order of coming.

    A one-time address has one user nearly always: that one needs no table, which would be the largest part of an entry.
    """

    __slots__ = ("_first", "_table")

    def __init__(self) -> None:
        self._first: AddressUser | None = None
        self._table: _Table | None = None

    def __len__(self) -> int:
        return (self._first is not None) + (len(self._table) if self._table else 0)

    def __bool__(self) -> bool:
        return self._first is not None or bool(self._table)

    def __iter__(self) -> Iterator[AddressUser]:
        if self._first is not None:
            yield self._first
        if self._table:
            yield from self._table

    def __contains__(self, user: AddressUser) -> bool:
        return user is self._first or (self._table is not None and user in self._table)

    def serve(self, remote: bytes) -> bool:
        """Whether `remote` is a peer of any."""
        if self._first is not None and self._first.serves(remote):
            return True
        return self._table is not None and self._table.serve(remote)

    def add(self, user: AddressUser) -> None:
        """One more; harmless when it is there already."""
        if user in self:
            return
        if self._first is None and not self._table:
            self._first = user
            return
        if self._table is None:
            self._table = _Table()
        self._table.add(user)

    def remove(self, user: AddressUser) -> None:
        """One less; KeyError when it is not there."""
        table = self._table
        if user is self._first:
            self._first = None
        elif table is None:
            raise KeyError(user)
        else:
            table.remove(user)
        if table is not None and len(table) == (self._first is None):  # none or the only one: no table is needed
            self._first = next(iter(table), self._first)
            self._table = None


_NOBODY: Final = Users()
"""The users of every address that nobody has acquired yet; never changed, since a pool is full of these."""


class AddressEntry:
    """One address of this node.

    `users` holds whatever keeps a one-time address alive; use `AddressTable.acquire` and `drop`.
    `valid_until` and `preferred_until` are times of the stack's clock, for an address whose lifetimes were given by hand;
    an autoconfigured one has none of its own and lives as long as its prefix.
    """

    __slots__ = (
        "address",
        "answers",
        "born",
        "kind",
        "per_address_nd",
        "preferred_until",
        "prefix_length",
        "state",
        "users",
        "valid_until",
    )

    def __init__(self, address: bytes, kind: AddressKind, now: float) -> None:
        self.address = address
        self.kind = kind
        self.state = AddressState.INVALID
        self.answers: int = Answers.NOTHING
        self.born = now
        self.prefix_length = 64
        self.preferred_until = math.inf
        self.valid_until = math.inf
        self.per_address_nd = True
        self.users: Users = _NOBODY

    def speaks_to(self, remote: bytes) -> bool:
        """Whether this node may send `remote` anything on behalf of the address.

        Strangers to a one-time one get silence, and everybody where it takes no traffic yet, or is gone: something that it has
        to say may have waited longer.
        """
        if not self.answers & Answers.TRAFFIC:
            return False
        return not self.kind.one_time or self.users.serve(remote)

    def __repr__(self) -> str:
        return f"<{address_text(self.address)} {self.state} {self.kind} users={len(self.users)}>"


Observer: TypeAlias = "Callable[[AddressEntry, AddressState, Trigger, float], None]"
"""Called with an entry that has moved, the state it was in, why, and when."""


class AddressTable:
    """All addresses of a node; the only writer of `AddressEntry.state`."""

    def __init__(self, events: EventStream) -> None:
        self._entries: dict[bytes, AddressEntry] = {}
        self._events = events
        self._observers: dict[Trigger, list[Observer]] = {trigger: [] for trigger in Trigger}
        self.get = self._entries.get
        """`get(address) -> AddressEntry | None`: the entry of an address of this node."""

    def observe(self, observer: Observer, triggers: Iterable[Trigger] = Trigger) -> None:
        """Call `observer(entry, old_state, trigger, now)` after each transition by one of `triggers` (MLD joins, DAD, PCBs)."""
        for trigger in triggers:
            self._observers[trigger].append(observer)

    def __iter__(self) -> Iterator[AddressEntry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def held(self) -> list[AddressEntry]:
        """The one-time addresses that somebody uses."""
        return [entry for entry in self._entries.values() if entry.kind.one_time and entry.users]

    def __contains__(self, address: bytes) -> bool:
        return address in self._entries

    # -- life ------------------------------------------------------------------------------------

    def add(
        self,
        address: bytes,
        kind: AddressKind,
        now: float,
        *,
        trigger: Trigger = Trigger.ADD,
        valid_until: float = math.inf,
        preferred_until: float = math.inf,
        per_address_nd: bool = True,
        cause: str = "added",
    ) -> AddressEntry:
        """Add an address: TENTATIVE by default, without DAD or optimistic by `trigger`.

        `per_address_nd` is False on a dedicated prefix, where no group is joined and nothing announced (UM-POOL-4).
        Raises `AddressError` when the node has the address already, or nothing begins with the trigger.
        """
        if address in self._entries:
            raise AddressError(f"{address_text(address)} is in use on this node")
        if (AddressState.INVALID, trigger) not in TRANSITIONS:
            raise AddressError(f"no address begins with {trigger.name}")
        entry = AddressEntry(address, kind, now)
        entry.valid_until = valid_until
        entry.preferred_until = preferred_until
        entry.per_address_nd = per_address_nd
        self._entries[address] = entry
        self._move(entry, trigger, now, cause)
        return entry

    def dad_passed(self, entry: AddressEntry, now: float) -> None:
        """DAD found no other owner: PREFERRED, or UNCERTAIN for a reserved address (UM-ADDR-1)."""
        reserved = entry.kind is AddressKind.RESERVED and entry.state is AddressState.TENTATIVE
        self._move(entry, Trigger.DAD_PASSED_RESERVED if reserved else Trigger.DAD_PASSED, now, "DAD passed")

    def dad_failed(self, entry: AddressEntry, now: float, cause: str) -> None:
        """DAD found another owner; the address is gone."""
        self._move(entry, Trigger.DAD_FAILED, now, cause)

    def take(self, entry: AddressEntry, kind: AddressKind, now: float, cause: str) -> None:
        """Promote an UNCERTAIN address for a use (UM-ADDR-1): usable when this returns.

        The taker acquires it next, or releases it.
        """
        self._move(entry, Trigger.TAKE, now, cause, kind)

    def discard(self, entry: AddressEntry, now: float, cause: str) -> None:
        """Give up an address that nobody uses yet (UM-ADDR-6)."""
        self._move(entry, Trigger.DISCARD, now, cause)

    def deprecate(self, entry: AddressEntry, now: float, cause: str) -> None:
        """The preferred lifetime is over: users stay, nothing new starts (UM-ADDR-11)."""
        self._move(entry, Trigger.DEPRECATE, now, cause)

    def refresh(self, entry: AddressEntry, now: float, cause: str) -> None:
        """A deprecated address is preferred again."""
        self._move(entry, Trigger.REFRESH, now, cause)

    def expire(self, entry: AddressEntry, now: float, cause: str) -> None:
        """The valid lifetime is over; users still in `entry.users` are the observer's to abort (UM-ADDR-11)."""
        self._move(entry, Trigger.EXPIRE, now, cause)

    def release(self, entry: AddressEntry, now: float, cause: str) -> None:
        """The use is over (UM-REL-1); raises `AddressError` while users remain."""
        if entry.users:
            raise AddressError(f"{address_text(entry.address)} still has {len(entry.users)} users")
        self._move(entry, Trigger.RELEASE, now, cause)

    def give_back(self, entry: AddressEntry, now: float, cause: str) -> None:
        """What an address was for came to nothing: a one-time one is released, unless somebody uses it or it is gone already."""
        if not entry.users and entry.kind.one_time and self._entries.get(entry.address) is entry:
            self._move(entry, Trigger.RELEASE, now, cause)

    # -- users -----------------------------------------------------------------------------------

    def acquire(self, entry: AddressEntry, user: AddressUser) -> None:
        """Keep the address while `user` lives; raises `AddressError` unless it is usable."""
        if not entry.answers & Answers.TRAFFIC:
            raise AddressError(f"{address_text(entry.address)} is {entry.state}")
        if entry.users is _NOBODY:
            entry.users = Users()
        entry.users.add(user)

    def drop(self, entry: AddressEntry, user: AddressUser, now: float, cause: str) -> None:
        """`user` no longer needs the address; the last user of a one-time address releases it."""
        if user not in entry.users:
            raise AddressError(f"{address_text(entry.address)} is not held by {user!r}")
        entry.users.remove(user)
        self.give_back(entry, now, cause)

    # -- inside ----------------------------------------------------------------------------------

    def _move(
        self, entry: AddressEntry, trigger: Trigger, now: float, cause: str, kind: AddressKind | None = None
    ) -> None:
        old = entry.state
        try:
            new = TRANSITIONS[old, trigger]
        except KeyError:
            raise AddressError(f"{address_text(entry.address)} is {old}: {trigger.name} is not possible") from None
        if kind is not None:
            entry.kind = kind
        entry.state = new
        entry.answers = ANSWERS[new]
        if trigger in ENDINGS:
            del self._entries[entry.address]
        if self._events.active:
            self._events.emit(
                AddressChanged(
                    time=now,
                    address=address_text(entry.address),
                    old=old.value,
                    new=new.value,
                    kind=entry.kind.value,
                    cause=cause,
                )
            )
        for observer in self._observers[trigger]:
            observer(entry, old, trigger, now)

    def check(self) -> None:
        """Raise AssertionError where an invariant of this table does not hold."""
        for key, entry in self._entries.items():
            assert key == entry.address, entry
            assert entry.state not in (AddressState.INVALID, AddressState.DUPLICATED), entry
            assert entry.answers == ANSWERS[entry.state], entry
            assert not entry.users or entry.answers & Answers.TRAFFIC, entry
