"""SEGMENT ARRIVES: what a segment does to a connection, in the order of RFC 9293 §3.10.7.

`syn_sent` is §3.10.7.3, `otherwise` §3.10.7.4 with its eight checks as functions of their own.  CLOSED and LISTEN
(§3.10.7.1, §3.10.7.2) belong to no connection and are in `layer`.  RFC 5961 (blind attacks) and RFC 7323 (PAWS)
apply in every mode, because ports add no entropy here (UM-PORT-10).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..events import DropReason
from ..signals import Signal
from ..wire.tcp import ACK, FIN, RST, SYN, URG
from . import errors, replyport
from .buffers import grow_receive, grow_send
from .connection import Connection
from .options import Ecn
from .recovery import Phase
from .sequence import unwrap
from .states import TcpState, TcpTrigger

if TYPE_CHECKING:
    from .segment import Segment

_OPEN = Phase.OPEN
_RECOVERY = Phase.RECOVERY
_PAWS_IDLE = 24 * 24 * 3600.0
"""After 24 days without a segment TS.Recent is no longer valid (RFC 7323 §5.5)."""


def segment_arrives(connection: Connection, segment: Segment, now: float) -> None:
    """Process one segment for a connection that is not CLOSED."""
    if connection.state is TcpState.SYN_SENT:
        syn_sent(connection, segment, now)
    else:
        otherwise(connection, segment, now)


# -- §3.10.7.3 SYN-SENT ------------------------------------------------------------------------------


def syn_sent(connection: Connection, segment: Segment, now: float) -> None:
    """RFC 9293 §3.10.7.3."""
    sender = connection.sender
    ack = unwrap(segment.acknowledgment, sender.snd_nxt)
    acknowledges = bool(segment.flags & ACK)
    if acknowledges and ack != sender.snd_nxt:
        if not segment.flags & RST:
            connection.tcp.reset(segment, connection.entry, now)
        connection.tcp.counters.drop(DropReason.TCP_ACK)
        return
    if segment.flags & RST:
        if acknowledges:
            connection.fail(errors.refused(), now, "refused")
        else:
            connection.tcp.counters.drop(DropReason.TCP_FLAGS)
        return
    if not segment.flags & SYN:
        connection.tcp.counters.drop(DropReason.TCP_FLAGS)
        return
    take_syn(connection, segment, now)
    if acknowledges:
        establish(connection, segment, ack, now)
        connection.receiver.ack_now = True
        _text_and_fin(connection, segment, connection.receiver.rcv_nxt, now)
        connection.tcp.mark_dirty(connection)
    else:
        connection.move(TcpTrigger.SYN_ARRIVES, now, "simultaneous open")
        connection.syn_sent_at = None  # what acknowledges it now may be for either (Karn's algorithm)
        connection.send_syn(now)


def take_syn(connection: Connection, segment: Segment, now: float) -> None:
    """Record the peer's initial sequence number and options."""
    receiver = connection.receiver
    receiver.start(segment.sequence)
    connection.negotiate(segment.options)
    ecn, wanted = connection.ecn, connection.options.ecn
    refused = connection.state is TcpState.SYN_RECEIVED and not ecn.usable  # our answer in a simultaneous open
    bare = connection.armed is None and (connection.syn_retransmitted or refused or wanted is not Ecn.REQUEST)
    ecn.agree(segment.flags, wanted, bare)
    if segment.options.timestamp is not None:
        receiver.ts_recent = segment.options.timestamp[0]
        receiver.ts_recent_at = now
    if replyport.may_move(connection):
        connection.remote_port = segment.source_port


def establish(connection: Connection, segment: Segment, ack: int, now: float) -> None:
    """Our SYN is acknowledged: ESTABLISHED."""
    sender = connection.sender
    if connection.syn_retransmitted:
        connection.rtt.rto = 3.0  # RFC 6298 (5.7): a SYN was lost and there is no sample
    elif connection.syn_sent_at is None:
        connection.rtt.rto = 1.0
    else:
        connection.rtt.sample(now - connection.syn_sent_at, now)
    connection.rtt.backoff = 0  # how often the SYN was lost says nothing of data
    sender.snd_una = ack
    connection.timers.retransmit.cancel()
    connection.set_segment_size(connection.path.mtu)
    window = segment.window if segment.flags & SYN else segment.window << sender.scale
    _set_window(connection, segment, unwrap(segment.sequence, connection.receiver.rcv_nxt), ack, window)
    syn_ack = bool(segment.flags & SYN)
    connection.move(TcpTrigger.SYN_ACK_ARRIVES if syn_ack else TcpTrigger.ACK_OF_SYN, now, "SYN acknowledged")
    connection.last_heard = now
    connection.timers.start_slow(now)
    connection.signal(Signal.ESTABLISHED)
    if sender.fin_queued:
        connection.move(TcpTrigger.CLOSE, now, "closed before it was established")


