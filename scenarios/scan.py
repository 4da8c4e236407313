"""What does a scanner find, off-link and on-link, and what are its odds? [slides 7, 14]

First a prober that was told an address in each state asks everything it can: a ping, a SYN, an address resolution, a DAD
probe.  Then a prober that knows all but a few bits of the address tries its luck: the armed address of a service that waits
for its client lives for some seconds only, a fixed one for ever.  The odds of theory (probes within the life of the address
over the size of the space) stand beside the measured ones, and give those of all 64 bits.
"""

from __future__ import annotations

import asyncio
from ipaddress import IPv6Address
from typing import Annotated

from scenarios.engine import Addressing, Curves, Parameter, Raw, Run, Table, echo, number, scenario, wilson
from scenarios.engine.raw import dad_probe, echo_request, segment, solicitation
from tapstack.ipv6.addresses import AddressState
from tapstack.tcp.options import PortMode
from tapstack.types import address, address_text
from tapstack.wire import icmpv6, ipv6, tcp
from unimux.aio import open_connection, start_server
from unimux.node import Node

PORT = 80
WAIT = 4.5
"""Seconds for an answer, or for the router to give up asking for the address."""


@scenario(
    requirements=("UM-ADDR-2", "UM-ADDR-3", "UM-ADDR-4", "UM-ADDR-9", "UM-REL-3", "UM-NODE-5"),
    shows=("silence-before", "silence-after", "defended", "speaks-within-life"),
    quick={"trials": 40},
)
async def scan(
    run: Run,
    *,
    bits: Annotated[int, Parameter("bits of the address that the prober has to guess", least=2, most=12)] = 8,
    rate: Annotated[float, Parameter("probes per second", unit="1/s", least=1, most=300)] = 100.0,
    life: Annotated[
        float, Parameter("seconds that a service address waits for its client", unit="s", least=0.1, most=10)
    ] = 1.0,
    trials: Annotated[int, Parameter("addresses that are hunted", least=10, most=2000)] = 200,
) -> None:
    home, outside = run.lan("home"), run.lan("outside")
    run.router(home, outside)
    bob = await run.node("bob", home, ready=8)
    fixed = await run.node("fixed", home, addressing=Addressing.FIXED)
    off_link, on_link = await run.raw("offlink", outside), await run.raw("onlink", home)
    start_server(fixed, lambda reader, writer: writer.close(), mode=PortMode.AWARE, port=PORT).bind(
        run.address_of(fixed)
    )
    server = start_server(bob, lambda reader, writer: writer.close())

    rows = []
    told = await _addresses(run, bob, fixed)
    for name, target in told.items():
        for prober in (off_link, on_link):
            seen = await _probe(run, prober, target, fixed if name == "fixed" else bob)
            rows.append((name, "off-link" if prober is off_link else "on-link", *seen))
            if name in ("UNCERTAIN", "released", "in use"):
                silent = not seen[0].startswith("answered") and not seen[1].startswith("answered")
                run.require(
                    f"An address that is {name} tells a stranger nothing",
                    silent,
                    "UM-ADDR-4",
                    because=f"{seen[0]}, {seen[1]}",
                )
    run.show(
        Table(
            title="What a prober learns who was told the address",
            columns=("address", "prober", "ping", "SYN", "address resolution", "DAD probe"),
            rows=rows,
            caption="'unreachable' is the router's word: it asked, nobody answered. So an on-link prefix lets an off-link prober "
            "tell an address that answers nobody from one that is in use. A neighbour can find every reserved address by its "
            "DAD defence.",
        )
    )
    space, budget = 1 << bits, min(int(rate * life), 1 << bits)
    hits = 0
    for _ in range(trials):
        ssa = await server.issue(lifetime=life, timeout=60)
        hits += await _hunt(run, off_link, ssa.address.packed, space, budget, rate)
        server.withdraw(ssa)
        run.witness(aborted=(str(ssa.address),))
    low, high = wilson(hits, trials)
    run.measure("found", hits / trials, of="service address")
    run.expect_share("share of service addresses found", hits, trials, budget / space)
    _odds(run, bits, rate, life, hits / trials, low, high)


