"""The defects that the tests must notice, by room, and the rules that no defect of the code can break."""

from __future__ import annotations

from tests.conformance.mutant import Mutation

from . import (
    addresses,
    carriage,
    delivery,
    discovery,
    gateway,
    ip6,
    link,
    listen,
    node,
    ports,
    recovery,
    renumbering,
    rfc8504,
    segments,
    transfer,
)

ALL: tuple[Mutation, ...] = tuple(
    mutation
    for room in (
        addresses,
        carriage,
        discovery,
        gateway,
        ip6,
        rfc8504,
        link,
        listen,
        ports,
        segments,
        transfer,
        recovery,
        node,
        delivery,
        renumbering,
    )
    for mutation in room.MUTATIONS
)

NO_DEFECT = {
    "UM-NODE-5": "it asks for documentation: what could be broken is a page, and its tests read the pages",
}
"""Ids of the project's own specifications without a mutation, and why there can be none."""
