"""Defects in the life of an address: what is answered in which state, promotion, release (unified-multiplex §1, §7)."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation, Put

_TABLE = "tapstack.ipv6.addresses:ANSWERS"
_UNCERTAIN = "tests/unit/ipv6/test_uncertain.py"
_MACHINE = "tests/unit/ipv6/test_address_machine.py"
_STABLE = "tests/unit/ipv6/test_dad.py::test_the_link_local_address_depends_on_the_secret_and_each_prefix_has_another_identifier"
_DISCOVERY = "tapstack.ipv6.discovery:Discovery"
_WAITS = "tests/unit/um/test_what_waits.py"
_BY_HAND = "tests/unit/unimux/test_addresses_by_hand.py"

MUTATIONS = (
    Mutation(
        "uncertain-resolves",
        "an UNCERTAIN address answers address resolution",
        ("UM-ADDR-3",),
        (f"{_UNCERTAIN}::test_resolution_and_unreachability_probes_are_not_answered",),
        (Put(_TABLE, "Answers.DAD | Answers.RESOLUTION", "_S.UNCERTAIN"),),
        quick=True,
    ),
    Mutation(
        "uncertain-answers-all",
        "an UNCERTAIN address answers whatever comes: echo, TCP, errors",
        ("UM-ADDR-4",),
        (f"{_UNCERTAIN}::test_any_other_packet_to_an_uncertain_address_is_dropped_in_silence",),
        (Put(_TABLE, "Answers.DAD | Answers.RESOLUTION | Answers.TRAFFIC", "_S.UNCERTAIN"),),
        quick=True,
    ),
    Mutation(
        "uncertain-not-defended",
        "a DAD probe for an UNCERTAIN address is not answered",
        ("UM-ADDR-2",),
        (f"{_UNCERTAIN}::test_the_defence_is_multicast_overriding_and_from_the_link_local_address",),
        (Put(_TABLE, "Answers.RESOLUTION", "_S.UNCERTAIN"),),
        quick=True,
    ),
    Mutation(
        "uncertain-group-echo",
        "an echo request to the group of an UNCERTAIN address is answered",
        ("UM-ADDR-4",),
        (f"{_UNCERTAIN}::test_nothing_to_the_group_of_an_uncertain_address_is_answered",),
        (
            Edit(
                "tapstack.ipv6.icmp:Icmp.speaker",
                "packet.dst != ALL_NODES and not self._is_ordinary(packet.dst)",
                "False",
            ),
        ),
    ),
    Mutation(
        "defence-from-itself",
        "the defence NA has the reserved address as its source",
        ("UM-ADDR-5",),
        (f"{_UNCERTAIN}::test_the_defence_is_multicast_overriding_and_from_the_link_local_address",),
        (
            Edit(
                f"{_DISCOVERY}.advertise",
                "entry.address if entry.answers & Answers.TRAFFIC else interface.link_local",
                "entry.address",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "defence-without-override",
        "the defence NA has O=0",
        ("UM-ADDR-5",),
        (f"{_UNCERTAIN}::test_the_defence_is_multicast_overriding_and_from_the_link_local_address",),
        (Edit(f"{_DISCOVERY}._probe", "override=True", "override=False"),),
    ),
    Mutation(
        "defence-solicited",
        "the defence NA has S=1",
        ("UM-ADDR-5",),
        (f"{_UNCERTAIN}::test_the_defence_is_multicast_overriding_and_from_the_link_local_address",),
        (Edit(f"{_DISCOVERY}.advertise", "False, solicited, override", "False, True, override"),),
    ),
    Mutation(
        "foreign-na-ignored",
        "a foreign NA for an UNCERTAIN address changes nothing",
        ("UM-ADDR-6",),
        (f"{_UNCERTAIN}::test_a_foreign_advertisement_discards_a_reserved_address",),
        (Edit(f"{_DISCOVERY}._claim", "elif entry.state is AddressState.UNCERTAIN:", "elif False:"),),
        quick=True,
    ),
    Mutation(
        "foreign-na-ends-connections",
        "a foreign NA for a PREFERRED address takes it away",
        ("UM-ADDR-11",),
        (f"{_UNCERTAIN}::test_a_foreign_advertisement_for_a_used_address_is_an_event_and_changes_nothing",),
        (
            Edit(
                f"{_DISCOVERY}._claim",
                'self._interface.notice(address_text(entry.address), f"{owner} advertises it too; it is kept", now)',
                "self._interface.addresses.expire(entry, now, owner)",
            ),
        ),
    ),
    Mutation(
        "withdrawn-prefix-kept",
        "reserved addresses outlive their prefix",
        ("UM-ADDR-6",),
        (f"{_UNCERTAIN}::test_a_withdrawn_prefix_discards_what_is_reserved_and_deprecates_what_is_used",),
        (Edit("tapstack.ipv6.prefixes:PrefixList._age", "self.on_deprecated(prefix, now)", "pass"),),
    ),
    Mutation(
        "promotion-silent",
        "promotion sends no NA",
        ("UM-ADDR-8", "ST-IP6-12"),
        (f"{_UNCERTAIN}::test_promotion_sends_exactly_one_advertisement_to_the_routers",),
        (Edit(f"{_DISCOVERY}.announce", "self.advertise(entry, ALL_ROUTERS, override=False)", "pass"),),
        quick=True,
    ),
    Mutation(
        "promotion-twice",
        "promotion sends two NAs",
        ("UM-ADDR-8",),
        (f"{_UNCERTAIN}::test_promotion_sends_exactly_one_advertisement_to_the_routers",),
        (
            Edit(
                f"{_DISCOVERY}.announce",
                "self.advertise(entry, ALL_ROUTERS, override=False)",
                "[self.advertise(entry, ALL_ROUTERS, override=False) for _ in range(2)]",
            ),
        ),
    ),
    Mutation(
        "promotion-overrides",
        "the promotion NA has O=1",
        ("UM-ADDR-8", "ST-IP6-12"),
        (f"{_UNCERTAIN}::test_promotion_sends_exactly_one_advertisement_to_the_routers",),
        (Edit(f"{_DISCOVERY}.announce", "override=False", "override=True"),),
        quick=True,
    ),
    Mutation(
        "promotion-to-all-nodes",
        "the promotion NA goes to all nodes",
        ("UM-ADDR-8",),
        (f"{_UNCERTAIN}::test_promotion_sends_exactly_one_advertisement_to_the_routers",),
        (Edit(f"{_DISCOVERY}.announce", "ALL_ROUTERS", "ALL_NODES"),),
    ),
    Mutation(
        "group-not-left",
        "the solicited-node group is never left",
        ("UM-ADDR-7", "UM-ADDR-9", "ST-IP6-7"),
        (f"{_UNCERTAIN}::test_the_group_is_joined_from_tentative_to_release",),
        (Edit("tapstack.ipv6.multicast:MulticastListener.leave", "self._changed(group, now)", "pass"),),
        quick=True,
    ),
    Mutation(
        "group-not-counted",
        "the group is left with the first of two addresses in it",
        ("UM-ADDR-7",),
        (f"{_UNCERTAIN}::test_two_addresses_in_one_group_join_once_and_leave_once",),
        (Edit("tapstack.ipv6.multicast:MulticastListener.leave", "if count > 0:", "if False:"),),
    ),
    Mutation(
        "released-answers",
        "an address stays in the table after its release and goes on answering",
        ("UM-ADDR-9", "UM-REL-1"),
        (_UNCERTAIN, _MACHINE),
        (
            Put(_TABLE, "Answers.DAD | Answers.RESOLUTION | Answers.TRAFFIC", "_S.INVALID"),
            Edit("tapstack.ipv6.addresses:AddressTable._move", "del self._entries[entry.address]", "pass"),
        ),
    ),
    Mutation(
        "last-user-leaks",
        "the last user's end does not release a one-time address",
        ("UM-REL-1",),
        (f"{_MACHINE}::test_users_keep_a_one_time_address_and_the_last_one_releases_it",),
        (Edit("tapstack.ipv6.addresses:AddressTable.give_back", "if not entry.users and", "if False and"),),
        quick=True,
    ),
    Mutation(
        "released-while-used",
        "the first user's end releases an address that others still use",
        ("UM-REL-1",),
        (_MACHINE, "tests/unit/unimux/test_node.py::test_a_sticky_session_shares_one_address_until_it_ends"),
        (Edit("tapstack.ipv6.addresses:AddressTable.give_back", "if not entry.users and", "if"),),
    ),
    Mutation(
        "second-dad",
        "a reserved address becomes PREFERRED by its DAD, without being taken",
        ("UM-ADDR-1",),
        (
            f"{_UNCERTAIN}::test_a_reserved_address_is_uncertain_after_dad_and_preferred_in_the_call_that_takes_it",
            _MACHINE,
        ),
        (Edit("tapstack.ipv6.addresses:AddressTable.dad_passed", "if reserved else", "if False else"),),
    ),
    Mutation(
        "speaks-to-strangers",
        "a one-time address answers strangers",
        ("UM-EA-1", "UM-LIS-6"),
        (
            f"{_UNCERTAIN}::test_an_ephemeral_address_answers_its_peer_only",
            "tests/unit/tcp/test_listen.py::test_third_parties_get_nothing_while_the_session_lives",
        ),
        (Edit("tapstack.ipv6.addresses:AddressEntry.speaks_to", "not self.kind.one_time or", "True or"),),
        quick=True,
    ),
    Mutation(
        "expiry-spares-connections",
        "a connection survives the end of its address's valid lifetime",
        ("UM-ADDR-11",),
        ("tests/unit/um/test_endings.py",),
        (Edit("tapstack.tcp.layer:Tcp._address_gone", "for user in list(entry.users):", "for user in ():"),),
    ),
    Mutation(
        "released-is-remembered",
        "a released address is gone from every view, and is answered for all the same",
        ("UM-REL-3", "UM-ADDR-9"),
        ("tests/real/um/test_release.py::test_on_a_routed_prefix_released_and_never_existed_look_the_same",),
        (
            Put(_TABLE, "Answers.DAD | Answers.RESOLUTION | Answers.TRAFFIC", "_S.INVALID"),
            Edit("tapstack.ipv6.addresses:AddressTable._move", "del self._entries[entry.address]", "pass"),
            Edit(
                "tapstack.ipv6.addresses:AddressTable.__contains__",
                "address in self._entries",
                "address in self._entries and self._entries[address].state is not AddressState.INVALID",
            ),
            Edit(
                "tapstack.ipv6.addresses:AddressEntry.speaks_to",
                "not self.kind.one_time or",
                "self.state is AddressState.INVALID or not self.kind.one_time or",
            ),
        ),
    ),
    Mutation(
        "one-time-as-a-source",
        "ordinary source selection takes one-time addresses too",
        ("UM-DAS-7", "ST-IP6-10"),
        (f"{_UNCERTAIN}::test_one_time_addresses_are_never_chosen_as_a_source",),
        (
            Edit(
                "tapstack.ipv6.host:Host.source_for",
                "for entry in self._ordinary.values()",
                "for entry in reversed(list(self.addresses))",
            ),
        ),
    ),
    Mutation(
        "one-identifier-in-every-prefix",
        "the stable identifier is the same in every prefix",
        ("ST-IP6-9",),
        (_STABLE,),
        (Edit("tapstack.ipv6.identifiers:stable_address", "(prefix[:8], len(network)", "(bytes(8), len(network)"),),
        quick=True,
    ),
    Mutation(
        "identifier-without-secret",
        "the stable identifier does not depend on the node's secret",
        ("ST-IP6-9",),
        (_STABLE,),
        (Edit("tapstack.ipv6.identifiers:stable_address", "hmac.new(secret, ", 'hmac.new(b"", '),),
    ),
    Mutation(
        "waiting-outlives-its-address",
        "what waits for a neighbour's resolution leaves from an address that has been released",
        ("UM-ADDR-9", "UM-REL-3"),
        (
            f"{_WAITS}::test_a_syn_that_waits_for_its_neighbour_ends_with_its_connection",
            f"{_WAITS}::test_a_datagram_that_waits_ends_with_its_flow",
            f"{_WAITS}::test_an_advertisement_that_waits_ends_with_the_address",
        ),
        (Edit("tapstack.ipv6.host:Host._gone", "self.withdraw(entry)", "pass"),),
        quick=True,
    ),
    Mutation(
        "gone-and-still-speaking",
        "an address that is gone reports fragments whose packet never came whole",
        ("UM-ADDR-9", "UM-REL-3"),
        (
            "tests/unit/ipv6/test_reassembly.py::test_fragments_to_an_address_that_is_gone_meanwhile_time_out_in_silence",
        ),
        (
            Edit(
                "tapstack.ipv6.addresses:AddressEntry.speaks_to",
                "if not self.answers & Answers.TRAFFIC:",
                "if False:",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "stopped-and-still-asking",
        "a host that has stopped goes on asking its neighbours, from an address that it has given up",
        ("UM-ADDR-9",),
        ("tests/unit/ipv6/test_neighbors.py::test_a_host_that_has_stopped_asks_for_no_neighbour",),
        (
            Edit("tapstack.ipv6.host:Host.stop", "self.neighbors.clear()", "pass"),
            Edit(
                "tapstack.ipv6.neighbors:NeighborCache._source", "return self._interface.link_local", "return bytes(16)"
            ),
        ),
    ),
    Mutation(
        "reserve-fills-the-link",
        "what the pool holds in reserve leaves no place for an address that somebody asks for",
        ("UM-DAS-3", "UM-SSA-2"),
        ("tests/unit/unimux/test_pool_gives_way.py",),
        (Edit("unimux.stock:Stock.make_room", "fullest.ready:", "False:"),),
    ),
    Mutation(
        "drawn-though-there",
        "an address is drawn that the node has already",
        ("UM-GEN-1",),
        (f"{_BY_HAND}::test_a_drawn_address_is_none_that_the_node_has_already",),
        (Edit("unimux.stock:Stock.fresh", "while address in self.host.addresses:", "while False:"),),
    ),
    Mutation(
        "outlives-its-prefix",
        "an address lives on in the routed prefix around its own, which has expired",
        ("UM-ADDR-11",),
        (f"{_BY_HAND}::test_addresses_expire_with_their_prefix_also_where_a_routed_one_lies_around_it",),
        (Edit("tapstack.ipv6.prefixes:PrefixList.living_with", "home.length <= prefix.length", "home is prefix"),),
    ),
    Mutation(
        "routed-prefix-taken-away",
        "an advertisement for a part of a routed prefix ends the addresses in it",
        ("UM-POOL-4",),
        ("tests/unit/ipv6/test_lifetimes.py::test_no_router_takes_a_part_of_a_routed_prefix_away",),
        (Edit("tapstack.ipv6.prefixes:PrefixList.living_with", "if not theirs and", "if"),),
    ),
    Mutation(
        "an-address-that-nobody-asked-for",
        "in place of an address given by hand, which another node has, one is formed that stays",
        ("UM-NODE-1",),
        (f"{_BY_HAND}::test_in_place_of_an_address_given_by_hand_none_is_formed_that_nobody_asked_for",),
        (
            Edit(
                "tapstack.ipv6.stable:StableAddresses.taken",
                "entry not in self",
                "False",
            ),
        ),
    ),
    Mutation(
        "peers-forgotten",
        "an address with many sessions answers none of their peers",
        ("UM-EA-1", "UM-LIS-8"),
        ("tests/unit/ipv6/test_users.py::test_a_stranger_costs_no_more_where_an_address_has_many_sessions",),
        (Edit("tapstack.ipv6.addresses:_Table.serve", "for who in (remote, None)", "for who in (None,)"),),
    ),
    Mutation(
        "a-flow-that-waits-for-ever",
        "a UDP flow whose policy has raised an error of its own never asks again",
        ("UM-DAS-6",),
        ("tests/unit/um/test_datagram_trouble.py::test_a_policy_that_raises_fails_what_waits_and_nothing_later",),
        (Edit("unimux.datagram:EphemeralFlow._draw", "except Exception as", "except (UnimuxError, OSError) as"),),
    ),
)
