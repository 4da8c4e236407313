"""What a running node looks like from outside: a snapshot of it, and the socket by which `unimux top` asks for one.

Each attached node has a socket `/run/unimux/nodes/PROCESS.sock` (below `XDG_RUNTIME_DIR` without root), which only the
same user can open.  Protocol, in JSON lines as `unimux.localsocket` says:

    → {"status": true, "rows": 50}
    ← {"node": {…}}                  a `Snapshot`, with at most so many connections in `rows` (and never more than `MOST_ROWS`)
    ← {"error": "one sentence"}

Asking changes nothing in the node.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tapstack.tcp.connection import Connection
from tapstack.tcp.listener import ArmedAddress
from tapstack.tcp.states import TcpState
from tapstack.types import address_text

from .errors import SetupError
from .localsocket import LocalError, LocalServer, Peer, ask_local, living, runtime_folder
from .node import Node

MOST_ROWS = 200
ASK_TIMEOUT = 5.0


class Row(msgspec.Struct, kw_only=True):
    """One connection.  age, rtt: seconds (rtt None while not measured); sent, received: bytes."""

    connection: int
    local: str
    remote: str
    remote_port: int
    mode: str
    state: str
    age: float
    rtt: float | None
    sent: int
    received: int


class Armed(msgspec.Struct, kw_only=True):
    """One address that a listener accepts on now (UM-LIS-2).

    service: the listener's name, if it has one.  kind: "service" for an SSA, else an ordinary address.  client: the prefix of
    the only clients that may come, None for anybody.  sessions: how many may still be established, None for any number.
    lease: "free" before its first client came, "taken" from then on, None where it is no lease.
    seconds: until it expires, None for never.  half_open: handshakes that stand on it.
    """

    address: str
    service: str | None
    kind: str
    mode: str
    client: str | None
    sessions: int | None
    lease: str | None
    seconds: float | None
    half_open: int


class Snapshot(msgspec.Struct, kw_only=True):
    """One moment of a node.

    time: of its clock, seconds.  what: how it is attached.  addresses: counts by state, then by kind.
    connections, modes: counts of PCBs by state and by port mode, TIME-WAIT records included.  half_open: handshakes that
    listeners have not completed; armed: how many addresses can be connected to, and in `listening` the first of them, those
    that expire first in front.  counters: since the start, as `Counters.as_dict`; names: of the
    resolver, as `LookupCounters.as_dict`.  pool: the fields of `PoolStatus`.
    """

    process: int
    what: str
    time: float
    addresses: dict[str, dict[str, int]]
    pool: dict[str, Any]
    connections: dict[str, int]
    modes: dict[str, int]
    half_open: int
    armed: int
    opened: int
    counters: dict[str, int]
    rows: list[Row]
    listening: list[Armed]
    names: dict[str, int] = {}


def snapshot(node: Node, what: str = "", rows: int = 50) -> Snapshot:
    """The node now, with its `rows` youngest connections, in order of age."""
    now, stack = node.now(), node.stack
    addresses: dict[str, dict[str, int]] = {}
    for entry in stack.host.addresses:
        kinds = addresses.setdefault(entry.state.value, {})
        kinds[entry.kind.value] = kinds.get(entry.kind.value, 0) + 1
    states: Counter[str] = Counter()
    modes: Counter[str] = Counter()
    living: list[Connection] = []
    newest = 0
    for pcb in stack.tcp.demux:
        state = pcb.state if isinstance(pcb, Connection) else TcpState.TIME_WAIT
        states[state.value] += 1
        modes[pcb.mode.value] += 1
        newest = max(newest, pcb.id if isinstance(pcb, Connection) else pcb.connection)
        if isinstance(pcb, Connection):
            living.append(pcb)
    living.sort(key=lambda pcb: -pcb.id)
    armed = [each for listener in stack.tcp.listeners for each in listener.armed.values() if not each.resting]
    armed.sort(key=lambda each: (math.inf if each.expiry.when is None else each.expiry.when, each.entry.address))
    most = max(0, min(rows, MOST_ROWS))
    return Snapshot(
        process=os.getpid(),
        what=what,
        time=now,
        addresses=addresses,
        pool=msgspec.to_builtins(node.pool.status(now)),
        connections=dict(states),
        modes=dict(modes),
        half_open=stack.tcp.demux.half_open_count,
        armed=len(armed),
        opened=newest,
        counters=stack.counters.as_dict(),
        rows=[_row(pcb, now) for pcb in living[:most]],
        listening=[_armed(each, now) for each in armed[:most]],
        names=node.resolver.counters.as_dict(),
    )


def _armed(armed: ArmedAddress, now: float) -> Armed:
    listener, until = armed.listener, armed.expiry.when
    return Armed(
        address=address_text(armed.entry.address),
        service=listener.service,
        kind=armed.entry.kind.value,
        mode=listener.options.mode.value,
        client=armed.client_text,
        sessions=armed.sessions,
        lease="free" if armed.lease else "taken" if armed.leased else None,
        seconds=None if until is None else max(0.0, until - now),
        half_open=len(armed.half_open),
    )


def _row(pcb: Connection, now: float) -> Row:
    told = pcb.statistics(now)
    return Row(
        connection=pcb.id,
        local=address_text(pcb.local),
        remote=address_text(pcb.remote),
        remote_port=pcb.remote_port,
        mode=pcb.mode.value,
        state=pcb.state.value,
        age=told.age,
        rtt=told.srtt,
        sent=told.bytes_acked,
        received=told.bytes_received,
    )


def folder() -> Path:
    """Where the sockets of this user's nodes are."""
    return runtime_folder() / "nodes"


