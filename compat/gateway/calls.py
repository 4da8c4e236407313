"""Streams that the program opens: its SYN waits until the node's own connect has succeeded, then the two are relayed.

    SYN ──▶ WAITING ── the node is connected ──▶ ANSWERED (the SYN goes to the stack, behind a `_Door`) ── handshake ──▶ relay
              ├── refused, unreachable …  ──▶ RST or ICMPv6 error
              └── no SYN any more: the program has given up, and so do we

A *door* is a listener of the stack at one destination address and port; it is open while SYNs are answered there and shut
after, so that nothing is accepted at an address that was not asked for.

That the program has given up is seen from its silence: a kernel repeats a SYN after a time that at most doubles, so when
none comes within `PATIENCE` times the last gap nobody waits any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv6Address

from compat.gateway.inside import OPTIONS
from compat.gateway.refusals import refuse_call
from compat.gateway.standins import StandIns
from compat.relay import Relay
from tapstack.driver import Driver
from tapstack.ipv6.packet import Packet
from tapstack.stack import Stack
from tapstack.tcp.listener import Listener
from tapstack.tcp.timewait import TimeWaitRecord
from tapstack.wire import tcp as wire
from unimux.errors import UnimuxError
from unimux.node import Node
from unimux.purpose import Purpose
from unimux.transport import SessionTransport

LIMIT = 4096
"""Calls that wait for the node at a time; a SYN beyond waits for its own repetition."""
FIRST_GAP = 1.0
"""Seconds after which a kernel repeats its first SYN (RFC 6298 §2.1)."""
PATIENCE = 3.0
GRACE = 2.0
CONNECT_TIMEOUT = 180.0
"""As long as a SYN may be repeated (RFC 9293 MUST-23): the program ends sooner, and decides."""
HANDSHAKE_TIMEOUT = 10.0
"""Seconds that the program's kernel may take to complete a handshake within the machine."""

Place = tuple[bytes, int]


class _Call:
    """A SYN that is not answered yet."""

    __slots__ = ("gap", "packet", "scope", "seen")

    def __init__(self, packet: Packet, now: float) -> None:
        self.packet = packet
        self.seen = now
        self.gap = FIRST_GAP
        self.scope: asyncio.Timeout | None = None

    def again(self, packet: Packet, now: float) -> None:
        """Its SYN came again, or that of a newer socket at the same port: the program still waits, for an answer to this one."""
        self.packet = packet
        self.gap = max(FIRST_GAP, now - self.seen)
        self.seen = now
        if self.scope is not None and not self.scope.expired():  # else it comes in the moment in which we give up
            self.scope.reschedule(now + self.patience)

    @property
    def patience(self) -> float:
        return PATIENCE * self.gap + GRACE


