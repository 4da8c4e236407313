"""The options of a blocking socket beyond a kernel's, and the values that a kernel's options have here."""

from __future__ import annotations

import errno
from enum import IntEnum, StrEnum

from tapstack.tcp.options import LARGEST_BUFFER, SocketOptions

SOL_UNIMUX = 0x554D
"""The level of the options below, for `setsockopt` and `getsockopt`."""


class Option(IntEnum):
    """What can be set beyond a kernel's socket; before `connect` or `listen`.

    STICKY_SESSION: a name, a `NamedSession`, or None; sockets of one session connect from one address, in Aware mode; not
    from one that `bind` names.
    """

    DAS_MODE = 1
    PORT_MODE = 2
    TIME_WAIT = 3
    SSA_POLICY = 4
    STICKY_SESSION = 5


class DasMode(StrEnum):
    """Who sets the address: the pool (UM-DAS-2), or the application by `Socket.set_address` (UM-DAS-3)."""

    AUTO = "auto"
    REQUIRED = "required"


SMALLEST_BUFFER = 2304
"""Bytes: what Linux leaves of a buffer that is set to less (SOCK_MIN_RCVBUF), so that a segment fits in."""


def buffer_size(value: int) -> int:
    """What SO_SNDBUF and SO_RCVBUF make of a value: the nearest size that a connection can work with, as a kernel does.

    >>> [buffer_size(value) for value in (-1, 0, 65_536, 1 << 40)]
    [2304, 2304, 65536, 1073725440]
    """
    return min(max(int(value), SMALLEST_BUFFER), LARGEST_BUFFER)


def user_timeout(value: int) -> float:
    """TCP_USER_TIMEOUT, milliseconds, in seconds; 0 is the default, and less is an OSError, as of a kernel."""
    if value < 0:
        raise OSError(errno.EINVAL, f"a user time-out is no negative time: {value}")
    return int(value) / 1000 or SocketOptions().user_timeout
