"""Names to addresses: static names, a cache, and a stub resolver that asks over the node's own one-time addresses.

`unimux.lookup` knows what to ask and what an answer means; here is what stands around it.  The node brings the
transports: `DatagramExchange` for UDP, its own `create_connection` where an answer needs TCP.

* Equal questions at one time are one lookup.  An answer with TTL 0 is for one asker only (RFC 1035 §3.2.1): it may be
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
from random import Random, SystemRandom
from socket import AF_INET6, inet_pton
from typing import Protocol

import dns.name

from .dnsstream import StreamDialler, ask_over_stream
from .errors import ConnectError, NameNotResolved, NoIpv6Address, UnimuxError
from .lookup import Ask, Lookup, LookupCounters, NotAName, Outcome, host_name
from .purpose import Purpose

CACHE_ENTRIES = 1024
RESOLVE_TIMEOUT = 10.0
_RESOLVING = Purpose(front_end="resolver")


class DatagramExchange(Protocol):
    """Asks one question over UDP, each time from a fresh address and port."""

    async def exchange(self, server: bytes, payload: bytes, timeout: float, *, purpose: Purpose) -> bytes:
        """Send `payload` to port 53 of `server` (16 bytes); the first datagram that comes back from there.

        Raises TimeoutError after `timeout` seconds, an OSError where the server cannot be reached.
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
    """One lookup under way and those who wait for it."""

    __slots__ = ("spent", "task", "waiters")

    def __init__(self, task: asyncio.Task[Outcome]) -> None:
        self.task = task
        self.waiters = 0
        self.spent = False
        """Whether an answer of TTL 0 has been used."""


class Resolver:
    """The stub resolver of a node.

    servers: called for each lookup, since routers announce and withdraw name servers; addresses of 16 bytes, best first.
    hosts: addresses by name, asked before anything else, whatever the case of the name.
    random: of query ids; from the system by default.
    """

    def __init__(
        self,
        exchange: DatagramExchange,
        streams: StreamDialler,
        servers: Callable[[], Sequence[bytes]],
        *,
        hosts: Mapping[str, Sequence[bytes]] | None = None,
        random: Random | None = None,
    ) -> None:
        self._exchange = exchange
        self._streams = streams
        self._servers = servers
        self._hosts = {_key(name): list(addresses) for name, addresses in (hosts or {}).items()}
        self._random = random or SystemRandom()
        self._flights: dict[str, _Flight] = {}
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
        try:
            async with asyncio.timeout(timeout):
                outcome = await self._known(name)
        except TimeoutError as error:
            if isinstance(error, UnimuxError):
                raise
            remedy = "check that the node can reach its name server"
            raise NameNotResolved(host, f"no answer within {timeout:g} s", remedy) from None
        if not outcome.addresses:
            raise outcome.error(host)
        return list(outcome.addresses)

    def cancel(self) -> list[asyncio.Task[Outcome]]:
        """Give up what is under way; the tasks that end so."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        return tasks

    async def close(self) -> None:
        """Give up what is under way, and wait until it is."""
        await asyncio.gather(*self.cancel(), return_exceptions=True)

    async def _known(self, name: dns.name.Name) -> Outcome:
        """From the cache, else from a lookup that all who ask at this time share."""
        key = name.to_text()
        loop = asyncio.get_running_loop()
        cached = self.cache.get(key, loop.time())
        if cached is not None:
            return cached
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(loop.create_task(self._look_up(name)))
            flight.task.add_done_callback(lambda task: self._landed(key, task))
        flight.waiters += 1
        try:
            outcome = await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            if flight.task.cancelled():  # by `close`, not by who waits here
                raise NameNotResolved(name.to_text(True), "the node has stopped", "start it again") from None
            flight.waiters -= 1
            if not flight.waiters:
                flight.task.cancel()
                self._forget(key, flight.task)
            raise
        if outcome.ttl > 0 or not outcome.addresses:
            return outcome
        if flight.spent:
            return await self._look_up(name)
        flight.spent = True
        return outcome

    def _landed(self, key: str, task: asyncio.Task[Outcome]) -> None:
        self._forget(key, task)
        if not task.cancelled() and task.exception() is None:
            self.cache.put(key, task.result(), asyncio.get_running_loop().time())

    def _forget(self, key: str, task: asyncio.Task[Outcome]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]

    async def _look_up(self, name: dns.name.Name) -> Outcome:
        lookup = Lookup(name, self._servers(), self._random, counters=self.counters)
        while isinstance(step := lookup.step(), Ask):
            try:
                if step.stream:
                    wire = await ask_over_stream(self._streams, step.server, step.payload, step.timeout, _RESOLVING)
                else:
                    wire = await self._exchange.exchange(step.server, step.payload, step.timeout, purpose=_RESOLVING)
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
