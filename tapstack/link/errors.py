"""What can go wrong with a link, as types.  Each message is one sentence that says what to do."""

from __future__ import annotations

from enum import StrEnum


class Unavailable(StrEnum):
    """Why a link could not be had."""

    NO_TUN = "no-tun-device"
    NO_PRIVILEGE = "no-privilege"
    NAME_TAKEN = "name-taken"
    BAD_NAME = "bad-name"
    REFUSED = "refused-by-kernel"


class LinkError(Exception):
    """The base of all link errors."""


class LinkUnavailable(LinkError):
    """A link could not be opened; `reason` says why to a program, the text to a person."""

    def __init__(self, reason: Unavailable, message: str) -> None:
        """reason: for programs; message: one sentence for people."""
        super().__init__(message)
        self.reason = reason


class LinkLost(LinkError):
    """An open link has gone: its device was deleted from outside.  It is to be closed; it will not come back."""
