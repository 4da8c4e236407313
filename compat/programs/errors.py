"""What can go wrong with an unmodified program, as types whose message is one sentence for the user."""

from __future__ import annotations

from unimux.errors import SetupError, UnimuxError


class ProgramError(UnimuxError):
    """A program could not be used; the message is one sentence."""


class ProgramMissing(ProgramError, SetupError):
    """A program is not installed; the message names the Debian package that has it."""


class ProgramFailed(ProgramError):
    """A program ended, or did not get ready in time; the message carries the last thing it said."""
