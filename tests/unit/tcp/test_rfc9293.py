"""What RFC 9293 numbers (Appendix B), each where no other test shows it already; judged from the packets."""

from __future__ import annotations

import pytest

from tapstack.ipv6.addresses import AddressKind
from tapstack.ipv6.packet import IcmpError
from tapstack.tcp.connection import Connection, Signal
from tapstack.tcp.isn import session_numbers
from tapstack.tcp.options import PortMode, SocketOptions
from tapstack.types import address
from tapstack.wire.icmpv6 import Type
from tests.unit.tcp.handmade import PLAIN, A, B, by_hand, plain, sent

from . import wire
from .pair import Pair, read_all
from .path import DATA, collect, established, transfer

# -- options -------------------------------------------------------------------------------------------


def raw(pair: Pair, connection: Connection, options: bytes, payload: bytes = b"", flags: int = 0x10) -> None:
    """A segment with exactly these option bytes, padded to 4 by the caller."""
    header = (
        connection.remote_port.to_bytes(2, "big")
        + connection.local_port.to_bytes(2, "big")
        + (connection.receiver.rcv_nxt & 0xFFFFFFFF).to_bytes(4, "big")
        + (connection.sender.snd_nxt & 0xFFFFFFFF).to_bytes(4, "big")
        + bytes([(20 + len(options)) << 2, flags])
        + b"\xff\xff\0\0\0\0"
    )
    body = header + options + payload
    packet = b"\x60\0\0\0" + len(body).to_bytes(2, "big") + b"\x06\x40" + address(B) + address(A) + body
    pair.a.input(wire.fixed(packet), pair.now)
    pair.flush()


@pytest.mark.proves("MUST-5", "MUST-6", "MUST-7", "MUST-64", "MUST-50")
@pytest.mark.parametrize(
    ("options", "taken"),
    [
        (b"\x01\x01\x01\x00", True),
        (b"\x02\x04\x05\xa0", True),  # MSS in a segment without SYN: ignored
        (b"\xfe\x04ab", True),  # unknown
        (b"\xfe\x03a\x01\x01\x1e\x02\x00", True),  # unknown ones, off word boundaries
        (b"\x01\x08\x0a" + bytes(8) + b"\x00", True),  # a timestamp off its place, not negotiated
        (b"\xfe\x00ab", False),  # a length that is none
        (b"\xfe\x01ab", False),
        (b"\x01\x01\x01\xfe", False),  # no room for its length
        (b"\xfe\x28ab", False),  # beyond the end
    ],
)
def test_options_in_any_segment(options: bytes, taken: bool) -> None:
    pair = Pair()
    client = plain(pair)
    raw(pair, client, options, b"text")
    assert read_all(client) == (b"text" if taken else b"")
    raw(pair, client, b"", b"more")
    assert read_all(client) == b"more", "the connection is unharmed"


@pytest.mark.proves("MUST-4", "MUST-14", "MUST-65", "MUST-67", "MUST-68", "MUST-69", "SHLD-5", "MAY-3")
def test_options_that_are_sent() -> None:
    pair = Pair()
    client, server, path = established(pair)
    path.fate = lambda n: None if n == 3 else 0.0
    transfer(pair, client, server, 30_000)
    client.close(pair.now)
    pair.run(1)
    for _, _, packet in pair.packets:
        tcp = wire.read(packet)
        raw_options = packet[60 : 40 + tcp.dataofs * 4]
        position, seen = 0, []
        while position < len(raw_options):
            kind = raw_options[position]
            seen.append(kind)
            if kind == 0:
                assert not any(raw_options[position:]), "padding is zero"
                break
            position += 1 if kind == 1 else raw_options[position + 1]
        assert position <= len(raw_options)
        assert (2 in seen) == ("S" in str(tcp.flags)), "MSS with each SYN and nowhere else"
        if 2 in seen:
            assert dict(tcp.options)["MSS"] == 1500 - 60