# -- §3.10.7.4 other states --------------------------------------------------------------------------


def otherwise(connection: Connection, segment: Segment, now: float) -> None:
    """RFC 9293 §3.10.7.4 for SYN-RECEIVED and the synchronized states."""
    sequence = unwrap(segment.sequence, connection.receiver.rcv_nxt)
    if connection.state is TcpState.SYN_RECEIVED and _still_opening(connection, segment, now):
        return
    if segment.flags & (SYN | RST) == SYN and connection.state is not TcpState.SYN_RECEIVED:
        _check_syn(connection, segment, now)  # before the first check: RFC 5961 §4.2 does not ask for its number
        return
    if not _check_sequence(connection, segment, sequence, now):
        return
    if segment.flags & RST:
        _check_rst(connection, segment, sequence, now)
        return
    if segment.flags & SYN:
        _check_syn(connection, segment, now)
        return
    if not segment.flags & ACK:
        connection.tcp.counters.drop(DropReason.TCP_FLAGS)
        return
    if not _check_ack(connection, segment, sequence, now):
        return
    connection.last_heard = now
    if segment.options.user_timeout is not None:
        connection.hear_user_timeout(segment.options.user_timeout)
    if connection.state is not TcpState.CLOSED:
        _text_and_fin(connection, segment, sequence, now)
    connection.tcp.mark_dirty(connection)


def _still_opening(connection: Connection, segment: Segment, now: float) -> bool:
    """SYN-RECEIVED after an active open: what SYN-SENT would make of a SYN-ACK or a reset; False for other segments.

    A spoofed SYN may have brought us here with a foreign ISN; whoever acknowledges our ISN is the peer (UM-PORT-12).  So a
    SYN-ACK for our SYN proves the peer's numbers, and no reset but one that acknowledges it refuses: RFC 9293 §3.10.7.4 takes
    any at RCV.NXT, but that proves the foreign ISN alone, and ports add no entropy.
    """
    if connection.armed is not None:
        return False
    ack = unwrap(segment.acknowledgment, connection.sender.snd_nxt)
    acknowledges = bool(segment.flags & ACK) and ack == connection.sender.snd_nxt
    if segment.flags & RST:
        if acknowledges:
            connection.fail(errors.refused(), now, "refused")
        else:
            connection.tcp.counters.drop(DropReason.TCP_FLAGS)
        return True
    if not acknowledges or not segment.flags & SYN:
        return False
    take_syn(connection, segment, now)
    establish(connection, segment, ack, now)
    connection.receiver.ack_now = True
    connection.tcp.mark_dirty(connection)
    return True


def _check_sequence(connection: Connection, segment: Segment, sequence: int, now: float) -> bool:
    """First: the sequence number, with PAWS before it (RFC 9293 §3.10.7.4, RFC 7323 §5.3)."""
    receiver = connection.receiver
    counters = connection.tcp.counters
    if connection.timestamps and not segment.flags & RST and not _passes_paws(connection, segment, now):
        return False
    if connection.state is TcpState.SYN_RECEIVED and _repeats_syn(connection, segment, sequence):
        counters.drop(DropReason.TCP_SEQUENCE)
        connection.ecn.syn_again(segment.flags)
        connection.answer_again(now)
        return False
    length = segment.length if not segment.flags & RST else 0  # a reset may carry text (SHLD-2)
    window = receiver.window()
    end = sequence + length
    left = receiver.rcv_nxt
    if length == 0:
        acceptable = sequence == left if window == 0 else left <= sequence < left + window
        if sequence == left + window and not segment.flags & RST:
            acceptable = True  # the acknowledgements of a peer that has filled the window come from its right edge
    else:
        acceptable = window > 0 and sequence < left + window and end > left
        if sequence == left and length == 1 and segment.flags & FIN:
            acceptable = True  # it takes no room, and peers send it into a closed window
    if acceptable:
        return True
    counters.drop(DropReason.TCP_SEQUENCE)
    if segment.flags & RST:
        return False
    if segment.source_port != connection.remote_port:
        replyport.follow_repetition(connection, segment, sequence, now)
    probed = window == 0 and (segment.payload or end == left - 1)
    if probed or (segment.payload and end <= left):
        # A probe of our closed window, or a repetition: the peer must hear where we are.
        if window:
            receiver.note_duplicate(sequence, sequence + len(segment.payload))
        elif sequence == left:
            if segment.flags & URG:
                _check_urgent(connection, segment, sequence)
            _check_ack_only(connection, segment, sequence, now)
        receiver.ack_now = True
        connection.tcp.mark_dirty(connection)
    else:
        connection.challenge(now)  # limited, so that two ends that disagree do not answer each other for ever
    return False


