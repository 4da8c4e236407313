"""The interoperability matrix of unified-multiplex §6, every row with 1 and with 100 parallel sessions, judged from captures
on the peer's interface; and the rows that must fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from compat.kernel.topology import SERVER_ADDRESS, THIRD_ADDRESS
from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.tcp import arrives
from tapstack.tcp.challenge import PER_CONNECTION
from tapstack.tcp.connection import Connection
from tapstack.tcp.errors import ConflictingSocket
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.tcp.segment import Segment
from tapstack.types import address
from unimux.aio import open_connection, start_server

from ..wire import capturing
from . import legacy, talk
from .cells import PROOF, PROPERTY, WP, Cell, judge_cell, play, row_of, rows
from .judge import ACK, RST, segments, sessions, sound
from .room import BOUND, PROGRAMS, Room, room
from .talk import PATIENCE, Streams, answer_to, ask, end, respond

pytestmark = pytest.mark.real(*PROGRAMS)


@pytest.fixture(scope="module")
def net() -> Iterator[Room]:
    with room("alice", "bob", "dora", "boris") as made:
        dora = made.node("dora")
        dora.stack.host.addresses.add(
            address(BOUND), AddressKind.STABLE, dora.now(), trigger=Trigger.ADD_WITHOUT_DAD, per_address_nd=False
        )
        yield made


def cells() -> Sequence[object]:
    found = []
    for cell in rows():
        ids = {PROOF[cell.mode], "UM-NODE-1"}
        if cell.parallel > 1:
            ids |= {"UM-NODE-3", "UM-PORT-7"}
        if cell.where == "a lease":
            ids.add("UM-LIS-8")
        if cell.client.endswith("RP)") or cell.server.endswith("RP)"):
            ids.add("UM-PORT-11")
        found.append(pytest.param(cell, id=cell.name, marks=pytest.mark.proves(*sorted(ids))))
    return found


@pytest.mark.parametrize("cell", cells())
def test_row(
    net: Room, cell: Cell, artefacts: Path, rng: Random, record_property: Callable[[str, object], None]
) -> None:
    capture = artefacts / "peer.pcapng"
    verdict, said = "FAILED", ""
    try:
        played = net.run(play(net, cell, capture, rng))
        said = judge_cell(cell, capture, played.requests)
        verdict = "passed"
    finally:
        record_property(PROPERTY, row_of(cell, verdict, said))
    assert played.answers == [answer_to(request) for request in played.requests]


@pytest.mark.proves("UM-PORT-6")
def test_aware_connections_differ_in_any_one_of_four_values(net: Room, artefacts: Path, rng: Random) -> None:
    """Two addresses and two ports of the server, two ports of two legacy hosts: sixteen connections, each its own."""
    capture, other = artefacts / "peer.pcapng", artefacts / "third.pcapng"
    dora = net.node("dora")
    places = [(where, port) for where in (BOUND, f"{BOUND}b") for port in (WP, WP + 1)]
    hosts = [(space, source) for space in (net.legacy, net.top.third) for source in (5000, 5001)]
    requests = {(server, client): rng.randbytes(700) for server in range(4) for client in range(4)}

    async def main() -> None:
        second = address(f"{BOUND}b")
        dora.stack.host.addresses.add(
            second, AddressKind.STABLE, dora.now(), trigger=Trigger.ADD_WITHOUT_DAD, per_address_nd=False
        )
        servers = [start_server(dora, respond, mode=PortMode.AWARE, port=port) for port in (WP, WP + 1)]
        for server in servers:
            for where in (BOUND, f"{BOUND}b"):
                server.bind(where)
        async with capturing(net.top.server_bridge, capture), capturing(net.top.third_link, other):
            streams = {
                (server, client): await legacy.connect(hosts[client][0], *places[server], source=hosts[client][1])
                for server, client in requests
            }
            answers = await asyncio.gather(*(ask(streams[key], request) for key, request in requests.items()))
            assert answers == [answer_to(request) for request in requests.values()]
            assert len(dora.stack.tcp.demux.fours) >= 16
            await asyncio.gather(*(end(each) for each in streams.values()))
        for server in servers:
            server.close()
        dora.stack.host.addresses.release(dora.stack.host.addresses.get(second), dora.now(), "test")  # type: ignore[arg-type]

    net.run(main())
    found = [
        session
        for path, host in ((capture, SERVER_ADDRESS), (other, THIRD_ADDRESS))
        for session in sessions(segments(path), by_ports=True)
        if session.client == host and session.request
    ]
    keys = {(each.client, each.syn.sport, each.server, each.syn.dport) for each in found}
    assert len(keys) == 16
    assert sorted(each.request for each in found if each.ended) == sorted(requests.values())
    assert all(each.answer == answer_to(each.request) for each in found)


@pytest.mark.proves("UM-PORT-7", "UM-PORT-1", "UM-PORT-2", "UM-PORT-5", "UM-PORT-6")
def test_modes_mix_on_one_node(net: Room, artefacts: Path, rng: Random) -> None:
    """Every mode as server and as client at once, ten sessions each, between one unified node and one legacy host."""
    capture = artefacts / "peer.pcapng"
    dora = net.node("dora")
    requests = [rng.randbytes(600) for _ in range(80)]

    async def main() -> None:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(capturing(net.top.server_bridge, capture))
            await stack.enter_async_context(legacy.serve(net.legacy, WP, respond))
            calls = []
            for mode in PortMode:
                server = start_server(dora, respond, mode=mode, port=WP if mode is PortMode.AWARE else None)
                stack.callback(server.close)
                for _ in range(10):
                    calls.append(legacy.connect(net.legacy, str(await server.issue()), WP))
                    calls.append(open_connection(dora, SERVER_ADDRESS, WP, mode=mode))
            streams = await asyncio.gather(*calls)
            dora.stack.check()
            answers = await asyncio.gather(*(ask(each, said) for each, said in zip(streams, requests, strict=True)))
            assert answers == [answer_to(said) for said in requests]
            await asyncio.gather(*(end(each) for each in streams))

    net.run(main())
    sound(capture)
    found = [each for each in sessions(segments(capture), by_ports=True) if each.request]
    assert sorted(each.request for each in found) == sorted(requests)
    assert all(each.answer == answer_to(each.request) and each.ended and not each.resets() for each in found)
    assert len({frozenset((each.client, each.server)) for each in found}) == 80, "an address pair each"


# -- rows that must fail ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Refused:
    """A row in which a second session of one legacy host must not come about.

    source: the port that both connections of the legacy host bind, None for ephemeral ones.
    """

    mode: PortMode
    where: str
    source: int | None = None

    @property
    def name(self) -> str:
        return f"{self.mode}.{self.where.replace(' ', '_')}"


async def knock_twice(net: Room, row: Refused, capture: Path, requests: tuple[bytes, bytes]) -> str:
    """A legacy host holds a session, opens a second one, and goes on with the first; returns the server's address."""
    server = start_server(net.node("dora"), respond, mode=row.mode)
    try:
        if row.where == "a bound address":
            server.bind(BOUND)
            target = BOUND
        else:
            target = str(await server.issue(sessions=2 if row.where == "an SSA for two" else 1))
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(capturing(net.top.server_bridge, capture))
            first = await legacy.connect(net.legacy, target, WP, source=row.source)
            stack.callback(first[1].transport.abort)
            assert await ask(first, requests[0]) == answer_to(requests[0])
            with pytest.raises(TimeoutError):
                await legacy.connect(net.legacy, target, SECOND, source=row.source, timeout=BETWEEN_SYNS)
            assert await ask(first, requests[1]) == answer_to(requests[1])
            await end(first)
    finally:
        server.close()
    return target


