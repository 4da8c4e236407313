"""The rows of the interoperability matrix (unified-multiplex §6, slide 23): how each is set up and what its capture must show.

A `Cell` is one row with a number of parallel sessions.  `play` runs it; `judge_cell` reads the capture that was taken on
the peer's interface, and knows nothing else than what the client meant to say.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle, pairwise
from pathlib import Path
from random import Random

from compat.kernel.topology import SERVER_ADDRESS
from scenarios.demo.talk import restless
from tapstack.tcp.options import LEGACY_COMPAT, PortMode
from unimux.aio import open_connection, start_server
from unimux.node import Node
from unimux.server import Server

from ..wire import capturing
from . import legacy
from .judge import Segment, Session, segments, sessions, sound
from .room import BOUND, Room
from .talk import Streams, answer_to, ask, end, respond

WP = 8080
RP = LEGACY_COMPAT
PROOF = {PortMode.L0: "UM-PORT-1", PortMode.L1: "UM-PORT-2", PortMode.L2: "UM-PORT-5", PortMode.AWARE: "UM-PORT-6"}
"""The requirement that a row of each mode proves."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One row with `parallel` sessions.

    mode: of the unified side, or sides.  server, client: the style of slide 23.  where: how the server got its address.
    ports_vary: the port numbers of both directions change within each session.
    """

    mode: PortMode
    server: str
    client: str
    parallel: int
    where: str = "an SSA each"
    ports_vary: bool = False

    @property
    def name(self) -> str:
        """For a test id and a file name."""
        style = f"{self.server}-{self.client}".replace("*", "any").replace("(", ".").replace(")", "").replace(",", ".")
        bound = "" if self.where == "an SSA each" else "." + self.where.replace(" ", "_")
        return f"{self.mode}.{style}{bound}.{self.parallel}"

    @property
    def shares_address(self) -> bool:
        """Whether all sessions go to one address of the server."""
        return self.where != "an SSA each"

    @property
    def source_port(self) -> int | None:
        """The port that the legacy client binds; None for an ephemeral one, 0 for one that no other of its sockets has.

        Where one address of the server is shared at L2, the client's port is all that tells sessions apart, and `connect` may
        draw one port twice for connections that name different ports of the server; see `docs/limits.md`.
        """
        if self.client == "L(LA,RP)":
            return RP
        return 0 if self.mode is PortMode.L2 and self.shares_address else None

    @property
    def server_port(self) -> int:
        """The port that the client names."""
        return RP if self.server == "U(*,RP)" else WP

    @property
    def named_ports(self) -> list[int]:
        """The ports that the clients name, in turn: any will do where the server's port is ignored."""
        if self.client == "L(LA,EP)" and self.mode is not PortMode.AWARE:
            return [WP, WP + 1, 9, 40_000]
        return [self.server_port]


def rows() -> list[Cell]:
    """Every mode × style row with 1 and with 100 sessions."""
    found = []
    for parallel in (1, 100):
        found += [
            Cell(PortMode.L0, "U(SSA,*)", "U(EA,*)", parallel, ports_vary=True),
            Cell(PortMode.L1, "U(SSA,*)", "U(EA,*)", parallel),
            Cell(PortMode.L1, "U(SSA,*)", "L(LA,EP)", parallel),
            Cell(PortMode.L2, "U(SSA,*)", "U(EA,*)", parallel),
            Cell(PortMode.L2, "U(*,*)", "L(LA,EP)", parallel, "an SSA for all"),
            Cell(PortMode.L2, "U(*,*)", "L(LA,EP)", parallel, "a lease"),
            Cell(PortMode.L2, "U(*,*)", "L(LA,EP)", parallel, "a bound address"),
            Cell(PortMode.AWARE, "U(*,WP)", "L(LA,EP)", parallel, "a bound address"),
            Cell(PortMode.AWARE, "U(*,RP)", "L(LA,EP)", parallel, "a bound address"),
            Cell(PortMode.AWARE, "U(*,WP)", "L(LA,RP)", parallel),
            Cell(PortMode.AWARE, "U(*,RP)", "L(LA,RP)", parallel),
        ]
        found += [Cell(mode, "L(LA,WP)", "U(EA,*)", parallel, "its own") for mode in PortMode]
    return found


@dataclass(slots=True)
class Played:
    """What was meant: the requests that were sent, and the answers that the clients' programs received."""

    requests: list[bytes]
    answers: list[bytes]


async def play(room: Room, cell: Cell, path: Path, random: Random) -> Played:
    """Run a cell while the peer's interface is captured into `path`."""
    # One session goes over the shared link's prefix, with DAD and the router's questions; a hundred over routed prefixes.
    near, far = ("alice", "bob") if cell.parallel == 1 and cell.where != "a bound address" else ("dora", "boris")
    node = room.node(near)
    both_unified = cell.server.startswith("U") and cell.client.startswith("U")
    interface = room.peers[far].interface if both_unified else room.top.server_bridge
    size = 20_000 if cell.parallel == 1 else 2_000
    requests = [random.randbytes(size) for _ in range(cell.parallel)]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(capturing(interface, path))
        if cell.server.startswith("L"):
            await stack.enter_async_context(legacy.serve(room.legacy, WP, respond))
            calls = [open_connection(node, SERVER_ADDRESS, WP, mode=cell.mode) for _ in requests]
        else:
            server, addresses = await offer(node, cell, random)
            stack.callback(server.close)
            if both_unified:
                caller = room.node(far)
                calls = [open_connection(caller, address, None, mode=cell.mode) for address in addresses]
            else:
                calls = [
                    legacy.connect(room.legacy, address, port, source=cell.source_port)
                    for address, port in zip(addresses, cycle(cell.named_ports))
                ]
        streams: Sequence[Streams] = await asyncio.gather(*calls)
        if cell.ports_vary:
            for _, writer in streams:
                restless(writer, random)
        answers = await asyncio.gather(*(ask(each, request) for each, request in zip(streams, requests, strict=True)))
        await asyncio.gather(*(end(each) for each in streams))
    return Played(requests, list(answers))


