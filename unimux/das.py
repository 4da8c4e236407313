"""Delayed address setting: which address a socket gets, decided after bind() and before the first packet (unified-multiplex §4).

Model.  A socket that needs its address states a `Want` and asks a *policy*:

* `AutoSet` takes one from the pool (UM-DAS-2);
* `DasRequired` waits until somebody outside the stack supplies one, which must lie in a prefix of this node, be new to it,
  and pass DAD (UM-DAS-3);
* `ChosenAddress` gives the ordinary address that the application named (UM-DAS-5).

`ask` answers with an entry at once, or with something to cancel; then `done(entry or error, now)` is called later, once, never
from within `ask`.  Every want has a deadline, so the absence of a pool, of an agent or of an answer is an error, never a
hang.  `obtain` is the asyncio side of the same.

An entry that was handed out belongs to the caller, who acquires it at once, or releases it.
"""

from __future__ import annotations

import asyncio
import errno
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from ipaddress import IPv6Address
from typing import NamedTuple, Protocol

from tapstack.events import Event, EventStream
from tapstack.ipv6.addresses import AddressEntry, AddressKind, AddressState, AddressTable, Answers
from tapstack.timers import TimerQueue
from tapstack.types import address as to_bytes
from tapstack.types import address_text

from .adoption import AddressRefused, Adoption, adopt
from .errors import NodeStopped, UnimuxError
from .pool import Outcome, Pool
from .purpose import UNNAMED, Purpose

__all__ = [
    "AddressNotSet",
    "AddressRefused",
    "AddressUnavailable",
    "AddressWanted",
    "Agent",
    "AgentCaller",
    "AutoSet",
    "ChosenAddress",
    "DasRequired",
    "Need",
    "Policy",
    "Want",
    "obtain",
]

Done = Callable[[Outcome, float], None]

MAX_NEEDS = 1024
"""Sockets that may wait for an outside agent at a time."""


class Want(NamedTuple):
    """What a socket needs.

    kind: EPHEMERAL or SERVICE.  destination: the peer's address where it is known.  deadline: time of the stack's clock after
    which nothing is wanted any more.  purpose: what for, for an agent and for the journal.
    """

    kind: AddressKind
    destination: bytes | None
    deadline: float
    cause: str = "taken"
    purpose: Purpose = UNNAMED


class Pending(Protocol):
    """An address that is being waited for."""

    def cancel(self, now: float) -> None:
        """Stop waiting; there will be no answer.  Harmless when there was one."""


class Policy(ABC):
    """Decides which address a socket gets, and when."""

    @abstractmethod
    def ask(self, want: Want, now: float, done: Done) -> AddressEntry | Pending:
        """An entry at once, or what to cancel; then `done` is called with an entry or an error, later and once.

        Raises `UnimuxError` when there is nothing to wait for.
        """


class AutoSet(Policy):
    """The default: an address from the pool; applications need no change (UM-DAS-2)."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def ask(self, want: Want, now: float, done: Done) -> AddressEntry | Pending:
        entry = self.pool.take(want.kind, want.destination, now, want.cause)
        if entry is not None:
            return entry
        return self.pool.request(want.kind, want.destination, now, done, deadline=want.deadline, cause=want.cause)


class AddressUnavailable(UnimuxError, OSError):
    """An application named a source address that is not to be had."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        self.reason = reason
        OSError.__init__(self, errno.EADDRNOTAVAIL, f"{address} cannot be used as source address: {reason}.")

    def __str__(self) -> str:
        return str(self.strerror)


class ChosenAddress(Policy):
    """The application's own choice of an ordinary address of this node (UM-DAS-5).

    One-time addresses cannot be chosen: each belongs to one connection (UM-DAS-4).
    """

    def __init__(self, addresses: AddressTable, address: bytes) -> None:
        self._addresses = addresses
        self.address = address

    def ask(self, want: Want, now: float, done: Done) -> AddressEntry | Pending:
        return chosen_address(self._addresses, self.address)


