"""What does a scanner find, off-link and on-link, and what are its odds? [slides 7, 14]

First a prober that was told an address in each state asks everything it can: a ping, a SYN, an address resolution, a DAD
probe.  Then a prober with a budget of probes, which knows all but a few bits of an address, tries its luck: with SYNs from
outside, with DAD probes from the same link.  A service address waits for its client for a moment only, so fewer probes reach it
in its life.  The odds of theory (probes within the life of the address over the size of the space) stand beside the measured
ones, and give those of all 64 bits.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv6Address
from typing import Annotated

from scenarios.engine import (
    Addressing,
    Bars,
    Curves,
    Parameter,
    Raw,
    Run,
    Table,
    echo,
    number,
    scenario,
    seconds,
    wilson,
)
from scenarios.engine.raw import advertises, answer_from, dad_probe, echo_request, segment, solicitation
from tapstack.ipv6.addresses import AddressState
from tapstack.tcp.options import PortMode
from tapstack.types import ALL_NODES, address, address_text
from tapstack.wire import ipv6, tcp
from unimux.aio import open_connection, start_server
from unimux.node import Node
from unimux.server import Server

PORT = 80
WAIT = 4.5
"""Seconds for an answer, or for the router to give up asking for the address."""
SILENT = ("UNCERTAIN", "in use", "released")
"""States in which an address tells a stranger nothing."""
KINDS = ("fixed", "temporary", "armed", "UNCERTAIN", "released")
"""What is hunted."""


@scenario(
    requirements=("UM-ADDR-2", "UM-ADDR-3", "UM-ADDR-4", "UM-ADDR-9", "UM-REL-3", "UM-NODE-5"),
    shows=("silence-before", "silence-after", "defended", "speaks-within-life"),
    quick={"trials": 10},
)
async def scan(
    run: Run,
    *,
    bits: Annotated[int, Parameter("bits of the address that the prober has to guess", least=4, most=12)] = 6,
    budget: Annotated[int, Parameter("probes for each address, never one twice", least=1, most=4096)] = 32,
    rate: Annotated[float, Parameter("probes per second", unit="1/s", least=1, most=300)] = 100.0,
    life: Annotated[
        float, Parameter("seconds that a service address waits for its client", unit="s", least=0.1, most=10)
    ] = 0.16,
    trials: Annotated[int, Parameter("hunts of each kind of address", least=10, most=2000)] = 200,
) -> None:
    run.witness(explanations=run.explain("reset|RST", "the router refuses a SYN to its own address", "outside"))
    home, outside = run.lan("home"), run.lan("outside")
    run.router(home, outside)
    bob = await run.node("bob", home, ready=8)
    owners = {
        "fixed": await run.node("fixed", home, addressing=Addressing.FIXED),
        "temporary": await run.node("temporary", home, addressing=Addressing.TEMPORARY),
    }
    off_link, on_link = await run.raw("offlink", outside), await run.raw("onlink", home)
    for owner in owners.values():
        server = start_server(owner, lambda reader, writer: writer.close(), mode=PortMode.AWARE, port=PORT)
        server.bind(run.address_of(owner))
    told = {name: run.address_of(owner) for name, owner in owners.items()}
    one_time, finish = await _one_time(run, bob, owners["fixed"])
    told |= one_time
    await _ask_everything(run, (off_link, on_link), told, owners, bob)
    finish()

    space = 1 << bits
    budget = min(budget, space)
    probes = dict.fromkeys(KINDS, budget) | {"armed": min(budget, round(rate * life))}
    hits = {(kind, prober.name): 0 for kind in KINDS for prober in (off_link, on_link)}
    server = start_server(bob, lambda reader, writer: writer.close())
    for kind in KINDS:
        for trial in range(trials):
            run.progress(KINDS.index(kind) * trials + trial, len(KINDS) * trials, "hunts")
            async with _Target(run, kind, told, bob, server, life) as target:
                found = await asyncio.gather(
                    *(_hunt(run, prober, target, space, probes[kind], rate) for prober in (off_link, on_link))
                )
            for prober, was in zip((off_link, on_link), found, strict=True):
                hits[kind, prober.name] += was
    _compare(run, hits, probes, space, trials)
    _odds(run, bits, rate, life, budget, hits, trials)
    run.answer(
        f"Told the address, an outsider gets no answer from a node if it is reserved, in use or released (on a shared link the "
        f"router's 'unreachable' still tells some of these apart); guessing {bits} bits with "
        f"{budget} probes it finds a fixed one in {hits['fixed', 'offlink'] / trials:.0%}, an armed one, which lives for "
        f"{seconds(life)}, in {hits['armed', 'offlink'] / trials:.0%} (64 bits: {number(rate * life / 2**64, 2)}); "
        "a neighbour need not guess: duplicate detection is heard by all."
    )


async def _one_time(run: Run, bob: Node, client: Node) -> tuple[dict[str, str], Callable[[], None]]:
    """One one-time address in each state, by the name of the state, and what gives them up."""
    own = start_server(bob, echo)
    armed, used = await own.issue(lifetime=120), await own.issue(lifetime=120)
    _, session = await open_connection(client, used.address, PORT)
    run.witness(aborted=(str(armed.address),))  # probes will begin handshakes on it
    gone = await own.issue(lifetime=0.1)
    await bob.until(lambda: gone.address.packed not in bob.stack.host.addresses, 10)

    def finish() -> None:
        session.close()
        own.close()

    told = {"UNCERTAIN": _reserved(bob), "armed": armed, "in use": used, "released": gone}
    return {name: str(where) for name, where in told.items()}, finish


def _reserved(bob: Node) -> str:
    """The reserved address that will be used last."""
    entries = [e.address for e in bob.stack.host.addresses if e.state is AddressState.UNCERTAIN and e.kind.one_time]
    return address_text(entries[-1])


async def _ask_everything(
    run: Run, probers: Sequence[Raw], told: Mapping[str, str], owners: Mapping[str, Node], bob: Node
) -> None:
    """A ping and a SYN to every address from both sides, and to a neighbour's also an address resolution and a DAD probe."""
    learnt: dict[tuple[str, str], list[str]] = {(name, each.name): [] for name in told for each in probers}
    for kind in ("ping", "SYN"):
        for prober in probers:
            prober.seen.clear()
            for name, target in told.items():
                ports = (run.random.randrange(1024, 65536), PORT)
                syn = segment(prober.address, target, ports, tcp.SYN, seq=1)
                near = IPv6Address(target) in prober.lan.network
                mac = owners.get(name, bob).link.properties.mac if near else None
                prober.send(echo_request(prober.address, target) if kind == "ping" else syn, mac)
        await asyncio.sleep(WAIT)
        for (name, who), answers in learnt.items():
            answers.append(answer_from(next(each for each in probers if each.name == who), told[name]))
    on_link = probers[1]
    for kind in ("address resolution", "DAD probe"):
        on_link.seen.clear()
        for target in told.values():
            probe = dad_probe(on_link.mac, target, run.random.randbytes(6))
            asked = solicitation(on_link.mac, on_link.address, target)
            on_link.send_frame(probe if kind == "DAD probe" else asked)
        await asyncio.sleep(1)
        for name, target in told.items():
            heard = any(advertises(packet, address(target)) for _, packet in on_link.seen)
            learnt[name, on_link.name].append("answered" if heard else "silence")
    for name in SILENT:
        pings = [learnt[name, each.name][:2] for each in probers]
        silent = not any(answer.startswith("answered") for both in pings for answer in both)
        because = "; ".join(", ".join(both) for both in pings)
        run.require(f"An address that is {name} tells a stranger nothing", silent, "UM-ADDR-4", because=because)
    run.show(
        Table(
            title="What a prober learns who was told the address",
            columns=("address", "prober", "ping", "SYN", "address resolution", "DAD probe"),
            rows=[
                (name, "off-link" if who == probers[0].name else "on-link", *answers, *("–",) * (4 - len(answers)))
                for (name, who), answers in learnt.items()
            ],
            caption="'unreachable' is the router's word: it asked, nobody answered. So an on-link prefix lets an off-link prober "
            "tell an address that answers nobody from one that is in use. A neighbour can find every reserved address by its "
            "DAD defence.",
        )
    )


