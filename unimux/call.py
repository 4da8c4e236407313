"""The active OPEN: a handshake from an address that was taken for it, in the time that it is given."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from tapstack.driver import Driver
from tapstack.ipv6.addresses import AddressEntry
from tapstack.ipv6.host import NoRouteError
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.options import SocketOptions

from . import errors


@dataclass(frozen=True, slots=True)
class Call:
    """One connect, to whichever of the addresses of its host.

    host, port: as they were asked for.  local_port: None where it is drawn.  timeout: seconds that the whole may take, for its
    errors.  established: see `Node.connect`.
    """

    stack: Stack
    driver: Driver
    host: str
    port: int | None
    local_port: int | None
    options: SocketOptions
    timeout: float
    established: Callable[[Connection], None]

    async def shake_hands(self, entry: AddressEntry, remote: bytes, until: float) -> Connection:
        """The handshake with `remote` from an address that was taken for it; no later than `until`, a time of the stack's clock.

        The address is released where nothing comes of it.  Raises an error of `unimux.errors`.
        """
        now = self.driver.now()
        connection = self._open(entry, remote, now)
        done = False
        failure: BaseException | None = None
        waiter: asyncio.Future[None] | None = None

        def told(bits: int) -> None:
            nonlocal done, failure
            if done or not bits & (Signal.ESTABLISHED | Signal.CLOSED):
                return
            done = True
            connection.owner = None
            try:
                if not bits & Signal.ESTABLISHED:
                    raise errors.connect_error(connection.error, self.host, self._shown, self.timeout)
                self.established(connection)
            except BaseException as error:  # of a protocol's, too: whoever waits is to know
                failure = error
            if waiter is not None and not waiter.done():
                waiter.set_result(None)

        connection.owner = told
        connection.give_handshake(until - now, now)
        self.driver.exchange(connection)
        try:
            if not done:
                waiter = asyncio.get_running_loop().create_future()
                await waiter
            if failure is not None:
                raise failure
        except BaseException as error:
            connection.owner = None
            cancelled = isinstance(error, asyncio.CancelledError)
            connection.abort(self.driver.now(), "connect cancelled" if cancelled else "connect failed")
            self.driver.kick()
            raise
        finally:
            failure = None  # or its traceback and this frame would keep each other, and the connection
        return connection

    def _open(self, entry: AddressEntry, remote: bytes, now: float) -> Connection:
        """Make the connection; its SYN waits for the driver."""
        try:
            return self.stack.tcp.connect(entry, remote, self.port, now, self.options, self.local_port)
        except Exception as error:
            self.stack.host.addresses.give_back(entry, now, "connect failed")
            self.driver.kick()
            if isinstance(error, NoRouteError):
                raise errors.NetworkUnreachable(self.host, self._shown) from error
            raise

    @property
    def _shown(self) -> int:
        """The port for errors: what is written where none was named."""
        return self.options.reduced_port if self.port is None else self.port
