"""Can somebody who reads a client's address in a server's log connect back to the client? [slide 7]

A client of each kind fetches from a web server, whose log an attacker reads.  It then tries the client's address: a TCP
connection to the port of a service that the client runs, and a ping; once while the session lasts, and once after it.
A fixed or temporary address leads to the client's services.  An ephemeral address leads to nothing, at any time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from scenarios.engine import Addressing, Bars, Host, Parameter, Run, Table, echo, logging_echo, released, scenario
from tapstack.tcp.options import PortMode
from unimux.aio import open_connection, start_server
from unimux.node import Node

SERVICE = 22


@scenario(
    requirements=("UM-EA-1", "UM-ADDR-9", "UM-REL-1"),
    shows=("third-host", "speaks-within-life", "silence-after", "released"),
    quick={"attempts": 2},
)
async def reverse_attack(
    run: Run,
    *,
    attempts: Annotated[int, Parameter("sessions of each client", least=1, most=1000)] = 5,
    wait: Annotated[float, Parameter("how long the attacker waits for an answer", unit="s", least=0.1)] = 0.5,
) -> None:
    client_lan, server_lan = run.lan("client"), run.lan("server")
    run.router(client_lan, server_lan)
    server, mallory = await run.host("www", server_lan), await run.host("mallory", server_lan)
    run.witness(strangers=(mallory.address,), connections=attempts)
    clients = {kind: await run.node(kind.value.replace("-", ""), client_lan, addressing=kind) for kind in KINDS}
    log: list[str] = []
    await server.serve(80, logging_echo(log))
    for kind, client in clients.items():
        _run_a_service(run, kind, client)
    outcomes: dict[tuple[Addressing, str], list[tuple[bool, bool]]] = {}
    for kind, client in clients.items():
        during = outcomes[kind, "during"] = []
        after = outcomes[kind, "after"] = []
        for _ in range(attempts):
            reader, writer = await open_connection(client, server.address, 80)
            writer.write(b"hello")
            await reader.readexactly(5)
            during.append(await _connect_back(mallory, log[-1], wait))
            writer.write_eof()
            await reader.read()
            writer.close()
            await released(client)
            after.append(await _connect_back(mallory, log[-1], wait))
    reached = _judge(run, outcomes, attempts)
    run.answer(
        f"A client's address from a log leads back to it in {reached['during'][0]:.0%} of attempts if it is fixed, "
        f"{reached['after'][1]:.0%} if temporary, and never, during or after the session, if it is one-time "
        f"({2 * attempts} attempts)."
    )
    run.show(
        Bars(
            title="Share of attempts that reached the client",
            categories=[k.value for k in KINDS],
            series=reached,
            y="share reached",
        )
    )


def _judge(
    run: Run, outcomes: Mapping[tuple[Addressing, str], Sequence[tuple[bool, bool]]], attempts: int
) -> dict[str, list[float]]:
    """Require that one-time addresses lead to nothing, and others back; the shares that were reached, by when."""
    rows: list[tuple[str, str, str, str]] = []
    reached: dict[str, list[float]] = {"during": [], "after": []}
    for (kind, when), tries in outcomes.items():
        share = sum(map(any, tries)) / attempts
        reached[when].append(share)
        run.measure("reached", share, of=f"{kind.value}, {when}")
        connected, pinged = (f"{sum(each)} of {attempts}" for each in zip(*tries, strict=True))
        rows.append((kind.value, when, connected, pinged))
        if kind.one_time:
            run.require(f"Nothing reaches a {kind.value} client {when} the session", share == 0, "UM-EA-1")
        else:
            run.require(f"The attack as such works: {kind.value}, {when}", share == 1)
    columns = ("client's address", "session", "connected", "pinged")
    run.show(Table(title="What the attacker reached", columns=columns, rows=rows))
    return reached


KINDS = (Addressing.FIXED, Addressing.TEMPORARY, Addressing.ONE_TIME)


def _run_a_service(run: Run, kind: Addressing, client: Node) -> None:
    """The client listens on a port of its ordinary addresses, as machines do; a one-time client has none to listen on."""
    server = start_server(client, echo, mode=PortMode.AWARE, port=SERVICE)
    if not kind.one_time:
        server.bind(run.address_of(client))


async def _connect_back(attacker: Host, target: str, wait: float) -> tuple[bool, bool]:
    """Whether a TCP connection came about, and whether a ping was answered."""
    try:
        _, writer = await attacker.open(target, SERVICE, timeout=wait)
    except (OSError, TimeoutError):
        connected = False
    else:
        connected = True
        writer.close()
    return connected, await attacker.ping(target, wait=wait)