class _Target:
    """An address of a kind for the time of one hunt."""

    def __init__(self, run: Run, kind: str, told: Mapping[str, str], bob: Node, server: Server, life: float) -> None:
        self._run, self._kind, self._told, self._bob = run, kind, told, bob
        self._server, self._life = server, life
        self._end: Callable[[], object] = lambda: None

    async def __aenter__(self) -> str:
        if self._kind == "armed":
            ssa = await self._server.issue(lifetime=self._life, timeout=60)
            self._run.witness(aborted=(str(ssa.address),))
            self._end = lambda: self._server.withdraw(ssa)
            return str(ssa.address)
        return _reserved(self._bob) if self._kind == "UNCERTAIN" else self._told[self._kind]

    async def __aexit__(self, *error: object) -> None:
        self._end()


async def _hunt(run: Run, prober: Raw, target: str, space: int, budget: int, rate: float) -> bool:
    """Guess the last bits of an address, each guess once, in a random order; whether one was answered."""
    prober.seen.clear()
    on_link = IPv6Address(target) in prober.lan.network
    wanted = address(target)
    known = int.from_bytes(wanted, "big") & ~(space - 1)
    # Of its own for each hunt: a SYN that comes again to a handshake under way is answered twice a second at most, and an
    # answer to an earlier hunt that is repeated is none to this one.
    port = run.random.randrange(1024, 65536)
    for guess in run.random.sample(range(space), budget):
        guessed = address_text((known | guess).to_bytes(16, "big"))
        if on_link:
            prober.send_frame(dad_probe(prober.mac, guessed, run.random.randbytes(6)))
        else:
            prober.send(segment(prober.address, guessed, (port, PORT), tcp.SYN, seq=guess))
        await asyncio.sleep(1 / rate)
    if on_link:
        return any(advertises(packet, wanted) and packet[24:40] == ALL_NODES for _, packet in prober.seen)
    answered = port.to_bytes(2, "big")
    return any(
        packet[6] == ipv6.TCP and packet[8:24] == wanted and packet[42:44] == answered for _, packet in prober.seen
    )


