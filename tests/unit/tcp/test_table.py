"""Every state, every combination of SYN, ACK, FIN and RST, every position of sequence and acknowledgement number.

`expected` is written from RFC 9293 §3.10.7 with RFC 5961, in their order, and knows nothing of the stack; what the stack
answers is read from its packets by scapy.  Timestamps are off, so that PAWS does not decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.tcp.states import TcpState

from . import wire
from .pair import Pair

A, B = "2001:db8:a::1", "2001:db8:b::1"
OPTIONS = SocketOptions(
    mode=PortMode.AWARE, timestamps=False, sack=False, receive_buffer=50_000, receive_buffer_maximum=50_000
)
CLIENT, SERVER = 5000, 80
FLAGS = ["".join(c for c, on in zip("SAFR", bits, strict=True) if on) for bits in product((0, 1), repeat=4)]
OPENING = ["CLOSED", "LISTEN_o", "LISTEN", "SYN-SENT", "SYN-RECEIVED passive", "SYN-RECEIVED active"]
SYNCHRONIZED = ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT"]
PEER_ISN = 70_000


@dataclass
class Subject:
    """The TCP under test is `b`; its peer's packets are made by hand."""

    pair: Pair
    connection: Connection | None
    una: int = 0
    nxt: int = 0
    rcv: int = PEER_ISN
    window: int = 0
    listener: Listener | None = None

    def state(self) -> str:
        """The state, as the tables of the node show it."""
        tcp = self.pair.b.tcp
        assert self.listener is None or self.listener.state is TcpState.LISTEN_O
        if len(tcp.time_waits):
            return "TIME-WAIT"
        if self.connection is not None and self.connection.state.value != "CLOSED":
            return self.connection.state.value
        if tcp.demux.half_open_count:
            return tcp.demux.half_open()[0].state.value
        for pcb in tcp.demux:
            assert isinstance(pcb, Connection)  # a TIME-WAIT record was asked for above
            return pcb.state.value
        return "CLOSED"

    def holds(self) -> tuple[object, ...]:
        """All that a segment may move, and what is counted as dropped."""
        tcp, pcb = self.pair.b.tcp, self.connection
        drops = sum(tcp.counters.drops.values())
        if pcb is None:
            return self.state(), drops
        there, back = pcb.receiver, pcb.sender
        return self.state(), there.rcv_nxt, there.queued, there.beyond, there.fin, back.snd_una, back.snd_nxt, drops

    def probe(self, flags: str, seq: int, ack: int, payload: bytes) -> list[Any]:
        """What is answered to one segment, without any time passing."""
        before = len(self.pair.packets)
        packet = wire.segment(A, B, CLIENT, SERVER, flags, seq=seq, ack=ack, window=60000, payload=payload)
        self.pair.b.input(packet, self.pair.now)
        self.pair.flush()
        self.pair.b.tcp.check()
        return [wire.read(p) for p in self.pair.sent_by("b", before)]


def arrange(state: str) -> Subject:
    """A node in the given state."""
    pair = Pair()
    entry = pair.b.entry(pair.now, AddressKind.STABLE)
    a, b = pair.a.tcp, pair.b.tcp
    if state == "CLOSED":
        return Subject(pair, None)
    if state == "LISTEN_o":  # a listener whose address was taken from it again
        unbound = b.listen(OPTIONS, pair.now, SERVER)
        unbound.arm(entry, pair.now, sessions=None)
        unbound.disarm(entry.address, pair.now, "test")
        assert unbound.state is TcpState.LISTEN_O
        return Subject(pair, None, listener=unbound)
    if state.startswith("SYN-SENT") or state == "SYN-RECEIVED active":
        pair.meddle = lambda end, packet: []
        connection = b.connect(entry, pair.a.address, CLIENT, pair.now, OPTIONS, local_port=SERVER)
        if state == "SYN-RECEIVED active":
            pair.b.input(wire.segment(A, B, CLIENT, SERVER, "S", seq=PEER_ISN), pair.now)
        pair.flush()
        return _described(Subject(pair, connection))
    listener = b.listen(OPTIONS, pair.now, SERVER)
    listener.arm(entry, pair.now, sessions=None)
    if state == "LISTEN":
        return Subject(pair, None)
    if state == "SYN-RECEIVED passive":
        pair.meddle = lambda end, packet: []
        pair.b.input(wire.segment(A, B, CLIENT, SERVER, "S", seq=PEER_ISN), pair.now)
        pair.flush()
        return _described(Subject(pair, b.demux.half_open()[0]))
    client = a.connect(pair.a.entry(pair.now), pair.b.address, SERVER, pair.now, OPTIONS, local_port=CLIENT)
    pair.run(1)
    connection = listener.accept()  # type: ignore[assignment]
    assert isinstance(connection, Connection)
    _drive(pair, state, client, connection)
    pair.meddle = lambda end, packet: []
    subject = Subject(pair, connection)
    assert subject.state() == state
    return _described(subject)


