"""TCP connections recomputed from the wire.

A unified connection is known by its address pair; ports may be any and may change (UM-PORT-1), so they do not
name a connection here.  What does is the opener's initial sequence number: every SYN with a new one is a new attempt,
a SYN with the same one is a retransmission.  A SYN-ACK belongs to the attempt whose ISN it acknowledges, and every
other segment to the attempt of the pair in whose sequence space it lies.

Sequence numbers are unwrapped to count from the initial one (SYN = 0), so 0 .. 1 is the SYN, 1 .. n+1 are n bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from .frames import ACK, FIN, RST, SYN, Frame, Kind

_HALF = 1 << 31
_WRAP = 1 << 32


@dataclass(slots=True, eq=False)
class Side:
    """One direction of a connection: what one end sent."""

    address: bytes
    isn: int | None = None
    sent: int = 0
    """the highest relative sequence number sent, plus one"""
    acked: int = 0
    """the highest relative acknowledgement that came back"""
    fin: Frame | None = None
    fin_end: int = 0
    after_fin: Frame | None = None
    """a segment with data beyond the FIN"""
    rst: Frame | None = None
    ports: tuple[int, int] | None = None
    port_changes: list[Frame] = field(default_factory=list)
    gaps: list[Frame] = field(default_factory=list)
    """segments that began beyond what this side had sent before: something is missing in the capture"""
    again: list[Frame] = field(default_factory=list)
    """segments with bytes that this side had sent before"""
    foreseen: list[Frame] = field(default_factory=list)
    """segments of the other side that acknowledged what this side had not sent yet"""
    segments: int = 0
    repeated: int = 0
    """bytes sent more than once"""

    @property
    def data(self) -> int:
        """Payload bytes, each counted once."""
        return max(0, self.sent - 1 - (1 if self.fin is not None else 0))

    def relative(self, number: int, near: int) -> int:
        """`number` as a count from this side's ISN, near `near`."""
        value = (number - (self.isn or 0)) % _WRAP
        return near + (value - near + _HALF) % _WRAP - _HALF

    def distance(self, number: int) -> int:
        """How far a sequence number lies from what this side sent last."""
        return abs(self.relative(number, self.sent) - self.sent)


@dataclass(slots=True, eq=False)
class Connection:
    """One attempt to open a connection, and what became of it."""

    number: int
    client: Side
    server: Side
    syn: Frame
    syn_ack: Frame | None = None
    established: Frame | None = None
    """the segment of the opener that acknowledges the SYN-ACK"""
    last: Frame | None = None
    closed: Frame | None = None
    """the segment after which both FINs were acknowledged"""
    frames: list[Frame] = field(default_factory=list)
    simultaneous: bool = False

    @property
    def pair(self) -> tuple[bytes, bytes]:
        """Opener and accepter."""
        return self.client.address, self.server.address

    @property
    def reset(self) -> Frame | None:
        """The RST of either side, if one was seen."""
        return self.client.rst or self.server.rst

    @property
    def complete(self) -> bool:
        """Handshake, all data acknowledged, and both FINs acknowledged."""
        return self.established is not None and self.closed is not None

    @property
    def changes(self) -> list[Frame]:
        """Segments with which a port changed after the connection was established, in order."""
        return sorted(self.client.port_changes + self.server.port_changes, key=lambda frame: frame.order)

    def sides(self, frame: Frame) -> tuple[Side, Side]:
        """(sender, receiver) of a frame."""
        return (self.client, self.server) if frame.src == self.client.address else (self.server, self.client)

    def why_incomplete(self) -> str:
        """What is missing, in words; empty when the connection is complete."""
        if self.syn_ack is None:
            return "the SYN was never answered"
        if self.established is None:
            return "the handshake was never finished"
        if self.reset is not None and not self.complete:
            return "it was reset"
        missing = []
        for name, side in (("opener", self.client), ("accepter", self.server)):
            if side.fin is None:
                missing.append(f"no FIN from the {name}")
            elif side.acked < side.fin_end:
                missing.append(f"the {name}'s FIN was not acknowledged")
            elif side.acked < side.sent:
                missing.append(f"{side.sent - side.acked} bytes of the {name} were not acknowledged")
        return ", ".join(missing)


