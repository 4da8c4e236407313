"""What can go wrong with a scenario before or while it runs; each text is a sentence for the person who runs it."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unimux.errors import SetupError, UnimuxError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)


class ScenarioError(SetupError):
    """The scenario, or the way it was called, is not as it has to be."""

    exit_code = 2


class UnknownScenario(ScenarioError):
    """No scenario has that name."""


class ParameterError(ScenarioError):
    """A parameter that does not exist, or a value that it does not take."""


class BackendCannot(ScenarioError):
    """The scenario needs what the chosen backend does not have; said before anything is started."""


class TooLong(UnimuxError):
    """A run did not end within its limit of seconds."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds

    def __str__(self) -> str:
        return (
            f"The scenario did not end within {self.seconds:g} s of its own clock: "
            "give it less to do, or a higher limit in @scenario(…)."
        )


def refuse_bytes(what: str, text: str) -> None:
    """Raise `ScenarioError` for what was not UTF-8 on the command line: no file of the run could tell it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ScenarioError(f"The {what} {text!a} is not UTF-8: write it in letters that are.") from None


class NoRoom(SetupError):
    """What a run leaves cannot be written."""


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """Around whatever writes into `folder`: a full disk, whose error names no file, is a `NoRoom`."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        why = (error.strerror or "no room").lower()
        raise NoRoom(f"{folder} cannot be written: {why}; what is there is incomplete.") from error