def _passes_paws(connection: Connection, segment: Segment, now: float) -> bool:
    """Where timestamps are negotiated: whether this one is there and not older than the last (RFC 7323 §3.2, §5.3)."""
    receiver = connection.receiver
    counters = connection.tcp.counters
    stamp = segment.options.timestamp
    if stamp is None:
        counters.drop(DropReason.TCP_PAWS)  # §3.2: silently dropped
        return False
    recent = receiver.ts_recent
    if recent is not None and now - receiver.ts_recent_at < _PAWS_IDLE and unwrap(stamp[0], recent) < recent:
        counters.drop(DropReason.TCP_PAWS)
        connection.challenge(now)
        return False
    return True


def _repeats_syn(connection: Connection, segment: Segment, sequence: int) -> bool:
    """SYN-RECEIVED: whether this is the peer's SYN once more, as if our answer was lost.

    What it carries is not looked at: data on it is that which the first one brought, of which nothing was taken, and
    reaches into the window without being another SYN.
    """
    again = segment.flags & (SYN | ACK | RST) == SYN and sequence == connection.receiver.rcv_nxt - 1
    return again and connection.timers.retransmit.armed


def _check_ack_only(connection: Connection, segment: Segment, sequence: int, now: float) -> None:
    """A segment that a closed window keeps out still carries a valid acknowledgement (RFC 9293 §3.10.7.4)."""
    if segment.flags & ACK and not segment.flags & (SYN | RST) and connection.state is not TcpState.SYN_RECEIVED:
        _check_ack(connection, segment, sequence, now)


def _check_rst(connection: Connection, segment: Segment, sequence: int, now: float) -> None:
    """Second: RST counts only at exactly RCV.NXT, elsewhere in the window it is challenged (RFC 5961 §3)."""
    if sequence != connection.receiver.rcv_nxt:
        connection.tcp.counters.drop(DropReason.TCP_SEQUENCE)
        connection.challenge(now)
        return
    if connection.state is TcpState.SYN_RECEIVED:
        connection.delete(TcpTrigger.DELETE, now, "reset", errors.refused())
    else:
        connection.delete(TcpTrigger.DELETE, now, "reset", errors.reset())


def _check_syn(connection: Connection, segment: Segment, now: float) -> None:
    """Fourth: a SYN is answered with a challenge ACK whatever its number (RFC 5961 §4).

    The answer goes to the established port, never to the SYN's (UM-PORT-4).  A half-open handshake of a listener ends
    instead: back to LISTEN (RFC 9293 §3.10.7.4).
    """
    connection.tcp.counters.drop(DropReason.TCP_FLAGS)
    if connection.armed is not None and connection.state is TcpState.SYN_RECEIVED:
        connection.delete(TcpTrigger.DELETE, now, "another SYN", errors.refused())
        return
    connection.challenge(now)


def _take_in(connection: Connection, segment: Segment, sequence: int, ack: int, now: float) -> None:
    """What an acceptable segment tells beside its acknowledgement `ack`, once that is found valid: the peer's port and clock.

    TS.Recent follows segments that span the last acknowledgement sent (RFC 7323 §4.3).  Not before the acknowledgement is found
    valid: else a blind segment with a guessed sequence number could move it so far ahead that PAWS keeps the peer out.
    """
    if segment.source_port != connection.remote_port:
        replyport.follow(connection, segment, sequence, ack, now)
    stamp = segment.options.timestamp
    receiver = connection.receiver
    if connection.timestamps and stamp is not None and sequence <= receiver.last_ack_sent:
        receiver.ts_recent = stamp[0]
        receiver.ts_recent_at = now


