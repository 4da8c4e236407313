"""P-8 and P-9: packets, look-ups and memory, and the peer without memory that they need."""

from __future__ import annotations

import re

import pytest

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


def test_every_way_to_a_pcb_has_a_goal_beside_one_pcb() -> None:
    rows = lookups(SMALL)
    among: dict[tuple[str, str], dict[str, Figure]] = {}
    for row in rows:
        named = re.fullmatch(r"(.+), among (\d+), (\w+)(?:; baseline one PCB)?", row.what)
        assert named is not None
        among.setdefault((named[1], named[3]), {})[named[2]] = row
    assert len(among) == 3 * len(PortMode)
    for few in among.values():
        assert (few["1"].reach, few["1"].baseline) == (None, None)
        assert (few["10"].reach, few["10"].baseline) == ("≤ 1.5 × baseline", few["1"].value)


@pytest.mark.parametrize("size", [1, 10])
def test_the_packets_of_a_way_in_are_in_order_for_so_many_pcbs(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    fill = Fill(PortMode.L1, size, 5, 2)
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
