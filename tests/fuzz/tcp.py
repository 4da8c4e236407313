"""One TCP under a script of segments, errors, calls and time: deeper into connections than `world`, which drives a whole host.

The first bytes choose the socket's options, the link and how the connection begins; the rest are steps.  A segment's numbers
are near those that the connection expects, its checksum is right, and its options are what its receiver negotiated or any bytes.

What must hold after each step: nothing raises; the tables agree (`Tcp.check`, which looks into every connection); what a peer
can make this side keep is bounded; every packet that leaves has a right length and checksum, fits the link, and acknowledges no
less than the one before.  In the end nothing is held.
"""

from __future__ import annotations

from collections.abc import Callable

from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.packet import IcmpError
from tapstack.tcp.congestion import known
from tapstack.tcp.connection import Connection
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import Ecn, PortMode, SocketOptions, TimeWait
from tapstack.types import address
from tapstack.wire import tcp
from tests.unit.tcp.pair import Pair

from .script import Script

PEER, OWN = address("2001:db8:a::1"), address("2001:db8:b::1")
PORT = 80
MODES = tuple(PortMode)
TIME_WAITS = tuple(TimeWait)
CONTROLLERS = tuple(known())
PAUSES = (0.001, 0.05, 0.3, 2.0, 65.0, 400.0)
MTU = 1500
MOST_STEPS = 150
BACKLOG = 4
WINDOW = 100_000
WRITTEN = 500_000


