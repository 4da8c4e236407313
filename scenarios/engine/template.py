"""What `unimux scenario new NAME` writes: a scenario that runs at once."""

from __future__ import annotations

import keyword
from pathlib import Path

from .errors import ScenarioError

TEMPLATE = '''"""How long does it take a client to reach a service on a one-time address?

Replace this question by yours, and this text by what happens: who talks to whom, who attacks, what is compared.
Run it:    unimux scenario run {file}
Vary it:   unimux scenario run {file} --sweep delay=0,0.01,0.05 --repeat 10
"""

from __future__ import annotations

import asyncio
from typing import Annotated

from scenarios.engine import Ecdf, Impairment, Parameter, Run, scenario, seconds
from unimux.aio import open_connection, start_server


@scenario(requirements=("UM-LIS-2",), shows=("own-pair", "complete", "released"), quick={{"connections": 3}})
async def {name}(
    run: Run,
    *,
    connections: Annotated[int, Parameter("connections, one after another", least=1, most=10_000)] = 10,
    delay: Annotated[float, Parameter("delay of the path, each way", unit="s", least=0, most=5)] = 0.01,
) -> None:
    # What the judge of the captures must know; here belongs run.leave_out(rule, reason), too.
    run.witness(connections=connections)

    # The network: two LANs and a router between them.
    path = Impairment(delay=delay)
    client_lan, server_lan = run.lan("client", to_router=path, from_router=path), run.lan("server")
    run.router(client_lan, server_lan)
    alice = await run.node("alice", client_lan)
    bob = await run.node("bob", server_lan)

    # What happens.
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1000))
        writer.close()

    server = start_server(bob, echo)
    answers = []
    for _ in range(connections):
        ssa = await server.issue()
        began = run.now()
        reader, writer = await open_connection(alice, ssa.address, None)
        run.measure("setup", run.now() - began, "s")
        writer.write(b"hello")
        writer.write_eof()
        answers.append(await reader.read())
        writer.close()

    # What must hold, the answer in one line, and what to show.
    run.require("Every connection was answered", answers == [b"hello"] * connections, "UM-NODE-2")
    setup = run.metrics.samples("setup")
    run.answer(f"It takes {{seconds(max(setup))}} at most, over a path of {{seconds(delay)}} each way.")
    run.show(Ecdf(title="Time to reach the service", x="seconds", series={{"setup": setup}}))
'''


def new_scenario(name: str, folder: Path) -> Path:
    """Write NAME.py; raises `ScenarioError` for a name that cannot be one, or where there is such a file."""
    module = name.removesuffix(".py").replace("-", "_")
    if not module.isidentifier() or keyword.iskeyword(module) or module != module.lower():
        raise ScenarioError(f"A scenario cannot be named {name!r}: take lower-case letters, digits and dashes.")
    path = folder / f"{module}.py"
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=module, file=path))
    except FileExistsError:
        raise ScenarioError(f"{path} exists already: choose another name.") from None
    except OSError as error:
        raise ScenarioError(f"{path} cannot be written: {error.strerror}.") from error
    return path
