"""Delivery by shared secret: client and server compute the same SSAs, and no message tells them (UM-SSA-2, UM-GEN-5).

Model.  Counter n of a (secret, service, client) is one address; see `unimux.generators.SecretSequence`.  Let h be the highest
counter that served a session, -1 at first.

Server, `SecretWindow`:

        h-k+1 … h             h+1 … (k usable ones)        the next r usable ones
    ───┬─────────────────┬──────────────────────────────┬───────────────────────────┬───
       │ armed, if unused│ armed: PREFERRED, LISTEN     │ reserved: UNCERTAIN       │ not on the link
    ───┴─────────────────┴──────────────────────────────┴───────────────────────────┴───

A counter whose identifier is reserved (RFC 5453), or that DAD loses, is skipped: the window holds the next usable one.  The
counters a little below h stay armed for parallel connections, which complete in any order; below that they are withdrawn.

Client, `SecretClient`: tries h+1, h+2 … h+k, one after the other, each for `try_timeout`; a server that lost a few counters is
found so.  If none answers, it looks further ahead in steps of k/2: of any k armed counters in a row it hits one or two.
That look-ahead is bounded, so a server that is gone is an error after a known time, never a search without end.

Both sides keep h on disk (`counters`).  A client that lost its record finds a server that is up to `k + search·k/2` counters
ahead; a server never goes back, so a client that is ahead of it by more than k waits for nobody: a new secret is due.

An SSA in use is as visible as any other address.  What the secret hides is which one comes next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network
from typing import Any, ClassVar, Protocol

from tapstack.events import Event, EventStream, ListenerChanged
from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.ipv6.prefixes import Prefix
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode
from tapstack.types import address as to_bytes

from ..adoption import AddressRefused, Reservation, reserve
from ..errors import ConnectError, NetworkUnreachable, UnimuxError
from ..generators import IDENTIFIER_BITS, SecretSequence
from ..pool import Pool
from ..prefix import choose_prefix
from ..purpose import Purpose, tell_purpose
from ..state import StateError
from .counters import Counters

DEFAULT_ARMED = 4
DEFAULT_RESERVED = 4
DEFAULT_SEARCH = 16
TRY_TIMEOUT = 2.0
"""Seconds the client gives one counter: a SYN and its first retransmission."""

_RETRY = 1.0
_STEPS = 1024
_PAUSE = 0.1
"""Seconds after so many counters in which others get their turn."""
_RECORD_BLOCK = 16


@dataclass(frozen=True, slots=True)
class SharedSecret:
    """What both sides must have alike: the secret, the service's name and the client's.

    >>> shared = SharedSecret(b"sixteen bytes or more", "ssh", "alice")
    >>> shared.address(IPv6Network("2001:db8::/64"), 0) == shared.address(IPv6Network("2001:db8::/64"), 0)
    True

    Raises `GeneratorError` for a secret that is too short, when it is first used.
    """

    secret: bytes
    service: str
    client: str

    def sequence(self, prefix_length: int = IDENTIFIER_BITS) -> SecretSequence:
        """The sequence of identifiers in a prefix of that length."""
        return SecretSequence(self.secret, self.service, self.client, min(128 - prefix_length, IDENTIFIER_BITS))

    def address(self, prefix: IPv6Network, counter: int) -> IPv6Address:
        """The SSA of a counter; of a prefix shorter than /64 its first /64 is used."""
        return IPv6Address(int(prefix.network_address) | self.sequence(prefix.prefixlen).identifier(counter))

    def __repr__(self) -> str:
        return f"<SharedSecret of {self.client!r} for {self.service!r}>"


def _purpose(shared: SharedSecret) -> Purpose:
    return Purpose(front_end="secret", who=shared.client, service=shared.service)


class WindowMoved(Event, kw_only=True, frozen=True, tag="secret"):
    """The window of a shared secret moved, or a counter was skipped; `used` is the highest counter that served a session."""

    service: str
    client: str
    used: int
    armed: int
    reserved: int
    cause: str

    def text(self) -> str:
        return (
            f"secret of {self.client} for {self.service}: used up to {self.used}, "
            f"{self.armed} armed, {self.reserved} reserved: {self.cause}"
        )


class _Slot:
    """A counter on the link: reserved, or armed."""

    __slots__ = ("address", "armed", "reservation")

    def __init__(self, address: bytes, reservation: Reservation) -> None:
        self.address = address
        self.reservation = reservation
        self.armed = False


class SecretWindow:
    """The server's window over one shared secret, for one listener.

    armed, reserved: k and r above.  prefix: which of the node's prefixes; by default the one that the pool would choose.
    client: who may connect, as (prefix bytes, length); None for anybody who knows the address.
    renew: whether counters that were reserved but not used before the last restart are taken up again; not where the record
    may have been rolled back (`DiskState.doubt`).
    failure: why the window is closed though nobody closed it: its record, or that of its addresses, cannot be kept.
    failed: told so.
    """

    def __init__(
        self,
        shared: SharedSecret,
        listener: Listener,
        pool: Pool,
        events: EventStream,
        counters: Counters,
        *,
        armed: int = DEFAULT_ARMED,
        reserved: int = DEFAULT_RESERVED,
        prefix: IPv6Network | None = None,
        client: tuple[bytes, int] | None = None,
        renew: bool = True,
        failed: Callable[[StateError], None] = lambda error: None,
    ) -> None:
        self.shared = shared
        self.counters = counters
        self.failure: StateError | None = None
        self._failed = failed
        self._listener = listener
        self._pool = pool
        self._events = events
        self._armed = armed
        self._reserved = reserved
        self._wanted_prefix = prefix
        self._client = client
        self._purpose = _purpose(shared)
        self._renewable = counters.reserved if renew else 0
        self._next = counters.used + 1
        self._slots: dict[int, _Slot] = {}
        self._counter_of: dict[bytes, int] = {}
        self._sequence: tuple[int, SecretSequence] | None = None
        self._timer = pool.timers.timer(self._work)
        self._unsubscribe: Callable[[], None] | None = None

    def start(self, now: float) -> None:
        """Begin to arm; counters follow as DAD passes."""
        self._unsubscribe = self._events.subscribe(self._seen)
        self._timer.set(now)

    def close(self, now: float) -> None:
        """Withdraw every counter that is not in use by a session."""
        if self._unsubscribe is None:
            return
        self._unsubscribe()
        self._unsubscribe = None
        self._timer.cancel()
        for counter in list(self._slots):
            self._withdraw(counter, now, "window closed")
        self.counters.close()

    @property
    def armed(self) -> list[int]:
        """The counters that can be connected to now."""
        return [counter for counter, slot in self._slots.items() if slot.armed]

    @property
    def reserved(self) -> list[int]:
        """The counters that are reserved, in DAD or UNCERTAIN."""
        return [counter for counter, slot in self._slots.items() if not slot.armed]

    # -- inside ----------------------------------------------------------------------------------

    def _seen(self, event: Event) -> None:
        """An SSA of ours is no longer armed: used by a session, or lost."""
        if not isinstance(event, ListenerChanged) or event.listener != self._listener.id or event.address is None:
            return
        address = to_bytes(event.address)
        counter = self._counter_of.get(address)
        if counter is None or address in self._listener.armed or not self._slots[counter].armed:
            return
        self._forget(counter)
        if event.cause == "consumed":
            self.counters.used = max(self.counters.used, counter)
            self._save()
        self._timer.set(event.time)

    def _save(self) -> None:
        try:
            self.counters.save()
        except StateError as error:
            self.failure = error  # acted upon in `_work`: this may be in the middle of a handshake

    def _changed(self, now: float) -> None:
        self._timer.set(now)

    def _work(self, now: float) -> None:
        if self.failure is not None:
            self._tell(now, str(self.failure))
            self.close(now)
            self._failed(self.failure)
            return
        used = self.counters.used
        for counter, slot in list(self._slots.items()):
            if not slot.armed and slot.reservation.lost:
                self._forget(counter)
                self._tell(now, f"counter {counter} skipped: another node has its address, or its prefix is gone")
            elif counter <= used - self._armed or (counter <= used and not slot.armed):
                self._withdraw(counter, now, "passed over")
        self._fill(now)
        self._arm(now)

    def _prefix(self) -> Prefix | None:
        usable = self._pool.stock.usable()
        if self._wanted_prefix is None:
            return choose_prefix(usable, None)
        wanted = self._wanted_prefix
        return next(
            (p for p in usable if p.prefix == wanted.network_address.packed and p.length == wanted.prefixlen), None
        )

    def _address(self, prefix: Prefix, counter: int) -> bytes | None:
        """The address of a counter, None where nobody uses it."""
        if self._sequence is None or self._sequence[0] != prefix.length:
            self._sequence = prefix.length, self.shared.sequence(prefix.length)
        sequence = self._sequence[1]
        if not sequence.usable(counter):
            return None
        return (int.from_bytes(prefix.prefix, "big") | sequence.identifier(counter)).to_bytes(16, "big")

    def _fill(self, now: float) -> None:
        """Reserve until k + r counters lie ahead."""
        prefix = self._prefix()
        if prefix is None:
            self._timer.set(now + _RETRY)
            return
        ahead = sum(counter > self.counters.used for counter in self._slots)
        for _ in range(_STEPS):
            if ahead >= self._armed + self._reserved:
                return
            counter = self._next
            address = self._address(prefix, counter)
            if address is not None and not self._reserve(counter, address, now):
                return
            self._next = counter + 1
            ahead += counter in self._slots
        self._timer.set(now + _PAUSE)  # a long run of counters that are not to be had: others get their turn

    def _reserve(self, counter: int, address: bytes, now: float) -> bool:
        """Put a counter on the link; False when that is to be tried again later."""
        if counter >= self.counters.reserved:
            self.counters.reserved = counter + _RECORD_BLOCK
            self._save()
            if self.failure is not None:
                self._timer.set(now)
                return False
        try:
            reservation = reserve(self._pool, address, now, self._changed, renew=counter < self._renewable)
        except AddressRefused as refusal:
            if not refusal.lasting:
                self._timer.set(now + _RETRY)
                return False
            self._tell(now, f"counter {counter} skipped: {refusal.reason}")
            return True
        except StateError as error:
            self.failure = error
            self._timer.set(now)
            return False
        self._slots[counter] = _Slot(address, reservation)
        self._counter_of[address] = counter
        return True

    def _arm(self, now: float) -> None:
        """Arm the first k counters ahead, those of them that are ready."""
        ahead = [(counter, slot) for counter, slot in self._slots.items() if counter > self.counters.used]
        for counter, slot in ahead[: self._armed]:
            if slot.armed or not slot.reservation.ready:
                continue
            entry = slot.reservation.promote(AddressKind.SERVICE, now, f"counter {counter}")
            tell_purpose(self._events, now, entry.address, self._purpose)
            slot.armed = True
            try:
                self._listener.arm(entry, now, sessions=1, client=self._client)
            except Exception as error:
                self._forget(counter)
                self._release(entry, now)
                self._tell(now, f"counter {counter} could not be armed: {error}")
                self._timer.set(now + _RETRY)
                return
            self._tell(now, f"counter {counter} armed")

    def _release(self, entry: AddressEntry, now: float) -> None:
        addresses = self._pool.host.addresses
        if not entry.users and addresses.get(entry.address) is entry:
            addresses.release(entry, now, "could not be armed")

    def _withdraw(self, counter: int, now: float, cause: str) -> None:
        slot = self._slots[counter]
        self._forget(counter)
        if slot.armed:
            self._listener.disarm(slot.address, now, cause)
        else:
            slot.reservation.cancel(now)

    def _forget(self, counter: int) -> None:
        del self._counter_of[self._slots.pop(counter).address]

    def _tell(self, now: float, cause: str) -> None:
        self._events.emit(
            WindowMoved(
                time=now,
                service=self.shared.service,
                client=self.shared.client,
                used=self.counters.used,
                armed=len(self.armed),
                reserved=len(self.reserved),
                cause=cause,
            )
        )


# -- the client --------------------------------------------------------------------------------------------


class OutOfStep(UnimuxError, TimeoutError):
    """No counter that was tried led to the server.  `tried`: how many; `first`: where they began."""

    exit_code: ClassVar[int] = 4

    def __init__(self, service: str, first: int, tried: int, last: Exception | None) -> None:
        self.first = first
        self.tried = tried
        self.last = last
        super().__init__(
            f"None of {tried} addresses of {service} from counter {first} on answered: check that the server runs and "
            "shares the secret, the prefix and both names; if one side lost its counters, make a new secret."
        )


class Dialler(Protocol):
    """A node, as far as the client needs it."""

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: IPv6Address,
        port: int | None,
        *,
        mode: PortMode | None,
        timeout: float,
        purpose: Purpose,
    ) -> tuple[asyncio.Transport, Any]:
        """As `Node.create_connection`."""


class SecretClient:
    """Connects to a server with which it shares a secret, in a prefix that it knows.

    look_ahead: k of the server.  search: steps beyond it.  attempts: what happened so far, as (counter, error or None), for
    whoever wants to see.
    """

    def __init__(
        self,
        node: Dialler,
        shared: SharedSecret,
        prefix: IPv6Network,
        counters: Counters,
        *,
        look_ahead: int = DEFAULT_ARMED,
        search: int = DEFAULT_SEARCH,
        try_timeout: float = TRY_TIMEOUT,
    ) -> None:
        self.shared = shared
        self.prefix = prefix
        self.counters = counters
        self.attempts: list[tuple[int, ConnectError | None]] = []
        self._node = node
        self._purpose = _purpose(shared)
        self._sequence = shared.sequence(prefix.prefixlen)
        self._look_ahead = look_ahead
        self._search = search
        self._try_timeout = try_timeout
        self._flying: set[int] = set()

    def candidates(self) -> Iterator[int]:
        """The counters to try, in order; bounded.  Those that a parallel connection tries now are left to it."""
        counter = self.counters.used
        near = self._look_ahead
        while near:
            counter += 1
            if counter > self.counters.used and counter not in self._flying and self._sequence.usable(counter):
                near -= 1
                yield counter
        step = max(1, self._look_ahead // 2)
        for _ in range(self._search):
            counter += step
            if counter not in self._flying and self._sequence.usable(counter):
                yield counter

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        port: int | None = None,
        *,
        mode: PortMode | None = None,
        timeout: float | None = None,
    ) -> tuple[asyncio.Transport, Any]:
        """Connect; the record is durable when this returns.

        timeout: seconds for all counters together; None for as many as there are candidates.  Raises `OutOfStep`,
        `NetworkUnreachable`, `StateError`, and what the node raises where it has no address.
        """
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        first = self.counters.used + 1
        tried = 0
        last: ConnectError | None = None
        for counter in self.candidates():
            left = self._try_timeout if deadline is None else min(self._try_timeout, deadline - loop.time())
            if left <= 0:
                break
            tried += 1
            self._flying.add(counter)
            try:
                made = await self._node.create_connection(
                    protocol_factory,
                    self.shared.address(self.prefix, counter),
                    port,
                    mode=mode,
                    timeout=left,
                    purpose=self._purpose,
                )
            except NetworkUnreachable:
                raise
            except ConnectError as error:
                self.attempts.append((counter, error))
                last = error
            else:
                self.attempts.append((counter, None))
                self.counters.used = max(self.counters.used, counter)
                try:
                    self.counters.save()
                except BaseException:
                    made[0].abort()
                    raise
                return made
            finally:
                self._flying.discard(counter)
        raise OutOfStep(self.shared.service, first, tried, last)
