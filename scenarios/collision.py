"""How often do two nodes choose the same address, and does duplicate address detection always notice?

Nodes that share a link fill their pools in a prefix so long that hosts have few bits left, so that collisions happen often
enough to be counted.  A node never draws an address twice, its generator being a permutation; two nodes do, and theory knows how
often: every pair of addresses of two different nodes is equal with the odds of one in the size of the space.  One of the two, or
both, must then give it up before it is used.  With the 64 bits of a real prefix the same theory gives odds that nobody will see.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from typing import Annotated

from scenarios.engine import Curves, Parameter, Run, Table, number, poisson, scenario
from tapstack.events import AddressChanged, Event
from tapstack.types import address_text
from unimux.node import Node
from unimux.poolstate import PoolConfig

RESERVED = 129
"""Identifiers of a long prefix that are kept for anycast (RFC 4291 §2.6.1, RFC 2526 §2)."""
HELD = ("UNCERTAIN", "OPTIMISTIC", "PREFERRED", "DEPRECATED")


@scenario(
    requirements=("UM-GEN-1", "UM-GEN-2", "UM-ADDR-1", "UM-ADDR-3", "UM-ADDR-10"),
    backends=("sim",),
    shows=("defended", "never-again"),
    quick={"nodes": 8, "addresses": 200},
)
async def collision(
    run: Run,
    *,
    nodes: Annotated[int, Parameter("nodes on the link", least=2, most=100)] = 12,
    addresses: Annotated[int, Parameter("addresses that each reserves", least=1, most=2000)] = 250,
    bits: Annotated[int, Parameter("bits of an address that are its host's", least=16, most=64)] = 16,
) -> None:
    run.witness(connections=0)
    run.leave_out("claims", "an address that two nodes draw has two lives, of which the comparison knows one")
    lan = run.lan("lan", bits=bits)
    drawn = _Drawn()
    pool = PoolConfig(low=addresses, high=addresses, limit=addresses, pace=0.01, concurrent=4, threshold=1000)
    made: list[Node] = []
    for index in range(nodes):
        node = await run.node(f"n{index}", lan, pool=pool, ready=0)
        drawn.begin(index, node)
        node.watch(lambda event, index=index: drawn.see(index, event))  # type: ignore[misc]
        made.append(node)
    while (ready := sum(node.pool.ready for node in made)) < nodes * addresses:
        run.progress(ready, nodes * addresses, "addresses")
        await asyncio.sleep(1)
    space = 2**bits - RESERVED if bits < 64 else 2**64
    counts = [len(each) for each in drawn.by_node.values()]
    pairs = (sum(counts) ** 2 - sum(count**2 for count in counts)) / 2
    equal = len(drawn.twice)
    run.measure("addresses drawn", sum(counts))
    run.measure("drawn by two nodes", equal)
    run.measure("given up after duplicate detection", drawn.given_up)
    run.expect("addresses that two nodes drew", equal, pairs / space, interval=poisson(equal))
    run.require(
        "Every collision was found before the address was used",
        not drawn.shared and drawn.given_up >= equal,
        "UM-ADDR-1",
        because=f"{equal} collisions, {drawn.given_up} addresses given up, {len(drawn.shared)} held by two nodes",
    )
    run.require(
        "No node drew an address twice", not drawn.again, "UM-GEN-1", because=f"{drawn.again} of {sum(counts):,}"
    )
    _show(run, bits, sum(counts), equal, pairs / space, nodes)
    odds = birthday(1000 * 999 / 2 * 1000**2, 64)
    run.answer(
        f"With {bits} bits {equal} of {sum(counts):,} addresses were drawn by two nodes (theory {pairs / space:.1f}), and "
        f"duplicate detection found them all; with 64 bits a thousand nodes with a thousand addresses each collide with odds "
        f"of {number(odds, 2)}."
    )


class _Drawn:
    """Who drew what, and what came of it: a second owner, an address given up, one held by two."""

    def __init__(self) -> None:
        self.by_node: dict[int, set[str]] = defaultdict(set)
        self.twice: set[str] = set()
        self.shared: set[str] = set()
        self.given_up = self.again = 0
        self._owners: dict[str, set[int]] = defaultdict(set)
        self._holders: dict[str, set[int]] = defaultdict(set)

    def begin(self, index: int, node: Node) -> None:
        """What a node has drawn by now."""
        for entry in node.stack.host.addresses:
            if entry.kind.one_time:
                self._change(index, address_text(entry.address), "INVALID", entry.state.value)

    def see(self, index: int, event: Event) -> None:
        """An address of a node changed its state."""
        if isinstance(event, AddressChanged) and not event.address.startswith("fe80:"):
            self._change(index, event.address, event.old, event.new)

    def _change(self, node: int, where: str, old: str, new: str) -> None:
        if old == "INVALID":
            self.again += where in self.by_node[node]
            self.by_node[node].add(where)
            self._owners[where].add(node)
            if len(self._owners[where]) > 1:
                self.twice.add(where)
        self.given_up += new == "DUPLICATED"
        if new in HELD:
            self._holders[where].add(node)
        else:
            self._holders[where].discard(node)
        if len(self._holders[where]) > 1:
            self.shared.add(where)


def birthday(pairs: float, bits: int) -> float:
    """The odds that any of so many pairs of addresses are equal.

    >>> round(birthday(1, 0), 3), birthday(1, 64) == 2.0**-64
    (0.632, True)
    """
    return -math.expm1(-pairs / 2.0**bits)


def _show(run: Run, bits: int, drawn: int, equal: int, expected: float, nodes: int) -> None:
    sizes = [10.0**power for power in range(2, 12)]
    share = (nodes - 1) / nodes / 2  # of n² pairs: those of different nodes, each once
    low, high = poisson(equal, 1.96)
    run.show(
        Curves(
            title="Collisions to expect, over the addresses in use on one link",
            x="addresses in use at a time",
            y="equal pairs of different nodes",
            log_x=True,
            log_y=True,
            theory={
                f"theory, {width} bits": [(n, n * n * share / 2.0**width) for n in sizes]
                for width in (bits, 32, 48, 64)
            },
            series={f"measured, {bits} bits": [(float(drawn), float(equal), max(low, 0.1), high)]},
            joined=False,
            caption="Below one the value is the probability of any collision. DAD turns a collision into one more attempt.",
        )
    )
    rows = [
        (f"{each} bits", number(expected * 2.0 ** (bits - each), 3), number(2.0 ** ((each + 1) / 2), 2))
        for each in (bits, 32, 48, 64)
    ]
    columns = ("identifier", "collisions in this run", "addresses for an even chance of one, about")
    run.show(Table(title="The same run with wider identifiers", columns=columns, rows=rows))
