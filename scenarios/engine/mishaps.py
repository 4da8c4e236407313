"""Errors of a run, as its reader needs them: where the script was, and what was raised where nobody could catch it.

A congestion controller, a callback or a task that nobody awaits raises in the event loop, and asyncio goes on as if nothing had
been.  What the run measures then means nothing, so such a run has failed.
"""

from __future__ import annotations

import asyncio
import os
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import unimux
from unimux.cli.settings import debugging

_PACKAGES = tuple(
    str(Path(unimux.__file__).parents[1] / name) + os.sep for name in ("tapstack", "unimux", "compat", "scenarios")
)
_PYTHON = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "platstdlib", "purelib", "platlib"))


def where(error: BaseException, file: str) -> str:
    """An error in one line, with the place that its reader can change and, where it is another one, the place that raised it.

    file: the source of the scenario.  The first place is the innermost line of it, else the innermost one that is neither
    Python's nor of unimux: a congestion controller's, for one.  Of a group of errors it is the first one.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename == file]
    own = own or [frame for frame in frames if not frame.filename.startswith((*_PACKAGES, *_PYTHON, "<"))]
    places = list(dict.fromkeys(_place(frame) for frame in (*own[-1:], *frames[-1:]))) or ["an unknown place"]
    raised = f", raised at {places[1]}" if len(places) > 1 else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__} at {places[0]}{raised}" + (f": {text}" if text else "")


def _place(frame: traceback.FrameSummary) -> str:
    return f"{Path(frame.filename).name}:{frame.lineno}"


TITLE = "Nothing was raised where nobody could catch it"


class Mishaps:
    """What a loop's exception handler was told in a run: how often, and what it was at first.

    say: told of the first one, as it happens.
    """

    def __init__(self, file: str) -> None:
        self.count = 0
        self.say: Callable[[str], None] = lambda text: None
        self._file = file
        self._first = ""

    def hear(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """For `loop.set_exception_handler`.  The first error is told as it happens, with `--debug` each with its traceback."""
        error = context.get("exception")
        if error is None or debugging():
            loop.default_exception_handler(context)
        if error is None:
            return
        self.count += 1
        if self.count == 1:
            self._first = where(error, self._file)
            self.say(f"An error that nobody could catch: {self._first}")

    def sentence(self) -> str:
        """What is to be told of them, as a clause."""
        times = f"raised {self.count:,} times, at first" if self.count > 1 else "raised:"
        return f"{times} {self._first} (`unimux --debug …` shows where each came from)"
