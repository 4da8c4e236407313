"""From a packet to its PCB: a fixed sequence of hash look-ups, whatever the number of PCBs (UM-PORT-7, UM-LIS-7).

The keys are slices of the packet as it arrives, source first:

    pair    source address, destination address                         32 bytes   L0, L1
    server  pair, source port                                           34 bytes   L2, the side that was called
    client  pair, destination port                                      34 bytes   L2, the side that calls
    four    pair, source port, destination port                         36 bytes   Aware; every half-open handshake

On the wire source is the peer, so a key is "remote, local".  Look-ups run pair, then, where the pair has any such
PCB, four, server, client, then half-open handshakes, then listeners by local address, by local address and
port, and by port alone.  No two PCBs may stand where one could take the other's packets: `add` refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, TypeAlias

from .errors import ConflictingSocket
from .options import PortMode

if TYPE_CHECKING:
    from .connection import Connection
    from .segment import Segment
    from .timewait import TimeWaitRecord

    Pcb: TypeAlias = Connection | TimeWaitRecord


class _Keyed(Protocol):
    remote: bytes
    local: bytes
    remote_port: int
    local_port: int


def four_key(pcb: _Keyed) -> bytes:
    """The 36 bytes that a packet of this PCB's peer carries."""
    return pcb.remote + pcb.local + pcb.remote_port.to_bytes(2, "big") + pcb.local_port.to_bytes(2, "big")


def key_for(mode: PortMode, pcb: _Keyed, *, calling: bool) -> bytes:
    """The PCB key of a connection by its mode (unified-multiplex §6); `calling` on the side that opened actively.

    The client key is marked with a trailing byte to differ in length from the server's.
    """
    pair = pcb.remote + pcb.local
    if mode in (PortMode.L0, PortMode.L1):
        return pair
    if mode is PortMode.AWARE:
        return four_key(pcb)
    if calling:
        return pair + pcb.local_port.to_bytes(2, "big") + b"c"
    return pair + pcb.remote_port.to_bytes(2, "big")


class _Group(dict[bytes, "Pcb"]):
    """The PCBs with ports between two addresses, by their keys; how many of the keys are `four`, how many `client`."""

    __slots__ = ("clients", "fours")

    def __init__(self) -> None:
        super().__init__()
        self.clients = 0
        self.fours = 0

    def count(self, key: bytes, step: int) -> None:
        """A key has come (1) or is gone (-1)."""
        if len(key) == 36:
            self.fours += step
        elif len(key) == 35:
            self.clients += step

    def rival(self, key: bytes) -> Pcb | None:
        """One that could take packets of `key`, or the other way round.

        Thousands may stand between two addresses, so what could stand in the way is looked up.  Only where modes are mixed
        between the same two are those of the other mode gone through.
        """
        if len(key) == 36:
            return self.get(key) or self.get(key[:34]) or self.get(key[:32] + key[34:] + b"c")
        if key in self:
            return self[key]
        others = len(self) - self.clients if len(key) == 35 else self.clients + self.fours
        if not others:
            return None
        return next((other for other_key, other in self.items() if _overlap(key, other_key)), None)