class Tracker:
    """Sorts the TCP segments of one capture point into connections.

    `wanted(src, dst)` says which address pairs are of interest.
    """

    def __init__(self, wanted: Callable[[bytes, bytes], bool]) -> None:
        self._wanted = wanted
        self._pairs: dict[bytes, list[Connection] | None] = {}
        self.connections: list[Connection] = []
        self.strays: list[Frame] = []
        """segments of no known attempt: late ones, or the capture began too late"""

    def add(self, frame: Frame) -> None:
        """Take note of one segment."""
        src, dst = frame.src, frame.dst
        key = src + dst if src < dst else dst + src
        try:
            attempts = self._pairs[key]
        except KeyError:
            attempts = self._pairs[key] = [] if self._wanted(src, dst) else None
        if attempts is None:
            return
        if frame.flags & (SYN | ACK) == SYN:
            self._syn(frame, attempts)
            return
        if frame.flags & SYN:
            connection = self._syn_ack(frame, attempts)
        else:
            connection = _belongs(frame, attempts)
        if connection is None:
            self.strays.append(frame)
        else:
            _account(connection, frame)

    def _syn(self, frame: Frame, attempts: list[Connection]) -> None:
        for attempt in attempts:
            if attempt.client.address == frame.src and attempt.client.isn == frame.seq:
                _note(attempt, attempt.client, frame)
                return
        connection = Connection(len(self.connections) + 1, Side(frame.src, frame.seq), Side(frame.dst), frame)
        connection.client.sent = 1
        attempts.append(connection)
        self.connections.append(connection)
        _note(connection, connection.client, frame)

    def _syn_ack(self, frame: Frame, attempts: list[Connection]) -> Connection | None:
        for attempt in attempts:
            if attempt.server.address == frame.src and (frame.ack - 1) % _WRAP == attempt.client.isn:
                if attempt.syn_ack is None:
                    attempt.syn_ack = frame
                    attempt.server.isn = frame.seq
                    attempt.server.sent = 1
                    self._merge_simultaneous(attempt, attempts)
                return attempt
            if attempt.simultaneous and attempt.client.address == frame.src and attempt.client.isn == frame.seq:
                return attempt
        return None

    def _merge_simultaneous(self, attempt: Connection, attempts: list[Connection]) -> None:
        """Both ends sent a SYN (RFC 9293 §3.5): the other's attempt is the same connection."""
        for other in attempts:
            if other.client.address == attempt.server.address and other.client.isn == attempt.server.isn:
                attempts.remove(other)
                self.connections.remove(other)
                attempt.simultaneous = True
                attempt.frames = sorted(attempt.frames + other.frames, key=lambda frame: frame.order)
                attempt.server.ports = other.client.ports
                return


def _belongs(frame: Frame, attempts: list[Connection]) -> Connection | None:
    if not attempts:
        return None
    if len(attempts) == 1:
        return attempts[0]
    if frame.flags & RST:
        for attempt in attempts:  # a RST that answers a SYN acknowledges exactly that SYN
            answers = attempt.syn_ack is None and attempt.server.address == frame.src
            if answers and (frame.ack - 1) % _WRAP == attempt.client.isn:
                return attempt
    answered = [attempt for attempt in attempts if attempt.syn_ack is not None]
    return min(answered or attempts, key=lambda attempt: _distance(attempt, frame))


def _distance(attempt: Connection, frame: Frame) -> int:
    return attempt.sides(frame)[0].distance(frame.seq)


def _note(connection: Connection, side: Side, frame: Frame) -> None:
    side.segments += 1
    connection.last = frame
    connection.frames.append(frame)
    ports = (frame.sport, frame.dport)
    if side.ports != ports:
        if side.ports is not None and connection.established is not None:
            side.port_changes.append(frame)
        side.ports = ports


def _account(connection: Connection, frame: Frame) -> None:
    sender, receiver = connection.sides(frame)
    if frame.flags & RST:
        sender.rst = sender.rst or frame
        _note(connection, sender, frame)
        return
    if frame.flags & ACK and receiver.isn is not None:
        acked = receiver.relative(frame.ack, receiver.acked)
        if acked > receiver.sent:
            receiver.foreseen.append(frame)
        receiver.acked = max(receiver.acked, acked)
    if connection.syn_ack is not None:
        if connection.established is None and sender is connection.client and connection.server.acked >= 1:
            connection.established = frame
        if not frame.flags & SYN:
            _advance(sender, frame)
    _note(connection, sender, frame)
    client, server = connection.client, connection.server
    if (
        connection.closed is None
        and client.fin is not None
        and server.fin is not None
        and client.acked >= client.sent >= client.fin_end
        and server.acked >= server.sent >= server.fin_end
    ):
        connection.closed = frame


def _advance(side: Side, frame: Frame) -> None:
    begin = side.relative(frame.seq, side.sent)
    end = begin + frame.payload + (1 if frame.flags & FIN else 0)
    if begin > side.sent:
        side.gaps.append(frame)
    elif frame.payload and begin < side.sent:
        side.repeated += min(side.sent, end) - begin
        side.again.append(frame)
    if side.fin is not None and end > side.fin_end:
        side.after_fin = side.after_fin or frame
    if frame.flags & FIN and side.fin is None:
        side.fin, side.fin_end = frame, end
    side.sent = max(side.sent, end)


def track(frames: list[Frame], wanted: Callable[[bytes, bytes], bool]) -> Tracker:
    """The connections of the address pairs that `wanted` admits, in order of their SYNs."""
    tracker = Tracker(wanted)
    for frame in frames:
        if frame.kind is Kind.TCP:
            tracker.add(frame)
    return tracker
