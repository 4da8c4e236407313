"""LISTEN_o, arming, consumption and what strangers get (unified-multiplex §5, §7)."""

from __future__ import annotations

from typing import Any

import pytest

from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.listener import Listener
from tapstack.tcp.options import PortMode, SocketOptions, TimeWait
from tapstack.types import address

from . import wire
from .handmade import ended, old_segment, remembered
from .pair import End, Pair, read_all
from .seen import ending, segments

A, B, STRANGER = "2001:db8:a::1", "2001:db8:b::1", "2001:db8:f::bad"


def answers(pair: Pair, packet: bytes) -> list[bytes]:
    """What `b` sends in answer to one packet."""
    before = len(pair.packets)
    pair.b.input(packet, pair.now)
    pair.run(0.02)
    return pair.sent_by("b", before)


def armed(pair: Pair, **arguments: Any) -> Listener:
    listener = pair.b.tcp.listen(SocketOptions(time_wait=TimeWait.SHORT), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now, **arguments)
    return listener


@pytest.mark.proves("UM-LIS-2")
@pytest.mark.proves("UM-LIS-1", by="api")
def test_listen_o_is_reachable_by_nobody_until_an_address_is_set() -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(), pair.now)
    assert listener.state.value == "LISTEN_o"
    assert not list(pair.b.tcp.demux) and not pair.b.tcp.demux.half_open_count
    entry = pair.b.entry(pair.now, AddressKind.SERVICE)
    syn = wire.segment(A, B, 5000, 80, "S", seq=1)
    assert answers(pair, syn) == []
    listener.arm(entry, pair.now)
    assert listener.state.value == "LISTEN"
    assert str(wire.read(answers(pair, syn)[0]).flags) == "SA"


@pytest.mark.proves("UM-LIS-3")
def test_a_spoofed_syn_does_not_burn_the_address() -> None:
    pair = Pair()
    listener = armed(pair)
    for port in range(5):
        assert answers(pair, wire.segment(A, B, 6000 + port, 80, "S", seq=port))
    assert answers(pair, wire.segment(STRANGER, B, 1, 80, "S", seq=9))
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    pair.run(1)
    server = listener.accept()
    assert server is not None
    client.write(b"mine")
    pair.run(1)
    assert read_all(server) == b"mine"
    assert pair.b.tcp.demux.half_open_count == 0, "the other handshakes went with the completion"
    assert listener.state.value == "LISTEN_o"


@pytest.mark.proves("UM-LIS-3")
def test_half_open_handshakes_are_bounded() -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(backlog=8), pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    assert remembered(pair) == 8
    assert pair.b.counters.drops[DropReason.TCP_HALF_OPEN_LIMIT] == 42


@pytest.mark.proves("UM-LIS-4")
def test_a_named_client_is_the_only_one_that_is_answered() -> None:
    pair = Pair()
    armed(pair, client=(address("2001:db8:a::"), 48))
    assert answers(pair, wire.segment(STRANGER, B, 5000, 80, "S", seq=1)) == []
    assert answers(pair, wire.segment(A, B, 5000, 80, "S", seq=1)), "the named client is answered in the same capture"


@pytest.mark.proves("UM-LIS-5")
@pytest.mark.proves("UM-REL-1", by="api")
def test_an_unused_ssa_expires_for_good() -> None:
    pair = Pair()
    listener = armed(pair, expires=pair.now + 5)
    pair.run(4.9)
    assert pair.b.host.addresses.get(pair.b.address) is not None
    pair.run(0.2)
    assert pair.b.host.addresses.get(pair.b.address) is None
    assert listener.state.value == "LISTEN_o"
    assert answers(pair, wire.segment(A, B, 5000, 80, "S", seq=1)) == []
    other = pair.b.host.addresses.add(address("2001:db8:b::2"), AddressKind.SERVICE, pair.now, trigger=wire.NO_DAD)
    listener.arm(other, pair.now)
    (answer,) = answers(pair, wire.segment(A, "2001:db8:b::2", 5000, 80, "S", seq=1))
    assert str(wire.read(answer).flags) == "SA", "the next SSA of the same listener is answered in the same capture"