def chosen_address(addresses: AddressTable, wanted: bytes) -> AddressEntry:
    """The ordinary address that an application named; raises `AddressUnavailable` with the reason."""
    entry = addresses.get(wanted)
    text = address_text(wanted)
    if entry is None:
        raise AddressUnavailable(text, "it is not an address of this node")
    if entry.kind.one_time:
        raise AddressUnavailable(text, "it is a one-time address, which serves one connection only")
    if entry.state not in (AddressState.PREFERRED, AddressState.DEPRECATED):
        raise AddressUnavailable(text, f"it is {entry.state} still: wait for duplicate address detection")
    return entry


# -- DAS required --------------------------------------------------------------------------------------


class AddressNotSet(UnimuxError, TimeoutError):
    """Nobody supplied an address in time (UM-DAS-3).  `waited`: seconds; `reason`: what happened to those supplied.

    >>> str(AddressNotSet(5.0))
    'No address was set within 5 s: check that the agent that sets addresses is running.'
    """

    exit_code = 4

    def __init__(self, waited: float, reason: str = "") -> None:
        self.waited = waited
        self.reason = reason
        remedy = reason or "check that the agent that sets addresses is running"
        TimeoutError.__init__(self, errno.ETIMEDOUT, f"No address was set within {waited:g} s: {remedy}.")

    def __str__(self) -> str:
        return str(self.strerror)


class AddressWanted(Event, kw_only=True, frozen=True, tag="wanted"):
    """A socket waits for an address from outside, or no longer does; `outcome` is "wanted", "set", or why not."""

    need: int
    kind: str
    destination: str | None
    front_end: str | None
    who: str | None
    service: str | None
    outcome: str

    def text(self) -> str:
        towards = f" towards {self.destination}" if self.destination else ""
        return f"need {self.need}: {self.kind} address{towards}: {self.outcome}"


class Need:
    """One socket that waits; `number` names it to an agent, `at_end` is called when it is closed, whatever the outcome."""

    def __init__(
        self, policy: DasRequired, number: int, want: Want, now: float, done: Done, timers: TimerQueue
    ) -> None:
        self.number = number
        self.want = want
        self.since = now
        self.done = done
        self.adoption: Adoption | None = None
        self.last_refusal: AddressRefused | None = None
        self.at_end: Callable[[], object] = lambda: None
        self._policy = policy
        self.timer = timers.timer(self._late)

    def cancel(self, now: float) -> None:
        """The socket needs no address any more."""
        self._policy.remove(self, now, "no longer wanted")

    def _late(self, now: float) -> None:
        reason = "" if self.last_refusal is None else self.last_refusal.clause
        error = AddressNotSet(now - self.since, reason)
        if self._policy.remove(self, now, "not set in time"):
            self.done(error, now)


