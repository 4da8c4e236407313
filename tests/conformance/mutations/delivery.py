"""Defects in how a service address reaches its client: DNS, tokens, shared secrets, tags (UM-SSA)."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_FLAPS = "tests/unit/unimux/test_secret_flaps.py"

MUTATIONS = (
    Mutation(
        "tag-forged",
        "a tag with wrong redundancy is admitted",
        ("UM-GEN-4",),
        ("tests/unit/unimux/test_tagged.py",),
        (Edit("unimux.tagged:TagCodec.open", "if value & self._redundancy:", "if False:"),),
        quick=True,
    ),
    Mutation(
        "tag-eternal",
        "a tag is admitted after its expiry slot",
        ("UM-GEN-4",),
        ("tests/unit/unimux/test_tagged.py::test_a_verifier_admits_from_issue_to_expiry_only",),
        (Edit("unimux.tagged:TagVerifier.admit", "and tag.slot in slots", ""),),
    ),
    Mutation(
        "lost-claims-armed-again",
        "a window of a shared secret arms what it had reserved before the node lost its claims",
        ("UM-ADDR-9", "UM-GEN-5"),
        (f"{_FLAPS}::test_where_claims_were_lost_the_window_passes_over_all_that_it_had_reserved",),
        (Edit("unimux.ssa.secret:SecretWindow._take_up", "served, counters.reserved - 1", "served"),),
    ),
    Mutation(
        "dns-rate-per-node",
        "one source that asks too often takes the rate of all others",
        ("UM-SSA-3",),
        ("tests/unit/unimux/test_dns_delivery.py::test_a_source_over_its_rate_leaves_others_theirs",),
        (Edit("unimux.ssa.dnsresponder:Responder._pay", "whose = source if", 'whose = "all" if True else source if'),),
    ),
    Mutation(
        "dns-rate-per-address",
        "a host has the rate once for each address that it gives itself",
        ("UM-SSA-3",),
        ("tests/unit/unimux/test_dns_delivery.py::test_a_source_over_its_rate_leaves_others_theirs",),
        (Edit("unimux.ssa.dnsresponder:Responder._pay", "whose = source if", "whose = source if True or"),),
    ),
    Mutation(
        "dns-tells-a-taken-address",
        "the responder tells the next client an address that is in use",
        ("UM-SSA-3",),
        ("tests/unit/unimux/test_dns_delivery.py",),
        (Edit("unimux.ssa.dnsresponder:Responder._remembered", "if made and not", "if False and not"),),
    ),
    Mutation(
        "tag-serials-in-memory",
        "serials of tagged addresses are not leased from the state",
        ("UM-GEN-6", "UM-GEN-4"),
        ("tests/unit/unimux/test_tagissue.py",),
        (
            Edit(
                "unimux.tagissue:TagIssuer._serial",
                "leased = self._state.lease(sequence, min(self._block, left))",
                "leased = range(left)",
            ),
        ),
    ),
    Mutation(
        "token-without-port",
        "the port is lost from a token, and a legacy client does not know where to connect",
        ("UM-SSA-1",),
        ("tests/unit/unimux/test_token.py",),
        (Edit("unimux.ssa.token:Token.__str__", '"" if self.port is None else f":{self.port}"', '""'),),
        quick=True,
    ),
    Mutation(
        "token-for-ever",
        "a token's end is not read",
        ("UM-SSA-1",),
        ("tests/unit/unimux/test_token.py::test_every_part_is_read",),
        (Edit("unimux.ssa.token:_parameters", 'values.get("until")', "None"),),
    ),
    Mutation(
        "window-of-one",
        "of a shared secret's sequence only the next address is armed",
        ("UM-SSA-2", "UM-GEN-5"),
        ("tests/unit/unimux/test_secret.py",),
        (Edit("unimux.ssa.secret:SecretWindow._arm", "[: self._armed]", "[:1]"),),
    ),
    Mutation(
        "record-put-back",
        "what served by a shared secret is on one record only",
        ("UM-GEN-6", "UM-ADDR-9"),
        ("tests/unit/unimux/test_secret_record.py",),
        (Edit("unimux.ssa.secret:SecretWindow._take_up", "served > counters.used", "False"),),
    ),
    Mutation(
        "registrar-unnamed",
        "on whose behalf a registrar asked for an SSA is forgotten",
        ("UM-SSA-4",),
        ("tests/unit/um/test_door.py::test_a_registrar_needs_no_more_than_there_is",),
        (Edit("unimux.ssa.issue:Issuer.issue", "who=who or purpose.who", "who=purpose.who"),),
    ),
    Mutation(
        "issued-twice",
        "every client of a server is told the address of the first",
        ("UM-NODE-3",),
        ("tests/unit/unimux/test_node.py::test_parallel_sessions_each_have_their_own_pair",),
        (
            Edit(
                "unimux.ssa.issue:Issuer._arm",
                "ssa = ServiceAddress(IPv6Address(entry.address)",
                "ssa = ServiceAddress(IPv6Address(next(iter(self._issued), entry.address))",
            ),
        ),
    ),
)