async def offer(node: Node, cell: Cell, random: Random) -> tuple[Server, list[str]]:
    """The unified server of a cell, and the address for each session."""

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if cell.ports_vary:
            restless(writer, random)
        await respond(reader, writer)

    port = None if cell.mode is not PortMode.AWARE or cell.server_port == RP else cell.server_port
    server = start_server(node, converse, mode=cell.mode, port=port)
    if cell.where == "a bound address":
        server.bind(BOUND)
        return server, [BOUND] * cell.parallel
    if cell.where == "an SSA for all":
        ssa = await server.issue(sessions=cell.parallel, client=SERVER_ADDRESS)
        return server, [str(ssa)] * cell.parallel
    if cell.where == "a lease":
        return server, [str(await server.issue(lease=True, lifetime=60))] * cell.parallel
    return server, [str(await server.issue()) for _ in range(cell.parallel)]


# -- the verdict ----------------------------------------------------------------------------------------


def judge_cell(cell: Cell, path: Path, requests: list[bytes]) -> str:
    """Raise AssertionError where the capture does not show what the row promises; returns a line on what it shows."""
    sound(path)
    found = sessions(segments(path), by_ports=not cell.ports_vary)
    found = [session for session in found if session.client != session.server]
    assert len(found) == cell.parallel, f"{len(found)} sessions on the wire, not {cell.parallel}"
    assert sorted(session.request for session in found) == sorted(requests), "the wire says another request"
    for session in found:
        assert session.answer == answer_to(session.request), f"another answer after {session.syn}"
        assert not session.resets(), f"a reset: {session.resets()[0]}"
        assert session.established is not None and session.ended is not None, f"not complete: {session.syn}"
    established = max(session.established or 0.0 for session in found)
    assert established < min(session.ended or 0.0 for session in found), "the sessions were not parallel"
    _judge_addresses(cell, found)
    changes = sum(_judge_ports(cell, session) for session in found)
    if cell.client == "L(LA,EP)":
        assert len({session.syn.dport for session in found}) == min(cell.parallel, len(cell.named_ports))
    said, answered = sum(len(s.request) for s in found), sum(len(s.answer) for s in found)
    return f"{said:,} bytes →, {answered:,} ←" + (f", ports changed {changes} times" if changes else "")


def _judge_addresses(cell: Cell, found: list[Session]) -> None:
    servers = {session.server for session in found}
    clients = {session.client for session in found}
    assert len(servers) == (1 if cell.shares_address else cell.parallel), f"{len(servers)} addresses of the server"
    assert len(clients) == (cell.parallel if cell.client.startswith("U") else 1), f"{len(clients)} addresses of clients"
    if cell.client.startswith("L"):
        assert clients == {SERVER_ADDRESS}
    if cell.shares_address and cell.client.startswith("L"):
        ports = {session.syn.sport for session in found}
        assert len(ports) == cell.parallel, "sessions of one host to one address must differ in the client's port"


def _judge_ports(cell: Cell, session: Session) -> int:
    """The ports that are written; returns how often they changed."""
    syn = session.syn
    forward = [(s.sport, s.dport) for s in session.sent]
    backward = [(s.sport, s.dport) for s in session.answered]
    if cell.ports_vary:
        changes = _changes(session.sent) + _changes(session.answered)
        assert _changes(session.sent) and _changes(session.answered), "the ports were to change in both directions"
        return changes
    assert set(forward) == {(syn.sport, syn.dport)}, f"the opener's ports moved after {syn}"
    assert set(backward) == {(syn.dport, syn.sport)}, f"the reply's ports are not the SYN's in reverse: {syn}"
    named = [RP] if cell.client.startswith("U") and cell.server.startswith("U") else cell.named_ports
    assert syn.dport in named, f"the port that was named is one of {named}: {syn}"
    if cell.source_port:
        assert syn.sport == cell.source_port
    return 0


def _changes(side: list[Segment]) -> int:
    return sum((a.sport, a.dport) != (b.sport, b.dport) for a, b in pairwise(side))


# -- the table --------------------------------------------------------------------------------------------

PROPERTY = "um-matrix"
"""Name of the test property under which a cell's row travels in the report."""


def row_of(cell: Cell, verdict: str, said: str) -> str:
    """A row of the table, as JSON."""
    return json.dumps(
        {
            "mode": cell.mode.value,
            "server": cell.server,
            "client": cell.client,
            "sessions": cell.parallel,
            "address": cell.where,
            "verdict": verdict,
            "shown": said,
        },
        ensure_ascii=False,
    )


def table(found: Sequence[dict[str, object]]) -> list[str]:
    """The matrix as lines of text, in the order of the specification; a row without a capture has a dash for it."""
    heads = ("mode", "server", "client", "sessions", "address", "verdict", "shown", "capture")
    lines = [heads, *(tuple(str(row[head] or "–") for head in heads) for row in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return ["  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip() for line in lines]
