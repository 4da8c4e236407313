"""Defects in unimux: generators, durable state, the pool, delayed address setting."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_POOL = "tests/unit/unimux/test_pool.py"
_SOURCE = "tests/unit/unimux/test_source.py"

MUTATIONS = (
    Mutation(
        "address-reissued",
        "the same address is drawn again",
        ("UM-ADDR-9", "UM-GEN-1"),
        (
            f"{_POOL}::test_no_address_is_ever_issued_twice",
            f"{_SOURCE}::test_addresses_are_in_the_prefix_and_never_repeat",
        ),
        (Edit("unimux.source:AddressSource.draw", "ready.pop()", "ready[0]"),),
        quick=True,
    ),
    Mutation(
        "counter-in-the-clear",
        "identifiers are the counter itself",
        ("UM-GEN-1", "UM-GEN-3"),
        ("tests/unit/unimux/test_prp.py", "tests/unit/unimux/test_generators.py"),
        (
            Edit("unimux.generators:PermutationGenerator.identifier", "self._permutation.encrypt(counter)", "counter"),
            Edit(
                "unimux.generators:PermutationGenerator.identifiers",
                "return self._permutation.encrypt_many(np.arange(count, dtype=np.uint64) + np.uint64(start))",
                "return np.arange(count, dtype=np.uint64) + np.uint64(start)",
            ),
            Edit(
                "unimux.generators:PermutationGenerator.counter", "self._permutation.decrypt(identifier)", "identifier"
            ),
        ),
    ),
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
        "sequence-without-client",
        "the shared-secret sequence does not depend on the secret",
        ("UM-GEN-5",),
        ("tests/unit/unimux/test_generators.py",),
        (Edit("unimux.generators:derive_key", "hmac.digest(key, ", "hmac.digest(bytes(32), "),),
    ),
    Mutation(
        "lease-not-durable",
        "a lease is handed out before it is on disk",
        ("UM-GEN-6",),
        ("tests/unit/unimux/test_state.py",),
        (Edit("unimux.state:DiskState.lease", "self._write()", "pass"),),
    ),
    Mutation(
        "claim-forgotten",
        "an address set by an agent may be set again",
        ("UM-GEN-6", "UM-DAS-3", "UM-ADDR-9"),
        (_SOURCE, "tests/unit/unimux/test_das.py"),
        (Edit("unimux.source:AddressSource.claim", "if self.issued(address):", "if False:"),),
    ),
    Mutation(
        "second-user-of-an-ea",
        "an application may choose a one-time address that is in use",
        ("UM-DAS-4",),
        ("tests/unit/unimux/test_das.py::test_a_one_time_address_cannot_be_chosen",),
        (Edit("unimux.das:chosen_address", "if entry.kind.one_time:", "if False:"),),
        quick=True,
    ),
    Mutation(
        "pool-overtaken",
        "whoever comes later overtakes those who wait",
        ("UM-POOL-3",),
        (_POOL,),
        (Edit("unimux.pool:Pool.take", "shelf.prefix.dedicated or not shelf.queue", "True"),),
    ),
    Mutation(
        "pool-never-refills",
        "the pool is not refilled below its low mark",
        ("UM-POOL-1",),
        (f"{_POOL}::test_it_refills_below_the_low_mark_only",),
        (Edit("unimux.pool:Pool._give", "< self.stock.low", "< 0"),),
    ),
    Mutation(
        "not-bound-to-its-use",
        "connect takes an address that DAD has not passed",
        ("UM-DAS-1", "UM-POOL-3", "UM-ADDR-1"),
        (f"{_POOL}::test_who_finds_it_empty_waits_for_a_fresh_dad", "tests/unit/unimux/test_node.py"),
        (
            Edit(
                "unimux.pool:Pool.take",
                "self.config.when_empty is WhenEmpty.OPTIMISTIC and self.stock.may_add(now)",
                "self.stock.may_add(now)",
            ),
        ),
    ),
)
