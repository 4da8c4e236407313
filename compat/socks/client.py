"""One client of the front end, from its first byte to its relay.

    GREETING ──request──▶ DIALLING ──connected──▶ SERVED (the transport belongs to the relay, or to the UDP association)
       │                     │
       └──────refused────────┴──▶ LEAVING (the answer is on its way; what still comes is discarded) ──▶ gone

A client in GREETING or LEAVING waits in the table, with a deadline; in DIALLING a task works for it, bounded by the
connect time-out, and is cancelled when the client goes.  In SERVED the relay's end, or the association's, is its own.

A client may end its stream once its request is whole (half-close): it is answered and served like any other.  One that has
closed altogether looks the same until something is written to it.  So the time-out of its request bounds what is done for it,
and where there is no room it is the first to go (`ClientTable.make_room`); a reset ends the work at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Coroutine
from enum import Enum, auto
from typing import Any, cast

from compat.relay import Relay, RelayResult
from compat.resets import ResetWatch, watch_for_reset
from compat.socks.associate import UdpAssociation
from compat.socks.handshake import Handshake
from compat.socks.messages import AddressType, Command, Dialect, Request
from compat.socks.replies import Cause, cause_of, failure, success
from compat.socks.services import Binder, DatagramService, Services
from compat.socks.table import ClientTable
from unimux.errors import ConnectTimeout, NoIpv6Address, UnimuxError
from unimux.purpose import Purpose

logger = logging.getLogger(__name__)

_GRACE = 1.0
"""Seconds beyond the connect time-out after which a dialler that does not keep it is cancelled."""


class _State(Enum):
    GREETING = auto()
    DIALLING = auto()
    SERVED = auto()
    LEAVING = auto()
    GONE = auto()


class SocksClient(asyncio.Protocol):
    """The protocol of one client's connection."""

    def __init__(self, services: Services, table: ClientTable) -> None:
        self._services = services
        self._table = table
        self._handshake: Handshake | None = Handshake(services.authenticator)
        self._state = _State.GREETING
        self._early = bytearray()
        self._ended = False
        self._stream_is_life = False
        self._watch: ResetWatch | None = None
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._relay: Relay | None = None
        self._association: UdpAssociation | None = None

    @property
    def transport(self) -> asyncio.Transport:
        """The client's connection."""
        assert self._transport is not None
        return self._transport

    @property
    def leaving(self) -> bool:
        """Whether it has been refused and only reads the answer."""
        return self._state is _State.LEAVING

    def drop(self) -> None:
        """End this client's connection now, whatever it is doing."""
        if self._relay is not None:
            self._relay.abort()
        elif self._transport is not None:
            self._state = _State.LEAVING
            self._transport.abort()

    # -- asyncio.Protocol ------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._table.arrived(self)

    def data_received(self, data: bytes) -> None:
        if self._state is _State.GREETING:
            self._greet(data)
        elif self._state is _State.DIALLING:
            self._early += data
            if len(self._early) >= self._services.limits.early_data:
                self.transport.pause_reading()
                self._watch_for_reset()

    def eof_received(self) -> bool:
        """Whether the connection stays: the client waits for what it has asked for.

        Without a whole request there is nothing to wait for, and an association ends with the stream that asked for it.
        """
        if self._state is not _State.DIALLING or self._stream_is_life:
            return False
        self._ended = True
        self._table.in_doubt(self)
        self._watch_for_reset()
        return True

    def _watch_for_reset(self) -> None:
        """Nobody reads from here on until the request is decided, and a reset would go unnoticed."""
        self._watch = watch_for_reset(self.transport, lambda _: self.transport.abort())

    def _unwatch(self) -> None:
        if self._watch is not None:
            self._watch.end()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._unwatch()
        if self._state in (_State.GREETING, _State.DIALLING):
            self._services.counters.gone_early += 1
        self._state = _State.GONE
        if self._task is not None:
            self._task.cancel()
        if self._association is not None:
            self._association.close()
        self._check_gone()

    def _check_gone(self) -> None:
        if self._state is _State.GONE and self._task is None:
            self._table.gone(self)

    # -- the way to the request ------------------------------------------------------------------

    def _greet(self, data: bytes) -> None:
        handshake = self._handshake
        assert handshake is not None
        handshake.feed(data)
        answer = handshake.take_output()
        if handshake.failure is not None:
            self._services.counters.rejected[handshake.failure] += 1
            self._leave(answer)
            return
        if answer:
            self.transport.write(answer)
        if (request := handshake.request) is not None:
            self._early += handshake.early_data()
            self._handshake = None
            self._begin(request)

    def _begin(self, request: Request) -> None:
        services = self._services
        services.counters.requests[request.dialect, request.command] += 1
        self._state = _State.DIALLING
        self._stream_is_life = request.command is Command.UDP_ASSOCIATE  # RFC 1928 §7
        self._table.decided(self)
        files = 2 if request.command is Command.UDP_ASSOCIATE else 1  # the connection, and the association's socket
        if not self._table.make_room(files):
            self._fail(request, Cause.FULL, "Too many connections are open at this front end: try again later.")
            return
        work: Coroutine[Any, Any, None]
        if request.command is Command.CONNECT:
            work = self._connect(request)
        elif request.command is Command.BIND and services.binder is not None and request.dialect is Dialect.SOCKS5:
            work = self._bind(request, services.binder)
        elif request.command is Command.UDP_ASSOCIATE and services.datagrams is not None:
            work = self._associate(request, services.datagrams)
        else:
            self._fail(request, Cause.COMMAND, f"{request.command.name} is not supported here: use CONNECT.")
            return
        self._table.serving(self, files)
        self._task = asyncio.get_running_loop().create_task(self._work(request, work))

    async def _work(self, request: Request, work: Coroutine[Any, Any, None]) -> None:
        """Do the work; whatever goes wrong becomes a reply."""
        try:
            await work
        except (UnimuxError, OSError) as error:
            self._fail(request, cause_of(error), str(error))
        except Exception:
            logger.exception("a SOCKS request failed in an unexpected way")
            self._fail(request, Cause.FAILURE, "The front end failed: its log says why.")
        finally:
            self._task = None
            self._check_gone()

    # -- the three commands ----------------------------------------------------------------------

    async def _connect(self, request: Request) -> None:
        limits = self._services.limits
        relay = Relay(idle_timeout=limits.idle_timeout, on_end=self._relay_ended)
        try:
            async with asyncio.timeout(limits.connect_timeout + _GRACE):
                transport, _ = await self._services.dialler.create_connection(
                    lambda: relay.far,
                    request.host,
                    request.port,
                    mode=self._services.mode,
                    timeout=limits.connect_timeout,
                    session=request.session,
                    purpose=_purpose(request),
                )
            if relay.finished:
                raise ConnectionResetError(errno.ECONNRESET, "the destination closed the connection at once")
            host, port = transport.get_extra_info("sockname")[:2]
            self._join(relay, success(request.dialect, host, port))
        except TimeoutError as error:
            if isinstance(error, UnimuxError):
                raise
            raise ConnectTimeout(request.host, request.port, seconds=limits.connect_timeout) from None
        finally:
            if self._relay is None:
                relay.abort()

    async def _bind(self, request: Request, binder: Binder) -> None:
        """RFC 1928 §4: the first reply names the address to connect to, the second the peer that did."""
        limits = self._services.limits
        client = _caller(request)
        arrived: asyncio.Future[asyncio.Transport] = asyncio.get_running_loop().create_future()
        bound = await binder.bind(
            lambda: _Arrival(arrived), client=client, lifetime=limits.bind_timeout, purpose=_purpose(request)
        )
        try:
            self.transport.write(success(request.dialect, bound.address, bound.port))
            async with asyncio.timeout(limits.bind_timeout):
                transport = await asyncio.shield(arrived)
            if transport.is_closing():
                raise ConnectionResetError(errno.ECONNRESET, "the peer left again")
            host, port = transport.get_extra_info("peername")[:2]
            relay = Relay(idle_timeout=limits.idle_timeout, on_end=self._relay_ended)
            relay.far.adopt(transport)
            self._join(relay, success(request.dialect, host, port))
        finally:
            bound.close()
            if not arrived.done():
                arrived.cancel()
            elif self._relay is None:
                arrived.result().abort()

    def _join(self, relay: Relay, answer: bytes) -> None:
        """Answer the client and hand it over to the relay, whose far end is connected."""
        self.transport.write(answer)
        self._state = _State.SERVED
        self._relay = relay
        self._table.answered(self)
        self._unwatch()
        early = bytes(self._early)
        self._early.clear()
        relay.near.adopt(self.transport, early, ended=self._ended)

    def _relay_ended(self, result: RelayResult) -> None:
        if self._relay is not None:
            self._services.counters.add_result(result)
            self._state = _State.GONE
            self._check_gone()

    async def _associate(self, request: Request, datagrams: DatagramService) -> None:
        """RFC 1928 §7: the association lives as long as this connection."""
        services = self._services
        own, peer = (self.transport.get_extra_info(name) for name in ("sockname", "peername"))
        # RFC 1928 §6 means the client's own address and port; several clients send their destination's, which says nothing.
        port_named = request.port if request.host in (peer[0], "0.0.0.0", "::") else 0
        _keep_alive(self.transport.get_extra_info("socket"))
        association = UdpAssociation(
            datagrams,
            services.counters,
            services.limits,
            peer[0],
            port_named,
            session=request.session,
            purpose=_purpose(request),
        )
        host, port = await association.start(_scoped(own))
        self._association = association
        self._state = _State.SERVED
        self.transport.write(success(request.dialect, host, port))

    # -- the way out -----------------------------------------------------------------------------

    def _fail(self, request: Request, cause: Cause, sentence: str) -> None:
        self._services.counters.failed[cause] += 1
        logger.debug("%s %s %s:%d: %s", request.dialect, request.command.name, request.host, request.port, sentence)
        if self._state is _State.DIALLING:
            self._leave(failure(request, cause, sentence))

    def _leave(self, answer: bytes) -> None:
        """Send the last answer and go once the client has read it, or soon."""
        self._state = _State.LEAVING
        self._handshake = None
        self._early.clear()
        self._unwatch()
        self._table.lingers(self)
        self.transport.write(answer)
        if not answer or self._ended:
            self.transport.close()
        else:
            with contextlib.suppress(OSError):  # it is gone already; connection_lost is on its way
                self.transport.write_eof()
            self.transport.resume_reading()


