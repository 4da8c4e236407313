"""An asyncio transport over a connection of the userspace stack.

It passes as `asyncio.Transport`: streams, `loop.start_tls` and libraries written for asyncio run on it unchanged.  Like
a kernel socket it takes what is written and sends it in the background; after `close` the stack finishes the
connection by itself, and its address is released when the PCB is gone.

A protocol that raises ends its own connection and no other: the loop's exception handler is told, as by asyncio's transports.
"""

from __future__ import annotations

import asyncio
from asyncio.base_events import _SendfileFallbackProtocol  # type: ignore[attr-defined]
from asyncio.constants import _SendfileMode
from asyncio.transports import _FlowControlMixin
from collections.abc import Callable
from typing import Any, cast

from tapstack.driver import Driver
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.options import SocketOptions
from tapstack.types import Buffer, address_text

JOINED = 1 << 14
"""Bytes up to which pieces are given to a protocol together: one call costs as much as a copy of so many."""


class SessionTransport(_FlowControlMixin):
    """One established connection with its own address pair.

    `get_extra_info` knows `sockname` and `peername` (address, port, 0, 0), and `connection`, the PCB.

    `loop.sendfile` takes the base class for granted, and reads its `_protocol_paused`; the marks, and when they are passed,
    are the connection's.

    over: called when the protocol has been told of the end.
    """

    _start_tls_compatible = True  # what `loop.start_tls` asks of a transport
    _sendfile_compatible = _SendfileMode.FALLBACK  # what `loop.sendfile` asks: it reads the file, and calls `write`
    _loop: asyncio.AbstractEventLoop

    def __init__(
        self,
        driver: Driver,
        connection: Connection,
        over: Callable[[SessionTransport], None] = lambda transport: None,
    ) -> None:
        super().__init__({"connection": connection}, asyncio.get_running_loop())
        if connection.options.nodelay is None:
            connection.sender.nodelay = True  # as of asyncio's own transports
        self._driver = driver
        self._over = over
        self._connection = connection
        self._protocol: asyncio.BaseProtocol | None = None
        self._paused = False
        self._eof_written = False
        self._end_of_stream = False
        self._end_told = False
        self._closing = False
        self._lost = False

    def start(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to `protocol`: `connection_made`, then whatever has arrived already."""
        self._protocol = protocol
        self._connection.owner = self._on_signals
        protocol.connection_made(self)
        pending = Signal.READABLE
        if self._connection.receiver.fin_taken():
            pending |= Signal.END_OF_STREAM
        if self._connection.key == b"":
            pending |= Signal.CLOSED
        self._on_signals(pending)

    def __repr__(self) -> str:
        return f"<SessionTransport {self._connection!r}>"

    # -- asyncio.BaseTransport -------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        connection = self._connection
        if name == "sockname":
            return address_text(connection.local), connection.local_port, 0, 0
        if name == "peername":
            return address_text(connection.remote), connection.remote_port, 0, 0
        return super().get_extra_info(name, default)

    def set_options(self, options: SocketOptions) -> None:
        """Options that were changed since the connection began: see `Connection.set_options`; too late, they mean nothing."""
        if not self.is_closing():
            self._connection.set_options(options, self._driver.now())
            self._driver.kick()

    def is_closing(self) -> bool:
        return self._closing or self._lost

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if isinstance(self._protocol, _SendfileFallbackProtocol):
            self._protocol_paused = False  # who comes back takes it for granted, until told again
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._protocol)  # None after the end, as of asyncio's own transports

    def close(self) -> None:
        if self._closing or self._lost:
            return
        self._closing = True
        self._connection.close(self._driver.now())
        self._driver.kick()
        self._loop.call_soon(self._lose, None)

    def abort(self) -> None:
        if self._lost:
            return
        self._closing = True
        self._connection.abort(self._driver.now())
        self._driver.kick()
        self._loop.call_soon(self._lose, None)

    def _force_close(self, exc: Exception | None) -> None:
        """As `abort`, with what `connection_lost` is told: `asyncio.sslproto` ends a handshake that fails with it."""
        if self._lost:
            return
        self._closing = True
        self._connection.abort(self._driver.now())
        self._driver.kick()
        self._loop.call_soon(self._lose, exc, True)

    # -- asyncio.ReadTransport -------------------------------------------------------------------

    def is_reading(self) -> bool:
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        self._paused = True

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._loop.call_soon(self._on_signals, Signal.READABLE)

    # -- asyncio.WriteTransport ------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data is bytes, a bytearray or a memoryview, not {type(data).__name__}")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        connection = self._connection
        if self._lost or self._closing or connection.error is not None:
            return  # as asyncio's own transports do: connection_lost tells the protocol
        if not data:
            return
        connection.write(data)
        self._driver.kick()
        self._maybe_pause_protocol()

    def _maybe_pause_protocol(self) -> None:
        if self._connection.write_blocked and not self._protocol_paused:
            self._protocol_paused = True
            self.get_protocol().pause_writing()

    def _maybe_resume_protocol(self) -> None:
        if self._protocol_paused and not self._connection.write_blocked:
            self._protocol_paused = False
            self.get_protocol().resume_writing()

    def writelines(self, list_of_data: Any) -> None:
        for data in list_of_data:
            self.write(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self._lost and not self._closing:
            self._eof_written = True
            self._connection.shutdown(self._driver.now())
            self._driver.kick()

    def get_write_buffer_size(self) -> int:
        return self._connection.sender.buffered

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._connection.low_water, self._connection.high_water

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if high is None:
            high = self._connection.options.send_buffer if low is None else 4 * low
        if low is None:
            low = high // 4
        if not 0 <= low <= high:
            raise ValueError(f"the low-water mark ({low}) must lie between 0 and the high-water mark ({high})")
        connection = self._connection
        connection.high_water = high
        connection.low_water = low
        if not self._lost and connection.sender.buffered > high:  # as asyncio's own transports do
            connection.write_blocked = True
            self._maybe_pause_protocol()

    # -- from the stack --------------------------------------------------------------------------

    def _on_signals(self, bits: int) -> None:
        if self._lost:
            return
        protocol = self._protocol
        try:
            self._tell(bits)
        except Exception as error:  # the protocol's: it is nobody else's affair
            report_failure(self, protocol, error)
            self._force_close(error)

    def _tell(self, bits: int) -> None:
        if bits & Signal.WRITABLE:
            self._maybe_resume_protocol()
        if bits & Signal.END_OF_STREAM:
            self._end_of_stream = True
        if bits & (Signal.READABLE | Signal.END_OF_STREAM):
            self._deliver()
        if bits & Signal.CLOSED:
            self._lose(self._connection.error)

    def _deliver(self) -> None:
        """Give the protocol what has arrived, and the end of the stream after the last byte."""
        connection = self._connection
        if self._paused or self._closing or self._lost:
            return
        if connection.receiver.queued:
            self._hand_over(connection.read())
            self._driver.kick()
        if self._end_of_stream and not self._end_told and self.is_reading():
            self._end_told = True
            if not self.get_protocol().eof_received():  # type: ignore[attr-defined]
                self.close()

    def _deliver_all(self) -> None:
        """The connection is over, and nothing can be read from it later: a protocol that has paused gets the rest, too.

        That of `loop.sendfile` stands in for another one, and reads nothing: the other one gets it.
        """
        receiver = self._connection.receiver
        told_of_the_end = self._protocol
        if isinstance(told_of_the_end, _SendfileFallbackProtocol):
            self._protocol = told_of_the_end._proto
        try:
            while not self._closing and (receiver.queued or (self._end_of_stream and not self._end_told)):
                self._paused = False
                self._deliver()
        finally:
            self._protocol = told_of_the_end

    def _hand_over(self, pieces: list[Buffer]) -> None:
        """Small pieces together, as a kernel's socket would give them; large ones as they are."""
        if len(pieces) > 1:
            pieces = joined(pieces)
        for index, piece in enumerate(pieces):
            if self._paused or self._closing or self._lost:  # the protocol has enough: the rest keeps the window closed
                if not self.is_closing():
                    self._connection.receiver.unread(pieces[index:])
                break
            give(self.get_protocol(), piece)

    def _lose(self, error: Exception | None, told: bool = False) -> None:
        """Tell the protocol; of an end that it asked for, no error, unless `told` says so.

        What the peer had ended in order is all delivered, whatever came after it.
        """
        if self._lost:
            return
        if error is None or self._connection.receiver.fin_taken():
            self._deliver_all()
        self._lost = True
        self._connection.owner = None
        try:
            if self._protocol is not None:
                self._protocol.connection_lost(None if self._closing and not told else error)
        finally:
            self._protocol = None
            self._over(self)
        self._connection.receiver.read()  # nobody will: megabytes should not wait for the garbage collector


def joined(pieces: list[Buffer]) -> list[Buffer]:
    """The same bytes in fewer pieces: neighbours that are at most `JOINED` bytes together are one.

    >>> joined([b"a", b"b", bytes(JOINED), b"c"]) == [b"ab", bytes(JOINED), b"c"]
    True
    """
    result: list[Buffer] = []
    begin = size = 0
    for at, piece in enumerate(pieces):
        if at > begin and size + len(piece) > JOINED:
            result.append(b"".join(pieces[begin:at]) if at - begin > 1 else pieces[begin])
            begin, size = at, 0
        size += len(piece)
    result.append(b"".join(pieces[begin:]) if len(pieces) - begin > 1 else pieces[begin])
    return result


def give(protocol: asyncio.BaseProtocol, data: Buffer) -> None:
    """Data for a protocol of either kind; a BufferedProtocol (TLS, for one) lends buffers for it."""
    if not isinstance(protocol, asyncio.BufferedProtocol):
        protocol.data_received(bytes(data))  # type: ignore[attr-defined]
        return
    left = memoryview(data)
    while left:
        room = memoryview(protocol.get_buffer(len(left)))
        count = min(len(room), len(left))
        if not count:
            raise RuntimeError("get_buffer() returned an empty buffer")
        room[:count] = left[:count]
        protocol.buffer_updated(count)
        left = left[count:]


def report_failure(
    transport: asyncio.BaseTransport, protocol: asyncio.BaseProtocol | None, error: BaseException
) -> None:
    """Tell the loop's exception handler of a protocol that raised; None where it was not made."""
    report = {"message": "Fatal error: a protocol failed.", "exception": error, "transport": transport}
    asyncio.get_running_loop().call_exception_handler({**report, "protocol": protocol} if protocol else report)
