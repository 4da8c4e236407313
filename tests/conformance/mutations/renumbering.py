"""Defects in what becomes of service addresses when prefixes and links come and go (UM-ADDR-11, UM-GEN-5)."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_DEPRECATED = "tests/unit/unimux/test_deprecated.py"
_PUBLISHER = "tests/unit/compat/test_publisher.py"
_FLAPS = "tests/unit/unimux/test_secret_flaps.py"
_WINDOW = "unimux.ssa.secret:SecretWindow"

MUTATIONS = (
    Mutation(
        "deprecated-accepts",
        "a new session starts on a service address whose prefix is deprecated",
        ("UM-ADDR-11",),
        (_DEPRECATED,),
        (Edit("tapstack.tcp.passive:PassiveOpens.syn_arrives", "if armed.resting:", "if False:"),),
        quick=True,
    ),
    Mutation(
        "deprecated-counts-as-armed",
        "what keeps addresses armed counts those on which nothing starts",
        ("UM-ADDR-11", "UM-LIS-2"),
        (f"{_DEPRECATED}::test_servers_that_poll_arm_in_the_new_prefix_at_once_and_not_twice_in_the_old_one",),
        (Edit("tapstack.tcp.listener:Listener.accepting", "if not armed.resting", ""),),
    ),
    Mutation(
        "deprecated-handshake-dropped",
        "a handshake that has begun is forgotten when its address is deprecated",
        ("UM-ADDR-11", "UM-LIS-3"),
        (f"{_DEPRECATED}::test_a_handshake_that_has_begun_is_completed",),
        (
            Edit(
                "tapstack.tcp.passive:PassiveOpens.ack_arrives",
                "if now > armed.cookies_until or",
                "if armed.resting or now > armed.cookies_until or",
            ),
        ),
    ),
    Mutation(
        "ordinary-rests",
        "a deprecated address that a server bound accepts nobody, against RFC 4862 §5.5.4",
        ("UM-ADDR-11",),
        (f"{_DEPRECATED}::test_an_ordinary_address_accepts_until_the_end_of_its_valid_lifetime",),
        (Edit("tapstack.tcp.listener:ArmedAddress.resting", "and self.entry.kind.one_time", ""),),
    ),
    Mutation(
        "deprecated-before-use",
        "a connection starts on an address that was deprecated after it was taken",
        ("UM-ADDR-11", "UM-DAS-1"),
        ("tests/unit/unimux/test_lost_meanwhile.py",),
        (
            Edit(
                "unimux.das:_may_begin",
                "entry.state is not AddressState.DEPRECATED or not entry.kind.one_time",
                "True",
            ),
        ),
    ),
    Mutation(
        "published-in-the-old-prefix",
        "DNS hands out a service address that rests",
        ("UM-ADDR-11", "UM-SSA-3"),
        (f"{_PUBLISHER}::test_what_is_published_moves_to_the_preferred_prefix_and_does_not_pile_up_in_the_other",),
        (Edit("compat.publisher:Publisher.is_free", "and not armed.resting", ""),),
    ),
    Mutation(
        "published-piles-up",
        "what rests is forgotten, and replaced each time its prefix is deprecated",
        ("UM-ADDR-11", "UM-SSA-3"),
        (f"{_PUBLISHER}::test_what_is_published_moves_to_the_preferred_prefix_and_does_not_pile_up_in_the_other",),
        (Edit("compat.publisher:Publisher.rests", "armed is not None and armed.resting", "False"),),
    ),
    Mutation(
        "flap-costs-counters",
        "counters of a shared secret that were reserved are skipped when the link or the prefix goes",
        ("UM-GEN-5",),
        (_FLAPS,),
        (Edit(f"{_WINDOW}._lost", "if slot.reservation.claimed:", "if True:"),),
        quick=True,
    ),
    Mutation(
        "link-up-is-a-claim",
        "a reservation that goes because the link came up counts as claimed by another node",
        ("UM-GEN-5", "UM-ADDR-10"),
        (f"{_FLAPS}::test_a_link_that_flaps_costs_no_counter",),
        (Edit("unimux.stock:Stock.is_claim", "and not self.relinking", ""),),
    ),
    Mutation(
        "claimed-counter-again",
        "a counter whose address another node claims is reserved again",
        ("UM-GEN-5", "UM-ADDR-6"),
        (f"{_FLAPS}::test_a_counter_that_another_node_claims_is_skipped_and_stays_so_when_the_link_flaps",),
        (Edit(f"{_WINDOW}._lost", "if slot.reservation.claimed:", "if False:"),),
    ),
    Mutation(
        "identifier-serves-twice",
        "a counter that served in one prefix stays armed in another",
        ("UM-GEN-5", "UM-ADDR-11"),
        (
            f"{_FLAPS}::test_in_another_prefix_the_window_begins_where_the_sessions_ended_and_no_identifier_serves_twice",
        ),
        (Edit(f"{_WINDOW}._work", "elif slot.counter in self._served:", "elif False:"),),
    ),
    Mutation(
        "expired-comes-again",
        "an address of a shared secret that expired in use is armed again after a restart",
        ("UM-ADDR-9", "UM-GEN-5"),
        (f"{_FLAPS}::test_an_address_that_was_in_use_until_its_prefix_expired_never_comes_again",),
        (Edit(f"{_WINDOW}._ended", "self.counters.ended[address_text(slot.address)] = slot.counter", "pass"),),
    ),
)
