"""Runs a stack on a link in an asyncio loop: the only place where the two meet.

One wake-up reads frames until the link is empty (bounded, so that others get their turn), runs due timers, tells
socket owners their news, and then writes what the stack has to say: what the owners read and answered is in the same
flush, and acknowledgements are per batch, not per frame.

Timers run only once the link is read empty: where the loop was late, the acknowledgement that a timer waits for may have been
on the link for long, and a repetition would tell the peer of a loss that never was.

A round of the loop costs as much as a segment, so none is asked for in vain: kicks of owners that are being told news are
served by the flush that follows.  And where the other end of the link is a kernel on this machine, its TCP has answered within
the write already: what was written is followed by a look at the link, and `exchange` is for who is about to wait for an
answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .events import DropReason
from .link.base import Link
from .link.errors import LinkLost
from .stack import Stack
from .tcp.connection import Connection

BATCH = 64
"""Frames read before output is flushed."""

ROUNDS = 4
"""How often in one wake-up frames are read, and answered: others get their turn."""

PATIENCE = 16
"""Batches in a row that timers wait for: a link that is never empty does not stop them."""


class Driver:
    """Connects a stack, a link and the running loop.

    `kick()`, or `exchange()`, must follow every call on the stack from outside that may have something to send; calls in one
    loop iteration share the flush that a kick asks for.

    When the link loses its carrier the host is told; when it is back, `on_up(now)` is called, by default the host's `link_up`.
    A link that is lost is told to `on_lost`; then it ends the host as `close` does, without a goodbye: every socket's owner
    hears of it.
    """

    def __init__(
        self,
        stack: Stack,
        link: Link,
        on_lost: Callable[[LinkLost], None] | None = None,
        on_up: Callable[[float], None] | None = None,
    ) -> None:
        self.stack = stack
        self.link = link
        self._on_lost = on_lost
        self._on_up = on_up or stack.host.link_up
        self.loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._again: asyncio.Handle | None = None
        self._full_batches = 0
        self._kicked = False
        self._telling = False
        self._closed = False
        self._look_again = stack.look_again
        self._leaving = stack.host.dad.leaving
        self.now = self.loop.time
        """`now() -> float`: the stack's clock, seconds."""

    def start(self) -> None:
        """Attach the link and start the host."""
        self.link.attach(self.loop, self._wake)
        self.link.watch(self._carrier)
        self.stack.start(self.now())
        self._finish()

    def kick(self) -> None:
        """Flush soon: something outside the stack changed it."""
        if not self._kicked and not self._telling and not self._closed:
            self._kicked = True
            self.loop.call_soon(self._flush_kicked)

    def exchange(self, connection: Connection) -> None:
        """Send now what the stack has to say, and take in frames until there is news of `connection` or none waits.

        Its owner is told its news here and now, all others theirs in the loop's next round.
        """
        if self._telling or self._closed:
            return
        counters = self.stack.counters
        for _ in range(ROUNDS):  # a neighbour that asks who we are, for one, is answered before the peer answers
            sent = counters.frames_out
            self._send_all(self.now())
            if counters.frames_out == sent or not self._take_in_for(connection):
                break
            self.kick()
            if connection.signals:
                break
        bits, connection.signals = connection.signals, 0
        if bits and connection.owner is not None:
            connection.owner(bits)

    def close(self) -> None:
        """Stop the host, say goodbye on the link, and close it; harmless when called again."""
        if self._closed:
            return
        self.stack.stop(self.now())
        try:
            self._transmit(self.now())
        except LinkLost:
            pass  # it is being closed anyway
        self._end()

    def _lose(self, error: LinkLost) -> None:
        """The link is gone: nobody is left to say goodbye to."""
        self._closed = True
        if self._on_lost is not None:
            self._on_lost(error)
        self.stack.stop(self.now())
        self.stack.output(self.now())
        self._end()

    def _end(self) -> None:
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.link.close()
        self._notify()

    def _wake(self) -> None:
        """Frames, then due timers, then what both led to; and again what that was answered with within the write."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        for turn in range(ROUNDS):
            if self._closed:
                return
            now = self.now()
            try:
                taken = self._read(now)
            except LinkLost as error:
                self._lose(error)
                return
            if turn and not taken:
                return
            if taken < BATCH:
                self._full_batches = 0
            else:
                self._full_batches += 1
                self._again = self.loop.call_soon(self._wake)
            if taken < BATCH or self._full_batches > PATIENCE:
                due = self._look_again()
                if due is not None and due <= now:
                    self._advance(now)
            sent = self.stack.counters.frames_out
            self._finish()
            if self._again is not None or self.stack.counters.frames_out == sent:
                return

    def _advance(self, now: float) -> None:
        try:
            self.stack.advance(now)
        except Exception as error:  # of one timer, perhaps a policy's of the user: those behind it are due still
            self._report("A timer of the stack failed.", error)

    def _read(self, now: float) -> int:
        """Take in at most a batch of frames; how many: fewer than a batch where the link is empty now."""
        try:
            taken = self.stack.take_in(self.link.receive, BATCH, now)
        except LinkLost:
            raise
        except Exception as error:
            self._frame_failed(error)
            taken = BATCH  # there may be more behind it
        self.link.handled()
        return taken

    def _frame_failed(self, error: Exception) -> None:
        """One connection's fault (see `Tcp.broken`), or the stack's: frames for others are behind it."""
        self.stack.counters.drop(DropReason.FAULT)
        self._report("A frame could not be processed.", error)

    def _report(self, message: str, error: Exception) -> None:
        self.loop.call_exception_handler({"message": message, "exception": error})

    def _take_in_for(self, connection: Connection) -> bool:
        """Take in at most a batch of frames, no more once there is news of `connection`; whether there were any."""
        receive, take, now = self.link.receive, self.stack.input, self.now()
        taken = 0
        try:
            while not (self._closed or connection.signals) and taken < BATCH:
                frame = receive()
                if frame is None:
                    break
                taken += 1
                try:
                    take(frame, now)
                except Exception as error:
                    self._frame_failed(error)
            self.link.handled()
        except LinkLost as error:
            self._lose(error)
        return taken > 0

    def _carrier(self, up: bool) -> None:
        if self._closed:
            return
        if up:
            self._on_up(self.now())
        else:
            self.stack.host.link_down(self.now())
        self._finish()

    def _flush_kicked(self) -> None:
        if self._kicked and not self._closed:  # or another flush came first
            self._finish()

    def _on_timer(self) -> None:
        self._timer = None
        self._wake()

    def _finish(self) -> None:
        """News, output, and the next wake-up."""
        if self.stack.has_signals():
            self._telling = True
            try:
                self._notify()
            finally:
                self._telling = False
        if not self._closed:  # by an owner
            self._send_all(self.now())

    def _send_all(self, now: float) -> None:
        self._kicked = False
        try:
            self._transmit(now)
        except LinkLost as error:
            self._lose(error)
            return
        due = self._look_again()
        if due is not None and (self._timer is None or due < self._timer_at):
            self._schedule(due)  # else it fires early at worst, and looks again

    def _transmit(self, now: float) -> None:
        try:
            frames = self.stack.output(now)
        except Exception as error:  # of one connection: the others have their turn in the next round
            self._report("A connection could not send.", error)
            self.kick()
            return
        if frames:
            counters = self.stack.counters
            send = self.link.send
            for frame in frames:
                counters.bytes_out += sum(map(len, frame))
                if not send(frame):
                    counters.drop(DropReason.LINK_SEND_FAILED)
            if self._leaving:
                self.stack.host.dad.departed(self.now())
        if self.stack.has_signals():
            self.kick()

    def _notify(self) -> None:
        for owner, bits in self.stack.take_signals():
            try:
                owner(bits)
            except Exception as error:  # one owner's fault: the others' news has been taken and would be lost
                self._report("A socket's owner failed.", error)

    def _schedule(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = due
        self._timer = self.loop.call_at(due, self._on_timer)
