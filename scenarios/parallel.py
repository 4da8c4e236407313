"""Can two nodes hold many sessions at once, each on an address pair of its own? [slides 12, 17]

Bob issues one service address per session; Alice connects to all of them at the same time and talks on all.  Ports play no
part: every session is told apart by its pair of addresses alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated

from scenarios.engine import Curves, Ecdf, Parameter, Run, Summary, echo, scenario, seconds
from unimux.aio import open_connection, start_server
from unimux.poolstate import PoolConfig


@scenario(
    requirements=("UM-NODE-3", "UM-DAS-4", "UM-LIS-2", "UM-REL-1"),
    shows=("own-pair", "complete", "dad-first", "released", "never-again"),
    quick={"sessions": 8},
)
async def parallel(
    run: Run,
    *,
    sessions: Annotated[int, Parameter("sessions at the same time", least=1, most=250)] = 50,
    size: Annotated[int, Parameter("bytes each way in each session", unit="B", least=1)] = 20_000,
) -> None:
    run.witness(connections=sessions)
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    pool = PoolConfig(low=sessions, high=sessions, limit=max(256, sessions))
    alice = await run.node("alice", client_lan, pool=pool, ready=sessions)
    bob = await run.node("bob", server_lan, pool=pool, ready=sessions)
    server = start_server(bob, echo)
    issued = [await server.issue() for _ in range(sessions)]
    open_now: list[tuple[float, float]] = [(0.0, 0.0)]
    pairs = set()
    start = run.now()

    def count(step: int) -> None:
        open_now.append((run.now() - start, open_now[-1][1] + step))

    together = asyncio.Barrier(sessions)

    async def session(address: object, sent: bytes) -> bool:
        began = run.now()
        reader, writer = await open_connection(alice, str(address), None)
        run.measure("setup", run.now() - began, "s")
        count(+1)
        pairs.add((writer.get_extra_info("sockname")[0], writer.get_extra_info("peername")[0]))
        await together.wait()  # nobody ends before everybody has begun
        writer.write(sent)
        writer.write_eof()
        received = await reader.read(-1)
        writer.close()
        run.measure("whole session", run.now() - began, "s")
        count(-1)
        return received == sent

    equal = await asyncio.gather(*(session(ssa.address, run.random.randbytes(size)) for ssa in issued))
    most = int(max(open_ for _, open_ in open_now))
    run.measure("open at once", most)
    run.require("Every session carried its bytes", all(equal), "UM-NODE-2", because=f"{sum(equal)} of {sessions} equal")
    run.require("All sessions were open at once", most == sessions, "UM-NODE-3", because=f"{most} at the peak")
    pairs_of_own = len({own for own, _ in pairs}) == len({peer for _, peer in pairs}) == sessions
    run.require("No two sessions shared an address", pairs_of_own, "UM-DAS-4", because=f"{len(pairs)} pairs")
    _show(run, most, open_now)


def _show(run: Run, most: int, open_now: Sequence[tuple[float, float]]) -> None:
    setup = Summary.of(run.metrics.samples("setup"))
    run.answer(
        f"Yes: {most} sessions between two nodes at once, each on a pair of its own, set up in {seconds(setup.median)} at the "
        f"median and {seconds(setup.most)} at most."
    )
    run.show(
        Curves(
            title="Sessions open",
            x="seconds since the first connect()",
            y="sessions",
            series={"open": open_now},
            steps=True,
        )
    )
    run.show(
        Ecdf(
            title="How long connect() and the whole session took",
            x="seconds",
            series={name: run.metrics.samples(name) for name in ("setup", "whole session")},
        )
    )
