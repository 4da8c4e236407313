"""Defects in listening, port modes and TIME-WAIT (unified-multiplex §5, §6, §7)."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_LISTEN = "tests/unit/tcp/test_listen.py"
_MODES = "tests/unit/tcp/test_modes.py"
_ASKED = "tests/conformance/test_asked_for.py"
_LISTENER = "tapstack.tcp.listener:Listener"
_ARMED = "tapstack.tcp.listener:ArmedAddress"
_LATE = "tests/unit/um/test_what_waits.py::test_a_third_party_that_is_resolved_late_hears_nothing_of_a_taken_ssa"
_STRANGERS = "tests/unit/tcp/test_strangers.py"
_WILD = "tests/unit/um/test_demux.py::test_a_wildcard_listener_and_one_at_an_ordinary_address"
_VIEW = "tests/unit/um/test_listen_o.py::test_events_and_view_always_tell_which_are_armed_for_whom_until_when"

MUTATIONS = (
    Mutation(
        "second-session",
        "a consumed SSA takes a second session",
        ("UM-LIS-3", "UM-LIS-6"),
        (_LISTEN, "tests/unit/unimux/test_issue.py"),
        (Edit(f"{_LISTENER}.completed", "armed.sessions -= 1", "pass"),),
        quick=True,
    ),
    Mutation(
        "syn-burns",
        "the first SYN consumes the SSA",
        ("UM-LIS-3",),
        (f"{_LISTEN}::test_a_spoofed_syn_does_not_burn_the_address",),
        (
            Edit(
                "tapstack.tcp.passive:PassiveOpens.syn_arrives",
                "connection.timers.waiting_since = now",
                "connection.timers.waiting_since = now; self._tcp.leave_listener(armed)",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "anybody-is-the-client",
        "an SSA for a named client answers anybody",
        ("UM-LIS-4",),
        (f"{_LISTEN}::test_a_named_client_is_the_only_one_that_is_answered",),
        (Edit("tapstack.tcp.listener:ArmedAddress.admits", "if self.client is None:", "if True:"),),
        quick=True,
    ),
    Mutation(
        "listen-o-reachable",
        "a listener without an address accepts at any",
        ("UM-LIS-1", "UM-EA-1"),
        (f"{_LISTEN}::test_listen_o_is_reachable_by_nobody_until_an_address_is_set",),
        (
            Edit(
                "tapstack.tcp.layer:Tcp._find_armed",
                "return armed",
                "return armed or next((x.arm(packet.entry, now) for x in self.listeners if not x.armed), None)",
            ),
        ),
    ),
    Mutation(
        "wildcard-at-ea",
        "a wildcard listener accepts at a one-time address",
        ("UM-EA-1",),
        (f"{_ASKED}::test_no_wildcard_listener_accepts_at_an_ephemeral_address",),
        (Edit("tapstack.tcp.layer:Tcp._find_armed", "not packet.entry.kind.one_time", "True"),),
    ),
    Mutation(
        "unused-kept",
        "an SSA that was issued but not used stays armed",
        ("UM-LIS-5",),
        (f"{_LISTEN}::test_an_unused_ssa_expires_for_good",),
        (Edit(f"{_LISTENER}._enter", "armed.expiry.set(expires)", "pass"),),
        quick=True,
    ),
    Mutation(
        "half-open-unbounded",
        "half-open handshakes are without number",
        ("UM-LIS-3", "ST-TCP-10"),
        (_LISTEN, "tests/unit/tcp/test_flood.py"),
        (Edit(f"{_LISTENER}.may_open", "len(armed.half_open) >= self.options.backlog", "False"),),
    ),
    Mutation(
        "rst-to-strangers",
        "TCP answers strangers to a one-time address with RST",
        ("UM-EA-1", "UM-LIS-6"),
        (f"{_LISTEN}::test_third_parties_get_nothing_while_the_session_lives",),
        (Edit("tapstack.tcp.layer:Tcp.reset", "not entry.speaks_to(segment.remote)", "False"),),
        quick=True,
    ),
    Mutation(
        "syn-ack-after-the-last-session",
        "a SYN-ACK that waits for a third party's resolution leaves after the SSA's last session was established",
        ("UM-LIS-6",),
        (_LATE,),
        (Edit(f"{_LISTENER}.disarm", "self.tcp.host.withdraw(armed.entry)", "pass"),),
        quick=True,
    ),
    Mutation(
        "syn-after-its-connection",
        "a SYN that waits for the server's resolution leaves after connect() has given up, from a session's address",
        ("UM-EA-1",),
        ("tests/unit/um/test_what_waits.py::test_a_syn_that_waits_for_its_neighbour_ends_with_its_connection",),
        (Edit("tapstack.tcp.layer:Tcp.forget", "self.host.withdraw(connection.entry)", "pass"),),
    ),
    Mutation(
        "syn-ack-after-the-lease",
        "a SYN-ACK that waits for a third party's resolution leaves after another client took the lease",
        ("UM-LIS-8",),
        (_LATE,),
        (Edit(f"{_ARMED}.bind", "self.listener.tcp.host.withdraw(self.entry)", "pass"),),
    ),
    Mutation(
        "expired-ssa-sends-rst",
        "an SSA that ends, or is consumed, resets the handshakes of others that stand on it",
        ("UM-LIS-5", "UM-LIS-6"),
        (_STRANGERS,),
        (
            Edit(
                f"{_LISTENER}.disarm",
                "connection.delete(TcpTrigger.DELETE, now, cause)",
                "connection.abort(now, cause)",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "half-open-serves",
        "who sent a mere SYN to an SSA counts as its peer, and is answered with RST",
        ("UM-EA-1", "UM-LIS-6"),
        (_STRANGERS,),
        (
            Edit(
                "tapstack.tcp.connection:Connection.serves",
                "and (self.armed is None or self.state in SYNCHRONIZED)",
                "",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "time-wait-serves-all",
        "an address in TIME-WAIT answers strangers",
        ("UM-EA-1",),
        (_STRANGERS,),
        (Edit("tapstack.tcp.timewait:TimeWaitRecord.serves", "remote == self.remote", "True"),),
        quick=True,
    ),
    Mutation(
        "hold-serves-all",
        "the address of a sticky session answers everybody",
        ("UM-EA-1", "UM-DAS-4"),
        ("tests/unit/unimux/test_sticky.py::test_the_address_of_a_session_answers_nobody_by_itself",),
        (Edit("unimux.sticky:Hold.serves", "return False", "return True"),),
        quick=True,
    ),
    Mutation(
        "lease-leaves-others-standing",
        "handshakes of others that stand on an SSA may complete after a client has its lease",
        ("UM-LIS-8",),
        (_STRANGERS,),
        (Edit(f"{_ARMED}.bind", "if connection.remote != remote:", "if False:"),),
        quick=True,
    ),
    Mutation(
        "no-rst-anywhere",
        "an ordinary address does not refuse what it does not take",
        ("UM-LIS-7", "ST-TCP-1"),
        (f"{_LISTEN}::test_an_ordinary_address_is_refused_like_anywhere_else",),
        (Edit("tapstack.tcp.layer:Tcp.reset", "not entry.speaks_to(segment.remote)", "True"),),
    ),
    Mutation(
        "time-wait-short",
        "TIME-WAIT lasts one MSL",
        ("UM-REL-2", "ST-TCP-13"),
        (f"{_LISTEN}::test_time_wait_holds_the_address_as_long_as_its_option_says",),
        (Edit("tapstack.tcp.timewait:duration", "full = 2 * options.msl", "full = options.msl"),),
        quick=True,
    ),
    Mutation(
        "time-wait-no-answer",
        "a repeated FIN in TIME-WAIT is not acknowledged",
        ("UM-REL-2", "ST-TCP-13"),
        (
            f"{_LISTEN}::test_time_wait_repairs_a_lost_last_ack_and_restarts",
            "tests/real/tcp/test_kernel_windows.py::test_a_fin_whose_acknowledgement_was_lost_is_acknowledged_again",
        ),
        (Edit("tapstack.tcp.timewait:TimeWaitTable._acknowledge", "self._answered[record] = now", "return"),),
    ),
    Mutation(
        "time-wait-loses-address",
        "the address is released when TIME-WAIT begins",
        ("UM-REL-2",),
        (_LISTEN,),
        (
            Edit(
                "tapstack.tcp.timewait:TimeWaitTable.enter", "tcp.host.addresses.acquire(record.entry, record)", "pass"
            ),
            Edit(
                "tapstack.tcp.timewait:TimeWaitTable.end",
                "tcp.host.addresses.drop(record.entry, record, now, cause)",
                "pass",
            ),
        ),
    ),
    Mutation(
        "l0-reads-ports",
        "L0 tells connections apart by their ports",
        ("UM-PORT-1",),
        (f"{_MODES}::test_l0_reaches_its_connection_whatever_the_ports",),
        (
            Edit(
                "tapstack.tcp.demux:key_for",
                "if mode in (PortMode.L0, PortMode.L1):",
                "if mode is PortMode.L0:\n        return four_key(pcb)\n    if mode is PortMode.L1:",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "l1-never-follows",
        "L1 does not follow a port that a NAPT has changed",
        ("UM-PORT-3",),
        (f"{_MODES}::test_l1_follows_a_rebound_port_only_on_a_segment_that_advances",),
        (Edit("tapstack.tcp.replyport:follow", "_advances(connection, segment, sequence, ack)", "False"),),
        quick=True,
    ),
    Mutation(
        "l1-follows-blindly",
        "L1 turns to the port of a segment that advances nothing",
        ("UM-PORT-3",),
        (f"{_ASKED}::test_an_acknowledgement_that_says_nothing_new_does_not_move_the_reply_port",),
        (Edit("tapstack.tcp.replyport:follow", "_advances(connection, segment, sequence, ack)", "True"),),
        quick=True,
    ),
    Mutation(
        "challenge-to-the-syn",
        "the challenge ACK to a second SYN goes to that SYN's port",
        ("UM-PORT-4",),
        (f"{_MODES}::test_a_second_syn_is_challenged_at_the_established_port",),
        (
            Edit(
                "tapstack.tcp.arrives:_check_syn",
                "connection.challenge(now)",
                "connection.remote_port = segment.source_port; connection.challenge(now)",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "l2-ignores-ports",
        "L2 does not tell clients of one host apart",
        ("UM-PORT-5",),
        (f"{_MODES}::test_l2_serves_many_connections_of_one_host_on_one_address",),
        (
            Edit(
                "tapstack.tcp.demux:key_for",
                'return pair + pcb.remote_port.to_bytes(2, "big")',
                'return pair + b"\\0\\0"',
            ),
        ),
    ),
    Mutation(
        "aware-ignores-local-port",
        "Aware does not tell connections apart by the local port",
        ("UM-PORT-6",),
        (f"{_MODES}::test_aware_tells_connections_apart_by_any_one_of_four_values",),
        (
            Edit(
                "tapstack.tcp.demux:key_for",
                "if mode is PortMode.AWARE:\n        return four_key(pcb)",
                'if mode is PortMode.AWARE:\n        return pair + pcb.remote_port.to_bytes(2, "big")',
            ),
        ),
    ),
    Mutation(
        "shadowing-allowed",
        "two sockets may stand where one takes the other's packets",
        ("UM-PORT-7",),
        (f"{_MODES}::test_a_socket_that_could_shadow_another_is_refused_by_name",),
        (Edit("tapstack.tcp.demux:Demux.add", "if taken is not None:", "if False:"),),
    ),
    Mutation(
        "beside-a-wildcard",
        "a listener may stand where a wildcard one accepts, as long as no segment has come there",
        ("UM-PORT-7",),
        (_WILD,),
        (Edit(f"{_LISTENER}.arm", "self.tcp.refuse_wildcards(armed)", "pass"),),
        quick=True,
    ),
    Mutation(
        "wildcard-beside",
        "a wildcard listener may begin where another accepts",
        ("UM-PORT-7",),
        (_WILD,),
        (Edit("tapstack.tcp.layer:Tcp.enter_wildcard", "if listener.shadows(armed):", "if False:"),),
    ),
    Mutation(
        "rp-is-80",
        "the reduced port that is written is another",
        ("UM-PORT-11",),
        (f"{_MODES}::test_the_reduced_port_is_written_where_none_is_named",),
        (Edit("tapstack.tcp.layer:Tcp.connect", "remote_port = options.reduced_port", "remote_port = 80"),),
    ),
    Mutation(
        "spoofed-syn-wedges",
        "after a spoofed SYN the real SYN-ACK is not recognised",
        ("UM-PORT-12",),
        (f"{_MODES}::test_a_spoofed_syn_does_not_wedge_the_real_syn_ack",),
        (Edit("tapstack.tcp.arrives:_still_opening", "if connection.armed is not None:", "if True:"),),
    ),
    Mutation(
        "icmp-believed",
        "an ICMPv6 error counts whatever sequence number it quotes",
        ("UM-PORT-13",),
        ("tests/unit/tcp/test_streams.py",),
        (Edit("tapstack.tcp.layer:Tcp.error", "if not sender.snd_una <= sequence < sender.snd_nxt:", "if False:"),),
    ),
    Mutation(
        "icmp-ports-swapped",
        "an ICMPv6 error is looked up with the quoted ports the wrong way round",
        ("UM-PORT-9",),
        ("tests/unit/um/test_icmp_modes.py",),
        (
            Edit(
                "tapstack.tcp.layer:Tcp.error",
                "pcb = self.demux.find(pair, quoted[2:4], quoted[0:2])",
                "pcb = self.demux.find(pair, quoted[0:2], quoted[2:4])",
            ),
        ),
    ),
    Mutation(
        "lease-untold",
        "nobody is told that a lease was taken, and by whom",
        ("UM-LIS-2", "UM-LIS-8", "UM-NODE-4"),
        (_VIEW,),
        (Edit(f"{_ARMED}.bind", 'self.listener.tell(self.listener.state, now, self, "leased")', "pass"),),
    ),
    Mutation(
        "end-untold",
        "the events of listeners do not say until when an SSA is armed",
        ("UM-LIS-2", "UM-NODE-4"),
        (_VIEW,),
        (Edit(f"{_LISTENER}.tell", "until=None if armed is None else armed.expiry.when,", "until=None,"),),
    ),
    Mutation(
        "reply-to-the-reduced-port",
        "L1 answers a legacy client at RP instead of at the port that it connects from",
        ("UM-PORT-2",),
        (f"{_MODES}::test_l1_answers_a_legacy_client_at_its_port",),
        (
            Edit(
                "tapstack.tcp.passive:PassiveOpens._begin",
                "segment.source_port,",
                "armed.listener.options.reduced_port,",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "unified-peers-only",
        "a client writes RP instead of the port that its application named: two unified nodes hear no difference",
        ("UM-NODE-1",),
        ("tests/real/um/test_promotion.py::test_the_router_knows_or_asks",),
        (Edit("tapstack.tcp.layer:Tcp.connect", "if remote_port is None:", "if True:"),),
    ),
    Mutation(
        "time-waits-without-number",
        "records of TIME-WAIT are not bounded",
        ("ST-TCP-13",),
        ("tests/unit/tcp/test_hostile.py::test_time_waits_are_bounded_and_the_oldest_makes_room",),
        (Edit("tapstack.tcp.timewait:TimeWaitTable.enter", "if self._count >= self.limit:", "if False:"),),
    ),
    Mutation(
        "time-waits-pile-up",
        "what ended early stays in the line, as long as the wait would have been",
        ("ST-TCP-13",),
        ("tests/unit/tcp/test_time_wait.py::test_what_ended_early_does_not_pile_up",),
        (Edit("tapstack.tcp.timewait:TimeWaitTable.enter", "self._sweep()", "pass"),),
    ),
    Mutation(
        "second-syn-ends-the-first",
        "a second SYN of a legacy client ends the session that stands",
        ("UM-PORT-10", "UM-PORT-4"),
        ("tests/real/um/test_matrix.py::test_refused",),
        (
            Edit(
                "tapstack.tcp.arrives:_check_syn",
                "connection.challenge(now)",
                'connection.delete(TcpTrigger.DELETE, now, "reset", errors.reset())',
            ),
        ),
    ),
    Mutation(
        "any-syn-ends-the-wait",
        "a newer SYN ends TIME-WAIT, whether somebody takes it or not",
        ("ST-TCP-13",),
        ("tests/unit/tcp/test_time_wait.py::test_a_newer_syn_that_nobody_takes_ends_no_wait",),
        (
            Edit(
                "tapstack.tcp.layer:Tcp.input",
                "armed = self._find_armed(packet, segment, now) if may_reopen(pcb, segment) else None",
                'armed = self._find_armed(packet, segment, now); self.time_waits.end(pcb, now, "over")',
            ),
        ),
    ),
    Mutation(
        "modes-side-by-side",
        "two sessions stand between the same two addresses though one could take the other's packets",
        ("UM-PORT-7",),
        ("tests/unit/um/test_demux.py::test_no_two_stand_where_one_could_take_the_others_packets",),
        (Edit("tapstack.tcp.demux:_Group.rival", "if not others:", "if True:"),),
    ),
    Mutation(
        "deaf-name-server",
        "a name server whose address goes does not take it again",
        ("UM-SSA-3",),
        (
            "tests/unit/unimux/test_addresses_by_hand.py::test_a_name_server_whose_address_goes_takes_it_again_and_says_so",
        ),
        (Edit("unimux.ssa.dnsserver:DnsServer._on_signals", "if bits & Signal.CLOSED:", "if False:"),),
    ),
)
