"""Defects that break what RFC 8504 asks, before tests that judge by the frames."""

from __future__ import annotations

from tests.conformance.mutant import Edit, Mutation

_EXTENSIONS = "tests/unit/ipv6/test_extension_headers.py"
_NAMES = "tests/unit/unimux/test_names_on_the_wire.py"
_REASSEMBLY = "tests/unit/ipv6/test_reassembly.py"
_ROUTERS = "tests/unit/ipv6/test_routers.py"
_ROUTES = "tests/unit/ipv6/test_routes.py"

MUTATIONS = (
    Mutation(
        "ends-contradicted",
        "a fragment that overlaps is dropped by itself, and its packet goes on",
        ("RFC8504-5.1/3",),
        (f"{_REASSEMBLY}::test_contradicting_ends_are_an_overlap",),
        (
            Edit(
                "tapstack.ipv6.reassembly:Reassembler._insert",
                "drop(DropReason.IP_FRAGMENT_OVERLAP)",
                "return drop(DropReason.IP_FRAGMENT_OVERLAP) or False",
            ),
        ),
    ),
    Mutation(
        "padding-endless",
        "any amount of padding is read over",
        ("RFC8504-5.3/1",),
        (f"{_EXTENSIONS}::test_the_longest_padding_is_seven_bytes",),
        (Edit("tapstack.wire.ipv6:parse_options", "padding > MAXIMUM_PADDING", "False"),),
    ),
    Mutation(
        "options-counted-by-header",
        "options are counted in each header alone",
        ("RFC8504-5.3/2",),
        (f"{_EXTENSIONS}::test_options_are_bounded_in_a_header_and_over_all_headers",),
        (Edit("tapstack.ipv6.receive:Receiver._options", "self._options_seen += len", "self._options_seen = len"),),
    ),
    Mutation(
        "preference-unread",
        "all routes have the same preference",
        ("RFC8504-5.9",),
        (f"{_ROUTES}::test_routes_by_prefix_preference_and_reachability",),
        (Edit("tapstack.ipv6.routes:Routes._candidates", "router.preference, router.address", "0, router.address"),),
    ),
    Mutation(
        "default-route-unread",
        "a route of length zero does not say how long its router is one",
        ("RFC8504-5.9",),
        (f"{_ROUTES}::test_a_route_information_of_length_zero_is_the_default_route",),
        (Edit("tapstack.ipv6.routers:RouterDiscovery.advertised", "if route.prefix_length == 0:", "if False:"),),
    ),
    Mutation(
        "routers-for-ever",
        "a router stays the default router when its lifetime is over",
        ("RFC8504-8.2",),
        (f"{_ROUTERS}::test_an_advertisement_makes_a_default_router_for_its_lifetime",),
        (
            Edit(
                "tapstack.ipv6.routers:RouterDiscovery._age",
                "router.lifetime_until <= now",
                'router.lifetime_until <= now and setattr(router, "lifetime_until", math.inf)',
            ),
        ),
    ),
    Mutation(
        "servers-for-ever",
        "a server of names that its router withdraws is asked on",
        ("RFC8504-8.3",),
        (f"{_NAMES}::test_the_server_that_a_router_announces_is_asked_until_it_is_withdrawn",),
        (Edit("tapstack.ipv6.routers:_keep", "table.pop(key, None)", "pass"),),
    ),
    Mutation(
        "names-without-edns",
        "questions do not say how long an answer may be",
        ("RFC8504-7/1",),
        (f"{_NAMES}::test_addresses_are_asked_for_with_edns_and_over_tcp_where_the_answer_is_cut",),
        (
            Edit("unimux.lookup:Lookup.step", "use_edns=0 if question.edns else None", "use_edns=None"),
            Edit("unimux.lookup:Lookup.step", "UDP_PAYLOAD if question.edns else None", "None"),
        ),
    ),
    Mutation(
        "atomic-fragments",
        "a path that claims less than the least MTU is believed, with a fragment header for every packet",
        ("RFC8504-5.1/4",),
        (f"{_REASSEMBLY}::test_a_path_mtu_below_the_least_draws_no_atomic_fragments",),
        (Edit("tapstack.ipv6.pmtu:PathMtus.learn", "mtu < ipv6.MINIMUM_MTU", "mtu < 68"),),
    ),
    Mutation(
        "any-group-heard",
        "packets to groups that nobody joined are answered",
        ("RFC8504-6.1/1",),
        ("tests/conformance/test_rfc8504.py::test_a_node_hears_the_groups_that_every_node_joins_within_their_scope",),
        (
            Edit("tapstack.ipv6.receive:Receiver._header", "dst not in self._groups and dst != ALL_NODES", "False"),
            Edit("tapstack.ipv6.icmp:Icmp.speaker", "packet.dst != ALL_NODES and", "False and"),
        ),
    ),
)
