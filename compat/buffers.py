"""How much memory the connections of a front end may take: little each, and together what a budget gives.

Clients of a front end are many, and some of them never read.  So the buffers of a connection begin small; the stack
widens them as data moves (tapstack/tcp/buffers.py), faster than slow start could use, and out of one budget for
all connections.  What stands still costs no more than it began with.
"""

from __future__ import annotations

from dataclasses import replace

from tapstack.tcp.options import SocketOptions

FIRST = 64 * 1024
"""Bytes that a connection may hold each way before anything has moved: the largest window that a SYN can offer."""
BUDGET = 128 << 20
"""Default bytes beyond that, for all connections of a node together."""


def frugal(options: SocketOptions) -> SocketOptions:
    """The same options with buffers that begin small."""
    return replace(options, send_buffer=FIRST, receive_buffer=FIRST)