def judge_refused(capture: Path, target: str, requests: tuple[bytes, bytes]) -> None:
    """The second SYN got no SYN-ACK and no RST, but a challenge ACK at the first session's port; the first went on."""
    sound(capture)
    found = segments(capture)
    first, *others = (session for session in sessions(found, by_ports=True) if session.server == target)
    assert first.request == b"".join(requests), "the first session did not carry what was said"
    assert first.answer == answer_to(first.request)
    assert first.syn_ack is not None
    assert first.ended is not None
    assert len(others) == 1, "no second attempt was seen"
    attempts = [segment for segment in others[0].sent if segment.is_syn]
    assert len(attempts) >= 2, "the kernel did not repeat its SYN"
    assert not others[0].answered, f"the second attempt was answered at its own port: {others[0].answered[0]}"
    assert not [segment for segment in found if segment.flags & RST], "somebody reset"
    said = len(requests[0])
    for attempt in attempts:
        # However late it comes; where the node was late, the challenge ACK before may have used up the limit.
        since = max(attempts[0].time, attempt.time - PER_CONNECTION)
        after = [s for s in first.answered if s.time >= since and not s.data]
        assert after, f"no challenge ACK after {attempt}"
        challenge = after[0]
        assert challenge.flags == ACK
        assert (challenge.sport, challenge.dport) == (first.syn.dport, first.syn.sport)
        assert (attempt.sport, attempt.dport) != (first.syn.sport, first.syn.dport)
        assert (challenge.seq - first.syn_ack.seq) % (1 << 32) == 1 + said
        assert (challenge.ack - first.syn.seq) % (1 << 32) == 1 + said
    later = [s for s in (*first.sent, *first.answered) if s.data and s.time > attempts[-1].time]
    assert {s.src for s in later} == {first.client, target}, "no life in both directions after the second attempt"


