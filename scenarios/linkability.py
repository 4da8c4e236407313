"""Can an observer tell which sessions belong to one node? [slide 7]

Several nodes on one LAN fetch from a server, in random order, and an observer beside the server writes down the source address
of every session.  It has seen the first session of each node and who it was; from then on it guesses: the node that used the
same address before, else the one whose prefix it is, else any.  The share of right guesses, and how many bits are left to
guess, for each way of addressing.  An ephemeral address hides a node among its neighbours, never the prefix that they share.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv6Address
from typing import Annotated

from scenarios.engine import Addressing, Bars, Matrix, Parameter, Run, Table, exchange, logging_echo, scenario, wilson
from unimux.aio import open_connection
from unimux.node import Node


@scenario(
    requirements=("UM-GEN-3", "UM-GEN-7", "UM-NODE-5"),
    shows=("own-pair", "complete", "released"),
    quick={"sessions": 10, "nodes": 4},
)
async def linkability(
    run: Run,
    *,
    nodes: Annotated[int, Parameter("nodes of each kind", least=2, most=50)] = 8,
    sessions: Annotated[int, Parameter("sessions of each node", least=2, most=2000)] = 40,
    lifetime: Annotated[float, Parameter("after how long a temporary address is replaced", unit="s", least=20)] = 60.0,
    gap: Annotated[float, Parameter("mean time between two sessions of a kind", unit="s", least=0.01)] = 0.5,
) -> None:
    run.witness(connections=2 * nodes * sessions)
    if run.backend == "netns":
        closed = "a kernel that has closed already answers a repeated acknowledgment of its FIN"
        run.witness(explanations=run.explain("reset", closed))
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    server = await run.host("www", server_lan)
    log: list[str] = []
    await server.serve(80, logging_echo(log))
    seen: dict[Addressing, _Seen] = {}
    for kind in Addressing:
        made = [
            await run.node(
                f"{kind.value.replace('-', '')}{i}", client_lan, addressing=kind, temporary_lifetime=lifetime, ready=1
            )
            for i in range(nodes)
        ]
        log.clear()
        owners = await _visit(run, made, server.address, sessions, gap)
        seen[kind] = _Seen(_guess(run, log, owners, nodes), len(set(log)), _entropy_left(log, owners, nodes))
        run.measure("guessed right", seen[kind].share, of=kind.value)
        run.measure("bits left", seen[kind].entropy, "bit", of=kind.value)
    _judge(run, seen, nodes)
    _show(run, seen, nodes)


@dataclass(frozen=True)
class _Seen:
    """What the observer made of one kind: (guess, truth) by session, addresses seen, and the bits left to guess."""

    guesses: list[tuple[int, int]]
    addresses: int
    entropy: float

    @property
    def right(self) -> int:
        """Guesses that were right."""
        return sum(guess == owner for guess, owner in self.guesses)

    @property
    def share(self) -> float:
        """The share of them."""
        return self.right / len(self.guesses)


async def _visit(run: Run, made: list[Node], where: str, sessions: int, gap: float) -> list[int]:
    """The sessions of all nodes in random order, the first of each before all others; whose each one was."""
    nodes = len(made)
    order = list(range(nodes)) + run.random.sample(
        [i for i in range(nodes) for _ in range(sessions - 1)], nodes * (sessions - 1)
    )
    for owner in order:
        streams = await open_connection(made[owner], where, 80)
        run.require_quietly(await exchange(*streams, b"GET /"), "Every session is served")
        await asyncio.sleep(run.random.expovariate(1 / gap))
    return order


def _judge(run: Run, seen: Mapping[Addressing, _Seen], nodes: int) -> None:
    one_time = seen[Addressing.ONE_TIME]
    run.expect_share(
        "right guesses, one-time addresses on a shared prefix", one_time.right, len(one_time.guesses), 1 / nodes
    )
    run.require("A fixed address gives its node away", seen[Addressing.FIXED].share == 1)
    run.require(
        "A prefix of its own gives its node away as well",
        seen[Addressing.DEDICATED].share == 1,
        "UM-NODE-5",
        because="one-time addresses do not help where the prefix is the node",
    )


def _show(run: Run, seen: Mapping[Addressing, _Seen], nodes: int) -> None:
    run.show(
        Table(
            title="What the observer gets right",
            columns=("addresses", "seen", "guessed right", "bits left to guess"),
            rows=[
                (kind.value, str(of.addresses), f"{of.share:.0%}", f"{of.entropy:.2f} of {math.log2(nodes):.2f}")
                for kind, of in seen.items()
            ],
        )
    )
    run.show(
        Bars(
            title="Share of sessions that the observer gave to the right node",
            categories=[kind.value for kind in seen],
            series={"": [(of.share, *wilson(of.right, len(of.guesses))) for of in seen.values()]},
            theory={"by chance": [1 / nodes] * len(seen)},
            y="share",
            caption="On a prefix of its own a node is its prefix: such prefixes buy speed and a quiet link, not privacy.",
        )
    )
    told = {kind: f"{of.share:.0%}" for kind, of in seen.items()}
    run.answer(
        f"Of {nodes} nodes an observer names the right one for {told[Addressing.FIXED]} of sessions from fixed, "
        f"{told[Addressing.TEMPORARY]} from temporary, {told[Addressing.ONE_TIME]} from one-time "
        f"addresses on a shared prefix (chance: {1 / nodes:.0%}), and {told[Addressing.DEDICATED]} where the "
        "prefix is the node's own: there one-time addresses do not help."
    )
    names = [str(i + 1) for i in range(nodes)]
    for kind, of in seen.items():
        cells = Counter(of.guesses)
        run.show(
            Matrix(
                title=f"Guesses with {kind.value} addresses",
                rows=names,
                columns=names,
                cells=[[float(cells[guess, owner]) for guess in range(nodes)] for owner in range(nodes)],
                row="node",
                column="guess",
            )
        )


def _guess(run: Run, log: list[str], owners: list[int], nodes: int) -> list[tuple[int, int]]:
    """(guess, truth) for each session after the first of every node."""
    by_address: dict[str, int] = {}
    by_prefix: dict[bytes, set[int]] = {}
    guesses = []
    for number, (where, owner) in enumerate(zip(log, owners, strict=True)):
        prefix = IPv6Address(where).packed[:8]
        if number < nodes:  # these it was told
            by_address[where] = owner
            by_prefix.setdefault(prefix, set()).add(owner)
            continue
        candidates = sorted(by_prefix.get(prefix, range(nodes)))
        guess = by_address.get(where)
        if guess is None:
            guess = run.random.choice(candidates)
            by_address[where] = guess  # the same address is the same node, whoever it is
        guesses.append((guess, owner))
    return guesses


def _entropy_left(log: list[str], owners: list[int], nodes: int) -> float:
    """Bits that a new session of each node leaves to guess, given whether its address or prefix has been seen before."""
    seen: set[str] = set()
    prefixes: dict[bytes, set[int]] = {}
    for where, owner in zip(log, owners, strict=True):
        prefixes.setdefault(IPv6Address(where).packed[:8], set()).add(owner)
    total = 0.0
    for number, where in enumerate(log):
        if number >= nodes and where not in seen:
            total += math.log2(len(prefixes[IPv6Address(where).packed[:8]]))
        seen.add(where)
    return total / (len(log) - nodes)
