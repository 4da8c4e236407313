"""Two unified nodes talk at L0 while their port numbers change (UM-PORT-1)."""

from __future__ import annotations

import asyncio
import hashlib
from random import Random

from tapstack.tcp.connection import Connection
from tapstack.tcp.options import PortMode
from unimux.aio import open_connection, start_server
from unimux.node import Node

from .outcome import Outcome, Say
from .ports import RestlessPorts

ROUNDS = 8
CHUNK = 3000


def restless(writer: asyncio.StreamWriter, random: Random) -> RestlessPorts:
    """Let the ports of what this side sends change from now on."""
    connection: Connection = writer.get_extra_info("connection")
    ports = RestlessPorts(random)
    connection.emitter.transform = ports
    return ports


async def talk_at_l0(caller: Node, callee: Node, random: Random, outcome: Outcome, say: Say) -> None:
    """`caller` connects to an SSA of `callee`; every chunk is echoed; the ports of both directions change all the time."""
    echoed = asyncio.Event()
    changes: list[RestlessPorts] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        changes.append(restless(writer, random))
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
        echoed.set()

    server = start_server(callee, echo, mode=PortMode.L0)
    ssa = await server.issue()
    reader, writer = await open_connection(caller, ssa.address, None, mode=PortMode.L0)
    changes.append(restless(writer, random))
    sent, received = hashlib.sha256(), hashlib.sha256()
    for _ in range(ROUNDS):
        chunk = random.randbytes(CHUNK)
        sent.update(chunk)
        writer.write(chunk)
        received.update(await reader.readexactly(len(chunk)))
    writer.write_eof()
    rest = await reader.read()
    writer.close()
    await echoed.wait()
    server.close()
    moved = sum(ports.changes for ports in changes)
    say(f"L0: {ROUNDS * CHUNK:,} bytes echoed while the ports changed {moved} times")
    outcome.fact(
        "L0: the bytes came back equal while the ports changed",
        sent.digest() == received.digest() and not rest and moved > 0,
        f"{ROUNDS * CHUNK:,} bytes each way, {moved} segments with other ports",
        "UM-PORT-1",
    )