@pytest.mark.proves("MUST-15", "MUST-16", "SHLD-6")
@pytest.mark.parametrize(("announced", "used"), [(None, 1220), (536, 536), (1000, 1000), (1440, 1440), (9000, 1440)])
def test_the_effective_segment_size(announced: int | None, used: int) -> None:
    pair = Pair()
    pair.meddle = lambda end, packet: []
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, PLAIN)
    pair.flush()
    by_hand(pair, client, "SA", seq=5, options=[] if announced is None else [("MSS", announced)])
    assert client.state.value == "ESTABLISHED"
    client.write(DATA[:30_000])
    before = len(pair.packets)
    pair.flush()
    assert max(len(tcp.payload) for tcp in sent(pair, "a", before)) == used


@pytest.mark.proves("MUST-16", "SHLD-6")
def test_options_in_a_segment_make_its_text_shorter() -> None:
    pair = Pair()
    client, server, _ = established(pair, timestamps=True)
    transfer(pair, client, server, 50_000)
    assert max(len(p) for _, who, p in pair.packets if who == "a") == 1500


# -- checksum, initial sequence numbers ----------------------------------------------------------------


@pytest.mark.proves("MUST-2", "MUST-3")
def test_checksums() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    transfer(pair, client, server, 5000)
    for _, _, packet in pair.packets:
        wire.read(packet)  # which verifies the checksum
    data = next(p for _, who, p in reversed(pair.packets) if who == "a")
    before = pair.b.counters.drops["checksum"]  # type: ignore[index]
    for bit in range(8 * 40, 8 * len(data)):
        broken = bytearray(data)
        broken[bit >> 3] ^= 0x80 >> (bit & 7)
        pair.b.input(bytes(broken), pair.now)
        if bit > 8 * 80:
            break
    assert pair.b.counters.drops["checksum"] > before + 250  # type: ignore[index]


@pytest.mark.proves("MUST-8", "SHLD-1", "MUST-9", "ST-TCP-9", "UM-GEN-7")
def test_initial_sequence_numbers_are_a_clock_plus_a_keyed_hash() -> None:
    secret, key = bytes(range(32)), b"one connection"
    first = session_numbers(secret, key, 1000.0)
    assert (session_numbers(secret, key, 1000.5).isn - first.isn) & 0xFFFFFFFF == 125_000, "250,000 per second"
    assert session_numbers(secret, key, 1000.0) == first
    others = {session_numbers(secret, b"connection %d" % n, 1000.0).isn for n in range(500)}
    assert len(others) == 500
    assert max(others) - min(others) > 1 << 31, "spread over the whole space"
    assert session_numbers(bytes(32), key, 1000.0).isn != first.isn, "not computable without the secret"


# -- opening -------------------------------------------------------------------------------------------


@pytest.mark.proves("MUST-11")
def test_syn_received_remembers_where_it_came_from() -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.AWARE), pair.now, 80)
    listener.arm(pair.b.entry(pair.now, AddressKind.STABLE), pair.now, sessions=None)
    pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=9), pair.now)
    assert pair.b.tcp.demux.half_open_count == 1
    pair.b.input(wire.segment(A, B, 5000, 80, "R", seq=10), pair.now)
    assert pair.b.tcp.demux.half_open_count == 0, "a passive open is back in LISTEN"
    assert listener.state.value == "LISTEN"
    pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=9), pair.now)
    assert pair.b.tcp.demux.half_open_count == 1
    pair = Pair()
    pair.meddle = lambda end, packet: []
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, PLAIN)
    pair.flush()
    by_hand(pair, client, "S", seq=50, ack=0)
    assert client.state.value == "SYN-RECEIVED"
    by_hand(pair, client, "R", seq=51)
    assert isinstance(client.error, ConnectionRefusedError), "an active one is refused"