REFUSED = [
    Refused(PortMode.L1, "an SSA"),
    Refused(PortMode.L1, "an SSA for two"),
    Refused(PortMode.L0, "an SSA for two"),
    Refused(PortMode.L0, "a bound address"),
    Refused(PortMode.L2, "an SSA for two", source=5002),  # L2 reads the client's port, and no other
]
SECOND = WP + 1
"""The port that the second connection names."""
BETWEEN_SYNS = 4.5
"""Seconds for which the second connection is tried: its SYN is repeated meanwhile, but not near the end."""


@pytest.mark.proves("UM-PORT-4", "UM-PORT-10")
@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
def test_refused(
    net: Room, row: Refused, artefacts: Path, rng: Random, record_property: Callable[[str, object], None]
) -> None:
    capture = artefacts / "peer.pcapng"
    requests = rng.randbytes(3000), rng.randbytes(3000)
    cell = Cell(row.mode, "U(SSA,*)" if "SSA" in row.where else "U(*,*)", "L(LA,EP) twice", 2, row.where)
    verdict = "FAILED"
    try:
        target = net.run(knock_twice(net, row, capture, requests))
        judge_refused(capture, target, requests)
        verdict = "refused"
    finally:
        record_property(PROPERTY, row_of(cell, verdict, "challenge ACK at the established port"))


@pytest.mark.proves("UM-LIS-3", "UM-PORT-4")
def test_of_two_syns_at_once_one_becomes_the_session(net: Room, artefacts: Path, rng: Random) -> None:
    """Both handshakes stand on the SSA; the completed one takes it, and the other's segments do it no harm."""
    capture = artefacts / "peer.pcapng"
    request = rng.randbytes(3000)

    async def call(target: str) -> Streams:
        streams = await legacy.connect(net.legacy, target, WP, timeout=PATIENCE)
        try:
            await ask(streams, request)
        except BaseException:
            streams[1].transport.abort()
            raise
        return streams

    async def race() -> str:
        server = start_server(net.node("dora"), respond, mode=PortMode.L1)
        target = str(await server.issue())
        async with capturing(net.top.server_bridge, capture):
            calls = [asyncio.create_task(call(target)) for _ in range(2)]
            left, served = set(calls), False
            while left and not served:  # the other may be told first that it is not
                done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
                served = any(each.exception() is None for each in done)
            await asyncio.wait(calls, timeout=1)
            for each in left:
                each.cancel()
            for answered in await asyncio.gather(*calls, return_exceptions=True):
                if not isinstance(answered, BaseException):
                    await end(answered)
        server.close()
        return target

    target = net.run(race())
    sound(capture)
    found = [each for each in sessions(segments(capture), by_ports=True) if each.server == target]
    assert len(found) == 2
    served = [each for each in found if each.answer]
    assert [(each.request, each.answer) for each in served] == [(request, answer_to(request))]
    assert not [s for s in served[0].answered if s.flags & RST]
    assert served[0].ended is not None


