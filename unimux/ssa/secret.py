"""Delivery by shared secret: client and server compute the same SSAs, and no message tells them (UM-SSA-2, UM-GEN-5).

Model.  Counter n of a (secret, service, client) is one address; see `unimux.generators.SecretSequence`.  Let h be the highest
counter that served a session, -1 at first.

Server, `SecretWindow`:

        h-k+1 … h             h+1 … (k usable ones)        the next r usable ones
    ───┬─────────────────┬──────────────────────────────┬───────────────────────────┬───
       │ armed, if unused│ armed: PREFERRED, LISTEN     │ reserved: UNCERTAIN       │ not on the link
    ───┴─────────────────┴──────────────────────────────┴───────────────────────────┴───

A counter whose identifier is reserved (RFC 5453), or that another node claims, in DAD or later, is skipped: the window holds the
next usable one.  The counters a little below h stay armed for parallel connections, which complete in any order; below that
they are withdrawn.

Neither a link that goes nor a prefix that changes costs a counter, since the client would not know of it:

* What was only reserved when the link came up again, or when its prefix was deprecated, has never been in use, and is reserved
  again as soon as that can be.
* What is armed stays so; while its prefix is deprecated it rests (UM-ADDR-11).  Once it is released it never comes again
  (UM-ADDR-9): the valid lifetime of its prefix is over, for one.  The record keeps what ended so beyond a restart.
* The window stands in one prefix, where all of h+1 … is new if it moves to another.  What is armed in the old one stays
  there, but the session that is served in one withdraws the counter from the others: an identifier serves once.
* The process ends.  The appointment stands: the next one reserves and arms what has not served, if no doubt about the node's
  memory forbids it (`renew`).

Client, `secretclient.SecretClient`: tries h+1, h+2 … h+k, one after the other, each for `try_timeout`; a server that lost a
few counters is found so.  If none answers, it looks further ahead in steps of k/2: of any k armed counters in a row it hits one
or two.  That look-ahead is bounded, so a server that is gone is an error after a known time, never a search without end.

Both sides keep h on disk (`counters`), the server in its node's state as well, so that a record which alone is put back does not
arm what has served.  A client that lost its record finds a server that is up to `k + search·k/2` counters
ahead; a server never goes back, so a client that is ahead of it by more than k waits for nobody: a new secret is due.

An SSA in use is as visible as any other address.  What the secret hides is which one comes next.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from tapstack.events import Event, EventStream, ListenerChanged
from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.prefixes import Prefix
from tapstack.randomness import derive_key
from tapstack.tcp.listener import Listener
from tapstack.tcp.states import TcpState
from tapstack.types import address as to_bytes
from tapstack.types import address_text

from ..adoption import AddressRefused, Reservation, reserve
from ..generators import IDENTIFIER_BITS, SecretSequence
from ..pool import Pool
from ..prefix import choose_prefix
from ..purpose import Purpose, tell_purpose
from ..state import StateError
from .counters import Counters, counter_file_name

DEFAULT_ARMED = 4
DEFAULT_RESERVED = 4

_RETRY = 1.0
_STEPS = 1024
_PAUSE = 0.1
"""Seconds after so many counters in which others get their turn."""
_RECORD_BLOCK = 16
_PREFIXES = 64
"""So many prefixes that the window stood in are remembered: advertisements can be forged."""


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


def purpose_of(shared: SharedSecret) -> Purpose:
    """What the addresses of a shared secret are for, on either side."""
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
    """A counter on the link, in one prefix: reserved, or armed."""

    __slots__ = ("address", "armed", "counter", "line", "reservation")

    def __init__(self, line: _Line, counter: int, address: bytes, reservation: Reservation) -> None:
        self.line = line
        self.counter = counter
        self.address = address
        self.reservation = reservation
        self.armed = False


class _Line:
    """The counters in one prefix.

    slots: those on the link.  again: those that were given up before they were ever in use, to be reserved again.  next: the
    first that was not tried yet.
    """

    __slots__ = ("again", "next", "slots")

    def __init__(self) -> None:
        self.slots: dict[int, _Slot] = {}
        self.again: set[int] = set()
        self.next = 0

    def ahead(self, used: int) -> list[_Slot]:
        """Those on the link that are still to serve, the nearest first."""
        return [self.slots[counter] for counter in sorted(self.slots) if counter > used]

    def pass_over(self, used: int) -> None:
        """Forget what is behind the highest counter that served."""
        self.next = max(self.next, used + 1)
        self.again = {counter for counter in self.again if counter > used}


class SecretWindow:
    """The server's window over one shared secret, for one listener.

    armed, reserved: k and r above.  prefix: which of the node's prefixes; by default the one that the pool would choose.
    client: who may connect, as (prefix bytes, length); None for anybody who knows the address.
    Counters that were reserved but not used before the last restart are taken up again.  Where the record was kept under another
    key epoch of the node's state, or is behind that, either may have been put back: all that it had reserved is passed over, for
    good.
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
        self._purpose = purpose_of(shared)
        self._state = pool.source.state
        self._served_on_record = counter_file_name(shared.secret, "server", shared.service, shared.client)
        self._take_up()
        self._renewable = counters.reserved
        self._lines: dict[tuple[bytes, int], _Line] = {}
        self._slots: dict[bytes, _Slot] = {}
        self._served: set[int] = set()
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
        for slot in list(self._slots.values()):
            self._withdraw(slot, now, "window closed")
        self.counters.close()

    @property
    def armed(self) -> list[int]:
        """The counters that can be connected to now."""
        accepting = self._listener.accepting
        return sorted({self._slots[address].counter for address in accepting if address in self._slots})

    @property
    def reserved(self) -> list[int]:
        """The counters that are reserved, in DAD or UNCERTAIN."""
        return sorted({slot.counter for slot in self._slots.values() if not slot.armed})

    # -- inside ----------------------------------------------------------------------------------

    def _seen(self, event: Event) -> None:
        """An SSA of ours is no longer armed: used by a session, or lost."""
        if not isinstance(event, ListenerChanged) or event.listener != self._listener.id or event.address is None:
            return
        address = to_bytes(event.address)
        slot = self._slots.get(address)
        if slot is None or address in self._listener.armed or not slot.armed:
            return
        self._forget(slot)
        if event.cause == "consumed":
            self._served.add(slot.counter)
            self.counters.used = max(self.counters.used, slot.counter)
            self._save()
            self._put_on_record()
        elif address not in self._pool.host.addresses:
            self._ended(slot)
        self._timer.set(event.time)

    def _ended(self, slot: _Slot) -> None:
        """An address that was in use is gone: it must not come again, after a restart neither (UM-ADDR-9)."""
        self.counters.ended[address_text(slot.address)] = slot.counter
        self._save()

    def _take_up(self) -> None:
        """Look whether the record can be relied on; what comes of that is on record itself before anything is armed."""
        counters, served = self.counters, self._on_record()
        epoch = derive_key(self._state.epoch.key, "counters of a shared secret")[:8].hex()
        if served > counters.used or epoch != counters.epoch:
            counters.used = max(counters.used, served, counters.reserved - 1)
            counters.epoch = epoch
            self._save()

    def _save(self) -> None:
        try:
            self.counters.save()
        except StateError as error:
            self.failure = error  # acted upon in `_work`: this may be in the middle of a handshake

    def _on_record(self) -> int:
        """The highest counter that served, as the node's state has it: its number of leased ones, less one."""
        return max(epoch.reached(self._served_on_record) for epoch in self._state.epochs) - 1

    def _put_on_record(self) -> None:
        reached = self._state.epoch.reached(self._served_on_record)
        try:
            if self.counters.used >= reached:
                self._state.lease(self._served_on_record, self.counters.used + 1 - reached)
        except StateError as error:
            self.failure = error

    def _changed(self, now: float) -> None:
        self._timer.set(now)

    def _work(self, now: float) -> None:
        if self.failure is not None:
            self._tell(now, str(self.failure))
            self.close(now)
            self._failed(self.failure)
            return
        if self._pool.closed:
            return
        if self._listener.state is TcpState.CLOSED:
            self._tell(now, "the listener is closed")
            self.close(now)
            return
        used = self.counters.used
        for slot in list(self._slots.values()):
            if not slot.armed and slot.reservation.lost:
                self._lost(slot, now)
            elif slot.counter <= used - self._armed or (slot.counter <= used and not slot.armed):
                self._withdraw(slot, now, "passed over")
            elif slot.counter in self._served:
                self._withdraw(slot, now, "its counter served in another prefix")
        self._served.clear()
        prefix = self._prefix()
        if prefix is None:
            self._timer.set(now + _RETRY)
            return
        line = self._line(prefix)
        for slot in [each for each in self._slots.values() if each.line is not line and not each.armed]:
            slot.line.again.add(slot.counter)
            self._withdraw(slot, now, "the window is in another prefix")
        line.pass_over(used)
        self._fill(line, prefix, now)
        self._arm(line, now)

    def _lost(self, slot: _Slot, now: float) -> None:
        """A reservation is gone: for ever where another node has the address, for now where link or prefix went."""
        self._forget(slot)
        if slot.reservation.claimed:
            self._tell(now, f"counter {slot.counter} skipped: another node has its address")
        else:
            slot.line.again.add(slot.counter)
            self._tell(now, f"counter {slot.counter} given up until link and prefix are as before")

    def _line(self, prefix: Prefix) -> _Line:
        """The counters in a prefix; those of one that is used no more are forgotten where there are too many."""
        key = prefix.prefix, prefix.length
        line = self._lines.pop(key, None) or _Line()
        self._lines[key] = line  # the last one is the one that was wanted last
        if len(self._lines) > _PREFIXES:
            oldest = next((old for old, each in self._lines.items() if not each.slots and each is not line), None)
            if oldest is not None:
                del self._lines[oldest]
        return line

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

    def _fill(self, line: _Line, prefix: Prefix, now: float) -> None:
        """Reserve until k + r counters lie ahead: first what was reserved before, then what is new."""
        missing = self._armed + self._reserved - len(line.ahead(self.counters.used))
        for counter in sorted(line.again)[: max(missing, 0)]:
            if not self._reserve(line, prefix, counter, now):
                return
            line.again.discard(counter)
            missing -= counter in line.slots
        for _ in range(_STEPS):
            if missing <= 0:
                return
            counter = line.next
            if not self._reserve(line, prefix, counter, now):
                return
            line.next = counter + 1
            missing -= counter in line.slots
        self._timer.set(now + _PAUSE)  # a long run of counters that are not to be had: others get their turn

    def _reserve(self, line: _Line, prefix: Prefix, counter: int, now: float) -> bool:
        """Put a counter on the link, if it is to be had; False when that is to be tried again later."""
        address = self._address(prefix, counter)
        if address is None:
            return True
        if counter >= self.counters.reserved:
            self.counters.reserved = counter + _RECORD_BLOCK
            self._save()
            if self.failure is not None:
                self._timer.set(now)
                return False
        stands = counter < self._renewable and address_text(address) not in self.counters.ended
        renew = counter in line.again or stands
        try:
            reservation = reserve(self._pool, address, now, self._changed, renew=renew)
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
        slot = _Slot(line, counter, address, reservation)
        line.slots[counter] = self._slots[address] = slot
        return True

    def _arm(self, line: _Line, now: float) -> None:
        """Arm the first k counters ahead, those of them that are ready."""
        for slot in line.ahead(self.counters.used)[: self._armed]:
            if slot.armed or not slot.reservation.ready:
                continue
            entry = slot.reservation.promote(AddressKind.SERVICE, now, f"counter {slot.counter}")
            tell_purpose(self._events, now, entry.address, self._purpose)
            slot.armed = True
            try:
                self._listener.arm(entry, now, sessions=1, client=self._client)
            except Exception as error:
                self._forget(slot)
                self._pool.host.addresses.give_back(entry, now, "could not be armed")
                self._ended(slot)
                self._tell(now, f"counter {slot.counter} could not be armed: {error}")
                self._timer.set(now + _RETRY)
                return
            self._tell(now, f"counter {slot.counter} armed")

    def _withdraw(self, slot: _Slot, now: float, cause: str) -> None:
        self._forget(slot)
        if slot.armed:
            self._listener.disarm(slot.address, now, cause)
        else:
            slot.reservation.cancel(now)

    def _forget(self, slot: _Slot) -> None:
        del self._slots[slot.address]
        del slot.line.slots[slot.counter]

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
