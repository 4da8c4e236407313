"""One connection: the PCB, its user's calls (RFC 9293 §3.10.1–3.10.6) and what it sends.

The concerns are elsewhere and each owns its part of the state: `sender` and `receiver` the two halves of the
sequence space, `rtt` the time-out estimate, `timers` the timers, `emitter` the headers.  What arriving segments
do is in `arrives` (RFC 9293 §3.10.7) and, for the common case, in `fastpath`.

A connection never calls its owner from inside the stack: it collects `Signal` bits, and whoever drives
the stack takes them and calls `owner` (see `Stack.take_signals`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

from ..events import ConnectionChanged
from ..ipv6.addresses import AddressEntry
from ..signals import Signal
from ..types import Buffer, address_text
from ..wire.tcp import ACK, DEFAULT_MSS, RST, TIMESTAMP_LENGTH, Options
from . import errors
from .congestion import create
from .ecn import EcnState
from .emitter import Emitter
from .idlesender import IdleSender
from .isn import SessionNumbers
from .options import PortMode, SocketOptions
from .output import Output
from .receiver import MAXIMUM_WINDOW_SCALE, Receiver, scale_for
from .recovery import NewRenoRecovery, SelectiveRecovery
from .recovery.rto import RttEstimator
from .segments import SACKED
from .sender import Sender
from .sequence import MASK
from .states import SYNCHRONIZED, TRANSITIONS, TcpState, TcpTrigger
from .statistics import Statistics, collect
from .timers import ConnectionTimers
from .trace import Trace
from .usertimeout import UserTimeout, advertised

if TYPE_CHECKING:
    from ..ipv6.host import Path
    from .layer import Tcp
    from .listener import ArmedAddress
    from .segment import Segment


__all__ = ["Connection", "Signal"]

IPV6_TCP_HEADERS = 60
MOST_RESETS = 64
"""Resets at an abort for what may have been missed, beside the first: see `Connection._reset_peer`."""


class Connection(Output):
    """A PCB.  Made by `Tcp.connect` and by listeners; `key` is its place in the demultiplexing tables.

    local_port, remote_port: what is written in the headers; whether they are also read depends on the mode.
    named_port: the peer's port that a SYN is sent to, whatever `remote_port` has become since.
    followed: TSval and time of the segment that moved `remote_port` last (see `replyport`).
    held: a bare acknowledgement that waits for the end of this reading of the link: value and echo of its timestamps, its
    number and its window (see `fastpath`).
    mtu: the largest packet that segments make; 0 before the handshake is over.
    syn_sent_at: when our SYN left; None where its acknowledgement measures no round trip: it was a cookie, which nobody
    remembers, or another segment said the same.
    """

    __slots__ = (
        "ack_threshold",
        "armed",
        "auto_high_water",
        "challenge_at",
        "detached",
        "dirty",
        "ecn",
        "emitter",
        "entry",
        "error",
        "followed",
        "handshake_timeout",
        "held",
        "high_water",
        "id",
        "key",
        "last_heard",
        "local",
        "local_port",
        "low_water",
        "mode",
        "mtu",
        "named_port",
        "opened_at",
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
        "told_timeout",
        "trace",
        "user_timeout",
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
        self.remote_port = self.named_port = remote_port
        self.followed: tuple[int, float] | None = None
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
        self.held: tuple[int, int, int, int] | None = None
        self.dirty = self.detached = self.write_blocked = False
        self.high_water = self.auto_high_water = options.send_buffer
        self.low_water = options.send_buffer // 2
        self.last_heard = now
        self.challenge_at = -1.0
        self.opened_at = now
        self.ecn = EcnState()
        self.mtu = 0
        self.timestamps = False
        self.timestamp_offset = numbers.timestamp_offset
        self.sack_permitted = False
        self.peer_mss = DEFAULT_MSS
        self.syn_sent_at: float | None = now
        self.syn_retransmitted = False
        self.handshake_timeout = options.syn_timeout
        self.user_timeout = options.user_timeout
        self.told_timeout = UserTimeout(options.user_timeout) if options.tell_user_timeout else None
        self.emitter = Emitter(tcp.host, path, tcp.transmit, self.local, remote, numbers.flow_label, options.hop_limit)
        self.emitter.set_dscp(options.dscp)
        self.sender: Sender = IdleSender(numbers.isn, self)
        self.sender.nodelay = bool(options.nodelay)
        self.receiver = Receiver(options.receive_buffer, options.receive_buffer_maximum)
        self.receiver.scale = scale_for(options.receive_buffer_maximum)
        self.rtt = RttEstimator()
        self.ack_threshold = self.advertised_mss() + 1
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

    @property
    def heard(self) -> bool:
        """Whether the peer has answered (UM-ADDR-12)."""
        return self.state is not TcpState.SYN_SENT

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
        sender = self.sender
        sender.write(data)
        if sender.unsent + sender.snd_nxt - sender.snd_una > self.high_water:
            self.write_blocked = True
        if not self.dirty:
            self.tcp.mark_dirty(self)

    def write_urgent(self, data: Buffer) -> None:
        """SEND with the urgent flag: the peer's program is told of everything up to the end of `data` (RFC 9293 §3.8.5).

        New programs should not use it (SHLD-13, RFC 6093); the urgent pointer is that of RFC 9293 MUST-62.
        """
        self.write(data)
        sender = self.sender
        sender.snd_up = sender.snd_nxt + sender.unsent
        self.set_segment_limit()

    def urgent_pending(self) -> int:
        """How many bytes, from the next that `read` returns, the peer marked as urgent; 0 when there are none."""
        receiver = self.receiver
        return max(0, receiver.rcv_up - (receiver.rcv_nxt - receiver.queued))

    def statistics(self, now: float) -> Statistics:
        """Counts and estimates in the style of TCP_INFO."""
        return collect(self, now)

    def read(self) -> list[Buffer]:
        """RECEIVE: all bytes that are in order, in pieces; empty when there are none."""
        receiver = self.receiver
        pieces = receiver.read()
        narrow = 2 * (receiver.rcv_adv - receiver.rcv_nxt) <= receiver.capacity
        if narrow and pieces and self.state in SYNCHRONIZED and receiver.window_update_due(self.advertised_mss()):
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
        if self.state is TcpState.SYN_RECEIVED:
            return  # processed after entering ESTABLISHED (RFC 9293 §3.10.4), see `arrives.establish`
        self.move(TcpTrigger.CLOSE, now, "close")
        self.tcp.mark_dirty(self)

    def give_handshake(self, seconds: float, now: float) -> None:
        """Fail with a time-out `seconds` from now unless the connection is established by then, or has ended."""
        if self.state is not TcpState.SYN_SENT and self.state is not TcpState.SYN_RECEIVED:
            return
        timers = self.timers
        self.handshake_timeout = min(self.handshake_timeout, max(seconds, 0.0) + (now - timers.waiting_since))
        timers.wait_for_handshake(now)

    def close(self, now: float) -> None:
        """Nobody reads or writes any more: shut down, and reset if the peer's data was not read (RFC 9293 §3.10.4)."""
        self.detached = True
        if self.state is TcpState.CLOSED:
            return
        if self.receiver.queued:
            self.abort(now)
            return
        self.shutdown(now)
        if self.timers.persisting:
            self.timers.waiting_since = now  # a window that stays closed is waited for once more, and no longer
        if self.state is TcpState.FIN_WAIT_2:
            self.timers.start_slow(now)

    def abort(self, now: float, cause: str = "abort") -> None:
        """ABORT: reset the connection and forget it."""
        if self.state is TcpState.CLOSED:
            return
        if self.state in SYNCHRONIZED or self.state is TcpState.SYN_RECEIVED:
            self._reset_peer(now)
        self.delete(TcpTrigger.DELETE, now, cause, errors.aborted())

    def _reset_peer(self, now: float) -> None:
        """An RST at SND.NXT, or at the window's end where the peer has moved that back: it takes none from outside its window.

        A peer that missed a segment expects another number and asks for it (RFC 5961 §3.2); a one-time address is not there
        any more to answer.  So an RST goes to each number that such a peer may expect, where what it has not reported begins.
        """
        sender = self.sender
        if self.state not in SYNCHRONIZED:
            self.emit(RST | ACK, sender.snd_nxt, now)
            return
        last = min(sender.snd_nxt, sender.snd_una + sender.snd_wnd)
        self.emit(RST | ACK, last, now)
        if self.entry.kind.one_time:
            missing = (segment.start for segment in sender.in_flight if segment.mark != SACKED and segment.start < last)
            for sequence in islice(missing, MOST_RESETS):
                self.emit(RST | ACK, sequence, now)

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

    def trouble(self, error: Exception) -> None:
        """Something is wrong that does not end the connection: tell its owner (RFC 9293 MUST-47)."""
        self.soft_error = error
        self.signal(Signal.TROUBLE)

    def set_options(self, options: SocketOptions, now: float) -> None:
        """Take over what can change while a connection stands: Nagle's algorithm, user time-out, keep-alive, send buffer."""
        before, self.options = self.options, options
        if self.state is TcpState.CLOSED:
            return
        if options.nodelay is not None:
            self.sender.nodelay = options.nodelay
        if options.user_timeout != before.user_timeout:
            self.set_user_timeout(options.user_timeout)
        if options.keep_alive != before.keep_alive and self.state in SYNCHRONIZED and not self.detached:
            self.timers.start_slow(now)
        if options.send_buffer != before.send_buffer:
            self.high_water = options.send_buffer
            self.low_water = options.send_buffer // 2
        self.tcp.mark_dirty(self)

    def set_user_timeout(self, seconds: float) -> None:
        """How long data may stay unacknowledged from now on; what the peer advertises no longer changes it (RFC 5482 §3.1)."""
        self.user_timeout = seconds
        told = self.told_timeout
        if told is not None:
            told.advertised, told.changeable, told.due = advertised(seconds), False, True

    def hear_user_timeout(self, seconds: int) -> None:
        """The peer advertises its user time-out (RFC 5482 §3.1)."""
        told = self.told_timeout
        if told is not None:
            told.told = seconds
            if told.changeable:
                self.user_timeout = told.wait()

    def set_dscp(self, dscp: int) -> None:
        """The Differentiated Services code point, 0 to 63, of all segments sent from now on (RFC 9293 §3.9.1.9)."""
        self.emitter.set_dscp(dscp)

    def fail(self, error: Exception, now: float, cause: str) -> None:
        """End with an error that the owner sees; a synchronized peer is told with a reset."""
        if self.state in SYNCHRONIZED:
            self._reset_peer(now)
        self.delete(TcpTrigger.DELETE, now, cause, error)

    def delete(self, trigger: TcpTrigger, now: float, cause: str, error: Exception | None = None) -> None:
        """DELETE TCB: out of the tables, timers off, the address no longer held."""
        self.timers.retire()
        self.move(trigger, now, cause)
        self.error = self.error or error
        if error is None and self.receiver.fin is None and not self.detached:
            self.error = errors.reset()
        self.tcp.forget(self, now, cause)
        self.signal(Signal.CLOSED)

    def fall_apart(self) -> None:
        """The connection has ended and nothing is under way: its parts let go of each other.

        Its memory, some forty objects, is free with the last reference then, and the next connection finds it in the processor's
        cache; the garbage collector would come by after hundreds of them.  What can be read of an ended connection stays.
        """
        self.timers.let_go()
        self.sender.let_go()

    # -- negotiation -----------------------------------------------------------------------------

    def advertised_mss(self) -> int:
        """The MSS to announce and to receive: the link's MTU less the fixed headers (RFC 6691)."""
        mtu: int = self.tcp.host.link_mtu
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
            if not self.receiver.scale:  # a spoofed SYN before may have taken it back
                self.receiver.scale = scale_for(wanted.receive_buffer_maximum)
        else:
            self.sender.scale = self.receiver.scale = 0
        self.timestamps = options.timestamp is not None and wanted.timestamps
        self.sack_permitted = options.sack_permitted and wanted.sack
        full = self.advertised_mss()
        if options.mss is not None:
            full = min(full, self.peer_mss)  # where our link takes more than its own, it cannot fill that
        self.ack_threshold = full - (TIMESTAMP_LENGTH if self.timestamps else 0) + 1
        if options.user_timeout is not None:
            self.hear_user_timeout(options.user_timeout)

    def start_congestion(self) -> None:
        """The first segment is about to be sent: how much may be, and what is done about losses."""
        sender = self.sender
        sender.congestion = create(self.options.congestion, sender.mss, self.options.pacing)
        if self.syn_retransmitted:
            sender.congestion.cwnd = sender.mss  # RFC 5681 §3.1: the initial window is one segment after a lost SYN
        if self.sack_permitted:
            sender.recovery = SelectiveRecovery(sender, self.rtt, self.timers)
        else:
            sender.recovery = NewRenoRecovery(sender, self.rtt, self.timers.recovery)

    def set_segment_size(self, mtu: int) -> None:
        """Effective send MSS (RFC 9293 §3.7.1), for packets of at most `mtu` bytes."""
        self.mtu = mtu
        mss = min(self.peer_mss, mtu - IPV6_TCP_HEADERS)
        if self.timestamps:
            mss -= TIMESTAMP_LENGTH
        sender = self.sender
        smaller = mss < sender.mss
        sender.mss = mss
        self.set_segment_limit()
        if smaller and sender.started:
            sender.outgrown = sender.transmissions
            sender.congestion.mss_changed(mss)

    def set_segment_limit(self) -> None:
        """The largest super-segment; URG and CWR belong to one segment."""
        sender = self.sender
        mss = sender.mss
        gso = self.tcp.host.properties.gso_size
        whole = sender.snd_up > sender.snd_nxt or self.ecn.announce or not gso
        sender.segment_limit = mss if whole else max(mss, (gso - 100) // mss * mss)

    def fit_path(self) -> None:
        """Send smaller packets where the path takes no larger ones any more, whoever has heard of it (RFC 8201 §5.2).

        That some of its own were dropped a connection hears by a Packet Too Big of its own: see `Tcp.error`.
        """
        if self.path.mtu < self.mtu:
            self.set_segment_size(self.path.mtu)

    def suspect_black_hole(self) -> None:
        """Time-out after time-out: perhaps large packets vanish without a Packet Too Big; send the least that must pass.

        The path's MTU stays: only this connection changes (RFC 4821 §7.7 in its simplest form).
        """
        sender = self.sender
        if sender.mss > DEFAULT_MSS and sender.in_flight[0].payload_length > DEFAULT_MSS:
            self.set_segment_size(DEFAULT_MSS + IPV6_TCP_HEADERS)

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
