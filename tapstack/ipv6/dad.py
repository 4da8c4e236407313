"""Duplicate Address Detection, enhanced by nonces (RFC 4862 §5.4, RFC 7527), paced for a pool of addresses.

An address that becomes TENTATIVE (or OPTIMISTIC) is queued; tests start at least `dad_pace` apart, and at most
`dad_concurrent` run at a time.  A test sends `dad_transmits` probes RetransTimer apart and passes RetransTimer after
the last, counted from when the probe left (`departed`), which on a busy machine is later than when it was made.  It fails when
somebody advertises the address, or probes for it with a nonce that is not ours.

A probe of ours that comes back is not a conflict: the link loops, which is reported, and the test goes on with another
round of three probes.  Nonces are remembered for a while after the test, so that a probe that comes back late is known
too.

An address that is assigned is tested as well when the link was away, since somebody else may have taken it meanwhile: it
is used and defended while its test runs, and what a conflict means for it is for `on_conflict` to decide.

Failures in a row are a fault of the link or the work of a neighbour that claims every address.  After
`dad_fault_threshold` of them testing stops for a time that doubles with each further one, and the fault is
reported (UM-ADDR-10); addresses wait in the queue, TENTATIVE, meanwhile.  The link coming up
ends it; a test that passes, of those that had begun, makes the next one short again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import partial

from ..events import DropReason
from ..timers import TimerQueue
from ..types import UNSPECIFIED, address_text, solicited_node
from ..wire import icmpv6, nd
from .addresses import AddressEntry, AddressState
from .config import MAX_MULTICAST_SOLICIT
from .interface import Interface

NONCES_REMEMBERED = 512
NONCE_LENGTH = 6
_UNPROVEN = (AddressState.TENTATIVE, AddressState.OPTIMISTIC)


class _Test:
    """One address under test."""

    __slots__ = ("entry", "looped", "remaining", "rounds", "timer")

    def __init__(self, entry: AddressEntry, dad: DuplicateAddressDetection, timers: TimerQueue, transmits: int) -> None:
        self.entry = entry
        self.timer = timers.timer(partial(dad._due, self))
        self.remaining = transmits
        self.rounds = 0
        self.looped = False


class DuplicateAddressDetection:
    """Tests addresses one after another and tells the address table the outcome.

    leaving: tests whose probe was made and may not have left yet: who writes frames calls `departed` while there are any.
    failures: in a row, so far.  held_until: when testing goes on after a fault; None when it is not held.
    on_conflict(entry, cause, now): another node has an address that is assigned here.
    """

    def __init__(self, interface: Interface) -> None:
        self._interface = interface
        self._waiting: OrderedDict[bytes, AddressEntry] = OrderedDict()
        self._tests: dict[bytes, _Test] = {}
        self._nonces: OrderedDict[bytes, None] = OrderedDict()
        self.leaving: dict[bytes, _Test] = {}
        self._pace = interface.timers.timer(self._start_next)
        self._next_start = -math.inf
        self._pause = interface.config.dad_backoff
        self.failures = 0
        self.held_until: float | None = None
        self.on_conflict: Callable[[AddressEntry, str, float], None] = lambda entry, cause, now: None

    @property
    def pending(self) -> int:
        """Addresses that wait for a test or are under test."""
        return len(self._waiting) + len(self._tests)

    def begin(self, entry: AddressEntry, now: float) -> None:
        """Queue an address for its test; one that is under test begins anew."""
        self._end_test(entry)
        self._waiting[entry.address] = entry
        if entry.state is AddressState.OPTIMISTIC:
            self._waiting.move_to_end(entry.address, last=False)
        self._schedule(now)

    def tests(self, entry: AddressEntry) -> bool:
        """Whether the address is under test now."""
        return entry.address in self._tests

    def forget(self, entry: AddressEntry, now: float) -> None:
        """The address is gone; its test ends without a verdict."""
        waited = self._waiting.pop(entry.address, None)
        if self._end_test(entry) or waited is not None:
            self._schedule(now)

    def departed(self, now: float) -> None:
        """What was made so far has left: the wait for an answer begins now."""
        for test in self.leaving.values():
            test.timer.set(now + self._interface.retrans_timer)
        self.leaving.clear()

    def reset(self, now: float) -> None:
        """The link came up: past faults count no more (UM-ADDR-10)."""
        self.failures = 0
        self.held_until = None
        self._pause = self._interface.config.dad_backoff
        self._schedule(now)

    # -- what is heard ---------------------------------------------------------------------------

    def is_own_probe(self, nonce: bytes | None, target: bytes, now: float) -> bool:
        """Whether a probe that was received is one of ours, looped back (RFC 7527 §4.2); it must be dropped then."""
        if nonce is None or nonce not in self._nonces:
            return False
        test = self._tests.get(target)
        if test is not None:
            test.looped = True
        self._interface.counters.drop(DropReason.ND_LOOPED_BACK)
        self._interface.notice(address_text(target), "a probe for it was looped back by the link", now)
        return True

    def fail(self, entry: AddressEntry, now: float, cause: str) -> None:
        """Another node has, or wants, the address."""
        self._waiting.pop(entry.address, None)
        self._end_test(entry)
        self.failures += 1
        if self.failures >= self._interface.config.dad_fault_threshold and self.held_until is None:
            self._hold(now)
        if entry.state in _UNPROVEN:
            self._interface.addresses.dad_failed(entry, now, cause)
        else:
            self.on_conflict(entry, cause, now)
        self._schedule(now)

    def _hold(self, now: float) -> None:
        self.held_until = now + self._pause
        self._interface.notice(
            "duplicate address detection",
            f"{self.failures} addresses in a row were claimed by another node; next attempt in {self._pause:.0f} s",
            now,
        )
        self._pause = min(self._pause * 2, self._interface.config.dad_backoff_max)

    # -- tests -----------------------------------------------------------------------------------

    def _schedule(self, now: float) -> None:
        """Arm the pace timer for the next start, if one is possible."""
        if not self._waiting or len(self._tests) >= self._interface.config.dad_concurrent:
            self._pace.cancel()
            return
        due = max(now, self._next_start)
        if self.held_until is not None:
            due = max(due, self.held_until)
        self._pace.set(due)

    def _start_next(self, now: float) -> None:
        if self.held_until is not None and now >= self.held_until:
            self.held_until = None
        if self.held_until is None and self._waiting:
            _, entry = self._waiting.popitem(last=False)
            self._next_start = now + self._interface.config.dad_pace
            if entry.per_address_nd and self._interface.mac is not None and self._interface.config.dad_transmits:
                test = _Test(entry, self, self._interface.timers, self._interface.config.dad_transmits)
                self._tests[entry.address] = test
                self._probe(test, now)
            else:
                self._pass(entry, now)
        self._schedule(now)

    def _due(self, test: _Test, now: float) -> None:
        """RetransTimer after a probe: send the next one, or the address has passed."""
        config = self._interface.config
        if not test.remaining and test.looped and test.rounds < config.dad_loopback_rounds:
            test.rounds += 1
            test.remaining = MAX_MULTICAST_SOLICIT
            test.looped = False
        if test.remaining:
            self._probe(test, now)
            return
        self._end_test(test.entry)
        self.failures = 0
        self._pause = config.dad_backoff
        self._pass(test.entry, now)
        self._schedule(now)

    def _end_test(self, entry: AddressEntry) -> bool:
        """No more of the test of an address; whether there was one."""
        test = self._tests.pop(entry.address, None)
        if test is None:
            return False
        test.timer.cancel()
        self.leaving.pop(entry.address, None)
        return True

    def _pass(self, entry: AddressEntry, now: float) -> None:
        if entry.state in _UNPROVEN:
            self._interface.addresses.dad_passed(entry, now)

    def _probe(self, test: _Test, now: float) -> None:
        interface = self._interface
        nonce = interface.random.randbytes(NONCE_LENGTH)
        self._nonces[nonce] = None
        if len(self._nonces) > NONCES_REMEMBERED:
            self._nonces.popitem(last=False)
        target = test.entry.address
        group = solicited_node(target)
        message = nd.NeighborSolicitation(target, (nd.Nonce(nonce),))
        interface.send_icmp(
            interface.multicast_header(group),
            UNSPECIFIED,
            group,
            icmpv6.Type.NEIGHBOR_SOLICITATION,
            0,
            message.pack(),
        )
        test.remaining -= 1
        test.timer.set(now + interface.retrans_timer)
        self.leaving[target] = test