class DasRequired(Policy):
    """The application, or an agent outside the stack, sets the address (UM-DAS-3).

    Needs are told as `AddressWanted` events and through `on_need`, and listed in `needs`; `supply` answers one.
    """

    def __init__(self, pool: Pool, events: EventStream, on_need: Callable[[Need], None] | None = None) -> None:
        self.pool = pool
        self.needs: dict[int, Need] = {}
        self.on_need = on_need
        self._events = events
        self._count = 0

    def ask(self, want: Want, now: float, done: Done) -> AddressEntry | Pending:
        if self.pool.closed:
            raise NodeStopped
        if len(self.needs) >= MAX_NEEDS:
            raise AddressNotSet(0.0, f"{MAX_NEEDS} sockets wait for an agent already")
        self._count += 1
        need = Need(self, self._count, want, now, done, self.pool.timers)
        need.timer.set(max(want.deadline, now))
        if not self.needs:
            self.pool.at_end.append(self._end)
        self.needs[need.number] = need
        self._tell(need, now, "wanted")
        if self.on_need is not None:
            self.on_need(need)
        return need

    def supply(
        self, number: int, address: bytes, now: float, verdict: Callable[[AddressRefused | None, float], None]
    ) -> None:
        """Set the address of a need.  `verdict(None, now)` when it was set, or why it was refused; the need stays open then.

        Raises `AddressRefused` at once for what can be seen at once: no such need, an address of no prefix of this node, one
        that is or was in use, one that is reserved; `StateError` when the claim cannot be made durable.
        """
        need = self.needs.get(number)
        if need is None:
            raise AddressRefused(address, "nobody waits for it (any more)")
        if need.adoption is not None:
            raise AddressRefused(address, f"{address_text(need.adoption.address)} is being tested for the same socket")

        def tested(outcome: AddressEntry | AddressRefused, now: float) -> None:
            need.adoption = None
            if isinstance(outcome, AddressRefused):
                need.last_refusal = outcome
                verdict(outcome, now)
            elif self.remove(need, now, "set"):
                need.done(outcome, now)
                verdict(None, now)

        try:
            need.adoption = adopt(self.pool, address, need.want.kind, now, tested, need.want.cause)
        except AddressRefused as refusal:
            need.last_refusal = refusal
            raise

    def give_up(self, number: int, error: UnimuxError, now: float) -> None:
        """The agent cannot serve a need: its socket gets the error now.  Harmless when nobody waits."""
        need = self.needs.get(number)
        if need is not None and self.remove(need, now, str(error)):
            need.done(error, now)

    def _end(self, now: float) -> None:
        """The node has stopped: nothing is waited for any more."""
        for number in list(self.needs):
            self.give_up(number, NodeStopped(), now)

    def remove(self, need: Need, now: float, outcome: str) -> bool:
        """Close a need, whatever is under way for it; False when it was closed before."""
        if self.needs.pop(need.number, None) is None:
            return False
        if not self.needs:
            self.pool.at_end.remove(self._end)
        need.timer.retire()
        if need.adoption is not None:
            need.adoption.cancel(now)
            need.adoption = None
        need.at_end()
        self._tell(need, now, outcome)
        return True

    def _tell(self, need: Need, now: float, outcome: str) -> None:
        want = need.want
        self._events.emit(
            AddressWanted(
                time=now,
                need=need.number,
                kind=want.kind.value,
                destination=None if want.destination is None else address_text(want.destination),
                front_end=want.purpose.front_end,
                who=want.purpose.who,
                service=want.purpose.service,
                outcome=outcome,
            )
        )


# -- asyncio -------------------------------------------------------------------------------------------

Agent = Callable[[Want], Awaitable[str | bytes | IPv6Address]]
"""Supplies an address for a want; an exception means that it cannot."""


class AgentCaller:
    """Joins `DasRequired` to an awaitable agent: asks it for every need, again when an address was refused.

        das = DasRequired(pool, events)
        das.on_need = AgentCaller(das, agent, node.now, node.driver.kick)

    attempts: how often the agent is asked for one need; after the last refusal the socket gets it as its error.
    """

    def __init__(
        self,
        policy: DasRequired,
        agent: Agent,
        now: Callable[[], float],
        kick: Callable[[], None],
        attempts: int = 3,
    ) -> None:
        self._policy = policy
        self._agent = agent
        self._now = now
        self._kick = kick
        self._attempts = attempts

    def __call__(self, need: Need) -> None:
        """Begin to ask for a need; the running loop does the rest, until the need is closed."""
        need.at_end = asyncio.get_running_loop().create_task(self._serve(need)).cancel

    async def _serve(self, need: Need) -> None:
        failure: UnimuxError = AddressNotSet(0.0)
        for _ in range(self._attempts):
            failure = await self._ask_once(need)
            if need.number not in self._policy.needs:
                return  # closed meanwhile, and the agent would not be cancelled
        self._policy.give_up(need.number, failure, self._now())
        self._kick()

    async def _ask_once(self, need: Need) -> UnimuxError:
        """Why one answer of the agent does not serve; where it does, the need is closed, and this ends with it."""
        try:
            supplied = await self._agent(need.want)
        except Exception as error:  # an agent is code of others: whatever it raises is its refusal
            return AddressNotSet(self._now() - need.since, f"the agent failed ({str(error) or type(error).__name__})")
        try:
            address = to_bytes(supplied)
        except ValueError as error:
            return AddressNotSet(self._now() - need.since, f"the agent gave no IPv6 address ({error})")
        refused: asyncio.Future[AddressRefused] = asyncio.get_running_loop().create_future()

        def judged(refusal: AddressRefused | None, now: float) -> None:
            if refusal is not None and not refused.done():
                refused.set_result(refusal)

        try:
            self._policy.supply(need.number, address, self._now(), judged)
        except UnimuxError as refusal:  # or the claim could not be made durable
            return refusal
        self._kick()
        return await refused