@pytest.mark.proves("MUST-41", "MUST-42")
def test_listening_beside_connections_of_the_same_port() -> None:
    pair = Pair()
    options = SocketOptions(mode=PortMode.AWARE)
    entry = pair.b.entry(pair.now, AddressKind.STABLE)
    opening = pair.b.tcp.connect(entry, pair.a.address, 9, pair.now, options, local_port=80)
    assert opening.state.value == "SYN-SENT"
    listener = pair.b.tcp.listen(options, pair.now, 80)
    listener.arm(entry, pair.now, sessions=None)
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, options, local_port=5000)
    pair.run(0.1)
    server = listener.accept()
    assert server is not None and client.state.value == "ESTABLISHED"
    client.write(b"hello")
    pair.run(0.1)
    assert read_all(server) == b"hello"


@pytest.mark.proves("MUST-43", "MUST-45")
def test_the_segments_of_a_connection_come_from_its_own_address() -> None:
    pair = Pair()
    other = pair.a.host.addresses.add(address("2001:db8:a::77"), AddressKind.STABLE, pair.now, trigger=wire.NO_DAD)
    pair.a.tcp.connect(other, pair.b.address, 80, pair.now, SocketOptions())
    pair.flush()
    assert [p[8:24] for _, who, p in pair.packets if who == "a"] == [address("2001:db8:a::77")]


@pytest.mark.proves("MUST-46")
@pytest.mark.parametrize("remote", ["ff02::1", "ff1e::42", "::", "::1"])
def test_opening_to_an_address_that_cannot_be_a_peers_is_refused(remote: str) -> None:
    pair = Pair()
    entry = pair.a.entry(pair.now)
    with pytest.raises(OSError, match="cannot be the address of a peer"):
        pair.a.tcp.connect(entry, address(remote), 80, pair.now, SocketOptions())
    assert not entry.users


@pytest.mark.proves("MUST-63", "MUST-57")
@pytest.mark.parametrize(("src", "dst"), [("ff02::1", B), ("::", B), ("::1", B), (A, "ff02::1")])
def test_a_syn_from_or_to_an_address_that_cannot_be_is_silently_discarded(src: str, dst: str) -> None:
    pair = Pair()
    listener = pair.b.tcp.listen(SocketOptions(mode=PortMode.AWARE), pair.now, 80)
    listener.arm(pair.b.entry(pair.now, AddressKind.STABLE), pair.now, sessions=None)
    pair.b.input(wire.segment(src, dst, 5000, 80, "S", seq=9), pair.now)
    pair.flush()
    assert not pair.packets
    pair.b.input(wire.segment(A, B, 5000, 80, "S", seq=9), pair.now)
    pair.flush()
    assert str(sent(pair, "b")[0].flags) == "SA", "a permitted one is answered in the same capture"


# -- closing, retransmission ---------------------------------------------------------------------------


@pytest.mark.proves("MUST-12")
def test_the_program_is_told_of_an_abort() -> None:
    pair = Pair()
    client, server, _ = established(pair)
    server.abort(pair.now)
    pair.run(1)
    assert isinstance(client.error, ConnectionResetError)
    assert client.signals & Signal.CLOSED
    with pytest.raises(ConnectionResetError):
        client.write(b"x")


@pytest.mark.proves("MUST-18")
@pytest.mark.parametrize("timestamps", [False, True])
def test_karns_rule(timestamps: bool) -> None:
    pair = Pair()
    client, _, path = established(pair, sack=False, timestamps=timestamps)
    srtt = client.rtt.srtt
    path.fate = lambda n: None if n == 1 else 0.0
    client.write(b"lost once")
    pair.run(2)
    assert client.sender.retransmissions == 1
    if timestamps:
        assert client.rtt.srtt == pytest.approx(srtt, rel=0.4), "the echo tells which transmission was heard"
    else:
        assert client.rtt.srtt == srtt, "no sample from what was sent twice"


