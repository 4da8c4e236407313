"""SIGTERM and SIGHUP end a command in the way of Ctrl-C: what it has made is undone, and what it has found out is kept.

The first of them does what Ctrl-C would do at that moment; more of them change nothing, since a terminal that goes and a service
manager tell more than once while the command is ending.  Ctrl-C stays what it is, and a second one insists.  A signal that is
ignored when the command begins, as by nohup, stays so; and where Ctrl-C is, in a background job of a shell, the other two still
end the command.  A command that ends its work itself, as a node's do, sets signal handlers of its own for that time.

An interrupt that comes where Python can only drop it, in a destructor for instance, comes again soon; and
while a command is loaded none is raised, which others would take for an error of theirs: it waits until that is done.

Where the terminal has gone that SIGHUP tells of, what is still said goes nowhere: the first line of it would be an error, and
the end of the report that is to be written.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGHUP)

_AGAIN = 0.05
"""Seconds until an interrupt that was dropped comes again."""


class Interrupt(KeyboardInterrupt):
    """Raised for the signals.

    Python keeps in mind that a plain KeyboardInterrupt went through text that was compiled, of an annotation for instance, and
    then dies of SIGINT at its end, whatever the status was to be.
    """


class Ending:
    """Which of the signals has come first; None while none has."""

    def __init__(self) -> None:
        self.number: signal.Signals | None = None
        self._hook = sys.unraisablehook
        self.act: Callable[[], object] | None = None
        """what it leads to in place of an interrupt"""
        self._again: threading.Timer | None = None
        self._process = os.getpid()
        self._terminals = [number for number in range(3) if os.isatty(number)]

    def hear(self, number: int, frame: FrameType | None) -> None:
        """The signals' handler."""
        if os.getpid() != self._process:  # a forked child has nothing to undo
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._leave_lost_terminals()
        if self.number is None:
            self.number = signal.Signals(number)
            self.interrupt(frame)

    def interrupt(self, frame: FrameType | None = None) -> None:
        """Do what Ctrl-C would."""
        handler = signal.getsignal(signal.SIGINT)
        if self.act is not None:
            self.act()
        elif callable(handler) and handler is not signal.default_int_handler:  # an asyncio runner's cancels its task
            handler(signal.SIGINT, frame)
        else:
            raise Interrupt

    def dropped(self, unraisable: sys.UnraisableHookArgs) -> None:
        """In place of `sys.unraisablehook`: an interrupt that Python could not raise where it came is sent again."""
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._hook(unraisable)
            return
        ours = issubclass(unraisable.exc_type, Interrupt)
        number = (self.number if ours else None) or signal.SIGINT
        if ours:
            self.number = None
        if self._again is not None:
            self._again.cancel()
        self._again = threading.Timer(_AGAIN, signal.pthread_kill, (threading.main_thread().ident, number))
        self._again.daemon = True
        self._again.start()

    @contextmanager
    def repeating(self) -> Iterator[None]:
        """Around a command: what is dropped comes again."""
        sys.unraisablehook = self.dropped
        try:
            yield
        finally:
            sys.unraisablehook = self._hook
            if self._again is not None:
                self._again.cancel()

    def _leave_lost_terminals(self) -> None:
        for number in self._terminals:
            if not os.isatty(number):
                nowhere = os.open(os.devnull, os.O_RDWR)
                os.dup2(nowhere, number)
                os.close(nowhere)


_ending = Ending()


@contextmanager
def in_order() -> Iterator[Ending]:
    """Around a command: the signals end it in order; the value tells which one did."""
    global _ending
    outer, _ending = _ending, Ending()
    try:
        with _handled(dict.fromkeys(SIGNALS, _ending.hear)), _ending.repeating():
            yield _ending
    finally:
        _ending = outer


def ended_by() -> signal.Signals | None:
    """The signal that is ending this command; None where none is."""
    return _ending.number


@contextmanager
def interrupting(act: Callable[[], object]) -> Iterator[None]:
    """Inside the block Ctrl-C, SIGTERM and SIGHUP call `act`; a second Ctrl-C does what it did before."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        act()

    before = signal.getsignal(signal.SIGINT)
    with _acting(act), _handled({signal.SIGINT: interrupt}):
        yield


@contextmanager
def unheard() -> Iterator[None]:
    """Inside the block Ctrl-C, SIGTERM and SIGHUP change nothing: what a command that is ending leaves is being written."""
    with _acting(lambda: None), _handled({signal.SIGINT: lambda number, frame: None}):
        yield


@contextmanager
def postponed() -> Iterator[None]:
    """Around imports: Ctrl-C, SIGTERM and SIGHUP interrupt at the end of the block, whatever comes of it.

    A second Ctrl-C insists: the end may not come.
    """
    heard = False

    def hear() -> None:
        nonlocal heard
        heard = True

    try:
        with interrupting(hear):
            yield
    finally:
        if heard:
            _ending.interrupt()


def unwrapped(error: BaseException) -> BaseException:
    """The interrupt where Python has wrapped one, as it does with whatever comes from `__set_name__`; else the error."""
    wrapped = type(error) is RuntimeError and isinstance(error.__cause__, KeyboardInterrupt)
    return error.__cause__ or error if wrapped else error


@contextmanager
def _acting(act: Callable[[], object]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ending, before = _ending, _ending.act
    ending.act = act
    try:
        yield
    finally:
        ending.act = before


@contextmanager
def _handled(handlers: dict[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    """Handlers of signals, but of those that are ignored; nothing in a thread, which gets none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = {number: handler for number, handler in handlers.items() if signal.getsignal(number) != signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