def _keep_alive(control: socket.socket) -> None:
    """Have the kernel ask for a client that says nothing more: its association would outlive it, and hold its place for ever."""
    control.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
        control.setsockopt(socket.IPPROTO_TCP, option, value)


def _scoped(name: tuple[Any, ...]) -> str:
    """The address in a socket's name, with the interface where it is of one link only (RFC 4007 §11).

    >>> _scoped(("::1", 9, 0, 0)), _scoped(("127.0.0.1", 9)), _scoped(("fe80::1", 9, 0, 2))
    ('::1', '127.0.0.1', 'fe80::1%2')
    """
    return f"{name[0]}%{name[3]}" if len(name) == 4 and name[3] else str(name[0])


def _caller(request: Request) -> str | None:
    """Who alone may come to what BIND binds; None where the request names nobody, or names it by something else than an address.

    Raises `NoIpv6Address` for an IPv4 one: a NAT64 gateway lets nobody in, so that it could not come, but others could.
    """
    if request.address_type is AddressType.NAME or request.host in ("::", "0.0.0.0"):
        return None
    if request.address_type is AddressType.IPV4:
        raise NoIpv6Address(request.host)
    return request.host


def _purpose(request: Request) -> Purpose:
    """What a journal says of a request: the way it came, and the user."""
    return Purpose(front_end=str(request.dialect), who=request.user or None)


class _Arrival(asyncio.Protocol):
    """Holds the connection that BIND waits for until its relay takes it over; one more is turned away."""

    def __init__(self, arrived: asyncio.Future[asyncio.Transport]) -> None:
        self._arrived = arrived

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast(asyncio.Transport, transport)
        if self._arrived.done():
            stream.abort()
        else:
            stream.pause_reading()
            self._arrived.set_result(stream)
