"""Names to addresses: static names, a cache, and a stub resolver that asks over the node's own one-time addresses.

`unimux.lookup` knows what to ask and what an answer means; here is what stands around it.  The node brings the
transports: `DatagramExchange` for UDP, its own `create_connection` where an answer needs TCP.

* Equal questions at one time are one lookup; only who has less time than it begins one of its own while it has no address to
  ask from, and hears in time that there is none.  An answer with TTL 0 is for one asker only (RFC 1035 §3.2.1): it may be
  a one-time address made for that question (UM-SSA-3), so every other asker asks again.
* The cache holds what the records' TTL allows, negative answers as long as their SOA says (RFC 2308), and never more than
  `CACHE_ENTRIES`.
* An empty pool is reported as that, not as a name that does not exist.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from socket import AF_INET6, inet_pton
from typing import Any, Protocol

import dns.name

from tapstack.randomness import KeyedRandom

from .dnsstream import StreamDialler, ask_over_stream
from .errors import ConnectError, NameNotResolved, NoIpv6Address, UnimuxError
from .lookup import UNREACHED, Ask, Lookup, LookupCounters, NotAName, Outcome, host_name
from .purpose import Purpose

CACHE_ENTRIES = 1024
RESOLVE_TIMEOUT = 10.0
_RESOLVING = Purpose(front_end="resolver")


class DatagramExchange(Protocol):
    """Asks one question over UDP, each time from a fresh address and port."""

    async def exchange(
        self,
        server: bytes,
        payload: bytes,
        timeout: float,
        *,
        patience: float,
        asked: Callable[[], None],
        purpose: Purpose,
    ) -> bytes:
        """Send `payload` to port 53 of `server` (16 bytes); the first datagram that comes back from there.

        patience: seconds that the address to ask from is waited for.  asked: called when it is there.
        Raises TimeoutError `timeout` seconds after that, an OSError where the server cannot be reached, and what the node says
        where it has no address.
        """


_IPV4_INSIDE = bytes(10)


def literal(host: str) -> bytes | None:
    """The 16 bytes of an IPv6 address given as text, None for a name; raises `NoIpv6Address` for an IPv4 address.

    >>> literal("example.org") is None, literal("2001:db8::1").hex()
    (True, '20010db8000000000000000000000001')
    """
    try:
        packed = inet_pton(AF_INET6, host)  # ten times as fast as what follows
    except (OSError, ValueError):
        pass
    else:
        if not packed.startswith(_IPV4_INSIDE):
            return packed
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    ipv4 = address if address.version == 4 else address.ipv4_mapped
    if ipv4 is not None:
        raise NoIpv6Address(host, ipv4=(ipv4.packed,))
    return address.packed


class Cache:
    """Outcomes by name until their time is over; the one used least recently goes first when it is full."""

    def __init__(self, entries: int = CACHE_ENTRIES) -> None:
        self._entries = entries
        self._known: OrderedDict[str, tuple[float, Outcome]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, name: str, now: float) -> Outcome | None:
        """What is known of a name at `now`, a time in seconds."""
        known = self._known.get(name)
        if known is None:
            return None
        if known[0] <= now:
            del self._known[name]
            return None
        self._known.move_to_end(name)
        return known[1]

    def put(self, name: str, outcome: Outcome, now: float) -> None:
        """Remember an outcome for its TTL; one of 0 is not remembered."""
        if outcome.ttl <= 0:
            return
        self._known[name] = (now + outcome.ttl, outcome)
        self._known.move_to_end(name)
        if len(self._known) > self._entries:
            self._known.popitem(last=False)

    def clear(self) -> None:
        """Forget everything: the network has changed."""
        self._known.clear()


class _Flight:
    """One lookup under way and those who wait for it.

    until: how long an address to ask from is waited for, a time of the loop's clock.
    """

    __slots__ = ("asked", "spent", "task", "until", "waiters")

    def __init__(self, until: float) -> None:
        self.task: asyncio.Task[Outcome]
        self.until = until
        self.waiters = 0
        self.asked: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the first question has an address to leave from."""
        self.spent = False
        """Whether an answer of TTL 0 has been used."""

    def leave(self) -> None:
        """A question leaves."""
        if not self.asked.done():
            self.asked.set_result(None)