def _check_ack(connection: Connection, segment: Segment, sequence: int, now: float) -> bool:
    """Fifth: the ACK field (RFC 9293 §3.10.7.4, RFC 5961 §5); False when the segment is to be dropped."""
    sender = connection.sender
    ack = unwrap(segment.acknowledgment, sender.snd_una)
    if connection.state is TcpState.SYN_RECEIVED:
        if ack != sender.snd_nxt:
            connection.tcp.counters.drop(DropReason.TCP_ACK)
            connection.tcp.reset(segment, connection.entry, now)
            return False
        _take_in(connection, segment, sequence, ack, now)
        establish(connection, segment, ack, now)
        return connection.armed is None or connection.tcp.passive.completed(connection, now)
    if ack > sender.snd_nxt or ack < sender.snd_una - max(sender.maximum_window, 65535):
        connection.tcp.counters.drop(DropReason.TCP_ACK)
        connection.challenge(now)
        return False
    _take_in(connection, segment, sequence, ack, now)
    acknowledge(connection, segment, sequence, ack, now)
    if connection.finished_sending():
        fin_acknowledged(connection, now)
    return connection.state is not TcpState.CLOSED


def acknowledge(connection: Connection, segment: Segment, sequence: int, ack: int, now: float) -> None:
    """SND.UNA, window, round-trip time, congestion control."""
    if connection.path.mtu < connection.mtu:
        connection.fit_path()  # before anything is repeated
    sender = connection.sender
    una = sender.snd_una
    window = segment.window << sender.scale
    options = segment.options
    if ack > sender.snd_una or (options.sack and ack == sender.snd_una and connection.sack_permitted):
        new_data_acknowledged(connection, ack, options.timestamp, now, options.sack)
    elif ack == sender.snd_una and sender.in_flight:
        unchanged = sender.snd_wnd == window > 0  # with a closed window it is the answer to a probe
        if unchanged and not segment.payload and not segment.flags & FIN:
            sender.recovery.on_duplicate_ack(now)
    connection.ecn.ack_arrives(segment.flags, ack, una, sender, now)
    if ack >= sender.snd_una:
        closed = sender.snd_wnd == 0
        _set_window(connection, segment, sequence, ack, window)
        if closed and sender.snd_wnd and sender.in_flight and connection.timers.persisting:
            sender.mark_all_lost()
            connection.timers.restart_retransmit(now)


def new_data_acknowledged(
    connection: Connection,
    ack: int,
    stamp: tuple[int, int] | None,
    now: float,
    sack: list[tuple[int, int]] | None = None,
) -> None:
    """The acknowledgement moves SND.UNA to `ack`, or SACKs something: shared by the fast path and the slow."""
    sender = connection.sender
    news = sender.news
    advanced = ack > sender.snd_una
    news.begin(sender.pipe, sender.snd_una)
    if stamp is not None and connection.timestamps:
        clock = int(now * 1000)
        elapsed = (clock + connection.timestamp_offset - stamp[1]) & 0xFFFFFFFF
        if elapsed <= clock - int(connection.opened_at * 1000):  # nothing older was ever sent
            news.echo = clock - elapsed
    recovery = sender.recovery
    if advanced:
        sender.acknowledge(ack, now)
    if sack:
        recovery.read_sack(sack)
    sender.finish_news(now)
    rtt = connection.rtt
    if advanced:
        if news.clean is not None and not news.ambiguous:
            news.rtt = now - news.clean.sent_at
        elif news.echo is not None:
            news.rtt = now - news.echo / 1000
        if news.rtt is not None:
            rtt.sample(news.rtt, now)
        else:
            rtt.backoff = 0  # RFC 6298 §5: the time-out itself stays doubled until there is a sample
        connection.timers.restart_retransmit(now)
    news.srtt = rtt.srtt or rtt.rto
    news.minimum_rtt = rtt.minimum_rtt
    opened = news.acked if recovery.phase is _OPEN else news.in_flight - sender.pipe
    recovery.on_ack(now)
    congestion = sender.congestion
    if advanced and recovery.phase is not _RECOVERY:
        if opened < news.acked and congestion.cwnd < congestion.ssthresh:
            news.acked = opened  # what had arrived before the repair makes no burst (RFC 5681 §3.1, RFC 3465 §2.3)
        congestion.on_ack(news, now)
    congestion.on_delivery(news, now)
    if 2 * congestion.cwnd > connection.high_water:
        grow_send(connection)
    if connection.trace is not None:
        connection.trace.point(connection, now)
    if advanced:
        connection.path.confirm(now)


