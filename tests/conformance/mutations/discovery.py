"""Defects in duplicate address detection, neighbour and router discovery, and the multicast listener."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_DAD = "tapstack.ipv6.dad:DuplicateAddressDetection"
_DISCOVERY = "tapstack.ipv6.discovery:Discovery"
_ROUTERS = "tapstack.ipv6.routers:RouterDiscovery"
_REDIRECTS = "tests/unit/ipv6/test_redirects.py"
_NEIGHBORS = "tapstack.ipv6.neighbors:NeighborCache"
_TEST_DAD = "tests/unit/ipv6/test_dad.py"
_TEST_NEIGHBORS = "tests/unit/ipv6/test_neighbors.py"
_TEST_ROUTERS = "tests/unit/ipv6/test_routers.py"
_TEST_MULTICAST = "tests/unit/ipv6/test_multicast.py"

MUTATIONS = (
    Mutation(
        "dad-skipped",
        "an address passes DAD without a probe",
        ("UM-ADDR-1", "UM-ADDR-10", "ST-IP6-6"),
        (_TEST_DAD,),
        (Edit(f"{_DAD}._start_next", "and self._interface.config.dad_transmits:", "and False:"),),
        quick=True,
    ),
    Mutation(
        "nonce-ignored",
        "a looped-back probe counts as a conflict",
        ("UM-ADDR-10", "ST-IP6-6"),
        (f"{_TEST_DAD}::test_our_own_probe_brought_back_is_no_conflict_and_prolongs_the_test",),
        (Edit(f"{_DAD}.is_own_probe", "nonce is None or nonce not in self._nonces", "True"),),
        quick=True,
    ),
    Mutation(
        "nonce-missing",
        "DAD probes carry no nonce",
        ("UM-ADDR-10",),
        (f"{_TEST_DAD}::test_a_probe_is_as_the_rfc_has_it",),
        (Edit(f"{_DAD}._probe", "(nd.Nonce(nonce),)", "()"),),
    ),
    Mutation(
        "nonce-constant",
        "all DAD probes carry the same nonce",
        ("UM-ADDR-10",),
        (_TEST_DAD,),
        (Edit(f"{_DAD}._probe", "interface.random.randbytes(NONCE_LENGTH)", "bytes(NONCE_LENGTH)"),),
    ),
    Mutation(
        "conflict-ignored",
        "somebody else's probe for a TENTATIVE address is no conflict",
        ("ST-IP6-6", "UM-ADDR-10"),
        (f"{_TEST_DAD}::test_somebody_elses_probe_or_advertisement_is_a_conflict",),
        (Edit(f"{_DISCOVERY}._probe", 'self._dad.fail(entry, now, "another node probes for it")', "pass"),),
        quick=True,
    ),
    Mutation(
        "dad-no-back-off",
        "three duplicates in a row change nothing",
        ("UM-ADDR-10",),
        (f"{_TEST_DAD}::test_three_failures_in_a_row_are_reported_and_testing_backs_off",),
        (Edit(f"{_DAD}.fail", "self._hold(now)", "pass"),),
    ),
    Mutation(
        "old-links-fill-the-list",
        "prefixes of links that the node has left take the room of those of the link it is on",
        ("ST-IP6-6",),
        ("tests/unit/ipv6/test_link_flap.py::test_a_node_that_visits_many_links_has_an_address_on_each",),
        (Edit("tapstack.ipv6.prefixes:PrefixList._make_room", "if each.superseded", "if False"),),
    ),
    Mutation(
        "better-router-forgotten",
        "a better router that was silent once is never used again",
        ("ST-IP6-5",),
        ("tests/unit/ipv6/test_routes.py::test_a_better_router_that_was_silent_is_probed_and_used_again",),
        (Edit("tapstack.ipv6.routes:Routes._probe_avoided", "self.neighbors.probe(router, now)", "pass"),),
    ),
    Mutation(
        "hop-limit-unchecked",
        "an ND message that crossed a router is believed",
        ("ST-IP6-4",),
        (f"{_TEST_NEIGHBORS}::test_the_gate_of_neighbour_discovery",),
        (Edit(f"{_DISCOVERY}.input", "packet.hop_limit != ND_HOP_LIMIT", "False"),),
        quick=True,
    ),
    Mutation(
        "fragmented-nd",
        "an ND message in fragments is believed",
        ("ST-IP6-2",),
        (
            "tests/unit/ipv6/test_reassembly.py::test_neighbour_discovery_is_never_fragmented",
            "tests/unit/ipv6/test_reassembly.py::test_router_advertisements_in_fragments_are_ignored",
        ),
        (Edit(f"{_DISCOVERY}.input", "elif packet.fragmented:", "elif False:"),),
    ),
    Mutation(
        "no-override-overrides",
        "an NA with O=0 replaces a link-layer address",
        ("ST-IP6-4",),
        (f"{_TEST_NEIGHBORS}::test_every_advertisement_in_every_state",),
        (Edit(f"{_NEIGHBORS}.advertised", "if different and not override:", "if False:"),),
    ),
    Mutation(
        "unsolicited-proves",
        "an unsolicited NA makes a neighbour REACHABLE",
        ("ST-IP6-4",),
        (f"{_TEST_NEIGHBORS}::test_every_advertisement_in_every_state",),
        (Edit(f"{_NEIGHBORS}.advertised", "elif solicited:", "elif True:"),),
    ),
    Mutation(
        "queue-unbounded",
        "packets that wait for a neighbour are without number",
        ("ST-IP6-4",),
        (f"{_TEST_NEIGHBORS}::test_the_queue_is_bounded_and_the_newest_stay",),
        (Edit("tapstack.ipv6.waiting:WaitingPackets.add", "whole > config.neighbor_queue or", "False and"),),
    ),
    Mutation(
        "redirect-from-anybody",
        "a redirect counts whoever sends it",
        ("ST-IP6-4",),
        ("tests/unit/ipv6/test_redirects.py::test_other_redirects_change_nothing",),
        (
            Edit(
                f"{_DISCOVERY}._redirect",
                "not self._routes.uses(message.destination, packet.src) or message.target in addresses",
                "False",
            ),
        ),
    ),
    Mutation(
        "router-from-anywhere",
        "a router advertisement from a global address is believed",
        ("ST-IP6-5",),
        (f"{_TEST_ROUTERS}::test_invalid_advertisements_are_ignored_whole",),
        (Edit(f"{_DISCOVERY}._router_advertisement", "not is_link_local(packet.src)", "False"),),
    ),
    Mutation(
        "two-hours-void",
        "an unauthenticated advertisement can end a prefix at once",
        ("ST-IP6-5",),
        (f"{_TEST_ROUTERS}::test_the_two_hour_rule",),
        (
            Edit(
                "tapstack.ipv6.prefixes:PrefixList._set_autonomous",
                "prefix.valid_until = now + TWO_HOURS",
                "prefix.valid_until = lifetime_end(option.valid_lifetime, now)",
            ),
        ),
        quick=True,
    ),
    Mutation(
        "query-ignored",
        "a general query is not answered",
        ("ST-IP6-7", "UM-ADDR-7"),
        (f"{_TEST_MULTICAST}::test_a_general_query_is_answered_once_with_all_groups_within_its_delay",),
        (Edit("tapstack.ipv6.multicast:MulticastListener.query", "self._general_due = due", "pass"),),
    ),
    Mutation(
        "query-from-afar",
        "a query with another hop limit than 1 is answered",
        ("ST-IP6-7",),
        (f"{_TEST_MULTICAST}::test_invalid_queries_are_ignored",),
        (Edit("tapstack.ipv6.multicast:MulticastListener.query", "hop_limit != mld.HOP_LIMIT", "False"),),
    ),
    Mutation(
        "report-once",
        "a change of membership is not repeated",
        ("ST-IP6-7", "UM-ADDR-7"),
        (f"{_TEST_MULTICAST}::test_changes_are_repeated_within_a_second_and_the_repetition_says_what_holds_then",),
        (Edit("tapstack.ipv6.multicast:MulticastListener._changed", "self._robustness - 1", "0"),),
    ),
    Mutation(
        "anybody-is-a-router",
        "whoever calls itself a router has its place in the neighbour cache for good",
        ("ST-IP6-4",),
        (f"{_TEST_NEIGHBORS}::test_a_flood_of_routers_leaves_room_for_neighbours",),
        (Edit(f"{_NEIGHBORS}._protected", "self.is_first_hop(neighbor.address)", "neighbor.is_router"),),
    ),
    Mutation(
        "router-by-hand-withdrawn",
        "a neighbour's word ends a default router that was set by hand",
        ("ST-IP6-5",),
        ("tests/unit/ipv6/test_routers.py",),
        (
            Edit(
                "tapstack.ipv6.routers:RouterDiscovery.neighbor_is_no_router",
                "if address in self._static:",
                "if False:",
            ),
        ),
    ),
    Mutation(
        "redirect-outlives-the-router",
        "what a redirect led through a router goes on there when it is a default router no more",
        ("ST-IP6-4", "ST-IP6-5"),
        (f"{_REDIRECTS}::test_a_redirect_ends_with_the_office_of_the_router_that_it_names",),
        (Edit(f"{_ROUTERS}._lose", "self._routes.void_redirects(address, itself=False)", "pass"),),
    ),
    Mutation(
        "redirect-outlives-the-word-of-a-host",
        "what a redirect led to a neighbour that was never a default router goes on there when it says that it is a host",
        ("ST-IP6-4",),
        (f"{_REDIRECTS}::test_a_redirect_ends_with_the_office_of_the_router_that_it_names",),
        (Edit(f"{_ROUTERS}.neighbor_is_no_router", "routes.void_redirects(address, itself=False)", "False"),),
    ),
    Mutation(
        "on-link-by-its-flag",
        "a redirect that says that a destination is on-link ends when that advertises itself as a host",
        ("ST-IP6-4",),
        (f"{_REDIRECTS}::test_that_a_destination_is_on_link_does_not_depend_on_its_being_a_router",),
        (Edit(f"{_ROUTERS}.neighbor_is_no_router", "itself=False", "itself=True"),),
    ),
    Mutation(
        "host-moves-all-paths",
        "whoever calls itself a router and then a host makes every path look for its next hop again",
        ("ST-IP6-4",),
        ("tests/unit/ipv6/test_routes.py::test_a_neighbour_that_changes_its_mind_moves_nobody_elses_paths",),
        (Edit(f"{_ROUTERS}.neighbor_is_no_router", "if changed:  #", "if True:  #"),),
    ),
    Mutation(
        "routes-outlive-the-router",
        "routes stay that a neighbour offered which advertises itself as a host now",
        ("ST-IP6-5",),
        ("tests/unit/ipv6/test_routes.py::test_the_routes_of_who_is_no_router_any_more_go_with_its_office",),
        (Edit(f"{_ROUTERS}.neighbor_is_no_router", "if route.router == address", "if False"),),
    ),
)
