"""A box between a legacy host and the LAN that translates its TCP port, and forgets (UM-PORT-3): a bump in the wire.

    behind (2001:db8:2::b) ── inner [box] outer ── server LAN

Frames pass between two raw sockets; the source port of what `behind` sends becomes `outer_port`, and back.  `rebind` gives
the binding a new port; what still comes for an old one is dropped, as a translator drops what it has no binding for.
"""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from compat import kernel
from compat.kernel import Interface, Namespace
from compat.kernel.topology import SERVER_ROUTER, attach
from tests.plugins import taps
from tests.real import wire

from .room import Room

BEHIND = "2001:db8:2::b"
_TCP = 6
_AT_TCP = 54
_PORTS = {"source": 54, "destination": 56}
_CHECKSUM = 70


class Translator:
    """The box: which port the one host behind it appears under."""

    def __init__(self, inner: socket.socket, outer: socket.socket) -> None:
        self._inner = inner
        self._outer = outer
        self._inner_port: int | None = None
        self.outer_port = 41_000
        self._deaf = False
        self.dropped = 0
        self.passed: deque[bytes] = deque(maxlen=64)
        """what went out lately"""

    def rebind(self) -> None:
        """Forget the binding; the next packet from inside gets a new one."""
        self.outer_port += 1

    @property
    def deaf(self) -> bool:
        """Whether nothing that comes from outside is passed on."""
        return self._deaf

    @deaf.setter
    def deaf(self, deaf: bool) -> None:
        self._deaf = deaf
        if deaf:
            taps.disturbs()

    def inject(self, frame: bytes) -> None:
        """Put a frame on the outer link, as if it came from the box."""
        self._outer.send(taps.by_hand(frame))

    def outward(self) -> None:
        """Pass on what the host behind has sent."""
        for frame in _received(self._inner):
            if _is_tcp(frame):
                self._inner_port = int.from_bytes(frame[54:56], "big")
                frame = _rewritten(frame, "source", self.outer_port)
                self.passed.append(frame)
            self._outer.send(frame)

    def inward(self) -> None:
        """Pass on what came for the host behind."""
        for frame in _received(self._outer):
            if _is_tcp(frame):
                if self._deaf or self._inner_port is None or int.from_bytes(frame[56:58], "big") != self.outer_port:
                    self.dropped += 1
                    continue
                frame = _rewritten(frame, "destination", self._inner_port)
            self._inner.send(frame)


def _received(link: socket.socket) -> list[bytes]:
    frames: list[bytes] = []
    while True:
        try:
            frame, sender = link.recvfrom(2048)
        except BlockingIOError:
            return frames
        if sender[2] != socket.PACKET_OUTGOING:
            frames.append(frame)


def _is_tcp(frame: bytes) -> bool:
    return len(frame) >= _AT_TCP + 20 and frame[12:14] == b"\x86\xdd" and frame[20] == _TCP


def _rewritten(frame: bytes, which: str, port: int) -> bytes:
    """The frame with a port replaced and its checksum made to fit (RFC 1624)."""
    at = _PORTS[which]
    old = int.from_bytes(frame[at : at + 2], "big")
    checksum = int.from_bytes(frame[_CHECKSUM : _CHECKSUM + 2], "big")
    total = (~checksum & 0xFFFF) + (~old & 0xFFFF) + port
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    changed = bytearray(frame)
    changed[at : at + 2] = port.to_bytes(2, "big")
    changed[_CHECKSUM : _CHECKSUM + 2] = (~total & 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


def _end(of: Interface) -> socket.socket:
    """One end of the box, which takes in what is for other link-layer addresses too."""
    made = wire.packet_socket(of)
    membership = of.index.to_bytes(4, "little") + (1).to_bytes(2, "little") + bytes(10)  # PACKET_MR_PROMISC
    made.setsockopt(263, 1, membership)  # SOL_PACKET, PACKET_ADD_MEMBERSHIP
    return made


@asynccontextmanager
async def translated_host(room: Room) -> AsyncIterator[tuple[Namespace, Interface, Translator]]:
    """A legacy host behind a translator; yields its namespace, its interface, and the box."""
    loop = asyncio.get_running_loop()
    with ExitStack() as stack:
        behind = stack.enter_context(kernel.namespace("behind"))
        box = stack.enter_context(kernel.namespace("box"))
        for space in (behind, box):
            kernel.be_quiet(space)
        kernel.set_sysctl(box, "ipv6/conf/default/disable_ipv6", 1)
        own, inner = stack.enter_context(kernel.veth(behind, "eth0", box, "inner"))
        outer, port = stack.enter_context(kernel.veth(box, "outer", room.top.server, "behind"))
        stack.enter_context(attach(port, room.top.server_bridge))
        for link in (own, inner, outer, port):
            link.set_offloads(False)
        stack.enter_context(kernel.address(own, f"{BEHIND}/64"))
        stack.enter_context(kernel.route(behind, "::/0", via=SERVER_ROUTER))
        sockets = [stack.enter_context(_end(link)) for link in (inner, outer)]
        translator = Translator(*sockets)
        for raw, pass_on in zip(sockets, (translator.outward, translator.inward), strict=True):
            loop.add_reader(raw, pass_on)
            stack.callback(loop.remove_reader, raw)
        yield behind, own, translator
