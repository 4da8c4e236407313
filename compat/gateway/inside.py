"""What the inside of a gateway's namespace is made of: two addresses, and the TCP options towards the program's kernel."""

from __future__ import annotations

import os
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from compat.buffers import frugal
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait

OPTIONS = frugal(SocketOptions(mode=PortMode.AWARE, time_wait=TimeWait.SHORT, backlog=65_535))
"""Of the connections within the machine: the peer is a kernel that tells its connections apart by ports."""


@dataclass(frozen=True, slots=True)
class Inside:
    """The program's address and the resolver's, of a prefix made for one run (RFC 4193)."""

    program: IPv6Address
    resolver: IPv6Address

    @classmethod
    def fresh(cls) -> Inside:
        """Two addresses of a prefix that nobody else has."""
        prefix = IPv6Network((bytes([0xFD]) + os.urandom(5) + bytes(10), 64))
        return cls(prefix[2], prefix[0x53])