class Life:
    """The TCP `b` of a pair whose wire leads nowhere; `connections` are those that a program holds."""

    def __init__(self, script: Script) -> None:
        self.script = script
        bits, more = script.byte(), script.byte()
        self.mode = MODES[bits & 3]
        self.options = SocketOptions(
            mode=self.mode,
            time_wait=TIME_WAITS[(bits >> 2) % 3],
            sack=bool(bits & 16),
            timestamps=bool(bits & 32),
            ecn=Ecn.REQUEST if bits & 64 else Ecn.ACCEPT,
            congestion=CONTROLLERS[more % len(CONTROLLERS)],
            pacing=bool(more & 16),
            tell_user_timeout=bool(more & 32),
            keep_alive=30.0 if more & 64 else None,
            receive_buffer=20_000,
            receive_buffer_maximum=WINDOW,
            backlog=BACKLOG,
        )
        self.pair = Pair(offload="cut" if bits & 128 else None)
        self.pair.meddle = lambda end, packet: []
        self.pair.b.tcp.passive.limit = 0 if more & 128 else 64  # with 0 every handshake is a cookie
        self.connections: list[Connection] = []
        self.listener: Listener | None = None
        self.port = 0x5000
        self._judged = 0
        self._said: dict[bytes, tuple[int, int]] = {}
        self._open(script.byte() % 3)

    def _open(self, how: int) -> None:
        pair, own, now = self.pair, self.pair.b.tcp, self.pair.now
        if how == 0:
            self.connections.append(own.connect(pair.b.entry(now), PEER, self.port, now, self.options, local_port=PORT))
            pair.flush()
            return
        aware = self.mode is PortMode.AWARE
        self.listener = own.listen(self.options, now, PORT if aware else None)
        kind = AddressKind.STABLE if aware else AddressKind.SERVICE
        self.listener.arm(pair.b.entry(now, kind), now, sessions=3)
        if how == 2:
            stamp = tcp.Options(timestamp=(1, 0)).pack() if self.options.timestamps else b""
            offer = tcp.Options(mss=1440, sack_permitted=True, window_scale=1).pack()
            self.segment(tcp.SYN, 1000, 0, 60_000, offer + stamp)
            pair.flush()
            number = int.from_bytes(pair.packets[-1][2][44:48], "big")
            self.segment(tcp.ACK, 1001, number + 1, 60_000, stamp)
        self.accept()

    def accept(self) -> None:
        """The program takes what is there."""
        while self.listener is not None and (accepted := self.listener.accept()) is not None:
            self.connections.append(accepted)

    def subject(self) -> Connection | None:
        """A connection that is not over, chosen by the script."""
        alive = [each for each in self.connections if each.state.value != "CLOSED"]
        alive = alive or self.pair.b.tcp.demux.half_open()
        return alive[self.script.byte() % len(alive)] if alive else None

    def segment(
        self, flags: int, sequence: int, ack: int, window: int, options: bytes = b"", payload: bytes = b"",
        *, ce: int = 0, up: int = 0,
    ) -> None:  # fmt: skip
        """A segment of the peer arrives."""
        options = (options + bytes(-len(options) % 4))[:40]
        header = tcp.pack(
            PEER, OWN, self.port, PORT, sequence & 0xFFFFFFFF, ack & 0xFFFFFFFF, flags, window,
            options=options, urgent=up, payload=payload,
        )  # fmt: skip
        self.arrive(header + payload, ce)

    def arrive(self, body: bytes, ce: int = 0) -> None:
        """TCP's part of a packet arrives."""
        front = bytes((0x60, ce << 4, 0, 0)) + len(body).to_bytes(2, "big") + bytes((tcp.PROTOCOL, 64))
        self.pair.b.input(front + PEER + OWN + body, self.pair.now)

    # -- invariants ------------------------------------------------------------------------------

    def check(self) -> None:
        """What must hold; see the module's docstring."""
        own = self.pair.b.tcp
        own.check()
        assert own.demux.half_open_count <= BACKLOG
        assert len(own.demux) <= 8
        for each in self.connections:
            receiver, sender = each.receiver, each.sender
            assert receiver.queued + receiver.beyond <= receiver.capacity_maximum * 9 / 8 + 256
            assert len(sender.in_flight) <= 70 + 8 * (sender.snd_nxt - sender.snd_una) // min(sender.mss, 1220)
            assert each.statistics(self.pair.now).text()
        for _, who, packet in self.pair.packets[self._judged :]:
            if who == "b":
                self._judge(packet)
        self._judged = len(self.pair.packets)

    def _judge(self, packet: bytes) -> None:
        body = packet[40:]
        assert 60 <= len(packet) <= MTU and int.from_bytes(packet[4:6], "big") == len(body)
        whole = (
            packet[8:40] + len(body).to_bytes(4, "big") + bytes((0, 0, 0, tcp.PROTOCOL)) + body + bytes(len(body) % 2)
        )
        assert int.from_bytes(whole, "big") % 65_535 == 0, "a wrong checksum leaves"
        if not body[13] & tcp.ACK or body[13] & (tcp.SYN | tcp.RST):
            self._said.pop(body[:4], None)  # another connection begins, or this one is over
            return
        sequence, ack = int.from_bytes(body[4:8], "big"), int.from_bytes(body[8:12], "big")
        before = self._said.get(body[:4])
        # Further away it is another connection of these ports.
        if before is not None and (sequence - before[0]) & 0xFFFFFFFF < 1 << 16:
            assert (ack - before[1]) & 0xFFFFFFFF < 1 << 31, "an acknowledgement is taken back"
        self._said[body[:4]] = sequence, ack

    def finish(self) -> None:
        """Everything ends, and nothing is held."""
        for end in (self.pair.a, self.pair.b):
            end.tcp.close(self.pair.now)
            end.tcp.flush(self.pair.now)
            end.tcp.check()
            assert len(end.tcp.demux) == 0 == end.tcp.demux.half_open_count
            assert end.tcp.budget.used == 0
            end.timers.run(self.pair.now + 1000)  # the timer of TIME-WAIT may still stand, for records that have gone
            assert end.timers.deadline() is None, "a timer without an owner"


# -- the steps of a script -------------------------------------------------------------------------------


