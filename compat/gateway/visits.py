"""Streams that others open to the program: a connection to its kernel that comes from the visitor's own address and port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from compat.gateway.inside import OPTIONS
from compat.gateway.standins import StandIns
from tapstack.driver import Driver
from tapstack.stack import Stack
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.errors import ConflictingSocket
from tapstack.types import address_text
from unimux.errors import ConnectTimeout, HostUnreachable, connect_error
from unimux.transport import SessionTransport


class Visits:
    """Connects to the program, at `program` (16 bytes), in the name of its visitors."""

    def __init__(self, stack: Stack, driver: Driver, stand_ins: StandIns, program: bytes) -> None:
        self._stack = stack
        self._driver = driver
        self._stand_ins = stand_ins
        self._program = program

    async def connect(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        visitor: tuple[bytes, int],
        port: int,
        *,
        timeout: float,
    ) -> SessionTransport:
        """A connection to the program's `port` from the visitor's address (16 bytes) and port; raises a `ConnectError`.

        Where the program's kernel knows that pair already (in L0 and L1 ports may collide) another port is taken.
        """
        where = address_text(self._program)
        connection = self._open(visitor, port)
        outcome: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def told(bits: int) -> None:
            if bits & (Signal.ESTABLISHED | Signal.CLOSED) and not outcome.done():
                outcome.set_result(bits)

        connection.owner = told
        self._driver.kick()
        try:
            async with asyncio.timeout(timeout):
                bits = await outcome
        except BaseException as error:
            connection.owner = None
            connection.abort(self._driver.now(), "the program did not answer")
            self._driver.kick()
            if isinstance(error, TimeoutError):
                raise ConnectTimeout(where, port, seconds=timeout) from None
            raise
        if not bits & Signal.ESTABLISHED:
            raise connect_error(connection.error, where, port, timeout)
        transport = SessionTransport(self._driver, connection)
        transport.start(protocol_factory())
        return transport

    def _open(self, visitor: tuple[bytes, int], port: int) -> Connection:
        now = self._driver.now()
        entry = self._stand_ins.admit(visitor[0], now)
        if entry is None:
            raise HostUnreachable(address_text(self._program), port, "its visitor's address cannot be shown to it")
        tcp = self._stack.tcp
        try:
            return tcp.connect(entry, self._program, port, now, OPTIONS, local_port=visitor[1])
        except ConflictingSocket:
            return tcp.connect(entry, self._program, port, now, OPTIONS)