@pytest.mark.proves("UM-PORT-5", "UM-LIS-6")
def test_l2_serves_as_many_sessions_as_it_was_issued_for(net: Room, artefacts: Path, rng: Random) -> None:
    """The fourth connection to an SSA for three: refused while the three live, and silence once they are over."""
    capture = artefacts / "peer.pcapng"
    request = rng.randbytes(500)

    async def main() -> str:
        dora = net.node("dora")
        server = start_server(dora, respond, mode=PortMode.L2)
        target = str(await server.issue(sessions=3))
        async with capturing(net.top.server_bridge, capture):
            three = [await legacy.connect(net.legacy, target, WP) for _ in range(3)]
            with pytest.raises((ConnectionRefusedError, TimeoutError)):
                await legacy.connect(net.legacy, target, WP, timeout=1.5)
            for each in three:
                assert await ask(each, request) == answer_to(request)
            await asyncio.gather(*(end(each) for each in three))
            await dora.until(lambda: address(target) not in dora.stack.host.addresses, 10)
            with pytest.raises(TimeoutError):
                await legacy.connect(net.legacy, target, WP, timeout=1.5)
            other = await server.issue()
            alive = await legacy.connect(net.legacy, str(other), WP)
            assert await ask(alive, request) == answer_to(request)
            await end(alive)
        server.close()
        return target

    target = net.run(main())
    sound(capture)
    found = [each for each in sessions(segments(capture), by_ports=True) if each.server == target]
    served = [each for each in found if each.syn_ack]
    assert [each.request for each in served] == [request] * 3
    assert len(found) == 5
    refused, silent = (each for each in found if each.syn_ack is None)
    assert all(s.flags & RST for s in refused.answered)
    assert not silent.answered, "a released address answered"
    assert len({each.syn.sport for each in served}) == 3


LEASE = 20.0
"""Seconds in which even a busy machine carries the sessions of a lease."""


@pytest.mark.proves("UM-LIS-8", "UM-PORT-5")
def test_a_lease_is_for_its_first_client_until_it_expires(net: Room, artefacts: Path, rng: Random) -> None:
    """A legacy host opens as many connections as it likes; another one meets silence from the first session on."""
    capture, other = artefacts / "peer.pcapng", artefacts / "third.pcapng"
    request = rng.randbytes(800)

    async def main() -> str:
        dora = net.node("dora")
        server = start_server(dora, respond, mode=PortMode.L2)
        async with capturing(net.top.server_bridge, capture), capturing(net.top.third_link, other):
            target = str(await server.issue(lease=True, lifetime=LEASE))
            ends = dora.now() + LEASE
            for _ in range(3):  # one after the other, as a browser does that comes back
                streams = await asyncio.gather(*(legacy.connect(net.legacy, target, WP) for _ in range(4)))
                with pytest.raises(TimeoutError):
                    await legacy.connect(net.top.third, target, WP, timeout=0.3)
                for each in streams:
                    assert await ask(each, request) == answer_to(request)
                await asyncio.gather(*(end(each) for each in streams))
            standing = await legacy.connect(net.legacy, target, WP)
            await asyncio.sleep(ends - dora.now() + 0.1)
            with pytest.raises((TimeoutError, ConnectionRefusedError)):
                await legacy.connect(net.legacy, target, WP, timeout=0.5)
            assert await ask(standing, request) == answer_to(request)
            await end(standing)
            await dora.until(lambda: address(target) not in dora.stack.host.addresses, 10)
        server.close()
        return target

    target = net.run(main())
    sound(capture)
    found = [each for each in sessions(segments(capture), by_ports=True) if each.server == target]
    served = [each for each in found if each.request]
    assert len(served) == 13
    assert {each.client for each in served} == {SERVER_ADDRESS}
    assert all(each.answer == answer_to(request) and each.ended is not None for each in served)
    third = segments(other)
    assert len({segment.sport for segment in third if segment.is_syn and segment.dst == target}) == 3
    assert not [segment for segment in third if segment.src == target], "another client got an answer"


