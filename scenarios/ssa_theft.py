"""Can somebody who learns a service address before its client does use it up, or take it over? [slides 7, 13]

An attacker who has read a service address (SSA) tries it before the client comes: with SYNs in the client's name, whose
handshakes it cannot complete; and with a handshake of its own.  An SSA is used up by a completed handshake only, and one that
is issued for a client answers nobody else.  Behind a firewall that checks tagged addresses, an attacker without the key has to
forge one: the share of random identifiers that pass is measured beside the odds that the layout promises.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from scenarios.engine import Bars, Host, Parameter, Raw, Run, Table, echo, exchange, scenario
from scenarios.engine.raw import segment
from tapstack.wire import tcp
from unimux.aio import start_server
from unimux.tagged import TagCodec, TagLayout


@scenario(
    requirements=("UM-LIS-3", "UM-LIS-4", "UM-LIS-6", "UM-GEN-4"),
    shows=("own-pair", "speaks-within-life", "released"),
    quick={"trials": 3, "forgeries": 200_000},
)
async def ssa_theft(
    run: Run,
    *,
    trials: Annotated[int, Parameter("addresses of each kind", least=1, most=1000)] = 20,
    spoofed: Annotated[int, Parameter("spoofed SYNs at each address", least=0, most=1000)] = 50,
    forgeries: Annotated[int, Parameter("random identifiers at the firewall", least=1000, most=50_000_000)] = 4_000_000,
    redundancy: Annotated[int, Parameter("redundancy bits of the tag that is attacked", least=8, most=16)] = 8,
) -> None:
    run.leave_out("complete", "spoofed handshakes are never completed")
    between = "spoofed handshakes stand between the same two addresses"
    run.witness(explanations=run.explain("Previous segment|ACKed segment", between))
    client_lan, server_lan, outside = run.lan("client"), run.lan("server"), run.lan("outside")
    run.router(client_lan, server_lan, outside)
    bob = await run.node("bob", server_lan, ready=8)
    client, thief = await run.host("client", client_lan), await run.host("thief", outside)
    spoofer = await run.raw("spoofer", outside)
    server = start_server(bob, echo)
    tally: dict[_Attack, tuple[int, int]] = {}
    for attack in ATTACKS:
        stolen = got = 0
        for _ in range(trials):
            ssa = await server.issue(client=client.address if attack.named else None, timeout=60)
            where = str(ssa.address)
            await _spoof(run, spoofer, client.address, where, spoofed)
            if attack.theft:
                stolen += await _served(thief, where)
            got += await _served(client, where)
            server.withdraw(ssa)
            run.witness(aborted=(where,))
        tally[attack] = got, stolen
        _judge(run, attack, got, stolen, trials)
    passed = _forge(run, redundancy, forgeries)
    run.measure("forged tags that decrypt", passed / forgeries)
    run.expect_share("share of random identifiers with the right redundancy", passed, forgeries, 2.0**-redundancy)
    run.answer(
        "SYNs in the client's name cost a service address nothing; a thief who completes a handshake first gets it, unless it "
        f"was issued for its client; a forged tag passes the firewall with odds of 2^-{redundancy} (measured "
        f"1 in {forgeries / max(passed, 1):.0f})."
    )
    _show(run, tally, trials)


@dataclass(frozen=True)
class _Attack:
    """What is tried before the client comes.  named: the address was issued for the client.  theft: by a handshake, too."""

    name: str
    named: bool
    theft: bool


ATTACKS = (
    _Attack("SYNs in the client's name, address for anybody", named=False, theft=False),
    _Attack("SYNs in the client's name, address for this client", named=True, theft=False),
    _Attack("a thief's own handshake, address for anybody", named=False, theft=True),
    _Attack("a thief's own handshake, address for this client", named=True, theft=True),
)


async def _spoof(run: Run, spoofer: Raw, client: str, where: str, count: int) -> None:
    """SYNs in the client's name."""
    for number in range(count):
        ports = (run.random.randrange(1024, 65536), 80)
        spoofer.send(segment(client, where, ports, tcp.SYN, seq=run.random.randrange(2**32)))
        if number % 10 == 9:
            await asyncio.sleep(0.005)


def _judge(run: Run, attack: _Attack, got: int, stolen: int, trials: int) -> None:
    """The client is served and nobody else, but where the first handshake wins because anybody may come."""
    run.measure("client served", got / trials, of=attack.name)
    safe = attack.named or not attack.theft
    title = f"The client is served: {attack.name}" if safe else f"The honest limit holds: {attack.name}"
    requirement = "UM-LIS-4" if attack.named else "UM-LIS-3"
    holds = (got, stolen) == ((trials, 0) if safe else (0, trials))
    run.require(title, holds, requirement, because=f"{got} of {trials}")


def _show(run: Run, tally: Mapping[_Attack, tuple[int, int]], trials: int) -> None:
    rows = [
        (attack.name, f"{got} of {trials}", f"{stolen} of {trials}" if attack.theft else "–")
        for attack, (got, stolen) in tally.items()
    ]
    run.show(Table(title="Who gets the service", columns=("attack", "client served", "thief served"), rows=rows))
    run.show(
        Bars(
            title="Share of clients that were served",
            categories=[attack.name for attack in tally],
            series={"": [got / trials for got, _ in tally.values()]},
            y="share",
            caption="An address that is meant for anybody belongs to whoever completes the first handshake: issue it for a "
            "client, or tell it over a channel that others cannot read.",
        )
    )


async def _served(host: Host, where: str) -> bool:
    """Whether a host gets an answer from the service."""
    try:
        streams = await host.open(where, 80, timeout=1.0)
    except (OSError, TimeoutError):
        return False
    return await exchange(*streams, b"GET /", timeout=2.0)


def _forge(run: Run, redundancy: int, forgeries: int) -> int:
    """How many random identifiers decrypt to the right redundancy."""
    layout = TagLayout(redundancy=redundancy, serial=36 - redundancy)
    codec = TagCodec(run.entropy("firewall", 32), layout)
    source = np.random.default_rng(int.from_bytes(run.entropy("forger", 8), "big"))
    passed = 0
    for begin in range(0, forgeries, 1 << 18):
        guesses = source.integers(0, 2**64, size=min(1 << 18, forgeries - begin), dtype=np.uint64)
        passed += int(codec.open_many(guesses)[0].sum())
    return passed
