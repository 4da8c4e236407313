"""How a connection can end badly, as the exceptions its owner sees."""

from __future__ import annotations

import errno
import os

from ..types import address_text
from ..wire.icmpv6 import TimeExceededCode, Type, UnreachableCode


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


def invalid_address(address: bytes) -> OSError:
    """A group, the unspecified or the loopback address cannot be a peer's (RFC 9293 MUST-46)."""
    return OSError(errno.EADDRNOTAVAIL, f"{address_text(address)} cannot be the address of a peer")


_PORT_UNREACHABLE = (Type.DESTINATION_UNREACHABLE, UnreachableCode.PORT)
_ERRNOS: dict[tuple[int, int], int] = {
    (Type.DESTINATION_UNREACHABLE, UnreachableCode.NO_ROUTE): errno.ENETUNREACH,
    (Type.DESTINATION_UNREACHABLE, UnreachableCode.PROHIBITED): errno.EACCES,
    (Type.DESTINATION_UNREACHABLE, UnreachableCode.SOURCE_POLICY): errno.EACCES,
    (Type.DESTINATION_UNREACHABLE, UnreachableCode.REJECT_ROUTE): errno.EACCES,
    (Type.TIME_EXCEEDED, TimeExceededCode.HOP_LIMIT): errno.ETIME,
}


def from_icmp(kind: int, code: int) -> OSError:
    """The error that an ICMPv6 error stands for (RFC 4443 §3): refused, or unreachable with an errno that says why."""
    if (kind, code) == _PORT_UNREACHABLE:
        return refused()
    number = _ERRNOS.get((kind, code), errno.EHOSTUNREACH)
    return OSError(number, os.strerror(number))
