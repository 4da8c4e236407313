"""The defects that the tests must notice, by room."""

from __future__ import annotations

from tests.conformance.mutant import Mutation

from . import addresses, carriage, discovery, gateway, ip6, listen, node, segments, transfer

ALL: tuple[Mutation, ...] = tuple(
    mutation
    for room in (addresses, carriage, discovery, gateway, ip6, listen, segments, transfer, node)
    for mutation in room.MUTATIONS
)
