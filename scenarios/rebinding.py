"""What happens to a connection whose port a middlebox changes on the way, in each port mode? [slide 22]

A port translator stands before the client and forgets its connections in the middle of a transfer, as home gateways do when
they restart or run full: from then on the client's segments carry another port, and what is sent to the old one is lost.
A server at L1 follows the port and goes on.  At L0 it takes the segments too, but answers to the port that it has seen first,
which the translator no longer knows: L0 is for paths on which nobody reads ports.  A server that reads the client's port (L2,
Aware, and every server of today) takes the segments for those of a stranger.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated

from scenarios.engine import OPTIONS, Addressing, Bars, Parameter, PortTranslator, Run, Streams, Table, echo, scenario
from tapstack.link.base import Link
from tapstack.tcp.options import PortMode
from unimux.aio import open_connection, start_server

KEEPS = (PortMode.L1,)


@scenario(
    requirements=("UM-PORT-1", "UM-PORT-3", "UM-NODE-5"),
    shows=("speaks-within-life", "own-pair"),
    quick={"attempts": 1, "size": 20_000},
)
async def rebinding(
    run: Run,
    *,
    attempts: Annotated[int, Parameter("transfers in each mode", least=1, most=200)] = 5,
    size: Annotated[int, Parameter("bytes each way", unit="B", least=1000)] = 200_000,
    patience: Annotated[
        float, Parameter("after how long without an answer a transfer is given up", unit="s", least=1)
    ] = 5.0,
) -> None:
    run.leave_out("ports-free", "connections are broken by changes of ports on purpose")
    run.witness(connections=attempts, explanations=run.explain("reset|RST", "broken on purpose"))
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    boxes: list[PortTranslator] = []

    def behind_a_box(link: Link) -> Link:
        boxes.append(PortTranslator(link, run.random))
        return boxes[-1]

    alice = await run.node("alice", client_lan, wrap=behind_a_box)
    bob = await run.node("bob", server_lan)
    legacy = await run.node("legacyserver", server_lan, addressing=Addressing.FIXED)
    start_server(legacy, echo, mode=PortMode.AWARE, port=80).bind(run.address_of(legacy))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """An echo that ends a connection on which nothing has come for a while, as servers do."""
        try:
            await asyncio.wait_for(echo(reader, writer), 2 * patience)
        except TimeoutError:
            writer.transport.abort()

    shares: dict[str, float] = {}
    for mode in (*PortMode, None):
        keeps, survived = mode in KEEPS, 0
        for _ in range(attempts):
            if mode is None:
                streams = await open_connection(alice, run.address_of(legacy), 80)
            else:
                port = 80 if mode is PortMode.AWARE else None
                ssa = await start_server(bob, serve, mode=mode, port=port, options=OPTIONS).issue()
                streams = await open_connection(alice, ssa.address, 80)
                run.witness(aborted=() if keeps else (str(ssa.address),))
            own = streams[1].get_extra_info("sockname")[0]
            run.witness(aborted=() if keeps else (own,))
            survived += await _transfer_with_a_change(run, streams, boxes[0], size, patience)
        name = mode.value if mode else "legacy server"
        shares[name] = _judge(run, name, keeps, survived, attempts)
    _show(run, shares, attempts)


def _judge(run: Run, server: str, keeps: bool, survived: int, attempts: int) -> float:
    """Require what `keeps` says of a kind of server; the share of transfers that survived."""
    share = survived / attempts
    run.measure("survived", share, of=server)
    if keeps:
        run.require(f"{server}: the connection survives a change of ports", share == 1, "UM-PORT-1", "UM-PORT-3")
    else:
        title = f"{server}: the change of ports breaks the connection"
        run.require(title, share == 0, because=f"{survived} of {attempts} survived")
    return share


def _show(run: Run, shares: Mapping[str, float], attempts: int) -> None:
    kept = [name for name, share in shares.items() if share == 1]
    lost = [name for name, share in shares.items() if share < 1]
    run.answer(
        f"When a translator changes the client's port, {', '.join(kept)} goes on; {', '.join(lost)} lose the connection."
    )
    rows = [(name, f"{round(share * attempts)} of {attempts}") for name, share in shares.items()]
    run.show(
        Table(title="Transfers that survived a change of the client's port", columns=("server", "survived"), rows=rows)
    )
    run.show(
        Bars(
            title="Share that survived",
            categories=list(shares),
            series={"": list(shares.values())},
            y="share of transfers",
        )
    )


async def _transfer_with_a_change(run: Run, streams: Streams, box: PortTranslator, size: int, patience: float) -> bool:
    """Half of the data, another port, the other half; whether everything came back."""
    reader, writer = streams
    data = run.random.randbytes(size)
    try:
        async with asyncio.timeout(patience):
            writer.write(data[: size // 2])
            first = await reader.readexactly(size // 2)
            box.rebind()
            writer.write(data[size // 2 :])
            writer.write_eof()
            rest = await reader.read(-1)
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        writer.transport.abort()
        return False
    writer.close()
    return bool(first + rest == data)