def _near(life: Life) -> None:
    """A segment whose numbers are near the connection's own."""
    script, subject = life.script, life.subject()
    flags, window, bits = script.byte(), script.word(), script.byte()
    sequence = 0 if flags & 0x40 else script.signed()
    ack = 0 if flags & 0x80 else script.signed()
    options = b""
    if subject is not None:
        sequence += subject.receiver.rcv_nxt
        ack += subject.sender.snd_una
        if subject.timestamps and not bits & 1:
            clock = int(life.pair.now * 1000) + subject.timestamp_offset
            value = (subject.receiver.ts_recent or 0) + (bits >> 5)
            options = tcp.Options(timestamp=(value & 0xFFFFFFFF, (clock - (bits >> 4)) & 0xFFFFFFFF)).pack()
        if bits & 2:
            left = subject.sender.snd_una + script.word()
            options += tcp.Options(sack=[(left & 0xFFFFFFFF, (left + script.word()) & 0xFFFFFFFF)]).pack()
    payload = bytes(script.word() % 3000) if bits & 4 else b""
    up = script.word() if flags & tcp.URG else 0
    life.segment(flags & 0x3F, sequence, ack, window, options, payload, ce=3 if bits & 8 else 0, up=up)


def _all_acknowledged(life: Life) -> None:
    """The peer has everything up to now, and says so; perhaps with a FIN."""
    subject, bits = life.subject(), life.script.byte()
    if subject is None:
        return
    stamp = b""
    if subject.timestamps:
        clock = int(life.pair.now * 1000) + subject.timestamp_offset
        stamp = tcp.Options(timestamp=(subject.receiver.ts_recent or 1, (clock - bits) & 0xFFFFFFFF)).pack()
    flags = tcp.ACK | (tcp.FIN if bits & 7 == 7 else 0)
    life.segment(flags, subject.receiver.rcv_nxt, subject.sender.snd_nxt, 60_000, stamp, bytes(1400 if bits & 8 else 0))


def _any_fields(life: Life) -> None:
    """Any fields, and any bytes for options."""
    script = life.script
    flags, sequence, ack = script.byte(), script.word() << 16 | script.word(), script.word() << 16 | script.word()
    life.segment(flags, sequence, ack, script.word(), script.take(script.byte() % 41), script.take(script.byte() % 64))


def _any_bytes(life: Life) -> None:
    """A header of any bytes."""
    life.arrive(life.script.take(20 + life.script.byte() % 60))


def _error(life: Life) -> None:
    """An ICMPv6 error that quotes something near."""
    script, subject = life.script, life.subject()
    sequence = (subject.sender.snd_una if subject else 0) + script.signed()
    quoted = PORT.to_bytes(2, "big") + life.port.to_bytes(2, "big") + (sequence & 0xFFFFFFFF).to_bytes(4, "big")
    kind, code, info = script.byte() % 5, script.byte() % 8, script.word()
    report = IcmpError(kind, code, info, PEER, OWN, PEER, 6, memoryview(quoted))
    life.pair.b.tcp.error(report, life.pair.now)


def _call(life: Life) -> None:
    """The program does something."""
    life.accept()
    subject, what, now = life.subject(), life.script.byte(), life.pair.now
    if subject is None:
        return
    if what < 96:
        if not subject.sender.fin_queued and subject.error is None and subject.sender.buffered < WRITTEN:
            (subject.write_urgent if what & 1 else subject.write)(bytes(life.script.word()))
    elif what < 180:
        subject.read()
    elif what < 190:
        subject.set_user_timeout(float(what))
    elif what < 220:
        subject.shutdown(now)
    elif what < 245:
        subject.close(now)
    else:
        subject.abort(now)


def _time(life: Life) -> None:
    life.pair.run(PAUSES[life.script.byte() % len(PAUSES)])


def _port_changes(life: Life) -> None:
    """The peer's port moves, or a second socket of the peer speaks."""
    life.port = 0x5000 + life.script.byte() % 4


STEPS: tuple[Callable[[Life], None], ...] = (
    _near, _near, _near, _all_acknowledged, _all_acknowledged, _any_fields, _any_bytes, _error, _call, _call, _time,
    _port_changes,
)  # fmt: skip


def run(data: bytes) -> None:
    """Carry out a script."""
    life = Life(Script(data))
    for _ in range(MOST_STEPS):
        if life.script.over:
            break
        STEPS[life.script.byte() % len(STEPS)](life)
        life.pair.flush()
        life.check()
    life.finish()
