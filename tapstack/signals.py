"""What a socket (a connection, a listener, a UDP flow) tells its owner."""

from __future__ import annotations

from typing import Final


class Signal:
    """News for the owner of a socket: bits of an int.

    They are plain numbers: an `IntFlag` makes an object of every union and intersection, several for each segment.

    URGENT: the peer's urgent pointer is ahead of what was read.  TROUBLE: the socket goes on, but something is wrong, and an
    owner that does not care ignores it: a connection's `soft_error` says what (RFC 9293 §3.9.1.8), a flow's `take_errors`.
    """

    ESTABLISHED: Final = 1
    READABLE: Final = 2
    WRITABLE: Final = 4
    END_OF_STREAM: Final = 8
    CLOSED: Final = 16
    ACCEPTABLE: Final = 32
    URGENT: Final = 64
    TROUBLE: Final = 128
