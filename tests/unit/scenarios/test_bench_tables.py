"""P-8 and P-9: packets, look-ups and memory, and the peer without memory that they need."""

from __future__ import annotations

import re
from itertools import groupby

import pytest

from scenarios.bench import tables
from scenarios.bench.figures import Figure
from scenarios.bench.responder import Lone, answer
from scenarios.bench.setting import Setting
from scenarios.bench.tables import Fill, lookups, memory
from tapstack.stack import Stack
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.tcp.states import TcpState

SMALL = Setting(smoke=True, repeats=1, seconds=0.05, time_wait=TimeWait.SHARP, uvloop=False, say=lambda text: None)


def test_the_peer_without_memory_takes_connections_to_their_end() -> None:
    lone = Lone(SocketOptions(time_wait=TimeWait.SHARP))
    connections = lone.connect(100)
    assert {connection.state for connection in connections} == {TcpState.ESTABLISHED}
    assert len({connection.local for connection in connections}) == 100
    lone.close(connections)
    assert {connection.state for connection in connections} == {TcpState.CLOSED}
    assert len(lone.stack.tcp.demux) == 0
    lone.stack.check()


def test_the_peer_without_memory_acknowledges_data_and_is_silent_to_acknowledgements() -> None:
    lone = Lone(SocketOptions())
    [connection] = lone.connect(1)
    connection.write(b"x")
    [frame] = lone.stack.output(lone.now)
    sent = b"".join(frame)
    said = answer(sent)
    assert said is not None
    assert int.from_bytes(said[48:52], "big") == int.from_bytes(sent[44:48], "big") + 1, "it acknowledges the byte"
    assert answer(said) is None


def test_every_way_to_a_pcb_has_a_goal_beside_the_smallest_table_that_it_can_be_measured_in() -> None:
    rows = lookups(SMALL)
    among: dict[tuple[str, str], list[tuple[str, str | None, Figure]]] = {}
    for row in rows:
        named = re.fullmatch(r"(.+), among (\d+), (\w+)(?:; baseline (.+))?", row.what)
        assert named is not None
        among.setdefault((named[1], named[3]), []).append((named[2], named[4], row))
    assert len(among) == 3 * len(PortMode)
    for (what, _), [(size, of, least), *larger] in among.items():
        cold = "different connections" in what
        assert (size, of) == ("10" if cold else "1", None), "4 packets of different connections need more than one PCB"
        assert (least.reach, least.baseline) == (None, None)
        assert [size for size, *_ in larger] == (["20"] if cold else ["10", "20"])
        for _, of, row in larger:
            assert of == ("10 PCBs" if cold else "one PCB")
            assert (row.reach, row.baseline) == ("≤ 1.5 × baseline", least.value)


def test_packets_that_the_caches_have_forgotten_are_of_connections_that_had_none_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill = Fill(PortMode.L1, 10, 5, packets=4, batches=2)
    [cold] = [measure for what, measure in fill.measures().items() if "different connections" in what]
    came: list[bytes | None] = []
    real, forget = Stack.input, tables._forget

    def watched(stack: Stack, packet: bytes, now: float) -> None:
        came.append(packet[8:40])
        real(stack, packet, now)

    def forgotten() -> None:
        came.append(None)
        forget()

    monkeypatch.setattr(Stack, "input", watched)
    monkeypatch.setattr(tables, "_forget", forgotten)
    cold()
    batches = [list(of) for forgot, of in groupby(came, lambda pair: pair is None) if not forgot]
    assert len(batches) == 2
    for batch in batches:
        [warm] = set(batch[:-4])
        assert len({warm, *batch[-4:]}) == 5, "the one that warms, and four others once each"


@pytest.mark.parametrize("size", [1, 10])
def test_the_packets_of_a_way_in_are_in_order_for_so_many_pcbs(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = Fill(PortMode.L1, size, 5, packets=4, batches=2)
    expected: dict[bytes, int] = {}
    real = Stack.input

    def watched(stack: Stack, packet: bytes, now: float) -> None:
        pair, sequence = packet[8:40], int.from_bytes(packet[44:48], "big")
        assert sequence == expected.setdefault(pair, sequence), "out of order, which is another way in"
        expected[pair] = sequence + len(packet) - 40 - (packet[52] >> 4) * 4
        real(stack, packet, now)

    monkeypatch.setattr(Stack, "input", watched)
    for measure in fill.measures().values():
        measure()
    assert len(expected) == min(size, 5), "connections that were there to be drawn"


def test_memory_has_a_goal_after_use_as_before() -> None:
    goals = {row.what.partition(",")[0]: row.reach for row in memory(SMALL)}
    assert goals["memory per idle connection"] == goals["memory per idle connection after a byte each way"] == "≤ 3,072"
