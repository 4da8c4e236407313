"""Defects in where replies go while a peer's port changes, and where ports add no entropy (unified-multiplex §6)."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_REPLY = "tests/unit/tcp/test_reply_port.py"
_SPOOFED = "tests/unit/tcp/test_spoofed_opening.py"
_OPENING = "tapstack.tcp.arrives:_still_opening"
_LOST = f"{_SPOOFED}::test_with_a_syn_in_the_peers_name_a_lost_syn_is_repeated_as_it_was"
_REPEATS = "tapstack.tcp.replyport:_repeats"
_WAITING = "tapstack.tcp.timewait:_with_news"
_FORGED = f"{_REPLY}::test_a_repetition_that_may_be_old_or_blind_moves_nothing"
_PATIENT = f"{_REPLY}::test_time_wait_answers_at_the_port_of_the_connection_that_was"
_SEND_SYN = "tapstack.tcp.output:Output.send_syn"
_MAY_MOVE = "tapstack.tcp.replyport:may_move"

MUTATIONS = (
    Mutation(
        "port-after-the-answer",
        "the port moves when all that a segment causes has been said",
        ("UM-PORT-3",),
        (
            f"{_REPLY}::test_the_last_acknowledgement_goes_to_the_port_that_the_last_segment_came_from",
            f"{_REPLY}::test_what_a_closed_socket_does_not_take_is_reset_at_the_new_port",
        ),
        (
            Edit("tapstack.tcp.arrives:_take_in", "replyport.follow(connection, segment, sequence, ack, now)", "pass"),
            Edit(
                "tapstack.tcp.arrives:otherwise",
                "    connection.tcp.mark_dirty(connection)",
                "    connection.remote_port = segment.source_port; connection.tcp.mark_dirty(connection)",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "repetition-not-followed",
        "what is repeated from a new port is answered at the old one",
        ("UM-PORT-3",),
        (
            f"{_REPLY}::test_a_repetition_from_a_new_port_is_acknowledged_there",
            f"{_REPLY}::test_a_keep_alive_from_a_new_port_is_answered_there",
        ),
        (Edit("tapstack.tcp.replyport:follow_repetition", "_repeats(connection, segment, sequence)", "False"),),
        quick=True,
    ),
    Mutation(
        "repetition-of-any-age",
        "a repetition moves the port whose timestamp is no later than the last",
        ("UM-PORT-3", "UM-PORT-10"),
        (_FORGED,),
        (Edit(_REPEATS, "unwrap(stamp[0], recent) > recent", "unwrap(stamp[0], recent) >= recent"),),
    ),
    Mutation(
        "repetition-acknowledges-what-was-not-sent",
        "a repetition moves the port that acknowledges what was never sent",
        ("UM-PORT-3", "UM-PORT-10"),
        (_FORGED,),
        (Edit(_REPEATS, "<= ack <= sender.snd_nxt", "<= ack"),),
    ),
    Mutation(
        "repetition-acknowledges-less",
        "a repetition moves the port that acknowledges less than the last",
        ("UM-PORT-3", "UM-PORT-10"),
        (_FORGED,),
        (Edit(_REPEATS, "sender.snd_una <= ack <= sender.snd_nxt", "ack <= sender.snd_nxt"),),
    ),
    Mutation(
        "repetition-from-anywhere",
        "a repetition moves the port that begins further back than the peer ever could",
        ("UM-PORT-3", "UM-PORT-10"),
        (_FORGED,),
        (
            Edit(
                _REPEATS,
                "receiver.rcv_nxt - receiver.capacity <= sequence <= receiver.rcv_nxt",
                "sequence <= receiver.rcv_nxt",
            ),
        ),
    ),
    Mutation(
        "repetition-without-acknowledgement",
        "a segment left of the window moves the port that has no acknowledgement",
        ("UM-PORT-3", "UM-PORT-10"),
        (_FORGED,),
        (Edit(_REPEATS, "segment.flags & (ACK | SYN) != ACK", "segment.flags & SYN"),),
    ),
    Mutation(
        "late-segment-turns-back",
        "a segment that was sent before the one that moved the port moves it back",
        ("UM-PORT-3",),
        (f"{_REPLY}::test_a_segment_that_was_late_does_not_move_the_port_back",),
        (Edit("tapstack.tcp.replyport:_move", "            return\n", "            pass\n"),),
    ),
    Mutation(
        "time-wait-keeps-the-old-port",
        "TIME-WAIT does not follow a port that a NAPT has changed",
        ("UM-PORT-3", "UM-REL-2"),
        (f"{_REPLY}::test_in_time_wait_a_fin_that_is_repeated_from_a_new_port_is_acknowledged_there",),
        (Edit(_WAITING, "facts.flags & _FOLLOWS and", "False and"),),
    ),
    Mutation(
        "time-wait-follows-at-l0",
        "TIME-WAIT updates the port that it writes at L0",
        ("UM-PORT-1", "UM-REL-2"),
        (f"{_REPLY}::test_at_l0_time_wait_never_updates_its_port",),
        (Edit(_WAITING, "facts.flags & _FOLLOWS and", "True and"),),
    ),
    Mutation(
        "time-wait-follows-blindly",
        "in TIME-WAIT a segment that acknowledges anything moves the port",
        ("UM-PORT-3", "UM-REL-2"),
        (_PATIENT,),
        (Edit(_WAITING, "and segment.acknowledgment == facts.snd_nxt", ""),),
    ),
    Mutation(
        "time-wait-answers-the-syns-port",
        "in TIME-WAIT a second SYN is answered at its own port",
        ("UM-PORT-4", "UM-REL-2"),
        (_PATIENT,),
        (
            Edit(
                "tapstack.tcp.timewait:TimeWaitTable.segment_arrives",
                "if segment.flags & wire.SYN:",
                "if segment.flags & wire.SYN:\n        facts = facts._replace(remote_port=segment.source_port)",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "the-answers-port-is-ignored",
        "who calls at L1 or L2 writes the port that it named although the answer comes from another",
        ("UM-PORT-3",),
        (f"{_REPLY}::test_who_calls_writes_the_port_that_the_answer_comes_from",),
        (Edit("tapstack.tcp.arrives:take_syn", "if replyport.may_move(connection):", "if False:"),),
    ),
    Mutation(
        "l2-caller-does-not-follow",
        "who calls at L2 does not follow the port of received packets",
        ("UM-PORT-3",),
        (f"{_REPLY}::test_who_calls_writes_the_port_that_the_answer_comes_from",),
        (Edit(_MAY_MOVE, "connection.mode is PortMode.L2 and connection.armed is None", "False"),),
    ),
    Mutation(
        "l0-follows",
        "L0 updates the port that it writes",
        ("UM-PORT-1",),
        (f"{_REPLY}::test_no_other_mode_follows",),
        (Edit(_MAY_MOVE, "connection.mode is PortMode.L1 or", "connection.mode in (PortMode.L0, PortMode.L1) or"),),
    ),
    Mutation(
        "any-port-completes",
        "outside L0 an acknowledgement at other ports completes a handshake",
        ("UM-LIS-3",),
        ("tests/unit/tcp/test_listen.py::test_an_acknowledgement_at_other_ports_completes_no_handshake",),
        (Edit("tapstack.tcp.demux:Demux.find_half_open", "connection.mode is PortMode.L0 and", ""),),
    ),
    Mutation(
        "ssa-reopens",
        "in Aware mode TIME-WAIT at an SSA is reopened by a newer SYN",
        ("UM-REL-2",),
        ("tests/unit/tcp/test_time_wait.py::test_at_an_ssa_no_mode_reopens",),
        (Edit("tapstack.tcp.timewait:may_reopen", "record.entry.kind.one_time or", ""),),
    ),
    Mutation(
        "a-stranger-refuses",
        "a reset at the number that a spoofed SYN has set refuses a connection that is being opened",
        ("UM-PORT-12", "UM-PORT-10"),
        (f"{_SPOOFED}::test_a_syn_and_a_reset_in_the_peers_name_refuse_nothing",),
        (Edit(_OPENING, "if segment.flags & RST:", "if segment.flags & RST and acknowledges:"),),
        quick=True,
    ),
    Mutation(
        "a-refusal-is-not-heard",
        "after a spoofed SYN the peer that refuses our SYN is not believed",
        ("UM-PORT-12",),
        (f"{_SPOOFED}::test_who_acknowledges_our_syn_refuses_at_once",),
        (Edit(_OPENING, 'connection.fail(errors.refused(), now, "refused")', "pass"),),
    ),
    Mutation(
        "our-syn-is-not-repeated",
        "after a spoofed SYN only the answer to it is repeated, which the peer does not know",
        ("UM-PORT-12",),
        (_LOST,),
        (
            Edit(
                "tapstack.tcp.timers:ConnectionTimers._on_handshake_timeout",
                "connection.state is TcpState.SYN_RECEIVED and connection.armed is None",
                "False",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "our-syn-goes-to-the-strangers-port",
        "after a spoofed SYN our own is repeated to that one's port",
        ("UM-PORT-12",),
        (_LOST,),
        (Edit(_SEND_SYN, "self.remote_port if answering else self.named_port", "self.remote_port"),),
    ),
    Mutation(
        "our-syn-has-the-strangers-options",
        "after a spoofed SYN without a window scale our own is repeated with the scale 0",
        ("UM-PORT-12",),
        (_LOST,),
        (
            Edit(
                _SEND_SYN,
                "receiver.scale if answering else scale_for(self.options.receive_buffer_maximum)",
                "receiver.scale",
            ),
        ),
    ),
    Mutation(
        "answers-to-a-syn-unlimited",
        "each repetition of a SYN is answered, however many there are",
        ("UM-PORT-10",),
        (f"{_SPOOFED}::test_a_stranger_draws_few_answers_and_the_time_out_stands",),
        (Edit("tapstack.tcp.output:Output.answer_again", "now - self.challenge_at < PER_CONNECTION", "False"),),
    ),
    Mutation(
        "marked-after-a-syn-that-did-not-ask",
        "data are marked ECT although our SYN was repeated without asking beside the answer that agreed",
        ("ST-TCP-7",),
        ("tests/unit/tcp/test_ecn.py::test_in_a_simultaneous_open_the_own_syn_is_repeated_without_asking",),
        (Edit(_SEND_SYN, "self.ecn.marks = False", "pass"),),
    ),
)
