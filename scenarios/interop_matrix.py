"""Which pairs of old and new hosts can talk, in every port mode? [slide 23]

Every row of the table of modes and styles, against a legacy Linux kernel: U is a unified node, L the kernel.  A service has
an address of its own (SSA) or one that it bound, with a well-known port (WP), the reduced port (RP) or any port (*); the
client's port is ephemeral (EP) or RP.  A row passes if bytes go both ways and come back equal.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Annotated

from scenarios.engine import Addressing, Matrix, Parameter, Run, Table, echo, exchange, scenario
from tapstack.tcp.options import LEGACY_COMPAT, PortMode
from unimux.aio import open_connection, start_server

WELL_KNOWN = 8080
RP = LEGACY_COMPAT


@scenario(
    requirements=("UM-PORT-1", "UM-PORT-2", "UM-PORT-5", "UM-PORT-6", "UM-PORT-11", "UM-NODE-1"),
    backends=("netns",),
    shows=("own-pair", "complete", "speaks-within-life", "released"),
)
async def interop_matrix(
    run: Run, *, size: Annotated[int, Parameter("bytes each way per connection", unit="B", least=1)] = 5000
) -> None:
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    alice = await run.node("alice", client_lan, ready=8)
    bob = await run.node("bob", server_lan, ready=8)
    bound = await run.node("bound", server_lan, addressing=Addressing.FIXED)
    legacy_client, legacy_server = await run.host("legacy", client_lan), await run.host("www", server_lan)
    await legacy_server.serve(WELL_KNOWN, echo)
    where = run.address_of(bound)
    results: list[tuple[str, str, str, bool, str]] = []
    sessions: dict[str, int] = {}

    async def row(mode: str, server: str, client: str, attempt: Callable[[], Awaitable[bool]]) -> None:
        error = ""
        try:
            works = await attempt()
        except OSError as failure:
            works, error = False, str(failure)
        results.append((mode, server, client, works, error))
        run.measure("works", works, of=f"{mode} {server} – {client}")
        run.require(f"{mode}: {server} – {client}", works, "UM-NODE-1", because=error or "the bytes came back equal")

    def data() -> bytes:
        return run.random.randbytes(size)

    async def unified_both(mode: PortMode, port: int | None = None) -> bool:
        server = start_server(bob, echo, mode=mode, port=port)
        ssa = await server.issue()
        streams = await open_connection(alice, ssa.address, port, mode=mode)
        equal = await exchange(*streams, data())
        server.close()
        return equal

    async def legacy_calls_ssa(mode: PortMode, sources: list[int], port: int, times: int = 1) -> bool:
        server = start_server(bob, echo, mode=mode, port=port if mode is PortMode.AWARE else None)
        ssa = await server.issue(sessions=times, client=legacy_client.address)
        sessions[str(ssa)] = times
        open_now = [await legacy_client.open(str(ssa), port, source=source) for source in sources]
        equal = [await exchange(*streams, data()) for streams in open_now]
        server.close()
        return all(equal)

    async def legacy_calls_bound(mode: PortMode, port: int, sources: list[int]) -> bool:
        server = start_server(bound, echo, mode=mode, port=port if mode is PortMode.AWARE else None)
        server.bind(where)
        open_now = [await legacy_client.open(where, port, source=source) for source in sources]
        equal = [await exchange(*streams, data()) for streams in open_now]
        server.close()
        return all(equal)

    async def call_legacy(mode: PortMode) -> bool:
        streams = await open_connection(alice, legacy_server.address, WELL_KNOWN, mode=mode)
        return await exchange(*streams, data())

    await row("L0", "U(SSA,*)", "U(EA,*)", lambda: unified_both(PortMode.L0))
    await row("L1", "U(SSA,*)", "U(EA,*)", lambda: unified_both(PortMode.L1))
    await row("L1", "U(SSA,*)", "L(LA,EP)", lambda: legacy_calls_ssa(PortMode.L1, [0], 80))
    await row("L2", "U(SSA,*)", "U(EA,*)", lambda: unified_both(PortMode.L2))
    await row("L2", "U(*,*)", "L(LA,EP) twice", lambda: legacy_calls_ssa(PortMode.L2, [0, 0], 80, times=2))
    await row("L2", "U(bound,*)", "L(LA,EP) twice", lambda: legacy_calls_bound(PortMode.L2, 443, [0, 0]))
    await row("Aware", "U(*,WP)", "L(LA,EP)", lambda: legacy_calls_bound(PortMode.AWARE, WELL_KNOWN, [0, 0]))
    await row("Aware", "U(*,RP)", "L(LA,EP)", lambda: legacy_calls_bound(PortMode.AWARE, RP, [0, 0]))
    await row("Aware", "U(*,WP)", "L(LA,RP)", lambda: legacy_calls_bound(PortMode.AWARE, WELL_KNOWN + 1, [RP]))
    await row("Aware", "U(*,RP)", "L(LA,RP)", lambda: legacy_calls_bound(PortMode.AWARE, RP, [RP + 1]))
    for mode in PortMode:
        await row(f"{mode.value}", "L(LA,WP)", "U(EA,*)", lambda mode=mode: call_legacy(mode))  # type: ignore[misc]
    talking = sum(works for _, _, _, works, _ in results)
    run.answer(f"{talking} of {len(results)} rows of the table talk, every mode with a Linux kernel on either side.")
    run.witness(connections=len(results) - 5, sessions=sessions)
    _show(run, results)


def _show(run: Run, results: list[tuple[str, str, str, bool, str]]) -> None:
    modes = list(dict.fromkeys(mode for mode, *_ in results))
    styles = list(dict.fromkeys(f"{server} – {client}" for _, server, client, *_ in results))
    found = {(mode, f"{server} – {client}"): works for mode, server, client, works, _ in results}
    run.show(
        Table(
            title="Who can talk to whom",
            columns=("mode of the unified side", "server", "client", "result"),
            rows=[
                (m, s, c, "✔ talks" if works else f"✘ {error or 'bytes differ'}") for m, s, c, works, error in results
            ],
            caption="U: unified node. L: Linux kernel. LA: its ordinary address.",
        )
    )
    run.show(
        Matrix(
            title="The same as a matrix",
            rows=styles,
            columns=modes,
            cells=[[float(found.get((mode, style), math.nan)) for mode in modes] for style in styles],
            caption="1: talks, 0: does not, –: slide 23 does not ask for it.",
        )
    )
