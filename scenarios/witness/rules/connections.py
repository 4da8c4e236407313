"""Rules on connections: a pair each, complete, and indifferent to ports at L0."""

from __future__ import annotations

from collections.abc import Iterator

from ..evidence import Evidence
from ..finding import Finding, count
from ..flows import Connection
from ..frames import Frame, text
from ..setup import packed
from .addresses import Problem


def name(connection: Connection) -> str:
    """A connection by its address pair, opener first."""
    return f"{text(connection.client.address)} → {text(connection.server.address)}"


def own_pair(evidence: Evidence) -> Finding:
    """Every connection has an address pair of its own; an EA opens one connection, an SSA serves what it was issued for.

    (UM-DAS-4, UM-NODE-3, UM-LIS-3; slides 12, 17.)
    """
    problems: list[Problem] = []
    opened: dict[bytes, list[Connection]] = {}
    served: dict[bytes, list[Connection]] = {}
    pairs: dict[frozenset[bytes], Connection] = {}
    one_time = {address for story in evidence.stories for address in story.lifetimes}
    established = 0
    for connection in evidence.connections:
        client, server = connection.pair
        if client in one_time:
            own = opened.setdefault(client, [])
            own.append(connection)
            if len(own) > evidence.setup.sessions.get(text(client), 1):
                nth = "a second" if len(own) == 2 else "one more"
                problems.append((f"{text(client)} opened {nth} connection, to {text(server)}", connection.syn))
            if client in served:
                problems.append((f"{text(client)} served a connection and then opened one", connection.syn))
        if connection.established is None:
            continue
        established += 1
        pair = frozenset(connection.pair)
        shared = any(evidence.setup.sessions.get(text(address), 1) > 1 for address in pair)
        if pairs.setdefault(pair, connection) is not connection and not shared:
            problems.append((f"the pair {name(connection)} was used for a second connection", connection.established))
        if server in one_time:
            problems += _served(evidence, connection, served, opened)
    sources = {connection.client.address for connection in evidence.connections if connection.established}
    return evidence.finding(
        "own-pair",
        ("UM-DAS-4", "UM-NODE-3"),
        problems,
        f"{count(established, 'connection')} on {count(len(pairs), 'address pair')}, "
        f"opened from {count(len(sources), 'address', 'addresses')}",
        (connection.syn for connection in pairs.values()),
        established > 0,
        "no TCP connection with a one-time address was established in these captures",
    )


def _served(
    evidence: Evidence,
    connection: Connection,
    served: dict[bytes, list[Connection]],
    opened: dict[bytes, list[Connection]],
) -> Iterator[Problem]:
    server = connection.server.address
    sessions = served.setdefault(server, [])
    sessions.append(connection)
    permitted = evidence.setup.sessions.get(text(server), 1)
    if len(sessions) > permitted:
        yield f"{text(server)} served {len(sessions)} connections, {permitted} permitted", connection.established
    if server in opened:
        yield f"{text(server)} had opened a connection and then served one", connection.established


def complete(evidence: Evidence) -> Finding:
    """Every established connection is complete: handshake, all data acknowledged and nothing else, FIN both ways acknowledged.

    Connections that were never answered are attempts, not connections; the rules of silence judge those.
    """
    aborted = packed(evidence.setup.aborted)
    problems: list[Problem] = []
    whole: list[Connection] = []
    attempts = excused = 0
    for connection in evidence.connections:
        for side in (connection.client, connection.server):
            if side.after_fin is not None:
                problems.append((f"{name(connection)}: data of {text(side.address)} beyond its FIN", side.after_fin))
            if side.foreseen and not aborted & set(connection.pair):
                what = f"{name(connection)}: what {text(side.address)} had not sent was acknowledged"
                problems.append((what, side.foreseen[0]))
        if connection.established is None:
            attempts += 1
            if connection.syn_ack is not None and not aborted & set(connection.pair):
                problems.append((f"{name(connection)}: {connection.why_incomplete()}", connection.last))
        elif connection.complete:
            whole.append(connection)
        elif aborted & set(connection.pair):
            excused += 1
        else:
            problems.append((f"{name(connection)}: {connection.why_incomplete()}", connection.last))
    if len(whole) < evidence.setup.connections and not problems:
        expected = evidence.setup.connections
        problems.append((f"{count(len(whole), 'complete connection')}, {expected} expected", None))
    again = sum(connection.client.repeated + connection.server.repeated for connection in whole)
    carried = sum(connection.client.data + connection.server.data for connection in whole)
    return evidence.finding(
        "complete",
        ("ST-TCP-1",),
        problems,
        f"{count(len(whole), 'connection')} complete, {carried:,} bytes carried and acknowledged"
        + (f", {again:,} of them sent again" if again else "")
        + (f"; {excused} broken on purpose" if excused else "")
        + (f"; {count(attempts, 'attempt')} never answered" if attempts else ""),
        (connection.closed for connection in whole),
    )


def ports_free(evidence: Evidence) -> Finding:
    """Ports at L0 have no effect (UM-PORT-1): they change in mid-stream, and the connection goes on as if they had not.

    After the change data moves on in the same sequence space without a gap, no RST is seen, and the connection
    completes.
    """
    problems: list[Problem] = []
    changed = [connection for connection in evidence.connections if connection.changes]
    for connection in changed:
        problems += _disturbed(connection)
    frames: list[Frame] = [frame for connection in changed for frame in connection.changes]
    wanted = evidence.setup.port_changes
    return evidence.finding(
        "ports-free",
        ("UM-PORT-1",),
        problems,
        f"{count(len(changed), 'connection')} with {count(len(frames), 'port change')} in mid-stream, "
        f"{sum(c.client.data + c.server.data for c in changed):,} bytes in one sequence space, all complete, no RST",
        frames,
        len(changed) >= max(1, wanted),
        f"ports changed in mid-stream on {count(len(changed), 'connection')}, {wanted} expected",
    )


def _disturbed(connection: Connection) -> Iterator[Problem]:
    first = connection.changes[0]
    if connection.reset is not None:
        yield f"{name(connection)}: a RST after the ports changed", connection.reset
    for side in (connection.client, connection.server):
        gaps = [frame for frame in side.gaps if frame.order >= first.order]
        if gaps:
            yield f"{name(connection)}: a gap in the sequence space of {text(side.address)}", gaps[0]
    after = [frame for frame in connection.frames if frame.order >= first.order and frame.payload]
    if not after:
        yield f"{name(connection)}: no data after the ports changed", first
    if not connection.complete:
        yield (
            f"{name(connection)}: not complete after the ports changed ({connection.why_incomplete()})",
            connection.last,
        )
