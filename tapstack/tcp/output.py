"""What a connection says: the segments of its state, and when they leave (RFC 9293 §3.8).

`Output` is the half of `Connection` that talks; it decides flags, options and window, `emitter` writes the headers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import DropReason
from ..signals import Signal
from ..types import Frame
from ..wire.tcp import ACK, CWR, DEFAULT_MSS, ECE, SYN, URG, Options
from .challenge import PER_CONNECTION
from .receiver import scale_for
from .sequence import MASK, timestamp_value
from .states import SYNCHRONIZED, TcpState

if TYPE_CHECKING:
    from ..ipv6.host import Path
    from .ecn import EcnState
    from .emitter import Emitter
    from .layer import Tcp
    from .options import SocketOptions
    from .receiver import Receiver
    from .recovery.rto import RttEstimator
    from .sender import Sender
    from .timers import ConnectionTimers
    from .usertimeout import UserTimeout

_LARGEST_URGENT = 65535
_CLOSED = TcpState.CLOSED


class Output:
    """See the module's docstring; the attributes are `Connection`'s."""

    if not TYPE_CHECKING:
        __slots__ = ()  # the slots are `Connection`'s

    ack_threshold: int
    challenge_at: float
    dirty: bool
    ecn: EcnState
    emitter: Emitter
    local: bytes
    local_port: int
    low_water: int
    mtu: int
    named_port: int
    options: SocketOptions
    path: Path
    receiver: Receiver
    remote: bytes
    remote_port: int
    rtt: RttEstimator
    sack_permitted: bool
    sender: Sender
    state: TcpState
    syn_retransmitted: bool
    tcp: Tcp
    timers: ConnectionTimers
    timestamp_offset: int
    timestamps: bool
    told_timeout: UserTimeout | None
    write_blocked: bool

    if TYPE_CHECKING:

        def advertised_mss(self) -> int:
            """See `Connection`."""
            ...

        def fit_path(self) -> None:
            """See `Connection`."""

        def set_segment_limit(self) -> None:
            """See `Connection`."""

        def signal(self, bits: int) -> None:
            """See `Connection`."""

    def output(self, now: float) -> None:
        """Send what can be sent: data, and an acknowledgement where one is due and none went with data."""
        self.dirty = False
        state = self.state
        if state is _CLOSED:
            return
        receiver = self.receiver
        sender = self.sender
        if (receiver.ack_now and receiver.beyond) or (receiver.duplicate is not None and self.sack_permitted):
            self.send_ack(now)  # data carries no SACK blocks
        if state in SYNCHRONIZED:
            if sender.unsent or sender.lost or (sender.fin_queued and not sender.fin_sent):
                if self.path.mtu < self.mtu:
                    self.fit_path()
                if sender.transmissions and now - sender.last_sent > self.rtt.rto and not sender.in_flight:
                    sender.congestion.on_idle(now - sender.last_sent)
                sender.transmit(now)
                if sender.paced_until > now and sender.something_to_send:
                    self.timers.pace.set(sender.paced_until)
            self.timers.ensure_retransmit(now)
        if receiver.ack_now or receiver.unacked >= self.ack_threshold:
            self.send_ack(now)
        elif receiver.unacked:
            self.timers.hold_back(now)
        if self.write_blocked and sender.buffered <= self.low_water:
            self.write_blocked = False
            self.signal(Signal.WRITABLE)

    def timestamp(self, now: float) -> tuple[int, int] | None:
        """TSval and TSecr of a segment sent now."""
        if not self.timestamps:
            return None
        # `timestamp_value` without the call, since every segment comes by.
        return (int(now * 1000) + self.timestamp_offset) & MASK, self.receiver.ts_recent or 0

    def emit_data(self, sequence: int, flags: int, pieces: Frame, length: int, again: bool) -> None:
        """The sender's way out; every data segment acknowledges.  `again`: it is a repetition."""
        sender = self.sender
        now = sender.last_sent
        window = self.receiver.advertise(sender.mss)
        self._acknowledged()
        urgent = 0
        if sender.snd_up > sender.snd_una and sender.snd_up > sequence:
            urgent = min(sender.snd_up - sequence, _LARGEST_URGENT)
            flags |= URG
            if sender.snd_up <= sender.snd_nxt:
                self.set_segment_limit()
        ect = False
        ecn = self.ecn
        if ecn.usable:
            ect = ecn.marks and not again and length > 0
            if ecn.echo:
                flags |= ECE
            if ecn.announce and ect:
                flags |= CWR
                ecn.announce = False
                self.set_segment_limit()
        self.emitter.emit(
            self.local_port, self.remote_port, sequence, self.receiver.rcv_nxt, flags, window,
            self.timestamp(now), pieces, length, sender.mss, now, b"", ect, urgent,
        )  # fmt: skip

    def window_reduced(self) -> None:
        """The sender's: the next new data says CWR, in a segment of its own (RFC 3168 §6.1.2)."""
        if self.ecn.marks:
            self.ecn.announce = True
            self.set_segment_limit()

    def emit_run(self, sequence: int, run: list[Frame], size: int) -> None:
        """`emit_data` for new segments of `size` bytes in a row, whose headers differ in the sequence number alone."""
        sender = self.sender
        ecn = self.ecn
        if sender.snd_up > sender.snd_una or ecn.announce:
            for pieces in run:
                self.emit_data(sequence, ACK, pieces, size, False)
                sequence += size
            return
        now = sender.last_sent
        window = self.receiver.advertise(sender.mss)
        self._acknowledged()
        self.emitter.emit_run(
            self.local_port, self.remote_port, sequence, self.receiver.rcv_nxt, ACK | ECE if ecn.usable and ecn.echo else ACK,
            window, self.timestamp(now), run, size, sender.mss, now, ecn.marks,
        )  # fmt: skip

    def _acknowledged(self) -> None:
        receiver = self.receiver
        receiver.unacked = 0
        receiver.ack_now = False
        receiver.last_ack_sent = receiver.rcv_nxt
        self.timers.acknowledged()

    def send_ack(self, now: float) -> None:
        """A pure acknowledgement, with SACK blocks where there are holes."""
        self.emit(ACK, self.sender.snd_nxt, now)

    def emit(self, flags: int, sequence: int, now: float, urgent: int = 0) -> None:
        """A segment without payload in a synchronized state."""
        receiver = self.receiver
        options = b""
        if self.sack_permitted and (receiver.duplicate is not None or receiver.beyond):
            blocks = receiver.sack_blocks(3 if self.timestamps else 4)
            receiver.duplicate = None
            options = Options(sack=[(left & MASK, right & MASK) for left, right in blocks]).pack()
        if self.told_timeout is not None and self.told_timeout.due and not options:
            self.told_timeout.due = False
            options = self.told_timeout.option()
        if self.ecn.echo:
            flags |= ECE
        window = receiver.advertise(self.sender.mss)
        self._acknowledged()
        self.emitter.emit(
            self.local_port, self.remote_port, sequence, receiver.rcv_nxt, flags, window,
            self.timestamp(now), [], 0, self.sender.mss, now, options, False, urgent,
        )  # fmt: skip

    def send_syn(self, now: float, plain: bool = False) -> None:
        """SYN, or SYN and ACK in SYN-RECEIVED; also their retransmission.  plain: the SYN that opened, in that state too."""
        answering = self.state is TcpState.SYN_RECEIVED and not plain
        if plain:
            self.ecn.marks = False  # repeated, it asks for nothing (RFC 3168 §6.1.1)
        receiver = self.receiver
        scale = receiver.scale if answering else scale_for(self.options.receive_buffer_maximum)
        options = Options(
            mss=self.advertised_mss(),
            window_scale=scale if not answering or self.sender.scale or scale else None,
            sack_permitted=self.sack_permitted if answering else self.options.sack,
        )
        if self.timestamps if answering else self.options.timestamps:
            options.timestamp = (
                timestamp_value(now, self.timestamp_offset),
                (receiver.ts_recent or 0) if answering else 0,
            )
        if self.told_timeout is not None:
            options.user_timeout = self.told_timeout.advertised
        flags = SYN | ACK if answering else SYN
        flags |= self.ecn.syn_flags(answering, self.options.ecn, self.syn_retransmitted)
        window = receiver.advertise(DEFAULT_MSS, scaled=False)
        if answering:
            self._acknowledged()
        self.emitter.emit(
            self.local_port, self.remote_port if answering else self.named_port, self.sender.snd_una,
            receiver.rcv_nxt if answering else 0, flags, window, None, [], 0, DEFAULT_MSS, now, options.pack(),
        )  # fmt: skip

    def answer_again(self, now: float) -> None:
        """The SYN that was answered comes once more, as if the answer was lost; at most as often as a challenge ACK."""
        if now - self.challenge_at < PER_CONNECTION:
            self.tcp.counters.drop(DropReason.TCP_CHALLENGE_LIMIT)
            return
        self.challenge_at = now
        self.syn_retransmitted = True
        self.send_syn(now)

    def send_probe(self, now: float) -> None:
        """An old sequence number that the peer must acknowledge: keep-alive (RFC 9293 §3.8.4), or a window that is closed.

        Urgent data that waits for the window is announced beside it, where the peer looks for that (MUST-66).
        """
        sender = self.sender
        if sender.snd_up > sender.snd_nxt:
            self.emit(ACK | URG, sender.snd_nxt, now, min(sender.snd_up - sender.snd_nxt, _LARGEST_URGENT))
        elif self.receiver.unacked:
            self.send_ack(now)  # no peer takes what an old number acknowledges
        self.emit(ACK, sender.snd_nxt - 1, now)

    def challenge(self, now: float) -> bool:
        """A challenge ACK (RFC 5961 §3–5) within the limits of §7; False, and counted, when limited."""
        if now - self.challenge_at < PER_CONNECTION or not self.tcp.challenges.allow(self.remote + self.local, now):
            self.tcp.counters.drop(DropReason.TCP_CHALLENGE_LIMIT)
            return False
        self.challenge_at = now
        self.send_ack(now)
        return True