def _compare(run: Run, hits: Mapping[tuple[str, str], int], probes: Mapping[str, int], space: int, trials: int) -> None:
    """Found shares beside the odds: nothing for what stays silent, else probes over the size of the space."""
    odds = {
        (kind, who): 0.0 if kind == "released" or (kind == "UNCERTAIN" and who == "offlink") else probes[kind] / space
        for kind, who in hits
    }
    sides = {"offlink": "off-link, by SYN", "onlink": "on-link, by DAD probe"}
    for (kind, who), count in hits.items():
        run.measure("found", count / trials, of=f"{kind}, {sides[who]}")
        run.expect_share(f"share found: {kind}, {sides[who]}", count, trials, odds[kind, who])
    run.show(
        Bars(
            title=f"Share of addresses found, {max(probes.values())} probes into {space} candidates",
            categories=KINDS,
            series={
                side: [(hits[kind, who] / trials, *wilson(hits[kind, who], trials)) for kind in KINDS]
                for who, side in sides.items()
            },
            theory={f"theory, {side}": [odds[kind, who] for kind in KINDS] for who, side in sides.items()},
            y="share found",
            caption="An armed address lives for less time than the budget needs. On the link everything that is reserved or in "
            "use defends itself against duplicate detection, as it has to; who only listens hears every probe and announcement "
            "there, and need not guess at all.",
        )
    )


def _odds(
    run: Run, bits: int, rate: float, life: float, budget: int, hits: Mapping[tuple[str, str], int], trials: int
) -> None:
    """Theory over the size of the space, and the measured points."""
    sizes = range(4, 65, 4)
    year = 365.0 * 24 * 3600
    points = {}
    for kind in ("fixed", "armed"):
        count = hits[kind, "offlink"]
        low, high = wilson(count, trials)
        points[f"measured, {kind}"] = [(bits, count / trials, max(low, 1e-12), high)]
    run.show(
        Curves(
            title="Odds of finding an address, over the bits that have to be guessed",
            x="bits to guess",
            y="probability",
            log_y=True,
            theory={
                f"a fixed address, {budget} probes": [(b, min(1.0, budget / 2**b)) for b in sizes],
                f"a service address, {number(life)} s at {number(rate)}/s": [
                    (b, min(1.0, rate * life / 2**b)) for b in sizes
                ],
                "a fixed address, a year at a million/s": [(b, min(1.0, 1e6 * year / 2**b)) for b in sizes],
                "a service address, 5 minutes at a million/s": [(b, min(1.0, 1e6 * 300 / 2**b)) for b in sizes],
            },
            series=points,
            joined=False,
            caption="An identifier has 64 bits. The fixed address is random too here; one made of a MAC address has far fewer.",
        )
    )
