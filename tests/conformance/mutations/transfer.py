"""Defects in a transfer over time: recovery, reductions, timers, segments that are cut, cookies."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_REDUCTIONS = "tests/unit/tcp/test_reductions.py"
_STREAMS = "tests/unit/tcp/test_streams.py"
_FLOOD = "tests/unit/tcp/test_flood.py"
_TIMEOUT = "tests/unit/tcp/test_user_timeout.py"
_RECOVERY = "tests/unit/tcp/test_recovery.py"
_CONGESTION = "tests/unit/tcp/test_congestion.py"
_HELD = "tests/unit/tcp/test_held.py"
_ECN = "tests/unit/tcp/test_ecn.py"
_UNDO = "tests/unit/tcp/test_undo.py"
_TIMERS = "tests/unit/tcp/test_timers.py"
_WINDOWS = "tests/unit/tcp/test_rfc9293_windows.py"

MUTATIONS = (
    Mutation(
        "stale-proof",
        "the acknowledgement of an earlier recovery's repetition takes back this reduction",
        ("ST-TCP-4",),
        (_REDUCTIONS,),
        (
            Edit(
                "tapstack.tcp.recovery.spurious:Undo.proven",
                "int(news.repeated_at * 1000) >= self._first_at",
                "news.ambiguous",
            ),
        ),
    ),
    Mutation(
        "reduced-twice",
        "a time-out in recovery reduces the threshold a second time",
        ("ST-TCP-4",),
        (_REDUCTIONS,),
        (
            Edit(
                "tapstack.tcp.recovery.base:Recovery._reduce_for_timeout",
                "if self.phase is Phase.OPEN:",
                "if self.phase is not Phase.LOSS:",
            ),
        ),
    ),
    Mutation(
        "threshold-held-for-all",
        "any time-out after the first holds the threshold, whatever was acknowledged between them",
        ("ST-TCP-5",),
        (_REDUCTIONS,),
        (
            Edit(
                "tapstack.tcp.recovery.base:Recovery._reduce_for_timeout",
                "self.phase is Phase.RECOVERY or una > self._timeout_una",
                "self.phase is Phase.RECOVERY",
            ),
        ),
    ),
    Mutation(
        "networks-duplicate",
        "a duplicate that the network made proves that a loss was none",
        ("ST-TCP-3",),
        (_UNDO,),
        (
            Edit(
                "tapstack.tcp.recovery.spurious:Undo.duplicate_reported",
                "self._again = None",
                "self._again = again = again[1:]; return not again",
            ),
        ),
    ),
    Mutation(
        "mark-taken-back",
        "a duplicate takes back the reduction for a mark",
        ("ST-TCP-7",),
        (_UNDO,),
        (Edit("tapstack.tcp.recovery.base:Recovery.reduce", "self._undo.forget()", "pass"),),
    ),
    Mutation(
        "proof-for-ever",
        "a duplicate long after a recovery takes back its reduction",
        ("ST-TCP-3",),
        (_UNDO,),
        (Edit("tapstack.tcp.recovery.spurious:Undo.over", "self._until = snd_nxt", "pass"),),
    ),
    Mutation(
        "mark-and-loss",
        "a loss reduces a window that a mark has reduced already",
        ("ST-TCP-7",),
        (_ECN,),
        (
            Edit(
                "tapstack.tcp.recovery.base:Recovery._reduce_for_loss",
                "if start < self.reduced:",
                "if False:",
            ),
        ),
    ),
    Mutation(
        "loss-unannounced",
        "a loss is repaired without CWR, and the echo of a mark of its window reduces once more",
        ("ST-TCP-7",),
        (_ECN,),
        (Edit("tapstack.tcp.recovery.base:Recovery._reduce_for_loss", "self._note_reduction()", "pass"),),
    ),
    Mutation(
        "mark-swallowed",
        "a mark does not count where the reduction of its window has been taken back",
        ("ST-TCP-7",),
        (_ECN,),
        (Edit("tapstack.tcp.recovery.base:Recovery._take_back", "self.reduced = before", "pass"),),
    ),
    Mutation(
        "next-window-free",
        "while a loss is being repaired, those of the next window cost nothing",
        ("ST-TCP-7",),
        (_ECN,),
        (
            Edit(
                "tapstack.tcp.recovery.selective:SelectiveRecovery._notice",
                "self.phase is Phase.RECOVERY and self._reduce_for_loss(newest, now)",
                "False",
            ),
        ),
    ),
    Mutation(
        "probe-unexpected",
        "a probe that repeats is taken for new data, and that it came twice for a duplicate of the network",
        ("ST-TCP-3",),
        (_UNDO,),
        (
            Edit(
                "tapstack.tcp.recovery.selective:SelectiveRecovery.on_timer",
                "self._probe_start = last.start",
                "pass",
            ),
        ),
    ),
    Mutation(
        "moment-counts",
        "only what is in flight at the moment shows that the window is used",
        ("ST-TCP-5",),
        (_REDUCTIONS,),
        (Edit("tapstack.tcp.congestion.base:used_up", "2 * news.peak >= cwnd", "2 * news.in_flight >= cwnd"),),
    ),
    Mutation(
        "late-original",
        "an original that comes after its repetition makes the other repetitions overdue",
        ("ST-TCP-6",),
        (_REDUCTIONS,),
        (
            Edit(
                "tapstack.tcp.recovery.rack:Rack.update",
                "self.reordering_seen or self.multiplier > 1",
                "False",
            ),
        ),
    ),
    Mutation(
        "too-big-waits",
        "what a Packet Too Big says is lost waits for a timer",
        ("ST-IP6-8",),
        (_STREAMS,),
        (Edit("tapstack.tcp.layer:Tcp._packet_too_big", "sender.mark_all_lost(sender.outgrown)", "pass"),),
    ),
    Mutation(
        "front-sent-again",
        "the acknowledged front of a segment stays in it",
        ("ST-TCP-1",),
        (_STREAMS,),
        (Edit("tapstack.tcp.flight:Flight._trim", "split_pieces(segment.pieces, gone)[1]", "segment.pieces"),),
    ),
    Mutation(
        "cut-in-place",
        "the parts of a super-segment all have its first number",
        ("ST-LINK-1",),
        (_STREAMS,),
        (Edit("tapstack.tcp.emitter:Emitter._emit_cut", "sequence + start", "sequence"),),
    ),
    Mutation(
        "fast-window-unscaled",
        "the fast path takes the window as it stands in the header",
        ("ST-TCP-2",),
        (_STREAMS,),
        (Edit("tapstack.tcp.fastpath:receive", "window <<= sender.scale", "pass"),),
    ),
    Mutation(
        "old-window",
        "the window of a segment that a newer one overtook is taken",
        ("ST-TCP-1",),
        (_WINDOWS,),
        (Edit("tapstack.tcp.fastpath:_take", "sender.snd_wl1 <= receiver.rcv_nxt or sender.snd_wl2 < ack", "True"),),
    ),
    Mutation(
        "window-runs-away",
        "the window of a repetition that acknowledges something new is refused, and the old one moves on with SND.UNA",
        ("ST-TCP-1",),
        (_WINDOWS,),
        (Edit("tapstack.tcp.fastpath:_take", " or sender.snd_wl2 < ack", ""),),
    ),
    Mutation(
        "old-window-opens",
        "a window that is refused as old opens a closed one all the same",
        ("ST-TCP-11",),
        (_TIMERS,),
        (Edit("tapstack.tcp.arrives:acknowledge", "closed and sender.snd_wnd", "closed and window"),),
    ),
    Mutation(
        "answered-probe-is-loss",
        "the answers to probes of a closed window count as duplicate acknowledgements",
        ("ST-TCP-11",),
        (_TIMERS,),
        (Edit("tapstack.tcp.arrives:acknowledge", "sender.snd_wnd == window > 0", "sender.snd_wnd == window"),),
    ),
    Mutation(
        "ambiguous-collapse",
        "an acknowledgement that gives no sample takes back the doubling of the time-out",
        ("ST-TCP-4", "MUST-18"),
        (_TIMERS,),
        (
            Edit(
                "tapstack.tcp.arrives:new_data_acknowledged",
                "rtt.backoff = 0",
                "rtt.rto = rtt._from_estimate(rtt.srtt or 1.0)",
            ),
        ),
    ),
    Mutation(
        "lost-syn-counts-on",
        "lost SYNs count among the time-outs in a row of data",
        ("ST-TCP-4",),
        (_TIMERS,),
        (Edit("tapstack.tcp.arrives:establish", "connection.rtt.backoff = 0", "pass"),),
    ),
    Mutation(
        "all-of-a-part",
        "an acknowledgement of the first packets of a super-segment counts as one of all of it",
        ("ST-TCP-6",),
        (_RECOVERY,),
        (
            Edit(
                "tapstack.tcp.flight:Flight._trim",
                "self.news.take(segment, ack)",
                "self.news.take(segment, segment.end)",
            ),
        ),
    ),
    Mutation(
        "fin-unreported",
        "a SACK block ends before the FIN",
        ("ST-TCP-3",),
        (_RECOVERY,),
        (Edit("tapstack.tcp.receiver:Receiver._block", "run.end + (run.end == self.fin)", "run.end"),),
    ),
    Mutation(
        "fin-unbelieved",
        "data that was sent with a FIN is not believed to have arrived without it",
        ("ST-TCP-3",),
        (_RECOVERY,),
        (
            Edit(
                "tapstack.tcp.flight:Flight.mark_sacked",
                "segment.start >= end or",
                "end - segment.start >= segment.payload_length or",
            ),
        ),
    ),
    Mutation(
        "cubic-clock-per-ack",
        "each acknowledgement of a limited time moves CUBIC's clock by a round trip",
        ("ST-TCP-5",),
        (_CONGESTION,),
        (Edit("tapstack.tcp.congestion.cubic:Cubic.on_ack", "since = now - self._heard", "since = news.srtt"),),
    ),
    Mutation(
        "cubic-idle-counts",
        "CUBIC's clock goes on while nothing is sent",
        ("ST-TCP-5",),
        (_CONGESTION,),
        (Edit("tapstack.tcp.congestion.cubic:Cubic.on_ack", "(self._idle or not used)", "not used"),),
    ),
    Mutation(
        "probe-beyond-window",
        "the probe of a closed window takes a byte along, and SND.NXT past the edge",
        ("ST-TCP-11",),
        (f"{_WINDOWS}::test_a_closed_window_does_not_stop_the_other_direction",),
        (Edit("tapstack.tcp.sender:Sender.send_one", "self.snd_una + self", "self.snd_una + 1 + self"),),
    ),
    Mutation(
        "fin-beyond-window",
        "a FIN goes beyond a window that is full",
        ("ST-TCP-11",),
        (f"{_WINDOWS}::test_a_fin_waits_for_the_window",),
        (Edit("tapstack.tcp.sender:Sender._send_new", "< self.snd_una + self", "<= self.snd_una + self"),),
    ),
    Mutation(
        "fin-kept-out",
        "a closed window keeps a FIN out",
        ("ST-TCP-11",),
        (f"{_WINDOWS}::test_a_fin_into_a_closed_window_is_taken",),
        (Edit("tapstack.tcp.arrives:_check_sequence", "length == 1 and segment.flags & FIN", "False"),),
    ),
    Mutation(
        "held-echo",
        "an acknowledgement that waits moves TS.Recent past the last acknowledgement sent",
        ("ST-TCP-2",),
        (_HELD,),
        (
            Edit(
                "tapstack.tcp.fastpath:receive",
                "connection.timestamps and receiver.rcv_nxt <= receiver.last_ack_sent",
                "connection.timestamps",
            ),
        ),
    ),
    Mutation(
        "patience-by-the-way",
        "the user time-out is only looked at when the retransmission timer fires",
        ("ST-TCP-11",),
        (_TIMEOUT,),
        (Edit("tapstack.tcp.timers:ConnectionTimers._wait", "due if due < patience else patience", "due"),),
    ),
    Mutation(
        "told-and-believed",
        "the peer's user time-out is taken without limits",
        ("ST-TCP-11",),
        (_TIMEOUT,),
        (Edit("tapstack.tcp.connection:Connection.hear_user_timeout", "told.wait()", "float(seconds)"),),
    ),
    Mutation(
        "probe-is-no-cookie",
        "a keep-alive probe does not bring a cookie back",
        ("ST-TCP-10",),
        (_FLOOD,),
        (Edit("tapstack.tcp.passive:PassiveOpens.ack_arrives", "segment.length == 0 and", "False and"),),
    ),
    Mutation(
        "cookie-unchecked",
        "any number that is acknowledged counts as a cookie",
        ("ST-TCP-10",),
        (_FLOOD,),
        (
            Edit(
                "tapstack.tcp.cookies:check",
                "isn not in (_code(secret, key, peer_isn, bits, index, c) for c in (counter, counter - 1))",
                "False",
            ),
        ),
    ),
    Mutation(
        "statistics-of-the-first-time",
        "statistics do not count what was sent again",
        ("ST-TCP-14",),
        (f"{_STREAMS}::test_statistics_agree_with_the_wire",),
        (
            Edit(
                "tapstack.tcp.statistics:collect",
                "bytes_sent=max(0, sender.snd_nxt - sender.iss - 1 - fin) + sender.retransmitted_bytes",
                "bytes_sent=max(0, sender.snd_nxt - sender.iss - 1 - fin)",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "statistics-of-the-peer",
        "the text of the statistics gives the peer's MSS as the one in use",
        ("ST-TCP-14",),
        (f"{_STREAMS}::test_the_text_reads_like_ss",),
        (Edit("tapstack.tcp.statistics:Statistics.text", "mss:{self.mss}", "mss:{self.peer_mss}"),),
    ),
    Mutation(
        "answered-keep-alives-count",
        "keep-alives count towards giving up although they are answered",
        ("ST-TCP-11",),
        ("tests/unit/tcp/test_timers.py::test_keep_alives_that_are_answered_end_nothing_however_often_they_go",),
        (
            Edit(
                "tapstack.tcp.timers:ConnectionTimers._on_slow",
                "if connection.last_heard > self.probed_at:",
                "if connection.last_heard + idle > now:",
            ),
        ),
    ),
    Mutation(
        "one-reset-for-whoever-missed-something",
        "an abort sends one reset, where the peer expects it only if it missed nothing",
        ("UM-REL-1",),
        ("tests/unit/tcp/test_closing.py::test_an_abort_ends_the_peer_whatever_it_missed",),
        (Edit("tapstack.tcp.connection:Connection._reset_peer", "if self.entry.kind.one_time:", "if False:"),),
    ),
    Mutation(
        "open-and-written-as-closed",
        "a window smaller than one unit of its scale is written as 0 for ever",
        ("ST-TCP-11",),
        (f"{_WINDOWS}::test_a_window_below_one_unit_of_its_scale_is_not_written_as_closed",),
        (Edit("tapstack.tcp.receiver:Receiver.advertise", " and (queued or window >> scale)", ""),),
    ),
    Mutation(
        "a-probe-for-ever",
        "data that went into a small window and was lost is repeated as a probe, octet by octet",
        ("ST-TCP-4", "MUST-20"),
        (f"{_TIMERS}::test_what_went_into_a_small_window_is_lost_like_any_other_data",),
        (
            Edit(
                "tapstack.tcp.timers:ConnectionTimers._retransmit_due", "connection.tcp.mark_dirty(connection)", "pass"
            ),
        ),
    ),
)
