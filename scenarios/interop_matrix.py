"""Which pairs of old and new hosts can talk, in every port mode? [slide 23]

Every row of the table of modes and styles, against a legacy Linux kernel: U is a unified node, L the kernel.  A service has
an address of its own (SSA) or one that it bound, with a well-known port (WP), the reduced port (RP) or any port (*); the
client's port is ephemeral (EP) or RP.  A row passes if bytes go both ways and come back equal.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeAlias

from scenarios.engine import Addressing, Host, Matrix, Parameter, Run, Streams, Table, echo, exchange, scenario
from tapstack.tcp.options import LEGACY_COMPAT, PortMode
from unimux.aio import open_connection, start_server
from unimux.node import Node

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
    attempts = _Attempts(run, size, alice, bob, bound, legacy_client, legacy_server)
    results = [await _row(run, *row) for row in attempts.rows()]
    talking = sum(result.works for result in results)
    run.answer(f"{talking} of {len(results)} rows of the table talk, every mode with a Linux kernel on either side.")
    run.witness(connections=len(results) - 5)
    _show(run, results)


@dataclass(frozen=True)
class _Result:
    """A row of the table: the mode of the unified side, who serves, who calls, whether they talk, and if not, why."""

    mode: str
    server: str
    client: str
    works: bool
    error: str

    @property
    def style(self) -> str:
        """Both sides."""
        return f"{self.server} – {self.client}"


async def _row(run: Run, mode: PortMode, server: str, client: str, attempt: Awaitable[bool]) -> _Result:
    error = ""
    try:
        works = await attempt
    except OSError as failure:
        works, error = False, str(failure)
    result = _Result(mode.value, server, client, works, error)
    run.measure("works", works, of=f"{result.mode} {result.style}")
    run.require(f"{result.mode}: {result.style}", works, "UM-NODE-1", because=error or "the bytes came back equal")
    return result


Row: TypeAlias = tuple[PortMode, str, str, Awaitable[bool]]
"""The mode of the unified side, who serves, who calls, and the attempt."""


@dataclass
class _Attempts:
    """What the rows try."""

    run: Run
    size: int
    alice: Node
    bob: Node
    bound: Node
    legacy_client: Host
    legacy_server: Host

    def rows(self) -> Iterator[Row]:
        """Every row of the table; each attempt is to be awaited before the next is asked for."""
        l0, l1, l2, aware = PortMode
        yield l0, "U(SSA,*)", "U(EA,*)", self._unified_both(l0)
        yield l1, "U(SSA,*)", "U(EA,*)", self._unified_both(l1)
        yield l1, "U(SSA,*)", "L(LA,EP)", self._legacy_calls_ssa(l1, [0], 80)
        yield l2, "U(SSA,*)", "U(EA,*)", self._unified_both(l2)
        yield l2, "U(*,*)", "L(LA,EP) twice", self._legacy_calls_ssa(l2, [0, 0], 80)
        yield l2, "U(bound,*)", "L(LA,EP) twice", self._legacy_calls_bound(l2, 443, [0, 0])
        yield aware, "U(*,WP)", "L(LA,EP)", self._legacy_calls_bound(aware, WELL_KNOWN, [0, 0])
        yield aware, "U(*,RP)", "L(LA,EP)", self._legacy_calls_bound(aware, RP, [0, 0])
        yield aware, "U(*,WP)", "L(LA,RP)", self._legacy_calls_bound(aware, WELL_KNOWN + 1, [RP])
        yield aware, "U(*,RP)", "L(LA,RP)", self._legacy_calls_bound(aware, RP, [RP + 1])
        for mode in PortMode:
            yield mode, "L(LA,WP)", "U(EA,*)", self._call_legacy(mode)

    async def _unified_both(self, mode: PortMode) -> bool:
        server = start_server(self.bob, echo, mode=mode)
        ssa = await server.issue()
        equal = await self._exchange(await open_connection(self.alice, ssa.address, None, mode=mode))
        server.close()
        return equal

    async def _legacy_calls_ssa(self, mode: PortMode, sources: Sequence[int], port: int) -> bool:
        server = start_server(self.bob, echo, mode=mode)
        ssa = await server.issue(sessions=len(sources), client=self.legacy_client.address)
        self.run.witness(sessions={str(ssa): len(sources)})
        equal = await self._legacy_calls(str(ssa), port, sources)
        server.close()
        return equal

    async def _legacy_calls_bound(self, mode: PortMode, port: int, sources: Sequence[int]) -> bool:
        where = self.run.address_of(self.bound)
        server = start_server(self.bound, echo, mode=mode, port=port if mode is PortMode.AWARE else None)
        server.bind(where)
        equal = await self._legacy_calls(where, port, sources)
        server.close()
        return equal

    async def _legacy_calls(self, where: str, port: int, sources: Sequence[int]) -> bool:
        """Connections from each of these ports, all of them open before any speaks."""
        open_now = [await self.legacy_client.open(where, port, source=source) for source in sources]
        equal = [await self._exchange(streams) for streams in open_now]
        return all(equal)

    async def _call_legacy(self, mode: PortMode) -> bool:
        streams = await open_connection(self.alice, self.legacy_server.address, WELL_KNOWN, mode=mode)
        return await self._exchange(streams)

    async def _exchange(self, streams: Streams) -> bool:
        return await exchange(*streams, self.run.random.randbytes(self.size))


def _show(run: Run, results: Sequence[_Result]) -> None:
    modes = list(dict.fromkeys(result.mode for result in results))
    styles = list(dict.fromkeys(result.style for result in results))
    found = {(result.mode, result.style): float(result.works) for result in results}
    run.show(
        Table(
            title="Who can talk to whom",
            columns=("mode of the unified side", "server", "client", "result"),
            rows=[
                (of.mode, of.server, of.client, "✔ talks" if of.works else f"✘ {of.error or 'bytes differ'}")
                for of in results
            ],
            caption="U: unified node. L: Linux kernel. LA: its ordinary address.",
        )
    )
    run.show(
        Matrix(
            title="The same as a matrix",
            rows=styles,
            columns=modes,
            cells=[[found.get((mode, style), math.nan) for mode in modes] for style in styles],
            caption="1: talks, 0: does not, –: slide 23 does not ask for it.",
        )
    )
