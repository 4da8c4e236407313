"""What a connection or listener tells its owner."""

from __future__ import annotations

from enum import IntFlag


class Signal(IntFlag):
    """News for the owner of a connection or listener.

    URGENT: the peer's urgent pointer is ahead of what was read.  TROUBLE: the connection goes on, but `soft_error` says what is
    wrong (RFC 9293 §3.9.1.8); an owner that does not care ignores it.
    """

    ESTABLISHED = 1
    READABLE = 2
    WRITABLE = 4
    END_OF_STREAM = 8
    CLOSED = 16
    ACCEPTABLE = 32
    URGENT = 64
    TROUBLE = 128