class Resolver:
    """The stub resolver of a node.

    servers: called for each lookup, since routers announce and withdraw name servers; addresses of 16 bytes, best first.
    hosts: addresses by name, asked before anything else, whatever the case of the name.
    random: query ids come from it.
    """

    def __init__(
        self,
        exchange: DatagramExchange,
        streams: StreamDialler,
        servers: Callable[[], Sequence[bytes]],
        random: KeyedRandom,
        *,
        hosts: Mapping[str, Sequence[bytes]] | None = None,
    ) -> None:
        self._exchange = exchange
        self._streams = streams
        self._servers = servers
        self._hosts = {_key(name): list(addresses) for name, addresses in (hosts or {}).items()}
        self._random = random
        self._flights: dict[str, _Flight] = {}
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self.cache = Cache()
        self.counters = LookupCounters()

    async def resolve(self, host: str, *, timeout: float = RESOLVE_TIMEOUT) -> list[bytes]:
        """The IPv6 addresses of `host`, a name or an address as text, in the order in which to try them.

        Raises `NameNotResolved`, `NoIpv6Address`, or what the node says where it has no address to ask from.
        """
        packed = literal(host)
        if packed is not None:
            return [packed]
        if known := self._hosts.get(_key(host)):
            return list(known)
        try:
            name = host_name(host)
        except NotAName as error:
            raise NameNotResolved(host, str(error)) from None
        outcome = await self._known(name, asyncio.get_running_loop().time() + timeout)
        if outcome is None:
            raise NameNotResolved(host, f"no answer within {timeout:g} s", UNREACHED)
        if not outcome.addresses:
            raise outcome.error(host)
        return list(outcome.addresses)

    def cancel(self) -> list[asyncio.Task[Outcome]]:
        """Give up what is under way; the tasks that end so."""
        for task in self._tasks:
            task.cancel()
        return list(self._tasks)

    async def close(self) -> None:
        """Give up what is under way, and wait until it is."""
        await asyncio.gather(*self.cancel(), return_exceptions=True)

    async def _known(self, name: dns.name.Name, deadline: float) -> Outcome | None:
        """From the cache, else from a lookup that all who ask at this time share; None where there is no answer by `deadline`."""
        cached = self.cache.get(name.to_text(), asyncio.get_running_loop().time())
        if cached is not None:
            return cached
        flight = self._shared(name, deadline)
        while True:
            try:
                outcome = await self._await(flight, name, deadline)
            except UnimuxError:  # no address to ask from, in the time of who began this; or `close`
                if flight.until >= deadline or flight.task.cancelled():
                    raise
                flight = self._shared(name, deadline)
                continue
            if outcome is None or outcome.ttl > 0 or not outcome.addresses:
                return outcome
            if not flight.spent:
                flight.spent = True
                return outcome
            flight = self._begin(name, deadline)

    def _shared(self, name: dns.name.Name, deadline: float) -> _Flight:
        """The lookup under way, or a new one: who has less time than an address may take hears in time that there is none."""
        flight = self._flights.get(name.to_text())
        if flight is None or (deadline < flight.until and not flight.asked.done()):
            return self._begin(name, deadline)
        return flight

    def _begin(self, name: dns.name.Name, until: float) -> _Flight:
        flight = self._flights[name.to_text()] = _Flight(until)
        flight.task = asyncio.get_running_loop().create_task(self._look_up(name, flight))
        flight.task.add_done_callback(lambda task: self._landed(name.to_text(), flight))
        self._tasks.add(flight.task)
        return flight

    async def _await(self, flight: _Flight, name: dns.name.Name, deadline: float) -> Outcome | None:
        """What a lookup brings; None where it is under way still at `deadline`."""
        flight.waiters += 1
        try:
            await asyncio.wait({flight.task}, timeout=deadline - asyncio.get_running_loop().time())
            if flight.until <= deadline:  # the address has been waited for as long: what is missing is told now
                news: set[asyncio.Future[Any]] = {flight.task, flight.asked}
                await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.task.done():
                flight.task.cancel()
                self._forget(name.to_text(), flight)
        if flight.task.cancelled():  # by `close`
            raise NameNotResolved(name.to_text(True), "the node has stopped", "start it again")
        return flight.task.result() if flight.task.done() else None

    def _landed(self, key: str, flight: _Flight) -> None:
        task = flight.task
        self._tasks.discard(task)
        self._forget(key, flight)
        if not task.cancelled() and task.exception() is None:
            self.cache.put(key, task.result(), asyncio.get_running_loop().time())

    def _forget(self, key: str, flight: _Flight) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def _look_up(self, name: dns.name.Name, flight: _Flight) -> Outcome:
        lookup = Lookup(name, self._servers(), self._random, counters=self.counters)
        while isinstance(step := lookup.step(), Ask):
            try:
                if step.stream:
                    wire = await ask_over_stream(self._streams, step.server, step.payload, step.timeout, _RESOLVING)
                else:
                    patience = flight.until - asyncio.get_running_loop().time()
                    wire = await self._exchange.exchange(
                        step.server,
                        step.payload,
                        step.timeout,
                        patience=patience,
                        asked=flight.leave,
                        purpose=_RESOLVING,
                    )
            except ConnectError:
                lookup.failed()
            except UnimuxError:
                raise  # nobody was asked: there is no address to ask from
            except OSError:  # a time-out, an ICMPv6 error
                lookup.failed()
            else:
                lookup.received(wire)
        return step


def _key(name: str) -> str:
    return name.rstrip(".").lower()