def status_server(node: Node, what: str, where: Path | None = None) -> LocalServer:
    """The status socket of a node, for `async with`; `what`: how the node is attached, for people."""
    place = where or folder()
    living(place)  # which removes what dead ones left
    name, number = str(os.getpid()), 1
    while (place / f"{name}.sock").exists():  # several nodes of one process
        number += 1
        name = f"{os.getpid()}.{number}"

    async def serve(peer: Peer) -> None:
        async for message in peer.messages():
            rows = message.get("rows", 50)
            if message.get("status") is not True or not isinstance(rows, int):
                peer.send({"error": 'The request cannot be read: send {"status": true}.'})
                continue
            peer.send({"node": msgspec.to_builtins(snapshot(node, what, rows))})
            await peer.flush()

    return LocalServer(place / f"{name}.sock", serve, f"The status socket {name}")


def choose(process: str | None, where: Path | None = None) -> Path:
    """The socket of the named process's node, or of the only one that runs; raises `SetupError`."""
    paths = living(where or folder())
    if process is not None:
        for path in paths:
            if path.stem == process or path.stem.partition(".")[0] == process:
                return path
        raise SetupError(f"No node runs in process {process}: leave the number out to find those that run.")
    if not paths:
        raise SetupError("No node runs on this machine for this user: start one with `unimux up` or `unimux socks`.")
    if len(paths) > 1:
        names = ", ".join(path.stem for path in paths)
        raise SetupError(f"Several nodes run: name the process of one of them ({names}).")
    return paths[0]


def ask(path: Path, rows: int = 50) -> Snapshot:
    """One snapshot of the node behind a socket; raises `LocalError`."""
    answer = ask_local(path, {"status": True, "rows": rows}, ASK_TIMEOUT, f"The node behind {path} has ended.")
    try:
        return msgspec.convert(answer, _Answer).node
    except msgspec.ValidationError:
        why = answer.get("error", "it is of another version")
        raise LocalError(f"The node behind {path} gives no snapshot ({why}): look at what it does.") from None


class _Answer(msgspec.Struct):
    node: Snapshot


Ask = Callable[[int], Snapshot]
"""Gives a snapshot with so many connections; raises `LocalError`."""
