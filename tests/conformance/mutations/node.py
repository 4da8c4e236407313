"""Defects in unimux: generators, durable state, the pool, delayed address setting."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_PURPOSES = "tests/unit/um/test_purposes.py"
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
        (Edit("unimux.diskstate:DiskState.lease", "self._write()", "pass"),),
    ),
    Mutation(
        "counters-as-a-mask",
        "a user's generator with fewer counters than identifiers is looked up by the wrong bits",
        ("UM-GEN-3", "UM-GEN-6"),
        (f"{_SOURCE}::test_a_generator_with_fewer_counters_is_found_by_audit_and_never_repeats",),
        (Edit("unimux.generators:Generator.locate", "((1 << self.bits) - 1)", "(self.capacity - 1)"),),
    ),
    Mutation(
        "word-not-kept",
        "a user's generator is believed whatever it makes",
        ("UM-GEN-6",),
        (f"{_SOURCE}::test_a_generator_that_does_not_keep_its_word_is_refused",),
        (
            Edit(
                "unimux.source:AddressSource._batch",
                "self._probe(generator, counters.start, int(identifiers[0]), int(identifiers.max()))",
                "pass",
            ),
        ),
    ),
    Mutation(
        "own-class-not-found",
        "a class in a file of the current folder is not looked for",
        ("UM-GEN-6", "ST-TCP-5"),
        ("tests/unit/test_userclass.py::test_a_file_in_the_current_folder_is_found",),
        (Edit("tapstack.userclass:_module", "sys.path.append(here)", "sys.path.append('/nowhere')"),),
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
                "self.config.when_empty is WhenEmpty.OPTIMISTIC and self.stock.may_add(shelf, now)",
                "self.stock.may_add(shelf, now)",
            ),
        ),
    ),
    Mutation(
        "purpose-untold",
        "nobody is told what an address is for",
        ("UM-NODE-4", "UM-GEN-3"),
        (_PURPOSES,),
        (Edit("unimux.purpose:tell_purpose", "if events.active:", "if False:"),),
    ),
    Mutation(
        "peers-in-the-journal",
        "peers' addresses are written though nobody asked for them",
        ("UM-NODE-4",),
        ("tests/unit/unimux/test_journal.py::test_peers_are_left_out_unless_asked_for",),
        (
            Edit(
                "unimux.journal:SessionJournal._see_purpose",
                "event.destination if self.policy.peers else None",
                "event.destination",
            ),
        ),
    ),
    Mutation(
        "routed-without-cause",
        "on a routed prefix an address comes without the cause of its use",
        ("UM-NODE-4",),
        (_PURPOSES,),
        (Edit("unimux.pool:Pool.mint", "now, kind, cause)", "now, kind)"),),
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
        "pool-that-fails-stays-empty",
        "a pool that fails at once when it is empty is not filled again",
        ("UM-POOL-3", "UM-POOL-1"),
        (_POOL,),
        (Edit("unimux.stock:Stock.low", "least = 1 if", "least = 0 if"),),
    ),
    Mutation(
        "ordinary-addresses-never-end",
        "the ordinary addresses of a host that stops are not told to end",
        ("UM-NODE-4",),
        ("tests/unit/um/test_events.py::test_ordinary_addresses_have_their_end_when_the_node_stops",),
        (Edit("tapstack.ipv6.host:Host.stop", 'self._expire(entry, now, "the host stops")', "pass"),),
    ),
)
