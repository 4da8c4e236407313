"""Port-ignore modes: what identifies a connection, and which ports are written (unified-multiplex §6)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tapstack.events import DropReason
from tapstack.ipv6.addresses import AddressKind
from tapstack.tcp.connection import Connection
from tapstack.tcp.errors import ConflictingSocket
from tapstack.tcp.options import LEGACY_COMPAT, PortMode, SocketOptions

from . import wire
from .pair import End, Pair, read_all
from .seen import acknowledged, ending, stream

A, B = "2001:db8:a::1", "2001:db8:b::1"


class Ports:
    """Changes the ports of what one end sends, another pair of numbers for every packet."""

    def __init__(self, end: End) -> None:
        self.end = end
        self.next = 20_000

    def __call__(self, end: End, packet: bytes) -> list[bytes | tuple[float, bytes]]:
        if end is not self.end:
            return [packet]
        self.next += 7
        return [wire.changed(packet, sport=self.next, dport=self.next + 1)]


@pytest.mark.proves("UM-PORT-1")
def test_l0_reaches_its_connection_whatever_the_ports() -> None:
    pair = Pair()
    pair.meddle = Ports(pair.a)
    client, server = pair.connect(SocketOptions(mode=PortMode.L0))
    for text in (b"one", b"two", b"three"):
        client.write(text)
        pair.run(0.5)
        assert read_all(server) == text
        server.write(text.upper())
        pair.run(0.5)
        assert read_all(client) == text.upper()
    written = {(wire.read(p).sport, wire.read(p).dport) for p in pair.sent_by("b")}
    assert len(written) == 1, "L0 never updates the ports it writes"


class Rewriter:
    """A transform that writes other ports into every segment."""

    def __init__(self) -> None:
        self.port = 30_000

    def outbound(self, header: bytearray) -> None:
        self.port += 1
        header[0:2] = self.port.to_bytes(2, "big")
        header[2:4] = (self.port + 1000).to_bytes(2, "big")


@pytest.mark.proves("UM-PORT-1", "UM-PORT-8")
def test_a_transform_changes_ports_in_mid_connection() -> None:
    pair = Pair()
    client, server = pair.connect(SocketOptions(mode=PortMode.L0))
    client.emitter.transform = Rewriter()
    before = len(pair.packets)
    client.write(b"x" * 5000)
    pair.run(1)
    assert read_all(server) == b"x" * 5000
    ports = [wire.read(p).sport for p in pair.sent_by("a", before)]
    assert len(set(ports)) == len(ports) > 3


@pytest.mark.proves("UM-PORT-2")
def test_l1_answers_a_legacy_client_at_its_port() -> None:
    pair = Pair()
    _, server = pair.connect(SocketOptions(mode=PortMode.L1), port=8080)
    server.write(b"hello")
    pair.run(1)
    client_port = wire.read(pair.sent_by("a")[0]).sport
    assert {(wire.read(p).sport, wire.read(p).dport) for p in pair.sent_by("b")} == {(8080, client_port)}


@pytest.mark.proves("UM-PORT-3")
def test_l1_follows_a_rebound_port_only_on_a_segment_that_advances() -> None:
    pair = Pair()
    client, server = pair.connect(SocketOptions(mode=PortMode.L1))
    client.write(b"first")
    pair.run(1)
    read_all(server)
    old = server.remote_port
    repeated = next(p for p in pair.sent_by("a") if len(wire.read(p).payload))
    pair.b.input(wire.changed(repeated, sport=40_001), pair.now)
    pair.run(0.1)
    assert server.remote_port == old, "an old segment diverted the replies"
    blind = wire.segment(A, B, 40_002, 80, "A", seq=12345, ack=99)
    pair.b.input(blind, pair.now)
    pair.run(0.1)
    assert server.remote_port == old, "a blind segment diverted the replies"
    ports = Ports(pair.a)
    pair.meddle = ports
    client.write(b"second")
    pair.run(1)
    assert read_all(server) == b"second"
    rebound = ports.next
    assert server.remote_port == rebound
    before = len(pair.packets)
    server.write(b"answer")
    pair.run(1)
    assert wire.read(pair.sent_by("b", before)[0]).dport == rebound


@pytest.mark.proves("UM-PORT-4")
def test_a_second_syn_is_challenged_at_the_established_port() -> None:
    pair = Pair()
    _, server = pair.connect(SocketOptions(mode=PortMode.L1))
    established = server.remote_port
    before = len(pair.packets)
    pair.run(1)
    pair.b.input(wire.segment(A, B, established + 1, 80, "S", seq=777), pair.now)
    pair.run(0.001)
    answers = [wire.read(p) for p in pair.sent_by("b", before)]
    assert [(a.dport, str(a.flags)) for a in answers] == [(established, "A")]
    assert len(pair.b.tcp.demux) == 1


@pytest.mark.proves("UM-PORT-5", "UM-LIS-3")
def test_l2_serves_many_connections_of_one_host_on_one_address() -> None:
    pair = Pair()
    options = SocketOptions(mode=PortMode.L2)
    listener = pair.b.tcp.listen(options, pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now, sessions=3)
    legacy = SocketOptions(mode=PortMode.AWARE)
    entry = pair.a.entry(pair.now)
    clients = [
        pair.a.tcp.connect(entry, pair.b.address, port, pair.now, legacy, local_port=5000 + n)
        for n, port in enumerate((80, 81, 82))
    ]
    pair.run(1)
    servers = list(iter(listener.accept, None))
    assert len(servers) == 3
    for n, client in enumerate(clients):
        client.write(b"from %d" % n)
    pair.run(1)
    assert sorted(read_all(s) for s in servers) == [b"from 0", b"from 1", b"from 2"]
    for port in (5000, 5001, 5002):  # the client's port alone tells them apart
        syn = next(tcp for tcp in map(wire.read, pair.sent_by("a")) if tcp.sport == port)
        answer, *_, last = [tcp for tcp in map(wire.read, pair.sent_by("b")) if tcp.dport == port]
        assert str(answer.flags) == "SA" and (last.ack - syn.seq - 1) & 0xFFFFFFFF == len(b"from 0")
    assert listener.state.value == "LISTEN_o", "the third session was the last"


@pytest.mark.proves("UM-PORT-6")
def test_aware_tells_connections_apart_by_any_one_of_four_values() -> None:
    pair = Pair()
    options = SocketOptions(mode=PortMode.AWARE)
    stable = pair.b.entry(pair.now, AddressKind.STABLE)
    listeners = [pair.b.tcp.listen(options, pair.now, port) for port in (80, 81)]
    for listener in listeners:
        listener.arm(stable, pair.now, sessions=None)
    entry = pair.a.entry(pair.now)
    clients = [
        pair.a.tcp.connect(entry, pair.b.address, dport, pair.now, options, local_port=sport)
        for dport in (80, 81)
        for sport in (5000, 5001)
    ]
    pair.run(1)
    assert [c.state.value for c in clients] == ["ESTABLISHED"] * 4
    assert len(pair.b.tcp.demux.fours) == 4
    answers = [(tcp.sport, tcp.dport, str(tcp.flags)) for tcp in map(wire.read, pair.sent_by("b"))]
    assert sorted(answers) == [(port, to, "SA") for port in (80, 81) for to in (5000, 5001)]


@pytest.mark.proves("UM-PORT-11")
def test_the_reduced_port_is_written_where_none_is_named() -> None:
    pair = Pair()
    pair.connect(SocketOptions(mode=PortMode.L1), port=None)
    assert wire.read(pair.sent_by("a")[0]).dport == LEGACY_COMPAT
    pair = Pair()
    pair.connect(SocketOptions(mode=PortMode.L1, reduced_port=2222), port=None)
    assert wire.read(pair.sent_by("a")[0]).dport == 2222


@pytest.mark.proves("UM-PORT-7", by="api")
@pytest.mark.parametrize(
    ("first", "second"),
    [
        (PortMode.L1, PortMode.L1),
        (PortMode.L1, PortMode.AWARE),
        (PortMode.AWARE, PortMode.L0),
        (PortMode.L2, PortMode.L1),
    ],
)
def test_a_socket_that_could_shadow_another_is_refused_by_name(first: PortMode, second: PortMode) -> None:
    pair = Pair()
    entry = pair.a.entry(pair.now)
    one = pair.a.tcp.connect(entry, pair.b.address, 80, pair.now, SocketOptions(mode=first))
    with pytest.raises(ConflictingSocket) as caught:
        pair.a.tcp.connect(entry, pair.b.address, 81, pair.now, SocketOptions(mode=second))
    assert f"connection {one.id} " in str(caught.value)
    assert str(caught.value).count("connection ") == 2
    pair.a.tcp.check()


@pytest.mark.proves("UM-PORT-7", by="api")
def test_aware_sockets_of_different_ports_do_not_conflict() -> None:
    pair = Pair()
    entry = pair.a.entry(pair.now)
    options = SocketOptions(mode=PortMode.AWARE)
    for port in (80, 81):
        pair.a.tcp.connect(entry, pair.b.address, port, pair.now, options, local_port=5000)
    with pytest.raises(ConflictingSocket):
        pair.a.tcp.connect(entry, pair.b.address, 81, pair.now, options, local_port=5000)


@pytest.mark.proves("UM-PORT-8")
def test_a_wrong_checksum_is_dropped_and_counted() -> None:
    pair = Pair()
    client, server = pair.connect()
    client.write(b"payload")
    before = len(pair.packets)
    pair.meddle = lambda end, packet: [packet[:-1] + bytes([packet[-1] ^ 1])] if end is pair.a else [packet]
    pair.run(0.05)
    assert read_all(server) == b""
    assert pair.b.counters.drops[DropReason.CHECKSUM] == 1
    assert not pair.sent_by("b", before)
    pair.meddle = None
    pair.run(1)
    assert pair.sent_by("b", before) and acknowledged(pair, "b") == 7, "the intact one, sent again, is answered"
    assert read_all(server) == b"payload"


SYN_ACKS: dict[str, tuple[Callable[[bytes], bytes], DropReason]] = {
    "its checksum is wrong": (lambda packet: packet[:-1] + bytes([packet[-1] ^ 1]), DropReason.CHECKSUM),
    "an option runs out of its header": (
        lambda packet: wire.fixed(packet[:60] + b"\x08\xff" + packet[62:]),
        DropReason.TCP_MALFORMED,
    ),
}


@pytest.mark.proves("MUST-3", "ST-TCP-1")
@pytest.mark.parametrize("fault", SYN_ACKS)
def test_a_syn_ack_that_is_not_sound_establishes_nothing(fault: str) -> None:
    pair = Pair()
    change, reason = SYN_ACKS[fault]
    options = SocketOptions()
    pair.b.tcp.listen(options, pair.now).arm(pair.b.entry(pair.now), pair.now)
    pair.meddle = lambda end, packet: [change(packet) if end is pair.b else packet]
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    pair.run(0.1)
    assert client.state.value == "SYN-SENT"
    assert pair.a.counters.drops[reason] == 1
    assert [str(wire.read(p).flags) for p in pair.sent_by("a")] == ["S"], "it is not answered"
    pair.meddle = lambda end, packet: [packet]
    pair.run(3)
    assert client.state.value == "ESTABLISHED"
    assert [str(wire.read(p).flags) for p in pair.sent_by("a")] == ["S", "S", "A"], "the sound one is"


@pytest.mark.proves("UM-PORT-12", "MUST-10")
@pytest.mark.parametrize("mode", [PortMode.L0, PortMode.L1])
def test_simultaneous_open(mode: PortMode) -> None:
    pair = Pair()
    options = SocketOptions(mode=mode)
    one = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    other = pair.b.tcp.connect(pair.b.entry(pair.now), pair.a.address, 80, pair.now, options)
    pair.run(1)
    assert (one.state.value, other.state.value) == ("ESTABLISHED", "ESTABLISHED")
    one.write(b"ping")
    other.write(b"pong")
    pair.run(1)
    assert (read_all(other), read_all(one)) == (b"ping", b"pong")
    assert ending(pair, 0)[:4] == [("a", "S"), ("b", "S"), ("a", "SA"), ("b", "SA")]
    assert (stream(pair, "a"), stream(pair, "b")) == (b"ping", b"pong")
    assert (acknowledged(pair, "a"), acknowledged(pair, "b")) == (4, 4)


@pytest.mark.proves("UM-PORT-12")
def test_a_spoofed_syn_does_not_wedge_the_real_syn_ack() -> None:
    pair = Pair()
    options = SocketOptions(mode=PortMode.L1)
    listener = pair.b.tcp.listen(options, pair.now)
    listener.arm(pair.b.entry(pair.now, AddressKind.SERVICE), pair.now)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options)
    pair.flush()
    pair.a.input(wire.segment(B, A, 80, client.local_port, "S", seq=666_000), pair.now)
    assert client.state.value == "SYN-RECEIVED"
    pair.run(5, until=lambda: bool(listener._accepted))
    server = listener.accept()
    assert isinstance(server, Connection)
    client.write(b"through")
    pair.run(1)
    assert read_all(server) == b"through"
    assert ending(pair, 0)[:4] == [("a", "S"), ("a", "SA"), ("b", "SA"), ("a", "A")]
    assert acknowledged(pair, "b") == len(b"through")
