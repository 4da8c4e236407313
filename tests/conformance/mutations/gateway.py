"""Defects in the gateway of `unimux run`: what the program meets, and what it is kept from."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_TESTS = "tests/unit/compat/test_gateway.py"

MUTATIONS = (
    Mutation(
        "run-cause-lost",
        "the program is told another cause than the one that the node met",
        ("UM-NODE-2",),
        (f"{_TESTS}::test_a_refusal_is_a_refusal_and_silence_is_silence",),
        (Edit("compat.gateway.refusals:code_of", "_CODES.get(number or 0, ", "_CODES.get(0, "),),
        quick=True,
    ),
    Mutation(
        "run-visitor-hidden",
        "the program sees its visitor under another port",
        ("UM-NODE-2",),
        (f"{_TESTS}::test_a_visitor_appears_under_its_own_address_and_port",),
        (Edit("compat.gateway.visits:Visits._open", "local_port=visitor[1]", "local_port=None"),),
    ),
    Mutation(
        "run-calls-for-ever",
        "the node goes on connecting when the program has given up",
        ("UM-NODE-2",),
        (f"{_TESTS}::test_the_attempt_ends_with_the_programs_interest",),
        (Edit("compat.gateway.calls:_Call.again", "max(FIRST_GAP, now - self.seen)", "1e6"),),
    ),
    Mutation(
        "run-flows-without-end",
        "datagram flows are not bounded",
        ("UM-DAS-6",),
        (f"{_TESTS}::test_datagram_flows_and_stand_ins_are_bounded",),
        (Edit("compat.gateway.datagrams:Carrier._begin", "len(self._flows) > LIMIT", "False"),),
    ),
    Mutation(
        "run-ping-answered-by-nobody",
        "a ping is swallowed",
        ("UM-NODE-2",),
        (f"{_TESTS}::test_ping_is_refused_in_words",),
        (Edit("compat.gateway.gateway:Gateway._echo_request", "self.stack.host.icmp_error(", "print("),),
    ),
)
