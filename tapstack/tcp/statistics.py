"""Counts and estimates of one connection, as TCP_INFO has them, with a text like that of `ss -ti`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ..types import address_text
from .segments import LOST, SACKED
from .trace import UNLIMITED

if TYPE_CHECKING:
    from .connection import Connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """One moment of one connection.  Times in seconds, sizes in bytes, rates in bytes per second; None: not known.

    send_scale, receive_scale: shifts of RFC 7323.  unacked, lost, sacked: segments in flight with that mark.
    retransmissions, timeouts, probes, undone: events so far.  delivery_rate: of the latest acknowledgement.
    last_sent, last_heard: ages.  send_queue: taken from the application and not acknowledged; receive_queue: not yet
    read; out_of_order: kept beyond a hole.
    """

    connection: int
    local: str
    local_port: int
    remote: str
    remote_port: int
    mode: str
    state: str
    congestion: str
    phase: str
    age: float
    timestamps: bool
    sack: bool
    ecn: bool
    send_scale: int
    receive_scale: int
    rto: float
    srtt: float | None
    rttvar: float
    minimum_rtt: float | None
    mss: int
    path_mtu: int
    peer_mss: int
    cwnd: int | None
    ssthresh: int | None
    send_window: int
    receive_window: int
    receive_buffer: int
    send_queue: int
    receive_queue: int
    out_of_order: int
    bytes_sent: int
    bytes_acked: int
    bytes_retransmitted: int
    bytes_received: int
    segments_sent: int
    retransmissions: int
    timeouts: int
    probes: int
    undone: int
    unacked: int
    lost: int
    sacked: int
    reordering: bool
    pacing_rate: float | None
    delivery_rate: float | None
    last_sent: float
    last_heard: float

    def as_dict(self) -> dict[str, object]:
        """All fields by name."""
        return asdict(self)

    def text(self) -> str:
        """Two lines: who, and how, the second with the words of `ss -ti`."""
        words = [self.congestion]
        words += [word for word, on in (("ts", self.timestamps), ("sack", self.sack), ("ecn", self.ecn)) if on]
        words.append(f"wscale:{self.send_scale},{self.receive_scale}")
        words.append(f"rto:{_ms(self.rto)}")
        if self.srtt is not None:
            words.append(f"rtt:{_ms(self.srtt)}/{_ms(self.rttvar)}")
        words += [f"mss:{self.mss}", f"pmtu:{self.path_mtu}"]
        if self.cwnd is not None:
            words.append(f"cwnd:{self.cwnd // self.mss}")
            if self.srtt:
                words.append(f"send {_rate(self.cwnd / self.srtt)}")
        if self.ssthresh is not None:
            words.append(f"ssthresh:{self.ssthresh // self.mss}")
        words += [f"bytes_sent:{self.bytes_sent}", f"bytes_retrans:{self.bytes_retransmitted}"]
        words += [f"bytes_acked:{self.bytes_acked}", f"bytes_received:{self.bytes_received}"]
        words += [f"segs_out:{self.segments_sent}", f"lastsnd:{_ms(self.last_sent)}", f"lastrcv:{_ms(self.last_heard)}"]
        if self.pacing_rate is not None:
            words.append(f"pacing_rate {_rate(self.pacing_rate)}")
        if self.delivery_rate is not None:
            words.append(f"delivery_rate {_rate(self.delivery_rate)}")
        words.append(f"unacked:{self.unacked}")
        words.append(f"retrans:{self.retransmissions}")
        words += [f"{name}:{n}" for name, n in (("lost", self.lost), ("sacked", self.sacked)) if n]
        words += [f"{name}:{n}" for name, n in (("timeouts", self.timeouts), ("undone", self.undone)) if n]
        if self.reordering:
            words.append("reordering")
        words += [f"rcv_space:{self.receive_buffer}", f"rcv_wnd:{self.receive_window}", f"snd_wnd:{self.send_window}"]
        if self.minimum_rtt is not None:
            words.append(f"minrtt:{_ms(self.minimum_rtt)}")
        words.append(f"phase:{self.phase.replace(' ', '-')}")
        who = (
            f"{self.state} {self.receive_queue} {self.send_queue} "
            f"[{self.local}]:{self.local_port} [{self.remote}]:{self.remote_port} {self.mode}"
        )
        return f"{who}\n\t {' '.join(words)}"


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.3f}".rstrip("0").rstrip(".")


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second * 8:.0f}bps"


def collect(connection: Connection, now: float) -> Statistics:
    """The statistics of `connection` at `now`."""
    sender, receiver, rtt = connection.sender, connection.receiver, connection.rtt
    started = sender.started
    congestion = sender.congestion if started else None
    recovery = sender.recovery if started else None
    news = sender.news if started else None
    fin = bool(sender.fin_sent)
    fin_acked = fin and sender.snd_una == sender.snd_nxt
    ssthresh = congestion.ssthresh if congestion is not None and congestion.ssthresh < UNLIMITED else None
    rack = getattr(recovery, "rack", None)
    return Statistics(
        connection=connection.id,
        local=address_text(connection.local),
        local_port=connection.local_port,
        remote=address_text(connection.remote),
        remote_port=connection.remote_port,
        mode=connection.mode.value,
        state=connection.state.value,
        congestion=connection.options.congestion,
        phase=f"{congestion.phase}, {recovery.phase.value}" if congestion is not None and recovery is not None else "",
        age=now - connection.opened_at,
        timestamps=connection.timestamps,
        sack=connection.sack_permitted,
        ecn=connection.ecn.usable,
        send_scale=sender.scale,
        receive_scale=receiver.scale,
        rto=rtt.rto,
        srtt=rtt.srtt,
        rttvar=rtt.rttvar,
        minimum_rtt=rtt.minimum_rtt if rtt.srtt is not None else None,
        mss=sender.mss,
        path_mtu=connection.path.mtu,
        peer_mss=connection.peer_mss,
        cwnd=congestion.cwnd if congestion is not None else None,
        ssthresh=ssthresh,
        send_window=sender.snd_wnd,
        receive_window=receiver.window(),
        receive_buffer=receiver.capacity,
        send_queue=sender.buffered,
        receive_queue=receiver.queued,
        out_of_order=receiver.beyond,
        bytes_sent=max(0, sender.snd_nxt - sender.iss - 1 - fin) + sender.retransmitted_bytes,
        bytes_acked=max(0, sender.snd_una - sender.iss - 1 - fin_acked),
        bytes_retransmitted=sender.retransmitted_bytes,
        bytes_received=max(0, receiver.rcv_nxt - receiver.irs - 1 - receiver.fin_taken()),
        segments_sent=sender.transmissions,
        retransmissions=sender.retransmissions,
        timeouts=connection.timers.timeouts,
        probes=recovery.probes if recovery is not None else 0,
        undone=recovery.undone if recovery is not None else 0,
        unacked=len(sender.in_flight),
        lost=sum(segment.mark == LOST for segment in sender.in_flight),
        sacked=sum(segment.mark == SACKED for segment in sender.in_flight),
        reordering=bool(rack is not None and rack.reordering_seen),
        pacing_rate=congestion.pacing_rate if congestion is not None else None,
        delivery_rate=news.rate_bytes / news.interval if news is not None and news.interval > 0 else None,
        last_sent=now - sender.last_sent if sender.transmissions else now - connection.opened_at,
        last_heard=now - connection.last_heard,
    )
