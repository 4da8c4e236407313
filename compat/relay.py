"""Two byte streams joined: what arrives at one end leaves at the other, both ways, until both are done.

Model.  A `Relay` has two `RelayEnd`s, *near* and *far*.  Each is the asyncio protocol of one transport, of whatever
make: a kernel socket, a one-time connection, TLS.  An end hands what it receives straight to the other end's
transport; nothing is queued here, so the only buffers are those of the transports.

* Back-pressure: a transport whose write buffer passes its high-water mark stops reading at the other end, and starts it
  again at the low-water mark.  What one direction can hold is that mark plus one chunk.
* Half-close: the end of one direction is written as the end of the other stream; both directions over closes both.  A reset
  behind such an end is heard of although nobody reads (`compat.resets`).
* Abort: an end that fails takes the other down with it (RST on a kernel socket), except that a stream which had already
  ended in order is still delivered.
* Idle: if no byte moved and no write buffer shrank for `idle_timeout`, both are aborted.  The data path does not
  touch a timer; the timer compares the counts when it fires, so the end comes between 1 and 1¼ times that time.

Invariants: no data is forwarded before both ends are connected (an end alone is paused); each transport's
`connection_lost` has come before the relay reports its one `RelayResult`; a finished relay aborts a
transport that comes late.

On the choice of a plain `Protocol`: a fresh bytes object per chunk costs no more than `recv_into` a buffer of our own
(measured, within noise), and a userspace TCP can keep it until it is acknowledged without copying it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

from compat.resets import ResetWatch, is_kernel_socket, watch_for_reset
from tapstack.types import Buffer

IDLE_TIMEOUT = 7440.0
"""Default idle time-out in seconds: what NATs must grant an established connection (RFC 5382 REQ-5, 2 h 4 min)."""

_IDLE_CHECKS = 4
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class EndReason(StrEnum):
    """Why a relay ended; the value is the name in counters and reports."""

    COMPLETE = "complete"
    """both streams ended and were delivered"""
    NEAR_CLOSED = "near-closed"
    """the near side closed in order while the far stream was still open"""
    FAR_CLOSED = "far-closed"
    """the same of the far side"""
    NEAR_FAILED = "near-failed"
    """the near transport reported an error, a reset for instance"""
    FAR_FAILED = "far-failed"
    """the same of the far transport"""
    IDLE = "idle"
    """nothing moved for the idle time-out"""
    STOPPED = "stopped"
    """the owner called `abort`"""


@dataclass(frozen=True, slots=True)
class RelayResult:
    """How a relay ended.

    bytes_to_far, bytes_to_near: bytes handed to that end's transport; after a failure its buffer may not have left.
    duration: seconds from the second end's connection to the last one's loss; 0 if they never were joined.
    """

    reason: EndReason
    bytes_to_far: int
    bytes_to_near: int
    duration: float
    error: BaseException | None = None


class RelayEnd(asyncio.Protocol):
    """The protocol of one of the two transports; made by `Relay`, passed as `protocol_factory=lambda: relay.far`."""

    __slots__ = (
        "_blocked",
        "_eof",
        "_forward",
        "_lost",
        "_other",
        "_pending",
        "_relay",
        "_watch",
        "preface",
        "received",
        "transport",
    )
    _other: RelayEnd

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._forward: Callable[[Buffer], object] | None = None
        self._pending: list[Buffer] = []
        self._eof = False
        self._lost = False
        self._blocked = False
        self._watch: ResetWatch | None = None
        self.transport: asyncio.Transport | None = None
        self.received = 0
        """Bytes that came in at this end."""
        self.preface: bytes = b""
        """Bytes to write to this end before anything that is relayed; set it before the ends are joined."""

    def adopt(self, transport: asyncio.Transport, early: bytes = b"", *, ended: bool = False) -> None:
        """Take over a transport that another protocol has used so far.

        early: what that had received, for the stream; ended: whether it had also received the stream's end.
        """
        if early:
            self.data_received(early)
        self._eof = ended
        transport.set_protocol(self)
        self.connection_made(transport)

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._relay._connected(self)

    def data_received(self, data: Buffer) -> None:
        self.received += len(data)
        if self._forward is None:
            self._pending.append(data)
        else:
            self._forward(data)

    def eof_received(self) -> bool:
        self._eof = True
        if self._forward is not None:
            self._relay._ended(self)
        return True

    def pause_writing(self) -> None:
        self._blocked = True
        source = self._other
        if source.transport is not None and not source._eof and not source.transport.is_closing():
            source.transport.pause_reading()

    def resume_writing(self) -> None:
        self._blocked = False
        if self._forward is not None:
            self._other._resume_reading()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._lost = True
        if self._watch is not None:
            self._watch.end()
        self._relay._lost(self, exc)

    # the relay's side

    def _resume_reading(self) -> None:
        """Read on, unless the stream is over: asyncio would report its end again."""
        if (
            self.transport is not None
            and not self._eof
            and not self._other._blocked
            and not self.transport.is_closing()
        ):
            self.transport.resume_reading()

    def _start(self, sink: asyncio.Transport) -> None:
        """Forward to `sink` from now on, first what came too early."""
        write = sink.write
        if is_kernel_socket(sink):
            # asyncio slices what a socket did not take: of bytes that is a copy before the one into its buffer; and it
            # complains on standard error of what is still written to a socket that has failed
            self._forward = lambda data: None if sink.is_closing() else write(memoryview(data))
        else:
            self._forward = write
        pending, self._pending = self._pending, []
        for data in pending:
            self._forward(data)


class Relay:
    """Joins `near` and `far`; ends by itself.

    idle_timeout: seconds, None for never.
    on_end: called once with the result; `wait` is the same for coroutines.
    """

    __slots__ = (
        "_closed",
        "_error",
        "_idle_timeout",
        "_joined_at",
        "_loop",
        "_on_end",
        "_reason",
        "_seen",
        "_still",
        "_timer",
        "far",
        "near",
    )

    def __init__(
        self,
        *,
        idle_timeout: float | None = IDLE_TIMEOUT,
        on_end: Callable[[RelayResult], None] | None = None,
    ) -> None:
        if idle_timeout is not None and idle_timeout <= 0:
            raise ValueError("idle_timeout is a time in seconds above 0, or None for never")
        self._loop = asyncio.get_running_loop()
        self._idle_timeout = idle_timeout
        self._on_end = on_end
        self._closed: asyncio.Future[RelayResult] = self._loop.create_future()
        self._reason: EndReason | None = None
        self._error: BaseException | None = None
        self._joined_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._seen: tuple[int, ...] = ()
        self._still = 0
        self.near = RelayEnd(self)
        self.far = RelayEnd(self)
        self.near._other = self.far
        self.far._other = self.near

    @property
    def finished(self) -> bool:
        """Whether the relay has ended and both transports are gone."""
        return self._closed.done()

    @property
    def result(self) -> RelayResult | None:
        """How it ended; None while it runs."""
        return self._closed.result() if self._closed.done() else None

    async def wait(self) -> RelayResult:
        """Wait for the end; cancelling the wait does not end the relay."""
        return await asyncio.shield(self._closed)

    def abort(self) -> None:
        """End both connections now, discarding what is buffered; harmless after the end."""
        self._stop(EndReason.STOPPED)

    def _stop(self, reason: EndReason) -> None:
        if self._closed.done():
            return
        self._reason = self._reason or reason
        for end in (self.near, self.far):
            if end.transport is not None and not end._lost:
                _reset(end.transport)
        self._finish_if_gone()

    def _connected(self, end: RelayEnd) -> None:
        """One end has its transport: wait paused for the other, or join them."""
        transport = end.transport
        assert transport is not None
        if self._closed.done() or self._reason is not None:
            transport.abort()
            return
        sink = end._other.transport
        if sink is None:
            transport.pause_reading()
            return
        self._joined_at = self._loop.time()
        for each, target in ((end, sink), (end._other, transport)):
            if each._other.preface:
                target.write(each._other.preface)
            each._start(target)
        for each in (end, end._other):
            if each._eof:
                self._ended(each)
            each._resume_reading()
        if self._idle_timeout is not None:
            self._seen = self._progress()
            self._timer = self._loop.call_later(self._idle_timeout / _IDLE_CHECKS, self._check_idle)

    def _ended(self, end: RelayEnd) -> None:
        """The stream that comes in at `end` is over: end it at the other side too."""
        sink = end._other.transport
        assert sink is not None and end.transport is not None
        whole = sink.can_write_eof()
        if end._other._eof or not whole:
            if not whole and not end._other._eof:
                self._reason = self._reason or (EndReason.NEAR_CLOSED if end is self.near else EndReason.FAR_CLOSED)
            end.transport.close()
            sink.close()
        elif not sink.is_closing():
            with contextlib.suppress(OSError):  # it failed already; connection_lost is on its way
                sink.write_eof()
            end._watch = watch_for_reset(end.transport, lambda error: self._reset_behind_end(end, error))

    def _reset_behind_end(self, end: RelayEnd, error: OSError) -> None:
        """The peer at `end`, whose stream was over, takes nothing any more: what it had sent is still delivered."""
        if self._reason is None:
            self._reason = EndReason.NEAR_FAILED if end is self.near else EndReason.FAR_FAILED
            self._error = error
        if end.transport is not None:
            end.transport.abort()

    def _lost(self, end: RelayEnd, exc: BaseException | None) -> None:
        """A transport is gone: the other follows it."""
        near = end is self.near
        other = end._other
        if exc is not None and self._reason is None:
            self._reason = EndReason.NEAR_FAILED if near else EndReason.FAR_FAILED
            self._error = exc
        elif self._reason is None and not (end._eof and other._eof) and not other._lost:
            self._reason = EndReason.NEAR_CLOSED if near else EndReason.FAR_CLOSED
        if other.transport is not None and not other._lost:
            if exc is None or end._eof:
                other.transport.close()
            else:
                _reset(other.transport)
        self._finish_if_gone()

    def _finish_if_gone(self) -> None:
        if self._closed.done() or not all(end.transport is None or end._lost for end in (self.near, self.far)):
            return
        if self._timer is not None:
            self._timer.cancel()
        duration = 0.0 if self._joined_at is None else self._loop.time() - self._joined_at
        reason = self._reason or EndReason.COMPLETE
        result = RelayResult(reason, self.near.received, self.far.received, duration, self._error)
        self._closed.set_result(result)
        for end in (self.near, self.far):  # their buffers should not wait for the garbage collector
            end._forward = end.transport = None
        if self._on_end is not None:
            self._on_end(result)

    def _progress(self) -> tuple[int, ...]:
        """What changes when anything moves."""
        waiting = (
            0 if end.transport is None or end._lost else end.transport.get_write_buffer_size()
            for end in (self.near, self.far)
        )
        return (self.near.received, self.far.received, *waiting)

    def _check_idle(self) -> None:
        assert self._idle_timeout is not None
        progress = self._progress()
        self._still = self._still + 1 if progress == self._seen else 0
        self._seen = progress
        if self._still >= _IDLE_CHECKS:
            self._stop(EndReason.IDLE)
        else:
            self._timer = self._loop.call_later(self._idle_timeout / _IDLE_CHECKS, self._check_idle)


def _reset(transport: asyncio.Transport) -> None:
    """Abort; on a kernel TCP socket so that the peer sees a RST and not an orderly end."""
    with contextlib.suppress(OSError, AttributeError):  # not a socket, or one that is gone
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