def _drive(pair: Pair, state: str, client: Connection, server: Connection) -> None:
    if state in ("FIN-WAIT-1", "CLOSING"):
        pair.meddle = lambda end, packet: [packet] if end is pair.a else []
    if state in ("FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "TIME-WAIT"):
        server.shutdown(pair.now)
        pair.run(0.05)
    if state in ("CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT"):
        client.shutdown(pair.now)
        pair.run(0.05)
    if state == "LAST-ACK":
        pair.meddle = lambda end, packet: []
        server.shutdown(pair.now)
        pair.run(0.05)


def _described(subject: Subject) -> Subject:
    connection = subject.connection
    assert connection is not None
    subject.una, subject.nxt = connection.sender.snd_una, connection.sender.snd_nxt
    subject.rcv = connection.receiver.rcv_nxt or PEER_ISN
    subject.window = connection.receiver.window() if connection.state.value != "CLOSED" else 0
    return subject


# -- what the documents ask for --------------------------------------------------------------------------

ACK, SYN_ACK, RST, RST_ACK = "A", "SA", "R", "RA"
Reaction = tuple[str | None, str]


def expected(state: str, s: Subject, flags: str, seq: int, ack: int, length: int) -> Reaction:
    """(flags of the answer or None, the state afterwards)."""
    name = state.split()[0]
    if state in ("CLOSED", "LISTEN_o"):  # §3.10.7.1; without an address a listener is in no table (UM-LIS-1)
        return (None if "R" in flags else RST if "A" in flags else RST_ACK), "CLOSED"
    if state == "LISTEN":  # §3.10.7.2
        if "R" in flags:
            return None, "CLOSED"
        if "A" in flags:
            return RST, "CLOSED"
        return (SYN_ACK, "SYN-RECEIVED") if "S" in flags else (None, "CLOSED")
    if state == "SYN-SENT":  # §3.10.7.3
        good = s.una < ack <= s.nxt
        if "A" in flags and not good:
            return (None if "R" in flags else RST), state
        if "R" in flags:
            return None, "CLOSED" if "A" in flags else state
        if "S" not in flags:
            return None, state
        if "A" in flags:
            return ACK, "CLOSE-WAIT" if "F" in flags else "ESTABLISHED"
        return SYN_ACK, "SYN-RECEIVED"
    if state == "SYN-RECEIVED active" and "R" not in flags and "S" in flags and "A" in flags and ack == s.nxt:
        return ACK, "ESTABLISHED"  # the real answer to our SYN, whoever sent the SYN before it (UM-PORT-12)
    if state == "SYN-RECEIVED active" and "R" in flags:  # as in SYN-SENT: RCV.NXT may be a stranger's (UM-PORT-12)
        return None, "CLOSED" if "A" in flags and ack == s.nxt else name
    if state == "TIME-WAIT" and flags in ("S", "SF") and seq > s.rcv:
        return SYN_ACK, "SYN-RECEIVED"  # a new connection, certainly newer (MAY-2, RFC 6191)
    # §3.10.7.4; RFC 5961 §4 answers a SYN in a synchronized state before it looks at its number
    if "S" in flags and "R" not in flags and name != "SYN-RECEIVED":
        return ACK, state
    if name == "SYN-RECEIVED" and flags in ("S", "SF") and seq + 1 == s.rcv:
        return SYN_ACK, name  # the SYN again, whatever it carries: an acknowledgement, and what the peer misses, in one
    span = length + ("S" in flags) + ("F" in flags)
    if "R" in flags:
        span = 0  # its text is not text
    if span == 0:
        acceptable = s.rcv <= seq < s.rcv + s.window if s.window else seq == s.rcv
    else:
        acceptable = s.window > 0 and (s.rcv <= seq < s.rcv + s.window or s.rcv <= seq + span - 1 < s.rcv + s.window)
    if not acceptable:
        if "R" in flags:
            return None, name
        return ACK, name
    if "R" in flags:
        return (None, "CLOSED") if seq == s.rcv else (ACK, name)
    if "S" in flags:
        return (None, "CLOSED") if state == "SYN-RECEIVED passive" else (ACK, name)
    if "A" not in flags:
        return None, name
    return _fifth(state, name, s, flags, seq, ack, length)


def _fifth(state: str, name: str, s: Subject, flags: str, seq: int, ack: int, length: int) -> Reaction:
    """From the check of the ACK field on."""
    if name == "SYN-RECEIVED":
        if not s.una < ack <= s.nxt:
            return RST, name
        name = "ESTABLISHED"
    elif name == "TIME-WAIT":
        return None, name
    elif ack > s.nxt or ack < s.una - 65_535:
        return ACK, name
    finished = ack == s.nxt and name in ("FIN-WAIT-1", "CLOSING", "LAST-ACK")
    if finished:
        name = {"FIN-WAIT-1": "FIN-WAIT-2", "CLOSING": "TIME-WAIT", "LAST-ACK": "CLOSED"}[name]
    if name not in ("ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2") or not (length or "F" in flags):
        return None, name
    if seq > s.rcv:
        return ACK, name  # a hole before it: kept, and answered at once (RFC 5681 §4.2)
    if seq < s.rcv and "F" not in flags:
        return ACK, name  # a part of it is a repetition (RFC 2883 §4)
    if "F" not in flags:
        return None, name  # in order: the acknowledgement may wait
    return ACK, {"ESTABLISHED": "CLOSE-WAIT", "FIN-WAIT-1": "CLOSING", "FIN-WAIT-2": "TIME-WAIT"}[name]


def cases(s: Subject) -> Iterator[tuple[str, int, int, bytes]]:
    positions = {s.rcv - 70_000, s.rcv - 1, s.rcv, s.rcv + 10, s.rcv + s.window + 10}
    acks = {s.una - 100_000, s.una - 1, s.una, s.nxt, s.nxt + 10}
    for flags, seq, payload in product(FLAGS, sorted(positions), (b"", b"12345")):
        for ack in sorted(acks) if "A" in flags else (0,):
            yield flags, seq, ack, payload


@pytest.mark.proves("ST-TCP-1", "ST-TCP-8", "SHLD-2")
@pytest.mark.proves("UM-LIS-1", by="api")
@pytest.mark.parametrize("state", OPENING + SYNCHRONIZED)
def test_reaction_to_every_segment(state: str) -> None:
    wrong, uncounted = [], []
    count = 0
    for flags, seq, ack, payload in cases(arrange(state)):
        subject = arrange(state)
        answer, after = expected(state, subject, flags, seq, ack, len(payload))
        before = subject.holds()
        replies = subject.probe(flags or "", seq, ack, payload)
        if not replies and subject.holds() == before and (flags, payload) != ("A", b""):
            uncounted.append(
                f"{state} <{flags}> seq={seq - subject.rcv:+} ack={ack - subject.una:+} len={len(payload)}"
            )
        got = (str(replies[0].flags) if replies else None, subject.state())
        count += 1
        if got != (answer, after) or len(replies) > 1 or not _numbers_right(subject, replies, flags, seq, ack, payload):
            place = f"seq={seq - subject.rcv:+} ack={ack - subject.una:+} len={len(payload)}"
            wrong.append(f"{state} <{flags}> {place}: {got}, expected {(answer, after)}; {replies}")
    assert count > 200
    assert not uncounted, f"moved nothing, got no answer, and was counted nowhere: {uncounted[:20]}"
    assert not wrong, f"{len(wrong)} of {count}\n" + "\n".join(wrong[:20])


def _numbers_right(s: Subject, replies: list[Any], flags: str, seq: int, ack: int, payload: bytes) -> bool:
    """Sequence and acknowledgement numbers of the answer (RFC 9293 §3.5.2, §3.10.7)."""
    if not replies:
        return True
    tcp = replies[0]
    length = len(payload) + ("S" in flags) + ("F" in flags)
    if str(tcp.flags) == RST:
        return bool(tcp.seq == ack & 0xFFFFFFFF)
    if str(tcp.flags) == RST_ACK:
        return bool((tcp.seq, tcp.ack) == (0, (seq + length) & 0xFFFFFFFF))
    if str(tcp.flags) == SYN_ACK:
        return bool(tcp.ack == ((s.rcv if s.una else seq + 1) & 0xFFFFFFFF) or tcp.ack == (seq + 1) & 0xFFFFFFFF)
    return bool(not s.nxt or tcp.seq == s.nxt & 0xFFFFFFFF)
