"""What does one connection between one-time addresses look like, from LISTEN_o to release?

Bob waits in LISTEN_o, in no table, until he issues a service address (SSA).  Alice connects to it from an ephemeral
address (EA) that she uses for nothing else, bytes go both ways, and both addresses are gone for ever.
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from scenarios.engine import Parameter, Run, scenario
from unimux.aio import open_connection, start_server


@scenario(
    quick={"size": 10_000},
    requirements=("UM-LIS-1", "UM-LIS-2", "UM-LIS-6", "UM-DAS-1", "UM-DAS-4", "UM-ADDR-1", "UM-ADDR-9", "UM-REL-1"),
    shows=("own-pair", "complete", "dad-first", "speaks-within-life", "released", "claims"),
)
async def hello(
    run: Run,
    *,
    size: Annotated[int, Parameter("bytes each way", unit="B", least=1, most=100_000_000)] = 200_000,
) -> None:
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    alice = await run.node("alice", client_lan)
    bob = await run.node("bob", server_lan)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()

    server = start_server(bob, echo)
    states = [server.state.value]
    ssa = await server.issue(client=client_lan.prefix)
    states.append(server.state.value)
    run.say(f"Bob went from LISTEN_o to LISTEN on {ssa}")

    began = run.now()
    reader, writer = await open_connection(alice, ssa.address, None)
    run.measure("setup", run.now() - began, "s")
    own, _ = writer.get_extra_info("sockname")[:2]
    run.say(f"Alice connected from {own}")

    sent = run.random.randbytes(size)
    began = run.now()
    writer.write(sent)
    writer.write_eof()
    received = await reader.read(-1)
    run.measure("transfer", run.now() - began, "s")
    states.append(server.state.value)
    writer.close()

    run.answer(
        f"Set up in {run.metrics.means()['setup'] * 1000:.3g} ms and carried on a pair of addresses that nothing else used: "
        f"{own} and {ssa.address}, both gone afterwards."
    )
    run.choose(own)
    run.require(
        "The bytes came back equal", received == sent, "UM-NODE-2", because=f"{len(received):,} of {size:,} bytes"
    )
    run.require(
        "LISTEN_o before, LISTEN while the SSA is armed, LISTEN_o with the session",
        states == ["LISTEN_o", "LISTEN", "LISTEN_o"],
        "UM-LIS-1",
        "UM-LIS-2",
        because=" → ".join(states),
    )
