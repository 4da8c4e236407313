"""What a capture says of TCP sessions, read with dpkt alone: who opened, which ports, and every byte of both directions.

A session is told by its address pair, and by its ports where they are constant.  Nothing here knows the stack's own codecs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path

import dpkt

from compat.kernel.topology import SERVER_ADDRESS
from scenarios.witness import CaptureFile, Setup, Verdict, judge

FIN, SYN, RST, ACK = 1, 2, 4, 16
_WRAP = 1 << 32


@dataclass(frozen=True, slots=True)
class Segment:
    """One TCP segment; `number` is tshark's frame number, `time` unix time."""

    number: int
    time: float
    src: str
    dst: str
    sport: int
    dport: int
    seq: int
    ack: int
    flags: int
    data: bytes
    hop_limit: int

    @property
    def is_syn(self) -> bool:
        """Whether it opens: SYN without ACK."""
        return self.flags & (SYN | ACK | RST) == SYN

    def __str__(self) -> str:
        names = "".join(name for bit, name in ((FIN, "F"), (SYN, "S"), (RST, "R"), (ACK, "A")) if self.flags & bit)
        return f"#{self.number} [{self.src}]:{self.sport} → [{self.dst}]:{self.dport} {names} {len(self.data)} bytes"


def frames(path: Path) -> Iterable[tuple[int, float, dpkt.ip6.IP6]]:
    """The IPv6 packets of a capture of a TAP or TUN."""
    with path.open("rb") as file:
        reader = dpkt.pcapng.Reader(file)
        bare = reader.datalink() != dpkt.pcap.DLT_EN10MB
        for number, (when, frame) in enumerate(reader, 1):
            packet = dpkt.ip6.IP6(frame) if bare else dpkt.ethernet.Ethernet(frame).data
            if isinstance(packet, dpkt.ip6.IP6):
                yield number, float(when), packet


def segments(path: Path) -> list[Segment]:
    """The TCP segments of a capture, in order."""
    found = []
    for number, when, packet in frames(path):
        tcp = packet.data
        if isinstance(tcp, dpkt.tcp.TCP):
            src, dst = str(IPv6Address(packet.src)), str(IPv6Address(packet.dst))
            found.append(
                Segment(
                    number,
                    when,
                    src,
                    dst,
                    tcp.sport,
                    tcp.dport,
                    tcp.seq,
                    tcp.ack,
                    tcp.flags,
                    bytes(tcp.data),
                    packet.hlim,
                )
            )
    return found


def icmp(path: Path) -> list[tuple[int, str, str, int, int]]:
    """Frame number, source, destination, type and code of each ICMPv6 packet."""
    found = []
    for number, _, packet in frames(path):
        if isinstance(packet.data, dpkt.icmp6.ICMP6):
            src, dst = str(IPv6Address(packet.src)), str(IPv6Address(packet.dst))
            found.append((number, src, dst, packet.data.type, packet.data.code))
    return found


@dataclass(slots=True)
class Session:
    """One connection as the wire shows it, from its SYN on."""

    syn: Segment
    syn_ack: Segment | None = None
    sent: list[Segment] = field(default_factory=list)
    """what the opener sent"""
    answered: list[Segment] = field(default_factory=list)
    """what the accepter sent"""

    @property
    def client(self) -> str:
        """The opener's address."""
        return self.syn.src

    @property
    def server(self) -> str:
        """The accepter's address."""
        return self.syn.dst

    @property
    def request(self) -> bytes:
        """What the opener said."""
        return stream(self.sent, self.syn.seq)

    @property
    def answer(self) -> bytes:
        """What the accepter said."""
        return b"" if self.syn_ack is None else stream(self.answered, self.syn_ack.seq)

    @property
    def established(self) -> float | None:
        """When the opener acknowledged the SYN-ACK."""
        if self.syn_ack is None:
            return None
        wanted = (self.syn_ack.seq + 1) % _WRAP
        return next((s.time for s in self.sent if s.flags & ACK and s.ack == wanted), None)

    @property
    def ended(self) -> float | None:
        """When the first FIN was sent, if both sides sent one."""
        fins = [next((s.time for s in side if s.flags & FIN), None) for side in (self.sent, self.answered)]
        return None if None in fins else min(fin for fin in fins if fin is not None)

    @property
    def over(self) -> int | None:
        """The segment with which both FINs were acknowledged, by number."""
        last = 0
        for side, other in ((self.sent, self.answered), (self.answered, self.sent)):
            fin = next((s for s in side if s.flags & FIN), None)
            if fin is None:
                return None
            end = (fin.seq + len(fin.data) + 1) % _WRAP
            seen = next((s.number for s in other if s.flags & ACK and s.ack == end and s.number > fin.number), None)
            if seen is None:
                return None
            last = max(last, seen)
        return last

    def resets(self, kernel: str = SERVER_ADDRESS) -> list[Segment]:
        """RSTs of either side; but not those of `kernel` after the end.

        A FIN that was sent twice, since its receiver was late, is acknowledged twice: the second acknowledgement meets a kernel
        that has forgotten the session.
        """
        found = [s for s in (*self.sent, *self.answered) if s.flags & RST]
        over = self.over
        return [s for s in found if over is None or s.number < over or s.src != kernel]


def stream(sent: Iterable[Segment], isn: int) -> bytes:
    """The bytes of one direction, without the gaps' other side: retransmissions must say the same, and do."""
    data = bytearray()
    for segment in sorted((s for s in sent if s.data and not s.flags & SYN), key=lambda s: (s.seq - isn) % _WRAP):
        offset = (segment.seq - isn - 1) % _WRAP
        assert offset <= len(data), f"bytes are missing before {segment}"
        overlap = bytes(data[offset : offset + len(segment.data)])
        assert segment.data[: len(overlap)] == overlap, f"{segment} says something else than before"
        data += segment.data[len(overlap) :]
    return bytes(data)


def sessions(found: Iterable[Segment], *, by_ports: bool) -> list[Session]:
    """The sessions of a capture; `by_ports` is False where ports change in mid-session (one session per address pair then)."""
    made: dict[tuple[object, ...], Session] = {}

    def key(a: str, a_port: int, b: str, b_port: int) -> tuple[object, ...]:
        return (a, a_port, b, b_port) if by_ports else (a, b)

    for segment in found:
        forward = key(segment.src, segment.sport, segment.dst, segment.dport)
        backward = key(segment.dst, segment.dport, segment.src, segment.sport)
        if backward in made:
            session = made[backward]
            if segment.flags & (SYN | ACK) == SYN | ACK and session.syn_ack is None:
                session.syn_ack = segment
            session.answered.append(segment)
        elif forward in made or segment.is_syn:
            made.setdefault(forward, Session(segment)).sent.append(segment)
    return list(made.values())


def sound(path: Path) -> None:
    """The capture is whole, every checksum in it is right, and no packet exceeds the MTU; by the witness."""
    rules = ("captures-whole", "checksums", "within-mtu")
    judgement = judge(
        [CaptureFile(path, "here", offload_free=True)], Setup(nodes=(), rules=rules), consult_tshark=False
    )
    for finding in judgement.findings:
        assert finding.verdict is Verdict.PASSED, f"{finding.rule}: {finding.sentence}"