async def _addresses(run: Run, bob: Node, fixed: Node) -> dict[str, str]:
    """One address in each state, by the name of the state."""
    own = start_server(bob, echo)
    armed, used = await own.issue(lifetime=120), await own.issue(lifetime=120)
    _, writer = await open_connection(fixed, used.address, PORT)  # a session that stays open until all is probed
    asyncio.get_running_loop().call_later(100, writer.close)
    run.witness(aborted=(str(armed.address),))  # probes will begin handshakes on it
    gone = await own.issue(lifetime=0.1)
    await bob.until(lambda: gone.address.packed not in bob.stack.host.addresses, 10)
    reserved = next(e.address for e in bob.stack.host.addresses if e.state is AddressState.UNCERTAIN)
    return {
        "fixed": run.address_of(fixed),
        "UNCERTAIN": address_text(reserved),
        "armed": str(armed.address),
        "in use": str(used.address),
        "released": str(gone.address),
    }


async def _probe(run: Run, prober: Raw, target: str, owner: Node) -> tuple[str, str, str, str]:
    """What comes back for a ping, a SYN, and to a neighbour for an address resolution and a DAD probe."""
    answers = []
    port = run.random.randrange(1024, 65536)
    on_link = IPv6Address(target) in prober.lan.network
    for packet in (echo_request(prober.address, target), segment(prober.address, target, (port, PORT), tcp.SYN, seq=1)):
        prober.seen.clear()
        if on_link:
            prober.send(packet, owner.link.properties.mac)
        else:
            prober.send(packet)
        await asyncio.sleep(WAIT)
        answers.append(_answer(prober, target))
    if not on_link:
        return answers[0], answers[1], "–", "–"
    for frame in (
        solicitation(prober.mac, prober.address, target),
        dad_probe(prober.mac, target, run.random.randbytes(6)),
    ):
        prober.seen.clear()
        prober.send_frame(frame)
        await asyncio.sleep(1)
        heard = any(_advertises(packet, address(target)) for _, packet in prober.seen)
        answers.append("answered" if heard else "silence")
    return answers[0], answers[1], answers[2], answers[3]


def _answer(prober: Raw, target: str) -> str:
    wanted, own = address(target), address(prober.address)
    for _, packet in prober.seen:
        if packet[8:24] == wanted and packet[24:40] == own:
            if packet[6] == ipv6.TCP:
                return "answered: " + ("SYN-ACK" if packet[53] & tcp.SYN else "RST")
            if packet[6] == ipv6.ICMPV6 and packet[40] == icmpv6.Type.ECHO_REPLY:
                return "answered"
        elif packet[24:40] == own and packet[6] == ipv6.ICMPV6 and packet[40] == icmpv6.Type.DESTINATION_UNREACHABLE:
            return "unreachable"
    return "silence"


def _advertises(packet: bytes, target: bytes) -> bool:
    return packet[6] == ipv6.ICMPV6 and packet[40] == icmpv6.Type.NEIGHBOR_ADVERTISEMENT and packet[48:64] == target


async def _hunt(run: Run, prober: Raw, target: bytes, space: int, budget: int, rate: float) -> bool:
    """Guess the last bits of an address, each guess once, in a random order; whether one was answered."""
    prober.seen.clear()
    known = int.from_bytes(target, "big") & ~(space - 1)
    for guess in run.random.sample(range(space), budget):
        probe = segment(
            prober.address, address_text((known | guess).to_bytes(16, "big")), (4000, PORT), tcp.SYN, seq=guess
        )
        prober.send(probe)
        await asyncio.sleep(1 / rate)
    return any(packet[6] == ipv6.TCP and packet[8:24] == target for _, packet in prober.seen)


def _odds(run: Run, bits: int, rate: float, life: float, measured: float, low: float, high: float) -> None:
    """Theory over the size of the space, and the measured point."""
    sizes = range(4, 65, 4)
    hour = 3600.0
    run.show(
        Curves(
            title="Odds of finding an address, over the bits that have to be guessed",
            x="bits to guess",
            y="probability",
            log_y=True,
            theory={
                f"a service address, {number(life)} s at {number(rate)}/s": [
                    (b, min(1.0, rate * life / 2**b)) for b in sizes
                ],
                "a fixed address, a year at a million/s": [(b, min(1.0, 1e6 * hour * 24 * 365 / 2**b)) for b in sizes],
                "a service address, 5 minutes at a million/s": [(b, min(1.0, 1e6 * 300 / 2**b)) for b in sizes],
            },
            series={"measured": [(bits, measured, max(low, 1e-12), high)]},
            joined=False,
            caption="An identifier has 64 bits. The fixed address is random too here; one made of a MAC address has far fewer.",
        )
    )
