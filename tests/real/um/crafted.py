"""A host made of scapy packets: it answers for one address on the server LAN and says exactly what a test tells it to.

The kernel of its namespace does not have the address, so nobody answers in its place.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from compat.kernel import Interface, in_namespace
from tests.plugins import taps

PATIENCE = 10.0


class CraftedPeer:
    """See the module; made by `crafted_peer`.  `heard` queues the TCP segments that came to its address."""

    def __init__(self, interface: Interface, router: bytes, address: str) -> None:
        self.address = address
        self.heard: asyncio.Queue[Packet] = asyncio.Queue()
        self._mac = interface.mac
        self._router = router
        with in_namespace(interface.namespace):
            self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
        self._raw.bind((interface.name, 0x86DD))
        self._raw.setblocking(False)

    def _readable(self) -> None:
        while True:
            try:
                frame = self._raw.recv(65536)
            except BlockingIOError:
                return
            packet = Ether(frame)
            if ICMPv6ND_NS in packet and packet[ICMPv6ND_NS].tgt == self.address:
                self._advertise(packet)
            elif TCP in packet and packet[IPv6].dst == self.address:
                self.heard.put_nowait(packet[IPv6])

    def _advertise(self, asked: Packet) -> None:
        answer = (
            Ether(src=self._mac, dst=asked[Ether].src)
            / IPv6(src=self.address, dst=asked[IPv6].src, hlim=255)
            / ICMPv6ND_NA(tgt=self.address, R=0, S=1, O=1)
            / ICMPv6NDOptDstLLAddr(lladdr=self._mac)
        )
        self._raw.send(taps.by_hand(bytes(answer)))

    def say(self, to: str, *, data: bytes = b"", source: str | None = None, **fields: Any) -> None:
        """Send one segment; `source`: in another's name."""
        packet = IPv6(src=source or self.address, dst=to) / TCP(**fields)
        frame = bytes(Ether(src=self._mac, dst=self._router) / (packet / data if data else packet))
        self._raw.send(taps.by_hand(frame))

    async def hear(self, flags: str | None = None, *, data: bool = False) -> Packet:
        """The next segment, or the next with these flags, or with data."""
        async with asyncio.timeout(PATIENCE):
            while True:
                segment = await self.heard.get()
                if (flags is None or str(segment[TCP].flags) == flags) and (not data or bytes(segment[TCP].payload)):
                    return segment


@asynccontextmanager
async def crafted_peer(interface: Interface, router: bytes, address: str) -> AsyncIterator[CraftedPeer]:
    """A crafted host on an interface; `router`: the link-layer address of its router."""
    made = CraftedPeer(interface, router, address)
    loop = asyncio.get_running_loop()
    loop.add_reader(made._raw, made._readable)
    try:
        yield made
    finally:
        loop.remove_reader(made._raw)
        made._raw.close()
