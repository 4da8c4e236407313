"""Defects in what a TCP segment does: acceptability, RST, PAWS, acknowledgements, recovery, congestion control."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_NUMBERS = "tests/unit/tcp/test_rfc9293.py::test_initial_sequence_numbers_are_a_clock_plus_a_keyed_hash"
_MODES = "tests/unit/tcp/test_modes.py"
_TABLE = "tests/unit/tcp/test_table.py"
_INTEGRITY = "tests/unit/tcp/test_integrity.py"
_RECOVERY = "tests/unit/tcp/test_recovery.py"
_CONGESTION = "tests/unit/tcp/test_congestion.py"
_ASKED = "tests/conformance/test_asked_for.py"
_HELD = "tests/unit/tcp/test_held.py"
_HOSTILE = "tests/unit/tcp/test_hostile.py"
_ARRIVES = "tapstack.tcp.arrives"

MUTATIONS = (
    Mutation(
        "sequence-unchecked",
        "a segment outside the window is accepted",
        ("ST-TCP-1", "UM-PORT-10"),
        (_TABLE,),
        (Edit(f"{_ARRIVES}:_check_sequence", "if acceptable:", "if True:"),),
    ),
    Mutation(
        "syn-with-data-is-another-syn",
        "a repeated SYN that carries data ends the handshake that it began",
        ("ST-TCP-1",),
        ("tests/unit/tcp/test_rfc9293.py::test_a_repeated_syn_is_answered_again_whatever_it_carries",),
        (Edit(f"{_ARRIVES}:_repeats_syn", "return again and", "return again and not segment.payload and"),),
    ),
    Mutation(
        "rst-anywhere",
        "an RST anywhere in the window ends the connection",
        ("ST-TCP-8", "UM-PORT-10"),
        (_TABLE,),
        (Edit(f"{_ARRIVES}:_check_rst", "sequence != connection.receiver.rcv_nxt", "False"),),
    ),
    Mutation(
        "syn-resets",
        "a SYN in the window ends the connection",
        ("ST-TCP-8", "UM-PORT-4", "UM-PORT-10"),
        (_MODES,),
        (
            Edit(
                f"{_ARRIVES}:_check_syn",
                "connection.challenge(now)",
                'connection.delete(TcpTrigger.DELETE, now, "reset", errors.reset())',
            ),
        ),
        quick=True,
    ),
    Mutation(
        "ack-of-the-future",
        "an acknowledgement of what was not sent is accepted",
        ("ST-TCP-8", "UM-PORT-10"),
        (_HOSTILE,),
        (
            Edit(
                f"{_ARRIVES}:_check_ack",
                "ack > sender.snd_nxt or ack < sender.snd_una - max(sender.maximum_window, 65535)",
                "False",
            ),
        ),
    ),
    Mutation(
        "challenges-unlimited",
        "challenge ACKs have no limit",
        ("ST-TCP-8",),
        ("tests/unit/tcp/test_flood.py",),
        (
            Edit(
                "tapstack.tcp.connection:Connection.challenge",
                "now - self.challenge_at < PER_CONNECTION or not self.tcp.challenges.allow(self.remote + self.local, now)",
                "False",
            ),
        ),
    ),
    Mutation(
        "paws-off",
        "an old segment with an old timestamp is accepted",
        ("ST-TCP-2", "UM-PORT-3"),
        ("tests/unit/tcp/test_rfc7323.py",),
        (Edit(f"{_ARRIVES}:_passes_paws", "unwrap(stamp[0], recent) < recent", "False"),),
    ),
    Mutation(
        "timestamp-from-anywhere",
        "TS.Recent follows segments beyond the last acknowledgement",
        ("ST-TCP-2",),
        ("tests/unit/tcp/test_rfc7323.py::test_the_echoed_timestamp_is_that_of_what_is_acknowledged",),
        (Edit(f"{_ARRIVES}:_take_in", "and sequence <= receiver.last_ack_sent", ""),),
    ),
    Mutation(
        "isn-predictable",
        "initial sequence numbers are the clock alone",
        ("ST-TCP-9", "UM-GEN-7", "UM-PORT-10"),
        (_NUMBERS,),
        (
            Edit(
                "tapstack.tcp.isn:session_numbers",
                'int.from_bytes(digest[0:4], "big") + int(now * 250_000)',
                "int(now * 250_000)",
            ),
        ),
    ),
    Mutation(
        "isn-without-clock",
        "initial sequence numbers do not move with time",
        ("ST-TCP-9",),
        (_NUMBERS,),
        (Edit("tapstack.tcp.isn:session_numbers", "+ int(now * 250_000)", ""),),
    ),
    Mutation(
        "linkable-timestamps",
        "all connections have the same timestamp offset",
        ("UM-GEN-7",),
        ("tests/unit/um/test_unlinkable.py::test_sessions_of_one_node_share_no_number",),
        (Edit("tapstack.tcp.isn:session_numbers", 'int.from_bytes(digest[4:8], "big")', "0"),),
    ),
    Mutation(
        "linkable-flow-labels",
        "all connections have the same flow label",
        ("UM-GEN-7",),
        ("tests/unit/um/test_unlinkable.py::test_sessions_of_one_node_share_no_number",),
        (Edit("tapstack.tcp.isn:session_numbers", 'int.from_bytes(digest[8:11], "big") & 0xFFFFF', "1"),),
    ),
    Mutation(
        "bytes-lost",
        "data that fills a hole is dropped",
        ("ST-TCP-1",),
        (_INTEGRITY,),
        (Edit("tapstack.tcp.receiver:Receiver.accept", "if self._runs:", "if False:"),),
        quick=True,
    ),
    Mutation(
        "overlap-doubled",
        "bytes that came before are taken a second time",
        ("ST-TCP-1",),
        (f"{_ASKED}::test_of_a_segment_that_overlaps_only_the_new_bytes_are_taken",),
        (
            Edit(
                "tapstack.tcp.receiver:Receiver.accept",
                "payload = released(payload[self.rcv_nxt - sequence :])",
                "pass",
            ),
        ),
    ),
    Mutation(
        "window-shrinks",
        "the advertised right edge moves left",
        ("ST-TCP-1",),
        (f"{_ASKED}::test_the_advertised_right_edge_never_moves_left",),
        (
            Edit("tapstack.tcp.receiver:Receiver.advertise", "if edge > self.rcv_adv and", "if True or"),
            Edit(
                "tapstack.tcp.receiver:Receiver.advertise",
                "capacity - queued",
                "self.capacity - 2 * self.queued",
            ),
        ),
    ),
    Mutation(
        "sack-ignored",
        "what the peer reports by SACK is not read",
        ("ST-TCP-3",),
        (_RECOVERY,),
        (Edit(f"{_ARRIVES}:new_data_acknowledged", "recovery.read_sack(sack)", "pass"),),
    ),
    Mutation(
        "no-dsack",
        "duplicates are not reported",
        ("ST-TCP-3",),
        (_RECOVERY, "tests/unit/tcp/test_scoreboard.py"),
        (Edit("tapstack.tcp.receiver:Receiver.note_duplicate", "self.duplicate = (start, end)", "pass"),),
    ),
    Mutation(
        "fin-loses-data",
        "a FIN overtakes the data before it",
        ("ST-TCP-1",),
        (_INTEGRITY, _RECOVERY),
        (
            Edit(
                "tapstack.tcp.receiver:Receiver.accept",
                "self.fin is not None and self.rcv_nxt == self.fin",
                "self.fin is not None",
            ),
        ),
    ),
    Mutation(
        "time-wait-skipped",
        "both sides closed, and nothing remains",
        ("UM-REL-2", "ST-TCP-13"),
        ("tests/unit/tcp/test_listen.py",),
        (
            Edit(
                "tapstack.tcp.layer:Tcp.time_wait",
                "connection.options.time_wait is not connection.options.time_wait.SHARP",
                "False",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "blind-timestamp",
        "a segment whose acknowledgement is not valid moves TS.Recent",
        ("ST-TCP-2", "ST-TCP-8"),
        (_HOSTILE,),
        (
            Edit(
                f"{_ARRIVES}:otherwise",
                "if not _check_ack(",
                "if _take_in(connection, segment, sequence, connection.sender.snd_una, now) or not _check_ack(",
            ),
        ),
    ),
    Mutation(
        "talk-is-patience",
        "whatever is heard puts the user time-out off",
        ("ST-TCP-11",),
        (_HOSTILE,),
        (
            Edit(
                "tapstack.tcp.timers:ConnectionTimers._patience", "self.persisting and not connection.detached", "True"
            ),
        ),
    ),
    Mutation(
        "half-open-twice",
        "a handshake that cannot complete is taken off the books twice",
        ("ST-TCP-10",),
        (_HOSTILE,),
        (
            Edit(
                "tapstack.tcp.passive:PassiveOpens.completed",
                "connection.delete(",
                "demux.remove_half_open(connection) or connection.delete(",
            ),
        ),
    ),
    Mutation(
        "held-too-long",
        "an acknowledgement that waits for the end of the reading is overtaken by what was read after it",
        ("ST-TCP-2", "ST-TCP-12"),
        (_HELD,),
        (Edit("tapstack.stack:Stack.input", "if self.tcp.held:", "if False:"),),
    ),
    Mutation(
        "held-for-ever",
        "an acknowledgement waits for more than the end of the reading",
        ("ST-TCP-12",),
        (_HELD,),
        (Edit("tapstack.stack:Stack.take_in", "if tcp.held:", "if False:"),),
    ),
)
