"""Defects in unimux: generators, durable state, the pool, delayed address setting."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation, Put

_BROKEN = "tests/unit/unimux/test_broken_connections.py"
_PURPOSES = "tests/unit/um/test_purposes.py"
_POOL = "tests/unit/unimux/test_pool.py"
_SOURCE = "tests/unit/unimux/test_source.py"
_PREFIXES = "tests/unit/unimux/test_pool_prefixes.py"
_DAS = "tests/unit/unimux/test_das.py"
_UNPREDICTABLE = "tests/unit/um/test_unpredictable.py"
_FLAPS = "tests/unit/unimux/test_secret_flaps.py"
_CLAIMED = "tests/unit/unimux/test_claims.py"

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
        "sequence-without-client",
        "the shared-secret sequence does not depend on the secret",
        ("UM-GEN-5",),
        ("tests/unit/unimux/test_generators.py",),
        (Edit("tapstack.randomness:derive_key", "hmac.digest(key, ", "hmac.digest(bytes(32), "),),
    ),
    Mutation(
        "draws-foreseen",
        "what a node draws comes from a Mersenne Twister, whose state an observer computes",
        ("UM-GEN-7",),
        (f"{_UNPREDICTABLE}::test_who_saw_what_a_node_drew_foretells_nothing",),
        (
            Edit(
                "tapstack.randomness:KeyedRandom.getrandbits",
                "drawn = self._bits & ((1 << count) - 1)",
                "drawn = globals().setdefault(self, __import__('random').Random(self._key)).getrandbits(count)",
            ),
        ),
    ),
    Mutation(
        "one-stream",
        "streams and keys for different purposes are the same",
        ("UM-GEN-7",),
        ("tests/unit/test_randomness.py",),
        (Edit("tapstack.randomness:derive_key", "purpose.encode()", "b''"),),
        quick=True,
    ),
    Mutation(
        "seed-known",
        "a node that is given no seed begins with one that everybody knows",
        ("UM-GEN-7",),
        (f"{_UNPREDICTABLE}::test_nodes_without_a_seed_draw_differently",),
        (Edit("unimux.node:Node.__init__", "seed or os.urandom(32)", "seed or bytes(32)"),),
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
                "self._probe(generator, counters, identifiers)",
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
        "lost-claims-unseen",
        "a file of claimed addresses that is missing is taken for one that never was",
        ("UM-GEN-6", "UM-ADDR-9"),
        (f"{_CLAIMED}::test_claims_that_are_lost_begin_an_epoch_and_are_told",),
        (
            Edit(
                "unimux.diskstate:DiskState._load_claims",
                "not all(mark.fits(data) for mark in known) if known else bool(data)",
                "False",
            ),
        ),
    ),
    Mutation(
        "claims-counted-only",
        "a file of claimed addresses is believed if it is long enough",
        ("UM-GEN-6", "UM-ADDR-9"),
        (f"{_CLAIMED}::test_claims_that_are_lost_begin_an_epoch_and_are_told",),
        (
            Edit(
                "unimux.diskstate:Mark.fits",
                "Mark.of(claims[: self.count * ADDRESS]) == self",
                "len(claims) >= self.count * ADDRESS",
            ),
        ),
    ),
    Mutation(
        "claims-marked-at-the-end",
        "the claims of a run that ended in a crash are not missed",
        ("UM-GEN-6", "UM-ADDR-9"),
        (f"{_CLAIMED}::test_claims_that_are_lost_begin_an_epoch_and_are_told",),
        (Edit("unimux.diskstate:DiskState.claim", "self._remember_claims()", "pass"),),
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
        (Edit("unimux.pool:Pool._take", "shelf.prefix.dedicated or not shelf.queue", "True"),),
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
                "unimux.pool:Pool._take",
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
        ("UM-GEN-3",),
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
        "udp-idle-ignores-received",
        "a flow that only receives falls asleep, and loses its address",
        ("UM-DAS-6",),
        ("tests/unit/um/test_datagram.py::test_a_flow_is_not_idle_while_either_side_speaks",),
        (Edit("tapstack.udp.flow:UdpFlow.deliver", "self.last_used = now", "pass"),),
    ),
    Mutation(
        "udp-idle-ignores-sent",
        "a flow that only sends falls asleep, and loses its address",
        ("UM-DAS-6",),
        ("tests/unit/um/test_datagram.py::test_a_flow_is_not_idle_while_either_side_speaks",),
        (Edit("tapstack.udp.flow:UdpFlow.send", "self.last_used = now", "pass"),),
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
    Mutation(
        "reserved-identifiers-issued",
        "an identifier that RFC 5453 reserves is drawn",
        ("UM-GEN-2",),
        (f"{_SOURCE}::test_reserved_identifiers_are_passed_over_for_every_generator",),
        (
            Edit(
                "unimux.generators:reserved_mask",
                "mask |= (identifiers >= np.uint64(first)) & (identifiers <= np.uint64(last))",
                "pass",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "reservations-for-ever",
        "a reservation has no maximum age",
        ("UM-POOL-2",),
        (f"{_POOL}::test_reservations_are_replaced_at_their_maximum_age",),
        (Edit("unimux.stock:Stock.age", "if now >= until:", "if False:"),),
    ),
    Mutation(
        "reserved-beyond-preferred",
        "addresses are reserved in a prefix whose preferred lifetime is over",
        ("UM-POOL-2",),
        (f"{_POOL}::test_reservations_end_with_the_preferred_lifetime",),
        (
            Edit("unimux.stock:Stock.usable", "if p.preferred and", "if"),
            Edit("tapstack.ipv6.host:Host.reserve", "or not prefix.preferred", ""),
        ),
    ),
    Mutation(
        "routed-with-dad",
        "an address of a routed prefix takes DAD as any other",
        ("UM-POOL-4",),
        (f"{_PREFIXES}::test_a_dedicated_prefix_needs_neither_dad_nor_groups_nor_waiting",),
        (Edit("tapstack.ipv6.host:Host.reserve", "if prefix.dedicated:", "if False:"),),
    ),
    Mutation(
        "routed-with-groups",
        "an address of a routed prefix joins its solicited-node group",
        ("UM-POOL-4",),
        (f"{_PREFIXES}::test_a_dedicated_prefix_needs_neither_dad_nor_groups_nor_waiting",),
        (Edit("tapstack.ipv6.host:Host.reserve", "per_address_nd=False", "per_address_nd=True"),),
        quick=True,
    ),
    Mutation(
        "ceiling-of-the-reserve",
        "the rate ceiling is computed from what is held in reserve, not from all addresses that there may be",
        ("UM-POOL-5",),
        (_POOL,),
        (Edit("unimux.pool:Pool.ceiling", "self.stock.limit /", "self.stock.high /"),),
    ),
    Mutation(
        "ceiling-untold",
        "connect() at an empty pool does not say what the pool sustains",
        ("UM-POOL-5", "UM-POOL-3"),
        ("tests/unit/unimux/test_node.py::test_an_empty_pool_waits_within_the_time_out_and_says_what_it_sustains",),
        (Edit("unimux.pool:Pool.shortage", "self.ceiling()", "None"),),
    ),
    Mutation(
        "auto-set-asks-to-wait",
        "auto set makes a socket wait though an address is ready",
        ("UM-DAS-2",),
        (f"{_DAS}::test_auto_set_gives_an_address_in_the_same_call",),
        (
            Edit(
                "unimux.das:AutoSet.ask",
                "self.pool.take(want.kind, want.destination, now, want.cause)",
                "None",
            ),
        ),
    ),
    Mutation(
        "choice-overruled",
        "an application that chose an address gets another ordinary one",
        ("UM-DAS-5",),
        (f"{_DAS}::test_an_application_that_chose_an_address_gets_it",),
        (
            Edit(
                "unimux.das:ChosenAddress.ask",
                "chosen_address(self._addresses, self.address)",
                "next(e for e in self._addresses if e.address != self.address and not e.kind.one_time)",
            ),
        ),
    ),
    Mutation(
        "prefix-without-rules",
        "the prefix is not chosen for the destination",
        ("UM-DAS-7",),
        (_PREFIXES,),
        (
            Edit(
                "unimux.prefix:choose_prefix",
                "chosen = choose_source(finalists, destination)",
                "chosen = finalists[0] if finalists else None",
            ),
        ),
    ),
    Mutation(
        "lease-forgotten-by-a-crash",
        "a node that begins again on the state of a crashed one draws its addresses again",
        ("UM-REL-4", "UM-GEN-6", "UM-ADDR-9"),
        ("tests/unit/um/test_stop_and_crash.py::test_after_a_crash_old_pairs_stay_silent_for_ever",),
        (Edit("unimux.state:MemoryState.lease", "self.epoch.leased[sequence] = begin + count", "pass"),),
    ),
    Mutation(
        "narrow-prefix-rolled-back",
        "an old key counts as having issued one in 65,536 more, however narrow the prefix",
        ("UM-GEN-6", "UM-ADDR-9"),
        ("tests/unit/unimux/test_source.py",),
        (Edit("unimux.source:in_doubt", "min(24, bits - 10)", "0"),),
    ),
    Mutation(
        "transport-of-its-own-kind",
        "asyncio's start_tls does not take the transport for one that it knows",
        ("UM-NODE-2",),
        ("tests/unit/unimux/test_http_libraries.py::test_an_http_client_and_an_http_server",),
        (Put("unimux.transport:SessionTransport._start_tls_compatible", "False"),),
    ),
    Mutation(
        "flow-keeps-its-address",
        "a UDP flow that has ended keeps its one-time address",
        ("UM-DAS-6", "UM-REL-1"),
        ("tests/unit/udp/test_udp.py::test_a_flow_ends_its_one_time_address", "tests/unit/um/test_datagram.py"),
        (Edit("tapstack.udp.layer:Udp.close_flow", "self.host.addresses.drop(flow.entry, flow, now, cause)", "pass"),),
    ),
    Mutation(
        "fault-keeps-its-address",
        "a connection in which a controller of the user's fails stays as it was, with its address",
        ("UM-REL-1",),
        (_BROKEN,),
        (Edit("tapstack.tcp.layer:Tcp.broken", "connection.state is not TcpState.CLOSED", "False"),),
    ),
    Mutation(
        "fault-without-reset",
        "the peer of a connection in which a controller of the user's fails hears nothing of its end",
        ("UM-REL-1",),
        (_BROKEN,),
        (
            Edit(
                "tapstack.tcp.layer:Tcp.broken",
                'connection.fail(error, now, "fault")',
                'connection.delete(TcpTrigger.DELETE, now, "fault", error)',
            ),
        ),
    ),
    Mutation(
        "patience-ends",
        "a user time-out that was to have no end is over after a day",
        ("MUST-21",),
        ("tests/unit/tcp/test_user_timeout.py::test_a_time_out_without_an_end_waits_for_days",),
        (
            Edit(
                "tapstack.tcp.timers:ConnectionTimers._patience",
                "since + connection.user_timeout",
                "since + min(connection.user_timeout, 86_400.0)",
            ),
        ),
        quick=True,
    ),
)
