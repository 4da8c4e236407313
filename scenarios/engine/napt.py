"""A middlebox in front of one host: a port translator that gives its connections new ports when it is told to, or forgets them.

It translates the source port of what the host sends and the destination port of what it gets, and corrects the checksum by the
difference (RFC 1624), as home gateways do.  Addresses stay: with IPv6 that is what a port translator has left to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

from tapstack.link.base import Link, LinkProperties
from tapstack.types import Buffer, Frame
from tapstack.wire import ethernet, ipv6

_TCP_AT = ethernet.HEADER_LENGTH + ipv6.HEADER_LENGTH
_NEXT_HEADER = ethernet.HEADER_LENGTH + 6
_CHECKSUM = _TCP_AT + 16


class PortTranslator(Link):
    """`link` behind a port translator; `rebind` gives every connection another port, and the old ones lead nowhere.

    changes: how many connections were given another port so far.  lost: frames that came for a port of the past.
    """

    def __init__(self, link: Link, random: Random) -> None:
        self._link = link
        self._random = random
        self._outside: dict[tuple[bytes, bytes], bytes] = {}
        self._inside: dict[tuple[bytes, bytes], bytes] = {}
        self.changes = 0
        self.lost = 0

    def rebind(self) -> None:
        """Forget all ports: what is sent next gets another one."""
        self.changes += len(self._outside)
        self._outside.clear()
        self._inside.clear()

    @property
    def properties(self) -> LinkProperties:
        """Those of the link below."""
        return self._link.properties

    def attach(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Attach the link below."""
        self._link.attach(loop, wake)

    def watch(self, changed: Callable[[bool], None]) -> None:
        """As the link below."""
        self._link.watch(changed)

    def receive(self) -> Buffer | None:
        """The next frame, its destination port translated back."""
        while (frame := self._link.receive()) is not None:
            if not _is_tcp(frame):
                return frame
            pair = bytes(frame[22:54])
            inside = self._inside.get((pair[16:] + pair[:16], bytes(frame[_TCP_AT + 2 : _TCP_AT + 4])))
            if inside is not None:
                return _with_port(frame, _TCP_AT + 2, inside)
            self.lost += 1
        return None

    def handled(self) -> None:
        """Of the link below."""
        self._link.handled()

    def send(self, frame: Frame) -> bool:
        """Send a frame, its source port translated."""
        whole = b"".join(frame)
        if not _is_tcp(whole):
            return self._link.send([whole])
        pair, port = whole[22:54], whole[_TCP_AT : _TCP_AT + 2]
        outside = self._outside.get((pair, port))
        if outside is None:
            outside = self._outside[pair, port] = self._random.randrange(20_000, 60_000).to_bytes(2, "big")
            self._inside[pair, outside] = port
        return self._link.send([_with_port(whole, _TCP_AT, outside)])

    def close(self) -> None:
        """Close the link below."""
        self._link.close()


def _is_tcp(frame: Buffer) -> bool:
    return len(frame) >= _TCP_AT + 20 and frame[_NEXT_HEADER] == ipv6.TCP


def _with_port(frame: Buffer, at: int, port: bytes) -> bytes:
    """The frame with another port and the checksum that goes with it."""
    changed = bytearray(frame)
    old, new = int.from_bytes(changed[at : at + 2], "big"), int.from_bytes(port, "big")
    total = (~int.from_bytes(changed[_CHECKSUM : _CHECKSUM + 2], "big") & 0xFFFF) + (~old & 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    changed[at : at + 2] = port
    changed[_CHECKSUM : _CHECKSUM + 2] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)
