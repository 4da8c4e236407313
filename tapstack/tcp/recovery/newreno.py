"""Loss recovery without SACK: fast retransmit and NewReno (RFC 5681 §3.2, RFC 6582).

Three duplicate acknowledgements mean that the segment at `snd_una` is lost.  Each duplicate also means that one
segment left the network: that is `dup_credit`, RFC 5681's "inflation" kept apart from cwnd.  A partial
acknowledgement, one that stops before `recover`, shows the next hole.
"""

from __future__ import annotations

from ..sender import Sender

DUPLICATE_THRESHOLD = 3


def on_duplicate_ack(sender: Sender, now: float) -> None:
    """An acknowledgement that moved nothing while data is in flight."""
    sender.duplicate_acks += 1
    if sender.in_recovery:
        sender.dup_credit += sender.mss
    elif sender.duplicate_acks == DUPLICATE_THRESHOLD and sender.snd_una > sender.recover:
        sender.in_recovery = True
        sender.recover = sender.snd_nxt
        sender.congestion.on_congestion(sender.snd_nxt - sender.snd_una, now)
        sender.mark_lost(sender.mss)
        sender.dup_credit = DUPLICATE_THRESHOLD * sender.mss
        sender.resend(sender.in_flight[0], now)


def on_new_ack(sender: Sender, acked: int, now: float) -> bool:
    """`snd_una` has just moved by `acked`; True when cwnd may grow (no recovery is under way)."""
    sender.duplicate_acks = 0
    if not sender.in_recovery:
        return True
    if sender.snd_una >= sender.recover:
        sender.in_recovery = False
        sender.dup_credit = 0
        congestion = sender.congestion
        congestion.cwnd = min(congestion.ssthresh, max(sender.pipe, sender.mss) + sender.mss)
        return False
    sender.dup_credit = max(0, sender.dup_credit - acked + sender.mss)
    first = sender.in_flight[0]
    if not first.lost and not first.retransmitted:
        sender.mark_lost(sender.mss)
    if first.lost:
        sender.resend(sender.in_flight[0], now)
    return False


def on_timeout(sender: Sender, now: float) -> None:
    """The retransmission timer fired: everything in flight counts as lost, and cwnd restarts from one segment."""
    if sender.in_recovery or sender.snd_una > sender.recover:
        sender.congestion.on_timeout(sender.snd_nxt - sender.snd_una, now)
    else:
        sender.congestion.cwnd = sender.congestion.mss
    sender.recover = sender.snd_nxt
    sender.in_recovery = False
    sender.duplicate_acks = 0
    sender.dup_credit = 0
    sender.mark_lost()
