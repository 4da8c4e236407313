"""Defects in the IPv6 layer: headers, fragments, ICMPv6, checksums, selection, UDP."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_RECEIVE = "tapstack.ipv6.receive:Receiver"
_EXTENSIONS = "tests/unit/ipv6/test_extension_headers.py"
_REASSEMBLY = "tests/unit/ipv6/test_reassembly.py"
_UDP = "tests/unit/udp/test_udp.py"

MUTATIONS = (
    Mutation(
        "checksum-written-wrong",
        "every checksum that is written is off by one",
        ("ST-TCP-1", "ST-IP6-3"),
        ("tests/unit/tcp/test_modes.py", "tests/unit/wire/test_icmpv6.py"),
        (Edit("tapstack.wire.checksum:field", "return 65535 -", "return 65534 -"),),
        quick=True,
    ),
    Mutation(
        "checksum-unchecked",
        "a wrong checksum is accepted",
        ("UM-PORT-8", "ST-IP6-3"),
        ("tests/unit/tcp/test_modes.py::test_a_wrong_checksum_is_dropped_and_counted", _UDP),
        (
            Edit("tapstack.wire.checksum:valid", "% 65535 == 0", ">= 0"),
            Edit("tapstack.tcp.fastpath:_intact", "% 65535 == 0", ">= 0"),
        ),
        quick=True,
    ),
    Mutation(
        "unknown-option-skipped",
        "an unknown option is skipped whatever its two high bits say",
        ("ST-IP6-1",),
        (f"{_EXTENSIONS}::test_unknown_options_have_the_action_of_their_two_high_bits",),
        (Edit(f"{_RECEIVE}._options", "if option.unknown_action is not ipv6.UnknownAction.SKIP:", "if False:"),),
        quick=True,
    ),
    Mutation(
        "source-route-taken",
        "a routing header with segments left is skipped",
        ("ST-IP6-1",),
        (f"{_EXTENSIONS}::test_a_routing_header_with_segments_left_is_a_problem",),
        (Edit(f"{_RECEIVE}._walk", "if packet.whole[at + 3]:", "if False:"),),
    ),
    Mutation(
        "headers-unbounded",
        "a chain of extension headers may be of any length",
        ("ST-IP6-1", "RFC8504-5.3/2"),
        (f"{_EXTENSIONS}::test_the_length_of_chains_can_be_bounded",),
        (Edit(f"{_RECEIVE}._walk", "range(self._interface.config.extension_headers)", "range(10_000)"),),
    ),
    Mutation(
        "overlap-accepted",
        "overlapping fragments are put together",
        ("ST-IP6-2",),
        (f"{_REASSEMBLY}::test_an_overlap_ends_the_packet_and_what_still_comes_of_it",),
        (
            Edit(
                "tapstack.ipv6.reassembly:Reassembler._insert",
                "if overlaps or beyond or before:",
                "if beyond or before:",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "fragments-for-ever",
        "fragments wait without end",
        ("ST-IP6-2",),
        (f"{_REASSEMBLY}::test_time_over_is_reported_if_the_first_piece_came",),
        (Edit("tapstack.ipv6.reassembly:Reassembler._begin", "if not self._timer.armed:", "if False:"),),
    ),
    Mutation(
        "atomic-waits",
        "an atomic fragment goes through reassembly",
        ("ST-IP6-2",),
        (f"{_REASSEMBLY}::test_atomic_fragments_are_packets_by_themselves",),
        (Edit(f"{_RECEIVE}._fragment", "if fragment.atomic:", "if False:"),),
    ),
    Mutation(
        "error-about-error",
        "an ICMPv6 error is answered with an error",
        ("ST-IP6-3",),
        (f"{_EXTENSIONS}::test_no_error_about_an_error_a_group_or_a_broadcast",),
        (Edit("tapstack.ipv6.icmp:Icmp._may_answer", "return not self._is_error(packet)", "return True"),),
        quick=True,
    ),
    Mutation(
        "error-to-group",
        "a packet to a group is answered with an error",
        ("ST-IP6-3",),
        (f"{_EXTENSIONS}::test_no_error_about_an_error_a_group_or_a_broadcast",),
        (Edit("tapstack.ipv6.icmp:Icmp._may_answer", "and not allowed_to_groups", "and False"),),
    ),
    Mutation(
        "errors-unlimited",
        "ICMPv6 errors have no rate limit",
        ("ST-IP6-3",),
        (f"{_EXTENSIONS}::test_errors_and_echoes_are_rate_limited",),
        (Edit("tapstack.ipv6.icmp:Icmp.error", "not self._errors_out.take(now)", "False"),),
    ),
    Mutation(
        "quote-too-long",
        "an ICMPv6 error quotes more than fits the minimum MTU",
        ("ST-IP6-3",),
        (f"{_EXTENSIONS}::test_a_quote_is_cut_to_the_minimum_mtu",),
        (
            Edit(
                "tapstack.wire.icmpv6:pack_error",
                "packet[:MAXIMUM_QUOTE]",
                "packet[:1400]",
            ),
        ),
    ),
    Mutation(
        "silent-one-time-error",
        "a stranger's packet to a one-time address draws an ICMPv6 error",
        ("UM-EA-1",),
        ("tests/unit/ipv6/test_uncertain.py::test_an_ephemeral_address_answers_its_peer_only",),
        (
            Edit(
                "tapstack.ipv6.icmp:Icmp.speaker",
                "packet.dst if packet.entry.speaks_to(packet.src) else None",
                "packet.dst",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "deprecated-preferred",
        "source selection prefers a deprecated address",
        ("ST-IP6-10",),
        ("tests/unit/ipv6/test_selection.py",),
        (Edit("tapstack.ipv6.selection:_prefers", "return other.deprecated", "return one.deprecated"),),
    ),
    Mutation(
        "destinations-as-told",
        "the addresses of a name are tried in the order in which the name server tells them",
        ("ST-IP6-10",),
        ("tests/unit/unimux/test_destinations.py",),
        (Edit("unimux.destinations:Destinations.best_first", "< 2", "< 200"),),
    ),
    Mutation(
        "marks-lost-in-fragments",
        "a mark of congestion on one fragment is lost where the others have none",
        ("ST-TCP-7",),
        (f"{_REASSEMBLY}::test_a_mark_of_congestion_on_any_fragment_is_one_on_the_packet",),
        (Edit("tapstack.ipv6.reassembly:Reassembler._complete", "head[1] |= _ECN", "pass"),),
    ),
    Mutation(
        "marks-beside-refusals",
        "a packet is marked although one of its fragments says that its sender takes no marks",
        ("ST-TCP-7",),
        (f"{_REASSEMBLY}::test_a_mark_of_congestion_on_any_fragment_is_one_on_the_packet",),
        (Edit("tapstack.ipv6.reassembly:Reassembler._complete", "marked and partial.codepoints & _NOT_ECT", "False"),),
    ),
    Mutation(
        "jumbogram-to-a-group-answered",
        "a jumbogram to a group draws a Parameter Problem from each member",
        ("ST-IP6-1",),
        (f"{_EXTENSIONS}::test_a_jumbogram_to_a_group_is_refused_in_silence",),
        (Edit("tapstack.ipv6.receive:_refused", "and not is_multicast(packet.dst)", ""),),
    ),
    Mutation(
        "udp-zero-checksum",
        "a UDP datagram without checksum is accepted",
        ("ST-IP6-11",),
        (
            f"{_UDP}::test_a_missing_or_wrong_checksum_is_dropped",
            f"{_UDP}::test_a_zero_checksum_is_refused_even_where_the_sum_is_zero",
        ),
        (Edit("tapstack.udp.layer:Udp.input", "header.checksum and", "not header.checksum or"),),
    ),
    Mutation(
        "udp-stranger-error",
        "a datagram to a one-time address where no flow is draws a Port Unreachable",
        ("UM-EA-1", "UM-DAS-6"),
        (f"{_UDP}::test_a_one_time_address_is_silent_to_strangers",),
        (
            Edit("tapstack.udp.layer:Udp.input", "and not packet.entry.kind.one_time", ""),
            Edit("tapstack.ipv6.addresses:AddressEntry.speaks_to", "not self.kind.one_time or", "True or"),
        ),
    ),
)
