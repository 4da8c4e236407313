"""A unified node: a stack on a link, a pool of reserved addresses, and an address of its own for every connection.

`Node` joins the rooms of this package and is what applications and front ends hold:

    async with Node(link) as node:
        reader, writer = await unimux.open_connection(node, "example.org", 80)

Order of a connect (UM-DAS-1): the name is resolved, the address is set, the SYN leaves.  The connection holds its address;
the stack releases it with the last PCB, whatever the ending (UM-REL-1), so nothing here has to remember to.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from types import TracebackType

from tapstack.driver import Driver
from tapstack.events import Event
from tapstack.ipv6.addresses import AddressEntry, AddressKind
from tapstack.ipv6.host import HostConfig
from tapstack.link.base import Link
from tapstack.link.errors import LinkLost
from tapstack.randomness import KeyedRandom
from tapstack.stack import Stack
from tapstack.tcp.buffers import NODE_BUDGET
from tapstack.tcp.connection import Connection
from tapstack.tcp.listener import ArmedAddress
from tapstack.tcp.options import PortMode, SocketOptions, in_mode
from tapstack.types import address, address_text, check_port, valid_peer
from tapstack.udp.flow import UdpFlow

from . import errors
from .call import Call
from .das import AutoSet, Policy, Want, obtain
from .datagram import IDLE, Datagrams, DatagramSocket
from .destinations import Destinations
from .endpoint import parse_name_server
from .nat64 import nat64_prefix
from .pool import Pool, PoolConfig
from .purpose import UNNAMED, Purpose, tell_purpose
from .resolver import Resolver
from .server import Server
from .source import AddressSource
from .state import MemoryState, State
from .sticky import Hold, StickyAddresses, StickySession
from .transport import SessionTransport

CONNECT_TIMEOUT = 30.0
CLOSE_TIMEOUT = 2.0
"""Seconds that `close` gives connections to end in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """Settings of a node.

    host: of the IPv6 host; by default without a stable global address, by which the node could be found.
    socket: the options of sockets that name none.
    buffer_budget: bytes by which the buffers of all connections together may outgrow the sizes that their options begin with.
    names: addresses by host name, asked before any name server.
    name_servers: to ask instead of those that routers announce.
    nat64: prefix of a NAT64 gateway for IPv4 destinations; by default the one that routers announce (RFC 8781) or that the
    name servers work with (RFC 7050), if any.
    Raises `WrongUsage` for a name server that is no IPv6 address to send to, and for a prefix that is none of NAT64.
    """

    host: HostConfig = field(default_factory=lambda: HostConfig(stable_addresses=False))
    pool: PoolConfig = field(default_factory=PoolConfig)
    socket: SocketOptions = field(default_factory=SocketOptions)
    buffer_budget: int = NODE_BUDGET
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    name_servers: Sequence[str] = ()
    nat64: str | None = None

    def __post_init__(self) -> None:
        for server in self.name_servers:
            try:
                parse_name_server(server)
            except ValueError as error:
                raise errors.WrongUsage(f"{server!r} cannot be a name server: {error}.") from None
        if self.nat64 is not None:
            nat64_prefix(self.nat64)


