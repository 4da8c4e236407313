"""What is done with in-memory LANs and simulated hosts, by the backend `sim` and by the demo: capture and ping."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tapstack.driver import Driver
from tapstack.ipv6.packet import Packet
from tapstack.link.memory import MemorySwitch
from tapstack.link.pcapng import PcapngWriter
from tapstack.wire import icmpv6, ipv6

_IDENTIFIER = (0x5555).to_bytes(2, "big")


@contextmanager
def captured(switch: MemorySwitch, path: Path, clock: Callable[[], int], application: str) -> Iterator[None]:
    """Everything that enters the switch, in a file named for it.  clock: Unix time in nanoseconds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb", buffering=1 << 20) as file:
        writer = PcapngWriter(file, application=application)
        interface = writer.add_interface(path.stem)
        end = switch.observe(lambda when, port, frame: writer.write(interface, clock(), frame))
        try:
            yield
        finally:
            end()
            writer.flush()


class Pinger:
    """Echo requests of a simulated host."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._answered: set[bytes] = set()
        driver.stack.host.icmp.handlers[icmpv6.Type.ECHO_REPLY] = self._reply

    async def ping(self, source: bytes, target: bytes, wait: float) -> bool:
        """Whether `target` answers one request within `wait` seconds, which are always waited."""
        self._answered.discard(target)
        body = icmpv6.pack(source, target, icmpv6.Type.ECHO_REQUEST, 0, _IDENTIFIER + b"\0\0scenario")
        with suppress(OSError):
            self._driver.stack.host.send(source, target, ipv6.ICMPV6, [body], self._driver.now())
        self._driver.kick()
        await asyncio.sleep(wait)
        return target in self._answered

    def _reply(self, packet: Packet, message: object, now: float) -> None:
        self._answered.add(packet.src)
