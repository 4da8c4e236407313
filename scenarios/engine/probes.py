"""What a host sends by its kernel: frames made by hand, echo requests."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from contextlib import suppress

from compat.kernel import Interface, in_namespace
from tapstack.wire import icmpv6


def inject(interface: Interface, frames: Sequence[bytes]) -> None:
    """Send frames out of an interface, as its host would."""
    with in_namespace(interface.namespace):
        raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    with raw:
        raw.bind((interface.name, 0))
        for frame in frames:
            raw.send(frame)


async def ping(where: Interface, target: str, *, wait: float = 1.0) -> bool:
    """Whether the target answers an echo request sent from the interface's namespace, within `wait` seconds."""
    return await asyncio.to_thread(_ping, where, target, wait)


def _ping(where: Interface, target: str, wait: float) -> bool:
    with in_namespace(where.namespace):
        raw = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with raw:
        raw.settimeout(wait)
        header = bytes((icmpv6.Type.ECHO_REQUEST, 0, 0, 0)) + (4711).to_bytes(2, "big") + bytes(2)
        with suppress(OSError):
            raw.sendto(header + b"unimux demo", (target, 0))
            while True:
                data, sender = raw.recvfrom(2048)
                if data[0] == icmpv6.Type.ECHO_REPLY and sender[0] == target:
                    return True
    return False