class Calls:
    """The program's outgoing streams.  `complain` is told what the program has no way to learn."""

    def __init__(
        self,
        stack: Stack,
        driver: Driver,
        node: Node,
        stand_ins: StandIns,
        complain: Callable[[str], None],
        purpose: Purpose,
    ) -> None:
        self.stack = stack
        self.driver = driver
        self.stand_ins = stand_ins
        self.relays: set[Relay] = set()
        self._node = node
        self._purpose = purpose
        self._complain = complain
        self._complained: set[type[Exception]] = set()
        self._calls: dict[bytes, _Call] = {}
        self._doors: dict[Place, _Door] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Calls that are not answered yet."""
        return len(self._calls)

    @property
    def doors(self) -> int:
        """Destinations where a handshake is under way."""
        return len(self._doors)

    def input(self, packet: Packet, now: float) -> None:
        """Every TCP packet that the stack's fast path left."""
        payload = packet.payload
        if len(payload) >= wire.HEADER_LENGTH and payload[13] & (wire.SYN | wire.ACK | wire.RST) == wire.SYN:
            ports = bytes(payload[:4])
            key = packet.src + packet.dst + ports
            if self.stack.tcp.read(packet) is None:
                return
            if not self._is_known(key, ports, now):
                self._syn(key, packet, now)
                return
        self.stack.tcp.input(packet, now)

    def _is_known(self, key: bytes, ports: bytes, now: float) -> bool:
        """Whether the SYN belongs to something that the stack has, or goes to one of its own addresses."""
        demux = self.stack.tcp.demux
        pcb = demux.find(key[:32], ports[:2], ports[2:])
        if isinstance(pcb, TimeWaitRecord):  # the program's kernel uses the port again: it is done with the old one
            self.stack.tcp.time_waits.end(pcb, now, "its kernel calls again")
            pcb = None
        if pcb is not None or demux.half_open_at(key) is not None:
            return True
        entry = self.stack.host.addresses.get(key[16:32])
        return entry is None or not entry.kind.one_time

    def _syn(self, key: bytes, packet: Packet, now: float) -> None:
        call = self._calls.get(key)
        if call is not None:
            call.again(packet, now)
        elif len(self._calls) < LIMIT:
            call = self._calls[key] = _Call(packet, now)
            task = asyncio.get_running_loop().create_task(self._answer(key, call))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, key: bytes, call: _Call) -> None:
        """Connect over the node, then let the stack have the SYN; or refuse it."""
        relay = Relay(on_end=lambda result: self.relays.discard(relay))
        self.relays.add(relay)
        port = int.from_bytes(key[34:36], "big")
        try:
            async with asyncio.timeout(call.patience) as call.scope:
                await self._node.create_connection(
                    lambda: relay.far,
                    IPv6Address(key[16:32]),
                    port,
                    timeout=CONNECT_TIMEOUT,
                    purpose=self._purpose,
                )
        except (UnimuxError, OSError) as error:
            relay.abort()
            self._refuse(call.packet, error)
        except BaseException:
            relay.abort()
            raise
        else:
            self._open(call.packet, port, relay)
        finally:
            del self._calls[key]

    def _refuse(self, packet: Packet, error: Exception) -> None:
        now = self.driver.now()
        packet.entry = self.stand_ins.admit(packet.dst, now)
        if packet.entry is not None:
            refuse_call(self.stack, packet, error, now)
            self.driver.kick()
        if isinstance(error, UnimuxError) and not isinstance(error, OSError) and type(error) not in self._complained:
            self._complained.add(type(error))
            self._complain(str(error))

    def _open(self, packet: Packet, port: int, relay: Relay) -> None:
        now = self.driver.now()
        packet.entry = self.stand_ins.admit(packet.dst, now)
        if packet.entry is None:  # too many by now; the program's kernel asks again
            relay.abort()
            return
        place = packet.dst, port
        door = self._doors.get(place)
        if door is None:
            door = self._doors[place] = _Door(self, place, self.stack.tcp.listen(OPTIONS, now, port))
            door.listener.arm(packet.entry, now, sessions=None)
        door.expect(packet, relay, now)
        self.driver.kick()

    def shut(self, place: Place) -> None:
        """Nobody is expected at a door any more."""
        door = self._doors.pop(place)
        door.listener.close(self.driver.now())
        self.driver.kick()

    async def close(self) -> None:
        """End everything."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for door in list(self._doors.values()):
            door.close()
        for relay in list(self.relays):
            relay.abort()
        self.driver.kick()


class _Door:
    """One destination at which handshakes with the program are under way."""

    def __init__(self, calls: Calls, place: Place, listener: Listener) -> None:
        self.listener = listener
        self._calls = calls
        self._place = place
        self._expected: dict[Place, tuple[Relay, asyncio.TimerHandle]] = {}
        listener.owner = self._on_signals

    def expect(self, packet: Packet, relay: Relay, now: float) -> None:
        """Give the SYN to the stack, and its connection to the relay when it stands."""
        caller = packet.src, int.from_bytes(packet.payload[:2], "big")
        before = self._expected.pop(caller, None)
        if before is not None:  # the program has given that one up, and calls anew
            before[0].abort()
            before[1].cancel()
        timer = asyncio.get_running_loop().call_later(HANDSHAKE_TIMEOUT, self._late, caller)
        self._expected[caller] = relay, timer
        self._calls.stack.tcp.input(packet, now)

    def _on_signals(self, bits: int) -> None:
        while (connection := self.listener.accept()) is not None:
            expected = self._expected.pop((connection.remote, connection.remote_port), None)
            if expected is None:  # its handshake was late, and the door still open for another one
                connection.abort(self._calls.driver.now(), "nobody expects it any more")
                continue
            relay, timer = expected
            timer.cancel()
            SessionTransport(self._calls.driver, connection).start(relay.near)
        if not self._expected:
            self._calls.shut(self._place)

    def _late(self, caller: Place) -> None:
        """The program's kernel did not complete its handshake: the program has gone."""
        relay, _ = self._expected.pop(caller)
        relay.abort()
        if not self._expected:
            self._calls.shut(self._place)

    def close(self) -> None:
        """Give up whoever is expected."""
        for caller, (_, timer) in list(self._expected.items()):
            timer.cancel()
            self._late(caller)