@pytest.mark.proves("UM-PORT-7")
def test_a_second_session_of_one_pair_is_refused_by_name_at_the_unified_end(
    net: Room, artefacts: Path, rng: Random
) -> None:
    """What would be a second session at L0 or L1 between two addresses does not even leave as a SYN, and harms nothing."""
    capture, request = artefacts / "peer.pcapng", rng.randbytes(600)
    dora = net.node("dora")

    async def main() -> str:
        async with capturing(net.top.server_bridge, capture), legacy.serve(net.legacy, WP, respond):
            streams = await open_connection(dora, SERVER_ADDRESS, WP, mode=PortMode.L0)
            entry = streams[1].get_extra_info("connection").entry
            with pytest.raises(ConflictingSocket) as caught:
                dora.stack.tcp.connect(
                    entry, address(SERVER_ADDRESS), WP + 1, dora.now(), SocketOptions(mode=PortMode.L0)
                )
            dora.driver.kick()
            assert await ask(streams, request) == answer_to(request)
            await end(streams)
        return str(caught.value)

    message = net.run(main())
    assert message.count("connection ") == 2
    assert message.count(SERVER_ADDRESS) == 2
    sound(capture)
    (session,) = sessions(segments(capture), by_ports=True)
    assert (session.syn.dst, session.syn.dport, session.request) == (SERVER_ADDRESS, WP, request)
    assert session.ended is not None


# -- negative controls: the checks can fail -------------------------------------------------------------


def test_control_moving_ports_fail_a_row_with_constant_ports(net: Room, artefacts: Path, rng: Random) -> None:
    moving = Cell(PortMode.L1, "U(SSA,*)", "U(EA,*)", 1, ports_vary=True)
    capture = artefacts / "peer.pcapng"
    played = net.run(play(net, moving, capture, rng))
    assert "ports changed" in judge_cell(moving, capture, played.requests)
    with pytest.raises(AssertionError):
        judge_cell(replace(moving, ports_vary=False), capture, played.requests)
    with pytest.raises(AssertionError, match="another request"):
        judge_cell(moving, capture, [b"something else"])


@pytest.mark.parametrize("answer", ["at the SYN's port", "with a reset", "not at all"])
def test_control_a_wrong_answer_to_the_second_syn_is_seen(
    net: Room, answer: str, artefacts: Path, rng: Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stack that answers the second SYN wrongly breaks the first session, or is seen to be silent."""

    def wrong(connection: Connection, segment: Segment, now: float) -> None:
        if answer == "at the SYN's port":
            connection.remote_port = segment.source_port
            connection.send_ack(now)
        elif answer == "with a reset":
            connection.tcp.reset(segment, connection.entry, now)

    monkeypatch.setattr(arrives, "_check_syn", wrong)
    monkeypatch.setattr(talk, "PATIENCE", 1.0)
    capture = artefacts / "peer.pcapng"
    requests = rng.randbytes(3000), rng.randbytes(3000)
    row = Refused(PortMode.L1, "an SSA")

    def attempt() -> None:
        target = net.run(knock_twice(net, row, capture, requests))
        judge_refused(capture, target, requests)

    with pytest.raises((AssertionError, OSError, EOFError, pytest.fail.Exception)):
        attempt()
