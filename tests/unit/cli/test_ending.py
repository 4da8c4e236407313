"""SIGTERM and SIGHUP end whatever command there is as Ctrl-C does, and once."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from unimux.cli import main
from unimux.cli.ending import SIGNALS, ended_by, in_order, interrupting, postponed, unheard

EACH = pytest.mark.parametrize("number", SIGNALS)
ANY = pytest.mark.parametrize("number", [signal.SIGINT, *SIGNALS])


def tell(number: signal.Signals) -> None:
    """Send it to this process."""
    os.kill(os.getpid(), number)


def wait(seconds: float) -> None:
    """What a signal ends."""
    select.select([], [], [], seconds)


@EACH
def test_a_signal_interrupts_once_and_all_is_as_before(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with in_order() as ending:
        with pytest.raises(KeyboardInterrupt):
            tell(number)
        tell(number)
        tell(signal.SIGTERM)
        assert ending.number is ended_by() is number
    assert signal.getsignal(number) == before
    assert ended_by() is None


@EACH
def test_a_signal_in_text_that_was_compiled_does_not_change_the_status(number: signal.Signals, tmp_path: Path) -> None:
    """`python -m` would die of SIGINT."""
    program = f"""
import signal, sys
from unimux.cli import main

def app(**_):
    exec("signal.raise_signal({number:d})")

main.app = app
sys.exit(main.run([]))
"""
    (tmp_path / "command.py").write_text(program)
    command = [sys.executable, "-m", "command"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (128 + number, "unimux: Interrupted.\n")


@EACH
def test_a_signal_cancels_the_task_of_a_runner(number: signal.Signals) -> None:
    undone: list[bool] = []

    async def work() -> None:
        try:
            tell(number)
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            undone.append(True)
            raise

    with in_order(), pytest.raises(KeyboardInterrupt):
        asyncio.run(work())
    assert undone


@EACH
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with in_order() as ending:
            tell(number)
            assert ending.number is None
    finally:
        signal.signal(number, before)


def test_what_ends_in_its_own_way_is_called_in_place_of_an_interrupt() -> None:
    called: list[str] = []
    with in_order() as ending:
        with interrupting(lambda: called.append("first")):
            tell(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                tell(signal.SIGINT)  # who does so twice insists
        with interrupting(lambda: called.append("second")):
            tell(signal.SIGTERM)
            tell(signal.SIGHUP)
        assert ending.number is signal.SIGTERM
    assert called == ["first", "second"]


def test_what_is_being_written_is_not_disturbed() -> None:
    with in_order() as ending:
        with unheard():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                tell(number)
        assert ending.number is signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            tell(signal.SIGINT)


@ANY
def test_no_import_is_disturbed_and_what_was_heard_comes_at_its_end(number: signal.Signals) -> None:
    done: list[bool] = []

    def load() -> None:
        with postponed():
            tell(number)
            done.append(True)
            if number is not signal.SIGINT:
                tell(number)

    def load_in_vain() -> None:
        with postponed():
            tell(signal.SIGINT)
            raise ImportError("of a command that is to end anyway")

    def load_for_ever() -> None:
        with postponed():
            tell(signal.SIGINT)
            tell(signal.SIGINT)  # who does so twice insists
            done.clear()

    with in_order() as ending:
        with pytest.raises(KeyboardInterrupt):
            load()
        assert done and ending.number is (None if number is signal.SIGINT else number)
        with pytest.raises(KeyboardInterrupt):
            load_in_vain()
        with postponed():
            pass
        with pytest.raises(KeyboardInterrupt):
            load_for_ever()
        with interrupting(lambda: done.append(False)), postponed():
            tell(signal.SIGINT)
            assert done == [True]
        assert done == [True, False], "in its own way"


class Dropping:
    """Its end is where Python can only drop an exception."""

    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __del__(self) -> None:
        tell(self.number)
        wait(0)  # where the handler runs


@ANY
def test_an_interrupt_that_python_drops_comes_again(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.unraisablehook
    with in_order() as ending:
        Dropping(number)
        with pytest.raises(KeyboardInterrupt):
            wait(60)
        assert ending.number is (None if number is signal.SIGINT else number)
    assert sys.unraisablehook is before
    assert not capsys.readouterr().err


def test_a_dropped_interrupt_does_not_hide_the_signal_that_came_before_it() -> None:
    with in_order() as ending:
        with pytest.raises(KeyboardInterrupt):
            tell(signal.SIGTERM)
        Dropping(signal.SIGINT)
        assert ending.number is ended_by() is signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            wait(60)
        assert ending.number is signal.SIGTERM


def test_what_is_dropped_as_the_command_ends_stays_so_and_other_errors_are_told() -> None:
    told: list[object] = []

    class Failing:
        def __del__(self) -> None:
            raise ValueError("in a destructor")

    before, sys.unraisablehook = sys.unraisablehook, lambda unraisable: told.append(unraisable.exc_type)
    handler = signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        with in_order():
            Failing()
            Dropping(signal.SIGTERM)
            Dropping(signal.SIGTERM)
        wait(0.2)  # longer than it takes to come again
    finally:
        sys.unraisablehook = before
        signal.signal(signal.SIGTERM, handler)
    assert told == [ValueError]


def test_a_forked_child_ends_at_once() -> None:
    reading, writing = os.pipe()
    with in_order():
        child = os.fork()
        if not child:
            os.write(writing, b"!")  # what it hears before it is made, Python forgets
            select.select([], [], [], 20)
            os._exit(0)
        os.read(reading, 1)
        os.kill(child, signal.SIGTERM)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    os.close(reading)
    os.close(writing)


def test_a_thread_changes_no_handler() -> None:
    found: list[bool] = []
    before = signal.getsignal(signal.SIGINT)

    def work() -> None:
        with in_order(), interrupting(lambda: None), unheard():
            found.append(signal.getsignal(signal.SIGINT) == before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [True]


@EACH
def test_an_interrupt_that_python_wraps_is_one(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Named:
        def __set_name__(self, owner: type, name: str) -> None:
            tell(number)

    monkeypatch.setattr(main, "app", lambda **_: type("Owner", (), {"named": Named()}))
    assert main.run([]) == 128 + number
    assert capsys.readouterr().err == "unimux: Interrupted.\n"


@EACH
def test_the_status_of_a_command_names_the_signal(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app(**_: object) -> None:
        tell(number)

    monkeypatch.setattr(main, "app", app)
    assert main.run([]) == 128 + number
    assert capsys.readouterr().err == "unimux: Interrupted.\n"


@pytest.mark.parametrize("done", [lambda: None, lambda: 1])
def test_a_command_that_came_to_its_end_has_its_own_status(
    done: Callable[[], int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def app(**_: object) -> int | None:
        with unheard():
            tell(signal.SIGTERM)
        return done()

    monkeypatch.setattr(main, "app", app)
    assert main.run([]) == (done() or 0)
