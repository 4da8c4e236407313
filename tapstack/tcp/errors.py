"""How a connection can end badly, as the exceptions its owner sees."""

from __future__ import annotations

import errno
import os


class AddressGone(ConnectionAbortedError):
    """The valid lifetime of the connection's address is over (UM-ADDR-11)."""


class ConflictingSocket(OSError):
    """A socket's key could shadow another's (UM-PORT-7); the message names both."""

    def __init__(self, new: str, existing: str) -> None:
        super().__init__(errno.EADDRINUSE, f"{new} conflicts with {existing}: their packets could not be told apart")


def refused() -> ConnectionRefusedError:
    """The peer answered the SYN with a reset."""
    return ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def reset() -> ConnectionResetError:
    """The peer reset the connection."""
    return ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))


def timed_out() -> TimeoutError:
    """No acknowledgement within the user time-out."""
    return TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def aborted() -> ConnectionAbortedError:
    """This side aborted the connection."""
    return ConnectionAbortedError(errno.ECONNABORTED, os.strerror(errno.ECONNABORTED))


def unreachable() -> OSError:
    """An ICMPv6 error says that the peer cannot be reached."""
    return OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))