class Node:
    """One unified node on one link.

    state: where counters and keys live; in memory by default, which makes every start a new key epoch.
    seed: the secret that everything unpredictable on the wire comes from; from the system by default.  A simulation
    that gives it, and a state made from it, is repeatable.
    das: the policy that sets addresses, from the pool unless it is replaced (UM-DAS-2, UM-DAS-3).
    """

    def __init__(
        self, link: Link, config: NodeConfig | None = None, *, state: State | None = None, seed: bytes | None = None
    ) -> None:
        self.config = config or NodeConfig()
        self.link = link
        seed = seed or os.urandom(32)
        self.stack = Stack(link.properties, seed, self.config.host)
        self.stack.tcp.budget.limit = self.config.buffer_budget
        self.events = self.stack.events
        self.source = AddressSource(state or MemoryState())
        self.pool = Pool(
            self.stack.host,
            self.source,
            self.stack.timers,
            self.events,
            KeyedRandom(seed, "pace of the pool"),
            self.config.pool,
        )
        self.pool.on_refused = self._not_carried
        self.das: Policy = AutoSet(self.pool)
        self.sticky = StickyAddresses(self)
        self.datagrams = Datagrams(self)
        self.resolver = Resolver(
            self.datagrams,
            self,
            lambda: self.name_servers,
            KeyedRandom(seed, "name resolution"),
            hosts={name: [address(text) for text in texts] for name, texts in self.config.names.items()},
        )
        self._destinations = Destinations(
            self.resolver, self.stack.host, self.pool, self.now, lambda: self.config.nat64
        )
        self._driver: Driver | None = None
        self._closed = False
        self.failure: LinkLost | None = None
        self._failed = asyncio.Event()
        self.on_link_up: Callable[[float], None] = lambda now: None
        """Called with the time when the link has come up again: for who keeps the network's side of it."""

    @classmethod
    async def start(
        cls, link: Link, config: NodeConfig | None = None, *, state: State | None = None, seed: bytes | None = None
    ) -> Node:
        """A running node; the parameters are the class's."""
        node = cls(link, config, state=state, seed=seed)
        await node.__aenter__()
        return node

    async def __aenter__(self) -> Node:
        self._driver = Driver(self.stack, self.link, self._link_lost, self._link_up)
        self._driver.start()
        self.pool.start(self.now())
        self._driver.kick()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def driver(self) -> Driver:
        """The driver; the node must have been started."""
        if self._driver is None:
            raise RuntimeError("the node has not been started: use 'async with' or Node.start")
        return self._driver

    def _link_up(self, now: float) -> None:
        self.pool.link_up(now)
        self.on_link_up(now)

    def _link_lost(self, error: LinkLost) -> None:
        self._closed = True
        self.failure = error
        self._give_up()
        self._failed.set()

    def _give_up(self) -> None:
        """Nothing more will come: whoever waits hears of it now, since no timer of the stack runs any more."""
        self.resolver.cancel()
        self.datagrams.close(self.failure)
        self.sticky.close(self.now())
        self.pool.close(self.now())

    async def failed(self) -> None:
        """Wait until the node's link is lost, if it ever is; raises why."""
        await self._failed.wait()
        assert self.failure is not None
        raise self.failure

    def now(self) -> float:
        """The stack's clock, seconds."""
        return self.driver.now()

    async def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Let connections that are closing end, for `timeout` seconds at most; then reset, leave all groups, close the link.

        Among them are those that have just ended: a peer that did not hear the last acknowledgement says its last words again,
        and without an answer its program would wait for minutes.  Cancelled, it does all that at once.
        """
        if self._closed or self._driver is None:
            return
        self._closed = True
        end = self.now() + timeout
        try:
            with suppress(TimeoutError):
                await self.until(self._all_sent, timeout)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._failed.wait(), min(self.stack.tcp.time_waits.quiet_at, end) - self.now())
            await self.resolver.close()
        finally:
            self._give_up()
            self.driver.close()

    def _all_sent(self) -> bool:
        return all(
            pcb.sender.everything_acknowledged
            for pcb in self.stack.tcp.demux
            if isinstance(pcb, Connection) and pcb.detached
        )

    async def until(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        """Wait until `condition()` holds; it is looked at after every event of the stack.

        TimeoutError after `timeout` s; `NodeStopped` when the node has stopped, and nothing will change any more.
        """
        changed = asyncio.Event()

        def look(_: Event | float) -> None:
            changed.set()

        unsubscribe = self.events.subscribe(look)
        self.pool.at_end.append(look)
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    if self.pool.closed:
                        raise errors.NodeStopped
                    changed.clear()
                    await changed.wait()
        finally:
            self.pool.at_end.remove(look)
            unsubscribe()

    async def ready(self, addresses: int = 1, timeout: float | None = None) -> None:
        """Wait until the pool has so many addresses; at once on a dedicated prefix.  Raises as `until` does."""
        await self.until(
            lambda: self.pool.ready >= addresses or any(p.dedicated and p.preferred for p in self.stack.host.prefixes),
            timeout,
        )

    # -- addresses -------------------------------------------------------------------------------

    async def take_address(
        self,
        kind: AddressKind,
        destination: bytes | None,
        *,
        timeout: float,
        cause: str = "taken",
        das: Policy | None = None,
        purpose: Purpose = UNNAMED,
    ) -> AddressEntry:
        """An address for one use, from `das` or the node's policy (UM-DAS-1), waited for at most `timeout` seconds.

        The caller acquires or releases it before it waits for anything else.  Raises what the policy's error is:
        `PoolExhausted`, or `NoPrefix` where no router has announced one; `AddressNotSet` where an agent sets addresses.
        """
        driver = self.driver
        want = Want(kind, destination, driver.now() + timeout, cause, purpose)
        entry = await obtain(das or self.das, want, self.stack.host.addresses, driver.now, driver.kick)
        if self.events.active and entry.kind.one_time:
            tell_purpose(self.events, driver.now(), entry.address, purpose, destination)
        return entry

    # -- connections -----------------------------------------------------------------------------

    async def connect(
        self,
        host: str | IPv6Address,
        port: int | None,
        *,
        mode: PortMode | None = None,
        timeout: float = CONNECT_TIMEOUT,
        options: SocketOptions | None = None,
        session: StickySession | None = None,
        local_port: int | None = None,
        das: Policy | None = None,
        purpose: Purpose = UNNAMED,
        established: Callable[[Connection], None] = lambda connection: None,
    ) -> Connection:
        """An established connection from an EA of its own; `host` is a name or an address, `port` None writes RP.

        session: connections of equal sessions share one address, in Aware mode (UM-DAS-4).
        local_port: to connect from, in Aware mode, where ports count; drawn where it is None.
        das: who sets the address, in place of the node's policy; that of a session with its first connection.
        purpose: what for, for the journal and for agents.
        established: called with the connection at once, before the acknowledgement of the handshake leaves: what it writes
        goes with that.
        All addresses of a name are tried in order within `timeout` seconds, of which each handshake has its share; an
        address of our own is waited for as long as there is time at all.  Raises a `UnimuxError`, and
        OverflowError for what is no port, as the kernel's sockets do.
        """
        check_port(port)
        check_port(local_port)
        options = options or self.config.socket
        if session is not None:
            options = in_mode(options, PortMode.AWARE)
        elif mode is not None:
            options = in_mode(options, mode)
        clock = self.driver.now
        deadline = clock() + timeout
        failure: Exception | None = None
        remotes = [remote for remote in await self.resolve(host, timeout=timeout) if valid_peer(remote)]
        if not remotes:
            raise errors.UnusablePeer(str(host), options.reduced_port if port is None else port)
        local_port = local_port if options.mode is PortMode.AWARE else None
        call = Call(self.stack, self.driver, str(host), port, local_port, options, timeout, established)
        try:
            for index, remote in enumerate(remotes):
                again = True
                while again:
                    again = False
                    entry = await self._address_for(remote, max(deadline - clock(), 0.0), session, das, purpose)
                    now = clock()
                    until = now + max((deadline - now) / (len(remotes) - index), 0.0)
                    try:
                        return await call.shake_hands(entry, remote, until)
                    except errors.AddressNotCarried as error:  # another address may be (UM-ADDR-12)
                        failure = error
                        again = clock() < until
                    except errors.ConnectTimeout as error:
                        failure = failure if isinstance(failure, errors.AddressNotCarried) else error
                    except errors.ConnectError as error:
                        failure = error
            assert failure is not None
            raise failure
        finally:
            failure = None  # or its traceback and this frame would keep each other, and the connections

    def _not_carried(self, entry: AddressEntry, now: float) -> None:
        """The link refuses an address in use: whoever has heard nothing on it gives it up."""
        cause = "the link refuses the address"
        for user in list(entry.users):
            if user.heard:
                continue
            if isinstance(user, Hold):
                self.sticky.end(user, now, cause)
            elif isinstance(user, Connection):
                user.fail(OSError(errno.EADDRNOTAVAIL, cause), now, cause)
            elif isinstance(user, UdpFlow):
                user.close(now, cause)
            elif isinstance(user, ArmedAddress):
                user.listener.disarm(entry.address, now, cause)

    async def _address_for(
        self, remote: bytes, left: float, session: StickySession | None, das: Policy | None, purpose: Purpose
    ) -> AddressEntry:
        if session is not None:
            return await self.sticky.address(session, remote, timeout=left, das=das, purpose=purpose)
        cause = f"connect to {address_text(remote)}"
        return await self.take_address(
            AddressKind.EPHEMERAL, remote, timeout=left, cause=cause, das=das, purpose=purpose
        )

    async def create_connection(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | IPv6Address,
        port: int | None,
        *,
        mode: PortMode | None = None,
        timeout: float = CONNECT_TIMEOUT,
        options: SocketOptions | None = None,
        session: StickySession | None = None,
        local_port: int | None = None,
        das: Policy | None = None,
        purpose: Purpose = UNNAMED,
    ) -> tuple[SessionTransport, asyncio.BaseProtocol]:
        """As `loop.create_connection`, over a one-time address; the other parameters are those of `connect`."""
        made: list[tuple[SessionTransport, asyncio.BaseProtocol]] = []

        def established(connection: Connection) -> None:
            transport, protocol = SessionTransport(self.driver, connection), protocol_factory()
            made.append((transport, protocol))
            transport.start(protocol)

        try:
            await self.connect(
                host,
                port,
                mode=mode,
                timeout=timeout,
                options=options,
                session=session,
                local_port=local_port,
                das=das,
                purpose=purpose,
                established=established,
            )
        except BaseException:
            for transport, _ in made:
                transport.abort()
            raise
        return made[0]

    def listen(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        *,
        mode: PortMode | None = None,
        options: SocketOptions | None = None,
        port: int | None = None,
        das: Policy | None = None,
        service: str | None = None,
        purpose: Purpose = UNNAMED,
    ) -> Server:
        """A service in LISTEN_o; `Server.issue` arms SSAs for it, and every connection gets a protocol of the factory.

        port: for Aware mode only, RP where it is None.  das: who sets its SSAs, in place of the node's policy.
        service: its name in events and journals; purpose: what else is known of what its SSAs are for.
        """
        options = options or self.config.socket
        if mode is not None:
            options = in_mode(options, mode)
        return Server(self, protocol_factory, options, service, port=port, das=das, purpose=purpose)

    async def create_datagram_endpoint(
        self,
        protocol_factory: Callable[[], asyncio.DatagramProtocol],
        host: str | IPv6Address | None = None,
        port: int | None = None,
        *,
        session: StickySession | None = None,
        idle: float = IDLE,
        timeout: float = CONNECT_TIMEOUT,
        purpose: Purpose = UNNAMED,
    ) -> tuple[DatagramSocket, asyncio.DatagramProtocol]:
        """As `loop.create_datagram_endpoint`; every remote endpoint is talked to from an EA of its own (UM-DAS-6).

        host, port: the only remote endpoint, None for any.  idle: seconds after which a flow's address is given back.
        purpose: what its addresses are for, for the journal and for agents.
        Raises what `resolve` raises.
        """
        remote = None
        if host is not None:
            if port is None:
                raise ValueError("a remote endpoint is a host and a port")
            remote = (await self.resolve(host, timeout=timeout))[0], port
        protocol = protocol_factory()
        transport = DatagramSocket(self, protocol, remote, session=session, idle=idle, purpose=purpose)
        protocol.connection_made(transport)
        return transport, protocol

    # -- names -----------------------------------------------------------------------------------

    async def resolve(self, host: str | IPv6Address, *, timeout: float) -> list[bytes]:
        """The IPv6 addresses of a name, or of an address given as text, within `timeout` seconds, best first.

        Static names come first, then the configured name servers or those that routers announce are asked, from EAs.
        What has IPv4 addresses only is reached through the NAT64 gateway, where one is known (RFC 6052, RFC 7050).
        Raises `NameNotResolved`, `NoIpv6Address`, or what the node's policy raises where there is no address to ask from.
        """
        if isinstance(host, IPv6Address):
            return [host.packed]
        return await self._destinations.find(host, timeout=timeout)

    @property
    def name_servers(self) -> Sequence[bytes]:
        """The name servers that are asked, 16 bytes each: the configured ones, else those that routers announce."""
        return [address(server) for server in self.config.name_servers] or self.stack.host.rdnss

    def watch(self, subscriber: Callable[[Event], None]) -> Callable[[], None]:
        """Call `subscriber` with every event of this node; returns the function that ends it (UM-NODE-4).

        What it raises stays out of the stack, where it would cut a change of state in two: the loop's exception handler is told.
        """
        loop = asyncio.get_running_loop()

        def guarded(event: Event) -> None:
            try:
                subscriber(event)
            except Exception as error:
                loop.call_exception_handler({"message": "A subscriber to events failed.", "exception": error})

        return self.events.subscribe(guarded)