@pytest.mark.proves("MUST-20", "SHLD-9", "SHLD-10", "MUST-47", "SHLD-20")
def test_after_three_time_outs_the_program_and_the_next_hop_hear_of_it() -> None:
    pair = Pair()
    client, _, path = established(pair, sack=False)
    path.fate = lambda n: None
    client.write(b"x")
    client.signals = 0
    doubts = []
    for _ in range(4):
        timeouts = client.timers.timeouts
        pair.run(60, until=lambda: client.timers.timeouts > timeouts)  # noqa: B023 - used before it changes
        doubts.append((client.path.doubts, bool(client.signals & Signal.TROUBLE)))  # type: ignore[attr-defined]
    assert doubts == [(0, False), (0, False), (1, True), (2, True)]
    assert isinstance(client.soft_error, TimeoutError)
    assert client.error is None and client.state.value == "ESTABLISHED"


@pytest.mark.proves("MUST-21", "SHLD-11", "MUST-22", "MUST-23")
@pytest.mark.parametrize("limit", [10.0, 100.0, 300.0])
def test_r2_can_be_set_for_each_connection(limit: float) -> None:
    assert SocketOptions().user_timeout >= 100
    assert SocketOptions().syn_timeout >= 180
    pair = Pair()
    client, _, path = established(pair, user_timeout=limit)
    path.fate = lambda n: None
    client.write(b"x")
    begun = pair.now
    pair.run(1000, until=lambda: client.state.value == "CLOSED")
    assert pair.now - begun == pytest.approx(limit)
    assert isinstance(client.error, TimeoutError)
    pair = Pair()
    pair.meddle = lambda end, packet: []
    opening = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions(syn_timeout=limit))
    begun = pair.now
    pair.run(1000, until=lambda: opening.state.value == "CLOSED")
    assert pair.now - begun == pytest.approx(limit)


# -- ICMP ----------------------------------------------------------------------------------------------


def report(pair: Pair, connection: Connection, kind: int, code: int) -> None:
    quoted = (
        connection.local_port.to_bytes(2, "big")
        + connection.remote_port.to_bytes(2, "big")
        + (connection.sender.snd_una & 0xFFFFFFFF).to_bytes(4, "big")
    )
    error = IcmpError(kind, code, 0, bytes(16), connection.local, connection.remote, 6, memoryview(quoted))
    pair.a.tcp.error(error, pair.now)


ERRORS = [
    (Type.DESTINATION_UNREACHABLE, 0),
    (Type.DESTINATION_UNREACHABLE, 1),
    (Type.DESTINATION_UNREACHABLE, 3),
    (Type.DESTINATION_UNREACHABLE, 4),
    (Type.TIME_EXCEEDED, 0),
    (Type.PARAMETER_PROBLEM, 0),
]


@pytest.mark.proves("MUST-54", "MUST-56", "SHLD-25", "SHLD-26", "UM-PORT-13")
@pytest.mark.parametrize(("kind", "code"), ERRORS)
def test_an_icmp_error_is_told_and_does_not_end_an_established_connection(kind: int, code: int) -> None:
    pair = Pair()
    client, server, path = established(pair)
    path.fate = lambda n: None if n == 1 else 0.0
    client.write(DATA[:3000])
    pair.flush()
    client.signals = 0
    report(pair, client, kind, code)
    assert client.signals & Signal.TROUBLE
    assert isinstance(client.soft_error, OSError)
    assert collect(pair, server, 3000, 5) == DATA[:3000]
    assert client.error is None


@pytest.mark.proves("MUST-54", "SHLD-26")
@pytest.mark.parametrize(("kind", "code"), ERRORS)
def test_before_it_is_established_an_icmp_error_ends_it(kind: int, code: int) -> None:
    pair = Pair()
    pair.meddle = lambda end, packet: []
    client = pair.a.tcp.connect(pair.a.entry(pair.now), pair.b.address, 80, pair.now, SocketOptions())
    pair.flush()
    report(pair, client, kind, code)
    assert isinstance(client.error, OSError)
    assert not len(pair.a.host.addresses)