@pytest.mark.proves("UM-LIS-6", "UM-EA-1")
def test_third_parties_get_nothing_while_the_session_lives() -> None:
    pair = Pair()
    client, server = pair.connect()
    for flags in ("S", "A", "FA", "R", "SA", "FPU", ""):
        assert answers(pair, wire.segment(STRANGER, B, 5000, 80, flags, seq=1, ack=1)) == [], flags
    assert pair.b.counters.drops[DropReason.ADDRESS_SILENT] >= 5
    client.write(b"alive")
    pair.run(1)
    assert read_all(server) == b"alive", "the session is served in the same capture"


@pytest.mark.proves("UM-LIS-6")
def test_a_stranger_to_an_armed_ssa_gets_no_reset() -> None:
    pair = Pair()
    armed(pair)
    assert answers(pair, wire.segment(STRANGER, B, 5000, 80, "A", seq=1, ack=1)) == []
    assert answers(pair, wire.segment(STRANGER, B, 5000, 80, "S", seq=1))


@pytest.mark.proves("UM-LIS-7")
def test_an_ordinary_address_is_refused_like_anywhere_else() -> None:
    pair = Pair()
    pair.b.entry(pair.now, AddressKind.STABLE)
    reply = wire.read(answers(pair, wire.segment(A, B, 5000, 80, "S", seq=41))[0])
    assert (str(reply.flags), reply.ack, reply.sport, reply.dport) == ("RA", 42, 80, 5000)


@pytest.mark.proves("UM-REL-2")
@pytest.mark.parametrize(
    ("option", "least", "most"), [(TimeWait.FULL, 60.0, 60.0), (TimeWait.SHORT, 1.0, 2.0), (TimeWait.SHARP, 0.0, 0.0)]
)
def test_time_wait_holds_the_address_as_long_as_its_option_says(option: TimeWait, least: float, most: float) -> None:
    pair = Pair()
    client, _, entered = ended(pair, option, mode=PortMode.L1)
    assert entered == pytest.approx(pair.now)
    if least:
        pair.run(least - 0.01)
        assert old_segment(pair, client) == ["A"]
        pair.run(most - least + 0.02)
    assert old_segment(pair, client) == []
    pair.a.entry(pair.now, AddressKind.STABLE)
    assert old_segment(pair, client) == ["R"], "where the address is the node's again the same segment is answered"


@pytest.mark.proves("UM-REL-2")
def test_time_wait_repairs_a_lost_last_ack_and_restarts() -> None:
    pair = Pair()
    client, server = pair.connect(SocketOptions(time_wait=TimeWait.FULL))
    client.shutdown(pair.now)
    pair.run(0.1)
    before = len(pair.packets)
    server.shutdown(pair.now)
    lost: list[bytes] = []

    def lose_first(end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if end is pair.a and not lost:
            lost.append(packet)
            return []
        return [packet]

    pair.meddle = lose_first
    pair.run(30)
    assert lost
    assert ending(pair, before) == [("b", "FA"), ("a", "A"), ("b", "FA"), ("a", "A")]
    again = segments(pair, "a", before)[-1].when
    pair.run(again + 59.9 - pair.now)
    assert old_segment(pair, client) == ["A"], "60 s from then on"
    pair.run(0.2)
    assert old_segment(pair, client) == []
    pair.a.entry(pair.now, AddressKind.STABLE)
    assert old_segment(pair, client) == ["R"]


@pytest.mark.proves("UM-LIS-3")
@pytest.mark.parametrize("mode", [PortMode.L1, PortMode.L2, PortMode.AWARE])
@pytest.mark.parametrize(("sport", "dport"), [(5001, 80), (5000, 81)])
def test_an_acknowledgement_at_other_ports_completes_no_handshake(mode: PortMode, sport: int, dport: int) -> None:
    """Half-open handshakes are told apart by all four values, also where the connection is not; its numbers are right."""
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(mode=mode), pair.now, 80 if mode is PortMode.AWARE else None)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=1), pair.now)
    pair.run(0.01)
    ack = wire.read(pair.sent_by("b")[0]).seq + 1
    before = len(pair.packets)
    for source, destination, completed in ((sport, dport, False), (5000, 80, True)):
        pair.b.input(wire.segment(A, B, source, destination, "A", seq=2, ack=ack), pair.now)
        pair.run(0.01)
        assert (pair.b.tcp.demux.half_open_count, len(pair.b.tcp.demux)) == (not completed, completed)
    assert not pair.sent_by("b", before), "and nothing is said to it"
