"""One connection: the PCB, its user's calls (RFC 9293 §3.10.1–3.10.6) and what it sends.

The concerns are elsewhere and each owns its part of the state: `sender` and `receiver` the two halves of the
sequence space, `rtt` the time-out estimate, `timers` the timers, `emitter` the headers.  What arriving segments
do is in `arrives` (RFC 9293 §3.10.7) and, for the common case, in `fastpath`.

A connection never calls its owner from inside the stack: it collects `Signal` bits, and whoever drives
the stack takes them and calls `owner` (see `Stack.take_signals`).
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntFlag
from typing import TYPE_CHECKING

from ..events import ConnectionChanged, DropReason
from ..ipv6.addresses import AddressEntry
from ..types import Buffer, Frame, address_text
from ..wire.tcp import ACK, RST, SYN, TIMESTAMP_LENGTH, Options
from . import errors
from .challenge import PER_CONNECTION
from .congestion import create
from .emitter import Emitter
from .isn import SessionNumbers
from .options import PortMode, SocketOptions
from .receiver import Receiver
from .recovery import NewRenoRecovery, SelectiveRecovery
from .recovery.rto import RttEstimator
from .sender import Sender
from .sequence import MASK
from .states import SYNCHRONIZED, TRANSITIONS, TcpState, TcpTrigger
from .timers import DELAYED_ACK, ConnectionTimers
from .trace import Trace

if TYPE_CHECKING:
    from ..ipv6.host import Path
    from .layer import Tcp
    from .listener import ArmedAddress
    from .segment import Segment


MAXIMUM_WINDOW_SCALE = 14
DEFAULT_MSS = 1220
IPV6_TCP_HEADERS = 60


class Signal(IntFlag):
    """News for the owner of a connection or listener."""

    ESTABLISHED = 1
    READABLE = 2
    WRITABLE = 4
    END_OF_STREAM = 8
    CLOSED = 16
    ACCEPTABLE = 32


class Connection:
    """A PCB.  Made by `Tcp.connect` and by listeners; `key` is its place in the demultiplexing tables.

    local_port, remote_port: what is written in the headers; whether they are also read depends on the mode.
    """

    __slots__ = (
        "armed",
        "challenge_at",
        "detached",
        "dirty",
        "emitter",
        "entry",
        "error",
        "handshake_timeout",
        "high_water",
        "id",
        "key",
        "last_heard",
        "local",
        "local_port",
        "low_water",
        "mode",
        "options",
        "owner",
        "path",
        "peer_mss",
        "receiver",
        "remote",
        "remote_port",
        "rtt",
        "sack_permitted",
        "sender",
        "signals",
        "soft_error",
        "state",
        "syn_retransmitted",
        "syn_sent_at",
        "tcp",
        "timers",
        "timestamp_offset",
        "timestamps",
        "trace",
        "write_blocked",
    )

    def __init__(
        self,
        tcp: Tcp,
        entry: AddressEntry,
        remote: bytes,
        local_port: int,
        remote_port: int,
        options: SocketOptions,
        path: Path,
        numbers: SessionNumbers,
        now: float,
    ) -> None:
        self.tcp = tcp
        self.id = tcp.next_id()
        self.entry = entry
        self.local = entry.address
        self.remote = remote
        self.local_port = local_port
        self.remote_port = remote_port
        self.mode: PortMode = options.mode
        self.options = options
        self.path = path
        self.key = b""
        self.state = TcpState.CLOSED
        self.armed: ArmedAddress | None = None
        self.owner: Callable[[int], None] | None = None
        self.signals = 0
        self.error: Exception | None = None
        self.soft_error: Exception | None = None
        self.dirty = False
        self.detached = False
        self.write_blocked = False
        self.high_water = options.send_buffer
        self.low_water = options.send_buffer // 2
        self.last_heard = now
        self.challenge_at = -1.0
        self.timestamps = False
        self.timestamp_offset = numbers.timestamp_offset
        self.sack_permitted = False
        self.peer_mss = DEFAULT_MSS
        self.syn_sent_at: float | None = now
        self.syn_retransmitted = False
        self.handshake_timeout = options.syn_timeout
        self.emitter = Emitter(tcp.host, path, tcp.transmit, self.local, remote, numbers.flow_label)
        self.sender = Sender(numbers.isn, self._emit_data)
        self.sender.nodelay = options.nodelay
        self.receiver = Receiver(options.receive_buffer, options.receive_buffer_maximum)
        self.receiver.scale = scale_for(options.receive_buffer_maximum)
        self.rtt = RttEstimator()
        self.timers = ConnectionTimers(self)
        self.trace = Trace() if options.trace else None
        tcp.host.addresses.acquire(entry, self)

    def __repr__(self) -> str:
        return (
            f"connection {self.id} [{address_text(self.local)}]:{self.local_port} ↔ "
            f"[{address_text(self.remote)}]:{self.remote_port} {self.mode} {self.state}"
        )

    def serves(self, remote: bytes) -> bool:
        """Whether `remote` is the peer of a handshake that this side began or that completed (UM-EA-1)."""
        return remote == self.remote and (self.armed is None or self.state in SYNCHRONIZED)

    # -- user calls (RFC 9293 §3.10) -------------------------------------------------------------

    def write(self, data: Buffer) -> None:
        """SEND: queue `data`; raises the connection's error, or BrokenPipeError after `shutdown`.

        Everything is taken.  Above `high_water` bytes `write_blocked` asks the owner to pause; Signal.WRITABLE says that no
        more than `low_water` are left.
        """
        if self.error is not None:
            raise self.error
        if self.sender.fin_queued or self.state is TcpState.CLOSED:
            raise BrokenPipeError("the connection is closed for sending")
        self.sender.write(data)
        if self.sender.buffered > self.high_water:
            self.write_blocked = True
        self.tcp.mark_dirty(self)

    def read(self) -> list[Buffer]:
        """RECEIVE: all bytes that are in order, in pieces; empty when there are none."""
        receiver = self.receiver
        pieces = receiver.read()
        if pieces and self.state in SYNCHRONIZED and receiver.window_update_due(self.advertised_mss()):
            receiver.ack_now = True
            self.tcp.mark_dirty(self)
        return pieces

    def shutdown(self, now: float) -> None:
        """CLOSE in RFC 9293's sense: send FIN after what is queued; reading goes on.  Harmless when called again."""
        if self.sender.fin_queued or self.state is TcpState.CLOSED:
            return
        if self.state is TcpState.SYN_SENT:
            self.delete(TcpTrigger.DELETE, now, "closed before it was established", errors.aborted())
            return
        self.sender.fin_queued = True
        self.move(TcpTrigger.CLOSE, now, "close")
        self.tcp.mark_dirty(self)

    def close(self, now: float) -> None:
        """Nobody reads or writes any more: shut down, and reset if the peer's data was not read (RFC 9293 §3.10.4)."""
        self.detached = True
        if self.state is TcpState.CLOSED:
            return
        if self.receiver.queued:
            self.abort(now)
            return
        self.shutdown(now)
        if self.state is TcpState.FIN_WAIT_2:
            self.timers.start_slow(now)

    def abort(self, now: float, cause: str = "abort") -> None:
        """ABORT: reset the connection and forget it."""
        if self.state is TcpState.CLOSED:
            return
        if self.state in SYNCHRONIZED or self.state is TcpState.SYN_RECEIVED:
            self.emit(RST | ACK, self.sender.snd_nxt, now)
        self.delete(TcpTrigger.DELETE, now, cause, errors.aborted())

    # -- state -----------------------------------------------------------------------------------

    def move(self, trigger: TcpTrigger, now: float, cause: str) -> None:
        """Follow the transition table; a pair that is not in it is a programming error."""
        old = self.state
        self.state = TRANSITIONS[old, trigger]
        events = self.tcp.events
        if events.active:
            events.emit(
                ConnectionChanged(
                    time=now,
                    connection=self.id,
                    old=old.value,
                    new=self.state.value,
                    local=address_text(self.local),
                    local_port=self.local_port,
                    remote=address_text(self.remote),
                    remote_port=self.remote_port,
                    mode=self.mode.value,
                    cause=cause,
                )
            )

    def signal(self, bits: int) -> None:
        """Collect news for the owner."""
        if not self.signals:
            self.tcp.signalled.append(self)
        self.signals |= bits

    def fail(self, error: Exception, now: float, cause: str) -> None:
        """End with an error that the owner sees; a synchronized peer is told with a reset."""
        if self.state in SYNCHRONIZED:
            self.emit(RST | ACK, self.sender.snd_nxt, now)
        self.delete(TcpTrigger.DELETE, now, cause, error)

    def delete(self, trigger: TcpTrigger, now: float, cause: str, error: Exception | None = None) -> None:
        """DELETE TCB: out of the tables, timers off, the address no longer held."""
        self.timers.cancel_all()
        self.move(trigger, now, cause)
        self.error = self.error or error
        if error is None and self.receiver.fin is None and not self.detached:
            self.error = errors.reset()
        self.tcp.forget(self, now, cause)
        self.signal(Signal.CLOSED)

    # -- negotiation -----------------------------------------------------------------------------

    def advertised_mss(self) -> int:
        """The MSS to announce and to receive: the link's MTU less the fixed headers (RFC 6691)."""
        mtu: int = self.tcp.host.properties.mtu
        return mtu - IPV6_TCP_HEADERS

    def negotiate(self, options: Options) -> None:
        """Take the options of the peer's SYN."""
        wanted = self.options
        if options.mss is not None:
            self.peer_mss = max(options.mss, 64)
        else:
            self.peer_mss = DEFAULT_MSS
        if options.window_scale is not None:
            self.sender.scale = min(options.window_scale, MAXIMUM_WINDOW_SCALE)
        else:
            self.sender.scale = self.receiver.scale = 0
        self.timestamps = options.timestamp is not None and wanted.timestamps
        self.sack_permitted = options.sack_permitted and wanted.sack

    def start_congestion(self) -> None:
        """Both SYNs are known: segment size and congestion window."""
        self.set_segment_size()
        sender = self.sender
        sender.congestion = create(self.options.congestion, sender.mss, self.options.pacing)
        if self.sack_permitted:
            sender.recovery = SelectiveRecovery(sender, self.rtt, self.timers.recovery, self.timers.retransmit)
        else:
            sender.recovery = NewRenoRecovery(sender, self.rtt, self.timers.recovery)

    def set_segment_size(self) -> None:
        """Effective send MSS (RFC 9293 §3.7.1) and the largest super-segment."""
        mss = min(self.peer_mss, self.path.mtu - IPV6_TCP_HEADERS)
        if self.timestamps:
            mss -= TIMESTAMP_LENGTH
        sender = self.sender
        sender.mss = mss
        gso = self.tcp.host.properties.gso_size
        sender.segment_limit = max(mss, (gso - 100) // mss * mss) if gso else mss

    def timestamp(self, now: float) -> tuple[int, int] | None:
        """TSval and TSecr of a segment sent now; milliseconds with an offset per connection."""
        if not self.timestamps:
            return None
        return (int(now * 1000) + self.timestamp_offset) & MASK, self.receiver.ts_recent or 0

    # -- output ----------------------------------------------------------------------------------

    def output(self, now: float) -> None:
        """Send what can be sent: data, and an acknowledgement where one is due and none went with data."""
        self.dirty = False
        state = self.state
        if state is TcpState.CLOSED:
            return
        receiver = self.receiver
        if receiver.ack_now and not receiver.orderly:
            self.send_ack(now)
        if state in SYNCHRONIZED:
            sender = self.sender
            if sender.something_to_send:
                if now - sender.last_sent > self.rtt.rto and not sender.in_flight:
                    sender.congestion.on_idle(now - sender.last_sent)
                sender.transmit(now)
                if sender.paced_until > now and sender.something_to_send:
                    self.timers.pace.set(sender.paced_until)
            self.timers.ensure_retransmit(now)
        if receiver.ack_now or receiver.unacked >= 2 * self.advertised_mss():
            self.send_ack(now)
        elif receiver.unacked and not self.timers.delayed_ack.armed:
            self.timers.delayed_ack.set(now + DELAYED_ACK)
        if self.write_blocked and self.sender.buffered <= self.low_water:
            self.write_blocked = False
            self.signal(Signal.WRITABLE)

    def _emit_data(self, sequence: int, flags: int, pieces: Frame, length: int) -> None:
        """The sender's way out; every data segment acknowledges."""
        now = self.sender.last_sent
        window = self.receiver.advertise(self.sender.mss)
        self._acknowledged()
        self.emitter.emit(
            self.local_port, self.remote_port, sequence, self.receiver.rcv_nxt, flags, window,
            self.timestamp(now), pieces, length, self.sender.mss, now,
        )  # fmt: skip

    def _acknowledged(self) -> None:
        receiver = self.receiver
        receiver.unacked = 0
        receiver.ack_now = False
        receiver.last_ack_sent = receiver.rcv_nxt
        self.timers.delayed_ack.cancel()

    def send_ack(self, now: float) -> None:
        """A pure acknowledgement, with SACK blocks where there are holes."""
        self.emit(ACK, self.sender.snd_nxt, now)

    def emit(self, flags: int, sequence: int, now: float) -> None:
        """A segment without payload in a synchronized state."""
        receiver = self.receiver
        options = b""
        if self.sack_permitted and (receiver.duplicate is not None or not receiver.orderly):
            blocks = receiver.sack_blocks(3 if self.timestamps else 4)
            receiver.duplicate = None
            options = Options(sack=[(left & MASK, right & MASK) for left, right in blocks]).pack()
        window = receiver.advertise(self.sender.mss)
        self._acknowledged()
        self.emitter.emit(
            self.local_port, self.remote_port, sequence, receiver.rcv_nxt, flags, window,
            self.timestamp(now), [], 0, self.sender.mss, now, options,
        )  # fmt: skip

    def send_syn(self, now: float) -> None:
        """SYN, or SYN and ACK in SYN-RECEIVED; also their retransmission."""
        answering = self.state is TcpState.SYN_RECEIVED
        receiver = self.receiver
        options = Options(
            mss=self.advertised_mss(),
            window_scale=receiver.scale if not answering or self.sender.scale or receiver.scale else None,
            sack_permitted=self.sack_permitted if answering else self.options.sack,
        )
        if self.timestamps if answering else self.options.timestamps:
            options.timestamp = (
                (int(now * 1000) + self.timestamp_offset) & MASK,
                (receiver.ts_recent or 0) if answering else 0,
            )
        self.syn_sent_at = now
        flags = SYN | ACK if answering else SYN
        window = receiver.advertise(DEFAULT_MSS, scaled=False)
        if answering:
            self._acknowledged()
        self.emitter.emit(
            self.local_port, self.remote_port, self.sender.snd_una, receiver.rcv_nxt if answering else 0, flags, window,
            None, [], 0, DEFAULT_MSS, now, options.pack(),
        )  # fmt: skip

    def send_keep_alive(self, now: float) -> None:
        """An old sequence number that the peer must acknowledge (RFC 9293 §3.8.4)."""
        self.emit(ACK, self.sender.snd_nxt - 1, now)

    def challenge(self, now: float) -> bool:
        """A challenge ACK (RFC 5961 §3–5) within the limits of §7; False, and counted, when limited."""
        if now - self.challenge_at < PER_CONNECTION or not self.tcp.challenges.allow(self.remote + self.local, now):
            self.tcp.counters.drop(DropReason.TCP_CHALLENGE_LIMIT)
            return False
        self.challenge_at = now
        self.send_ack(now)
        return True

    def completes(self, segment: Segment) -> bool:
        """Whether `segment` acknowledges our SYN and is the peer's next: it belongs to this handshake whatever its ports."""
        return (
            bool(segment.flags & ACK)
            and segment.acknowledgment == self.sender.snd_nxt & MASK
            and segment.sequence == self.receiver.rcv_nxt & MASK
        )

    def finished_sending(self) -> bool:
        """Whether our FIN has been acknowledged."""
        return self.sender.fin_sent and self.sender.snd_una == self.sender.snd_nxt


def scale_for(capacity: int) -> int:
    """The window scale that lets `capacity` bytes be announced (RFC 7323 §2.3)."""
    scale = 0
    while scale < MAXIMUM_WINDOW_SCALE and 65535 << scale < capacity:
        scale += 1
    return scale
