"""Does the link carry an address of ours?  A test that blames the link for its own faults only (UM-ADDR-12).

An address may pass DAD and be useless all the same: source address validation in the switch has no binding left for it and
drops what it sends (RFC 6620, RFC 7513), or the switch's table of multicast groups is full, so that nobody who resolves the
address reaches us (RFC 4541).  Silence from a far server looks the same, so the test asks somebody near: a *witness*, the
next hop towards that server or a default router; and it compares with an address that works, the link-local one.

The questions are unicast Neighbor Solicitations for the witness:

| question | its answer shows |
|---|---|
| *plain*: from the address, without our link-layer address | packets from it pass, and the witness can find it |
| *control*: the same from the link-local address | the witness is there and answers such questions |
| *full*: from the address, with our link-layer address | packets from it pass; the witness had no need to find it |

To answer a plain question the witness has to resolve the address, by its group, or knows it already.  Three rounds of plain
questions are sent, RetransTimer apart, with controls from the second on.  One answer to a plain question: CARRIED.  None, and
none to a control either: UNKNOWN.  Otherwise the link refuses the address, and full questions tell DEAF (answered: only the group
does not pass) from MUTE.  RFC 4861 §7.2.2 lets a unicast solicitation go without the option, which makes the test possible.

A full question teaches the witness our link-layer address, so a deaf address begins to work, for a while, and what waited at the
witness arrives late, when its sender may have given up.  So those who use the address are told before it is asked, and
while it is the test itself keeps the address.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial

from ..timers import TimerQueue
from ..wire import icmpv6, nd
from .addresses import AddressEntry, Answers
from .config import MAX_UNICAST_SOLICIT
from .interface import Interface
from .neighbors import Neighbor
from .routes import Routes

PLAIN_ROUNDS = MAX_UNICAST_SOLICIT
FULL_ROUNDS = 2


class Carriage(StrEnum):
    """The verdict on an address; the value is a clause for people."""

    CARRIED = "the link carries it"
    DEAF = "what is sent to its group does not arrive"
    MUTE = "what is sent from it does not arrive"
    UNKNOWN = "nobody near answers"

    @property
    def refused(self) -> bool:
        """Whether the link is to blame."""
        return self in (Carriage.DEAF, Carriage.MUTE)


class _Test:
    """One address under test; its user from when the link is known to refuse it."""

    __slots__ = ("control", "done", "entry", "refused", "round", "timer", "witness")

    heard = False
    remote = None

    def __init__(
        self,
        carriage: LinkCarriage,
        entry: AddressEntry,
        witness: Neighbor,
        refused: Callable[[float], None],
        done: Callable[[Carriage, float], None],
        timers: TimerQueue,
    ) -> None:
        self.entry = entry
        self.witness = witness
        self.refused = refused
        self.done = done
        self.round = 0
        self.control = False
        self.timer = timers.timer(partial(carriage._due, self))

    def serves(self, remote: bytes) -> bool:
        """Nobody: nothing but our own questions leaves for it."""
        return False


class LinkCarriage:
    """Runs the tests of one host."""

    def __init__(self, interface: Interface, routes: Routes) -> None:
        self._interface = interface
        self._routes = routes
        self._tests: dict[bytes, _Test] = {}

    def test(
        self,
        entry: AddressEntry,
        destination: bytes | None,
        now: float,
        refused: Callable[[float], None],
        done: Callable[[Carriage, float], None],
    ) -> bool:
        """Test an address in use.  False, and neither callback, where there is no witness, where the address needs no
        neighbour discovery, or where it is under test already.

        destination: whom the address is used to talk to, if that is known.  `refused(now)`: the link is to blame, give the
        address up; `done(verdict, now)` is called once, after that, or with UNKNOWN when the address was released meanwhile.
        """
        witness = self._routes.witness(destination, now)
        testable = entry.per_address_nd and entry.answers & Answers.TRAFFIC and entry.address not in self._tests
        if witness is None or not testable or self._interface.link_local is None:
            return False
        test = self._tests[entry.address] = _Test(self, entry, witness, refused, done, self._interface.timers)
        self._ask(test, now)
        return True

    def forget(self, entry: AddressEntry, now: float) -> None:
        """The address is gone."""
        test = self._tests.get(entry.address)
        if test is not None:
            self._finish(test, Carriage.UNKNOWN, now)

    def advertised(self, dst: bytes, target: bytes, now: float) -> None:
        """A solicited advertisement of `target` came to one of our addresses."""
        for test in list(self._tests.values()):
            if target == test.witness.address:
                if dst == test.entry.address:
                    plain = test.round <= PLAIN_ROUNDS
                    self._finish(test, Carriage.CARRIED if plain else Carriage.DEAF, now)
                elif dst == self._interface.link_local:
                    test.control = True

    def _ask(self, test: _Test, now: float) -> None:
        """One round of questions."""
        test.round += 1
        self._solicit(test, test.entry.address, full=test.round > PLAIN_ROUNDS)
        link_local = self._interface.link_local
        if test.round > 1 and not test.control and link_local is not None:
            self._solicit(test, link_local, full=False)
        test.timer.set(now + self._interface.retrans_timer)

    def _due(self, test: _Test, now: float) -> None:
        """A round is over; a witness that was forgotten meanwhile tells nothing of the address."""
        if test.round <= PLAIN_ROUNDS and test.witness.header is None:
            self._finish(test, Carriage.UNKNOWN, now)
            return
        if test.round == PLAIN_ROUNDS and not test.control:
            self._finish(test, Carriage.UNKNOWN, now)
            return
        if test.round == PLAIN_ROUNDS + FULL_ROUNDS:
            self._finish(test, Carriage.MUTE, now)
            return
        if test.round == PLAIN_ROUNDS:
            self._interface.addresses.acquire(test.entry, test)
            test.refused(now)
        self._ask(test, now)

    def _solicit(self, test: _Test, src: bytes, *, full: bool) -> None:
        interface, witness = self._interface, test.witness
        if witness.header is None or interface.mac is None:
            return  # forgotten meanwhile: nobody will answer
        options = (nd.SourceLinkLayer(interface.mac),) if full else ()
        message = nd.NeighborSolicitation(witness.address, options)
        interface.send_icmp(witness.header, src, witness.address, icmpv6.Type.NEIGHBOR_SOLICITATION, 0, message.pack())

    def _finish(self, test: _Test, verdict: Carriage, now: float) -> None:
        test.timer.cancel()
        del self._tests[test.entry.address]
        if test in test.entry.users:
            self._interface.addresses.drop(test.entry, test, now, f"the link refuses it: {verdict}")
        test.done(verdict, now)
