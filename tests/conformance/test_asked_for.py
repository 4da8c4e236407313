"""Tests that the negative controls asked for: each of these defects had survived."""

from __future__ import annotations

import pytest

from tapstack.ipv6.addresses import AddressKind, Trigger
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.types import address
from tests.unit.tcp import wire
from tests.unit.tcp.pair import Pair, read_all

A, B, STRANGER = "2001:db8:a::1", "2001:db8:b::1", "2001:db8:f::bad"


@pytest.mark.proves("UM-PORT-3")
@pytest.mark.parametrize("timestamps", [True, False])
def test_an_acknowledgement_that_says_nothing_new_does_not_move_the_reply_port(timestamps: bool) -> None:
    pair = Pair()
    client, server = pair.connect(SocketOptions(mode=PortMode.L1, timestamps=timestamps))
    client.write(b"question")
    pair.run(1)
    server.write(b"answer")
    pair.run(1)
    assert (read_all(server), read_all(client)) == (b"question", b"answer")
    old = server.remote_port
    last = pair.sent_by("a")[-1]
    assert str(wire.read(last).flags) == "A"
    pair.b.input(wire.changed(last, sport=old ^ 1), pair.now)
    pair.run(0.1)
    assert server.remote_port == old
    before = len(pair.packets)
    server.write(b"more")
    pair.run(1)
    assert wire.read(pair.sent_by("b", before)[0]).dport == old
    assert read_all(client) == b"more"


@pytest.mark.proves("UM-EA-1")
def test_no_wildcard_listener_accepts_at_an_ephemeral_address() -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.AWARE), pair.now, port=80)
    listener.listen_on_ordinary()
    pair.b.entry(pair.now, AddressKind.EPHEMERAL)
    ordinary = "2001:db8:b::2"
    pair.b.host.addresses.add(address(ordinary), AddressKind.STABLE, pair.now, trigger=Trigger.ADD_WITHOUT_DAD)
    for source in (A, STRANGER):
        before = len(pair.packets)
        pair.b.input(wire.segment(source, B, 5000, 80, "S", seq=1), pair.now)
        pair.run(0.01)
        assert pair.sent_by("b", before) == []
        pair.b.input(wire.segment(source, ordinary, 5000, 80, "S", seq=1), pair.now)
        pair.run(0.01)
        answers = [wire.read(packet) for packet in pair.sent_by("b", before)]
        assert [str(answer.flags) for answer in answers] == ["SA"], "an ordinary address accepts in the same capture"


@pytest.mark.proves("ST-TCP-1")
def test_of_a_segment_that_overlaps_only_the_new_bytes_are_taken() -> None:
    pair = Pair()
    options = SocketOptions(timestamps=False)
    client, server = pair.connect(options)
    client.write(b"hello")
    pair.run(1)
    assert read_all(server) == b"hello"
    first = next(wire.read(packet) for packet in pair.sent_by("a") if bytes(wire.read(packet).payload) == b"hello")
    overlapping = wire.segment(
        A, B, first.sport, first.dport, "PA", seq=first.seq + 2, ack=first.ack, window=60000, payload=b"llo world"
    )
    pair.b.input(overlapping, pair.now)
    pair.run(0.1)
    assert read_all(server) == b" world"
    last = wire.read(pair.sent_by("b")[-1])
    assert last.ack == first.seq + 5 + 6


@pytest.mark.proves("ST-TCP-1", "SHLD-14")
def test_the_advertised_right_edge_never_moves_left() -> None:
    pair = Pair()
    client, server = pair.connect(SocketOptions(receive_buffer=30_000, receive_buffer_maximum=30_000))
    syn_ack = wire.read(pair.sent_by("b")[0])
    scale = dict(syn_ack.options).get("WScale", 0)
    edge, read = 0, 0
    for _ in range(6):  # the buffer fills, and is emptied when it is full
        client.write(bytes(20_000))
        pair.run(0.3)
        read += len(read_all(server))
        pair.run(0.3)
    assert read == 6 * 20_000
    edges = [
        (segment.ack - syn_ack.ack) % (1 << 32) + (segment.window << scale)
        for segment in map(wire.read, pair.sent_by("b")[1:])
        if not int(segment.flags) & 2
    ]
    assert len(edges) > 10
    for now in edges:
        assert now >= edge, "the window shrank"
        edge = now