class Demux:
    """The tables of PCBs.

    `pairs` and `fours` are read directly by the fast path; only this class writes them.
    """

    __slots__ = ("_by_pair", "_half_open", "_partial", "fours", "half_open_count", "pairs")

    def __init__(self) -> None:
        self.pairs: dict[bytes, Pcb] = {}
        self.fours: dict[bytes, Pcb] = {}
        self._partial: dict[bytes, Pcb] = {}
        self._by_pair: dict[bytes, _Group] = {}
        self._half_open: dict[bytes, dict[bytes, Connection]] = {}
        self.half_open_count = 0

    def __len__(self) -> int:
        """PCBs and TIME-WAIT records, half-open handshakes apart."""
        return len(self.pairs) + len(self.fours) + len(self._partial)

    def __iter__(self) -> Iterator[Pcb]:
        """Every PCB and TIME-WAIT record, as they are now."""
        yield from list(self.pairs.values())
        yield from list(self.fours.values())
        yield from list(self._partial.values())

    def get(self, key: bytes) -> Pcb | None:
        """The PCB or record that stands under a key."""
        return self._table(key).get(key)

    def half_open(self) -> list[Connection]:
        """All handshakes that listeners have not completed."""
        return [connection for group in self._half_open.values() for connection in group.values()]

    def _table(self, key: bytes) -> dict[bytes, Pcb]:
        length = len(key)
        return self.pairs if length == 32 else self.fours if length == 36 else self._partial

    # -- writing ---------------------------------------------------------------------------------

    def add(self, key: bytes, pcb: Pcb) -> None:
        """Enter a PCB; `ConflictingSocket` names both where one could take the other's packets."""
        pair = key[:32]
        taken = self.pairs.get(pair)
        if taken is not None:
            raise ConflictingSocket(repr(pcb), repr(taken))
        others = self._by_pair.get(pair)
        if len(key) == 32:
            if others:
                raise ConflictingSocket(repr(pcb), repr(next(iter(others.values()))))
            self.pairs[key] = pcb
            return
        if others is None:
            others = self._by_pair[pair] = _Group()
        elif (rival := others.rival(key)) is not None:
            raise ConflictingSocket(repr(pcb), repr(rival))
        self._table(key)[key] = pcb
        others[key] = pcb
        others.count(key, 1)

    def replace(self, key: bytes, pcb: Pcb) -> None:
        """Put a TIME-WAIT record where its connection was."""
        self._table(key)[key] = pcb
        if len(key) != 32:
            self._by_pair[key[:32]][key] = pcb

    def remove(self, key: bytes) -> None:
        """Take a PCB out; harmless when it is not there."""
        if self._table(key).pop(key, None) is not None and len(key) != 32:
            group = self._by_pair[key[:32]]
            del group[key]
            group.count(key, -1)
            if not group:
                del self._by_pair[key[:32]]

    def add_half_open(self, connection: Connection) -> None:
        """Enter a handshake, by all four values in every mode (UM-LIS-3)."""
        connection.key = four_key(connection)
        self._half_open.setdefault(connection.key[:32], {})[connection.key] = connection
        self.half_open_count += 1

    def remove_half_open(self, connection: Connection) -> None:
        """The handshake completed or failed."""
        pair = connection.key[:32]
        group = self._half_open.get(pair)
        if group is not None:
            group.pop(connection.key, None)
            if not group:
                del self._half_open[pair]
        self.half_open_count -= 1

    # -- reading ---------------------------------------------------------------------------------

    def find(self, pair: bytes, source_port: bytes, destination_port: bytes) -> Pcb | None:
        """The PCB for a packet from the wire: `pair` is source and destination address, the ports as two bytes each."""
        pcb = self.pairs.get(pair)
        if pcb is not None:
            return pcb
        if pair in self._by_pair:
            partial = self._partial
            return (
                self.fours.get(pair + source_port + destination_port)
                or partial.get(pair + source_port)
                or partial.get(pair + destination_port + b"c")
            )
        return None

    def half_open_at(self, key: bytes) -> Connection | None:
        """The handshake of four values, as a key."""
        group = self._half_open.get(key[:32])
        return None if group is None else group.get(key)

    def find_half_open(self, segment: Segment) -> Connection | None:
        """The handshake a segment belongs to.

        In L0 ports are never read, so there the acknowledgement number tells which handshake a segment completes.
        """
        pair = segment.remote + segment.local
        group = self._half_open.get(pair)
        if group is None:
            return None
        key = pair + segment.source_port.to_bytes(2, "big") + segment.destination_port.to_bytes(2, "big")
        exact = group.get(key)
        if exact is not None:
            return exact
        for connection in group.values():
            if connection.mode is PortMode.L0 and connection.completes(segment):
                return connection
        return None

    def check(self) -> None:
        """Raise AssertionError where the tables do not agree."""
        for pair in self._by_pair:
            assert pair not in self.pairs
        grouped = {key for group in self._by_pair.values() for key in group}
        assert grouped == set(self.fours) | set(self._partial)
        for group in self._by_pair.values():
            lengths = [len(key) for key in group]
            assert (group.fours, group.clients) == (lengths.count(36), lengths.count(35)), group
        assert self.half_open_count == len(self.half_open())


def _overlap(one: bytes, other: bytes) -> bool:
    """Whether a packet could match both keys, of the same pair and both with a port."""
    remote_one, local_one = _ports(one)
    remote_other, local_other = _ports(other)
    return (remote_one is None or remote_other is None or remote_one == remote_other) and (
        local_one is None or local_other is None or local_one == local_other
    )


def _ports(key: bytes) -> tuple[bytes | None, bytes | None]:
    """The remote and the local port that a key names."""
    if len(key) == 36:
        return key[32:34], key[34:36]
    if len(key) == 34:
        return key[32:34], None
    return None, key[32:34]
