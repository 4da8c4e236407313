"""Defects in finding out that the link refuses addresses (unified-multiplex §1, UM-ADDR-12)."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_CARRIAGE = "tapstack.ipv6.carriage:LinkCarriage"
_VERDICTS = "tests/unit/ipv6/test_carriage.py"
_LINKS = "tests/unit/unimux/test_refusing_link.py"

MUTATIONS = (
    Mutation(
        "refusal-never-suspected",
        "an address on which nothing is heard is never tested",
        ("UM-ADDR-12",),
        (f"{_LINKS}::test_the_pool_shrinks_to_what_works_says_so_and_the_program_hears_nothing",),
        (Edit("unimux.doubts:Doubts._consider", "if not self._testing and", "if False and"),),
        quick=True,
    ),
    Mutation(
        "refusal-without-control",
        "the link is blamed though the neighbour that was asked answers nobody",
        ("UM-ADDR-12",),
        (f"{_VERDICTS}::test_the_link_is_blamed_only_where_another_address_is_answered",),
        (Edit(f"{_CARRIAGE}._due", "and not test.control", "and False"),),
    ),
    Mutation(
        "refusal-blames-silent-servers",
        "an address is given up because its server is silent",
        ("UM-ADDR-12",),
        (f"{_LINKS}::test_a_silent_server_is_not_taken_for_a_refusing_link",),
        (Edit(f"{_CARRIAGE}.advertised", "if dst == test.entry.address:", "if False:"),),
    ),
    Mutation(
        "refusal-blames-a-link-that-is-away",
        "an address is given up because the neighbour that was asked is forgotten",
        ("UM-ADDR-12",),
        (f"{_VERDICTS}::test_a_link_that_goes_away_meanwhile_is_not_blamed",),
        (Edit(f"{_CARRIAGE}._due", "and test.witness.header is None", "and False"),),
    ),
    Mutation(
        "refusal-keeps-the-doubtful",
        "what came to the link after a refused address is used all the same",
        ("UM-ADDR-12",),
        (_LINKS,),
        (Edit("unimux.stock:Stock.refused", "if each.born >= entry.born:", "if False:"),),
    ),
    Mutation(
        "refusal-not-told",
        "a connection on a refused address waits for its time-out",
        ("UM-ADDR-12",),
        (_LINKS,),
        (Edit("unimux.pool:Pool._refused", "self.on_refused(entry, now)", "pass"),),
    ),
)