def _may_begin(entry: AddressEntry) -> bool:
    """Whether a use of an address may begin: an ordinary one was chosen as it is (RFC 4862 §5.5.4)."""
    return entry.state is not AddressState.DEPRECATED or not entry.kind.one_time


async def obtain(
    policy: Policy, want: Want, addresses: AddressTable, now: Callable[[], float], kick: Callable[[], None]
) -> AddressEntry:
    """The address for a want; the caller acquires or releases it before it waits for anything else, and kicks the driver then.

    `now` is the stack's clock, `kick` the driver's.  Cancelling gives back whatever was on its way.  One that goes while the
    caller is being told (its prefix expires, another node claims it), or that nothing may start on any more (UM-ADDR-11), is
    replaced.
    Raises what the policy's error is, at the want's deadline at the latest.
    """
    while True:
        entry = await _obtain_once(policy, want, addresses, now, kick)
        if addresses.get(entry.address) is entry and entry.answers & Answers.TRAFFIC:
            if _may_begin(entry):
                return entry
            addresses.release(entry, now(), "deprecated before it could be used")
        if now() >= want.deadline:
            raise AddressUnavailable(address_text(entry.address), "it went again before it could be used")


class _Answer:
    """The `Done` of one want.  The future is made when there is something to wait for, which is rare.

    What comes before that, as from a `DasRequired.on_need` that gives up at once, is kept for it.
    """

    __slots__ = ("_addresses", "_early", "_future")

    def __init__(self, addresses: AddressTable) -> None:
        self._addresses = addresses
        self._future: asyncio.Future[AddressEntry] | None = None
        self._early: tuple[Outcome, float] | None = None

    def wait(self) -> asyncio.Future[AddressEntry]:
        """What to wait for; to be called once."""
        future: asyncio.Future[AddressEntry] = asyncio.get_running_loop().create_future()
        self._future = future
        if self._early is not None:
            self(*self._early)
        return future

    def __call__(self, outcome: Outcome, at: float) -> None:
        if self._future is None:
            self._early = outcome, at
        elif self._future.done():
            if isinstance(outcome, AddressEntry):
                self.give_back(outcome, at)
        elif isinstance(outcome, AddressEntry):
            self._future.set_result(outcome)
        else:
            self._future.set_exception(outcome)

    def give_back(self, entry: AddressEntry, at: float) -> None:
        """Nobody waits for the entry any more."""
        self._addresses.give_back(entry, at, "nobody waits for it any more")


async def _obtain_once(
    policy: Policy, want: Want, addresses: AddressTable, now: Callable[[], float], kick: Callable[[], None]
) -> AddressEntry:
    answer = _Answer(addresses)
    begun = policy.ask(want, now(), answer)
    if isinstance(begun, AddressEntry):
        return begun
    future = answer.wait()
    kick()
    try:
        return await future
    except asyncio.CancelledError:
        begun.cancel(now())
        if future.done() and not future.cancelled() and future.exception() is None:
            answer.give_back(future.result(), now())
        kick()
        raise