def _set_window(connection: Connection, segment: Segment, sequence: int, ack: int, window: int) -> None:
    """SND.WND from the segment that is newest (RFC 9293 §3.10.7.4); `ack` is not below SND.UNA, nor SND.WL2 above it.

    The RFC's order, by SEG.SEQ and then SEG.ACK, takes a repetition of lost data for old.  But what acknowledges something new
    was sent after all that acknowledged less; and were its window refused, what SND.WND grants would move on with SND.UNA.
    """
    sender = connection.sender
    if sender.snd_wl2 < ack or sender.snd_wl1 <= sequence:
        sender.snd_wnd = window
        sender.snd_wl1 = sequence
        sender.snd_wl2 = ack
        if window > sender.maximum_window:
            sender.maximum_window = window


def fin_acknowledged(connection: Connection, now: float) -> None:
    """Our FIN is acknowledged."""
    state = connection.state
    if state is TcpState.FIN_WAIT_1:
        connection.move(TcpTrigger.ACK_OF_FIN, now, "FIN acknowledged")
        connection.timers.start_slow(now)
    elif state is TcpState.CLOSING:
        connection.tcp.time_wait(connection, TcpTrigger.ACK_OF_FIN, now)
    elif state is TcpState.LAST_ACK:
        connection.delete(TcpTrigger.ACK_OF_FIN, now, "closed")


def _text_and_fin(connection: Connection, segment: Segment, sequence: int, now: float) -> None:
    """Seventh and eighth: the segment text and the FIN bit."""
    payload = segment.payload
    fin = bool(segment.flags & FIN)
    if segment.flags & URG:
        _check_urgent(connection, segment, sequence)
    if not payload and not fin:
        return
    receiver = connection.receiver
    if connection.state not in (TcpState.ESTABLISHED, TcpState.FIN_WAIT_1, TcpState.FIN_WAIT_2):
        connection.tcp.counters.drop(DropReason.TCP_AFTER_CLOSE)
        return  # the peer sent its FIN before: nothing can follow it
    if payload and connection.ecn.data_arrives(segment.flags, segment.traffic_class):
        receiver.ack_now = True
    if payload and connection.detached and sequence + len(payload) > receiver.rcv_nxt:
        # Nobody will ever read it: say so (RFC 1122 §4.2.2.13).
        connection.abort(now, "data after close")
        return
    edge = receiver.rcv_nxt + receiver.window()
    if sequence + len(payload) > edge:
        payload = payload[: max(0, edge - sequence)]
        fin = False
        receiver.ack_now = True
    before = receiver.rcv_nxt
    grow_receive(connection, now)
    if not receiver.accept(sequence, payload, fin):
        connection.tcp.counters.drop(DropReason.TCP_REASSEMBLY_LIMIT)
    if sequence > before and not connection.sack_permitted:
        connection.send_ack(now)  # without SACK the peer counts duplicates: each out-of-order segment gets its own
    if receiver.rcv_nxt > before and receiver.queued:
        connection.signal(Signal.READABLE)
    if receiver.fin_taken():
        fin_arrives(connection, now)


def _check_urgent(connection: Connection, segment: Segment, sequence: int) -> None:
    """Sixth: the URG bit; RCV.UP only grows, and the user is told when it does (RFC 9293 §3.10.7.4, MUST-32)."""
    receiver = connection.receiver
    pointer = sequence + segment.urgent
    if receiver.fin is None and pointer > max(receiver.rcv_up, receiver.rcv_nxt - receiver.queued):
        receiver.rcv_up = pointer
        connection.signal(Signal.URGENT)


def fin_arrives(connection: Connection, now: float) -> None:
    """The peer's FIN is in order."""
    connection.signal(Signal.READABLE | Signal.END_OF_STREAM)
    connection.receiver.ack_now = True
    state = connection.state
    if state is TcpState.FIN_WAIT_2:
        connection.tcp.time_wait(connection, TcpTrigger.FIN_ARRIVES, now)
    elif state is TcpState.FIN_WAIT_1 and connection.finished_sending():
        connection.tcp.time_wait(connection, TcpTrigger.FIN_AND_ACK_OF_FIN, now)
    else:
        connection.move(TcpTrigger.FIN_ARRIVES, now, "FIN arrived")
